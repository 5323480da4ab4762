//! Lowering of short convolutions (LFM2): which layers have one, its shape, and the width of dense blocks
//! as these configurations state it. It must not know attention.

use crate::config::field::{Field, PerLayer};
use crate::config::fields::RawConfig;
use crate::config::limits::{Container, MAX_FF};
use crate::error::{Fault, Result};
use crate::spec::ConvSpec;

/// The longest convolution.
const MAX_KERNEL: u64 = 64;

/// A configuration as other families would state it: with key heads in every layer, and with the width that
/// dense blocks have.
pub(super) fn plain(raw: &RawConfig, container: Container) -> Result<RawConfig> {
    let mut raw = raw.clone();
    if let Some(PerLayer(heads)) = &mut raw.kv_heads.value {
        let some = heads.iter().copied().max().unwrap_or(0);
        heads.iter_mut().filter(|heads| **heads == 0).for_each(|heads| *heads = some);
    }
    if container == Container::HfFolder && raw.ff_adjust.get() == Some(&true) {
        let adjusted = adjusted_width(&raw)?;
        raw.d_ff = Field { value: Some(PerLayer(vec![adjusted])), ..raw.d_ff };
    }
    Ok(raw)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "widths are bounded far below 2^52"
)]
fn adjusted_width(raw: &RawConfig) -> Result<u64> {
    let stated = match &raw.d_ff.value {
        Some(PerLayer(widths)) => {
            let stated = widths.first().copied().unwrap_or(0);
            raw.bounded(&raw.d_ff.name, stated, 1, 2 * MAX_FF)?;
            stated
        }
        None => return Err(raw.missing(&raw.d_ff.name)),
    };
    let factor = f64::from(raw.positive(&raw.ff_multiplier)?);
    let width = ((2 * stated / 3) as f64 * factor).min(MAX_FF as f64) as u64;
    let multiple = raw.count(&raw.ff_multiple, 1, MAX_FF)?;
    Ok(width.next_multiple_of(u64::try_from(multiple).unwrap_or(1)))
}

/// The convolution of each layer, or none where it has attention.
pub(super) fn conv_layers(raw: &RawConfig, layers: usize, width: usize) -> Result<Vec<Option<ConvSpec>>> {
    let (name, conv): (_, Vec<bool>) =
        match (&raw.layer_types.value, &raw.attention_layers.value, &raw.kv_heads.value) {
            (Some(types), ..) => (&raw.layer_types.name, types.iter().map(|kind| kind == "conv").collect()),
            (None, Some(attention), _) => {
                let listed =
                    |layer: usize| u64::try_from(layer).is_ok_and(|layer| attention.contains(&layer));
                (&raw.attention_layers.name, (0..layers).map(|layer| !listed(layer)).collect())
            }
            (None, None, Some(PerLayer(heads))) if heads.len() > 1 => {
                (&raw.kv_heads.name, heads.iter().map(|&heads| heads == 0).collect())
            }
            _ => (&raw.kv_heads.name, vec![false; layers]),
        };
    if conv.len() != layers {
        let (found, other) = (format!("a list of {} layers", conv.len()), format!("{layers} layers"));
        return Err(raw.fault(name, Fault::Contradiction { found, other }));
    }
    if !conv.contains(&true) {
        return Ok(vec![None; layers]);
    }
    let kernel = raw.count(&raw.conv_kernel, 2, MAX_KERNEL)?;
    let spec = ConvSpec { width, kernel, bias: raw.conv_bias.value.unwrap_or(false) };
    Ok(conv.into_iter().map(|conv| conv.then_some(spec)).collect())
}
