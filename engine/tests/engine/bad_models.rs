//! Configurations and weights that contradict themselves or each other: each is refused with the faulty
//! field, before anything is computed. Every test starts from a sound golden folder and breaks one thing.
//! B-numbers refer to the project's list of bad inputs.

use crate::common::How;
use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::common::folder;
use moelten_engine::EngineError;
use moelten_engine::Model;
use moelten_loader::error::{ErrorKind, Fault, LoadError};
use moelten_loader::load::load;
use serde_json::{Value, json};

/// A copy of a golden folder with one field of its configuration changed (or removed, with null).
fn changed(family: &str, field: &str, value: Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(folder(family).join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    let mut config: Value =
        serde_json::from_slice(&fs::read(folder(family).join("config.json")).unwrap()).unwrap();
    let mut at = &mut config;
    for part in field.split('.') {
        at = &mut at[part];
    }
    *at = value;
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

fn refused(dir: &Path) -> LoadError {
    let start = Instant::now();
    let error = match load(dir) {
        Err(error) => error,
        Ok(loaded) => match Model::new(
            &How::default().runtime(),
            loaded.spec,
            loaded.tensors,
            &How::default().options(),
        ) {
            Err(EngineError::Load(error)) => error,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("accepted"),
        },
    };
    assert!(start.elapsed().as_secs_f64() < 2.0);
    println!("{error}");
    error
}

/// The field and fault of a refusal.
fn fault(family: &str, field: &str, value: Value) -> (String, Fault) {
    let dir = changed(family, field, value);
    match refused(dir.path()) {
        LoadError::Malformed { field, fault, .. } => (field, fault),
        other => panic!("{other}"),
    }
}

fn assert_field(family: &str, field: &str, values: &[Value], expected: fn(&Fault) -> bool) {
    for value in values {
        let (found, fault) = fault(family, field, value.clone());
        assert!(found == field && expected(&fault), "{field} = {value}: {found}: {fault}");
    }
}

#[test]
fn b44_missing_huge_and_odd_numbers() {
    for field in
        ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings"]
    {
        assert_field("mixtral", field, &[Value::Null], |f| matches!(f, Fault::Missing { .. }));
        assert_field("mixtral", field, &[json!(-4), json!(3.5), json!("64"), json!([64])], |f| {
            matches!(f, Fault::WrongType { .. })
        });
        assert_field("mixtral", field, &[json!(u64::MAX), json!(1_u64 << 40)], |f| {
            matches!(f, Fault::OutOfRange { .. })
        });
    }
    // JSON has no NaN, but Python writes it.
    let dir = changed("mixtral", "rms_norm_eps", json!("EPS"));
    let config = dir.path().join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    for number in ["NaN", "Infinity", "-Infinity"] {
        fs::write(&config, text.replace("\"EPS\"", number)).unwrap();
        let error = refused(dir.path());
        assert!(matches!(error, LoadError::Malformed { fault: Fault::BadNumber { .. }, .. }), "{number}");
    }
    fs::write(&config, text.replace("\"EPS\"", "1e999")).unwrap();
    assert!(matches!(refused(dir.path()), LoadError::Malformed { fault: Fault::Json { .. }, .. }));
    assert_field("mixtral", "rms_norm_eps", &[json!(-1e-5), json!(0), json!(1e300), json!(1e-300)], |f| {
        matches!(f, Fault::BadNumber { .. })
    });
}

#[test]
fn b45_layer_counts() {
    assert_field("llama", "num_hidden_layers", &[json!(0), json!(1_000_000_000)], |f| {
        matches!(f, Fault::OutOfRange { .. })
    });
    // With a layer too many a tensor is missing. With a layer too few some tensors are not used, and a notice
    // says so.
    let (field, missing) = fault("llama", "num_hidden_layers", json!(4));
    assert!(field.contains("layers.3.") && matches!(missing, Fault::Missing { .. }));
    let fewer = changed("llama", "num_hidden_layers", json!(2));
    assert!(
        load(fewer.path()).unwrap().notices.iter().any(|n| n.contains("unused") && n.contains("layers.2."))
    );
}

#[test]
fn b46_expert_counts() {
    assert_field("mixtral", "num_local_experts", &[json!(0), json!(1_000_000)], |f| {
        matches!(f, Fault::OutOfRange { .. })
    });
    assert_field("mixtral", "num_experts_per_tok", &[json!(0), json!(9)], |f| {
        matches!(f, Fault::OutOfRange { .. })
    });
    // Each count is within its bounds, but their product is not.
    let dir = changed("mixtral", "num_local_experts", json!(4096));
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["num_hidden_layers"] = json!(1024);
    fs::write(&path, config.to_string()).unwrap();
    assert!(matches!(refused(dir.path()), LoadError::Malformed { fault: Fault::Contradiction { .. }, .. }));
    assert_field("phimoe", "num_experts_per_tok", &[json!(3)], |f| matches!(f, Fault::Contradiction { .. }));
    assert_field("qwen3moe", "decoder_sparse_step", &[json!(0)], |f| matches!(f, Fault::OutOfRange { .. }));
}

#[test]
fn b47_heads() {
    assert_field("llama", "num_key_value_heads", &[json!(3)], |f| matches!(f, Fault::Contradiction { .. }));
    assert_field("llama", "num_key_value_heads", &[json!(0)], |f| matches!(f, Fault::OutOfRange { .. }));
    assert_field("llama", "head_dim", &[json!(0), json!(1), json!(1 << 20)], |f| {
        matches!(f, Fault::OutOfRange { .. })
    });
    assert_field("llama", "head_dim", &[json!(15)], |f| matches!(f, Fault::Contradiction { .. }));
    assert_field("phimoe", "num_attention_heads", &[json!(6)], |f| matches!(f, Fault::Contradiction { .. }));
}

#[test]
fn b48_shapes_that_differ_from_the_configuration() {
    for (family, field, value, tensor) in [
        ("llama", "vocab_size", 321, "model.embed_tokens.weight"),
        ("llama", "intermediate_size", 128, "mlp.gate_proj"),
        ("mixtral", "intermediate_size", 64, "experts.0.w1"),
        ("granitemoe", "intermediate_size", 32, "input_linear"),
        ("qwen2moe", "shared_expert_intermediate_size", 64, "shared_expert.gate_proj"),
        ("qwen3", "num_key_value_heads", 4, "k_proj"),
        ("mixtral", "num_local_experts", 7, "block_sparse_moe.gate"),
    ] {
        let (found, fault) = fault(family, field, json!(value));
        assert!(
            found.contains(tensor) && matches!(fault, Fault::WrongShape { .. }),
            "{family} {field}: {found}"
        );
    }
}

#[test]
fn b49_rope() {
    let both = ["rope_parameters.rope_theta"];
    for field in both {
        assert_field("llama", field, &[json!(0), json!(-10000.0), json!(1e300)], |f| {
            matches!(f, Fault::BadNumber { .. })
        });
    }
    assert_field("llama3-rope", "rope_parameters.factor", &[json!(0)], |f| {
        matches!(f, Fault::BadNumber { .. })
    });
    assert_field("llama3-rope", "rope_parameters.original_max_position_embeddings", &[json!(0)], |f| {
        matches!(f, Fault::OutOfRange { .. })
    });
    let unknown = changed("llama", "rope_parameters.rope_type", json!("spiral"));
    assert!(matches!(refused(unknown.path()), LoadError::Unsupported { .. }));
}

#[test]
fn b50_unknown_architecture_names_near_ones() {
    let near = changed("llama", "model_type", json!("qwen3_mob"));
    let text = refused(near.path()).to_string();
    assert!(text.contains("supported names near it: qwen3_moe") && text.contains("docs/models.md"), "{text}");
    let dir = changed("llama", "model_type", json!("rwkv7\u{1b}[31m"));
    let error = refused(dir.path());
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(text.contains("rwkv7") && text.contains("docs/models.md"), "{text}");
    assert!(!text.contains('\u{1b}'), "control characters are escaped");
}

/// Writes a bfloat16 NaN or infinity into the first value of a tensor.
fn poison(family: &str, tensor: &str, value: f32) -> tempfile::TempDir {
    let dir = changed(family, "hidden_act", json!("silu"));
    let path = dir.path().join("model.safetensors");
    let offset = {
        let file = moelten_loader::container::safetensors::SafeTensors::open(&path).unwrap();
        usize::try_from(file.catalog().get(tensor).unwrap().offset).unwrap()
    };
    let mut bytes = fs::read(&path).unwrap();
    bytes[offset..offset + 2].copy_from_slice(&half::bf16::from_f32(value).to_le_bytes());
    fs::write(&path, bytes).unwrap();
    dir
}

#[test]
fn b51_nan_and_infinity_in_norms_and_routers() {
    for tensor in [
        "model.norm.weight",
        "model.layers.1.input_layernorm.weight",
        "model.layers.2.block_sparse_moe.gate.weight",
    ] {
        for value in [f32::NAN, f32::INFINITY] {
            let dir = poison("mixtral", tensor, value);
            let error = refused(dir.path());
            assert!(matches!(error, LoadError::Malformed { fault: Fault::NotFinite { index: 0, .. }, .. }));
            // Conversion refuses it too, and removes its file.
            let target = dir.path().join("out.gguf");
            let loaded = load(dir.path()).unwrap();
            let format = moelten_quant::Format::Q8_0;
            let plan = moelten_loader::convert::Conversion::plan(&loaded, &|_| format).unwrap();
            let error = plan.write(&target, &mut |_| true).unwrap_err();
            assert!(matches!(error, LoadError::Malformed { fault: Fault::NotFinite { .. }, .. }));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "the folder is as it was");
        }
    }
}

#[test]
fn b20_dimension_zero_in_a_used_tensor() {
    use moelten_loader::container::catalog::Storage;
    use moelten_loader::container::gguf::write::{GgufWriter, TensorPlan};
    use moelten_quant::Format;
    let dir = tempfile::tempdir().unwrap();
    let sound = dir.path().join("sound.gguf");
    let source = load(&folder("llama")).unwrap();
    let plan = moelten_loader::convert::Conversion::plan(&source, &|_| Format::F32).unwrap();
    assert!(plan.write(&sound, &mut |_| true).unwrap());
    let gguf = moelten_loader::container::gguf::Gguf::open(&sound).unwrap();
    let metadata: Vec<_> = gguf.metadata.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
    for (zeroed, refused_there) in [("blk.1.attn_q.weight", true), ("extra.weight", false)] {
        let mut tensors: Vec<TensorPlan> = gguf
            .catalog
            .tensors()
            .iter()
            .map(|t| TensorPlan { name: t.name.clone(), storage: t.storage, shape: t.shape.clone() })
            .collect();
        let extra = Storage::Known(Format::F32);
        tensors.push(TensorPlan { name: "extra.weight".into(), storage: extra, shape: vec![1, 1] });
        tensors.iter_mut().filter(|t| t.name == zeroed).for_each(|t| t.shape[0] = 0);
        let path = dir.path().join("zero.gguf");
        let mut writer = GgufWriter::create(&path, &metadata, &tensors, &[]).unwrap();
        for tensor in &tensors {
            let size = usize::try_from(tensor.shape.iter().product::<u64>()).unwrap() * 4;
            writer.write_tensor(&tensor.name, &vec![0; size]).unwrap();
        }
        writer.finish().unwrap();
        if refused_there {
            let error = refused(&path);
            assert!(matches!(error, LoadError::Malformed { fault: Fault::WrongShape { .. }, .. }), "{error}");
        } else {
            assert!(load(&path).unwrap().notices.iter().any(|notice| notice.contains("extra.weight")));
        }
    }
}

#[test]
fn keys_of_other_layers_and_numbers_of_layers() {
    let gemma = |field: &str, values: &[Value], expected: fn(&Fault) -> bool| {
        for value in values {
            let (found, fault) = fault("gemma4-ple", field, value.clone());
            assert!(found.starts_with(field) && expected(&fault), "{field} = {value}: {found}: {fault}");
        }
    };
    let range: fn(&Fault) -> bool = |f| matches!(f, Fault::OutOfRange { .. });
    let contradiction: fn(&Fault) -> bool = |f| matches!(f, Fault::Contradiction { .. });
    let wrong_type: fn(&Fault) -> bool = |f| matches!(f, Fault::WrongType { .. });
    gemma("num_kv_shared_layers", &[json!(6), json!(1_u64 << 40)], range);
    // No earlier layer is without a window.
    gemma("num_kv_shared_layers", &[json!(4)], contradiction);
    gemma("hidden_size_per_layer_input", &[json!(1 << 20)], range);
    gemma("vocab_size_per_layer_input", &[json!(319)], contradiction);
    gemma("per_layer_config", &[json!({ "6": { "head_dim": 32 } }), json!({ "x": {} })], contradiction);
    gemma(
        "per_layer_config",
        &[json!([32]), json!({ "2": 32 }), json!({ "2": { "head_dim": "wide" } })],
        wrong_type,
    );
    gemma("per_layer_config", &[json!({ "2": { "head_dim": 2048 } })], range);
    let part = "rope_parameters.full_attention.partial_rotary_factor";
    gemma(part, &[json!(0), json!(1.5), json!(-1)], |f| matches!(f, Fault::BadNumber { .. }));
    assert_field("gemma4moe", "text_config.global_head_dim", &[json!(0), json!(4096)], range);
    assert_field("gemma4moe", "text_config.num_global_key_value_heads", &[json!(0)], range);
    assert_field("gemma4moe", "text_config.num_global_key_value_heads", &[json!(3)], |f| {
        matches!(f, Fault::Contradiction { .. })
    });
    assert_field("gemma4moe", "text_config.top_k_experts", &[json!(0), json!(9)], range);
}

#[test]
fn recurrences() {
    let range: fn(&Fault) -> bool = |f| matches!(f, Fault::OutOfRange { .. });
    let contradiction: fn(&Fault) -> bool = |f| matches!(f, Fault::Contradiction { .. });
    for field in ["mamba_n_heads", "mamba_d_head", "mamba_n_groups", "mamba_d_state"] {
        assert_field("granitehybrid", field, &[json!(0), json!(1 << 20)], range);
    }
    assert_field("granitehybrid", "mamba_d_conv", &[json!(0), json!(1), json!(65)], range);
    assert_field("granitehybrid", "mamba_n_groups", &[json!(3)], contradiction);
    assert_field("granitehybrid", "layer_types", &[json!(["mamba"])], contradiction);
    assert_field("nemotronh", "hybrid_override_pattern", &[json!("MEM"), json!("MEM*EMEM")], contradiction);
    for (family, field, value) in [
        ("granitehybrid", "layer_types", json!(["mamba", "spiral", "attention", "mamba"])),
        ("granitehybrid", "mamba_proj_bias", json!(true)),
        ("nemotronh", "hybrid_override_pattern", json!("MEMXEME")),
        ("nemotronh", "mlp_hidden_act", json!("gelu3")),
    ] {
        let error = refused(changed(family, field, value).path());
        assert!(matches!(error, LoadError::Unsupported { .. }), "{field}: {error}");
    }
    let (found, missing) = fault("nemotronh", "moe_latent_size", json!(32));
    assert!(found.contains("fc1_latent_proj") && matches!(missing, Fault::Missing { .. }), "{found}");
}

#[test]
fn layers_of_other_kinds() {
    let range: fn(&Fault) -> bool = |f| matches!(f, Fault::OutOfRange { .. });
    let contradiction: fn(&Fault) -> bool = |f| matches!(f, Fault::Contradiction { .. });
    let number: fn(&Fault) -> bool = |f| matches!(f, Fault::BadNumber { .. });
    for (field, values) in [
        ("linear_attn_config.head_dim", [json!(0), json!(1 << 20)]),
        ("linear_attn_config.num_heads", [json!(0), json!(1 << 20)]),
        ("linear_attn_config.short_conv_kernel_size", [json!(1), json!(65)]),
        ("linear_attn_config.full_attn_layers", [json!([5]), json!([0])]),
    ] {
        assert_field("kimilinear", field, &values, range);
    }
    for (field, values) in [
        ("attn_layer_period", [json!(0), json!(1 << 20)]),
        ("attn_layer_offset", [json!(4), json!(1 << 20)]),
        ("expert_layer_period", [json!(0), json!(1 << 20)]),
        ("expert_layer_offset", [json!(2), json!(1 << 20)]),
        ("mamba_d_state", [json!(0), json!(1 << 20)]),
        ("mamba_d_conv", [json!(1), json!(65)]),
        ("mamba_dt_rank", [json!(0), json!(1 << 20)]),
        ("mamba_expand", [json!(0), json!(65)]),
    ] {
        assert_field("jamba", field, &values, range);
    }
    for field in ["index_n_heads", "index_head_dim", "index_topk"] {
        assert_field("deepseek32", field, &[json!(0), json!(1_u64 << 40)], range);
    }
    assert_field("deepseek32", "index_head_dim", &[json!(8)], contradiction);
    assert_field("mimo2", "v_head_dim", &[json!(0)], range);
    let wide = changed("mimo2", "v_head_dim", json!(64));
    assert!(matches!(refused(wide.path()), LoadError::Unsupported { .. }));
    assert_field("mimo2", "hybrid_layer_pattern", &[json!([0, 1])], contradiction);
    assert_field("mimo2", "moe_layer_freq", &[json!([0, 1, 1, 1, 1, 1])], |f| {
        matches!(f, Fault::WrongType { .. })
    });
    assert_field("mimo2", "moe_layer_freq", &[json!(2)], range);
    assert_field("mimo2", "swa_num_key_value_heads", &[json!(0)], range);
    assert_field("mimo2", "swa_num_key_value_heads", &[json!(3)], contradiction);
    assert_field("mimo2", "swa_num_attention_heads", &[json!(8)], contradiction);
    assert_field("mimo2", "attention_value_scale", &[json!(0), json!(-1)], number);
}

/// A copy of a golden folder in which one tensor has another name of the same length.
fn without(family: &str, tensor: &str) -> tempfile::TempDir {
    let dir = changed(family, "bos_token_id", json!(1));
    let path = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let name = format!("\"{tensor}\"");
    let at = bytes.windows(name.len()).position(|part| part == name.as_bytes());
    bytes[at.expect("the folder has the tensor") + 1] = b'x';
    fs::write(&path, bytes).unwrap();
    dir
}

#[test]
fn tensors_of_one_family_are_missed_by_name() {
    for (family, tensor) in [
        ("glm4moe", "model.layers.1.mlp.gate.e_score_correction_bias"),
        ("glm4moe", "model.layers.2.mlp.shared_experts.up_proj.weight"),
        ("glm4moe", "model.layers.0.mlp.gate_proj.weight"),
        ("phi3", "model.layers.1.self_attn.qkv_proj.weight"),
        ("phi3", "model.layers.0.mlp.gate_up_proj.weight"),
        ("exaone4", "model.layers.1.post_feedforward_layernorm.weight"),
        ("gemma2", "model.layers.1.pre_feedforward_layernorm.weight"),
        ("gemma3-scale", "model.layers.2.self_attn.k_norm.weight"),
        ("cohere2", "model.layers.3.input_layernorm.weight"),
        ("gemma4moe", "model.language_model.layers.1.layer_scalar"),
        ("gemma4moe", "model.language_model.layers.2.router.scale"),
        ("gemma4moe", "model.language_model.layers.0.router.per_expert_scale"),
        ("gemma4moe", "model.language_model.layers.3.post_feedforward_layernorm.weight"),
        ("gemma4moe", "model.language_model.layers.3.post_feedforward_layernorm_1.weight"),
        ("gemma4moe", "model.language_model.layers.4.pre_feedforward_layernorm_2.weight"),
        ("gemma4moe", "model.language_model.layers.1.self_attn.v_proj.weight"),
        ("gemma4moe", "model.language_model.layers.1.experts.gate_up_proj"),
        ("granitehybrid", "model.layers.0.mamba.conv1d.bias"),
        ("granitehybrid", "model.layers.1.mamba.A_log"),
        ("granitehybrid", "model.layers.3.mamba.D"),
        ("granitehybrid", "model.layers.1.mamba.dt_bias"),
        ("nemotronh", "backbone.layers.0.mixer.in_proj.weight"),
        ("nemotronh", "backbone.layers.0.mixer.norm.weight"),
        ("nemotronh", "backbone.layers.1.mixer.experts.3.up_proj.weight"),
        ("nemotronh", "backbone.layers.3.mixer.v_proj.weight"),
        ("nemotronh", "backbone.layers.4.norm.weight"),
        ("kimilinear", "model.layers.0.self_attn.b_proj.weight"),
        ("kimilinear", "model.layers.1.self_attn.k_conv1d.weight"),
        ("kimilinear", "model.layers.2.self_attn.f_a_proj.weight"),
        ("kimilinear", "model.layers.2.self_attn.A_log"),
        ("jamba", "model.layers.0.mamba.dt_layernorm.weight"),
        ("jamba", "model.layers.1.mamba.x_proj.weight"),
        ("jamba", "model.layers.3.mamba.dt_proj.bias"),
        ("deepseek32", "model.layers.1.self_attn.indexer.wq_b.weight"),
        ("deepseek32", "model.layers.2.self_attn.indexer.k_norm.bias"),
        ("mimo2", "model.layers.1.self_attn.attention_sink_bias"),
        ("gemma4-ple", "model.embed_tokens_per_layer.weight"),
        ("gemma4-ple", "model.per_layer_model_projection.weight"),
        ("gemma4-ple", "model.per_layer_projection_norm.weight"),
        ("gemma4-ple", "model.layers.5.per_layer_input_gate.weight"),
        ("gemma4-ple", "model.layers.0.post_per_layer_input_norm.weight"),
        ("gemma4-ple", "model.layers.2.self_attn.k_proj.weight"),
    ] {
        match refused(without(family, tensor).path()) {
            LoadError::Malformed { field, fault: Fault::Missing { .. }, .. } => {
                assert!(field.contains(&tensor.replace("language_model.", "")), "{field}");
            }
            other => panic!("{family} without {tensor}: {other}"),
        }
    }
}

#[test]
fn routers_that_contradict_themselves() {
    assert_field("glm4moe", "n_group", &[json!(9)], |f| matches!(f, Fault::OutOfRange { .. }));
    // Groups of different sizes, and groups of one expert, which have no best two.
    assert_field("glm4moe", "n_group", &[json!(3), json!(8)], |f| matches!(f, Fault::Contradiction { .. }));
    // One group of two experts is too small for more experts of a token.
    let dir = changed("glm4moe", "n_group", json!(4));
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["num_experts_per_tok"] = json!(3);
    fs::write(&path, config.to_string()).unwrap();
    let error = refused(dir.path()).to_string();
    assert!(error.contains("topk_group"), "{error}");
    assert_field("glm4moe", "routed_scaling_factor", &[json!(-1), json!(1e300)], |f| {
        matches!(f, Fault::BadNumber { .. })
    });
    assert_field("glm4moe", "n_shared_experts", &[json!([1, 2]), json!([])], |f| {
        matches!(f, Fault::WrongType { .. })
    });
    assert_field("glm4moe", "n_shared_experts", &[json!(1_u64 << 40)], |f| {
        matches!(f, Fault::OutOfRange { .. })
    });
    assert_field("glm4moe", "moe_layer_end_index", &[json!(3), json!(0.5), json!(-2)], |f| {
        matches!(f, Fault::BadNumber { .. })
    });
    let unknown = changed("glm4moe", "scoring_func", json!("tanh"));
    assert!(matches!(refused(unknown.path()), LoadError::Unsupported { .. }));
}

#[test]
fn windows_and_ropes_by_layer() {
    assert_field("smollm3", "no_rope_layers", &[json!([1, 1]), json!([])], |f| {
        matches!(f, Fault::Contradiction { .. })
    });
    assert_field("cohere2", "layer_types", &[json!(["full_attention"])], |f| {
        matches!(f, Fault::Contradiction { .. })
    });
    assert_field("gemma3-scale", "sliding_window_pattern", &[json!("LGL"), json!(""), json!([4])], |f| {
        matches!(f, Fault::WrongType { .. })
    });
    // The period counts where no list of layers does.
    let dir = changed("cohere2", "sliding_window_pattern", json!(0));
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["layer_types"] = Value::Null;
    fs::write(&path, config.to_string()).unwrap();
    let error = refused(dir.path()).to_string();
    assert!(error.contains("sliding_window_pattern"), "{error}");
    let local = "rope_parameters.sliding_attention";
    assert_field("gemma3-scale", &format!("{local}.rope_theta"), &[json!(0), json!(-1)], |f| {
        matches!(f, Fault::BadNumber { .. })
    });
    assert_field("gemma3-scale", &format!("{local}.partial_rotary_factor"), &[json!(0), json!(1.5)], |f| {
        matches!(f, Fault::BadNumber { .. })
    });
    for (field, value) in
        [(format!("{local}.rope_type"), json!("yarn")), ("rope_parameters.other".into(), json!({}))]
    {
        let dir = changed("gemma3-scale", &field, value);
        let error = refused(dir.path());
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{field}: {error}");
    }
}

#[test]
fn caps_and_scales_out_of_range() {
    for (family, field) in [
        ("gemma2", "attn_logit_softcapping"),
        ("gemma2", "final_logit_softcapping"),
        ("gemma2", "query_pre_attn_scalar"),
        ("cohere2", "logit_scale"),
    ] {
        assert_field(family, field, &[json!(0), json!(-2.5), json!(1e300)], |f| {
            matches!(f, Fault::BadNumber { .. })
        });
    }
    // Experts with biases of their own need a family that has them.
    let biased = changed("glm4moe", "mlp_bias", json!(true));
    assert_eq!(refused(biased.path()).kind(), ErrorKind::Unsupported);
}
