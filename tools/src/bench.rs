//! The measurements of `bench` and `doctor`: models with generated weights, limits of the machine, timed runs
//! and the bytes they read. It must not know how figures are printed.

pub mod beside;
pub mod generate;
pub mod limits;
pub mod loops;
pub mod measure;
pub mod peak;
pub mod shape;
pub mod traffic;
