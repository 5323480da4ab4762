//! The promise of `--ram`, for everything that commands do beside computing: owned memory is at most the
//! budget and 64 MiB, sampled all the time, with inputs of hostile sizes. `streaming.rs` and `texts.rs` have
//! more cases of models and texts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use moelten_engine::offline::trace::{TraceHeader, TraceWriter, TracedBank};
use moelten_loader::container::gguf::Value;
use moelten_testing::skip;

use crate::common::cgroup::{self, Group};
use crate::common::hostile::talkative;
use crate::common::peak::Peak;
use crate::common::{Outcome, builtin, clean, finish, mini, model_with, moelten, set};
use crate::streaming::many_experts;

/// `--ram` of every command that has it, and as words on a command line.
const BUDGET: u64 = 80 << 20;
const RAM: [&str; 2] = ["--ram", "80M"];
/// Bytes that the process may own beyond its budget.
const MARGIN: u64 = 64 << 20;

/// Runs commands in a folder and collects those that own too much.
struct Commands {
    folder: tempfile::TempDir,
    /// What each case owned, in bytes, and what it may own.
    peaks: Vec<(String, u64, u64)>,
}

impl Commands {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), peaks: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn word(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.word(name)
    }

    /// Runs `moelten` with this budget and nothing on stdin.
    fn run(&mut self, case: &str, line: &[&str]) -> Outcome {
        self.fed(case, line, "/dev/null")
    }

    /// As [`Self::run`], with a file as stdin.
    fn fed(&mut self, case: &str, line: &[&str], stdin: &str) -> Outcome {
        let ram = if line.contains(&"--ram") { &[][..] } else { &RAM };
        self.within(case, BUDGET, moelten().args(line).args(ram), stdin)
    }

    fn within(&mut self, case: &str, budget: u64, command: &mut Command, stdin: &str) -> Outcome {
        command.current_dir(self.folder.path()).env("HOME", self.folder.path());
        command.stdin(fs::File::open(stdin).unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let child = command.spawn().unwrap();
        let peak = Peak::of(&child, Duration::from_millis(10));
        let outcome = finish(child, started);
        self.peaks.push((case.to_owned(), peak.bytes(), budget + MARGIN));
        assert!(!outcome.err.contains("bug"), "{case}: {outcome:?}");
        assert!(outcome.code.is_some(), "{case}: {outcome:?}");
        outcome
    }

    /// Checks what all of them owned.
    #[track_caller]
    fn check(self) {
        for (case, peak, most) in &self.peaks {
            println!("{:4} MiB of {:4}  {case}", peak >> 20, most >> 20);
        }
        let beyond: Vec<_> = self.peaks.iter().filter(|(_, peak, most)| peak > most).collect();
        assert!(beyond.is_empty(), "owned more than the budget and 64 MiB: {beyond:#?}");
    }
}

/// A tale of about this many bytes.
fn tale(bytes: usize) -> String {
    let sentence = "Once upon a time there was a lion who lived in a forest, and a bird that sang to him. ";
    sentence.repeat(bytes / sentence.len())
}

#[test]
fn prompts_of_megabytes_stay_within_the_budget() {
    let mut all = Commands::new();
    let model = builtin().into_os_string().into_string().unwrap();
    let large = 15 << 20;
    let words = all.file("words.txt", tale(large));
    let one_word = all.file("word.txt", "a".repeat(large));
    let marks = all.file("marks.txt", "\u{4e16}\u{754c}".repeat(large / 6));
    let wide: Vec<u8> = format!("\u{feff}{}", "\u{4e16} ".repeat(large / 4))
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let wide = all.file("wide.txt", wide);
    let beyond = all.file("beyond.txt", tale(40 << 20));
    let noise = all.file("noise.txt", [tale(1 << 20).as_bytes(), &[0xff; 14 << 20]].concat());
    for (name, file) in [("words", &words), ("one word", &one_word), ("marks", &marks), ("UTF-16", &wide)] {
        let refused = |outcome: Outcome| assert!(matches!(outcome.code, Some(2 | 4)), "{name}: {outcome:?}");
        refused(all.run(&format!("run -f, {name}"), &["run", &model, "-f", file]));
        refused(
            all.run(&format!("run --no-template, {name}"), &["run", &model, "--no-template", "-f", file]),
        );
        let system = format!("@{file}");
        refused(all.run(&format!("run -s, {name}"), &["run", &model, "-p", "x", "-s", &system]));
    }
    all.fed("run < words", &["run", &model], &words).refused(2, "E-CTX-01");
    all.fed("run -f < words", &["run", &model, "-f", &words], &words).refused(2, "E-ARG-01");
    all.fed("run < noise", &["run", &model], &noise);
    let outcome = all.run("run -f, too large", &["run", &model, "-f", &beyond]).refused(2, "E-ARG-01");
    assert!(outcome.err.contains("more than 16 MiB of text"), "{outcome:?}");
    all.fed("run <, too large", &["run", &model], &beyond).refused(2, "E-ARG-01");
    all.check();
}

