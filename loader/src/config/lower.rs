//! Lowering: a raw configuration plus its family gives a validated [`ModelSpec`]. Values of an
//! untrusted configuration are checked here; the engine gets validated numbers. It must not know containers.

use crate::config::conv::{conv_layers, plain};
use crate::config::delta::delta_layers;
use crate::config::experts::ffn_layers;
use crate::config::field::{Field, PerLayer};
use crate::config::fields::RawConfig;
use crate::config::latent::latent_layers;
use crate::config::limits::{
    Container, MAX_CONTEXT, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, setting,
};
use crate::config::positions::{layer_rope, roped_layers, temperature};
use crate::error::{Fault, LoadError, Result};
use crate::families::{
    FAMILIES, Family, FolderSizes, LogitScale, NormKind, NormPlaces, QkNormKind, WindowRule,
};
use crate::io::reader::narrow;
use crate::spec::{
    AttentionSpec, BranchSpec, HeadSpec, Join, LayerSpec, MlpSpec, ModelSpec, NormSpec, Op, Place, QkNorm,
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
    let filled = match (family.folder_sizes, container) {
        (Some(sizes), Container::HfFolder) => Some(with_sizes(raw, sizes)),
        _ => None,
    };
    let raw = filled.as_ref().unwrap_or(raw);
    let layer_count = raw.count(&raw.layers, 1, MAX_LAYERS)?;
    let d_model = raw.count(&raw.d_model, 1, MAX_WIDTH)?;
    let eps = raw.positive_or(&raw.norm_eps, family.default_eps)?;
    let norm = match family.norm {
        NormKind::Rms => NormSpec::Rms { eps },
        NormKind::Layer => NormSpec::Layer { eps },
        NormKind::LayerUnbiased => NormSpec::LayerUnbiased { eps },
    };
    let convs = match family.short_conv {
        true => conv_layers(raw, layer_count, d_model)?,
        false => vec![None; layer_count],
    };
    let plain = family.short_conv.then(|| plain(raw, container)).transpose()?;
    let raw = plain.as_ref().unwrap_or(raw);
    let mixers: Vec<Op> = if family.latent {
        latent_layers(raw, family, container, layer_count, eps)?.into_iter().map(Op::Latent).collect()
    } else {
        let layers = attention_layers(raw, family, container, layer_count, d_model, eps)?;
        let deltas = match family.delta {
            Some(kind) => delta_layers(raw, kind, container, layer_count, eps)?,
            None => vec![None; layer_count],
        };
        let both = layers.into_iter().zip(deltas);
        let mixers = both.map(|(attention, delta)| delta.map_or(Op::Attention(attention), Op::Delta));
        mixers.zip(convs).map(|(mixer, conv)| conv.map_or(mixer, Op::Conv)).collect()
    };
    let ffn = ffn_layers(raw, family, container, layer_count)?;
    let residual_scale = raw.positive(&raw.residual_scale)?;
    let layers = mixers
        .into_iter()
        .zip(ffn)
        .map(|(mixer, ffn)| match family.experts_beside_dense {
            true => beside_dense(layer(family, norm, mixer, ffn, residual_scale), d_model),
            false => layer(family, norm, mixer, ffn, residual_scale),
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

/// A configuration with the sizes that it leaves out.
fn with_sizes(raw: &RawConfig, sizes: FolderSizes) -> RawConfig {
    let mut raw = raw.clone();
    raw.vocab.value.get_or_insert(sizes.vocab);
    raw.heads.value.get_or_insert(PerLayer(vec![sizes.heads]));
    raw.kv_heads.value.get_or_insert(PerLayer(vec![sizes.kv_heads]));
    raw.head_dim.value.get_or_insert(sizes.head_dim);
    raw.max_context.value.get_or_insert(sizes.max_context);
    raw
}

/// A layer with its norms where the family has them.
fn layer(family: &Family, norm: NormSpec, mixer: Op, ffn: Op, scale: f32) -> LayerSpec {
    let mut layer = LayerSpec::pre_norm(norm, mixer, ffn, scale);
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
