//! Models and prompts as other programs write them: each runs, and says what was odd. What `run` refuses,
//! `fit` and `models` refuse with the same words.

use std::path::{Path, PathBuf};

use moelten_loader::container::gguf::{Array, Value};
use serde_json::json;

use crate::common::{Outcome, mini, moelten, run};

/// Asks a model, by `run`, with nothing else.
fn ask(model: &Path, options: &[&str]) -> Outcome {
    run(
        moelten()
            .arg("run")
            .arg(model)
            .args(["-p", "Hello", "--temp", "0", "--max-tokens", "4"])
            .args(options),
        b"",
    )
}

/// `run` answers, with all of these words in its notes; `fit` and `models` agree.
#[track_caller]
fn answers(model: &Path, words: &[&str]) {
    let outcome = ask(model, &[]).fine();
    for word in words {
        assert!(outcome.err.contains(word), "{word}: {outcome:?}");
    }
    let fit = run(moelten().arg("fit").arg(model), b"").fine();
    assert!(fit.text().contains(": RAM, "), "{fit:?}");
}

/// A file that differs from the sound one in one key.
fn with(key: &str, value: Value) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    mini::write(&path, &mini::with(mini::keys(), key, value), &mini::tensors());
    (folder, path)
}

/// A folder that differs from the sound one in `tokenizer.json`.
fn folder_with(change: impl FnOnce(&mut serde_json::Value)) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = mini::folder(&folder.path().join("model"));
    let mut tokenizer = mini::tokenizer();
    change(&mut tokenizer);
    std::fs::write(path.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    (folder, path)
}

#[test]
fn the_sound_models_run() {
    let (_folder, file) = with("general.name", Value::Str("mini".into()));
    answers(&file, &[]);
    let (_folder, path) = folder_with(|_| ());
    answers(&path, &[]);
}

#[test]
fn scores_i32() {
    let scores = (0..mini::ROWS as i32).map(|id| -id).collect();
    let (_folder, file) = with("tokenizer.ggml.scores", Value::Array(Array::I32(scores)));
    answers(&file, &[]);
}

#[test]
fn duplicate_token() {
    let mut tokens = mini::tokens();
    tokens[260] = tokens[261].clone();
    let (_folder, file) = with("tokenizer.ggml.tokens", Value::Array(Array::Str(tokens)));
    // One of the two is a control token, which text never becomes.
    answers(&file, &[]);
    let mut tokens = mini::tokens();
    tokens[256] = tokens[261].clone();
    let mut keys = mini::with(mini::keys(), "tokenizer.ggml.tokens", Value::Array(Array::Str(tokens)));
    keys = mini::with(keys, "tokenizer.ggml.merges", Value::Array(Array::Str(vec!["z z".into()])));
    mini::write(&file, &keys, &mini::tensors());
    answers(&file, &["note: 1 tokens have the spelling of another token, the first is \"zz\""]);
}

#[test]
fn token_type_7() {
    let mut types = vec![1; mini::ROWS];
    types[257..260].fill(3);
    types[261] = 7;
    let (_folder, file) = with("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    answers(
        &file,
        &["note: 1 tokens have a type that does not suit them, the first is token 261 \"zz\" with type 7"],
    );
}