#[test]
fn chats_stay_within_the_budget() {
    let mut all = Commands::new();
    let model = builtin().into_os_string().into_string().unwrap();
    let chat = |all: &mut Commands, case: &str, lines: String| {
        let input = all.file("input", lines);
        all.fed(case, &["chat", &model, "--max-tokens", "4"], &input).fine()
    };
    let outcome = chat(&mut all, "a line of 15 MiB", format!("{}\nhello\n", tale(15 << 20)));
    assert!(outcome.err.contains("Nothing was cut") && outcome.text().len() > 3, "{outcome:?}");
    let outcome = chat(&mut all, "a line of 60 MiB", format!("{}\nhello\n", tale(60 << 20)));
    assert!(outcome.err.contains("has more than 16 MiB and was not read"), "{outcome:?}");
    assert!(!outcome.text().trim().is_empty(), "the next question is answered: {outcome:?}");
    let lines = format!("{}\n", tale(1 << 20)).repeat(30);
    let outcome = chat(&mut all, "an entry of 30 MiB", format!("\"\"\"\n{lines}\"\"\"\nhello\n"));
    assert_eq!(outcome.err.matches("was not read").count(), 1, "{outcome:?}");
    let attached = all.file("attached.txt", "a".repeat(15 << 20));
    let outcome = chat(&mut all, "files of 15 MiB", format!("/file {attached}\n").repeat(8) + "hello\n");
    assert!(!outcome.text().trim().is_empty(), "{outcome:?}");
    let small = all.file("small.txt", "a dog. ".repeat(20));
    chat(&mut all, "a thousand files", format!("/file {small}\n").repeat(1000) + "hello\n");
    chat(&mut all, "thousands of questions", "hello\n/undo\n/retry\n".repeat(200));
    chat(&mut all, "a system prompt of 15 MiB", format!("/system {}\nhello\n", tale(15 << 20)));
    let talk = |count: usize, text: &str| {
        let roles = ["user", "assistant"].into_iter().cycle();
        let messages: Vec<_> =
            roles.take(count).map(|role| serde_json::json!({ "role": role, "content": text })).collect();
        serde_json::json!({ "format": "moelten conversation", "version": 1, "model": "m", "system": null, "messages": messages })
            .to_string()
    };
    for (case, count, text) in [
        ("a conversation of 15 long messages", 15, tale(1_000_000)),
        ("a conversation of one message", 1, tale(15_000_000)),
        ("a conversation of many short messages", 300_000, "a".to_owned()),
        ("a conversation of marks", 14, "\n\"\\".repeat(160_000)),
    ] {
        let file = all.file("talk.json", talk(count, &text));
        let saved = all.word("saved");
        let lines = format!("/load {file}\nhello\n/save {saved}.json\n/export {saved}.md\n/stats\n");
        let outcome = chat(&mut all, case, lines);
        let loaded = outcome.err.contains("Loaded");
        assert_eq!(loaded, count < 250_000, "{case}: {outcome:?}");
        for name in ["saved.json", "saved.md"] {
            fs::remove_file(all.path(name)).unwrap_or_else(|error| panic!("{case}: {name}: {error}"));
        }
    }
    all.check();
}

