//! The chat as pure state machines with a thin driver around them, and the filter between untrusted text and
//! the terminal.
//!
//! | folder | holds | knows |
//! |---|---|---|
//! | `markdown` | text for a terminal: filter, colours, wrapping, Markdown | nothing below |
//! | `input` | what the user writes: composer, commands, settings | `markdown` |
//! | `chat` | the conversation as a state machine | `markdown`, `input` |
//! | `experts` | the picture of the expert cache | `markdown`, `chat` |
//! | `screen` | the full screen as a state machine | all of the above |
//! | `driver` | input, output, clock and threads | all of the above |
//!
//! The crate never sees a tensor: answers come through [`chat::Backend`].

pub mod chat;
pub mod driver;
mod experts;
#[cfg(fuzzing)]
pub mod fuzzing;
mod input;
mod markdown;
pub mod screen;

pub use chat::{figures, thinking};
pub use driver::terminal;
pub use markdown::{filter, theme};
