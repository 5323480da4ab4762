//! Carries out what the chat asks for: in line mode (`line`), or on the full screen (`full`) with the model on a thread of
//! its own (`worker`). All decisions are in the state machines; this part must not make any.

mod desk;
mod editor;
mod full;
mod line;
mod terminal;
mod worker;

pub use desk::LAST_WAIT;
pub use full::{Asked, Controls, run as run_screen};
pub use line::{AnswerStream, run as run_lines};
