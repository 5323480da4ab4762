//! The same work gives the same bytes: 100 runs of each of twelve commands, over threads, budgets, ways of
//! reading experts, prefetching and instruction sets. What they give is compared with hashes in the
//! repository, so that every machine that runs the tests also compares itself with the machines before it.
//!
//! `MOELTEN_RECORD_HASHES=1` writes the hashes anew; docs/trust.md says when that is right.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use moelten_quant::Isa;
use serde_json::Value;

use crate::common::{Outcome, args, builtin, mini, moelten, run};

const RUNS: usize = 100;
/// Hashes by what was hashed, then by instruction set.
type Hashes = BTreeMap<String, BTreeMap<String, String>>;
/// The name under which results stand that are the same on every instruction set.
const EVERY: &str = "every";

/// What the commands work on.
struct Inputs {
    folder: tempfile::TempDir,
    model: PathBuf,
    source: PathBuf,
    text: PathBuf,
    trace: PathBuf,
}

impl Inputs {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (model, source) = (path("mini.gguf"), mini::folder(&path("mini")));
        mini::write(&model, &mini::keys(), &mini::tensors());
        let (text, trace) = (path("text.txt"), path("routing.trace"));
        let lines = (0..40)
            .map(|day| format!("On day {day} the {} saw the sea and 日本.\n", ["fox", "king"][day % 2]));
        std::fs::write(&text, lines.collect::<String>()).unwrap();
        args([
            "bench",
            "--prefill",
            "20",
            "--decode",
            "8",
            "--repeat",
            "1",
            "--trace",
            trace.to_str().unwrap(),
        ])
        .fine();
        Self { folder, model, source, text, trace }
    }
}

/// One of the ways in which the same work can be done.
struct Way {
    threads: String,
    ram: &'static str,
    io: &'static str,
    prefetch: &'static str,
    isa: Isa,
}

impl Way {
    /// The ways of all runs: every digit of the number counts for something else.
    fn all() -> impl Iterator<Item = Self> {
        let tiers = Isa::available();
        (0..RUNS).map(move |number| Self {
            threads: (number % 4 + 1).to_string(),
            ram: ["auto", "min", "300M"][number / 4 % 3],
            io: ["auto", "mmap", "direct"][number / 12 % 3],
            prefetch: ["auto", "on", "off"][number / 36 % 3],
            isa: tiers[(number + number / 4) % tiers.len()],
        })
    }

    fn command(&self, name: &str) -> Command {
        let mut command = moelten();
        command.env("MOELTEN_ISA", self.isa.name()).env("MOELTEN_THREADS", &self.threads).arg(name);
        command
    }

    /// A command that computes with a model.
    fn computing(&self, name: &str, model: &Path, options: &[&str]) -> Command {
        let mut command = self.command(name);
        command.arg(model).args(options);
        command.args(["--ram", self.ram, "--io", self.io, "--prefetch", self.prefetch]);
        command
    }
}

/// A command, and the bytes that have to be the same.
struct Case {
    name: &'static str,
    /// Whether whole models compute in it, which have equal bits within an instruction set only.
    computes: bool,
    result: fn(&Inputs, &Way, &Path) -> Vec<u8>,
}

fn done(mut command: Command, stdin: &str) -> Outcome {
    run(&mut command, stdin.as_bytes()).fine()
}

const PROMPT: [&str; 4] = ["-p", "Once upon a time", "--max-tokens", "6"];

const CASES: [Case; 12] = [
    Case { name: "run at temperature 0", computes: true, result: run_greedy },
    Case { name: "run with a seed", computes: true, result: run_sampled },
    Case { name: "run with a prompt cache", computes: true, result: run_cached },
    Case { name: "chat, and the saved conversation", computes: true, result: chat },
    Case { name: "logits", computes: true, result: logits },
    Case { name: "ppl", computes: true, result: ppl },
    Case { name: "imatrix", computes: true, result: imatrix },
    Case { name: "quantize a file to q4_0", computes: false, result: quantize },
    Case { name: "quantize a folder to q8_0", computes: false, result: convert },
    Case { name: "quantize to the packed layout", computes: false, result: pack },
    Case { name: "verify against the source", computes: false, result: verify },
    Case { name: "inspect and replay", computes: false, result: inspect },
];

