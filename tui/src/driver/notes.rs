//! Notes for the user on stderr, so that stdout carries nothing but answers; and what the terminal can show.
//! It must not know what a note says.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::style::Stylize;
use crossterm::terminal;

use super::fold::fold;
use crate::chat::Tone;
use crate::markdown::filter;

/// How notes are written to stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notes {
    /// stderr is a terminal: a line may be overwritten.
    pub terminal: bool,
    /// Whether to use escape sequences for colours.
    pub styled: bool,
    /// Only warnings and errors are written.
    pub quiet: bool,
}

/// Whether [`Notes::detect`] gives quiet notes.
static QUIET: AtomicBool = AtomicBool::new(false);

impl Notes {
    /// Asks the environment. Colours need a terminal, a `TERM` other than `dumb`, and `NO_COLOR`
    /// (no-color.org) unset or empty.
    pub fn detect() -> Self {
        let terminal = io::stderr().is_terminal();
        Self { terminal, styled: terminal && styles_allowed(), quiet: QUIET.load(Ordering::Relaxed) }
    }

    /// Notes without colours, for a stderr that is no terminal.
    pub fn plain() -> Self {
        Self { terminal: false, styled: false, quiet: QUIET.load(Ordering::Relaxed) }
    }

    /// From now on only warnings and errors of the program are written.
    pub fn be_quiet() {
        QUIET.store(true, Ordering::Relaxed);
    }

    /// The same notes, of which all are written: the user asked for them.
    pub fn aloud(self) -> Self {
        Self { quiet: false, ..self }
    }

    /// `text`, filtered and with the style of its tone.
    pub fn dress(self, tone: Tone, text: &str) -> String {
        let text = filter::clean(text);
        match tone {
            _ if !self.styled => text,
            Tone::Plain => text,
            Tone::Dim => text.dim().to_string(),
            Tone::Warning => text.yellow().to_string(),
            Tone::Error => text.red().to_string(),
        }
    }

    /// Writes a line. A closed stderr is ignored: the answer goes to stdout.
    pub fn line(self, tone: Tone, text: &str) {
        if self.quiet && matches!(tone, Tone::Plain | Tone::Dim) {
            return;
        }
        // The terminal would break words.
        let rows =
            |line: &str| if self.terminal { fold(line, self.columns()) } else { vec![line.to_owned()] };
        let rows: Vec<_> = filter::clean(text).split('\n').flat_map(rows).collect();
        let _ = writeln!(io::stderr(), "{}", self.dress(tone, &rows.join("\n")));
    }

    /// Columns of the terminal; 80 where there is none.
    pub fn columns(self) -> usize {
        let size = if self.terminal { terminal::size().ok() } else { None };
        // Some pseudo-terminals report 0.
        size.filter(|&(columns, _)| columns > 0).map_or(80, |(columns, _)| usize::from(columns))
    }
}

/// Whether to use colours on stdout, by the rules of [`Notes::detect`].
pub fn stdout_styled() -> bool {
    io::stdout().is_terminal() && styles_allowed()
}

/// Columns of the terminal that stdout is; `None` if it is none.
pub fn stdout_columns() -> Option<usize> {
    let size = if io::stdout().is_terminal() { terminal::size().ok() } else { None };
    size.filter(|&(columns, _)| columns > 0).map(|(columns, _)| usize::from(columns))
}

fn styles_allowed() -> bool {
    has_escape_sequences() && set("NO_COLOR").is_none()
}

/// Whether the terminal has escape sequences: `TERM` is set and not `dumb`.
#[cfg(not(windows))]
pub fn has_escape_sequences() -> bool {
    !cfg!(unix) || set("TERM").is_some_and(|term| term != "dumb")
}

/// Whether the terminal has escape sequences. A console interprets them only after a program asked for it,
/// which this does.
#[cfg(windows)]
pub fn has_escape_sequences() -> bool {
    crossterm::ansi_support::supports_ansi()
}

fn set(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
