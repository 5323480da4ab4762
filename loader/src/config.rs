//! Configurations: the keys of GGUF metadata and of `config.json`, read into one form and lowered to a
//! [`crate::spec::ModelSpec`], and that spec written as GGUF metadata. No file here reads tensors.

mod adjugate;
mod compressed;
mod conv;
mod delta;
mod encdec;
mod experts;
mod field;
pub(crate) mod fields;
pub(crate) mod find;
pub(crate) mod gguf;
mod heads;
pub(crate) mod hf;
pub(crate) mod ignored;
mod images;
mod kda;
mod latent;
pub(crate) mod limits;
pub(crate) mod lower;
mod ngram;
mod positions;
mod predicting;
mod raw;
mod rope;
mod sources;
mod ssm;
pub(crate) mod write;
mod write_encdec;
mod write_images;
mod write_keys;
mod write_latent;
pub(crate) mod write_ngram;
mod write_recurrent;
mod write_rope;
