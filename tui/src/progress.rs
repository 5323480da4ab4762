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

/// How fast something comes, lately.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// When how much was there: the older end of the window, and the next one.
    marks: Option<[(Duration, usize); 2]>,
    last: usize,
}

impl Pace {
    /// `done` is there at `now`.
    pub fn update(&mut self, now: Duration, done: usize) {
        let [old, new] = self.marks.get_or_insert([(now, done); 2]);
        if now.saturating_sub(new.0) > WINDOW {
            (*old, *new) = (*new, (now, done));
        }
        self.last = done;
    }

    /// How much came per second, if something did and time has passed.
    pub fn per_s(&self, now: Duration) -> Option<f64> {
        let [(since, before), _] = self.marks?;
        let seconds = now.saturating_sub(since).as_secs_f64();
        let more = self.last.saturating_sub(before);
        (more > 0 && seconds > 0.0).then(|| more as f64 / seconds)
    }
}

/// Progress through a prompt.
#[derive(Debug)]
pub struct PromptProgress {
    notes: Notes,
    started: Instant,
    pace: Pace,
    next: Duration,
    /// Columns to wipe.
    shown: usize,
}

impl PromptProgress {
    /// Nothing read yet, nothing shown.
    pub fn new(notes: Notes) -> Self {
        let next = if notes.terminal { PATIENCE } else { PATIENCE_PLAIN };
        Self { notes, started: Instant::now(), pace: Pace::default(), next, shown: 0 }
    }

    /// `done` of `total` tokens are read.
    pub fn update(&mut self, done: usize, total: usize) {
        let elapsed = self.started.elapsed();
        self.pace.update(elapsed, done);
        if elapsed < self.next || done >= total {
            return;
        }
        let text = reading(done, total, self.pace.per_s(elapsed));
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

/// `reading prompt 3.1k/14.4k, 27 tok/s, 6 min left`.
pub fn reading(done: usize, total: usize, per_s: Option<f64>) -> String {
    let mut text = format!("reading prompt {}/{}", short(done), short(total));
    if let Some(rate) = per_s {
        let left = Duration::from_secs_f64(((total - done.min(total)) as f64 / rate).min(1e9));
        text.push_str(&format!(", {rate:.0} tok/s, {} left", span_words(left)));
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

/// A time in words: 12 s, 6 min, 2 h.
pub fn span_words(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..90 => format!("{seconds} s"),
        seconds @ 90..5400 => format!("{} min", (seconds + 30) / 60),
        seconds => format!("{} h", (seconds + 1800) / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_far_how_fast_how_long() {
        let mut pace = Pace::default();
        pace.update(Duration::ZERO, 100);
        pace.update(Duration::from_secs(100), 3100);
        let per_s = pace.per_s(Duration::from_secs(100));
        assert_eq!(reading(3100, 14_400, per_s), "reading prompt 3.1k/14.4k, 30 tok/s, 6 min left");
        assert_eq!(reading(0, 0, Pace::default().per_s(Duration::ZERO)), "reading prompt 0/0");
    }

    #[test]
    fn counts_and_spans_are_short() {
        assert_eq!([7, 999, 1000, 99_949, 131_072].map(short), ["7", "999", "1.0k", "99.9k", "131k"]);
        let spans = [5, 89, 90, 360, 7200].map(|s| span_words(Duration::from_secs(s)));
        assert_eq!(spans, ["5 s", "89 s", "2 min", "6 min", "2 h"]);
    }
}
