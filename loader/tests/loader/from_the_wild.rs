//! Files as other programs write them: harmless disagreements are said and do no harm.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::path::Path;

use moelten_loader::container::gguf::{Array, Metadata, Value};
use moelten_loader::text::gguf_vocab;
use moelten_loader::text::tokenizer::{GgufVocab, TokenKind, Tokenizer};

use crate::vocab::byte_vocab;

fn open(vocab: GgufVocab) -> (Tokenizer, Vec<String>) {
    Tokenizer::from_gguf(Path::new("wild.gguf"), vocab).unwrap()
}

fn folder(tokenizer_json: &str) -> (Tokenizer, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer_json).unwrap();
    Tokenizer::from_hf_folder(dir.path()).unwrap()
}

fn json(added: &str, model: &str) -> String {
    format!(
        r#"{{"added_tokens": {added}, "normalizer": null,
            "pre_tokenizer": {{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": null}},
            "decoder": {{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}},
            "model": {{"type": "BPE", "vocab": {{"a": 0, "b": 1, "ab": 2, "<s>": 3}}, "merges": ["a b"]{model}}}}}"#
    )
}

#[test]
fn scores_i32() {
    let scores = Value::Array(Array::I32(vec![0, -1]));
    let tokens = Value::Array(Array::Str(vec!["a".into(), "b".into()]));
    let entries = [
        ("tokenizer.ggml.model", Value::Str("llama".into())),
        ("tokenizer.ggml.tokens", tokens),
        ("tokenizer.ggml.scores", scores),
        ("tokenizer.ggml.token_type", Value::Array(Array::F32(vec![1.0, 3.0]))),
        ("tokenizer.ggml.add_bos_token", Value::U8(1)),
        ("tokenizer.ggml.bos_token_id", Value::F32(1.0)),
        ("tokenizer.ggml.eos_token_id", Value::I32(-1)),
        ("tokenizer.ggml.eot_token_id", Value::Str("b".into())),
    ];
    let entries = entries.map(|(key, value)| (key.to_owned(), value)).into();
    let (vocab, notices) = gguf_vocab(&Metadata::new(Path::new("f"), entries).unwrap()).unwrap();
    assert_eq!((vocab.scores, vocab.types), (vec![0.0, -1.0], vec![1, 3]));
    assert_eq!((vocab.add_bos, vocab.bos, vocab.eos, vocab.eot), (Some(true), Some(1), None, None));
    assert_eq!(notices, ["tokenizer.ggml.eot_token_id is not a token id; ignored"]);
}

#[test]
fn duplicate_token() {
    let mut vocab = byte_vocab(&["<|im_end|>"], &[]);
    let letter = vocab.tokens.iter().position(|token| token == "q").unwrap() as u32;
    for token in ["q", "<|im_end|>", "th"] {
        vocab.tokens.push(token.into());
        vocab.types.push(1);
    }
    let count = vocab.tokens.len() as u32;
    let (tokenizer, notices) = open(vocab);
    assert!(notices.iter().any(|notice| notice.contains("spelling of another token")), "{notices:?}");
    // Text becomes the last one, and both spell the text.
    assert_eq!(tokenizer.encode_text("q").unwrap(), [count - 3]);
    assert_eq!(tokenizer.decode(&[letter, count - 3]), "qq");
    assert_eq!(tokenizer.encode_text("th").unwrap(), [count - 1]);
    // A control token beside a piece of text: text never becomes the control token.
    for id in tokenizer.encode_text("<|im_end|>").unwrap() {
        assert_ne!(tokenizer.kind(id), Some(TokenKind::Control));
    }
}

#[test]
fn token_type_7() {
    let mut vocab = byte_vocab(&[], &["<|mask|>", "word"]);
    let count = vocab.tokens.len();
    vocab.types[count - 2] = 7;
    vocab.types[count - 1] = 77;
    vocab.types[0] = -3;
    let (tokenizer, notices) = open(vocab);
    assert!(notices[0].contains("3 tokens have a type") && notices[0].contains("type -3"), "{notices:?}");
    let kind = |id: usize| tokenizer.kind(id as u32);
    assert_eq!((kind(0), kind(count - 1)), (Some(TokenKind::Normal), Some(TokenKind::Normal)));
    assert_eq!(kind(count - 2), Some(TokenKind::Control), "it looks like structure");
    let mut short = byte_vocab(&[], &[]);
    short.types.pop();
    let (tokenizer, notices) = open(short);
    assert!(notices.iter().any(|notice| notice.contains("256 entries for 257 tokens")), "{notices:?}");
    assert_eq!(tokenizer.encode_text("th").unwrap(), [256]);
}

