//! Files to a typed model: GGUF, safetensors, `config.json`, tokenizers, chat templates, lowered to a
//! validated [`spec::ModelSpec`] and a store of tensors by role. All untrusted input is checked in this
//! crate.
//!
//! It never knows how a layer computes or what is cached.

mod capacity;
mod config;
pub mod container;
pub mod convert;
pub mod error;
mod families;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod imatrix;
pub mod io;
pub mod load;
pub mod near;
pub mod picture;
pub mod rule;
pub mod size;
pub mod spec;
pub mod supervise;
pub mod task;
pub mod tensors;
pub mod text;
