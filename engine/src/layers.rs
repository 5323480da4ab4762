//! The building blocks of a layer: pure functions over weights, spec and scratch buffers. None of them knows which
//! model it serves, and none reads a file.

pub mod attend;
pub mod attention;
pub mod embedding;
pub mod linear;
pub mod mlp;
pub mod moe;
pub mod norm;
pub mod rope;
