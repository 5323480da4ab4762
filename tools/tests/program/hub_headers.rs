//! `fit` of models on a hub, the fake one on this machine: how much is read of their headers, and that the
//! verdict is that of the whole file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use moelten_loader::container::gguf::{Array, Value};
use serde_json::Value as Json;

use crate::common::{Outcome, mini, moelten, run};
use crate::fake_hub::{FakeFile, FakeHub};

/// Tokens of a large vocabulary: those of the small model, and words of two to four letters.
const TOKENS: usize = 150_000;

/// Files on a hub, and the same on this machine.
struct Case {
    fake: FakeHub,
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl Case {
    fn of(paths: &[PathBuf], folder: tempfile::TempDir) -> Self {
        let file = |path: &PathBuf| {
            let sum = Command::new("sha256sum").arg(path).output().expect("coreutils");
            let checksum = String::from_utf8(sum.stdout).unwrap()[..64].to_owned();
            let path_there = path.file_name().unwrap().to_str().unwrap().to_owned();
            FakeFile { path: path_there, bytes: Arc::new(fs::read(path).unwrap()), checksum }
        };
        let fake = FakeHub::start(paths.iter().map(file).collect());
        Self { fake, folder, path: paths[0].clone() }
    }

    /// A model of 403 tensors with these keys.
    fn with(keys: &mini::Keys) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m-Q8_0.gguf");
        let keys = mini::with(keys.clone(), "llama.block_count", Value::U32(40));
        // As converters do it, the number of layers is among the first.
        let (model, vocabulary): (mini::Keys, mini::Keys) = keys
            .into_iter()
            .partition(|(key, _)| !key.starts_with("tokenizer.") && !key.starts_with("late."));
        let keys = [model, vocabulary].concat();
        let layer = |name: &str, layer: usize| name.replace("blk.0.", &format!("blk.{layer}."));
        let (blocks, top): (Vec<_>, Vec<_>) =
            mini::tensors().into_iter().partition(|tensor| tensor.0.starts_with("blk.0."));
        let of_layer = |index| {
            blocks
                .iter()
                .map(move |(name, shape, values)| (layer(name, index), shape.clone(), values.clone()))
        };
        let all: Vec<_> = top.iter().cloned().chain((0..40).flat_map(of_layer)).collect();
        assert!(all.len() >= 400);
        mini::write(&path, &keys, &all);
        Self::of(&[path], folder)
    }

    fn fit(&self, model: &str) -> Outcome {
        let mut command = moelten();
        command.args(["fit", model, "--ctx", "64", "--json", "--ram", "1G"]).env_remove("HF_HUB_OFFLINE");
        command.env("HF_ENDPOINT", self.fake.endpoint()).env("HF_HOME", self.folder.path().join("hf"));
        run(&mut command, b"")
    }

    /// The bytes of all parts that were asked for, and their number.
    fn asked(&self) -> (u64, usize) {
        let ranges: Vec<u64> =
            self.fake.seen().iter().filter(|seen| seen.path.contains("/cdn/")).map(bytes).collect();
        (ranges.iter().sum(), ranges.len())
    }

    /// Whether the verdict on the headers is that on the file; both of them.
    fn agrees(&self) -> (Json, Json) {
        let [remote, local] = ["org/model", self.path.to_str().unwrap()].map(|model| {
            let outcome = self.fit(model).fine();
            let json: Json = serde_json::from_str(outcome.text()).unwrap();
            json
        });
        for key in ["verdict", "chat_template", "context", "token"] {
            assert_eq!(remote[key], local[key], "{key}");
        }
        for key in ["dense_bytes", "kv_bytes", "buffer_bytes", "expert_bytes"] {
            assert_eq!(remote["memory"][key], local["memory"][key], "{key}");
        }
        (remote, local)
    }
}

/// The length of a part that was asked for.
fn bytes(seen: &crate::fake_hub::Seen) -> u64 {
    let range = seen.range.as_deref().and_then(|range| range.strip_prefix("bytes=")).unwrap();
    let (from, to) = range.split_once('-').unwrap();
    to.parse::<u64>().unwrap() + 1 - from.parse::<u64>().unwrap()
}

