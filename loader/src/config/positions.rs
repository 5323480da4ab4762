//! Lowering of positions: which layers have a rope, its base, dimensions and context extension, and what
//! distances add to scores. It must not know attention.

use crate::config::field::Field;
use crate::config::fields::RawConfig;
use crate::config::limits::{Container, MAX_CONTEXT, MAX_HEAD_DIM, MAX_LAYERS};
use crate::error::{Fault, LoadError, Result};
use crate::families::{Family, Growth, LocalRope, RopeLayers};
use crate::io::reader::narrow;
use crate::spec::{Pairing, RelativeSpec, RopeScaling, RopeSpec, Temperature};

/// The scheme of ropes that turn a part of their pairs, with the frequencies of a rope that turns all.
pub(super) const PROPORTIONAL: &str = "proportional";
/// Divisor of the frequency of a pair that does not turn. GGUF files have it, too.
const STILL: f32 = 1e30;

/// Bounds of what distances may say.
const MAX_BUCKETS: u64 = 1 << 12;
const MAX_REACH: u64 = 1 << 14;

/// Which layers have a rope.
pub(super) fn roped_layers(
    raw: &RawConfig,
    family: &Family,
    container: Container,
    windows: &[Option<usize>],
) -> Result<Vec<bool>> {
    let layers = windows.len();
    let every = |period: usize| (0..layers).map(|layer| (layer + 1) % period != 0).collect();
    match (&raw.rope_layers.value, family.rope_layers) {
        (Some(listed), _) if listed.len() == layers => Ok(listed.iter().map(|&roped| roped != 0).collect()),
        (Some(listed), _) => Err(raw.fault(
            &raw.rope_layers.name,
            Fault::Contradiction {
                found: format!("a list of {} layers", listed.len()),
                other: format!("{layers} layers"),
            },
        )),
        (None, RopeLayers::All) => Ok(vec![true; layers]),
        (None, RopeLayers::None) => Ok(vec![false; layers]),
        (None, RopeLayers::Stated) => {
            let folder = raw.positions.value.as_deref() == Some("rope");
            let file = raw.positions_are_ropes.value.unwrap_or(true);
            Ok(vec![if container == Container::Gguf { file } else { folder }; layers])
        }
        (None, RopeLayers::WindowedOrDense) => {
            let experts = raw.moe_layers.value.as_deref().unwrap_or_default();
            let dense = |layer: usize| experts.get(layer) == Some(&false);
            Ok(windows.iter().enumerate().map(|(layer, window)| window.is_some() || dense(layer)).collect())
        }
        (None, RopeLayers::Windowed) if windows.iter().all(Option::is_none) => Ok(vec![true; layers]),
        (None, RopeLayers::Windowed) => Ok(windows.iter().map(Option::is_some).collect()),
        (None, RopeLayers::AllButEvery(period)) => match raw.rope_period.value {
            Some(_) => Ok(every(raw.count(&raw.rope_period, 1, MAX_LAYERS)?)),
            None => Ok(every(period)),
        },
    }
}

/// What distances add to the scores of a layer, whose numbers are those of layer `of_layer`.
pub(super) fn distances(raw: &RawConfig, both_ways: bool, of_layer: usize) -> Result<RelativeSpec> {
    // Half of the buckets of a direction are for single distances, and the others must end farther away.
    let buckets = raw.count(&raw.relative_buckets, 4, MAX_BUCKETS)?;
    let reach = raw.count(&raw.relative_reach, 2, MAX_REACH)?;
    if reach <= buckets / 2 || !buckets.is_multiple_of(4) {
        let (found, other) = (reach.to_string(), format!("{buckets} buckets"));
        return Err(raw.fault(&raw.relative_reach.name, Fault::Contradiction { found, other }));
    }
    Ok(RelativeSpec { buckets, reach, both_ways, of_layer })
}

/// The rope of a layer with or without a window.
pub(super) fn layer_rope(
    raw: &RawConfig,
    family: &Family,
    container: Container,
    head_dim: usize,
    windowed: bool,
) -> Result<RopeSpec> {
    let apart = raw.local_rope_kind.value.is_some();
    if !windowed || (family.local_rope == LocalRope::Same && !apart) {
        return rope(raw, family, container, head_dim);
    }
    let default_dim = match (&raw.local_rope_dim.value, apart) {
        (Some(_), _) | (None, true) => head_dim,
        (None, false) => rope_dim(raw, &raw.rope_dim, head_dim, head_dim)?,
    };
    let theta = match family.local_rope {
        LocalRope::Same | LocalRope::Plain { theta: None } => {
            f64::from(rope_theta(raw, family, default_dim)?)
        }
        LocalRope::Plain { theta: Some(theta) } => theta,
    };
    if let Some(kind) = raw.local_rope_kind.value.as_deref().filter(|&kind| kind != "default") {
        return Err(LoadError::Unsupported {
            path: raw.path.clone(),
            feature: format!("{} = \"{}\"", raw.local_rope_kind.name, kind.escape_default()),
            hint: "layers with a window have a plain rope".into(),
        });
    }
    let theta = raw.positive_or(&raw.local_rope_theta, theta)?;
    let dim = rope_dim(raw, &raw.local_rope_dim, default_dim, head_dim)?;
    Ok(RopeSpec { theta, dim, pairing: pairing(family, container), scaling: RopeScaling::None })
}

