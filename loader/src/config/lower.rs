//! Lowering: a raw configuration plus its family gives a validated [`ModelSpec`]. Values of an
//! untrusted configuration are checked here; the engine gets validated numbers. It must not know containers.

use crate::config::experts::ffn_layers;
use crate::config::field::Field;
use crate::config::fields::RawConfig;
use crate::config::latent::latent_layers;
use crate::config::limits::{
    Container, MAX_CONTEXT, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, setting,
};
use crate::error::{Fault, LoadError, Result};
use crate::families::{FAMILIES, Family, NormKind, QkNormKind, WindowRule};
use crate::io::reader::narrow;
use crate::spec::{
    AttentionSpec, HeadSpec, LayerSpec, ModelSpec, NormSpec, Op, QkNorm, RopeScaling, RopeSpec,
};

/// The family of a configuration.
///
/// # Errors
/// [`LoadError::Unsupported`] with the list of supported architectures.
pub fn family(raw: &RawConfig, container: Container) -> Result<&'static Family> {
    let Some(name) = raw.architecture.value.as_deref() else {
        return Err(raw.missing(&raw.architecture.name));
    };
    let found = FAMILIES.iter().find(|family| match container {
        Container::Gguf => family.gguf_arch == name,
        Container::HfFolder => family.hf_types.contains(&name),
    });
    found.ok_or_else(|| LoadError::Unsupported {
        path: raw.path.clone(),
        feature: format!("architecture \"{}\"", name.escape_default()),
        hint: format!("supported are {}", supported(container).join(", ")),
    })
}

/// The architecture names of a container, for messages and `--help`.
pub fn supported(container: Container) -> Vec<&'static str> {
    let mut names: Vec<_> = match container {
        Container::Gguf => FAMILIES.iter().map(|f| f.gguf_arch).collect(),
        Container::HfFolder => FAMILIES.iter().flat_map(|f| f.hf_types.iter().copied()).collect(),
    };
    names.sort_unstable();
    names.dedup();
    names
}

/// Lowers a configuration.
///
/// # Errors
/// [`LoadError::Malformed`] naming the field, or [`LoadError::Unsupported`].
pub fn lower(raw: &RawConfig, container: Container) -> Result<ModelSpec> {
    let family = family(raw, container)?;
    let layer_count = raw.count(&raw.layers, 1, MAX_LAYERS)?;
    let d_model = raw.count(&raw.d_model, 1, MAX_WIDTH)?;
    let eps = raw.positive_or(&raw.norm_eps, family.default_eps)?;
    let norm = match family.norm {
        NormKind::Rms => NormSpec::Rms { eps },
        NormKind::Layer => NormSpec::Layer { eps },
    };
    let mixers: Vec<Op> = if family.latent {
        latent_layers(raw, family, container, layer_count, eps)?.into_iter().map(Op::Latent).collect()
    } else {
        let layers = attention_layers(raw, family, container, layer_count, d_model, eps)?;
        layers.into_iter().map(Op::Attention).collect()
    };
    let ffn = ffn_layers(raw, family, container, layer_count)?;
    let residual_scale = raw.positive(&raw.residual_scale)?;
    let layers = mixers
        .into_iter()
        .zip(ffn)
        .map(|(mixer, ffn)| LayerSpec::pre_norm(norm, mixer, ffn, residual_scale))
        .collect();
    Ok(ModelSpec {
        name: raw.text(&raw.model_name)?,
        family: family.label,
        vocab: raw.count(&raw.vocab, 1, MAX_VOCAB)?,
        d_model,
        max_context: raw.count(&raw.max_context, 1, MAX_CONTEXT)?,
        embed_scale: raw.positive(&raw.embed_scale)?,
        layers,
        final_norm: norm,
        head: HeadSpec {
            tied: raw.tied.value.unwrap_or(family.default_tied),
            bias: setting(family.head_bias, &raw.head_bias),
            scale: 1.0 / raw.positive(&raw.logit_divisor)?,
        },
    })
}

fn attention_layers(
    raw: &RawConfig,
    family: &Family,
    container: Container,
    layers: usize,
    d_model: usize,
    eps: f32,
) -> Result<Vec<AttentionSpec>> {
    let heads = raw.per_layer(&raw.heads, layers, 1, MAX_HEADS)?;
    let kv_heads = match raw.kv_heads.value {
        Some(_) => raw.per_layer(&raw.kv_heads, layers, 1, MAX_HEADS)?,
        None => heads.clone(),
    };
    let windows = windows(raw, family, layers)?;
    let clip_qkv = match raw.clip_qkv.value {
        Some(_) => Some(raw.positive(&raw.clip_qkv)?),
        None => None,
    };
    let mut specs = Vec::with_capacity(layers);
    for ((&heads, &kv_heads), window) in heads.iter().zip(&kv_heads).zip(windows) {
        if heads % kv_heads != 0 {
            return Err(raw.fault(
                &raw.kv_heads.name,
                Fault::Contradiction { found: kv_heads.to_string(), other: format!("{heads} query heads") },
            ));
        }
        let head_dim = head_dim(raw, heads, d_model)?;
        let default_scale = 1.0 / f64::from(u32::try_from(head_dim).unwrap_or(u32::MAX)).sqrt();
        specs.push(AttentionSpec {
            heads,
            kv_heads,
            head_dim,
            scale: raw.positive_or(&raw.attention_scale, default_scale)?,
            qkv_bias: setting(family.qkv_bias, &raw.qkv_bias),
            out_bias: setting(family.out_bias, &raw.out_bias),
            sinks: family.sinks,
            qk_norm: match family.qk_norm {
                _ if !setting(family.has_qk_norm, &raw.qk_norm) => QkNorm::None,
                QkNormKind::None => QkNorm::None,
                QkNormKind::PerHead => QkNorm::PerHead { eps },
                QkNormKind::PerHeadAfterRope => QkNorm::PerHeadAfterRope { eps },
                QkNormKind::Full => QkNorm::Full { eps },
            },
            rope: Some(rope(raw, family, container, head_dim)?),
            window,
            clip_qkv,
        });
    }
    Ok(specs)
}

