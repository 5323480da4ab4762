//! Expert weights: which experts are resident, which are being read, and where they come from.
//! [`store::ExpertStore`] is the only way by which layers get them. Nothing here knows how experts are
//! multiplied, nor tensor names.

mod acquired;
pub mod beside;
pub mod cache;
pub mod device;
mod device_stats;
mod head_share;
pub mod live;
mod live_device;
pub mod policy;
mod prefetch;
pub mod pressure;
mod readers;
pub mod reuse;
pub mod room;
#[cfg(test)]
mod schedules;
mod shared_share;
pub mod slots;
pub mod source;
pub mod split;
pub mod stats;
pub mod store;
mod streamed;
pub mod tier;
mod touch;

use crate::runtime::sync;