/// How many dimensions of a head rotate.
fn rope_dim(raw: &RawConfig, field: &Field<u64>, default: usize, head_dim: usize) -> Result<usize> {
    let limit = u64::try_from(head_dim).unwrap_or(MAX_HEAD_DIM);
    let dim = raw.count_or(field, default, 2, limit)?;
    if !dim.is_multiple_of(2) {
        let (found, other) = (dim.to_string(), "pairs of dimensions".into());
        return Err(raw.fault(&field.name, Fault::Contradiction { found, other }));
    }
    Ok(dim)
}

pub(super) fn rope(
    raw: &RawConfig,
    family: &Family,
    container: Container,
    head_dim: usize,
) -> Result<RopeSpec> {
    let dim = rope_dim(raw, &raw.rope_dim, head_dim, head_dim)?;
    Ok(RopeSpec {
        theta: rope_theta(raw, family, dim)?,
        dim,
        pairing: pairing(family, container),
        scaling: rope_scaling(raw, family, dim)?,
    })
}

/// Which dimensions rotate together in the files of a container.
fn pairing(family: &Family, container: Container) -> Pairing {
    match container {
        Container::Gguf => family.gguf_pairing,
        Container::HfFolder => family.folder_pairing,
    }
}

/// The base of the frequencies. Hunyuan's "dynamic" scaling with `alpha` is one larger base at all lengths.
fn rope_theta(raw: &RawConfig, family: &Family, dim: usize) -> Result<f32> {
    let theta = raw.positive_or(&raw.rope_theta, family.default_theta)?;
    if raw.rope_alpha.value.is_none() || dim <= 2 {
        return Ok(theta);
    }
    let (alpha, dim) = (raw.positive(&raw.rope_alpha)?, f64::from(u32::try_from(dim).unwrap_or(u32::MAX)));
    let scaled = narrow(f64::from(theta) * f64::from(alpha).powf(dim / (dim - 2.0)));
    if !scaled.is_finite() {
        let must = "a factor that leaves the base finite";
        return Err(raw.fault(&raw.rope_alpha.name, Fault::BadNumber { found: alpha.to_string(), must }));
    }
    Ok(scaled)
}

/// The divisors of a file, whatever the scheme that they come from.
fn given_divisors(raw: &RawConfig, dim: usize) -> Result<RopeScaling> {
    let mut divisors = divisors(raw, &raw.rope_divisors, dim)?;
    match raw.rope_kind.value.as_deref() {
        None | Some("default" | "none") => {}
        // Both divide the frequencies.
        Some("linear") => {
            let factor = raw.positive(&raw.rope_factor)?;
            divisors.iter_mut().for_each(|divisor| *divisor *= factor);
        }
        Some(other) => {
            let found = format!("\"{}\"", other.escape_default());
            let other = format!("the divisors in {}", raw.rope_divisors.name);
            return Err(raw.fault(&raw.rope_kind.name, Fault::Contradiction { found, other }));
        }
    }
    Ok(RopeScaling::Factors { divisors })
}

