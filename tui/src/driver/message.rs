//! What the worker threads send to the thread of the screen. Plain data.

use std::sync::Weak;

use crate::chat::Counters;
use crate::screen::{ScreenEvent, SearchStep};

/// A message of a worker thread.
pub enum WorkerMessage {
    /// An event for the screen.
    Event(ScreenEvent),
    /// A step of a search for models. It counts only as long as the screen's thread holds the search.
    Search(Weak<()>, SearchStep),
    /// Another model is open: these are its counters.
    Counters(Counters),
    /// A worker thread has panicked, with this message; it answers nothing any more.
    Panicked(String),
}
