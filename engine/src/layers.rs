//! The building blocks of a layer: pure functions over weights, spec and scratch buffers. None of them knows
//! which model it serves, and none reads a file.

pub mod ffn;
pub mod linear;
pub mod mixer;
pub mod norm;
pub mod rope;
pub mod scratch;
pub mod squares;