fn run_greedy(inputs: &Inputs, way: &Way, _: &Path) -> Vec<u8> {
    let mut command = way.computing("run", &inputs.model, &PROMPT);
    command.args(["--temp", "0", "--json"]);
    answer_of(&done(command, ""))
}

fn run_sampled(inputs: &Inputs, way: &Way, _: &Path) -> Vec<u8> {
    let mut command = way.computing("run", &inputs.model, &PROMPT);
    command.args(["--temp", "0.9", "--seed", "7", "--json"]);
    answer_of(&done(command, ""))
}

/// The second run begins with what the first one kept.
fn run_cached(inputs: &Inputs, way: &Way, to: &Path) -> Vec<u8> {
    let file = to.join("prompt.cache");
    let runs = ["Once upon a time", "Once upon a time there was"].map(|prompt| {
        let mut command =
            way.computing("run", &inputs.model, &["-p", prompt, "--max-tokens", "4", "--temp", "0"]);
        command.args(["--json", "--prompt-cache"]).arg(&file);
        answer_of(&done(command, ""))
    });
    runs.concat()
}

/// Tokens and text of an answer.
fn answer_of(outcome: &Outcome) -> Vec<u8> {
    let object: Value = serde_json::from_slice(&outcome.out).unwrap();
    assert!(object["ids"].as_array().is_some_and(|ids| !ids.is_empty()), "{object}");
    format!("{} {} {}", object["answer"], object["ids"], object["reason"]).into_bytes()
}

fn chat(inputs: &Inputs, way: &Way, to: &Path) -> Vec<u8> {
    let file = to.join("saved.json");
    let command = way.computing("chat", &inputs.model, &["--seed", "3", "--max-tokens", "4"]);
    let mut bytes = done(command, &format!("hello\nand then?\n/save {}\n", file.display())).out;
    bytes.extend(std::fs::read(file).unwrap());
    bytes
}

fn logits(inputs: &Inputs, way: &Way, to: &Path) -> Vec<u8> {
    let file = to.join("logits.safetensors");
    let command = way.computing("logits", &inputs.model, &["--ids", "5,7,9,200,31,116,104", "--out"]);
    done(with_path_after(command, "--out", &file), "");
    std::fs::read(file).unwrap()
}

fn ppl(inputs: &Inputs, way: &Way, _: &Path) -> Vec<u8> {
    let command = way.computing("ppl", &inputs.model, &["--window", "64", "--json", "--text"]);
    let mut object: Value =
        serde_json::from_slice(&done(with_path_after(command, "--text", &inputs.text), "").out).unwrap();
    object.as_object_mut().unwrap().remove("tokens_per_s").expect("a speed");
    object.to_string().into_bytes()
}

fn imatrix(inputs: &Inputs, way: &Way, to: &Path) -> Vec<u8> {
    let file = to.join("m.imatrix.gguf");
    let command = way.computing("imatrix", &inputs.model, &["--ctx", "128", "--text", "--out"]);
    let command = with_path_after(command, "--text", &inputs.text);
    done(with_path_after(command, "--out", &file), "");
    std::fs::read(file).unwrap()
}

/// The command with a path after an option.
fn with_path_after(command: Command, option: &str, path: &Path) -> Command {
    let mut with = moelten();
    for (name, value) in command.get_envs() {
        with.env(name, value.unwrap_or_default());
    }
    for arg in command.get_args() {
        with.arg(arg);
        if arg == option {
            with.arg(path);
        }
    }
    with
}

