//! Sequences in files: a saved sequence continues with the same bits, and every fault of a file is detected.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use moelten_engine::EngineError;
use moelten_engine::KvFormat;
use moelten_engine::Model;
use moelten_engine::Restored;
use moelten_engine::Sequence;
use moelten_engine::plan::SequenceOptions;
use moelten_engine::runtime::cancel::Cancel;
use moelten_loader::error::LoadError;
use moelten_quant::Format;

use crate::common::wide::{converted, wide};
use crate::common::{FAMILIES, How, folder, golden, model, session};

fn bits(sequence: &Sequence) -> Vec<u32> {
    sequence.logits().iter().map(|logit| logit.to_bits()).collect()
}

fn append(sequence: &mut Sequence, ids: &[u32]) {
    sequence.append(ids, &Cancel::new(), &mut (), &mut |_| {}).unwrap();
}

/// A model that is opened again, as in another process.
fn check(name: &str, path: &Path, ids: &[u32], kv: KvFormat, file: &Path) {
    let (before, after) = ids.split_at(ids.len() / 2);
    let mut whole = session(&model(path, How::default()), kv);
    append(&mut whole, before);
    whole.save_to(file).unwrap();
    append(&mut whole, after);
    let mut again = session(&model(path, How { threads: Some(1), ..Default::default() }), kv);
    append(&mut again, &ids[..3]);
    assert_eq!(again.load_from(file).unwrap(), Restored::Tokens(before.len()), "{name}");
    assert_eq!(again.tokens(), before);
    append(&mut again, after);
    assert!(bits(&again) == bits(&whole), "{name}, {}", kv.name());
    // A prefix of the saved text can be used too.
    let kept = again.keep_prefix(&ids[..5]);
    append(&mut again, &ids[kept..]);
    assert!(bits(&again) == bits(&whole), "{name}, {}: from {kept} on", kv.name());
}

#[test]
fn a_saved_sequence_continues_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sequence");
    for family in FAMILIES {
        for kv in [KvFormat::F16, KvFormat::F32] {
            check(family, &folder(family), &golden(family).ids, kv, &file);
        }
    }
    let quantised = dir.path().join("mixtral.gguf");
    converted(&wide("mixtral", dir.path()), &[Format::Q4K], &quantised);
    check("mixtral Q4_K", &quantised, &golden("mixtral").ids, KvFormat::F16, &file);
}

/// A context of several windows, of which only the last one is saved.
#[test]
fn a_window_that_has_moved_is_saved() {
    let dir = tempfile::tempdir().unwrap();
    let (file, path) = (dir.path().join("sequence"), folder("mistral-window"));
    let ids: Vec<u32> = golden("mistral-window").ids.into_iter().cycle().take(9000).collect();
    let open = || {
        let options = SequenceOptions { context: Some(10_000), kv: KvFormat::F16 };
        Sequence::new(model(&path, How { threads: Some(2), ..Default::default() }), options).unwrap()
    };
    let mut whole = open();
    append(&mut whole, &ids[..8500]);
    whole.save_to(&file).unwrap();
    let (states, _) = whole.bytes();
    assert!(fs::metadata(&file).unwrap().len() < states / 10, "most positions are outside the window");
    append(&mut whole, &ids[8500..]);
    let mut again = open();
    assert_eq!(again.load_from(&file).unwrap(), Restored::Tokens(8500));
    append(&mut again, &ids[8500..]);
    assert!(bits(&again) == bits(&whole));
    // Positions outside the window must be computed again, and give the same bits.
    let kept = again.keep_prefix(&ids[..4000]);
    assert_eq!(kept, 0, "nothing before the window was saved");
    append(&mut again, &ids);
    assert!(bits(&again) == bits(&whole));
}

fn refused(sequence: &mut Sequence, file: &Path) -> LoadError {
    let error = sequence.load_from(file).unwrap_err();
    assert!(sequence.tokens().is_empty(), "{error}");
    match error {
        EngineError::Load(error) => error,
        other => panic!("{other}"),
    }
}

#[test]
fn every_fault_of_a_file_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let (file, ids) = (dir.path().join("sequence"), golden("qwen3moe").ids);
    let of = |family: &str| -> Arc<Model> { model(&folder(family), How::default()) };
    let qwen = of("qwen3moe");
    let mut sequence = session(&qwen, KvFormat::F16);
    assert_eq!(sequence.load_from(&file).unwrap(), Restored::Absent);
    append(&mut sequence, &ids);
    let expected = bits(&sequence);
    sequence.save_to(&file).unwrap();
    let sound = fs::read(&file).unwrap();
    for (other, kv) in [("qwen3moe", KvFormat::F32), ("mixtral", KvFormat::F16)] {
        let mut other = session(&of(other), kv);
        assert_eq!(other.load_from(&file).unwrap(), Restored::OtherModel);
        assert!(other.tokens().is_empty());
    }
    let small = SequenceOptions { context: Some(8), kv: KvFormat::F16 };
    let mut small = Sequence::new(Arc::clone(&qwen), small).unwrap();
    assert_eq!(small.load_from(&file).unwrap(), Restored::TooLong(ids.len()));
    // Truncated at any byte, changed at any byte, or not such a file at all.
    for len in [0, 7, 8, 11, 19, 20, 27, 30, sound.len() / 2, sound.len() - 9, sound.len() - 1] {
        fs::write(&file, &sound[..len]).unwrap();
        refused(&mut sequence, &file);
    }
    let places = [0, 8, 20, 28, 29, 40, sound.len() / 3, sound.len() / 2, sound.len() - 8, sound.len() - 1];
    for at in places {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x40;
        fs::write(&file, &bytes).unwrap();
        match sequence.load_from(&file) {
            Err(_) => {}
            Ok(Restored::TooLong(_)) if (20..28).contains(&at) => {}
            other => panic!("byte {at}: {other:?}"),
        }
        assert!(sequence.tokens().is_empty(), "byte {at}");
    }
    fs::write(&file, "a letter, kept in the wrong place").unwrap();
    assert!(matches!(refused(&mut sequence, &file), LoadError::Malformed { .. }));
    fs::write(&file, &sound).unwrap();
    assert_eq!(sequence.load_from(&file).unwrap(), Restored::Tokens(ids.len()));
    sequence.keep_prefix(&ids[..ids.len() - 1]);
    append(&mut sequence, &ids[ids.len() - 1..]);
    assert!(bits(&sequence) == expected, "after all refusals");
}
