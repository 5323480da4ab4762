//! Saved sequences (`--prompt-cache`): whatever a file of the right model holds, it is loaded or refused;
//! what is loaded can be written again, and the next token can be computed. What is refused leaves an empty
//! sequence.
#![no_main]

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use moelten_engine::plan::SequenceOptions;
use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::runtime::{Runtime, RuntimeOptions};
use moelten_engine::{KvFormat, Model, ModelOptions, Restored, Sequence};
use moelten_fuzz::{assert_clean, scratch};
use moelten_loader::load::load;
use twox_hash::XxHash3_64;

/// A model with attention windows, and one with recurrent states.
const MODELS: [&str; 2] = ["mistral-window", "qwen3next"];
/// Bytes of the fields before the number of tokens.
const HEAD: usize = 20;

/// Sequences of the models, each with what it saved.
fn open() -> Vec<(Sequence, Vec<u8>)> {
    let folder = scratch();
    let path = folder.path().join("saved");
    let options = RuntimeOptions { threads: Some(1), ..Default::default() };
    let runtime = Runtime::start(options).expect("one thread");
    let sequences = MODELS.map(|name| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden").join(name);
        let loaded = load(&folder).expect("a sound model");
        let model = Model::new(&runtime, loaded.spec, loaded.tensors, &ModelOptions::default());
        let options = SequenceOptions { context: Some(16), kv: KvFormat::F16 };
        let mut sequence =
            Sequence::new(Arc::new(model.expect("a sound model")), options).expect("a small context");
        sequence.append(&[1, 2, 3], &Cancel::new(), &mut (), &mut |_| {}).expect("a small model computes");
        sequence.save_to(&path).expect("a small file");
        let saved = fs::read(&path).expect("it was just written");
        (sequence, saved)
    });
    sequences.into()
}

/// Changes of a saved file: bytes from an offset are replaced, then its end is cut.
#[derive(Debug, arbitrary::Arbitrary)]
struct Change<'a> {
    second: bool,
    offset: u16,
    bytes: &'a [u8],
    cut: Option<u16>,
    sound: bool,
}

fn changed(saved: &[u8], change: &Change<'_>) -> Vec<u8> {
    let mut file = saved[..saved.len() - 8].to_vec();
    let start = if change.sound { HEAD } else { 0 };
    let at = start + usize::from(change.offset) % (file.len() - start);
    for (to, from) in file[at..].iter_mut().zip(change.bytes) {
        *to = *from;
    }
    if let Some(cut) = change.cut {
        file.truncate(usize::from(cut).max(HEAD).min(file.len()));
    }
    let checksum = if change.sound { XxHash3_64::oneshot(&file) } else { 0 };
    file.extend(checksum.to_le_bytes());
    file
}

thread_local! {
    static OPEN: RefCell<Option<Vec<(Sequence, Vec<u8>)>>> = const { RefCell::new(None) };
}

fuzz_target!(|change: Change<'_>| {
    OPEN.with_borrow_mut(|open_models| {
        let folder = scratch();
        let path = &folder.path().join("saved");
        let sequences = open_models.get_or_insert_with(open);
        let (sequence, saved) = &mut sequences[usize::from(change.second)];
        let file = changed(saved, &change);
        fs::write(path, &file).expect("a temporary file");
        match sequence.load_from(path) {
            Ok(Restored::Tokens(count)) => {
                assert_eq!(sequence.tokens().len(), count);
                sequence.save_to(path).expect("a small file");
                assert!(fs::read(path).expect("it was just written") == file, "it is written as it was read");
                let logits = sequence.append(&[1], &Cancel::new(), &mut (), &mut |_| {});
                assert!(logits.is_ok() || count >= 16, "{logits:?}");
            }
            other => {
                if let Err(error) = &other {
                    assert_clean(&error.to_string().replace(&path.display().to_string(), ""));
                }
                assert!(sequence.tokens().is_empty(), "{other:?}");
            }
        }
    });
});
