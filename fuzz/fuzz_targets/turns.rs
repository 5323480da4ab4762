//! The tokens that end an answer, found in a chat template: any template gives few of them, each of the
//! vocabulary and a control token, none of them both an end and a part of an answer.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use moelten_fuzz::{byte_tokenizer, mutate, recorded};
use moelten_loader::fuzzing::turn_tokens;
use moelten_loader::text::chat::ChatTemplate;
use moelten_loader::text::tokenizer::{TokenKind, Tokenizer};

static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate(data, size, max_size, seed, &[&recorded().published])
});

fuzz_target!(|source: &str| {
    let Ok(template) = ChatTemplate::new("fuzz", source) else { return };
    let tokenizer = TOKENIZER.get_or_init(byte_tokenizer);
    let (ends, within) = turn_tokens(&template, tokenizer);
    assert!(ends.len() <= 32 && within.len() <= 64, "{ends:?} {within:?}");
    for ids in [&ends, &within] {
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
        assert!(ids.iter().all(|id| tokenizer.kind(*id) == Some(TokenKind::Control)), "{ids:?}");
    }
    assert!(ends.iter().all(|id| !within.contains(id)), "{ends:?} {within:?}");
});
