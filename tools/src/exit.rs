//! How the program ends: the table from errors to exit codes, the way errors are printed, and the handling of
//! panics. Exit codes and the codes in brackets are stable.
//!
//! | exit | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | a bug of this program |
//! | 2 | wrong use: options, a prompt longer than the context |
//! | 3 | a damaged file, or not a model |
//! | 4 | a model that this version does not support |
//! | 5 | not enough memory |
//! | 6 | system error: missing file, no permission, read error |
//! | 7 | the disk is full |
//! | 9 | `moelten verify` found damage |
//! | 129, 130, 143 | ended by SIGHUP, SIGINT (Ctrl-C), SIGTERM |
//! | 141 | output pipe closed |

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;

use moelten_engine::EngineError;
use moelten_engine::runtime::memory;
use moelten_engine::runtime::system::System;
use moelten_hub::HubError;
use moelten_loader::error::{Fault, LoadError};
use moelten_loader::io::{End, LastWord};
use moelten_loader::text::plain::NotText;
use moelten_tui::terminal::{Notes, Tone};

use crate::health::running;
use crate::output;
use crate::signals;

/// Wrong use.
pub const USAGE: u8 = 2;
const CORRUPT: u8 = 3;
const UNSUPPORTED: u8 = 4;
const MEMORY: u8 = 5;
/// System error: missing file, no permission, read error.
pub const IO: u8 = 6;
const DISK_FULL: u8 = 7;
const DAMAGED: u8 = 9;
const CLOSED_PIPE: u8 = 141;

/// An error found by a command itself, not by the engine or the loader.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Options that cannot be combined or make no sense.
    #[error("{0}")]
    Usage(String),
    /// A request that the model does not support.
    #[error("{0}")]
    Unsupported(String),
    /// A chat with a model that has no chat template.
    #[error(
        "{model} has no chat template; use `moelten run MODEL --no-template --prompt TEXT`, which continues a text as it \
         is"
    )]
    NoTemplate {
        /// File or folder, as the person named it.
        model: String,
    },
    /// A file or stream that holds no text, or text in an unknown encoding.
    #[error("{name}: {why}; UTF-8, or UTF-16 with a byte order mark, is needed")]
    NotText {
        /// File or stream, and that it is no text.
        name: String,
        /// The first wrong byte.
        why: NotText,
    },
    /// A prompt longer than the context.
    #[error("{0}")]
    Context(String),
    /// A budget below the minimum.
    #[error("{0}")]
    Memory(String),
    /// An output larger than the free disk space.
    #[error("{target} needs {size}, but only {free} are free: free {missing} more, or choose another disk")]
    Room {
        /// File to write.
        target: String,
        /// Its final length.
        size: String,
        /// Size minus free space.
        missing: String,
        /// Free space on its disk.
        free: String,
    },
    /// A damaged file; the details are already printed.
    #[error("{0}")]
    Damaged(String),
    /// Ctrl-C or a signal; the details are already printed.
    #[error("stopped")]
    Stopped,
}

/// An error with its codes and message.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// `E-XXX-NN`; empty if nothing is printed.
    pub code: &'static str,
    /// The exit code.
    pub exit: u8,
    /// What happened, with numbers, and what to do. Unfiltered: it may quote a file.
    pub text: String,
    /// The last part of the text, what to do, where it is known apart from what happened.
    pub advice: &'static str,
}

impl Report {
    /// The object that commands print under `--json`.
    pub fn json(&self) -> serde_json::Value {
        let message = self.text.strip_suffix(self.advice).unwrap_or(&self.text).trim_end_matches("; ");
        serde_json::json!({
            "kind": kind(self.exit),
            "code": Some(self.code).filter(|code| !code.is_empty()),
            "exit": self.exit,
            "message": message,
            "advice": Some(self.advice).filter(|advice| !advice.is_empty()),
        })
    }
}

/// What an exit code means, in a word.
fn kind(exit: u8) -> &'static str {
    match exit {
        1 => "bug",
        USAGE => "usage",
        CORRUPT => "corrupt",
        UNSUPPORTED => "unsupported",
        MEMORY => "memory",
        IO => "system",
        DISK_FULL => "disk_full",
        DAMAGED => "damaged",
        CLOSED_PIPE => "closed_pipe",
        _ => "stopped",
    }
}

