//! The Jinja interpreter: any template ends with a text or an error, the same each time, within the
//! allowances of its meter, and templates whose answers were recorded from Jinja2 keep them.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use moelten_fuzz::{NOW, mutate, recorded};
use moelten_loader::fuzzing::render;

/// Bytes that one rendering may make.
const MADE_BYTES_MAX: usize = 32 << 20;

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let recorded = recorded();
    mutate(data, size, max_size, seed, &[&recorded.sources, &recorded.published])
});

fuzz_target!(|source: &str| {
    let recorded = recorded();
    if let Some(renderings) = recorded.renderings.get(source) {
        for (variables, expected) in recorded.conversations.iter().zip(renderings) {
            assert_eq!(&render(source, variables, NOW).ok(), expected, "{source}");
        }
        return;
    }
    let found = render(source, &recorded.variables, NOW);
    if let Some(expected) = recorded.answers.get(source) {
        assert_eq!(&found.ok(), expected, "{source}");
        return;
    }
    if let Ok(text) = &found {
        assert!(text.len() <= MADE_BYTES_MAX);
    }
    assert_eq!(found, render(source, &recorded.variables, NOW), "{source}");
});
