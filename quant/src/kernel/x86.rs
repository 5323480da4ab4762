//! The x86-64 tiers: the instructions of `avx2`, `avx512`, `rows256`, `along256` and `rows512` for what
//! `wide` asks of a tier, the tiles of `amx`, and the tables that put them together.

mod along256;
mod amx;
mod avx2;
mod avx512;
pub(crate) mod detect;
mod kept;
mod peaks;
mod rows256;
mod rows512;
pub(super) mod tables;
