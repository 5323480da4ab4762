//! Helpers of the tokenizer tests: the shared material, where it is present, and just enough of a GGUF reader to
//! take a vocabulary out of a file.
#![allow(dead_code, reason = "every test binary uses its own part")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use moelten_loader::tokenizer::{GgufVocab, Tokenizer};

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

/// A metadata value, as far as vocabularies need it.
#[derive(Debug, Clone)]
pub enum Value {
    Number(f64),
    Text(String),
    Numbers(Vec<f64>),
    Texts(Vec<String>),
}

/// The metadata of a GGUF file.
pub fn metadata(path: &Path) -> HashMap<String, Value> {
    let bytes = std::fs::read(path).unwrap();
    let mut reader = Reader { bytes: &bytes, at: 0 };
    assert_eq!(reader.take(4), b"GGUF");
    reader.take(4);
    reader.integer(8);
    let count = reader.integer(8);
    (0..count).map(|_| (reader.text(), reader.value())).collect()
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        self.at += len;
        &self.bytes[self.at - len..self.at]
    }

    fn integer(&mut self, len: usize) -> u64 {
        self.take(len).iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn text(&mut self) -> String {
        let len = self.integer(8) as usize;
        String::from_utf8(self.take(len).to_vec()).unwrap()
    }

    fn number(&mut self, kind: u64) -> f64 {
        match kind {
            0 | 7 => self.integer(1) as f64,
            1 => self.integer(1) as u8 as i8 as f64,
            4 => self.integer(4) as f64,
            5 => self.integer(4) as u32 as i32 as f64,
            6 => f64::from(f32::from_bits(self.integer(4) as u32)),
            10 => self.integer(8) as f64,
            _ => panic!("metadata type {kind}"),
        }
    }

    fn value(&mut self) -> Value {
        match self.integer(4) {
            8 => Value::Text(self.text()),
            9 => {
                let kind = self.integer(4);
                let count = self.integer(8);
                match kind {
                    8 => Value::Texts((0..count).map(|_| self.text()).collect()),
                    kind => Value::Numbers((0..count).map(|_| self.number(kind)).collect()),
                }
            }
            kind => Value::Number(self.number(kind)),
        }
    }
}

/// The vocabulary in a GGUF file's metadata.
pub fn vocab(path: &Path) -> GgufVocab {
    let mut metadata = metadata(path);
    let mut get = |key: &str| metadata.remove(&format!("tokenizer.ggml.{key}"));
    let id = |value: Option<Value>| match value {
        Some(Value::Number(id)) => Some(id as u32),
        _ => None,
    };
    let flag = |value: Option<Value>| id(value).map(|id| id != 0);
    let texts = |value: Option<Value>| match value {
        Some(Value::Texts(texts)) => texts,
        _ => Vec::new(),
    };
    let text = |value: Option<Value>| match value {
        Some(Value::Text(text)) => Some(text),
        _ => None,
    };
    let numbers = |value: Option<Value>| match value {
        Some(Value::Numbers(numbers)) => numbers,
        _ => Vec::new(),
    };
    GgufVocab {
        model: text(get("model")).unwrap(),
        pre: text(get("pre")),
        tokens: texts(get("tokens")),
        scores: numbers(get("scores")).into_iter().map(|score| score as f32).collect(),
        types: numbers(get("token_type")).into_iter().map(|kind| kind as i32).collect(),
        merges: texts(get("merges")),
        bos: id(get("bos_token_id")),
        eos: id(get("eos_token_id")),
        eot: id(get("eot_token_id")),
        eom: id(get("eom_token_id")),
        unk: id(get("unknown_token_id")),
        pad: id(get("padding_token_id")),
        add_bos: flag(get("add_bos_token")),
        add_eos: flag(get("add_eos_token")),
        add_space_prefix: flag(get("add_space_prefix")),
        remove_extra_whitespaces: flag(get("remove_extra_whitespaces")),
        precompiled_charsmap: match numbers(get("precompiled_charsmap")) {
            map if map.is_empty() => None,
            map => Some(map.into_iter().map(|byte| byte as u8).collect()),
        },
    }
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
