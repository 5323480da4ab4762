//! Lowering: a raw configuration plus its family gives a validated [`ModelSpec`]. Values of an
//! untrusted configuration are checked here; the engine gets validated numbers. It must not know containers.

use crate::config::adjugate::add_adjugate;
use crate::config::compressed::{compressed_layers, streams};
use crate::config::conv::{conv_layers, plain};
use crate::config::delta::delta_layers;
use crate::config::encdec::pair;
use crate::config::experts::{activation, dense_width, ffn_layers};
use crate::config::field::{Field, PerLayer};
use crate::config::fields::RawConfig;
use crate::config::heads::head_experts;
use crate::config::images::images;
use crate::config::kda::kda_layers;
use crate::config::latent::latent_layers;
use crate::config::limits::{
    Container, MAX_CONTEXT, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, embed_scale, root,
    setting,
};
use crate::config::ngram::{add_ngrams, blocks};
use crate::config::positions::{distances, layer_rope, roped_layers, temperature};
use crate::config::sources::{kv_heads, layer_input_width, of_layer, sources};
use crate::config::ssm::{Hybrid, LayerKind, hybrid};
use crate::error::{Fault, LoadError, Result};
use crate::families::{
    AdjugateKind, BesideKind, FAMILIES, Family, FolderSizes, LogitScale, NormKind, NormPlaces, QkNormKind,
    SinkLayers, SsmKind, WindowRule,
};
use crate::near::near;
use crate::spec::{
    AttentionSpec, BranchSpec, HeadSpec, Join, LayerInputSpec, LayerInputs, LayerSpec, MlpSpec, ModelSpec,
    NormSpec, Op, Place, QkNorm,
};

/// The family of a configuration.
///
/// # Errors
/// [`LoadError::Unsupported`] with the supported architectures of near names.
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
        hint: match near(name, &supported(container))[..] {
            [] => "docs/models.md lists those that are".to_owned(),
            ref near => format!("supported names near it: {}; docs/models.md lists all", near.join(", ")),
        },
    })
}

/// The architecture names of a container.
fn supported(container: Container) -> Vec<&'static str> {
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
    if let Some(spec) = with_encoder(raw, family, container) {
        return spec;
    }
    let layer_count = raw.count(&raw.layers, 1, MAX_LAYERS)?;
    let d_model = raw.count(&raw.d_model, 1, MAX_WIDTH)?;
    let eps = raw.positive_or(&raw.norm_eps, family.default_eps)?;
    let with_eps = |eps| match family.norm {
        NormKind::Rms => NormSpec::Rms { eps },
        NormKind::Layer => NormSpec::Layer { eps },
        NormKind::LayerUnbiased => NormSpec::LayerUnbiased { eps },
    };
    let (norm, final_norm) = (with_eps(family.layer_eps.unwrap_or(eps)), with_eps(eps));
    let convs = family.short_conv.then(|| conv_layers(raw, layer_count, d_model)).transpose()?;
    let convs = convs.unwrap_or_else(|| vec![None; layer_count]);
    let plain = family.short_conv.then(|| plain(raw, container)).transpose()?;
    let raw = plain.as_ref().unwrap_or(raw);
    let sizes = Sizes { layers: layer_count, d_model, eps };
    let hybrid = match family.ssm {
        SsmKind::None => None,
        kind => Some(hybrid(raw, kind, container, layer_count, eps)?),
    };
    let raw = hybrid.as_ref().map_or(raw, |hybrid| &hybrid.raw);
    let (mixers, ffn): LayerOps = match &hybrid {
        None => {
            let mixers = mixers_of(raw, family, container, sizes)?;
            let mixers = mixers.into_iter().zip(convs).map(|(mixer, conv)| conv.map_or(mixer, Op::Conv));
            let ffn = ffn_layers(raw, family, container, layer_count)?;
            (mixers.map(Some).collect(), ffn.into_iter().map(Some).collect())
        }
        Some(hybrid) => hybrid_layers(hybrid, family, container, sizes)?,
    };
    let own = layer_inputs(raw, eps)?;
    let adjugate = family.folder_adjugate.filter(|_| container == Container::HfFolder);
    let with = Assembly { norm, scale: raw.positive(&raw.residual_scale)?, own, adjugate };
    let layers = mixers.into_iter().zip(ffn).enumerate();
    let layers = layers.map(|(index, ops)| assembled(raw, family, sizes, &with, index, ops));
    let mut layers = layers.collect::<Result<Vec<LayerSpec>>>()?;
    if family.streams {
        add_ngrams(raw, container, eps, &mut layers)?;
    }
    Ok(ModelSpec {
        name: raw.text(&raw.model_name)?,
        family: family.label,
        vocab: raw.count(&raw.vocab, 1, MAX_VOCAB)?,
        d_model,
        max_context: raw.count(&raw.max_context, 1, MAX_CONTEXT)?,
        embed_scale: embed_scale(raw, family, d_model)?,
        streams: if family.streams { streams(raw, eps)? } else { None },
        layer_inputs: own,
        positions: None,
        encoder: None,
        image: None,
        tasks: Vec::new(),
        layers,
        final_norm: (family.norms != NormPlaces::Nowhere).then_some(final_norm),
        head: HeadSpec {
            tied: raw.tied.value.unwrap_or(family.default_tied),
            bias: setting(family.head_bias, &raw.head_bias),
            scale: logit_scale(raw, family)?,
            softcap: optional(raw, &raw.logit_softcap)?,
        },
    })
}

