//! Lowering: a raw configuration plus its family gives a validated [`ModelSpec`]. Values of an
//! untrusted configuration are checked here; the engine gets validated numbers. It must not know containers.

use crate::config::field::Field;
use crate::config::fields::RawConfig;
use crate::error::{Fault, LoadError, Result};
use crate::families::{
    ExpertWidth, FAMILIES, Family, NormKind, QkNormKind, RouterKind, Setting, SharedKind, WindowRule,
};
use crate::io::reader::narrow;
use crate::spec::{
    Activation, AttentionSpec, HeadSpec, LayerSpec, MlpSpec, ModelSpec, MoeSpec, NormSpec, Op, Pairing,
    QkNorm, RopeScaling, RopeSpec, RouterSpec, Select, SharedExpert,
};

/// Upper bounds of the sizes of a model, far above those of every known one.
const MAX_LAYERS: u64 = 1024;
const MAX_WIDTH: u64 = 1 << 17;
const MAX_FF: u64 = 1 << 20;
const MAX_VOCAB: u64 = 1 << 22;
const MAX_HEADS: u64 = 1024;
const MAX_HEAD_DIM: u64 = 1024;
const MAX_EXPERTS: u64 = 4096;
/// Experts of all layers together. Each takes memory before any weight is read.
const MAX_EXPERTS_TOTAL: usize = 1 << 18;
const MAX_CONTEXT: u64 = 1 << 26;

/// Which container a configuration came from; decides the Q/K row order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// A GGUF file.
    Gguf,
    /// A Hugging Face folder.
    HfFolder,
}

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
    let attention = attention_layers(raw, family, container, layer_count, d_model, eps)?;
    let ffn = ffn_layers(raw, family, layer_count)?;
    let residual_scale = raw.positive(&raw.residual_scale)?;
    let layers = attention
        .into_iter()
        .zip(ffn)
        .map(|(attention, ffn)| LayerSpec::pre_norm(norm, Op::Attention(attention), ffn, residual_scale))
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

fn setting(rule: Setting, field: &Field<bool>) -> bool {
    match rule {
        Setting::Fixed(value) => value,
        Setting::Default(value) => field.value.unwrap_or(value),
    }
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
            qk_norm: match family.qk_norm {
                QkNormKind::None => QkNorm::None,
                QkNormKind::PerHead => QkNorm::PerHead { eps },
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
    }
}

fn rope(raw: &RawConfig, family: &Family, container: Container, head_dim: usize) -> Result<RopeSpec> {
    let limit = u64::try_from(head_dim).unwrap_or(MAX_HEAD_DIM);
    let dim = raw.count_or(&raw.rope_dim, head_dim, 2, limit)?;
    if !dim.is_multiple_of(2) {
        return Err(raw.fault(
            &raw.rope_dim.name,
            Fault::Contradiction { found: dim.to_string(), other: "pairs of dimensions".into() },
        ));
    }
    Ok(RopeSpec {
        theta: raw.positive_or(&raw.rope_theta, family.default_theta)?,
        dim,
        pairing: match container {
            Container::Gguf => family.gguf_pairing,
            Container::HfFolder => Pairing::Split,
        },
        scaling: rope_scaling(raw, dim)?,
    })
}

