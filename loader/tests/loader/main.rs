//! The crate as others use it: containers, importance files, tokenizers and templates, good, bad and real.

mod bad_gguf;
mod bad_packed;
mod bad_paths;
mod bad_safetensors;
mod bad_text;
mod changed;
mod chat;
mod choices;
mod common;
mod control;
mod deep_templates;
mod durability;
mod encode_memory;
mod families;
mod from_the_wild;
mod imatrix;
mod m2m100;
mod meter;
mod real;
mod recent;
mod round_trip;
mod simulated;
mod tokenizer;
mod tokenizer_vectors;
mod vocab;
mod writer;
