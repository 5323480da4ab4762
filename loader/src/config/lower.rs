//! Lowering: a raw configuration plus its family gives a validated [`ModelSpec`]. Values of an
//! untrusted configuration are checked here; the engine gets validated numbers. It must not know containers.

use crate::config::experts::ffn_layers;
use crate::config::field::{Field, PerLayer};
use crate::config::fields::RawConfig;
use crate::config::limits::{
    Container, MAX_CONTEXT, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, setting,
};
use crate::error::{Fault, LoadError, Result};
use crate::families::{
    FAMILIES, Family, LocalRope, LogitScale, NormKind, NormPlaces, QkNormKind, RopeLayers, WindowRule,
};
use crate::io::reader::narrow;
use crate::spec::{
    AttentionSpec, BranchSpec, HeadSpec, Join, LayerSpec, MlpSpec, ModelSpec, NormSpec, Op, Place, QkNorm,
    RopeScaling, RopeSpec, Temperature,
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
        NormKind::LayerUnbiased => NormSpec::LayerUnbiased { eps },
    };
    let attention = attention_layers(raw, family, container, layer_count, d_model, eps)?;
    let ffn = ffn_layers(raw, family, container, layer_count)?;
    let residual_scale = raw.positive(&raw.residual_scale)?;
    let layers = attention
        .into_iter()
        .zip(ffn)
        .map(|(attention, ffn)| match family.experts_beside_dense {
            true => beside_dense(layer(family, norm, attention, ffn, residual_scale), d_model),
            false => layer(family, norm, attention, ffn, residual_scale),
        })
        .collect();
    Ok(ModelSpec {
        name: raw.text(&raw.model_name)?,
        family: family.label,
        vocab: raw.count(&raw.vocab, 1, MAX_VOCAB)?,
        d_model,
        max_context: raw.count(&raw.max_context, 1, MAX_CONTEXT)?,
        embed_scale: embed_scale(raw, family, d_model)?,
        layers,
        final_norm: norm,
        head: HeadSpec {
            tied: raw.tied.value.unwrap_or(family.default_tied),
            bias: setting(family.head_bias, &raw.head_bias),
            scale: logit_scale(raw, family)?,
            softcap: optional(raw, &raw.logit_softcap)?,
        },
    })
}

/// A layer with its norms where the family has them.
fn layer(family: &Family, norm: NormSpec, attention: AttentionSpec, ffn: Op, scale: f32) -> LayerSpec {
    let mut layer = LayerSpec::pre_norm(norm, Op::Attention(attention), ffn, scale);
    for branch in &mut layer.branches {
        if family.norms == NormPlaces::After {
            branch.pre_norm = None;
        }
        if family.norms != NormPlaces::Before {
            branch.post_norm = Some(norm);
        }
        if family.parallel && branch.place == Place::Ffn {
            branch.join = Join::Parallel;
        }
    }
    layer
}

/// The layer with a dense block, as wide as the residual stream, before its experts.
fn beside_dense(layer: LayerSpec, d_model: usize) -> LayerSpec {
    let branches = layer.branches.into_iter().flat_map(|branch| match &branch.op {
        Op::Moe(moe) => {
            let dense = MlpSpec { d_ff: d_model, ..moe.expert };
            let dense = BranchSpec { op: Op::Mlp(dense), ..branch.clone() };
            vec![dense, BranchSpec { place: Place::Experts, join: Join::Outset, ..branch }]
        }
        _ => vec![branch],
    });
    LayerSpec { branches: branches.collect() }
}

fn embed_scale(raw: &RawConfig, family: &Family, d_model: usize) -> Result<f32> {
    let scale = raw.positive(&raw.embed_scale)?;
    Ok(match setting(family.embed_root, &raw.embed_root) {
        true => scale * narrow(root(d_model)),
        false => scale,
    })
}

fn logit_scale(raw: &RawConfig, family: &Family) -> Result<f32> {
    match family.logit_scale {
        LogitScale::Divides => Ok(1.0 / raw.positive_or(&raw.logit_scale, 1.0)?),
        LogitScale::Multiplies { default } => raw.positive_or(&raw.logit_scale, default),
    }
}

/// A number above zero; `None` if the file has none.
fn optional(raw: &RawConfig, field: &Field<f64>) -> Result<Option<f32>> {
    field.value.map(|_| raw.positive(field)).transpose()
}

/// The square root of a width.
fn root(width: usize) -> f64 {
    f64::from(u32::try_from(width).unwrap_or(u32::MAX)).sqrt()
}

