//! Expert weights: which are in memory, which are on their way, and where they come from. [`store::ExpertStore`] is the only
//! way by which layers get them. Nothing here knows how experts are multiplied, nor tensor names.

mod acquired;
pub mod cache;
mod guessing;
pub mod live;
pub mod policy;
pub mod pressure;
mod readers;
pub mod room;
#[cfg(test)]
mod schedules;
pub mod slots;
pub mod source;
pub mod stats;
pub mod store;
mod streamed;
mod touch;

use crate::runtime::sync;
