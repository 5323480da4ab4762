//! The engine's tests except for the goldens: invariants of the bits, refused models, faults of the disk.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

mod bad_models;
mod batch;
mod beams;
mod block_types;
mod branches;
mod common;
mod conversion;
mod device;
mod encdec;
mod equality;
mod forms;
mod images;
mod importance;
mod layouts;
mod longrope;
mod nvfp4;
mod packed;
mod pressure;
mod quantized;
mod rules;
mod saved;
mod store;
mod threads;
mod variants;
