//! The full screen as a pure state machine around the conversation: [`Screen::handle`] takes a
//! [`ScreenEvent`] (a key, a paste, a piece of an answer, the passing of time) and returns [`ScreenEffect`]s;
//! [`Screen::draw`] draws it. No input, output, clock or thread; those are the driver's.

mod draw;
mod event;
mod handle;
mod help;
mod key_table;
mod keys;
mod live;
mod log;
mod model_entry;
mod picker;
pub(crate) mod progress;
mod state;
mod status;

pub use event::{CompletionRequest, ScreenEffect, ScreenEvent, Urgency};
pub use model_entry::{ModelEntry, ModelSearch, SearchStep, Verdict};
pub use state::Screen;

#[cfg(test)]
mod tests;
