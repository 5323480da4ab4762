//! What the user writes: the text being composed, earlier entries, the slash commands and the settings that
//! they change. Pure state, no input or output. It must not know what becomes of an entry.

pub mod command;
pub mod completion;
pub mod composer;
pub mod recall;
pub mod settings;