/// A model that has an encoder.
fn with_encoder(raw: &RawConfig, family: &Family, container: Container) -> Option<Result<ModelSpec>> {
    match family.pair {
        Some(kind) => Some(pair(raw, family, kind, container)),
        None => family.images.then(|| images(raw, family)),
    }
}

/// What every layer gets of a token. GGUF files have the width of numbers of runs of tokens under its key.
fn layer_inputs(raw: &RawConfig, eps: f32) -> Result<Option<LayerInputs>> {
    if raw.ngram_layers.value.is_some() {
        return Ok(None);
    }
    Ok(layer_input_width(raw)?.map(|width| LayerInputs { width, eps }))
}

/// What every layer is put together with.
struct Assembly {
    norm: NormSpec,
    /// Factor on what branches add.
    scale: f32,
    /// The numbers that every layer gets of a token.
    own: Option<LayerInputs>,
    /// The adjugate experts that the file does not describe.
    adjugate: Option<AdjugateKind>,
}

/// A layer of these operations.
fn assembled(
    raw: &RawConfig,
    family: &Family,
    sizes: Sizes,
    with: &Assembly,
    index: usize,
    (mixer, ffn): (Option<Op>, Option<Op>),
) -> Result<LayerSpec> {
    let &Assembly { norm, scale, own, adjugate } = with;
    let mut layer = layer(family, norm, mixer, ffn, scale);
    match family.beside {
        BesideKind::None => {}
        BesideKind::Outset => layer = beside_dense(layer, sizes.d_model),
        BesideKind::Sum => sum_with_dense(&mut layer, norm, || dense_width(raw, sizes.layers, index))?,
    }
    add_adjugate(raw, adjugate, &mut layer)?;
    if let Some(LayerInputs { width, .. }) = own {
        let op = Op::LayerInput(LayerInputSpec { width, activation: activation(raw, family)? });
        let (place, join, post_norm) = (Place::LayerInput, Join::InOrder, Some(norm));
        layer.branches.push(BranchSpec { place, join, pre_norm: None, op, post_norm, scale });
    }
    layer.scaled = family.layer_scale;
    Ok(layer)
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
fn layer(family: &Family, norm: NormSpec, mixer: Option<Op>, ffn: Option<Op>, scale: f32) -> LayerSpec {
    let mut layer = LayerSpec::pre_norm(norm, mixer, ffn, scale);
    for branch in &mut layer.branches {
        if matches!(family.norms, NormPlaces::After | NormPlaces::Nowhere) {
            branch.pre_norm = None;
        }
        if matches!(family.norms, NormPlaces::After | NormPlaces::Both) {
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
    LayerSpec { branches: branches.collect(), ..layer }
}

/// Adds a dense block of `width` to the experts of a layer that has them: both read the same, and what they
/// add up to has a norm.
fn sum_with_dense(
    layer: &mut LayerSpec,
    norm: NormSpec,
    width: impl FnOnce() -> Result<usize>,
) -> Result<()> {
    let Some(at) = layer.branches.iter().position(|branch| matches!(branch.op, Op::Moe(_))) else {
        return Ok(());
    };
    let Some(experts) = layer.branches.get_mut(at) else { return Ok(()) };
    let Op::Moe(moe) = &experts.op else { return Ok(()) };
    let op = Op::Mlp(MlpSpec { d_ff: width()?, ..moe.expert });
    let dense = BranchSpec { place: Place::Dense, op, ..experts.clone() };
    (experts.place, experts.join) = (Place::Experts, Join::Parallel);
    layer.branches.insert(at, dense);
    layer.sum_norm = Some(norm);
    Ok(())
}

/// Sizes that every layer has.
#[derive(Clone, Copy)]
struct Sizes {
    layers: usize,
    d_model: usize,
    /// Of the norms.
    eps: f32,
}

/// What each layer has in which tokens exchange information, and what it has for each token by itself.
type LayerOps = (Vec<Option<Op>>, Vec<Option<Op>>);

/// The operations of a model with recurrences.
fn hybrid_layers(hybrid: &Hybrid, family: &Family, container: Container, sizes: Sizes) -> Result<LayerOps> {
    let Hybrid { raw, kinds, op } = hybrid;
    let ssm = |kind: LayerKind| (kind == LayerKind::Ssm).then(|| op.clone());
    let mut mixers: Vec<Option<Op>> = kinds.iter().map(|&kind| ssm(kind)).collect();
    if kinds.contains(&LayerKind::Attention) {
        let attention = mixers_of(raw, family, container, sizes)?;
        for ((mixer, kind), attention) in mixers.iter_mut().zip(kinds).zip(attention) {
            *mixer = if *kind == LayerKind::Attention { Some(attention) } else { mixer.take() };
        }
    }
    let alone = matches!(family.ssm, SsmKind::SingleOps | SsmKind::Lstm);
    let wanted = |kind: LayerKind| !alone || matches!(kind, LayerKind::Dense | LayerKind::Experts);
    if family.ssm == SsmKind::Alone || !kinds.iter().any(|&kind| wanted(kind)) {
        return Ok((mixers, vec![None; sizes.layers]));
    }
    let ffn = ffn_layers(raw, family, container, sizes.layers)?;
    Ok((mixers, ffn.into_iter().zip(kinds).map(|(ffn, &kind)| wanted(kind).then_some(ffn)).collect()))
}

/// The operation of each layer in which tokens exchange information.
fn mixers_of(raw: &RawConfig, family: &Family, container: Container, sizes: Sizes) -> Result<Vec<Op>> {
    let Sizes { layers, d_model, eps } = sizes;
    if family.compressed {
        let layers = compressed_layers(raw, family, container, layers, eps)?;
        return Ok(layers.into_iter().map(Op::Compressed).collect());
    }
    if family.latent {
        let latent = latent_layers(raw, family, container, layers, eps)?;
        let kda = kda_layers(raw, family.kda, container, layers, eps)?;
        let both = latent.into_iter().zip(kda);
        return Ok(both.map(|(latent, kda)| kda.map_or(Op::Latent(latent), Op::Kda)).collect());
    }
    let mut attention = attention_layers(raw, family, container, layers, d_model, eps)?;
    if family.blocks {
        for (layer, attention) in attention.iter_mut().enumerate() {
            attention.blocks = blocks(raw, attention, layer, eps)?;
        }
    }
    let deltas = match family.delta {
        Some(kind) => delta_layers(raw, (kind, family.sigmoid_gate), container, layers, eps)?,
        None => vec![None; layers],
    };
    if family.head_experts {
        let renormalise = setting(family.renormalise, &raw.renormalise);
        let heads = |attention| head_experts(raw, attention, renormalise).map(Op::HeadExperts);
        return attention.into_iter().map(heads).collect();
    }
    let both = attention.into_iter().zip(deltas);
    Ok(both.map(|(attention, delta)| delta.map_or(Op::Attention(attention), Op::Delta)).collect())
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

fn attention_layers(
    raw: &RawConfig,
    family: &Family,
    container: Container,
    layers: usize,
    d_model: usize,
    eps: f32,
) -> Result<Vec<AttentionSpec>> {
    let heads = heads(raw, layers)?;
    let listed = match raw.kv_heads.value {
        Some(_) => raw.per_layer(&raw.kv_heads, layers, 1, MAX_HEADS)?,
        None => heads.clone(),
    };
    let windows = windows(raw, family, layers)?;
    let (clip_qkv, softcap) = (optional(raw, &raw.clip_qkv)?, optional(raw, &raw.attention_softcap)?);
    let roped = roped_layers(raw, family, container, &windows)?;
    let sources = sources(raw, container, &windows)?;
    let of_layers = heads.iter().zip(&listed).zip(windows).zip(roped).zip(sources);
    let mut specs = Vec::with_capacity(layers);
    for (layer, ((((&heads, &listed), window), roped), source)) in of_layers.enumerate() {
        let raw = &of_layer(raw, family, container, layer, window.is_some())?;
        let (kv_heads, field) = kv_heads(raw, listed, window.is_some())?;
        if heads % kv_heads != 0 {
            let (found, other) = (kv_heads.to_string(), format!("{heads} query heads"));
            return Err(raw.fault(field, Fault::Contradiction { found, other }));
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
            source,
            value_norm: family.value_norm.then_some(eps),
            qkv_bias: setting(family.qkv_bias, &raw.qkv_bias),
            out_bias: setting(family.out_bias, &raw.out_bias),
            value_dim: value_dim(raw, head_dim)?,
            value_scale: raw.positive(&raw.value_scale)?,
            chunk: chunk(raw, family)?.filter(|_| roped),
            whole: false,
            relative: family.distances.then(|| distances(raw, false, layer)).transpose()?,
            blocks: None,
            sinks: has_sinks(raw, family, window.is_some()),
            qk_norm: match family.qk_norm {
                _ if !has_qk_norm(raw, family, container) => QkNorm::None,
                QkNormKind::None => QkNorm::None,
                QkNormKind::PlainAfterRope { .. } if !roped => QkNorm::None,
                QkNormKind::PlainAfterRope { .. } => QkNorm::PlainAfterRope { eps },
                QkNormKind::PerHead => QkNorm::PerHead { eps },
                QkNormKind::PerHeadAfterRope => QkNorm::PerHeadAfterRope { eps },
                QkNormKind::Full => QkNorm::Full { eps },
            },
            rope,
            window,
            clip_qkv,
            softcap,
            temperature: temperature(raw, family, roped)?,
            gate: family.gate.filter(|_| raw.attention_gate.value.unwrap_or(true)),
        });
    }
    Ok(specs)
}

/// Whether a layer's scores have sinks.
fn has_sinks(raw: &RawConfig, family: &Family, window: bool) -> bool {
    match family.sinks {
        SinkLayers::None => false,
        SinkLayers::All => true,
        SinkLayers::Windowed if window => raw.local_sinks.value.unwrap_or(true),
        SinkLayers::Windowed => raw.full_sinks.get() == Some(&true),
    }
}

/// Whether queries and keys have norms.
fn has_qk_norm(raw: &RawConfig, family: &Family, container: Container) -> bool {
    match (family.qk_norm, container) {
        (QkNormKind::PlainAfterRope { but_of }, Container::Gguf) => raw.experts.value != Some(but_of),
        (QkNormKind::PlainAfterRope { .. }, Container::HfFolder) => raw.qk_norm.value.unwrap_or(true),
        _ => setting(family.has_qk_norm, &raw.qk_norm),
    }
}

/// Tokens of a run outside of which nothing is seen.
fn chunk(raw: &RawConfig, family: &Family) -> Result<Option<usize>> {
    family.chunk.map(|default| raw.count_or(&raw.attention_chunk, default, 1, MAX_CONTEXT)).transpose()
}

/// Width of a value head beside keys of `head_dim`.
fn value_dim(raw: &RawConfig, head_dim: usize) -> Result<usize> {
    let width = raw.count_or(&raw.value_dim, head_dim, 1, MAX_HEAD_DIM)?;
    if width <= head_dim {
        return Ok(width);
    }
    Err(LoadError::Unsupported {
        path: raw.path.clone(),
        feature: format!("{} = {width} beside key heads of {head_dim}", raw.value_dim.name),
        hint: "values must not be wider than keys".into(),
    })
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
    let root = root(if by_share { share } else { head_dim });
    raw.positive_or(&raw.attention_scale, if family.unscaled { 1.0 } else { 1.0 / root })
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
    Ok(head_dim)
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
