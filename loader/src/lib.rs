//! Files to a typed model: GGUF, safetensors, `config.json`, tokenizers, chat templates, lowered to a validated
//! [`spec::ModelSpec`] and a store of tensors by role. All hostile input ends in this crate.
//!
//! It never knows how a layer computes or what is cached.

pub mod catalog;
pub mod chat;
mod config_gguf;
mod config_hf;
pub mod convert;
pub mod copied;
pub mod error;
mod families;
pub mod gguf;
mod gguf_keys;
pub mod gguf_write;
pub mod hf_folder;
pub mod imatrix;
pub mod io;
pub mod json;
pub mod load;
mod lower;
pub mod open;
pub mod output;
pub mod packed;
mod raw;
pub mod reader;
pub mod roles;
mod rope;
pub mod safetensors;
mod sniff;
pub mod spec;
pub mod store;
pub mod text;
pub mod tokenizer;