#[test]
fn more_tokens_than_rows() {
    let mut tokens = mini::tokens();
    tokens.push("<|more|>".into());
    let (_folder, file) = with("tokenizer.ggml.tokens", Value::Array(Array::Str(tokens.clone())));
    answers(
        &file,
        &[
            "note: 1 tokens have no row in the embedding of 262 rows and cannot be used, the first is \"<|more|>\"",
        ],
    );
    // A template that needs such a token is refused, by `fit` too.
    tokens.swap(258, 262);
    let mut keys = mini::with(mini::keys(), "tokenizer.ggml.tokens", Value::Array(Array::Str(tokens)));
    let types = (0..=262).map(|id| if (257..263).contains(&id) { 3 } else { 1 }).collect();
    keys = mini::with(keys, "tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    mini::write(&file, &keys, &mini::tensors());
    let refused = ask(&file, &[]).refused(3, "E-FILE-02");
    assert!(
        refused.err.contains("\"<|im_start|>\" is needed here, but the embedding has 262 rows"),
        "{refused:?}"
    );
    let fit = run(moelten().arg("fit").arg(&file), b"").refused(3, "E-FILE-02");
    assert_eq!(fit.err, refused.err);
    ask(&file, &["--no-template"]).fine();
}

#[test]
fn eos_out_of_range() {
    let (_folder, file) = with("tokenizer.ggml.eos_token_id", Value::U32(128_009));
    answers(&file, &["note: the end-of-text token is 128009, but there are 262 tokens; ignored"]);
}

#[test]
fn hf_pad_token_beyond_embedding() {
    let (_folder, path) = folder_with(|tokenizer| {
        let pad = json!({ "id": 262, "content": "[PAD]", "special": true, "normalized": false });
        tokenizer["added_tokens"].as_array_mut().unwrap().push(pad);
    });
    answers(&path, &["1 tokens have no row in the embedding of 262 rows", "\"[PAD]\""]);
    // A file that is made of it has only what can be used.
    let target = path.join("out.gguf");
    let made =
        run(moelten().arg("quantize").arg(&path).arg(&target).args(["--type", "f32", "--force"]), b"").fine();
    assert!(
        made.err.contains("1 tokens have no row in the embedding of 262 rows and are left out"),
        "{made:?}"
    );
    answers(&target, &[]);
}

#[test]
fn hf_added_token_id_mismatch() {
    let (_folder, path) = folder_with(|tokenizer| {
        let again = json!({ "id": 5, "content": "<|im_end|>", "special": true, "normalized": false });
        tokenizer["added_tokens"].as_array_mut().unwrap().push(again);
    });
    answers(&path, &["note: tokenizer.json: added_tokens gives \"<|im_end|>\" the id 5; 259 is used"]);
}

#[test]
fn hf_null_ignore_merges_and_byte_fallback() {
    for key in ["ignore_merges", "byte_fallback", "fuse_unk"] {
        let (_folder, path) = folder_with(|tokenizer| tokenizer["model"][key] = json!(null));
        answers(&path, &[]);
    }
}

#[test]
fn hint_top_p_0() {
    let (_folder, file) = with("general.sampling.top_p", Value::F32(0.0));
    let note = "model.gguf: general.sampling.top_p = 0 is out of range; 0.000001 is used";
    answers(&file, &[note]);
    // An option is judged alone.
    ask(&file, &["--top-p", "0.9"]).fine();
    let refused = ask(&file, &["--top-p", "0"]).refused(2, "E-ARG-02");
    assert!(refused.err.contains("top-p is 0"), "{refused:?}");
}

#[test]
fn ff_length_array() {
    for width in [Value::Array(Array::I32(vec![32])), Value::U64(32), Value::F32(32.0)] {
        let (_folder, file) = with("llama.feed_forward_length", width);
        answers(&file, &[]);
    }
    for key in ["llama.attention.head_count", "llama.expert_used_count"] {
        let (_folder, file) = with(key, Value::Array(Array::U32(vec![2])));
        answers(&file, &[]);
    }
    let (_folder, file) =
        with("llama.attention.layer_norm_rms_epsilon", Value::Array(Array::F32(vec![1e-5])));
    answers(&file, &[]);
    let folder = tempfile::tempdir().unwrap();
    let path = mini::folder(&folder.path().join("model"));
    let config = std::fs::read_to_string(path.join("config.json")).unwrap();
    let list = config
        .replace("\"intermediate_size\": 32", "\"intermediate_size\": [32]")
        .replace("\"num_key_value_heads\": 1", "\"num_key_value_heads\": [1.0]");
    assert_ne!(config, list);
    std::fs::write(path.join("config.json"), list).unwrap();
    answers(&path, &[]);
}

#[test]
fn hf_bom_config_and_infinity() {
    let folder = tempfile::tempdir().unwrap();
    let path = mini::folder(&folder.path().join("model"));
    let config = std::fs::read_to_string(path.join("config.json")).unwrap();
    let infinite =
        config.replace("\"eos_token_id\"", "\"time_step_limit\": [0.0, Infinity], \"eos_token_id\"");
    let utf_16: Vec<u8> = format!("\u{feff}{config}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    for text in [format!("\u{feff}{config}").into_bytes(), infinite.into_bytes(), utf_16] {
        std::fs::write(path.join("config.json"), text).unwrap();
        answers(&path, &[]);
    }
}

#[test]
fn hf_two_empty_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = mini::folder(&folder.path().join("model"));
    let file = path.join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let end = bytes.len() - 8 - length;
    for name in ["model.a", "model.b"] {
        header[name] = json!({ "dtype": "F32", "shape": [0], "data_offsets": [end, end] });
    }
    let header = header.to_string();
    let parts = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[8 + length..]];
    std::fs::write(&file, parts.concat()).unwrap();
    answers(&path, &["note: 2 unused tensors"]);
}