/// Classifies an error and composes its message.
pub fn report(error: &anyhow::Error) -> Report {
    let (code, exit, hint) =
        error.chain().find_map(classify).unwrap_or(("E-BUG-01", 1, "please report this bug"));
    let mut text = error.to_string();
    // Many errors already quote their cause.
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    if !hint.is_empty() {
        text = format!("{text}; {hint}");
    }
    Report { code, exit, text, advice: hint }
}

/// A usage error whose text is complete, of the command line itself.
pub fn usage(text: &str) -> Report {
    Report { code: "E-ARG-00", exit: USAGE, text: text.to_owned(), advice: "" }
}

type Class = (&'static str, u8, &'static str);

fn classify(cause: &(dyn std::error::Error + 'static)) -> Option<Class> {
    if let Some(error) = cause.downcast_ref::<CommandError>() {
        return Some(match error {
            CommandError::Usage(_) => ("E-ARG-01", USAGE, ""),
            CommandError::Unsupported(_) => ("E-SUP-02", UNSUPPORTED, ""),
            CommandError::NoTemplate { .. } => ("E-TPL-02", UNSUPPORTED, ""),
            CommandError::NotText { .. } => ("E-TEXT-01", USAGE, ""),
            CommandError::Context(_) => ("E-CTX-01", USAGE, ""),
            CommandError::Memory(_) => ("E-MEM-03", MEMORY, ""),
            CommandError::Room { .. } => ("E-DISK-01", DISK_FULL, ""),
            CommandError::Damaged(_) => ("E-VERIFY-01", DAMAGED, "copy or convert the file again"),
            CommandError::Stopped => ("", signals::exit_code(), ""),
        });
    }
    if let Some(error) = cause.downcast_ref::<HubError>() {
        return Some(classify_hub(error));
    }
    if let Some(error) = cause.downcast_ref::<EngineError>() {
        return classify_engine(error);
    }
    if let Some(error) = cause.downcast_ref::<LoadError>() {
        return Some(classify_load(error));
    }
    cause.downcast_ref::<io::Error>().map(classify_io)
}

fn classify_hub(error: &HubError) -> Class {
    match error {
        HubError::Name(_) | HubError::NoVariant { .. } => ("E-HUB-01", USAGE, ""),
        HubError::NoModel { .. } => ("E-HUB-02", UNSUPPORTED, ""),
        HubError::WrongBytes { .. } => ("E-HUB-05", CORRUPT, ""),
        HubError::Disk { .. } => ("E-DISK-01", DISK_FULL, ""),
        HubError::Io { source, .. } => classify_io(source),
        HubError::Stopped => ("", signals::exit_code(), ""),
        HubError::Answer { .. } => ("E-HUB-04", IO, "try again later; if HF_ENDPOINT is set, check it"),
        HubError::Network { .. } | HubError::Changed { .. } => ("E-HUB-04", IO, ""),
        _ => ("E-HUB-03", IO, ""),
    }
}

fn classify_engine(error: &EngineError) -> Option<Class> {
    Some(match error {
        EngineError::Load(error) => classify_load(error),
        EngineError::Isa(_) => ("E-ARG-03", USAGE, "unset MOELTEN_ISA to use the best instruction set"),
        EngineError::Memory { .. } | EngineError::KvCache(_) => ("E-MEM-01", MEMORY, ""),
        EngineError::Budget { .. } => ("E-MEM-03", MEMORY, "give a larger --ram, or a smaller --ctx"),
        EngineError::Store(error) => classify_io(error),
        EngineError::Copy(error) => classify_io(error),
        EngineError::ContextFull { .. } => ("E-CTX-01", USAGE, "give a shorter text or a larger --ctx"),
        EngineError::TextTooLong { .. } => ("E-CTX-01", USAGE, "give a shorter text"),
        EngineError::TokenRange { .. } => {
            ("E-ARG-04", USAGE, "`moelten inspect` shows the vocabulary's size")
        }
        EngineError::Expert { source, .. } if source.kind() == io::ErrorKind::InvalidData => {
            ("E-IO-05", IO, "copy or convert the model again")
        }
        EngineError::Expert { .. } | EngineError::Embedding { .. } => {
            ("E-IO-03", IO, "check the disk and the file on it")
        }
        EngineError::Threads { .. } if little_address_space() => (
            "E-MEM-02",
            MEMORY,
            "lift the limit of the address space (ulimit -v), or give a smaller --threads",
        ),
        EngineError::Threads { .. } => ("E-IO-04", IO, "a smaller --threads may help"),
        EngineError::Setting { .. } => ("E-ARG-02", USAGE, ""),
        EngineError::NotANumber { .. } => ("E-FILE-04", CORRUPT, "download or convert the model again"),
        EngineError::Cancelled => ("", signals::exit_code(), ""),
        // `EngineError` is non-exhaustive.
        _ => return None,
    })
}

const NO_STACK: &str = "lift the limit of the address space (ulimit -v), or give a smaller --threads";

/// Whether so little of the address space is left that no thread's stack may fit.
fn little_address_space() -> bool {
    const STACKS: u64 = 64 << 20;
    memory::address_space_headroom(&System::here()).is_some_and(|left| left < STACKS)
}

fn classify_load(error: &LoadError) -> Class {
    match error {
        LoadError::Io { source, .. } => classify_io(source),
        LoadError::NotAModel { .. } => ("E-FILE-01", CORRUPT, ""),
        LoadError::Malformed { fault: Fault::Version { .. }, .. } => ("E-GGUF-VERSION", CORRUPT, ""),
        LoadError::Malformed { fault: Fault::TemplateSyntax { .. }, .. } | LoadError::Template { .. } => {
            ("E-TPL-01", CORRUPT, "`moelten run --no-template` sends text without the template")
        }
        LoadError::Malformed { fault, .. } => ("E-FILE-02", CORRUPT, advice(fault)),
        LoadError::OtherModel { .. } => {
            ("E-ARG-05", USAGE, "make one from this model with `moelten imatrix`")
        }
        LoadError::Unsupported { .. } => ("E-SUP-01", UNSUPPORTED, ""),
        _ => ("E-FILE-03", CORRUPT, ""),
    }
}

/// What to do about a fault of a file.
fn advice(fault: &Fault) -> &'static str {
    match fault {
        // They say it themselves.
        Fault::SplitName { .. } => "",
        Fault::Missing { hint } if hint.starts_with(':') => "",
        Fault::Missing { hint: " from this folder" } => "download the model's other files too",
        Fault::Truncated { .. } | Fault::BeyondEnd { .. } => {
            "a download that ended early leaves such a file: finish it or download the file again"
        }
        Fault::Checksum { .. } | Fault::NotFinite { .. } => "copy, convert or download the file again",
        Fault::PartMismatch { .. } => "take all parts from the same download",
        Fault::Vocabulary { .. } | Fault::Contradiction { .. } => {
            "report it if other programs can use the model; the download is probably complete"
        }
        _ => "download the file again, or report it if other programs can open it",
    }
}

