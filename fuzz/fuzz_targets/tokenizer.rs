//! Tokenizers: any `tokenizer.json` and any metadata load or are refused, and what loads can encode and
//! decode without making a control token from text.
#![no_main]

use std::sync::atomic::AtomicBool;

use libfuzzer_sys::fuzz_target;
use moelten_loader::text::tokenizer::{GgufVocab, TokenKind, Tokenizer, gguf_metadata};

fn exercise(tokenizer: &Tokenizer, text: &str) {
    if let Ok(ids) = tokenizer.encode_text(text) {
        assert!(ids.iter().all(|id| tokenizer.kind(*id) != Some(TokenKind::Control)));
        tokenizer.decode(&ids);
        if let Ok(some) = tokenizer.encode_text_up_to(text, 3, &AtomicBool::new(false)) {
            assert!(ids.starts_with(&some.ids) && ids.len() >= some.at_least);
        }
    }
    let ids: Vec<u32> = (0..tokenizer.vocab_len().min(300) as u32 + 2).collect();
    tokenizer.decode(&ids);
}

/// Metadata from lines: flags, then tokens.
fn vocab(text: &str) -> GgufVocab {
    let mut lines = text.lines();
    let flags: Vec<u8> = lines.next().unwrap_or_default().bytes().collect();
    let flag = |at: usize| flags.get(at).copied().unwrap_or(0);
    let merges = lines.by_ref().take(usize::from(flag(0) % 16)).map(String::from).collect();
    let tokens: Vec<String> = lines.map(String::from).collect();
    GgufVocab {
        model: ["gpt2", "llama", "t5", "bert"][usize::from(flag(1) % 4)].into(),
        pre: ["gpt-2", "qwen2", "deepseek-llm", "superbpe"]
            .get(usize::from(flag(2) % 5))
            .map(|name| (*name).into()),
        scores: (0..tokens.len()).map(|id| f32::from(flag(id)) - 60.0).collect(),
        types: (0..tokens.len()).map(|id| i32::from(flag(3 + id) % 8)).collect(),
        bos: (flag(4) % 3 == 0).then_some(u32::from(flag(5))),
        eos: (flag(6) % 3 == 0).then_some(u32::from(flag(7))),
        unk: (flag(8) % 3 == 0).then_some(u32::from(flag(9))),
        add_space_prefix: (flag(10) % 2 == 0).then_some(flag(10) % 4 == 0),
        precompiled_charsmap: (flag(11) % 4 == 0).then(|| flags.clone()),
        tokens,
        merges,
        ..GgufVocab::default()
    }
}

fuzz_target!(|input: (&str, &str)| {
    let (file, text) = input;
    if file.starts_with('{') {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("tokenizer.json"), file).expect("a temporary file");
        if let Ok((tokenizer, _)) = Tokenizer::from_hf_folder(dir.path()) {
            exercise(&tokenizer, text);
        }
        if let Ok(export) = gguf_metadata(dir.path(), None) {
            Tokenizer::from_gguf("export".as_ref(), export.vocab).expect("what was exported loads");
        }
    } else if let Ok((tokenizer, _)) = Tokenizer::from_gguf("fuzz.gguf".as_ref(), vocab(file)) {
        exercise(&tokenizer, text);
    }
});
