//! The operations of a layer: functions over weights, spec and buffers. None of them knows which model it
//! computes, and none reads a file.

pub mod ffn;
pub mod layer_input;
pub mod linear;
pub mod mixer;
pub mod ngram;
pub mod norm;
pub mod rope;
pub mod scratch;
pub mod sinusoid;
pub mod squares;
pub mod streams;