fn rope_scaling(raw: &RawConfig, dim: usize) -> Result<RopeScaling> {
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
        Some("linear") => Ok(RopeScaling::Linear { factor: factor()? }),
        Some("llama3") => Ok(RopeScaling::Llama3 {
            factor: factor()?,
            low_freq_factor: raw.positive(&raw.rope_low_freq_factor)?,
            high_freq_factor: raw.positive(&raw.rope_high_freq_factor)?,
            original_context: original()?,
        }),
        Some("yarn") => {
            let factor = factor()?;
            // arXiv 2309.00071, equation 22: 0.1 ln(s) + 1.
            let default = 0.1 * f64::from(factor).ln().max(0.0) + 1.0;
            Ok(RopeScaling::Yarn {
                factor,
                original_context: original()?,
                beta_fast: raw.positive(&raw.rope_beta_fast)?,
                beta_slow: raw.positive(&raw.rope_beta_slow)?,
                attention_factor: raw.positive_or(&raw.rope_attention_factor, default)?,
                truncate: raw.flag(&raw.rope_truncate)?,
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

/// The feed-forward operation of each layer.
fn ffn_layers(raw: &RawConfig, family: &Family, layers: usize) -> Result<Vec<Op>> {
    let activation = activation(raw)?;
    let mlp = |field: &Field<u64>| -> Result<MlpSpec> {
        Ok(MlpSpec::gated(raw.count(field, 1, MAX_FF)?, activation))
    };
    let dense = |layer: usize| -> Result<MlpSpec> {
        let widths = raw.per_layer(&raw.d_ff, layers, 1, MAX_FF)?;
        Ok(MlpSpec::gated(widths.get(layer).copied().unwrap_or(1), activation))
    };
    let listed = raw.moe_layers.value.as_deref();
    if let Some(listed) = listed
        && listed.len() != layers
    {
        let found = format!("a list of {} layers", listed.len());
        return Err(raw
            .fault(&raw.moe_layers.name, Fault::Contradiction { found, other: format!("{layers} layers") }));
    }
    let has_experts = raw.experts.value.is_some();
    let moe = if has_experts { Some(moe(raw, family, &mlp, &dense)?) } else { None };
    if let Some(moe) = moe.as_ref().filter(|moe| moe.experts.saturating_mul(layers) > MAX_EXPERTS_TOTAL) {
        let other = format!("{layers} layers: more than {MAX_EXPERTS_TOTAL} experts in all");
        return Err(
            raw.fault(&raw.experts.name, Fault::Contradiction { found: moe.experts.to_string(), other })
        );
    }
    (0..layers)
        .map(|layer| match &moe {
            Some(moe) if listed.is_none_or(|l| l.get(layer).copied().unwrap_or(true)) => {
                let expert = match family.expert_width {
                    ExpertWidth::Own => moe.expert,
                    ExpertWidth::AsDense => dense(layer)?,
                };
                Ok(Op::Moe(MoeSpec { expert, ..moe.clone() }))
            }
            _ => Ok(Op::Mlp(dense(layer)?)),
        })
        .collect()
}

fn moe(
    raw: &RawConfig,
    family: &Family,
    mlp: &dyn Fn(&Field<u64>) -> Result<MlpSpec>,
    dense: &dyn Fn(usize) -> Result<MlpSpec>,
) -> Result<MoeSpec> {
    let experts = raw.count(&raw.experts, 1, MAX_EXPERTS)?;
    let k = raw.count(&raw.experts_used, 1, u64::try_from(experts).unwrap_or(MAX_EXPERTS))?;
    let expert = match family.expert_width {
        ExpertWidth::Own => mlp(&raw.expert_d_ff)?,
        ExpertWidth::AsDense => dense(0)?,
    };
    let shared = match (family.shared, raw.shared_d_ff.value) {
        (SharedKind::None, _) | (SharedKind::PlainIfPresent, None | Some(0)) => SharedExpert::None,
        (SharedKind::PlainIfPresent, Some(_)) => SharedExpert::Plain(mlp(&raw.shared_d_ff)?),
        (SharedKind::Gated, _) => SharedExpert::Gated(mlp(&raw.shared_d_ff)?),
    };
    let select = match family.router {
        RouterKind::SoftmaxTopK => {
            Select::SoftmaxTopK { k, renormalise: setting(family.renormalise, &raw.renormalise) }
        }
        RouterKind::SparseMixer if k == 2 && experts > 1 => {
            Select::SparseMixer { jitter: raw.non_negative(&raw.router_jitter)? }
        }
        RouterKind::SparseMixer => {
            return Err(raw.fault(
                &raw.experts_used.name,
                Fault::Contradiction {
                    found: k.to_string(),
                    other: "SparseMixer routing, which picks 2".into(),
                },
            ));
        }
    };
    Ok(MoeSpec { experts, expert, router: RouterSpec { select, scale: 1.0 }, shared })
}

fn activation(raw: &RawConfig) -> Result<Activation> {
    match raw.activation.get().map(String::as_str) {
        None | Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Activation::GeluTanh),
        Some(other) => Err(LoadError::Unsupported {
            path: raw.path.clone(),
            feature: format!("activation \"{}\"", other.escape_default()),
            hint: "supported are silu, gelu_pytorch_tanh".into(),
        }),
    }
}
