//! The conversation as a pure state machine: [`Chat::handle`] takes a [`ChatEvent`] and returns
//! [`ChatEffect`]s. No input, output or clock; drivers do those, and the full screen builds on it. It must
//! not see a tensor, nor the text of an answer before the answer is complete.

mod answers;
mod backend;
mod event;
mod facts;
pub mod figures;
mod files;
mod handle;
mod meter;
mod model;
mod overflow;
mod reports;
mod revise;
mod session_entry;
mod sessions;
mod state;
pub mod thinking;
mod tone;
pub(crate) mod transcript;
mod turn;

pub use backend::{
    Backend, CountConversation, CountText, Counters, Failure, NotSwitched, PreviousModel, Request, Switched,
    Tell, TellProgress, TokenCount,
};
pub use event::{AttachError, ChatEffect, ChatEvent, FileEvent, OverflowChoice, Overwrite};
pub use facts::{Facts, Limits, ModelCard};
pub use handle::FORCE_QUIT_WITHIN;
pub use meter::CONTEXT_WARNING_PERCENT;
pub use reports::{count_text, help, summary};
pub use session_entry::SessionEntry;
pub use sessions::{SavedModel, saved_model};
pub use state::Chat;
pub use tone::Tone;
pub use turn::{Attachment, Turn};

#[cfg(test)]
mod tests;