#[test]
fn answers_and_templates_stay_within_the_budget() {
    let mut all = Commands::new();
    let (talkative_model, model) = (all.word("talkative.gguf"), all.word("template.gguf"));
    talkative(Path::new(&talkative_model));
    let free = ["--temp", "100", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--seed"];
    for (case, more) in [("an answer of a megabyte", &[][..]), ("as JSON", &["--json"])] {
        // One of the tokens ends an answer, and which ones are drawn depends on the last bits of the logits,
        // which differ between tiers.
        let long = ["1", "2", "3", "4", "5", "6", "7", "8"].into_iter().any(|seed| {
            let mut line = vec!["run", talkative_model.as_str(), "-p", "hello", "--max-tokens", "900"];
            line.extend(free.iter().chain([&seed]).chain(more));
            let outcome = all.run(case, &line);
            assert_eq!(outcome.code, Some(0), "{}", outcome.err);
            outcome.out.len() > 300_000
        });
        assert!(long, "{case}: no answer has 300,000 bytes");
    }
    let input = all.file("input", "hello\n/retry\n/more\n/save talk.json\n/export talk.md\n");
    let mut line = vec!["chat", talkative_model.as_str(), "--max-tokens", "400"];
    line.extend(free.iter().chain([&"1"]));
    assert_eq!(all.fed("enormous Markdown in a chat", &line, &input).code, Some(0));
    for (case, template) in [
        (
            "a template that repeats",
            "{% for i in range(100000) %}{{ messages[0].content * 1000 }}{% endfor %}",
        ),
        (
            "a template that doubles",
            "{% set x = namespace(t='ab') %}{% for i in range(60) %}{% set x.t = x.t + x.t %}{% endfor %}{{ x.t }}",
        ),
        (
            "a template of lists",
            "{% set x = namespace(t=[1]) %}{% for i in range(60) %}{% set x.t = x.t + x.t %}{% endfor %}{{ x.t }}",
        ),
        (
            "a template that pads",
            "{{ '%999999999s' % 'a' }}{{ 'a'.center(999999999) }}{{ 'a'.zfill(999999999) }}",
        ),
        (
            "a template that writes JSON",
            "{% for i in range(10000) %}{{ range(10000) | list | tojson }}{% endfor %}",
        ),
    ] {
        model_with(Path::new(&model), |metadata| {
            set(metadata, "tokenizer.chat_template", |value| *value = Value::Str(template.to_owned()));
        });
        let outcome = all.run(case, &["run", &model, "-p", "hello", "--max-tokens", "4"]);
        assert!(matches!(outcome.code, Some(2 | 3)), "{case}: {outcome:?}");
    }
    all.check();
}

#[test]
fn measuring_stays_within_the_budget() {
    let mut all = Commands::new();
    let model = builtin().into_os_string().into_string().unwrap();
    let out = all.word("out");
    let words = all.file("words.txt", tale(50 << 20));
    let marks = all.file("marks.txt", "\u{4e16}\u{754c}. ".repeat(6 << 20));
    all.run("ppl", &["ppl", &model, "--text", &words, "--tokens", "600"]).fine();
    let word = all.file("word.txt", "\u{4e16}\u{754c}".repeat(10 << 20));
    let outcome = all.run("ppl, one word", &["ppl", &model, "--text", &word]).refused(2, "E-ARG-01");
    assert!(outcome.err.contains("a word that alone has more than 4,194,304 tokens"), "{outcome:?}");
    all.run("ppl, marks", &["ppl", &model, "--text", &marks, "--tokens", "600"]).fine();
    all.run("ppl --against", &["ppl", &model, "--text", &words, "--tokens", "200", "--against", &model])
        .fine();
    all.run("imatrix", &["imatrix", &model, "--text", &words, "--chunks", "1", "--out", &out]).fine();
    let bench = ["bench", &model, "--text", &words, "--repeat", "1", "--decode", "8", "--prefill", "64"];
    let outcome = all.run("bench --text", &bench);
    assert!(matches!(outcome.code, Some(0 | 2)), "{outcome:?}");
    let ids = vec!["5"; 900].join(",");
    all.run("logits", &["logits", &model, "--ids", &ids, "--out", &out]);
    all.run("fit", &["fit", &model]).fine();
    all.run("models", &["models"]).fine();
    all.check();
}

/// A trace of hours of decoding, 7 MB.
fn long_trace(path: &Path) {
    let banks =
        (0..6).map(|layer| TracedBank { layer, bank: 0, experts: 64, expert_bytes: 1 << 20 }).collect();
    let mut trace = TraceWriter::create(path, &TraceHeader { model: "m".into(), banks }).unwrap();
    for token in 0..50_000_u32 {
        let ids: [u32; 8] = std::array::from_fn(|at| (token * 7 + at as u32 * 5) % 64);
        (0..6).for_each(|bank| trace.event(bank, [&ids[..]].into_iter()));
    }
    trace.finish().unwrap();
}

/// Commands without a budget of their own are held to what they say of themselves, or to the margin alone.
#[test]
fn commands_on_files_own_little() {
    let mut all = Commands::new();
    let many = all.word("many.gguf");
    many_experts(Path::new(&many));
    let (out, trace) = (all.word("out.gguf"), all.word("long.trace"));
    let quantize = ["quantize", &many, &out, "--layout", "packed", "--ram", "64M"];
    all.within("quantize --ram 64M", 64 << 20, moelten().args(quantize), "/dev/null").fine();
    all.within("verify --source", 0, moelten().args(["verify", &out, "--source", &many]), "/dev/null").fine();
    all.within("inspect", 0, moelten().args(["inspect", &many]), "/dev/null").fine();
    fs::remove_file(&out).unwrap();
    long_trace(Path::new(&trace));
    all.within("replay", 0, moelten().args(["replay", &trace]), "/dev/null").fine();
    all.within("replay --json", 0, moelten().args(["replay", &trace, "--json"]), "/dev/null").fine();
    // One that is too long for the memory that is free is refused before it is read.
    let mut limited = clean(Command::new("prlimit"));
    limited.args(["--as=90000000", env!("CARGO_BIN_EXE_moelten"), "replay", &trace]);
    let outcome = all.within("replay in little memory", 0, &mut limited, "/dev/null").refused(5, "E-MEM-03");
    assert!(outcome.err.contains("record a shorter one"), "{outcome:?}");
    // Metadata and headers of many megabytes.
    let wide = all.word("wide.gguf");
    let keys = (0..60_000).map(|i| (format!("general.key.{i}"), Value::Str(format!("value {i:0200}"))));
    mini::write(
        Path::new(&wide),
        &mini::keys().into_iter().chain(keys).collect::<Vec<_>>(),
        &mini::tensors(),
    );
    for command in ["inspect", "fit", "quantize"] {
        let mut line = vec![command, wide.as_str()];
        if command == "quantize" {
            line.extend([out.as_str(), "--type", "q8_0", "--ram", "64M"]);
        }
        let budget = if command == "quantize" { 64 << 20 } else { 0 };
        let ram = (command == "fit").then_some(["--ram", "min"]).into_iter().flatten();
        all.within(
            &format!("{command} of much metadata"),
            budget,
            moelten().args(line).args(ram),
            "/dev/null",
        )
        .fine();
    }
    let folder = mini::folder(&all.path("folder"));
    fs::write(
        folder.join("tokenizer_config.json"),
        format!("{{\"x\": {}}}", "[1,2,3],".repeat(1 << 20) + "0"),
    )
    .unwrap();
    all.run("fit of a folder with a large file", &["fit", folder.to_str().unwrap()]);
    all.check();
}

/// What measures the machine leaves room in a small container.
#[test]
fn commands_that_measure_run_in_a_small_container() {
    let Some(group) = Group::new(200 << 20) else {
        skip!("{}", cgroup::NONE);
    };
    for line in
        ["doctor", "models", "fit $F", "bench $F --repeat 1", "inspect $F", "run $F -p hello --max-tokens 4"]
    {
        let line = format!("echo $$ > {} && exec $M {line}", group.members().display());
        let mut command = clean(Command::new("sh"));
        command.env("M", env!("CARGO_BIN_EXE_moelten")).env("F", builtin()).args(["-c", &line]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let outcome = finish(command.spawn().unwrap(), Instant::now());
        assert_eq!(outcome.code, Some(0), "{line}: {outcome:?}");
        assert_eq!(group.kills(), 0, "{line}");
    }
}
