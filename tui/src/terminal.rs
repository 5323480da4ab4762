//! What this program knows about the terminal it runs in, and how to leave it as it was found. It must not know what
//! is shown.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use crossterm::style::Stylize;

use crate::filter;

/// How to write to people: on stderr, so that stdout carries answers and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notes {
    /// stderr is a terminal: lines may be overwritten.
    pub terminal: bool,
    /// Escape sequences for dim and bold text are welcome.
    pub styled: bool,
}

/// How loud a note is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// The program speaks.
    Plain,
    /// Beside the point.
    Dim,
    /// To be seen.
    Warning,
    /// It did not work.
    Error,
}

impl Notes {
    /// Asks the environment: a terminal, not `TERM=dumb`, `NO_COLOR` (no-color.org) unset or empty.
    pub fn detect() -> Self {
        let terminal = io::stderr().is_terminal();
        Self { terminal, styled: terminal && styles_welcome() }
    }

    /// Notes without a terminal.
    pub fn plain() -> Self {
        Self { terminal: false, styled: false }
    }

    /// `text` filtered and dressed.
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

    /// Writes a line. A closed stderr is nobody's problem: the answer goes elsewhere.
    pub fn line(self, tone: Tone, text: &str) {
        let _ = writeln!(io::stderr(), "{}", self.dress(tone, text));
    }

    /// Columns of the terminal, 80 where there is none.
    pub fn columns(self) -> usize {
        let size = if self.terminal { crossterm::terminal::size().ok() } else { None };
        // Some pseudo-terminals say 0.
        size.filter(|&(columns, _)| columns > 0).map_or(80, |(columns, _)| usize::from(columns))
    }
}

/// Whether escape sequences for colours are welcome on stdout, by the rules of [`Notes::detect`].
pub fn stdout_styled() -> bool {
    io::stdout().is_terminal() && styles_welcome()
}

fn styles_welcome() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let dumb = cfg!(unix) && set("TERM").is_none_or(|term| term == "dumb");
    !dumb && set("NO_COLOR").is_none()
}

#[cfg(unix)]
static FOUND: OnceLock<rustix::termios::Termios> = OnceLock::new();
#[cfg(not(unix))]
static FOUND: OnceLock<()> = OnceLock::new();

/// Remembers the terminal's modes for [`restore`]. Called before anything changes them.
pub fn remember() {
    #[cfg(unix)]
    if let Ok(modes) = rustix::termios::tcgetattr(rustix::stdio::stdin()) {
        let _ = FOUND.set(modes);
    }
}

/// Gives the terminal back with the modes that [`remember`] saw, and without bracketed paste, which the line editor
/// may have switched on. For ways out on which the editor cannot clean up; does nothing if nothing was remembered.
pub fn restore() {
    #[cfg(unix)]
    if let Some(modes) = FOUND.get() {
        let now = rustix::termios::OptionalActions::Now;
        let _ = rustix::termios::tcsetattr(rustix::stdio::stdin(), now, modes);
        if io::stdout().is_terminal() && Notes::detect().styled {
            let _ = crossterm::execute!(io::stdout(), crossterm::event::DisableBracketedPaste);
        }
    }
}
