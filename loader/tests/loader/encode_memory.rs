//! What tokenising a large text may cost: memory for the ids and for a part of the text, never for the whole.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::atomic::AtomicBool;

use moelten_loader::error::LoadError;
use moelten_loader::text::tokenizer::{Ended, Tokenizer};

use crate::meter::peak;
use crate::vocab;

/// More than encoding may take beside the text.
const MEMORY: usize = 32 << 20;
const LIMIT: usize = 8192;
const BYTES: usize = 8 << 20;

/// A large text of each kind.
fn texts() -> [(&'static str, String); 6] {
    let repeated = |unit: &str| unit.repeat(BYTES / unit.len());
    [
        (
            "words",
            repeated(
                "Once upon a time, there was a little girl named Lily. She don't, she'll, WE'VE 1234!\n",
            ),
        ),
        ("a language without spaces", repeated("中文字符和日本語のテスト한국어。")),
        ("marks that compose", repeated("e\u{301}a\u{308} ")),
        ("one letter", repeated("a")),
        ("white space", repeated(" ")),
        (
            "anything",
            (0..BYTES as u32 / 3)
                .filter_map(|i| char::from_u32(i.wrapping_mul(2_654_435_761) % 0x3000))
                .collect(),
        ),
    ]
}

fn check(name: &str, tokenizer: &Tokenizer) {
    let stop = AtomicBool::new(false);
    for (kind, text) in texts() {
        let (found, bytes) = peak(|| tokenizer.encode_text_up_to(&text, LIMIT, &stop).unwrap());
        println!("{name}, {kind}: {} MiB, {} ids, {:?}", bytes >> 20, found.ids.len(), found.ended);
        assert_eq!(found.ended, Ended::Limit, "{name}, {kind}");
        assert!(found.at_least > LIMIT && found.ids.len() < 4 * LIMIT, "{name}, {kind}: {}", found.ids.len());
        assert!(bytes <= MEMORY, "{name}, {kind}: {bytes} bytes");
    }
    // Whatever the limit: a word that no rule can cut is refused instead.
    for unit in ["a", "\u{4e16}\u{754c}", " "] {
        for (bytes, limit) in [(BYTES, usize::MAX), (BYTES, BYTES), (100 << 10, usize::MAX)] {
            let text = unit.repeat(bytes / unit.len());
            let (found, peak) = peak(|| tokenizer.encode_text_up_to(&text, limit, &stop));
            let ids = found.as_ref().map_or(0, |found| found.ids.len());
            println!("{name}, {bytes} bytes of {unit:?}: {} MiB, {ids} ids", peak >> 20);
            assert!(peak <= MEMORY + 8 * ids.next_power_of_two(), "{name}, {unit:?}: {peak} bytes");
            if bytes == BYTES {
                let refused = matches!(&found, Err(LoadError::Unsupported { .. }));
                assert!(refused || ids > 0, "{name}, {unit:?}: {found:?}");
            } else {
                assert!(found.is_ok_and(|found| found.ended == Ended::Text), "{name}, {unit:?}");
            }
        }
    }
    // The whole text: the ids take what they take, and no more.
    let (_, text) = &texts()[0];
    let (ids, bytes) = peak(|| tokenizer.encode_text(text).unwrap());
    let of_ids = 4 * ids.len().next_power_of_two();
    println!("{name}, all words: {} MiB, {} ids", bytes >> 20, ids.len());
    // A growing list is copied when it grows.
    assert!(bytes <= MEMORY + 2 * of_ids, "{name}: {bytes} bytes for {} ids", ids.len());
}

#[test]
fn eight_megabytes_up_to_a_limit() {
    check("tiny-tales", &Tokenizer::from_hf_folder(&vocab::tiny_tales()).unwrap().0);
    check(
        "bytes",
        &Tokenizer::from_gguf("bytes".as_ref(), vocab::byte_vocab(&["<s>"], &["<added>"])).unwrap().0,
    );
}

#[test]
#[ignore = "needs MOELTEN_VOCABULARIES, a folder of real vocabularies"]
fn eight_megabytes_up_to_a_limit_with_real_vocabularies() {
    for name in ["deepseek-llm", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2"] {
        check(name, &vocab::tokenizer(name));
    }
}