/// The keys of a sound file with a large byte-level vocabulary and its merges.
fn large_vocabulary() -> mini::Keys {
    // Letters that no template uses: the embedding has no rows for the new tokens.
    let letters = || 'À'..='Ù';
    let mut words: Vec<String> = letters().map(String::from).collect();
    let (mut tokens, mut merges) = (mini::tokens(), Vec::new());
    while tokens.len() < TOKENS {
        let longer = words.iter().flat_map(|word| letters().map(move |letter| (word.clone(), letter)));
        let longer: Vec<_> = longer.collect();
        for (word, letter) in longer.iter().take(TOKENS - tokens.len()) {
            merges.push(format!("{word} {letter}"));
            tokens.push(format!("{word}{letter}"));
        }
        words = longer.into_iter().map(|(word, letter)| format!("{word}{letter}")).collect();
    }
    let types = (0..tokens.len()).map(|id| if (257..261).contains(&id) { 3 } else { 1 }).collect();
    let list = |key: &str, texts: &[String]| match key {
        "tokenizer.ggml.tokens" => Some(Value::Array(Array::Str(texts.to_vec()))),
        _ => None,
    };
    let mut keys = mini::keys();
    for (key, value) in &mut keys {
        match key.as_str() {
            "tokenizer.ggml.merges" => *value = Value::Array(Array::Str(merges.clone())),
            "tokenizer.ggml.token_type" => *value = Value::Array(Array::I32(Vec::clone(&types))),
            key => *value = list(key, &tokens).unwrap_or_else(|| value.clone()),
        }
    }
    keys
}

/// Over a link of 50 ms, a verdict takes one request for a small header and three in a row for a large one.
#[test]
fn fit_of_many_tensors_takes_few_round_trips() {
    let padded = |bytes: usize| {
        mini::with(mini::keys(), "late.texts", Value::Array(Array::Str(vec!["x".repeat(92); bytes / 100])))
    };
    for (keys, reads) in [(padded(50_000), 1), (padded(5_000_000), 17), (large_vocabulary(), 17)] {
        let case = Case::with(&keys);
        case.fake.faults().delay = Duration::from_millis(50);
        let outcome = case.fit("org/model").fine();
        let json: Json = serde_json::from_str(outcome.text()).unwrap();
        assert_eq!(json["verdict"], "ram", "{outcome:?}");
        let ((bytes, parts), seen) = (case.asked(), case.fake.seen());
        assert_eq!(parts, reads, "{seen:?}");
        assert!(bytes < 2_000_000, "{bytes}");
        // The listing, the address of the file, and the parts: those in the middle are asked for at once.
        assert_eq!((case.fake.requests_of("/api/"), seen.len()), (1, 2 + reads), "{seen:?}");
        println!("{bytes} bytes in {parts} parts, verdict after {:?}", outcome.took);
    }
}

#[test]
fn a_large_vocabulary_changes_no_verdict() {
    let case = Case::with(&large_vocabulary());
    let (remote, local) = case.agrees();
    assert!(case.asked().0 < 2_000_000);
    // What the vocabulary takes is estimated.
    let memory = |json: &Json, key: &str| json["memory"][key].as_u64().unwrap();
    let estimated = memory(&remote, "program_bytes") + memory(&remote, "vocabulary_bytes");
    let program = memory(&local, "program_bytes");
    println!("estimated {estimated}, is {program}");
    assert!(estimated * 5 > program * 4 && estimated * 2 < program * 3, "{estimated} {program}");
    // The text says what was not looked at.
    let said = case.fit("org/model").fine().err;
    assert!(said.contains("of the vocabulary were not, and are not checked"), "{said}");
}

#[test]
fn a_header_with_keys_in_the_vocabulary_is_read_as_a_whole() {
    let mut keys = large_vocabulary();
    let at = keys.iter().position(|(key, _)| key == "tokenizer.ggml.token_type").unwrap();
    keys.insert(at, ("tokenizer.of.something".to_owned(), Value::U32(2)));
    let case = Case::with(&keys);
    let said = case.fit("org/model").fine().err;
    assert!(said.contains("so all before them is read"), "{said}");
    case.agrees();
    // A file that was cut is the same error as on this machine.
    let cut = fs::read(&case.path).unwrap();
    fs::write(&case.path, &cut[..cut.len() - 100]).unwrap();
    let cut = Case::of(std::slice::from_ref(&case.path), tempfile::tempdir().unwrap());
    for model in ["org/model", case.path.to_str().unwrap()] {
        let outcome = cut.fit(model);
        let error: Json = serde_json::from_str(outcome.text()).unwrap();
        let words = error["error"]["message"].as_str().unwrap();
        assert!(outcome.code == Some(3) && words.contains("but the file has"), "{words}");
    }
}

#[test]
fn a_folder_is_judged_without_its_vocabulary() {
    let folder = tempfile::tempdir().unwrap();
    let model = mini::folder(&folder.path().join("model"));
    let tokenizer = fs::read(model.join("tokenizer.json")).unwrap();
    // Blanks at the end mean nothing.
    fs::write(model.join("tokenizer.json"), [&tokenizer[..], &vec![b' '; 3 << 20]].concat()).unwrap();
    let files: Vec<_> = fs::read_dir(&model).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut case = Case::of(&files, folder);
    case.path = model;
    let (remote, _) = case.agrees();
    assert!(remote["memory"]["vocabulary_bytes"].as_u64() > Some(3 << 20));
    assert_eq!(case.fake.requests_of("tokenizer.json"), 0);
    assert!(Path::new(&case.path).is_dir());
}
