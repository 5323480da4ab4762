//! The progress line while a prompt is read, on stderr. On a terminal it overwrites itself; elsewhere a line
//! is written now and then. It must not know what reads the prompt.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::notes::Notes;
use crate::chat::Tone;
use crate::markdown::filter;
use crate::screen::progress::{RateMeter, reading};

/// Time before the first line: shorter waits show nothing.
const DELAY: Duration = Duration::from_millis(500);
/// The same where the line cannot be overwritten.
const DELAY_PLAIN: Duration = Duration::from_secs(1);
/// Time between updates on a terminal.
const STEP: Duration = Duration::from_millis(200);
/// The same where the line cannot be overwritten.
const STEP_PLAIN: Duration = Duration::from_secs(10);

/// Shows the progress through a prompt.
#[derive(Debug)]
pub struct PromptProgress {
    notes: Notes,
    started: Instant,
    rate: RateMeter,
    next: Duration,
    /// Columns of the line that is on the screen.
    shown: usize,
}

impl PromptProgress {
    /// Starts the clock; nothing is shown yet.
    pub fn new(notes: Notes) -> Self {
        let next = if notes.terminal { DELAY } else { DELAY_PLAIN };
        Self { notes, started: Instant::now(), rate: RateMeter::default(), next, shown: 0 }
    }

    /// Takes the progress, in tokens, and shows it if it is time.
    pub fn update(&mut self, done: usize, total: usize) {
        let elapsed = self.started.elapsed();
        self.rate.update(elapsed, done);
        if self.notes.quiet || elapsed < self.next || done >= total {
            return;
        }
        let text = reading(done, total, self.rate.per_s(elapsed));
        self.next = elapsed + if self.notes.terminal { STEP } else { STEP_PLAIN };
        if self.notes.terminal {
            self.overwrite(&text);
        } else {
            self.notes.line(Tone::Dim, &text);
        }
    }

    /// Removes the line before something else is written.
    pub fn clear(&mut self) {
        if self.shown > 0 {
            self.overwrite("");
        }
    }

    /// Overwrites the line with blanks at its end, because not every terminal has an erasing sequence.
    fn overwrite(&mut self, text: &str) {
        let text: String = filter::clean_line(text).chars().take(self.notes.columns() - 1).collect();
        let blanks = " ".repeat(self.shown.saturating_sub(text.len()));
        self.shown = text.len();
        let text = if text.is_empty() { text } else { self.notes.dress(Tone::Dim, &text) };
        let mut out = io::stderr();
        let _ = write!(out, "\r{text}{blanks}")
            .and_then(|()| if self.shown == 0 { write!(out, "\r") } else { Ok(()) });
        let _ = out.flush();
    }
}
