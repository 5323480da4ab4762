//! `make-example`: every example runs with the command that is shown for it; its bytes follow from name and
//! seed; what is there is not overwritten.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::{args, moelten, run};

/// Names of the examples, and the words after `moelten run NAME` that the list shows for each.
fn listed() -> Vec<(String, String)> {
    let list = args(["make-example"]).fine();
    let runs = list.text().lines().filter_map(|line| line.trim().strip_prefix("moelten run "));
    runs.map(|run| run.split_once(' ').unwrap())
        .map(|(name, rest)| (name.to_owned(), rest.to_owned()))
        .collect()
}

fn make(folder: &Path, words: &[&str]) {
    run(moelten().arg("make-example").args(words).current_dir(folder), b"").fine();
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// Names of the tensors of a folder.
fn tensors(folder: &Path) -> Vec<String> {
    let file = fs::read(folder.join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&file[8..8 + length]).unwrap();
    header.into_keys().filter(|name| name != "__metadata__").collect()
}

/// The words of a command line, of which some are in quotes.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate();
    parts
        .flat_map(|(at, part)| match at % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        })
        .collect()
}

#[test]
fn every_example_runs_with_the_command_that_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let examples = listed();
    assert_eq!(examples.len(), 16);
    // Models of images are in `images`: they have no text, and no file.
    for (name, rest) in examples.into_iter().filter(|(_, rest)| !rest.contains("--image")) {
        make(dir.path(), &[&name]);
        let mut command = moelten();
        command.current_dir(dir.path()).arg("run").arg(&name).args(words(&rest)).args(["--max-tokens", "6"]);
        let answer = run(&mut command, b"").fine();
        assert!(!answer.err.contains("unused tensors") && !answer.err.contains("unknown"), "{answer:?}");
        // The file that it becomes answers the same.
        let mut quantize = moelten();
        let file = format!("{name}.gguf");
        run(quantize.current_dir(dir.path()).args(["quantize", &name, &file, "--type", "bf16"]), b"").fine();
        let mut again = moelten();
        again.current_dir(dir.path()).arg("run").arg(&file).args(words(&rest));
        let greedy = ["--max-tokens", "6", "--temp", "0"];
        let of_file = run(again.args(greedy), b"").fine();
        let of_folder = run(command.args(["--temp", "0"]), b"").fine();
        // Drawn tokens may end the answer at once, so only this text is certain.
        assert!(!of_folder.text().is_empty(), "{name}: {of_folder:?}");
        assert_eq!(of_file.text(), of_folder.text(), "{name}");
    }
}

#[test]
fn bytes_follow_from_name_and_seed() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), &["switch"]);
    make(dir.path(), &["switch", "--out", "again"]);
    make(dir.path(), &["switch", "--out", "other", "--seed", "2"]);
    let [first, again, other] = ["switch", "again", "other"].map(|name| files(&dir.path().join(name)));
    assert!(first == again);
    let names: Vec<&str> = first.keys().map(String::as_str).collect();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
    for name in names {
        assert_eq!(first[name] == other[name], name != "model.safetensors", "{name}");
    }
}

#[test]
fn fields_can_be_changed_and_configurations_given() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), &["switch", "--set", "num_experts=3", "--set", "feed_forward_proj=gated-gelu"]);
    let about = run(moelten().current_dir(dir.path()).args(["inspect", "switch"]), b"").fine();
    assert!(about.text().contains("3 experts"), "{about:?}");
    // The configuration of a folder is one for another.
    make(dir.path(), &["switch/config.json", "--out", "same"]);
    make(dir.path(), &["switch/config.json"]);
    assert!(files(&dir.path().join("same")) == files(&dir.path().join("config")));
}

#[test]
fn what_is_there_stays_and_nonsense_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |words: &[&str]| {
        let mut command = moelten();
        run(command.current_dir(dir.path()).arg("make-example").args(words), b"").refused(2, "E-ARG-01").err
    };
    make(dir.path(), &["t5"]);
    let before = files(&dir.path().join("t5"));
    let there = refused(&["t5", "--seed", "3"]);
    assert!(there.contains("t5 is not empty") && there.contains("--out"), "{there}");
    assert!(files(&dir.path().join("t5")) == before);
    let unknown = refused(&["gpt-5"]);
    assert!(unknown.contains("no example gpt-5") && unknown.contains("nllb-moe"), "{unknown}");
    let setting = args(["make-example", "t5", "--out", "x", "--set", "num_layers"]);
    assert!(setting.code == Some(2) && setting.err.contains("FIELD=VALUE"), "{setting:?}");
    let small = refused(&["t5", "--out", "x", "--set", "vocab_size=20"]);
    assert!(small.contains("at least 136 tokens"), "{small}");
    // What an interrupted run left is written anew.
    fs::create_dir(dir.path().join("left")).unwrap();
    fs::write(dir.path().join("left/model.safetensors.partial"), b"half").unwrap();
    fs::write(dir.path().join("left/tokenizer.json"), b"{}").unwrap();
    make(dir.path(), &["t5", "--out", "left"]);
    assert!(files(&dir.path().join("left")) == before);
}

/// Small configurations of all families become folders that open, or are refused with a reason.
#[test]
fn the_configuration_of_every_family_makes_a_folder_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden");
    let (mut opened, mut refused) = (0, Vec::new());
    for entry in fs::read_dir(goldens).unwrap().map(Result::unwrap) {
        let config = entry.path().join("config.json");
        if !config.is_file() {
            continue;
        }
        let name = entry.file_name().into_string().unwrap();
        let mut command = moelten();
        command.current_dir(dir.path()).arg("make-example").arg(&config).args(["--out", &name]);
        let made = run(&mut command, b"");
        if made.code != Some(0) {
            let small = made.code == Some(2) && made.err.contains("at least 136 tokens");
            assert!(small || made.code == Some(4), "{name}: {made:?}");
            refused.extend((!small).then_some(name));
            continue;
        }
        run(moelten().current_dir(dir.path()).args(["inspect", &name]), b"").fine();
        // Their families know other names too, and transformers only these.
        if ["mixtral", "phimoe"].contains(&name.as_str()) {
            assert_eq!(tensors(&dir.path().join(&name)), tensors(&entry.path()), "{name}");
        }
        opened += 1;
    }
    refused.sort();
    println!("{opened} open, refused: {refused:?}");
    assert!(opened >= 40 && refused.len() <= 4, "{opened}, {refused:?}");
}