fn rope_scaling(raw: &RawConfig, family: &Family, dim: usize) -> Result<RopeScaling> {
    let factor = || raw.positive(&raw.rope_factor);
    if raw.rope_divisors.value.is_some() {
        return given_divisors(raw, dim);
    }
    let original = || match raw.rope_original_context.value {
        Some(_) => raw.count(&raw.rope_original_context, 1, MAX_CONTEXT),
        None => raw.count(&raw.max_context, 1, MAX_CONTEXT),
    };
    match raw.rope_kind.value.as_deref() {
        None | Some("default" | "none") => Ok(RopeScaling::None),
        Some("dynamic") if raw.rope_alpha.value.is_some() => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: factor()? }),
        Some(PROPORTIONAL) => proportional(raw, dim),
        Some("llama3") => Ok(RopeScaling::Llama3 {
            factor: factor()?,
            low_freq_factor: raw.positive(&raw.rope_low_freq_factor)?,
            high_freq_factor: raw.positive(&raw.rope_high_freq_factor)?,
            original_context: original()?,
        }),
        Some("yarn") => {
            let factor = factor()?;
            // arXiv 2309.00071, equation 22: 0.1 ln(s) + 1. DeepSeek-V2 gives the ratio of two such factors.
            let magnitude = |strength: f32| 0.1 * f64::from(strength) * f64::from(factor).ln().max(0.0) + 1.0;
            let (own, all) = (raw.non_negative(&raw.rope_mscale)?, raw.non_negative(&raw.rope_mscale_all)?);
            let default =
                if own > 0.0 && all > 0.0 { magnitude(own) / magnitude(all) } else { magnitude(1.0) };
            Ok(RopeScaling::Yarn {
                factor,
                original_context: original()?,
                beta_fast: raw.positive(&raw.rope_beta_fast)?,
                beta_slow: raw.positive(&raw.rope_beta_slow)?,
                attention_factor: raw.positive_or(&raw.rope_attention_factor, default)?,
                truncate: raw.rope_truncate.value.unwrap_or(family.yarn_truncate),
            })
        }
        Some("longrope" | "su") => {
            let original_context = original()?;
            let longest = raw.count(&raw.max_context, 1, MAX_CONTEXT)?;
            let default = match raw.rope_attention_factor.value {
                Some(given) => given,
                None => long_rope_factor(raw.rope_factor.value, longest, original_context),
            };
            Ok(RopeScaling::LongRope {
                short: divisors(raw, &raw.rope_short_divisors, dim)?,
                long: divisors(raw, &raw.rope_long_divisors, dim)?,
                original_context,
                short_factor: raw.positive_or(&raw.rope_short_mscale, default)?,
                long_factor: raw.positive_or(&raw.rope_long_mscale, default)?,
            })
        }
        Some(other) => Err(LoadError::Unsupported {
            path: raw.path.clone(),
            feature: format!("rope scaling \"{}\"", other.escape_default()),
            hint: "supported are linear, llama3, yarn, longrope".into(),
        }),
    }
}

/// Divisors of a rope that turns a part of its pairs.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the part is checked to be within 0..=1 and head widths are small"
)]
fn proportional(raw: &RawConfig, dim: usize) -> Result<RopeScaling> {
    let part = raw.rope_part.value.unwrap_or(1.0);
    if !(part > 0.0 && part <= 1.0) {
        let fault = Fault::BadNumber { found: part.to_string(), must: "above 0 and at most 1" };
        return Err(raw.fault(&raw.rope_part.name, fault));
    }
    let turning = (part * dim as f64 / 2.0) as usize;
    let divisors = (0..dim / 2).map(|pair| if pair < turning { 1.0 } else { STILL }).collect();
    Ok(RopeScaling::Factors { divisors })
}

/// LongRoPE's attention factor (arXiv 2402.13753): `sqrt(1 + ln(s) / ln(original))`. `s` is the file's
/// factor, or the longest context over the original one.
#[allow(clippy::cast_precision_loss, reason = "context lengths are far below 2^52")]
fn long_rope_factor(factor: Option<f64>, longest: usize, original: usize) -> f64 {
    let ratio = factor.unwrap_or(longest as f64 / original as f64);
    if ratio <= 1.0 || original < 2 { 1.0 } else { (1.0 + ratio.ln() / (original as f64).ln()).sqrt() }
}

fn divisors(raw: &RawConfig, field: &Field<Vec<f64>>, dim: usize) -> Result<Vec<f32>> {
    let values = field.value.as_deref().ok_or_else(|| raw.missing(&field.name))?;
    if values.len() != dim / 2 {
        let found = format!("a list of {} numbers", values.len());
        let other = format!("{} rope frequencies", dim / 2);
        return Err(raw.fault(&field.name, Fault::Contradiction { found, other }));
    }
    if let Some(bad) = values.iter().find(|v| !(v.is_finite() && **v > 0.0)) {
        let must = "a list of finite numbers above zero";
        return Err(raw.fault(&field.name, Fault::BadNumber { found: bad.to_string(), must }));
    }
    Ok(values.iter().map(|&v| narrow(v)).collect())
}

/// The factor on queries that grows with their position, of a layer with or without a rope; `None` if it has
/// none.
pub(super) fn temperature(raw: &RawConfig, family: &Family, roped: bool) -> Result<Option<Temperature>> {
    if let Some(Growth { beta, period, offset }) = family.growth {
        // Files of our own say 0 where queries do not grow.
        if roped || raw.temperature_on.value == Some(false) || raw.temperature.value == Some(0.0) {
            return Ok(None);
        }
        let beta = raw.positive_or(&raw.temperature, beta)?;
        let period = raw.count_or(&raw.temperature_period, period, 1, MAX_CONTEXT)?;
        return Ok(Some(Temperature { beta, period, offset }));
    }
    if matches!(raw.temperature.value, None | Some(0.0)) {
        return Ok(None);
    }
    let period = raw.count(&raw.rope_original_context, 1, MAX_CONTEXT)?;
    Ok(Some(Temperature { beta: raw.positive(&raw.temperature)?, period, offset: 0 }))
}
