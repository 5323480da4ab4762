//! The kernels. Every tier has a [`Kernels`]: a table of functions that do the same on the same data.
//!
//! Builds for fuzzing and the unit tests have the scalar tier alone: what they test does not depend on the
//! tier, and the others take most of the build time. The tests in `tests/quant` have all tiers.

#![allow(unsafe_code, reason = "kernels are reached through pointers whose instructions were detected")]

#[cfg(all(target_arch = "aarch64", not(any(fuzzing, test))))]
mod arm;
mod attend;
mod fill;
pub(crate) mod lines;
mod ops;
mod outputs;
mod picks;
mod piece;
mod prefetch;
mod recurrence;
#[cfg(any(test, all(any(target_arch = "x86_64", target_arch = "aarch64"), not(fuzzing))))]
mod runs;
mod scalar;
mod table;
mod tiers;
mod tiled;
#[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(any(fuzzing, test))))]
mod wide;
#[cfg(all(target_arch = "x86_64", not(any(fuzzing, test))))]
pub(crate) mod x86;

pub use attend::{Attend, DistanceBias, KEY_GROUP, KvHead, MAX_HEAD_DIM, Running, SPAN};
pub use fill::activations;
pub use outputs::GROUP_ROWS;
pub use picks::Picks;
pub use recurrence::{DeltaStep, HeadMatrix, SpaceStep};
pub use table::{Kernels, Reading};
