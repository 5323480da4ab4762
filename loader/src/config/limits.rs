//! What the parts of the lowering share: bounds of sizes, the container, and how a family's rule and a file's
//! field combine. It must not know any operation.

use crate::config::field::Field;
use crate::config::fields::RawConfig;
use crate::error::Result;
use crate::families::{Family, Setting};
use crate::io::reader::narrow;

/// Upper bounds of the sizes of a model, far above those of every known one.
pub(super) const MAX_LAYERS: u64 = 1024;
pub(super) const MAX_WIDTH: u64 = 1 << 17;
pub(super) const MAX_FF: u64 = 1 << 20;
pub(super) const MAX_VOCAB: u64 = 1 << 22;
pub(super) const MAX_HEADS: u64 = 1024;
pub(super) const MAX_HEAD_DIM: u64 = 1024;
pub(super) const MAX_EXPERTS: u64 = 4096;
/// Experts of all layers together. Each takes memory before any weight is read.
pub(super) const MAX_EXPERTS_TOTAL: usize = 1 << 18;
pub(super) const MAX_CONTEXT: u64 = 1 << 26;

/// Which container a configuration came from; decides the Q/K row order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// A GGUF file.
    Gguf,
    /// A Hugging Face folder.
    HfFolder,
}

/// A property that a family fixes or leaves to the file.
pub(super) fn setting(rule: Setting, field: &Field<bool>) -> bool {
    match rule {
        Setting::Fixed(value) => value,
        Setting::Default(value) => field.value.unwrap_or(value),
    }
}

/// The factor on the embedding.
pub(super) fn embed_scale(raw: &RawConfig, family: &Family, d_model: usize) -> Result<f32> {
    let scale = raw.positive(&raw.embed_scale)?;
    Ok(match setting(family.embed_root, &raw.embed_root) {
        true => scale * narrow(root(d_model)),
        false => scale,
    })
}

/// The square root of a width.
pub(super) fn root(width: usize) -> f64 {
    f64::from(u32::try_from(width).unwrap_or(u32::MAX)).sqrt()
}
