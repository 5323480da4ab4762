//! Helpers of the tokenizer tests: the tokenizer of the built-in model, real vocabularies where they are
//! present, and small ones made up here.
#![allow(dead_code, clippy::unwrap_used, reason = "every test binary uses its own part; a failure may panic")]

use std::path::{Path, PathBuf};

use moelten_loader::container::gguf::Gguf;
use moelten_loader::text::gguf_vocab;
use moelten_loader::text::tokenizer::{GgufVocab, Tokenizer};

/// The folder of the built-in model without its weights: `tokenizer.json` and what belongs to it.
pub fn tiny_tales() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny-tales")
}

/// A file of real vocabularies that are not part of this repository. Tests of them are ignored by default:
/// `MOELTEN_VOCABULARIES=FOLDER cargo test --release -p moelten-loader -- --ignored` runs them. The folder
/// has `ggml-vocab-NAME.gguf` and the vectors `.inp` and `.out` beside it, as llama.cpp's `models` has.
pub fn real(name: &str, suffix: &str) -> PathBuf {
    let folder = std::env::var_os("MOELTEN_VOCABULARIES").expect("MOELTEN_VOCABULARIES names a folder");
    Path::new(&folder).join(format!("ggml-vocab-{name}.gguf{suffix}"))
}

/// The vocabulary in a GGUF file's metadata.
pub fn vocab(path: &Path) -> GgufVocab {
    let gguf = Gguf::open(path).unwrap();
    gguf_vocab(&gguf.metadata).unwrap().0
}

/// The tokenizer of a real vocabulary.
pub fn tokenizer(name: &str) -> Tokenizer {
    let path = real(name, "");
    let (tokenizer, notices) = Tokenizer::from_gguf(&path, vocab(&path)).unwrap();
    println!("{name}: {notices:?}");
    tokenizer
}

/// A byte-level vocabulary of the 256 bytes, the merge `t` + `h`, and added tokens.
pub fn byte_vocab(control: &[&str], user_defined: &[&str]) -> GgufVocab {
    let printable = |byte: &u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 0x100_u32..;
    let alphabet = (0..=255_u8).map(|byte| match printable(&byte) {
        true => char::from(byte),
        false => others.next().and_then(char::from_u32).unwrap(),
    });
    let mut tokens: Vec<String> = alphabet.map(String::from).collect();
    tokens.push("th".into());
    let mut types = vec![1; tokens.len()];
    for (added, kind) in [(control, 3), (user_defined, 4)] {
        tokens.extend(added.iter().map(|token| (*token).to_owned()));
        types.extend(added.iter().map(|_| kind));
    }
    let id = |text: &str| tokens.iter().position(|token| token == text).map(|id| id as u32);
    GgufVocab {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        bos: id("<|endoftext|>"),
        eos: id("<|im_end|>"),
        merges: vec!["t h".into()],
        types,
        tokens,
        ..GgufVocab::default()
    }
}
