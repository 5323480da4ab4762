//! File formats that hold tensors: GGUF, safetensors and folders of them, the packed layout of experts, and
//! what a file is by its first bytes. No file here knows what a tensor is for.

pub mod catalog;
pub mod gguf;
pub mod hf_folder;
pub mod open;
pub mod packed;
pub mod safetensors;
pub(crate) mod sniff;
