//! The moving line while a prompt is read. On a terminal it overwrites itself, elsewhere it is an ordinary line now
//! and then. It must not know who reads.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use crate::filter;
use crate::terminal::{Notes, Tone};

/// Shorter waits show nothing.
const PATIENCE: Duration = Duration::from_millis(500);
/// The same where lines stay.
const PATIENCE_PLAIN: Duration = Duration::from_secs(1);
/// Time between updates on a terminal.
const STEP: Duration = Duration::from_millis(200);
/// The same where lines stay.
const STEP_PLAIN: Duration = Duration::from_secs(10);
/// Speed is measured over the last one to two of these: reading gets slower as the context grows.
const WINDOW: Duration = Duration::from_secs(4);

/// Progress through a prompt.
#[derive(Debug)]
pub struct PromptProgress {
    notes: Notes,
    started: Instant,
    /// When how many tokens were read: the older end of the speed's window, and the next one.
    marks: Option<[(Duration, usize); 2]>,
    next: Duration,
    /// Columns to wipe.
    shown: usize,
}

impl PromptProgress {
    /// Nothing read yet, nothing shown.
    pub fn new(notes: Notes) -> Self {
        let next = if notes.terminal { PATIENCE } else { PATIENCE_PLAIN };
        Self { notes, started: Instant::now(), marks: None, next, shown: 0 }
    }

    /// `done` of `total` tokens are read.
    pub fn update(&mut self, done: usize, total: usize) {
        let elapsed = self.started.elapsed();
        let [old, new] = self.marks.get_or_insert([(elapsed, done); 2]);
        if elapsed - new.0 > WINDOW {
            (*old, *new) = (*new, (elapsed, done));
        }
        let (since, before) = *old;
        if elapsed < self.next || done >= total {
            return;
        }
        let text = line(done, total, done.saturating_sub(before), elapsed - since);
        self.next = elapsed + if self.notes.terminal { STEP } else { STEP_PLAIN };
        if self.notes.terminal {
            self.overwrite(&text);
        } else {
            self.notes.line(Tone::Dim, &text);
        }
    }

    /// Wipes the line: something else is about to be written.
    pub fn clear(&mut self) {
        if self.shown > 0 {
            self.overwrite("");
        }
    }

    /// Blanks instead of an erasing sequence: every terminal knows them.
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

/// `reading prompt 3.1k/14.4k (22%) 27 tok/s ~6m left`, if `recent` tokens took `time`.
fn line(done: usize, total: usize, recent: usize, time: Duration) -> String {
    let percent = done * 100 / total.max(1);
    let mut text = format!("reading prompt {}/{} ({percent}%)", short(done), short(total));
    let rate = recent as f64 / time.as_secs_f64().max(1e-3);
    if rate > 0.0 {
        let left = Duration::from_secs_f64(((total - done.min(total)) as f64 / rate).min(1e9));
        text.push_str(&format!(" {rate:.0} tok/s ~{} left", span(left)));
    }
    text
}

/// A count in at most five characters or so: 950, 3.1k, 128k.
pub fn short(count: usize) -> String {
    match count {
        0..1000 => count.to_string(),
        1000..100_000 => format!("{:.1}k", count as f64 / 1000.0),
        _ => format!("{}k", count / 1000),
    }
}

fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..90 => format!("{seconds}s"),
        seconds @ 90..5400 => format!("{}m", (seconds + 30) / 60),
        seconds => format!("{}h", (seconds + 1800) / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_far_how_fast_how_long() {
        let text = line(3100, 14_400, 3000, Duration::from_secs(100));
        assert_eq!(text, "reading prompt 3.1k/14.4k (21%) 30 tok/s ~6m left");
        assert_eq!(line(512, 512, 0, Duration::ZERO), "reading prompt 512/512 (100%)");
        assert_eq!(line(0, 0, 0, Duration::ZERO), "reading prompt 0/0 (0%)");
    }

    #[test]
    fn counts_and_spans_are_short() {
        assert_eq!([7, 999, 1000, 99_949, 131_072].map(short), ["7", "999", "1.0k", "99.9k", "131k"]);
        let spans = [5, 89, 90, 360, 7200].map(|s| span(Duration::from_secs(s)));
        assert_eq!(spans, ["5s", "89s", "2m", "6m", "2h"]);
    }
}
