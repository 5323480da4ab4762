//! Lowering of gated delta nets (Qwen3-Next, Qwen3.5): which layers have one, and its shape. It must not know
//! attention.

use crate::config::fields::RawConfig;
use crate::config::limits::{Container, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS};
use crate::error::{Fault, LoadError, Result};
use crate::families::DeltaKind;
use crate::spec::{DeltaLayout, DeltaOrder, DeltaSpec};

/// The longest convolution.
const MAX_KERNEL: u64 = 64;
/// Of each run of this many layers, the last one has attention, unless the file says otherwise.
const ATTENTION_EVERY: usize = 4;

/// The delta net of each layer, or none where it has attention. `eps` is that of the other norms; the
/// family's kind comes with what the gates of its GGUF files are.
pub(super) fn delta_layers(
    raw: &RawConfig,
    (kind, sigmoid_gate): (DeltaKind, bool),
    container: Container,
    layers: usize,
    eps: f32,
) -> Result<Vec<Option<DeltaSpec>>> {
    let recurrent = recurrent_layers(raw, layers)?;
    if !recurrent.contains(&true) {
        return Ok(vec![None; layers]);
    }
    let key_heads = raw.count(&raw.delta_key_heads, 1, MAX_HEADS)?;
    let value_heads = raw.count(&raw.delta_value_heads, 1, MAX_HEADS)?;
    let contradiction = |name: &str, found: usize, other: String| {
        Err(raw.fault(name, Fault::Contradiction { found: found.to_string(), other }))
    };
    if !value_heads.is_multiple_of(key_heads) {
        return contradiction(&raw.delta_value_heads.name, value_heads, format!("{key_heads} key heads"));
    }
    let value_dim = match raw.delta_inner.value {
        None => raw.count(&raw.delta_value_dim, 1, MAX_HEAD_DIM)?,
        Some(_) => {
            let inner = raw.count(&raw.delta_inner, 1, MAX_HEADS * MAX_HEAD_DIM)?;
            let limit = usize::try_from(MAX_HEAD_DIM).unwrap_or(usize::MAX);
            if !inner.is_multiple_of(value_heads) || inner / value_heads > limit {
                return contradiction(&raw.delta_inner.name, inner, format!("{value_heads} value heads"));
            }
            inner / value_heads
        }
    };
    let (layout, order) = match (container, kind) {
        (Container::HfFolder, DeltaKind::ByKeyHead) => (DeltaLayout::ByKeyHead, DeltaOrder::Grouped),
        (Container::HfFolder, DeltaKind::Apart) => (DeltaLayout::Apart, DeltaOrder::Grouped),
        (Container::Gguf, DeltaKind::ByKeyHead) => (DeltaLayout::StepsByKeyHead, DeltaOrder::Grouped),
        (Container::Gguf, DeltaKind::Apart) => (DeltaLayout::Apart, DeltaOrder::Tiled),
    };
    let spec = DeltaSpec {
        key_heads,
        value_heads,
        key_dim: raw.count(&raw.delta_key_dim, 1, MAX_HEAD_DIM)?,
        value_dim,
        conv_kernel: raw.count(&raw.delta_kernel, 2, MAX_KERNEL)?,
        norm_eps: eps,
        layout,
        order,
        log_decay: container == Container::HfFolder,
        sigmoid_gate: match container {
            Container::Gguf => sigmoid_gate,
            Container::HfFolder => sigmoid(raw)?,
        },
    };
    Ok(recurrent.into_iter().map(|recurrent| recurrent.then_some(spec)).collect())
}

/// Whether a folder says that gates are sigmoids.
fn sigmoid(raw: &RawConfig) -> Result<bool> {
    match raw.delta_gate.value.as_deref() {
        None | Some("silu" | "swish") => Ok(false),
        Some("sigmoid") => Ok(true),
        Some(other) => Err(LoadError::Unsupported {
            path: raw.path.clone(),
            feature: format!("{} = \"{}\"", raw.delta_gate.name, other.escape_default()),
            hint: "supported are silu and sigmoid".into(),
        }),
    }
}

/// Which layers have no attention.
fn recurrent_layers(raw: &RawConfig, layers: usize) -> Result<Vec<bool>> {
    let listed = match (&raw.recurrent_layers.value, &raw.layer_types.value) {
        (Some(listed), _) => Some((&raw.recurrent_layers.name, listed.clone())),
        (None, Some(types)) => {
            let recurrent = types.iter().map(|kind| kind == "linear_attention").collect();
            Some((&raw.layer_types.name, recurrent))
        }
        (None, None) => None,
    };
    match listed {
        Some((_, listed)) if listed.len() == layers => Ok(listed),
        Some((name, listed)) => {
            let (found, other) = (format!("a list of {} layers", listed.len()), format!("{layers} layers"));
            Err(raw.fault(name, Fault::Contradiction { found, other }))
        }
        None => {
            let every = raw.count_or(&raw.attention_every, ATTENTION_EVERY, 1, MAX_LAYERS)?;
            Ok((1..=layers).map(|layer| !layer.is_multiple_of(every)).collect())
        }
    }
}
