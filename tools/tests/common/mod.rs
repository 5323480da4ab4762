//! Runs the program from outside and checks everything that it prints.

#[cfg(target_os = "linux")]
pub mod cgroup;
pub mod hostile;
pub mod mini;
#[cfg(target_os = "linux")]
pub mod peak;

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moelten_loader::container::gguf::write::{GgufWriter, TensorPlan};
use moelten_loader::container::gguf::{Array, Gguf, Value};

/// The program in a clean environment, with one thread, since tests run in parallel.
pub fn moelten() -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_moelten")))
}

/// `program` without the settings of moelten in its environment.
pub fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MOELTEN_") || name == "NO_COLOR" {
            command.env_remove(name);
        }
    }
    // Not the configuration of whoever runs the tests.
    command.env("MOELTEN_CONFIG", "/nonexistent/moelten/config.toml");
    // Runs that one test ends by force are not told to another one.
    command.env("XDG_STATE_HOME", "/dev/null/moelten");
    // Nothing that a test gets wrong reaches the network.
    command.env("MOELTEN_THREADS", "1").env("HF_HUB_OFFLINE", "1");
    command
}

/// Options for short, repeatable answers.
pub const BRIEF: [&str; 4] = ["--max-tokens", "8", "--seed", "1"];

/// The result of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; `None` after a signal.
    pub code: Option<i32>,
    /// stdout.
    pub out: Vec<u8>,
    /// stderr.
    pub err: String,
    /// Wall time.
    pub took: Duration,
}

impl Outcome {
    /// stdout as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.out).expect("answers are UTF-8")
    }

    /// Checks that it succeeded and printed no control characters.
    #[track_caller]
    pub fn fine(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.harmless()
    }

    /// Checks the exit code and the code in the message, and that it is not reported as a bug.
    #[track_caller]
    pub fn refused(self, exit: i32, code: &str) -> Self {
        assert_eq!(self.code, Some(exit), "{self:?}");
        assert!(self.err.contains(&format!("error[{code}]: ")), "{self:?}");
        assert!(!self.err.contains("bug"), "{self:?}");
        assert!(self.took < Duration::from_secs(10), "{self:?}");
        self.harmless()
    }

    /// Checks that there are no control characters except line ends and tabs.
    #[track_caller]
    pub fn harmless(self) -> Self {
        for text in [self.text(), &self.err] {
            let control = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
            assert_eq!(control, None, "{self:?}");
        }
        self
    }
}

/// Starts a program. Under Wine this fails once in some hundred times, and is tried again.
#[track_caller]
pub fn start(command: &mut Command) -> Child {
    const ERROR_INTERNAL_ERROR: i32 = 1359;
    let failed = |error: &std::io::Error| cfg!(windows) && error.raw_os_error() == Some(ERROR_INTERNAL_ERROR);
    let mut tries = (0..5).map(|_| command.spawn());
    let started = tries.find(|started| !started.as_ref().is_err_and(failed));
    started.expect("Wine starts a program").expect("the program starts")
}

/// Runs to the end, feeding `stdin`.
#[track_caller]
pub fn run(command: &mut Command, stdin: &[u8]) -> Outcome {
    let started = Instant::now();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = start(command);
    let mut input = child.stdin.take().expect("stdin is piped");
    let bytes = stdin.to_owned();
    // The program may end before it has read everything.
    let writer = std::thread::spawn(move || drop(input.write_all(&bytes)));
    let outcome = finish(child, started);
    writer.join().expect("the writer does not panic");
    outcome
}

/// Runs with these arguments and nothing to read.
#[track_caller]
pub fn args<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Outcome {
    run(moelten().args(args), b"")
}

/// Waits for the end of a program, at most a minute.
#[track_caller]
pub fn finish(mut child: Child, started: Instant) -> Outcome {
    let collect = |mut pipe: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            bytes
        })
    };
    let out = child.stdout.take().map(|pipe| collect(Box::new(pipe)));
    let err = child.stderr.take().map(|pipe| collect(Box::new(pipe)));
    let status = loop {
        match child.try_wait().expect("a child can be waited for") {
            Some(status) => break status,
            None if started.elapsed() > Duration::from_secs(60) => {
                child.kill().expect("a child can be killed");
                panic!("the program did not end within a minute");
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let took = started.elapsed();
    let bytes = |thread: Option<std::thread::JoinHandle<Vec<u8>>>| {
        thread.map(|thread| thread.join().expect("the reader does not panic")).unwrap_or_default()
    };
    let err = String::from_utf8(bytes(err)).expect("messages are UTF-8");
    Outcome { code: status.code(), out: bytes(out), err, took }
}

/// The built-in model as a file.
pub fn builtin() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-tales.gguf")
}

/// Writes the built-in model with changed metadata.
pub fn model_with(target: &Path, change: impl FnOnce(&mut Vec<(String, Value)>)) {
    let source = Gguf::open(&builtin()).unwrap();
    let mut metadata: Vec<_> =
        source.metadata.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
    change(&mut metadata);
    let plan: Vec<_> = source
        .catalog
        .tensors()
        .iter()
        .map(|t| TensorPlan { name: t.name.clone(), storage: t.storage, shape: t.shape.clone() })
        .collect();
    let mut writer = GgufWriter::create(target, &metadata, &plan, &[]).unwrap();
    for tensor in source.catalog.tensors() {
        writer.write_tensor(&tensor.name, source.catalog.bytes(tensor)).unwrap();
    }
    writer.finish().unwrap();
}

/// Changes a value of a model.
pub fn set(metadata: &mut [(String, Value)], key: &str, change: impl FnOnce(&mut Value)) {
    let (_, value) =
        metadata.iter_mut().find(|(found, _)| found == key).unwrap_or_else(|| panic!("no {key}"));
    change(value);
}

/// A text in the spelling of byte-level vocabularies (GPT-2's table: printable bytes stand for themselves).
fn spelled(text: &str) -> String {
    let others = (0..=255u8).filter(|b| !matches!(b, 33..=126 | 161..=172 | 174..));
    let others: Vec<u8> = others.collect();
    let spell = |byte: u8| match others.iter().position(|&other| other == byte) {
        Some(index) => char::from_u32(256 + index as u32).unwrap(),
        None => char::from(byte),
    };
    text.bytes().map(spell).collect()
}

/// Changes a model's vocabulary: every token of several characters becomes `word` of its id.
pub fn with_words(metadata: &mut [(String, Value)], word: impl Fn(usize) -> String) {
    // With a single merge, texts are spelled with single characters, which stay as they are.
    let mut merged = String::new();
    set(metadata, "tokenizer.ggml.merges", |value| {
        let Value::Array(Array::Str(merges)) = value else { panic!("merges are texts") };
        merges.truncate(1);
        merged = merges[0].replace(' ', "");
    });
    set(metadata, "tokenizer.ggml.tokens", |value| {
        let Value::Array(Array::Str(tokens)) = value else { panic!("tokens are texts") };
        for (id, token) in tokens.iter_mut().enumerate() {
            if token.chars().count() > 1 && !token.starts_with('<') && *token != merged {
                *token = spelled(&word(id));
            }
        }
    });
}