fn classify_io(error: &io::Error) -> Class {
    match error.kind() {
        io::ErrorKind::BrokenPipe => ("", CLOSED_PIPE, ""),
        io::ErrorKind::NotFound => ("E-IO-01", IO, "check the path"),
        io::ErrorKind::PermissionDenied => ("E-IO-02", IO, "check the permissions"),
        io::ErrorKind::StorageFull => ("E-DISK-01", DISK_FULL, "free disk space and try again"),
        io::ErrorKind::OutOfMemory => ("E-MEM-02", MEMORY, "close other programs or lift the limit"),
        // What the system says when a thread's stack does not fit.
        io::ErrorKind::WouldBlock if little_address_space() => ("E-MEM-02", MEMORY, NO_STACK),
        // Errors made by moelten, whose text is complete.
        io::ErrorKind::Other | io::ErrorKind::AlreadyExists | io::ErrorKind::InvalidInput
            if error.raw_os_error().is_none() =>
        {
            ("E-IO-05", IO, "")
        }
        _ => ("E-IO-05", IO, "check the disk and the system's limits"),
    }
}

/// Runs the program, prints its error and returns the exit code. A panic is reported as a bug in one line.
pub fn guarded(program: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    static PANIC: Mutex<String> = Mutex::new(String::new());
    // Stored, not printed: some panics of libraries are caught and become errors.
    std::panic::set_hook(Box::new(|info| {
        if let Ok(mut message) = PANIC.lock() {
            *message = info.to_string();
        }
    }));
    let result = catch_unwind(AssertUnwindSafe(program));
    // The thread of a chat that has a model may not have ended yet.
    running::end();
    let ended = match result {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(error)) => report(&error),
        Err(_) => {
            let message = PANIC.lock().map(|message| message.clone()).unwrap_or_default();
            bug(&message)
        }
    };
    print(&ended);
    ended.exit.into()
}

