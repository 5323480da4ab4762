//! Progress of long work: a bar with rate and time left on a terminal, a plain line every few seconds
//! elsewhere. It must not know what the work is.

use std::fmt;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
pub use moelten_tui::figures::bytes;
use moelten_tui::terminal::{Notes, Tone};

/// Time between two lines without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What progress counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown as MiB and GiB.
    Bytes,
    /// Shown as a plain number with its rate.
    Tokens,
}

/// A bar or lines on stderr; the bar is removed when dropped.
pub struct Progress {
    bar: Option<ProgressBar>,
    label: &'static str,
    unit: Unit,
    total: u64,
    started: Instant,
    /// Units done before the start, for the rate.
    before: u64,
    last_line: Instant,
}

impl Progress {
    /// Starts showing progress towards `total` units.
    pub fn new(label: &'static str, unit: Unit, total: u64) -> Self {
        let notes = Notes::detect();
        let bar = (notes.styled && !notes.quiet).then(|| {
            let amount = match unit {
                Unit::Bytes => "{binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}",
                Unit::Tokens => "{human_pos}/{human_len} tokens {rate}",
            };
            let template = format!("{{prefix}} {{wide_bar}} {amount} {{eta}} left");
            let style = ProgressStyle::with_template(&template).expect("the template above is sound");
            let style = style.with_key("rate", |state: &ProgressState, to: &mut dyn fmt::Write| {
                // A place that cannot be written to shows no rate.
                let _ = write!(to, "{:.1} tokens/s", state.per_sec());
            });
            ProgressBar::new(total).with_prefix(label).with_style(style)
        });
        let now = Instant::now();
        Self { bar, label, unit, total, started: now, before: 0, last_line: now }
    }

    /// Starts at `before` units, which took no time: resumed work.
    pub fn begin_at(&mut self, before: u64) {
        (self.before, self.started) = (before, Instant::now());
        if let Some(bar) = &self.bar {
            bar.set_position(before);
            bar.reset_eta();
        }
    }

    /// Prints a line without disturbing the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| Notes::detect().line(Tone::Plain, line)),
            None => Notes::plain().line(Tone::Plain, line),
        }
    }

    /// Updates to `done` units.
    pub fn set(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            Notes::plain().line(Tone::Plain, &self.text(done));
        }
    }

    fn text(&self, done: u64) -> String {
        let seconds = self.started.elapsed().as_secs_f64().max(1e-3);
        let rate = done.saturating_sub(self.before) as f64 / seconds;
        let left = self.total.saturating_sub(done) as f64 / rate.max(1e-9);
        let share = 100.0 * done as f64 / self.total.max(1) as f64;
        let (label, total) = (self.label, self.total);
        match self.unit {
            Unit::Bytes => {
                let (done, total, rate) = (bytes(done), bytes(total), bytes(rate as u64));
                format!("{label} {done}/{total} ({share:.0}%) {rate}/s, {left:.0} s left")
            }
            Unit::Tokens => {
                format!("{label} {done}/{total} ({share:.0}%) {rate:.1} tokens/s, {left:.0} s left")
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
