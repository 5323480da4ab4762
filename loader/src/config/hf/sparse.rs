//! Which layers of a folder's model have experts. It must not know what an expert is.

use crate::config::field::{Field, PerLayer};
use crate::config::fields::RawConfig;
use crate::error::{Fault, Result};

/// Layers that a list is made for; the lowering refuses more.
pub(super) const MAX_LAYERS: u64 = 4096;

/// Which layers have experts: as `mlp_layer_types` lists, or every `decoder_sparse_step`-th layer of a range,
/// minus `mlp_only_layers`.
pub(super) fn moe_layers(raw: &RawConfig) -> Result<Field<Vec<bool>>> {
    if let Some(types) = &raw.mlp_types.value {
        let name = raw.mlp_types.name.clone();
        let sparse = |kind: &String| ["sparse", "moe", "hash_moe"].contains(&kind.as_str());
        return Ok(Field::new(name, Some(types.iter().map(sparse).collect())));
    }
    if let (Some(listed), Some(layers)) = (&raw.moe_list.value, raw.layers.value.filter(|&n| n <= MAX_LAYERS))
    {
        let name = raw.moe_list.name.clone();
        if let Some(other) = listed.iter().find(|&&layer| layer >= layers) {
            let fault =
                Fault::OutOfRange { found: other.to_string(), low: 0, high: layers.saturating_sub(1) };
            return Err(raw.fault(&name, fault));
        }
        return Ok(Field::new(name, Some((0..layers).map(|layer| listed.contains(&layer)).collect())));
    }
    match raw.moe_flags.value.as_ref().map(|PerLayer(flags)| flags.as_slice()) {
        None | Some([1]) => {}
        // Models that say how often experts come have them in every layer behind the first dense ones.
        Some(&[often]) => {
            let fault = Fault::OutOfRange { found: often.to_string(), low: 1, high: 1 };
            return Err(raw.fault(&raw.moe_flags.name, fault));
        }
        Some(flags) => {
            let sparse = yes_or_no(raw, &raw.moe_flags.name, flags)?;
            return Ok(Field::new(raw.moe_flags.name.clone(), Some(sparse)));
        }
    }
    let (step, dense) = (&raw.sparse_step, raw.dense_layers.value.as_deref());
    let stated = step.value.is_some() || dense.is_some() || raw.leading_dense.value.is_some();
    let bounded = raw.layers.value.filter(|&n| stated && n <= MAX_LAYERS);
    // One of the fields is enough: every layer counts unless the step says otherwise.
    let value = match (step.value.unwrap_or(1), bounded) {
        (_, None) => None,
        (other, _) if !(1..=MAX_LAYERS).contains(&other) => {
            let fault = Fault::OutOfRange { found: other.to_string(), low: 1, high: MAX_LAYERS };
            return Err(raw.fault(&step.name, fault));
        }
        (step, Some(n)) => {
            let (first, end) = (leading(raw, n)?, sparse_end(raw, n)?);
            let dense = dense.unwrap_or_default();
            let sparse = |layer: u64| {
                (first..end).contains(&layer)
                    && !dense.contains(&layer)
                    && layer.saturating_add(1).is_multiple_of(step)
            };
            Some((0..n).map(sparse).collect())
        }
    };
    Ok(Field::new(step.name.clone(), value))
}

/// How many leading layers have no experts.
fn leading(raw: &RawConfig, layers: u64) -> Result<u64> {
    match raw.leading_dense.value {
        None => Ok(0),
        Some(count) if count <= layers => Ok(count),
        Some(other) => {
            let fault = Fault::OutOfRange { found: other.to_string(), low: 0, high: layers };
            Err(raw.fault(&raw.leading_dense.name, fault))
        }
    }
}

/// A list of zeros and ones.
pub(super) fn yes_or_no(raw: &RawConfig, name: &str, flags: &[u64]) -> Result<Vec<bool>> {
    match flags.iter().find(|&&flag| flag > 1) {
        None => Ok(flags.iter().map(|&flag| flag == 1).collect()),
        Some(other) => Err(raw.fault(name, Fault::OutOfRange { found: other.to_string(), low: 0, high: 1 })),
    }
}

/// The end of the range of layers that may have experts.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the number is checked to be a layer's"
)]
fn sparse_end(raw: &RawConfig, layers: u64) -> Result<u64> {
    match raw.last_sparse.value {
        None | Some(-1.0) => Ok(layers),
        Some(last) if last.fract() == 0.0 && last >= 0.0 && last < layers as f64 => Ok(last as u64 + 1),
        Some(last) => {
            let fault = Fault::BadNumber { found: last.to_string(), must: "a layer's number, or -1" };
            Err(raw.fault(&raw.last_sparse.name, fault))
        }
    }
}
