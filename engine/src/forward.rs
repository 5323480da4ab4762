//! The forward pass: a batch of runs in, logits out, states moved on. Reads like the papers (arXiv
//! 1706.03762, 2401.04088); everything that differs between models is in the specs of the branches. Nothing
//! here knows sequences of text.

pub mod batch;
mod branch;
pub mod decoder;
mod encoder;
pub mod executor;
mod heads;
mod images;
mod lookahead;
mod ngram;
pub mod observe;
