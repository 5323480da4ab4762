//! Texts from the command line, files and pipes. It must not know what they are for.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context;
use moelten_loader::supervise::supervised;
use moelten_tui::driver::{NOT_UTF8, lossy};
use moelten_tui::terminal::{Notes, Tone};

use crate::exit::CommandError;

/// Longest text in bytes, far beyond any context.
const BYTES_MAX: u64 = 64 << 20;

/// Time after which a silent pipe is mentioned.
const REMINDER_AFTER: Duration = Duration::from_secs(2);

/// A text, or for `@FILE` the content of the file.
///
/// # Errors
/// Files that cannot be read.
pub fn text_or_file(argument: &str, notes: Notes) -> anyhow::Result<String> {
    match argument.strip_prefix('@') {
        Some(path) => file(Path::new(path), notes),
        None => Ok(argument.to_owned()),
    }
}

/// The content of a file.
///
/// # Errors
/// Files that cannot be read or are too large.
pub fn file(path: &Path, notes: Notes) -> anyhow::Result<String> {
    let open = || read(File::open(path)?, &path.display().to_string(), notes);
    open().with_context(|| format!("cannot read {}", path.display()))
}

/// The content of stdin if it is a pipe or file; `None` if it is a terminal or another device.
///
/// # Errors
/// Read errors, too much text.
pub fn piped(notes: Notes) -> anyhow::Result<Option<String>> {
    if !connected() {
        return Ok(None);
    }
    // A pipe that was left open by mistake would look like a program that hangs.
    let (done, end) = mpsc::channel::<()>();
    let reminder = move || {
        if end.recv_timeout(REMINDER_AFTER) == Err(mpsc::RecvTimeoutError::Timeout) {
            let text = "reading stdin until it ends; add </dev/null if there is no input";
            notes.line(Tone::Dim, text);
        }
    };
    // Without a thread there is no reminder.
    let _ = supervised("reminder", move |message| notes.line(Tone::Warning, &message), reminder);
    let text = read(io::stdin().lock(), "stdin", notes).context("cannot read stdin");
    drop(done);
    text.map(Some)
}

/// Whether stdin is a pipe or a file. `/dev/null` and terminals hold no prompt.
fn connected() -> bool {
    #[cfg(unix)]
    if let Ok(metadata) = std::fs::metadata("/dev/stdin") {
        return !std::os::unix::fs::FileTypeExt::is_char_device(&metadata.file_type());
    }
    !io::stdin().is_terminal()
}

fn read(source: impl Read, name: &str, notes: Notes) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    source.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        let problem = format!("{name} holds more than {} MiB of text", BYTES_MAX >> 20);
        return Err(CommandError::Usage(problem).into());
    }
    let (text, replaced) = lossy(bytes);
    if replaced {
        notes.line(Tone::Warning, NOT_UTF8);
    }
    Ok(text)
}
