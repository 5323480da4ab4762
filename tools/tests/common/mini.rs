//! A mixture of experts of one layer, small enough to be written for each test, as a GGUF file and as a
//! folder.

use std::path::{Path, PathBuf};

use moelten_loader::container::catalog::Storage;
use moelten_loader::container::gguf::write::{GgufWriter, TensorPlan};
use moelten_loader::container::gguf::{Array, Value};
use moelten_loader::container::safetensors::{SafeTensor, SafeValues, write_safetensors};
use moelten_quant::Format;

/// Rows of the embedding: 256 bytes, a merge, four control tokens, a word.
pub const ROWS: usize = 262;
const WIDTH: u64 = 32;
const EXPERTS: u64 = 4;

const TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}\
                        {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Metadata of the file.
pub type Keys = Vec<(String, Value)>;
/// A tensor: its name, its shape with the outermost dimension first, its values.
pub type Tensor = (String, Vec<u64>, Vec<f32>);

/// The tokens by id.
pub fn tokens() -> Vec<String> {
    let others: Vec<u8> = (0..=255u8).filter(|b| !matches!(b, 33..=126 | 161..=172 | 174..)).collect();
    let spell = |byte: u8| match others.iter().position(|&other| other == byte) {
        Some(index) => char::from_u32(256 + index as u32).unwrap(),
        None => char::from(byte),
    };
    let mut tokens: Vec<String> = (0..=255).map(|byte| spell(byte).to_string()).collect();
    tokens.extend(["th", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|extra|>", "zz"].map(String::from));
    assert_eq!(tokens.len(), ROWS);
    tokens
}

fn is_control(id: usize) -> bool {
    (257..261).contains(&id)
}

/// The keys of a sound file.
pub fn keys() -> Keys {
    let number = |n: u32| Value::U32(n);
    let texts = |list: Vec<String>| Value::Array(Array::Str(list));
    let types = (0..ROWS).map(|id| if is_control(id) { 3 } else { 1 }).collect();
    let keys = [
        ("general.architecture", Value::Str("llama".into())),
        ("general.name", Value::Str("mini".into())),
        ("llama.block_count", number(1)),
        ("llama.context_length", number(512)),
        ("llama.embedding_length", number(32)),
        ("llama.feed_forward_length", number(32)),
        ("llama.attention.head_count", number(2)),
        ("llama.attention.head_count_kv", number(1)),
        ("llama.attention.key_length", number(16)),
        ("llama.attention.value_length", number(16)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.dimension_count", number(16)),
        ("llama.rope.freq_base", Value::F32(10000.0)),
        ("llama.expert_count", number(4)),
        ("llama.expert_used_count", number(2)),
        ("tokenizer.ggml.model", Value::Str("gpt2".into())),
        ("tokenizer.ggml.pre", Value::Str("gpt-2".into())),
        ("tokenizer.ggml.tokens", texts(tokens())),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(types))),
        ("tokenizer.ggml.merges", texts(vec!["t h".into()])),
        ("tokenizer.ggml.bos_token_id", number(257)),
        ("tokenizer.ggml.eos_token_id", number(259)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
        ("tokenizer.chat_template", Value::Str(TEMPLATE.into())),
    ];
    keys.map(|(key, value)| (key.to_owned(), value)).into()
}

/// Small numbers, always the same.
fn values(name: &str, count: u64) -> Vec<f32> {
    if name.contains("norm") {
        return vec![1.0; count as usize];
    }
    let mut state = name.bytes().fold(7_u32, |state, byte| state.wrapping_mul(31).wrapping_add(byte.into()));
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

fn tensor(name: &str, shape: &[u64]) -> Tensor {
    (name.to_owned(), shape.to_vec(), values(name, shape.iter().product()))
}

/// The tensors of a sound file.
pub fn tensors() -> Vec<Tensor> {
    let rows = ROWS as u64;
    vec![
        tensor("token_embd.weight", &[rows, WIDTH]),
        tensor("output_norm.weight", &[WIDTH]),
        tensor("output.weight", &[rows, WIDTH]),
        tensor("blk.0.attn_norm.weight", &[WIDTH]),
        tensor("blk.0.attn_q.weight", &[WIDTH, WIDTH]),
        tensor("blk.0.attn_k.weight", &[16, WIDTH]),
        tensor("blk.0.attn_v.weight", &[16, WIDTH]),
        tensor("blk.0.attn_output.weight", &[WIDTH, WIDTH]),
        tensor("blk.0.ffn_norm.weight", &[WIDTH]),
        tensor("blk.0.ffn_gate_inp.weight", &[EXPERTS, WIDTH]),
        tensor("blk.0.ffn_gate_exps.weight", &[EXPERTS, WIDTH, WIDTH]),
        tensor("blk.0.ffn_up_exps.weight", &[EXPERTS, WIDTH, WIDTH]),
        tensor("blk.0.ffn_down_exps.weight", &[EXPERTS, WIDTH, WIDTH]),
    ]
}

/// Writes a GGUF file.
pub fn write(path: &Path, keys: &[(String, Value)], tensors: &[Tensor]) {
    let plan: Vec<_> = tensors
        .iter()
        .map(|(name, shape, _)| TensorPlan {
            name: name.clone(),
            storage: Storage::Known(Format::F32),
            shape: shape.clone(),
        })
        .collect();
    let mut writer = GgufWriter::create(path, keys, &plan, &[]).unwrap();
    for (name, _, values) in tensors {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        writer.write_tensor(name, &bytes).unwrap();
    }
    writer.finish().unwrap();
}

/// Replaces or adds a key.
pub fn with(mut keys: Keys, key: &str, value: Value) -> Keys {
    keys.retain(|(found, _)| found != key);
    keys.push((key.to_owned(), value));
    keys
}

/// Writes the sound model as a folder, and gives its path.
pub fn folder(path: &Path) -> PathBuf {
    std::fs::create_dir_all(path).unwrap();
    let config = r#"{"model_type": "mixtral", "vocab_size": 262, "hidden_size": 32, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "num_local_experts": 4,
        "num_experts_per_tok": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
        "sliding_window": null, "hidden_act": "silu", "tie_word_embeddings": false, "eos_token_id": 259}"#;
    std::fs::write(path.join("config.json"), config).unwrap();
    let template =
        serde_json::json!({ "eos_token": "<|im_end|>", "bos_token": null, "chat_template": TEMPLATE });
    std::fs::write(path.join("tokenizer_config.json"), template.to_string()).unwrap();
    std::fs::write(path.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    let weights = weights();
    let list: Vec<_> = weights
        .iter()
        .map(|(name, shape, values)| (name.as_str(), SafeTensor { shape, values: SafeValues::F32(values) }))
        .collect();
    write_safetensors(&path.join("model.safetensors"), &list, &[]).unwrap();
    path.to_owned()
}

/// `tokenizer.json` of the sound folder.
pub fn tokenizer() -> serde_json::Value {
    let tokens = tokens();
    let vocab: serde_json::Map<_, _> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), serde_json::json!(id))).collect();
    let added: Vec<_> = (257..261)
        .map(
            |id| serde_json::json!({ "id": id, "content": tokens[id], "special": true, "normalized": false }),
        )
        .collect();
    let bytes = serde_json::json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    serde_json::json!({
        "added_tokens": added, "normalizer": null, "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": {
            "type": "BPE", "unk_token": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": ["t h"],
        },
    })
}

/// The tensors of the folder.
fn weights() -> Vec<Tensor> {
    let layer = "model.layers.0";
    let mut all: Vec<Tensor> = [
        ("token_embd.weight", "model.embed_tokens.weight".to_owned()),
        ("output_norm.weight", "model.norm.weight".to_owned()),
        ("output.weight", "lm_head.weight".to_owned()),
        ("blk.0.attn_norm.weight", format!("{layer}.input_layernorm.weight")),
        ("blk.0.attn_q.weight", format!("{layer}.self_attn.q_proj.weight")),
        ("blk.0.attn_k.weight", format!("{layer}.self_attn.k_proj.weight")),
        ("blk.0.attn_v.weight", format!("{layer}.self_attn.v_proj.weight")),
        ("blk.0.attn_output.weight", format!("{layer}.self_attn.o_proj.weight")),
        ("blk.0.ffn_norm.weight", format!("{layer}.post_attention_layernorm.weight")),
        ("blk.0.ffn_gate_inp.weight", format!("{layer}.block_sparse_moe.gate.weight")),
    ]
    .into_iter()
    .map(|(name, own)| {
        let (_, shape, values) = tensors().into_iter().find(|tensor| tensor.0 == name).unwrap();
        (own, shape, values)
    })
    .collect();
    for expert in 0..EXPERTS {
        for part in ["w1", "w2", "w3"] {
            all.push(tensor(
                &format!("{layer}.block_sparse_moe.experts.{expert}.{part}.weight"),
                &[WIDTH, WIDTH],
            ));
        }
    }
    all
}
