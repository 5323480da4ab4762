//! An earlier conversation in a list. It must not know where it is stored.

use std::path::PathBuf;
use std::time::Duration;

/// A conversation that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionEntry {
    /// Its file.
    pub path: PathBuf,
    /// The beginning of its first question, filtered.
    pub title: String,
    /// The name of its model, not filtered.
    pub model: String,
    /// Questions and answers in it.
    pub messages: usize,
    /// Time since it was written.
    pub age: Duration,
    /// Whether it is the one on the screen.
    pub open: bool,
}

impl SessionEntry {
    /// The time since it was written: `just now`, `5 min ago`, `3 days ago`.
    pub fn when(&self) -> String {
        let minutes = self.age.as_secs() / 60;
        let plural = |number: u64, unit: &str| match number {
            1 => format!("1 {unit} ago"),
            _ => format!("{number} {unit}s ago"),
        };
        match minutes {
            0..2 => "just now".to_owned(),
            2..90 => format!("{minutes} min ago"),
            90..2160 => plural((minutes + 30) / 60, "hour"),
            _ => plural((minutes + 720) / 1440, "day"),
        }
    }
}
