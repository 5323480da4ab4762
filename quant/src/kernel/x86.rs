//! The x86-64 tiers. `lanes` and `rows` say what a tier must offer for floats and for codes, `avx2`,
//! `avx512`, `rows256` and `rows512` offer it; `product`, `vector`, `attend`, `blocks` and `product8` are
//! written once over it; `tables` puts it together.
//!
//! Generic functions are `#[inline(always)]` and carry no instructions of their own: they become machine
//! code inside `#[target_feature]` functions, those of `tables` and [`tier::Tier::call`]. All of them are
//! `unsafe` for the same two reasons: the processor must have the tier's instructions, and pointers must be
//! good for what is read and written.

mod amx;
mod attend;
mod attend_tile;
mod avx2;
mod avx512;
mod blocks;
mod coded;
pub(crate) mod detect;
mod lanes;
mod peaks;
mod product;
mod product8;
mod rows;
mod rows256;
mod rows512;
pub(super) mod tables;
mod tier;
mod unpack;
mod vector;
