//! Where attention has its keys and values from, and how wide heads are, layer by layer (Gemma 4). It must
//! not know ropes.

use crate::config::fields::RawConfig;
use crate::config::limits::{Container, MAX_HEAD_DIM, MAX_HEADS};
use crate::error::{Fault, LoadError, Result};
use crate::families::Family;
use crate::spec::KvSource;

/// How many of the last layers have the keys and values of earlier ones.
pub(super) fn sharing_layers(raw: &RawConfig, layers: usize) -> Result<usize> {
    raw.count(&raw.sharing_layers, 0, u64::try_from(layers.saturating_sub(1)).unwrap_or(0))
}

/// Where each layer has its keys and values from. `windows` are those of the layers.
pub(super) fn sources(
    raw: &RawConfig,
    container: Container,
    windows: &[Option<usize>],
) -> Result<Vec<KvSource>> {
    let own = windows.len() - sharing_layers(raw, windows.len())?;
    let has_values = |layer: usize| {
        raw.value_layers.value.as_ref().is_none_or(|listed| listed.get(layer).copied().unwrap_or(true))
    };
    // GGUF files say it by what they lack. One layer with values is enough to expect them in all.
    let mut full = (0..own).filter(|&layer| windows.get(layer) == Some(&None)).peekable();
    let keys_as_values = match container {
        Container::HfFolder => raw.keys_as_values.get() == Some(&true),
        Container::Gguf => full.peek().is_some() && !full.any(has_values),
    };
    (0..windows.len())
        .map(|layer| {
            let window = windows.get(layer).copied().flatten();
            if layer < own {
                return Ok(match keys_as_values && window.is_none() {
                    true => KvSource::Shared,
                    false => KvSource::Projected,
                });
            }
            let alike = |&earlier: &usize| windows.get(earlier).copied().flatten() == window;
            (0..own).rev().find(alike).map(KvSource::Layer).ok_or_else(|| {
                let found = format!("layer {layer}");
                let other = format!("the first {own}, none of which has the same window");
                raw.fault(&raw.sharing_layers.name, Fault::Contradiction { found, other })
            })
        })
        .collect()
}

/// The configuration of a layer with its own width of heads and its own rope.
pub(super) fn of_layer(
    raw: &RawConfig,
    family: &Family,
    container: Container,
    layer: usize,
    windowed: bool,
) -> Result<RawConfig> {
    let mut raw = raw.clone();
    if family.gguf_half_rope && container == Container::Gguf {
        // Divisors are for the layers that rotate half as much as the file says.
        if let Some(dim) = raw.rope_dim.value.as_mut().filter(|_| !windowed) {
            *dim /= 2;
        }
        let pairs = raw.rope_dim.value.and_then(|dim| usize::try_from(dim / 2).ok());
        if let (Some(divisors), Some(pairs)) = (&mut raw.rope_divisors.value, pairs) {
            divisors.truncate(pairs);
        }
    }
    if let (Some(local), Some(heads)) = (raw.local_heads.value.filter(|_| windowed), &raw.heads.value)
        && heads.0.first() != Some(&local)
    {
        let other = format!("{} of other layers", raw.heads.name);
        return Err(
            raw.fault(&raw.local_heads.name, Fault::Contradiction { found: local.to_string(), other })
        );
    }
    let apart = if windowed { &raw.local_head_dim } else { &raw.full_head_dim };
    if apart.value.is_some() {
        raw.head_dim = apart.clone();
    }
    if windowed && raw.local_value_dim.value.is_some() {
        raw.value_dim = raw.local_value_dim.clone();
    }
    if let Some(listed) = &raw.layer_head_dims.value {
        raw.head_dim.value = listed.0.get(layer).copied().filter(|&width| width > 0).or(raw.head_dim.value);
        raw.head_dim.name.clone_from(&raw.layer_head_dims.name);
    }
    Ok(raw)
}

/// Key and value heads of a layer of which the file says `listed`, and the name of the field.
pub(super) fn kv_heads(raw: &RawConfig, listed: usize, windowed: bool) -> Result<(usize, &str)> {
    let apart = if windowed { &raw.local_kv_heads } else { &raw.full_kv_heads };
    match apart.value {
        None => Ok((listed, &raw.kv_heads.name)),
        Some(_) => Ok((raw.count(apart, 1, MAX_HEADS)?, &apart.name)),
    }
}

/// The numbers that each layer has of a token: how many, or none.
pub(super) fn layer_input_width(raw: &RawConfig) -> Result<Option<usize>> {
    let width = raw.count(&raw.layer_input_width, 0, MAX_HEAD_DIM)?;
    if width == 0 {
        return Ok(None);
    }
    match (raw.layer_input_vocab.value, raw.vocab.value) {
        (Some(rows), Some(vocab)) if rows != vocab => Err(LoadError::malformed(
            &raw.path,
            &raw.layer_input_vocab.name,
            Fault::Contradiction { found: rows.to_string(), other: format!("a vocabulary of {vocab}") },
        )),
        _ => Ok(Some(width)),
    }
}
