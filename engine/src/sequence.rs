//! Sequences of tokens: what is in them, how they grow, and how text comes out of them.

mod beams;
pub mod generate;
pub mod images;
pub mod sampler;
pub mod saved;
pub mod session;
pub mod stop;