/// What `moelten quantize` writes.
fn written(way: &Way, source: &Path, target: &Path, options: &[&str]) -> Vec<u8> {
    let mut command = way.command("quantize");
    command.arg(source).arg(target).args(options).arg("--force");
    done(command, "");
    std::fs::read(target).unwrap()
}

fn quantize(inputs: &Inputs, way: &Way, to: &Path) -> Vec<u8> {
    written(way, &inputs.model, &to.join("q4_0.gguf"), &["--type", "q4_0"])
}

fn convert(inputs: &Inputs, way: &Way, to: &Path) -> Vec<u8> {
    written(way, &inputs.source, &to.join("q8_0.gguf"), &["--type", "q8_0"])
}

fn pack(inputs: &Inputs, way: &Way, to: &Path) -> Vec<u8> {
    written(way, &inputs.source, &to.join("packed.gguf"), &["--type", "q4_0", "--layout", "packed"])
}

fn verify(inputs: &Inputs, way: &Way, to: &Path) -> Vec<u8> {
    let file = to.join("q4_0.gguf");
    written(way, &inputs.source, &file, &["--type", "q4_0"]);
    let mut command = way.command("verify");
    command.arg(&file).arg("--source").arg(&inputs.source).arg("--json");
    done(command, "").out
}

fn inspect(inputs: &Inputs, way: &Way, _: &Path) -> Vec<u8> {
    let mut command = way.command("inspect");
    command.arg(&inputs.source);
    let shown = done(command, "").text().replace(&*inputs.folder.path().to_string_lossy(), "");
    let mut command = way.command("replay");
    command.arg(&inputs.trace).arg("--json");
    shown.into_bytes().into_iter().chain(done(command, "").out).collect()
}

fn hash(bytes: &[u8]) -> String {
    let mut hasher = twox_hash::XxHash3_64::new();
    hasher.write(bytes);
    format!("{:016x}", hasher.finish())
}

/// The instruction set whose results stand in the file: those with the same float arithmetic share them.
fn recorded_as(isa: Isa) -> &'static str {
    match isa {
        Isa::AvxVnni => Isa::Avx2.name(),
        Isa::Amx => Isa::Avx512Vnni.name(),
        other => other.name(),
    }
}

fn record_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hashes.json")
}

/// Compares hashes with those of the file, or writes them there.
fn compare(found: &Hashes) {
    static FILE: Mutex<()> = Mutex::new(());
    let _one_at_a_time = FILE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let text = std::fs::read_to_string(record_file()).unwrap_or_default();
    let mut recorded: Hashes = serde_json::from_str(&text).unwrap_or_default();
    if std::env::var_os("MOELTEN_RECORD_HASHES").is_some() {
        for (name, hashes) in found {
            recorded.entry(name.clone()).or_default().extend(hashes.clone());
        }
        let text = serde_json::to_string_pretty(&recorded).unwrap();
        std::fs::write(record_file(), text + "\n").unwrap();
        return;
    }
    let mut wrong = Vec::new();
    for (name, hashes) in found {
        for (isa, hash) in hashes {
            // Exponentials come from the system's library, which on other processors is another one.
            let known = recorded.get(name).and_then(|known| known.get(isa));
            match known {
                Some(known) if known == hash => {}
                Some(known) if cfg!(target_arch = "x86_64") || isa == EVERY => {
                    wrong.push(format!("{name}, {isa}: {hash}, recorded {known}"));
                }
                Some(known) => println!("{name}, {isa}: {hash} here, {known} on x86-64"),
                None if cfg!(target_arch = "x86_64") || isa == EVERY => {
                    wrong.push(format!("{name}, {isa}: {hash} is not recorded"));
                }
                None => println!("{name}, {isa}: {hash}, not recorded"),
            }
        }
    }
    assert!(wrong.is_empty(), "not as on other machines:\n{}", wrong.join("\n"));
}

