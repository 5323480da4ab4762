//! Lowering of Kimi delta attention: which layers have it, and its shape. It must not know attention.

use crate::config::fields::RawConfig;
use crate::config::limits::{Container, MAX_HEAD_DIM, MAX_HEADS};
use crate::error::{Fault, Result};
use crate::families::KdaKind;
use crate::spec::KdaSpec;

/// The longest convolution.
const MAX_KERNEL: u64 = 64;

/// The delta attention of each layer, or none where it has latent attention. `eps` is that of the other
/// norms.
pub(super) fn kda_layers(
    raw: &RawConfig,
    kind: KdaKind,
    container: Container,
    layers: usize,
    eps: f32,
) -> Result<Vec<Option<KdaSpec>>> {
    if kind == KdaKind::None {
        return Ok(vec![None; layers]);
    }
    let recurrent = recurrent(raw, layers)?;
    let heads = match raw.kda_heads.value {
        Some(_) => raw.count(&raw.kda_heads, 1, MAX_HEADS)?,
        None => raw.per_layer(&raw.heads, layers, 1, MAX_HEADS)?.first().copied().unwrap_or(0),
    };
    let head_dim = raw.count(&raw.kda_head_dim, 1, MAX_HEAD_DIM)?;
    // Folders say apart whether the bound counts.
    let safe = match container {
        Container::HfFolder => raw.kda_safe.get() == Some(&true),
        Container::Gguf => raw.kda_lower_bound.value.is_some(),
    };
    let lower_bound = match (safe, raw.kda_lower_bound.value) {
        (false, _) => None,
        (true, None) => return Err(raw.missing(&raw.kda_lower_bound.name)),
        (true, Some(bound)) => Some(below_zero(raw, bound)?),
    };
    let spec = KdaSpec {
        heads,
        head_dim,
        conv_kernel: raw.count(&raw.kda_kernel, 2, MAX_KERNEL)?,
        rank: (kind == KdaKind::LowRank).then_some(head_dim),
        lower_bound,
        norm_eps: eps,
        log_decay: container == Container::HfFolder,
    };
    Ok(recurrent.into_iter().map(|recurrent| recurrent.then_some(spec)).collect())
}

fn below_zero(raw: &RawConfig, bound: f64) -> Result<f32> {
    let single = crate::io::reader::narrow(bound);
    if single.is_finite() && single < 0.0 {
        return Ok(single);
    }
    let fault = Fault::BadNumber { found: bound.to_string(), must: "a finite number below zero" };
    Err(raw.fault(&raw.kda_lower_bound.name, fault))
}

/// Which layers have no latent attention. Lists count layers from 1.
fn recurrent(raw: &RawConfig, layers: usize) -> Result<Vec<bool>> {
    if let Some(full) = &raw.full_layers.value {
        let limit = u64::try_from(layers).unwrap_or(u64::MAX);
        if let Some(other) = full.iter().find(|&&layer| layer == 0 || layer > limit) {
            let fault = Fault::OutOfRange { found: other.to_string(), low: 1, high: limit };
            return Err(raw.fault(&raw.full_layers.name, fault));
        }
        let is_full = |layer: usize| u64::try_from(layer).is_ok_and(|layer| full.contains(&layer));
        return Ok((1..=layers).map(|layer| !is_full(layer)).collect());
    }
    let (name, recurrent): (_, Vec<bool>) = match &raw.layer_types.value {
        Some(types) => (&raw.layer_types.name, types.iter().map(|kind| kind == "linear_attention").collect()),
        None => {
            let heads = raw.per_layer(&raw.kv_heads, layers, 0, MAX_HEADS)?;
            (&raw.kv_heads.name, heads.into_iter().map(|heads| heads == 0).collect())
        }
    };
    if recurrent.len() == layers {
        return Ok(recurrent);
    }
    let (found, other) = (format!("a list of {} layers", recurrent.len()), format!("{layers} layers"));
    Err(raw.fault(name, Fault::Contradiction { found, other }))
}
