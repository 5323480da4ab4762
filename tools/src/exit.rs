//! How the program ends: one table from errors to codes, one way to print them, and a net under panics.
//! Scripts may rely on the exit codes, people on the codes in brackets.
//!
//! | exit | means |
//! |---|---|
//! | 0 | done |
//! | 1 | a bug of this program |
//! | 2 | wrong use: options, a prompt longer than the context |
//! | 3 | a file that is damaged or no model |
//! | 4 | a sound model that this version does not know |
//! | 5 | not enough memory |
//! | 6 | the operating system failed: a missing file, no permission, a read error |
//! | 7 | the disk is full |
//! | 9 | `moelten verify` found damage |
//! | 129, 130, 143 | ended by SIGHUP, SIGINT (Ctrl-C), SIGTERM |
//! | 141 | nobody reads the output any more |

use std::ffi::OsString;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;

use moelten_engine::error::EngineError;
use moelten_loader::error::{Fault, LoadError};
use moelten_tui::filter;
use moelten_tui::terminal::{Notes, Tone};

use crate::signals;

const USAGE: u8 = 2;
const CORRUPT: u8 = 3;
const UNSUPPORTED: u8 = 4;
const MEMORY: u8 = 5;
/// The operating system failed.
pub const IO: u8 = 6;
const DISK_FULL: u8 = 7;
const DAMAGED: u8 = 9;
const CLOSED_PIPE: u8 = 141;

/// An error that a command finds by itself.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Wrong use.
    #[error("{0}")]
    Usage(String),
    /// The model cannot do what is asked of it.
    #[error("{0}")]
    Unsupported(String),
    /// A question to a model that does not say how it wants to be asked.
    #[error(
        "{model} has no chat template, so there is no telling how it wants to be asked; `moelten run MODEL \
         --no-template --prompt TEXT` lets it continue a text as it is"
    )]
    NoTemplate {
        /// File or folder, as the person named it.
        model: String,
    },
    /// A prompt longer than the context.
    #[error("{0}")]
    Context(String),
    /// Less memory is allowed than is needed.
    #[error("{0}")]
    Memory(String),
    /// An output that the disk has no room for.
    #[error(
        "{target} will have {size}, and only {free} are free there: make room for {missing} more, or choose another disk"
    )]
    Room {
        /// The file.
        target: String,
        /// What it takes.
        size: String,
        /// What is missing.
        missing: String,
        /// What is free.
        free: String,
    },
    /// A file that is not what it should be, after everything worth saying was said.
    #[error("{0}")]
    Damaged(String),
    /// Ctrl-C or a signal, after everything worth saying was said.
    #[error("stopped")]
    Stopped,
}

/// An error as people and scripts see it.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// `E-XXX-NN`; empty for endings that need no words.
    pub code: &'static str,
    /// The exit code.
    pub exit: u8,
    /// What happened, with numbers, and what to do. Not filtered.
    pub text: String,
}

/// Finds code and words for an error.
pub fn report(error: &anyhow::Error) -> Report {
    let (code, exit, hint) = error.chain().find_map(classify).unwrap_or(("E-BUG-01", 1, "please report it"));
    let mut text = error.to_string();
    // Many errors repeat their cause in their own words.
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    if !hint.is_empty() {
        text = format!("{text}; {hint}");
    }
    Report { code, exit, text }
}

type Class = (&'static str, u8, &'static str);