/// Runs a case in all ways and gives its hashes.
fn check(case: &Case) -> Hashes {
    static INPUTS: OnceLock<Inputs> = OnceLock::new();
    let inputs = INPUTS.get_or_init(Inputs::new);
    let mut found: BTreeMap<String, (String, Vec<u8>)> = BTreeMap::new();
    for (number, way) in Way::all().enumerate() {
        let to = tempfile::tempdir().unwrap();
        let bytes = (case.result)(inputs, &way, to.path());
        assert!(!bytes.is_empty());
        let isa = if case.computes { recorded_as(way.isa) } else { EVERY };
        let hash = hash(&bytes);
        let (first, before) = found.entry(isa.to_owned()).or_insert_with(|| (hash.clone(), bytes.clone()));
        if *first != hash {
            let at = before.iter().zip(&bytes).position(|(a, b)| a != b);
            let Way { threads, ram, io, prefetch, isa } = way;
            panic!(
                "{}: run {number} ({threads} threads, --ram {ram}, --io {io}, --prefetch {prefetch}, {}) differs from \
                 byte {at:?} of {} on",
                case.name,
                isa.name(),
                bytes.len()
            );
        }
    }
    let hashes = found.into_iter().map(|(isa, (hash, _))| (isa, hash)).collect();
    BTreeMap::from([(case.name.to_owned(), hashes)])
}

macro_rules! hundred_runs {
    ($($test:ident: $case:literal;)+) => {$(
        #[test]
        fn $test() {
            compare(&check(&CASES[$case]));
        }
    )+};
}

hundred_runs! {
    i2_i3_100_runs_at_temperature_0: 0;
    i2_i3_100_runs_with_a_seed: 1;
    i2_i3_100_runs_with_a_prompt_cache: 2;
    i2_i3_100_chats: 3;
    i2_i3_100_logits: 4;
    i2_i3_100_perplexities: 5;
    i2_i3_100_importance_files: 6;
    i4_100_quantized_files: 7;
    i4_100_converted_folders: 8;
    i4_100_packed_files: 9;
    i4_100_verifications: 10;
}

/// Their words may change, so they are not recorded.
#[test]
fn i3_100_inspections_and_replays() {
    check(&CASES[11]);
}

/// Every type that can be written, of a model with rows of whole super-blocks.
#[test]
fn i4_files_of_every_type_have_the_bytes_of_other_machines() {
    let folder = tempfile::tempdir().unwrap();
    let mut found = Hashes::new();
    for kind in ["f16", "q4_0", "q5_1", "q8_0", "q4_k_m", "q6_k", "iq4_nl", "mxfp4"] {
        let target = folder.path().join(kind);
        let mut command = moelten();
        command.env("MOELTEN_THREADS", "2").arg("quantize").arg(builtin()).arg(&target);
        command.args(["--type", kind, "--allow-requantize", "--allow-fallback"]);
        done(command, "");
        let hash = hash(&std::fs::read(&target).unwrap());
        let hashes = BTreeMap::from([(EVERY.to_owned(), hash)]);
        found.insert(format!("the built-in model as {kind}"), hashes);
    }
    compare(&found);
}

/// The routing trace of the built-in model, and what a packed file of it says.
#[test]
fn i3_traces_are_the_same_on_every_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for isa in Isa::available() {
        for threads in ["1", "3"] {
            let trace = folder.path().join("t.trace");
            let mut command = moelten();
            command.env("MOELTEN_ISA", isa.name()).env("MOELTEN_THREADS", threads);
            command
                .args(["bench", "--prefill", "20", "--decode", "4", "--repeat", "1", "--trace"])
                .arg(&trace);
            done(command, "");
            let hash = hash(&std::fs::read(&trace).unwrap());
            let first = found.entry(recorded_as(isa).to_owned()).or_insert_with(|| hash.clone());
            assert_eq!(*first, hash, "{} {threads}", isa.name());
            std::fs::remove_file(trace).unwrap();
        }
    }
    compare(&BTreeMap::from([("bench --trace".to_owned(), found)]));
}
