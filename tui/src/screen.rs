//! The full screen as a pure state machine around the conversation: [`Screen::handle`] takes a
//! [`ScreenEvent`] (a key, a paste, a piece of an answer, the passing of time) and returns [`ScreenEffect`]s;
//! [`Screen::draw`] draws it. No input, output, clock or thread; those are the driver's.

mod draw;
mod event;
mod finder;
mod handle;
mod help;
mod key_table;
mod keys;
mod list;
mod live;
mod log;
mod model_entry;
mod palette;
mod picker;
pub(crate) mod progress;
mod queue;
mod reading;
mod sessions;
mod state;
mod status;
mod suggest;
mod welcome;

pub use event::{CompletionRequest, ScreenEffect, ScreenEvent, Urgency};
pub use model_entry::{ModelEntry, ModelSearch, SearchStep, Verdict};
pub use state::Screen;

#[cfg(test)]
mod tests;
