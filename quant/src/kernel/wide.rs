//! Kernels that are written once for all tiers with vectors. `lanes` and `rows` say what a tier must offer
//! for floats and for codes; `product`, `vector`, `attend`, `recurrence`, `blocks`, `product8`, `one_token`
//! and `coded` are written over it. They must not know instructions.
//!
//! Generic functions are `#[inline(always)]` and carry no instructions of their own: they become machine
//! code inside `#[target_feature]` functions, those of a tier's tables and [`tier::Tier::call`]. All of them
//! are `unsafe` for the same two reasons: the processor must have the tier's instructions, and pointers must
//! be good for what is read and written.

pub(super) mod attend;
mod attend_tile;
pub(super) mod blocks;
pub(super) mod coded;
pub(super) mod fill;
pub(super) mod float_table;
pub(super) mod lanes;
pub(in crate::kernel) mod one_token;
pub(super) mod product;
pub(super) mod product8;
pub(super) mod recurrence;
pub(super) mod rows;
pub(super) mod tier;
mod unpack;
pub(super) mod vector;
