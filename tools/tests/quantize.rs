//! `moelten quantize` as people use it: layouts there and back, what it refuses, and what `inspect` says of the result.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

mod common;

use std::path::Path;

use common::{args, builtin};

fn quantize(source: &Path, target: &Path, options: &[&str]) -> common::Outcome {
    let paths = [source, target].map(|path| path.to_str().unwrap());
    args([&["quantize"], &paths[..], options].concat())
}

#[test]
fn packed_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let (packed, back) = (dir.path().join("packed.gguf"), dir.path().join("back.gguf"));
    let outcome = quantize(&builtin(), &packed, &["--layout", "packed"]).fine();
    assert!(outcome.err.contains("packed, types as they were"), "{}", outcome.err);
    quantize(&packed, &back, &["--layout", "standard"]).fine();
    assert!(std::fs::read(&back).unwrap() == std::fs::read(builtin()).unwrap(), "the way back is exact");

    let about = args(["inspect", packed.to_str().unwrap()]).fine();
    let text = about.text();
    for line in [
        "packed (version 1): 48 records of 262.1 kB, 12.6 MB, one for each expert",
        "blk.5.ffn_expert.0 to 7",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(!args(["inspect", back.to_str().unwrap()]).fine().text().contains("packed"));

    let answer = |model: &Path, options: &[&str]| {
        let run = ["run", model.to_str().unwrap(), "--prompt", "Once upon a time", "--no-template"];
        args([&run, &common::BRIEF[..], options].concat()).fine().out
    };
    let expected = answer(&builtin(), &[]);
    assert!(!expected.is_empty());
    assert_eq!(answer(&packed, &[]), expected);
    assert_eq!(answer(&packed, &["--repack"]), expected);
}

#[test]
fn types_that_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (packed, target) = (dir.path().join("packed.gguf"), dir.path().join("target.gguf"));
    quantize(&builtin(), &packed, &["--layout", "packed"]).fine();
    // The blocks of a packed file are found although its tensors are bytes.
    let again = quantize(&packed, &target, &["--type", "q8_0"]).refused(2, "E-ARG-01");
    assert!(again.err.contains("--allow-requantize"), "{}", again.err);
    assert!(!target.exists());
    quantize(&packed, &target, &["--type", "f32", "--layout", "packed"]).fine();
    assert!(args(["inspect", target.to_str().unwrap()]).fine().text().contains("packed (version 1)"));
}

#[test]
fn folders_need_a_type() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden/mixtral");
    let target = dir.path().join("target.gguf");
    let outcome = quantize(&folder, &target, &["--layout", "packed"]).refused(2, "E-ARG-01");
    assert!(outcome.err.contains("--type"), "{}", outcome.err);
    quantize(&folder, &target, &["--layout", "packed", "--type", "q8_0"]).fine();
    assert!(args(["inspect", target.to_str().unwrap()]).fine().text().contains("packed (version 1)"));
}

#[test]
fn models_without_experts_are_not_packed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden/llama");
    let target = dir.path().join("target.gguf");
    quantize(&folder, &target, &["--layout", "packed", "--type", "q8_0"]).refused(4, "E-SUP-01");
    assert!(!target.exists());
}

#[test]
fn damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (packed, target) = (dir.path().join("packed.gguf"), dir.path().join("target.gguf"));
    quantize(&builtin(), &packed, &["--layout", "packed"]).fine();
    let mut bytes = std::fs::read(&packed).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&packed, bytes).unwrap();
    let outcome = quantize(&packed, &target, &[]).refused(3, "E-FILE-02");
    assert!(
        outcome.err.contains("blk.5.ffn_expert.7") && outcome.err.contains("checksum"),
        "{}",
        outcome.err
    );
    assert!(!target.exists());
}
