//! The ARM tiers, for 64-bit processors: `neon`, which all of them have, `dotprod` with `sdot`, and `i8mm`
//! with `smmla` for several tokens. `floats` and `rows` are the instructions for what `wide` asks of a tier;
//! `dots` multiplies codes, `pairs` those of several tokens with `smmla`; `tables` puts them together.
//!
//! **Rows in sequence.** On x86 a vector holds four columns of many rows, because dot products there need
//! no more than a broadcast. Registers of 16 bytes would need twice the instructions. So here a vector holds
//! 16 columns of one row, straight from memory: no transposition, and a token's codes are loaded as they are
//! for all rows. `sdot` leaves four partial sums of each row, and three `addp` make one vector of the sums
//! of four rows. From there on lanes are rows, as on x86, and so are the steps in floating point: the bits
//! are the same.

mod dots;
mod floats;
mod pairs;
mod peaks;
mod rows;
pub(super) mod tables;
mod vectors;