fn head_dim(raw: &RawConfig, heads: usize, d_model: usize) -> Result<usize> {
    if raw.head_dim.value.is_none() && !d_model.is_multiple_of(heads) {
        return Err(raw.fault(
            &raw.heads.name,
            Fault::Contradiction { found: heads.to_string(), other: format!("a width of {d_model}") },
        ));
    }
    let head_dim = raw.count_or(&raw.head_dim, d_model / heads, 2, MAX_HEAD_DIM)?;
    if !(2..=1024).contains(&head_dim) || !head_dim.is_multiple_of(2) {
        let name = if raw.head_dim.value.is_some() { &raw.head_dim.name } else { &raw.heads.name };
        return Err(raw.fault(
            name,
            Fault::Contradiction { found: format!("a head width of {head_dim}"), other: "rope pairs".into() },
        ));
    }
    match raw.value_dim.value {
        Some(other) if usize::try_from(other) != Ok(head_dim) => Err(LoadError::Unsupported {
            path: raw.path.clone(),
            feature: format!("{} = {other} beside key heads of {head_dim}", raw.value_dim.name),
            hint: "keys and values must be equally wide".into(),
        }),
        _ => Ok(head_dim),
    }
}

fn windows(raw: &RawConfig, family: &Family, layers: usize) -> Result<Vec<Option<usize>>> {
    // Configurations say "no window" as null, as 0, or by listing no windowed layer.
    let window = match raw.window.value {
        None | Some(0) => return Ok(vec![None; layers]),
        Some(_) => raw.count(&raw.window, 1, MAX_CONTEXT)?,
    };
    match (&raw.window_layers.value, family.window) {
        (Some(listed), _) if listed.len() == layers => {
            Ok(listed.iter().map(|&windowed| windowed.then_some(window)).collect())
        }
        (Some(listed), _) => Err(raw.fault(
            &raw.window_layers.name,
            Fault::Contradiction {
                found: format!("a list of {} layers", listed.len()),
                other: format!("{layers} layers"),
            },
        )),
        (None, WindowRule::AllLayers) => Ok(vec![Some(window); layers]),
        (None, WindowRule::Listed) => Ok(vec![None; layers]),
        (None, WindowRule::EverySecond) => {
            Ok((0..layers).map(|layer| layer.is_multiple_of(2).then_some(window)).collect())
        }
    }
}

pub(super) fn rope(
    raw: &RawConfig,
    family: &Family,
    container: Container,
    head_dim: usize,
) -> Result<RopeSpec> {
    let limit = u64::try_from(head_dim).unwrap_or(MAX_HEAD_DIM);
    let dim = raw.count_or(&raw.rope_dim, head_dim, 2, limit)?;
    if !dim.is_multiple_of(2) {
        return Err(raw.fault(
            &raw.rope_dim.name,
            Fault::Contradiction { found: dim.to_string(), other: "pairs of dimensions".into() },
        ));
    }
    Ok(RopeSpec {
        theta: rope_theta(raw, family, dim)?,
        dim,
        pairing: match container {
            Container::Gguf => family.gguf_pairing,
            Container::HfFolder => family.folder_pairing,
        },
        scaling: rope_scaling(raw, family, dim)?,
    })
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

fn rope_scaling(raw: &RawConfig, family: &Family, dim: usize) -> Result<RopeScaling> {
    let factor = || raw.positive(&raw.rope_factor);
    if raw.rope_divisors.value.is_some() {
        let mut divisors = divisors(raw, &raw.rope_divisors, dim)?;
        match raw.rope_kind.value.as_deref() {
            None | Some("default" | "none") => {}
            // Both divide the frequencies.
            Some("linear") => {
                let factor = factor()?;
                divisors.iter_mut().for_each(|divisor| *divisor *= factor);
            }
            Some(other) => {
                let found = format!("\"{}\"", other.escape_default());
                let other = format!("the divisors in {}", raw.rope_divisors.name);
                return Err(raw.fault(&raw.rope_kind.name, Fault::Contradiction { found, other }));
            }
        }
        return Ok(RopeScaling::Factors { divisors });
    }
    let original = || match raw.rope_original_context.value {
        Some(_) => raw.count(&raw.rope_original_context, 1, MAX_CONTEXT),
        None => raw.count(&raw.max_context, 1, MAX_CONTEXT),
    };
    match raw.rope_kind.value.as_deref() {
        None | Some("default" | "none") => Ok(RopeScaling::None),
        Some("dynamic") if raw.rope_alpha.value.is_some() => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: factor()? }),
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
                None => long_rope_factor(longest, original_context),
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

/// LongRoPE's attention factor (arXiv 2402.13753): `sqrt(1 + ln(s) / ln(original))`.
#[allow(clippy::cast_precision_loss, reason = "context lengths are far below 2^52")]
fn long_rope_factor(longest: usize, original: usize) -> f64 {
    let ratio = longest as f64 / original as f64;
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
