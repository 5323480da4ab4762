//! Sequences of tokens: what is in them, how they grow, and how text comes out of them.

pub mod generate;
pub mod sampler;
pub mod saved;
pub mod session;
pub mod stop;
