//! Vocabularies as M2M100 is released: pieces of SentencePiece and a list of ids, against the ids of Hugging
//! Face's `M2M100Tokenizer`.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::fs;
use std::path::{Path, PathBuf};

use moelten_loader::text::tokenizer::{TokenKind, Tokenizer};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/m2m100")
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

/// Compares a tokenizer with what `make_m2m100.py` recorded beside it.
fn compare(tokenizer: &Tokenizer, folder: &Path) {
    let expected: Value = serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let texts = expected["texts"].as_array().unwrap();
    for (text, expected) in texts.iter().zip(expected["ids"].as_array().unwrap()) {
        let text = text.as_str().unwrap();
        assert_eq!(tokenizer.encode_text(text).unwrap(), ids(expected), "{text:?}");
    }
    let first = ids(&expected["ids"][0]);
    assert_eq!(tokenizer.decode(&first).trim(), "the dog sleeps.");
    for (code, id) in expected["languages"].as_object().unwrap() {
        let id = u32::try_from(id.as_u64().unwrap()).unwrap();
        assert_eq!((tokenizer.piece(id), tokenizer.kind(id)), (Some(&code[..]), Some(TokenKind::Control)));
    }
    assert_eq!((tokenizer.eos(), tokenizer.bos()), (Some(2), Some(0)));
}

#[test]
fn pieces_and_ids_are_those_of_transformers() {
    let (tokenizer, notices) = Tokenizer::from_hf_folder(&folder()).unwrap();
    compare(&tokenizer, &folder());
    assert!(notices.is_empty(), "{notices:?}");
    // A GGUF file holds the text that both files become.
    let text = Tokenizer::source_of_folder(&folder()).unwrap().unwrap();
    let (embedded, _) = Tokenizer::from_embedded(Path::new("file"), &text, (Some(0), Some(2))).unwrap();
    compare(&embedded, &folder());
}

#[test]
#[ignore = "needs MOELTEN_M2M100, a folder that make_m2m100.py made with a normalisation"]
fn normalised_texts_are_cut_as_transformers_cuts_them() {
    let folder = PathBuf::from(std::env::var_os("MOELTEN_M2M100").unwrap());
    compare(&Tokenizer::from_hf_folder(&folder).unwrap().0, &folder);
}

/// A copy of the folder without one of its files.
fn without(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["sentencepiece.bpe.model", "vocab.json", "special_tokens_map.json"] {
        if file != name {
            fs::copy(folder().join(file), copy.path().join(file)).unwrap();
        }
    }
    copy
}

#[test]
fn what_is_missing_or_damaged_is_named() {
    let refused = |folder: &Path| Tokenizer::from_hf_folder(folder).unwrap_err().to_string();
    let languages = refused(without("special_tokens_map.json").path());
    assert!(languages.contains("special_tokens_map.json"), "{languages}");
    let ids = refused(without("vocab.json").path());
    assert!(ids.contains("a tokenizer given only as sentencepiece.bpe.model"), "{ids}");
    let pieces = refused(without("sentencepiece.bpe.model").path());
    assert!(pieces.contains("a tokenizer given only as vocab.json"), "{pieces}");
    let damaged = without("");
    let path = damaged.path().join("sentencepiece.bpe.model");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let cut = refused(damaged.path());
    assert!(cut.contains("sentencepiece.bpe.model"), "{cut}");
    fs::write(&path, b"<html>").unwrap();
    assert!(refused(damaged.path()).contains("SentencePiece"), "{}", refused(damaged.path()));
}
