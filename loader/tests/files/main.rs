//! The file containers against good, bad and real files.

#[path = "../common/mod.rs"]
mod common;

mod bad_gguf;
mod bad_packed;
mod bad_paths;
mod bad_safetensors;
mod changed;
mod meter;
mod real;
mod round_trip;
mod writer;
