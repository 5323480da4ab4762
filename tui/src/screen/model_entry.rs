//! A model in the list of models, and the search that finds them. Plain data; the program fills it in.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

/// A model that may be chosen. Texts are not filtered; the picker filters them.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelEntry {
    /// The name, usually the file name.
    pub name: String,
    /// Where it is, as text.
    pub place: String,
    /// Its file or folder; `None` is the built-in model.
    pub path: Option<PathBuf>,
    /// Size of its files, in bytes.
    pub bytes: Option<u64>,
    /// Family and format of its weights.
    pub kind: String,
    /// Whether it runs on this machine.
    pub verdict: Verdict,
}

/// Whether a model runs on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It fits into memory; its expected speed.
    Ram(String),
    /// Its experts are streamed from disk; its expected speed.
    Stream(String),
    /// It does not run; the reason.
    No(String),
    /// It cannot be opened; the reason.
    Unreadable(String),
}

impl Verdict {
    /// The verdict in one word, as the list shows it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ram(_) => "RAM",
            Self::Stream(_) => "STREAM",
            Self::No(_) => "NO",
            Self::Unreadable(_) => "?",
        }
    }

    /// The expected speed, or the reason.
    pub fn words(&self) -> &str {
        match self {
            Self::Ram(words) | Self::Stream(words) | Self::No(words) | Self::Unreadable(words) => words,
        }
    }

    /// Whether the model can be chosen.
    pub fn runs(&self) -> bool {
        matches!(self, Self::Ram(_) | Self::Stream(_))
    }
}

/// A step of the search for models.
#[derive(Debug, Clone, PartialEq)]
pub enum SearchStep {
    /// A model was found.
    Model(ModelEntry),
    /// A place could not be searched; a message.
    Problem(String),
    /// The search is complete.
    Done,
}

/// Searches this machine for models, on any thread. Hands each step to the callback until that breaks.
pub type ModelSearch = Arc<dyn Fn(&mut dyn FnMut(SearchStep) -> ControlFlow<()>) + Send + Sync>;
