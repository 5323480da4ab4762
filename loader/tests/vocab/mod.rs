//! Helpers of the tokenizer tests: the shared material, where it is present, and small vocabularies made up here.
#![allow(dead_code, clippy::unwrap_used, reason = "every test binary uses its own part; a failure may panic")]

use std::path::{Path, PathBuf};

use moelten_loader::container::gguf::Gguf;
use moelten_loader::text::gguf_vocab;
use moelten_loader::text::tokenizer::{GgufVocab, Tokenizer};

/// A path in the shared folder, or `None` with a visible line.
pub fn shared(path: &str) -> Option<PathBuf> {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(path);
    let full = std::env::var_os("MOELTEN_SHARED").map_or(full, |dir| Path::new(&dir).join(path));
    if full.exists() {
        return Some(full);
    }
    println!("skipped: no shared folder ({path})");
    None
}

/// The vocabulary in a GGUF file's metadata.
pub fn vocab(path: &Path) -> GgufVocab {
    let gguf = Gguf::open(path).unwrap();
    gguf_vocab(&gguf.metadata).unwrap()
}

/// The tokenizer in a GGUF file of the shared folder.
pub fn tokenizer(name: &str) -> Option<Tokenizer> {
    let path = shared(&format!("tokenizers/ggml-vocab-{name}.gguf"))?;
    let (tokenizer, notices) = Tokenizer::from_gguf(&path, vocab(&path)).unwrap();
    println!("{name}: {notices:?}");
    Some(tokenizer)
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
