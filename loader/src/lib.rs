//! Files to a typed model: GGUF, safetensors, `config.json`, tokenizers, chat templates, lowered to a validated
//! [`spec::ModelSpec`] and a store of tensors by role. All hostile input ends in this crate.
//!
//! It never knows how a layer computes or what is cached.

pub mod catalog;
pub mod chat;
pub mod error;
pub mod io;
mod json;
pub mod spec;
pub mod tokenizer;