fn attention_layers(
    raw: &RawConfig,
    family: &Family,
    container: Container,
    layers: usize,
    d_model: usize,
    eps: f32,
) -> Result<Vec<AttentionSpec>> {
    let heads = heads(raw, layers)?;
    let kv_heads = match raw.kv_heads.value {
        Some(_) => raw.per_layer(&raw.kv_heads, layers, 1, MAX_HEADS)?,
        None => heads.clone(),
    };
    let windows = windows(raw, family, layers)?;
    let (clip_qkv, softcap) = (optional(raw, &raw.clip_qkv)?, optional(raw, &raw.attention_softcap)?);
    let temperature = temperature(raw)?;
    let roped = roped_layers(raw, family, &windows)?;
    let mut specs = Vec::with_capacity(layers);
    for (((&heads, &kv_heads), window), roped) in heads.iter().zip(&kv_heads).zip(windows).zip(roped) {
        if heads % kv_heads != 0 {
            return Err(raw.fault(
                &raw.kv_heads.name,
                Fault::Contradiction { found: kv_heads.to_string(), other: format!("{heads} query heads") },
            ));
        }
        let head_dim = head_dim(raw, heads, d_model)?;
        let rope = match roped {
            true => Some(layer_rope(raw, family, container, head_dim, window.is_some())?),
            false => None,
        };
        specs.push(AttentionSpec {
            heads,
            kv_heads,
            head_dim,
            scale: score_scale(raw, family, container, d_model / heads, head_dim)?,
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
            rope,
            window,
            clip_qkv,
            softcap,
            temperature,
            gate: family.gate.filter(|_| raw.attention_gate.value.unwrap_or(true)),
        });
    }
    Ok(specs)
}

fn heads(raw: &RawConfig, layers: usize) -> Result<Vec<usize>> {
    match &raw.layer_heads.value {
        None => raw.per_layer(&raw.heads, layers, 1, MAX_HEADS),
        Some(listed) => {
            let listed = Field::new(raw.layer_heads.name.clone(), Some(PerLayer(listed.clone())));
            raw.per_layer(&listed, layers, 1, MAX_HEADS)
        }
    }
}

/// Factor on attention scores, of `heads` heads that would each be `share` wide if they shared the residual
/// stream, and are `head_dim` wide.
fn score_scale(
    raw: &RawConfig,
    family: &Family,
    container: Container,
    share: usize,
    head_dim: usize,
) -> Result<f32> {
    if raw.query_scalar.value.is_some() {
        return Ok(1.0 / raw.positive(&raw.query_scalar)?.sqrt());
    }
    let layers = raw.layers.value.unwrap_or(0);
    let by_share = container == Container::Gguf && family.gguf_share_layers == Some(layers);
    raw.positive_or(&raw.attention_scale, 1.0 / root(if by_share { share } else { head_dim }))
}

fn temperature(raw: &RawConfig) -> Result<Option<Temperature>> {
    if matches!(raw.temperature.value, None | Some(0.0)) {
        return Ok(None);
    }
    let period = raw.count(&raw.rope_original_context, 1, MAX_CONTEXT)?;
    Ok(Some(Temperature { beta: raw.positive(&raw.temperature)?, period }))
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
        (None, WindowRule::Periodic { period, first_is_full }) => {
            let period = match raw.window_period.value {
                Some(_) => raw.count(&raw.window_period, 1, MAX_LAYERS)?,
                None => period,
            };
            let full = if first_is_full { 0 } else { period - 1 };
            Ok((0..layers).map(|layer| (layer % period != full).then_some(window)).collect())
        }
    }
}

/// Which layers have a rope.
fn roped_layers(raw: &RawConfig, family: &Family, windows: &[Option<usize>]) -> Result<Vec<bool>> {
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
        (None, RopeLayers::Windowed) if windows.iter().all(Option::is_none) => Ok(vec![true; layers]),
        (None, RopeLayers::Windowed) => Ok(windows.iter().map(Option::is_some).collect()),
        (None, RopeLayers::AllButEvery(period)) => match raw.rope_period.value {
            Some(_) => Ok(every(raw.count(&raw.rope_period, 1, MAX_LAYERS)?)),
            None => Ok(every(period)),
        },
    }
}

/// The rope of a layer with or without a window.
fn layer_rope(
    raw: &RawConfig,
    family: &Family,
    container: Container,
    head_dim: usize,
    windowed: bool,
) -> Result<RopeSpec> {
    let global = rope(raw, family, container, head_dim)?;
    let apart = raw.local_rope_kind.value.is_some();
    let theta = match family.local_rope {
        _ if !windowed => return Ok(global),
        LocalRope::Same if !apart => return Ok(global),
        LocalRope::Same | LocalRope::Plain { theta: None } => f64::from(global.theta),
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
    let default_dim = if apart { head_dim } else { global.dim };
    let dim = rope_dim(raw, &raw.local_rope_dim, default_dim, head_dim)?;
    Ok(RopeSpec { theta, dim, pairing: global.pairing, scaling: RopeScaling::None })
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

fn rope(raw: &RawConfig, family: &Family, container: Container, head_dim: usize) -> Result<RopeSpec> {
    let dim = rope_dim(raw, &raw.rope_dim, head_dim, head_dim)?;
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
            // arXiv 2309.00071, equation 22: 0.1 ln(s) + 1. With two "mscale" it is a quotient of such factors.
            let magnitude = |mscale: f64| 0.1 * mscale * f64::from(factor).ln().max(0.0) + 1.0;
            let default = match (raw.rope_mscale.value, raw.rope_mscale_all.value) {
                (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => {
                    magnitude(mscale) / magnitude(all)
                }
                _ => magnitude(1.0),
            };
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

/// LongRoPE's attention factor (arXiv 2402.13753): `sqrt(1 + ln(s) / ln(original))`. `s` is the file's factor,
/// or the longest context over the original one.
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