fn classify(cause: &(dyn std::error::Error + 'static)) -> Option<Class> {
    if let Some(error) = cause.downcast_ref::<CommandError>() {
        return Some(match error {
            CommandError::Usage(_) => ("E-ARG-01", USAGE, ""),
            CommandError::Unsupported(_) => ("E-SUP-02", UNSUPPORTED, ""),
            CommandError::NoTemplate { .. } => ("E-TPL-02", UNSUPPORTED, ""),
            CommandError::Context(_) => ("E-CTX-01", USAGE, ""),
            CommandError::Memory(_) => ("E-MEM-03", MEMORY, ""),
            CommandError::Room { .. } => ("E-DISK-01", DISK_FULL, ""),
            CommandError::Damaged(_) => ("E-VERIFY-01", DAMAGED, "copy or convert the file again"),
            CommandError::Stopped => ("", signals::exit_code(), ""),
        });
    }
    if let Some(error) = cause.downcast_ref::<EngineError>() {
        return classify_engine(error);
    }
    if let Some(error) = cause.downcast_ref::<LoadError>() {
        return Some(classify_load(error));
    }
    cause.downcast_ref::<io::Error>().map(classify_io)
}

fn classify_engine(error: &EngineError) -> Option<Class> {
    Some(match error {
        EngineError::Load(error) => classify_load(error),
        EngineError::Isa(_) => ("E-ARG-03", USAGE, "leave MOELTEN_ISA unset to get the best of this machine"),
        EngineError::Memory { .. } | EngineError::KvCache(_) => ("E-MEM-01", MEMORY, ""),
        EngineError::Budget { .. } => ("E-MEM-03", MEMORY, "give a larger --ram, or a smaller --ctx"),
        EngineError::Store(error) => classify_io(error),
        EngineError::Copy(error) => classify_io(error),
        EngineError::ContextFull { .. } => ("E-CTX-01", USAGE, "give a shorter text or a larger --ctx"),
        EngineError::TokenRange { .. } => {
            ("E-ARG-04", USAGE, "`moelten inspect` shows the vocabulary's size")
        }
        EngineError::Expert { source, .. } if source.kind() == io::ErrorKind::InvalidData => {
            ("E-IO-05", IO, "copy or convert the model again")
        }
        EngineError::Expert { .. } | EngineError::Embedding { .. } => {
            ("E-IO-03", IO, "check the disk and the file on it")
        }
        EngineError::Threads { .. } => ("E-IO-04", IO, "a smaller --threads may help"),
        EngineError::Setting { .. } => ("E-ARG-02", USAGE, ""),
        EngineError::NotANumber { .. } => ("E-FILE-04", CORRUPT, "download or convert the model again"),
        EngineError::Cancelled => ("", signals::exit_code(), ""),
        // The engine may grow variants before this table does.
        _ => return None,
    })
}

fn classify_load(error: &LoadError) -> Class {
    match error {
        LoadError::Io { source, .. } => classify_io(source),
        LoadError::NotAModel { .. } => ("E-FILE-01", CORRUPT, ""),
        LoadError::Malformed { fault: Fault::Version { .. }, .. } => ("E-GGUF-VERSION", CORRUPT, ""),
        LoadError::Malformed { fault: Fault::TemplateSyntax { .. }, .. } | LoadError::Template { .. } => {
            ("E-TPL-01", CORRUPT, "`moelten run --no-template` sends text without the template")
        }
        LoadError::Malformed { .. } => {
            ("E-FILE-02", CORRUPT, "download the file again, or report it if other programs can open it")
        }
        LoadError::OtherModel { .. } => {
            ("E-ARG-05", USAGE, "make one from this model with `moelten imatrix`")
        }
        LoadError::Unsupported { .. } => ("E-SUP-01", UNSUPPORTED, ""),
        _ => ("E-FILE-03", CORRUPT, ""),
    }
}

fn classify_io(error: &io::Error) -> Class {
    match error.kind() {
        io::ErrorKind::BrokenPipe => ("", CLOSED_PIPE, ""),
        io::ErrorKind::NotFound => ("E-IO-01", IO, "check the path"),
        io::ErrorKind::PermissionDenied => ("E-IO-02", IO, "check the permissions"),
        io::ErrorKind::StorageFull => ("E-DISK-01", DISK_FULL, "make room and try again"),
        io::ErrorKind::OutOfMemory => ("E-MEM-02", MEMORY, "close other programs or lift the limit"),
        // Ours, with all that there is to say.
        io::ErrorKind::Other | io::ErrorKind::AlreadyExists | io::ErrorKind::InvalidInput
            if error.raw_os_error().is_none() =>
        {
            ("E-IO-05", IO, "")
        }
        _ => ("E-IO-05", IO, "check the disk and the system's limits"),
    }
}

/// Parses the command line. What clap says is filtered too: it repeats arguments, and shells expand file
/// names.
///
/// # Errors
/// None: help and wrong use end the process, with 0 and 2.
pub fn parse<C: clap::Parser>() -> anyhow::Result<C> {
    parse_from(std::env::args_os())
}

/// As [`parse`], for a command line of our own.
///
/// # Errors
/// As [`parse`].
pub fn parse_from<C: clap::Parser>(
    line: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> anyhow::Result<C> {
    C::try_parse_from(line).or_else(|error| {
        if !error.use_stderr() {
            error.print()?;
            std::process::exit(0);
        }
        let mut text = error.render().to_string();
        if let Some(tip) = tip(&error) {
            text.push_str(&tip);
        }
        // A closed stderr changes nothing about the use being wrong.
        let _ = write!(io::stderr(), "{}", filter::clean(&text));
        std::process::exit(USAGE.into())
    })
}

/// People who come from elsewhere put models, questions and options where they belong there.
fn tip(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ErrorKind};
    let told = |kind| error.get(kind).map(ToString::to_string);
    let tip = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let name = told(ContextKind::InvalidSubcommand)?;
            if name.ends_with(".gguf") || std::path::Path::new(&name).exists() {
                format!("`moelten chat {name}` opens a model")
            } else if name.contains(char::is_whitespace) {
                "`moelten run --prompt TEXT` answers a question".to_owned()
            } else {
                return None;
            }
        }
        ErrorKind::UnknownArgument => {
            let (argument, usage) = (told(ContextKind::InvalidArg)?, told(ContextKind::Usage)?);
            if usage.contains("moelten [COMMAND]") {
                format!("options follow a command: `moelten chat {argument} ...`")
            } else if usage.contains("moelten run") && !argument.starts_with('-') {
                "the question follows --prompt".to_owned()
            } else {
                return None;
            }
        }
        _ => return None,
    };
    Some(format!("\n  tip: {tip}\n"))
}

/// Runs the program, prints how it ended and gives the exit code. A panic is a bug and says so in one line.
pub fn guarded(program: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    static PANIC: Mutex<String> = Mutex::new(String::new());
    // Kept, not printed: some panics of libraries are caught and become errors.
    std::panic::set_hook(Box::new(|info| {
        if let Ok(mut message) = PANIC.lock() {
            *message = info.to_string();
        }
    }));
    let ended = match catch_unwind(AssertUnwindSafe(program)) {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(error)) => report(&error),
        Err(_) => {
            let message = PANIC.lock().map(|message| message.clone()).unwrap_or_default();
            let text = format!("{message}\nThis is a bug of moelten. Please report it with what you did.");
            Report { code: "E-BUG-01", exit: 1, text }
        }
    };
    print(&ended);
    ended.exit.into()
}

/// Prints `error[E-XXX-NN]: ...` to stderr.
pub fn print(report: &Report) {
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
