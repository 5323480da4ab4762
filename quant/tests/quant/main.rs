//! The tests of the public interface, one binary: kernels of every tier against the scalar reference and
//! double precision, the encoders, and what is read and written. Private parts are tested beside their
//! code.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails with the test")]

mod activations;
mod attend;
mod attend_whole;
mod common;
mod eight_lanes;
mod encode;
mod float_products;
#[cfg(unix)]
mod guard;
mod peaks;
mod products;
mod recurrence;
mod reference;
mod small;
mod tiers;
mod vectors;
