//! Files and memory: opening and mapping files, direct reads, memory for experts, checked readers of small
//! files, and files that are written whole. With its children it is the one place of this crate with
//! `unsafe`. No file here knows a model format.
#![allow(
    unsafe_code,
    reason = "mapping a file is unsafe by nature; it happens here and nowhere else in the crate"
)]

mod allocator;
mod bytes;
pub mod disk;
pub mod fault;
#[cfg(unix)]
pub mod foreground;
pub mod json;
pub mod machine;
pub(crate) mod made;
mod memory;
pub mod output;
pub mod pieces;
pub mod probe;
pub mod read_at;
pub mod reader;
pub(crate) mod regular;

pub use allocator::{End, LastWord, OrEnd, room_for};
pub use bytes::FileBytes;
pub use memory::{HUGE_PAGE, Memory, Number, give_back};
pub(crate) use regular::RegularFile;