#[test]
fn more_tokens_than_rows() {
    let (mut tokenizer, _) = open(byte_vocab(&["<|im_end|>", "<|far|>"], &["beyond"]));
    assert_eq!(tokenizer.limit(usize::MAX), None);
    assert_eq!(tokenizer.limit(tokenizer.vocab_len()), None);
    let notice = tokenizer.limit(258).unwrap();
    assert!(notice.contains("2 tokens have no row") && notice.contains("<|far|>"), "{notice}");
    assert!(tokenizer.encode_text("near <|far|>").is_ok(), "text never becomes a control token");
    let error = tokenizer.encode_text("this is beyond it").unwrap_err().to_string();
    assert!(
        error.contains("token 259") && error.contains("\"beyond\"") && error.contains("258 rows"),
        "{error}"
    );
}

#[test]
fn eos_out_of_range() {
    for id in [257, 128_009, u32::MAX] {
        let vocab = byte_vocab(&[], &[]);
        let (tokenizer, notices) = open(GgufVocab {
            bos: Some(id),
            eos: Some(id),
            eot: Some(id),
            unk: Some(id),
            add_eos: Some(true),
            ..vocab
        });
        assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_eos()), (None, None, false));
        assert_eq!(tokenizer.end_ids(), [0_u32; 0]);
        assert!(
            notices.iter().any(|notice| notice.contains("end-of-text") && notice.contains(&id.to_string()))
        );
    }
}

#[test]
fn hf_added_token_id_mismatch() {
    // The vocabulary's id counts, as in the library.
    let (tokenizer, notices) = folder(&json(r#"[{"id": 0, "content": "<s>", "special": true}]"#, ""));
    assert_eq!((tokenizer.kind(3), tokenizer.kind(0)), (Some(TokenKind::Control), Some(TokenKind::Normal)));
    assert!(
        notices.iter().any(|notice| notice.contains("\"<s>\"") && notice.contains("3 is used")),
        "{notices:?}"
    );
    // An id that is taken: the next free one.
    let (tokenizer, notices) =
        folder(&json(r#"[{"id": 1, "content": "<new>"}, {"id": 1, "content": "<new>"}]"#, ""));
    assert_eq!(tokenizer.piece(4), Some("<new>"));
    assert!(notices.iter().any(|notice| notice.contains("4 is used")), "{notices:?}");
}

#[test]
fn hf_null_for_every_default() {
    let nulls = r#", "ignore_merges": null, "byte_fallback": null, "fuse_unk": null, "unk_token": null, "dropout": null"#;
    let token = r#"[{"id": 4, "content": "<x>", "special": true, "lstrip": null, "normalized": null}]"#;
    let (tokenizer, _) = folder(&json(token, nulls));
    assert_eq!(tokenizer.encode_text("ab").unwrap(), [2]);
    let (tokenizer, _) = folder(&json("null", ""));
    assert_eq!(tokenizer.encode_text("ab").unwrap(), [2]);
}

#[test]
fn a_byte_order_mark_before_json() {
    let (tokenizer, _) = folder(&format!("\u{feff}{}", json("[]", "")));
    assert_eq!(tokenizer.encode_text("ab").unwrap(), [2]);
}

/// Some families' tokenizers compose characters; a GGUF file cannot say so, but its name for the
/// pre-tokenizer does.
#[test]
fn characters_are_composed_where_the_family_does() {
    let vocab = |pre: &str| GgufVocab { pre: Some(pre.into()), ..byte_vocab(&[], &[]) };
    for name in ["qwen2", "qwen35", "olmo", "mpt", "command-r", "hunyuan"] {
        let (tokenizer, notices) = open(vocab(name));
        assert!(notices.iter().any(|notice| notice.contains("NFC") && notice.contains(name)), "{notices:?}");
        let ids = |text: &str| tokenizer.encode_text(text).unwrap();
        assert_eq!(ids("e\u{301}"), ids("\u{e9}"), "{name}");
    }
    for name in ["deepseek-r1-qwen", "gpt-2", "llama-bpe", "starcoder"] {
        let (tokenizer, notices) = open(vocab(name));
        assert_eq!(notices, [""; 0], "{name}");
        let ids = |text: &str| tokenizer.encode_text(text).unwrap();
        assert_ne!(ids("e\u{301}"), ids("\u{e9}"), "{name}");
    }
}