/// Ends the program because a thread that it cannot do without has panicked.
pub fn on_bug(message: String) {
    moelten_tui::driver::terminal::restore();
    running::end_now();
    print(&bug(&message));
    std::process::exit(1)
}

/// The end of the program where the system refuses memory to code that cannot go on without.
pub const WITHOUT_MEMORY: End = End {
    with_message: on_refused_memory,
    last_words: "error[E-MEM-02]: the system refuses more memory; close other programs or lift the limit (ulimit -v)\n",
    code: MEMORY as i32,
};

/// Ends the program because the system refused it `bytes` bytes of memory, on whichever thread that was.
fn on_refused_memory(bytes: usize) -> LastWord {
    moelten_tui::driver::terminal::restore();
    let text = format!(
        "the system refuses to give {} more memory; close other programs, lift the limit (ulimit -v), or give a smaller --ram \
         or --ctx",
        moelten_tui::figures::bytes(bytes as u64)
    );
    running::end_now();
    print(&Report { code: "E-MEM-02", exit: MEMORY, text, advice: "" });
    std::process::exit(MEMORY.into())
}

fn bug(message: &str) -> Report {
    let text =
        format!("{message}\nThis is a bug in moelten. Please report it with the command that caused it.");
    Report { code: "E-BUG-01", exit: 1, text, advice: "" }
}

/// Prints `error[E-XXX-NN]: ...` to stderr, and the error as an object to stdout if JSON was asked for.
pub fn print(report: &Report) {
    if report.exit != CLOSED_PIPE && output::lacks_json() {
        // The exit code stays the same with a closed stdout.
        let _ = output::answer(&serde_json::json!({ "error": report.json() }));
    }
    if !report.code.is_empty() {
        Notes::detect().line(Tone::Error, &format!("error[{}]: {}", report.code, report.text));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn kinds_of_errors_have_their_codes() {
        let path = Path::new("m.gguf");
        let io = |kind: io::ErrorKind| LoadError::io(path, "open the model", kind.into());
        let malformed = |fault| LoadError::malformed(path, "header", fault);
        let cases: Vec<(anyhow::Error, &str, u8)> = vec![
            (io(io::ErrorKind::NotFound).into(), "E-IO-01", 6),
            (io(io::ErrorKind::PermissionDenied).into(), "E-IO-02", 6),
            (io(io::ErrorKind::StorageFull).into(), "E-DISK-01", 7),
            (malformed(Fault::Empty).into(), "E-FILE-02", 3),
            (malformed(Fault::Version { found: 9, known: "2, 3", hint: "" }).into(), "E-GGUF-VERSION", 3),
            (EngineError::Load(malformed(Fault::Empty)).into(), "E-FILE-02", 3),
            (EngineError::ContextFull { tokens: 9, context: 8 }.into(), "E-CTX-01", 2),
            (EngineError::TextTooLong { tokens: 9, most: 8 }.into(), "E-CTX-01", 2),
            (EngineError::NotANumber { tokens: 9 }.into(), "E-FILE-04", 3),
            (CommandError::Usage("x".into()).into(), "E-ARG-01", 2),
            (CommandError::Unsupported("x".into()).into(), "E-SUP-02", 4),
            (anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("write"), "", 141),
            (anyhow::anyhow!("what?"), "E-BUG-01", 1),
        ];
        for (error, code, exit) in cases {
            let report = report(&error);
            assert_eq!((report.code, report.exit), (code, exit), "{error:#}");
        }
    }
}
