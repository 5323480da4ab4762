//! What people see: the chat as a pure state machine with a thin driver around it, progress lines, and the filter
//! between untrusted text and the terminal. It never sees a tensor: answers come through [`backend::Backend`].

pub mod backend;
pub mod chat;
pub mod command;
pub mod complete;
pub mod composer;
pub mod driver;
pub mod experts;
pub mod figures;
pub mod files;
pub mod filter;
pub mod input;
pub mod markdown;
pub mod picker;
pub mod progress;
pub mod screen;
pub mod settings;
pub mod terminal;
pub mod theme;
pub mod thinking;
pub mod transcript;
pub mod wrap;
