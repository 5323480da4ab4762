//! An earlier conversation in a list. It must not know where it is stored.

use std::path::PathBuf;
use std::time::Duration;

use super::figures;

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
    /// When it was written, in words.
    pub fn when(&self) -> String {
        figures::ago(self.age)
    }
}