#[test]
fn prompts_with_a_byte_order_mark_and_in_utf_16() {
    let (folder, model) = with("general.name", Value::Str("mini".into()));
    let file = folder.path().join("prompt.txt");
    let ids = |bytes: &[u8], note: bool| {
        std::fs::write(&file, bytes).unwrap();
        let mut counts = Vec::new();
        for piped in [false, true] {
            let mut command = moelten();
            command.arg("run").arg(&model).args(["--temp", "0", "--max-tokens", "1", "--json"]);
            let outcome =
                if piped { run(&mut command, bytes) } else { run(command.arg("-f").arg(&file), b"") };
            let outcome = outcome.fine();
            assert_eq!(outcome.err.contains("is UTF-16 and was converted"), note, "{outcome:?}");
            let answer: serde_json::Value = serde_json::from_str(outcome.text()).unwrap();
            counts.push((answer["stats"]["prompt_tokens"].as_u64(), answer["ids"].clone()));
        }
        assert_eq!(counts[0], counts[1]);
        counts.remove(0)
    };
    let plain = ids(b"Hello there", false);
    assert_eq!(ids(b"\xef\xbb\xbfHello there", false), plain);
    let utf_16 =
        |bytes: fn(u16) -> [u8; 2]| "\u{feff}Hello there".encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    assert_eq!(ids(&utf_16(u16::to_le_bytes), true), plain);
    assert_eq!(ids(&utf_16(u16::to_be_bytes), true), plain);
}

/// What `run` refuses, `fit` and `models` refuse with the same words.
#[test]
fn commands_agree_about_models_that_do_not_run() {
    let sound = mini::tensors();
    let nan = |name: &str| {
        let mut tensors = sound.clone();
        tensors.iter_mut().filter(|tensor| tensor.0.contains(name)).for_each(|tensor| tensor.2[3] = f32::NAN);
        tensors
    };
    let text = |value: &str| Value::Str(value.into());
    let cases = [
        (mini::keys(), nan("attn_norm")),
        (mini::keys(), nan("gate_inp")),
        (mini::with(mini::keys(), "tokenizer.ggml.model", text("bert")), sound.clone()),
        (mini::with(mini::keys(), "tokenizer.ggml.pre", text("unheard-of")), sound.clone()),
        (
            mini::with(mini::keys(), "tokenizer.ggml.merges", Value::Array(Array::Str(vec!["q".into()]))),
            sound.clone(),
        ),
        (mini::with(mini::keys(), "tokenizer.chat_template", text("{% if %}")), sound.clone()),
        (mini::with(mini::keys(), "llama.expert_used_count", Value::U32(9)), sound.clone()),
        (mini::with(mini::keys(), "general.architecture", text("abacus")), sound.clone()),
    ];
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    for (keys, tensors) in cases {
        mini::write(&model, &keys, &tensors);
        let refused = ask(&model, &[]).harmless();
        assert!(matches!(refused.code, Some(3 | 4)), "{refused:?}");
        let words = refused.err.trim().split_once("]: ").unwrap().1.to_owned();
        let fit = run(moelten().arg("fit").arg(&model), b"").harmless();
        assert_eq!((fit.code, &fit.err), (refused.code, &refused.err));
        let chat = run(moelten().arg("chat").arg(&model), b"").harmless();
        assert_eq!((chat.code, &chat.err), (refused.code, &refused.err));
        let listed = run(moelten().arg("models").current_dir(folder.path()), b"").fine();
        // A list shows one line.
        assert!(
            listed.text().contains(&words[..40.min(words.len())].replace(model.to_str().unwrap(), "")),
            "{listed:?} {words}"
        );
    }
}
