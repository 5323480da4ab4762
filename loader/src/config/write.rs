//! A lowered spec as GGUF metadata: the inverse of `gguf`. Keys follow the GGUF specification, so that other
//! readers of the format find what they expect. It must not know tensors' values.

use crate::config::fields::FIELDS;
use crate::config::find::family_of;
use crate::config::ignored::VOCAB_KEY;
use crate::config::write_encdec;
use crate::config::write_images;
use crate::config::write_keys::{Keys, small, unsupported};
use crate::config::write_latent::{compressed, compressed_keys, latent_keys, stream_keys};
use crate::config::write_ngram::{block_keys, ngram_keys};
use crate::config::write_recurrent::{recurrences, told_by_heads};
use crate::config::write_rope::rope_keys;
use crate::container::gguf::{Array, Value};
use crate::error::Result;
use crate::families::{Demanded, Growth, LogitScale, QkNormKind, RopeLayers, Setting, SharedKind};
use crate::io::reader::narrow;
use crate::spec::{
    Activation, AttentionSpec, ExpertGroups, GroupWeights, KvSource, LayerInputs, LayerSpec, MlpSpec,
    ModelSpec, MoeSpec, NormSpec, Place, QkNorm, Renormalise, RopeScaling, RopeSpec, RouterInput, Scoring,
    Select, SharedExpert, StreamMix, StreamsSpec, Temperature,
};

/// The keys that describe `spec`.
///
/// # Errors
/// [`LoadError::Unsupported`] for a spec that GGUF has no key for.
pub(crate) fn metadata(spec: &ModelSpec) -> Result<Vec<(String, Value)>> {
    let family = family_of(spec);
    let arch = family.gguf_arch;
    let mut keys = Keys { family, arch, out: Vec::new() };
    keys.add(&FIELDS.architecture, Value::Str(arch.into()));
    keys.add(&FIELDS.model_name, Value::Str(spec.name.clone()));
    if spec.encoder.is_none() {
        keys.u32(&FIELDS.layers, spec.layers.len());
    }
    keys.u32(&FIELDS.max_context, spec.max_context);
    keys.u32(&FIELDS.d_model, spec.d_model);
    keys.out.push((VOCAB_KEY.replace("{arch}", arch), Value::U32(small(spec.vocab))));
    // Models of images have no decoder, and so none of their own.
    let of_images = spec.encoder.filter(|_| spec.image.is_some()).map(|encoder| encoder.final_norm);
    match spec.final_norm.or(of_images) {
        // A mix of streams has the norm of its own.
        None => {
            if let Some(StreamsSpec { mix: StreamMix::Gated { norm_eps, .. }, .. }) = spec.streams {
                keys.f32(&FIELDS.norm_eps, norm_eps);
            }
        }
        Some(norm) => norm_keys(norm, &mut keys),
    }
    if let Some(image) = &spec.image {
        for (row, value) in write_images::rows(spec, image) {
            keys.add(row, value);
        }
        return Ok(keys.out);
    }
    if let Some(encoder) = spec.encoder {
        for (row, value) in write_encdec::rows(spec, encoder) {
            keys.add(row, value);
        }
        keys.f32_unless(&FIELDS.embed_scale, spec.embed_scale, 1.0);
        return Ok(keys.out);
    }
    attention(spec, &mut keys)?;
    feed_forward(spec, &mut keys);
    if let Some(heads) = spec.layers.iter().find_map(LayerSpec::head_experts) {
        keys.u32(&FIELDS.head_experts, heads.experts);
        keys.u32(&FIELDS.head_experts_used, heads.router.select.max_experts());
    }
    if let Some(streams) = &spec.streams {
        stream_keys(spec, streams, &mut keys);
    }
    ngram_keys(spec, &mut keys);
    layer_inputs(spec, &mut keys);
    // Readers of some families multiply with the root of the width unasked.
    let width = u32::try_from(spec.d_model).unwrap_or(u32::MAX);
    let root = narrow(f64::from(width).sqrt());
    let unasked = matches!(family.embed_root, Setting::Fixed(true) | Setting::Default(true));
    keys.f32_unless(&FIELDS.embed_scale, spec.embed_scale, if unasked { root } else { 1.0 });
    keys.f32_unless(&FIELDS.residual_scale, residual_scale(spec)?, 1.0);
    match family.logit_scale {
        LogitScale::Divides => keys.f32_unless(&FIELDS.logit_scale, 1.0 / spec.head.scale, 1.0),
        LogitScale::Multiplies { .. } => keys.f32(&FIELDS.logit_scale, spec.head.scale),
    }
    keys.f32_if(&FIELDS.logit_softcap, spec.head.softcap);
    Ok(keys.out)
}

/// The epsilon of norms, under the key of their kind: other readers take a norm for the kind whose key they
/// find.
fn norm_keys(norm: NormSpec, keys: &mut Keys) {
    let both = keys.family.gguf_demanded.contains(&Demanded::BothNorms);
    let (rms, eps) = match norm {
        NormSpec::Rms { eps } => (true, eps),
        NormSpec::Layer { eps } | NormSpec::LayerUnbiased { eps } => (false, eps),
    };
    let [of_rms, of_layer] = FIELDS.norm_eps.gguf else { unreachable!("norms are of two kinds") };
    for (place, wanted) in [(of_rms, rms || both), (of_layer, !rms || both)] {
        let key = place.key(keys.arch).filter(|_| wanted);
        keys.out.extend(key.map(|key| (key, Value::F32(eps))));
    }
}

/// How many numbers layers have of their own for a token.
fn layer_inputs(spec: &ModelSpec, keys: &mut Keys) {
    let width = spec.layer_inputs.map(|LayerInputs { width, .. }| width);
    let demanded = keys.family.gguf_demanded.contains(&Demanded::NoLayerInputs).then_some(0);
    if let Some(width) = width.or(demanded) {
        keys.u32(&FIELDS.layer_input_width, width);
    }
}

fn attention(spec: &ModelSpec, keys: &mut Keys) -> Result<()> {
    let layers: Vec<&AttentionSpec> = spec.attention_layers().collect();
    if layers.len() != spec.layers.len() {
        recurrences(spec, &layers, keys)?;
    }
    if let Some(latent) = spec.layers.iter().find_map(LayerSpec::latent) {
        return latent_keys(spec, latent, keys);
    }
    if spec.layers.iter().any(|layer| compressed(layer).is_some()) {
        return compressed_keys(spec, keys);
    }
    let Some(&first) = layers.first() else {
        keys.u32(&FIELDS.heads, 0);
        return Ok(());
    };
    let column = |get: fn(&AttentionSpec) -> usize| layers.iter().map(|a| get(a)).collect::<Vec<_>>();
    keys.per_layer(&FIELDS.heads, &column(|a| a.heads));
    let in_layer = |layer: &LayerSpec| layer.attention().map_or(0, |a| a.kv_heads);
    match told_by_heads(spec) {
        true => keys.per_layer(&FIELDS.kv_heads, &spec.layers.iter().map(in_layer).collect::<Vec<_>>()),
        false => keys.per_layer(&FIELDS.kv_heads, &column(|a| a.kv_heads)),
    }
    head_widths(&layers, keys)?;
    let width = u32::try_from(first.head_dim).unwrap_or(u32::MAX);
    let usual = if keys.family.unscaled { 1.0 } else { narrow(1.0 / f64::from(width).sqrt()) };
    keys.f32_unless(&FIELDS.attention_scale, first.scale, usual);
    let sharing = layers.iter().filter(|a| matches!(a.source, KvSource::Layer(_))).count();
    if sharing > 0 {
        keys.u32(&FIELDS.sharing_layers, sharing);
    }
    keys.f32_if(&FIELDS.clip_qkv, first.clip_qkv);
    keys.f32_if(&FIELDS.attention_softcap, first.softcap);
    keys.f32_unless(&FIELDS.value_scale, first.value_scale, 1.0);
    if layers.iter().any(|a| a.value_scale.to_bits() != first.value_scale.to_bits()) {
        return Err(unsupported("values whose scale differs by layer"));
    }
    if let Some(relative) = first.relative {
        keys.u32(&FIELDS.relative_buckets, relative.buckets);
        keys.u32(&FIELDS.relative_reach, relative.reach);
    }
    growth(&layers, keys)?;
    visible(&layers, keys);
    block_keys(spec, keys)?;
    unstated(spec, keys)?;
    ropes(&layers, keys)
}

/// Which tokens a token sees: a window, or a run.
fn visible(layers: &[&AttentionSpec], keys: &mut Keys) {
    if let Some(window) = layers.iter().find_map(|a| a.window) {
        keys.u32(&FIELDS.window, window);
        let windowed: Vec<bool> = layers.iter().map(|a| a.window.is_some()).collect();
        if windowed.contains(&false) {
            keys.add(&FIELDS.window_layers, Value::Array(Array::Bool(windowed)));
        }
    }
    // Readers of files know the length of released models by themselves.
    if let Some(chunk) = layers.iter().find_map(|a| a.chunk).filter(|&chunk| keys.family.chunk != Some(chunk))
    {
        keys.u32(&FIELDS.attention_chunk, chunk);
    }
}

/// How queries grow with their position.
fn growth(layers: &[&AttentionSpec], keys: &mut Keys) -> Result<()> {
    let growing = layers.iter().find_map(|a| Some((a, a.temperature?)));
    if let Some(Growth { beta, period, .. }) = keys.family.growth {
        let own = growing.map_or((0.0, period), |(_, own)| (own.beta, own.period));
        if own != (narrow(beta), period) {
            keys.f32(&FIELDS.temperature, own.0);
            keys.u32(&FIELDS.temperature_period, own.1);
        }
        return Ok(());
    }
    let Some((attention, Temperature { beta, period, .. })) = growing else { return Ok(()) };
    keys.f32(&FIELDS.temperature, beta);
    let of_rope = attention.rope.as_ref().is_some_and(|rope| match rope.scaling {
        RopeScaling::Yarn { original_context, .. } => original_context == period,
        _ => false,
    });
    match of_rope {
        true => Ok(()),
        false => Err(unsupported("queries that grow over another length than that of YaRN")),
    }
}

/// Refuses a model that lacks what readers of its family's files expect and no key can deny.
fn unstated(spec: &ModelSpec, keys: &Keys) -> Result<()> {
    let mut attention = spec.layers.iter().enumerate().filter_map(|(i, layer)| Some((i, layer.attention()?)));
    if let RopeLayers::AllButEvery(period) = keys.family.rope_layers {
        let usual = |(layer, a): (usize, &AttentionSpec)| a.rope.is_some() == ((layer + 1) % period != 0);
        if !attention.by_ref().all(usual) {
            return Err(unsupported("layers without a rope that are others than usual"));
        }
    }
    let halved = |moe: &MoeSpec| moe.shared_scale.to_bits() != 1.0_f32.to_bits();
    if spec.layers.iter().filter_map(LayerSpec::moe).any(|moe| halved(moe) != keys.family.averages) {
        return Err(unsupported("sums of routed and shared experts that are others than usual"));
    }
    if let QkNormKind::PlainAfterRope { but_of } = keys.family.qk_norm {
        let experts = spec.layers.iter().find_map(LayerSpec::moe).map_or(0, |moe| moe.experts);
        let normed = spec.attention_layers().any(|a| a.qk_norm != QkNorm::None);
        if normed == (u64::try_from(experts) == Ok(but_of)) {
            return Err(unsupported("norms of queries and keys that are others than usual"));
        }
    }
    Ok(())
}

/// The width of heads, or two: one of layers without a window, and one of layers with a window.
fn head_widths(layers: &[&AttentionSpec], keys: &mut Keys) -> Result<()> {
    let of = |windowed: bool| -> Result<Option<(usize, usize)>> {
        let alike = layers.iter().filter(|a| a.window.is_some() == windowed);
        let mut widths = alike.map(|a| (a.head_dim, a.value_dim));
        let first = widths.next();
        match widths.all(|width| Some(width) == first) {
            true => Ok(first),
            false => Err(unsupported("layers with different head widths")),
        }
    };
    let (full, local) = (of(false)?, of(true)?);
    let Some((width, of_values)) = full.or(local) else { return Ok(()) };
    keys.u32(&FIELDS.head_dim, width);
    keys.u32(&FIELDS.value_dim, of_values);
    if let Some((width, of_values)) = local.filter(|&local| local != (width, of_values)) {
        keys.u32(&FIELDS.local_head_dim, width);
        keys.u32(&FIELDS.local_value_dim, of_values);
    }
    Ok(())
}

/// The rope of layers without a window, and that of layers with one.
fn ropes(layers: &[&AttentionSpec], keys: &mut Keys) -> Result<()> {
    let of = |windowed: bool| -> Result<Option<&RopeSpec>> {
        let alike = layers.iter().filter(|a| a.window.is_some() == windowed);
        let mut ropes = alike.filter_map(|a| a.rope.as_ref());
        let first = ropes.next();
        match ropes.all(|rope| Some(rope) == first) {
            true => Ok(first),
            false => Err(unsupported("layers with different ropes")),
        }
    };
    let (full, local) = (of(false)?, of(true)?);
    if let Some(rope) = full.or(local) {
        rope_keys(rope, keys)?;
    }
    match (full, local) {
        (Some(full), Some(local)) if full != local => {
            if local.scaling != RopeScaling::None {
                return Err(unsupported("a scaled rope of layers with a window"));
            }
            keys.f32(&FIELDS.local_rope_theta, local.theta);
            keys.u32(&FIELDS.local_rope_dim, local.dim);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn feed_forward(spec: &ModelSpec, keys: &mut Keys) {
    let dense = spec.layers.iter().find_map(|layer| layer.mlp().map(|mlp| mlp.d_ff));
    let moe = spec.layers.iter().find_map(LayerSpec::moe);
    // Readers take the width of the dense layers for a layer that has experts alone. One without a
    // feed-forward block has none.
    let width = |layer: &LayerSpec| match (layer.mlp(), layer.moe()) {
        (Some(mlp), _) => mlp.d_ff,
        (None, Some(moe)) => dense.unwrap_or(moe.expert.d_ff),
        (None, None) => 0,
    };
    keys.per_layer(&FIELDS.d_ff, &spec.layers.iter().map(width).collect::<Vec<_>>());
    bounds(spec, keys);
    if let Some(moe) = moe {
        experts(moe, keys);
        if let Some((adjugate, scale)) = spec.layers.iter().find_map(LayerSpec::adjugate) {
            keys.u32(&FIELDS.adjugate_d_ff, adjugate.expert.d_ff);
            keys.u32(&FIELDS.adjugate_group, moe.experts / adjugate.experts);
            keys.f32(&FIELDS.adjugate_scale, scale);
            // Readers without this key take the other way.
            if matches!(adjugate.router_input, RouterInput::Groups { weights: GroupWeights::OfExperts, .. }) {
                keys.add(&FIELDS.adjugate_beside, Value::Bool(true));
            }
        }
        if let Activation::ClampedSwiglu { alpha, limit } = moe.expert.activation {
            keys.f32_unless(&FIELDS.swiglu_alpha, alpha, 1.702);
            keys.f32_unless(&FIELDS.swiglu_limit, limit, 7.0);
        }
        sparse_layers(spec, keys);
    }
}

fn experts(moe: &MoeSpec, keys: &mut Keys) {
    keys.u32(&FIELDS.experts, moe.experts);
    keys.u32(&FIELDS.experts_used, moe.router.select.max_experts());
    keys.u32(&FIELDS.expert_d_ff, moe.expert.d_ff);
    if let SharedExpert::Plain(mlp) | SharedExpert::Gated(mlp) = moe.shared {
        shared(mlp.d_ff, moe.expert.d_ff, keys);
    }
    // Readers of families that average halve the weights by themselves.
    keys.f32_unless(&FIELDS.router_scale, moe.router.scale / moe.shared_scale, 1.0);
    match moe.router.select {
        Select::SoftmaxTopK { renormalise, .. } => keys.add(&FIELDS.renormalise, Value::Bool(renormalise)),
        Select::Scored { scoring, groups, renormalise, .. } => {
            let number = match scoring {
                Scoring::Softmax => 1,
                Scoring::Sigmoid => 2,
                Scoring::SqrtSoftplus => 4,
            };
            keys.u32(&FIELDS.scoring_number, number);
            if let Some(ExpertGroups { count, kept, .. }) = groups {
                keys.u32(&FIELDS.expert_groups, count);
                keys.u32(&FIELDS.expert_groups_used, kept);
            }
            keys.add(&FIELDS.renormalise, Value::Bool(renormalise != Renormalise::No));
        }
        Select::Threshold { eps, renormalise, .. } => {
            keys.f32(&FIELDS.router_threshold, eps);
            keys.add(&FIELDS.renormalise, Value::Bool(renormalise));
        }
        Select::SparseMixer { jitter } => keys.f32(&FIELDS.router_jitter, jitter),
        // A rule that is chosen for a run: no file has it.
        Select::TopTwo { .. } => {}
    }
}

/// The width of the shared expert. Readers of some families multiply the two numbers, readers of others use
/// one of them.
fn shared(width: usize, expert: usize, keys: &mut Keys) {
    let count = if width.is_multiple_of(expert) { width / expert } else { 1 };
    match keys.family.shared {
        SharedKind::Several => {
            keys.u32(&FIELDS.shared_d_ff, width / count);
            keys.u32(&FIELDS.shared_count, count);
        }
        SharedKind::Counted => {
            keys.u32(&FIELDS.shared_d_ff, width);
            keys.u32(&FIELDS.shared_count, count);
        }
        _ => keys.u32(&FIELDS.shared_d_ff, width),
    }
}

/// Bounds of activations by layer, of experts and of shared or dense blocks; 0 for none.
fn bounds(spec: &ModelSpec, keys: &mut Keys) {
    if !keys.family.bounded {
        return;
    }
    let of = |mlp: Option<&MlpSpec>| match mlp.map(|mlp| mlp.activation) {
        Some(Activation::ClampedSilu { limit } | Activation::BoundedSilu { limit }) => limit,
        _ => 0.0,
    };
    let shared = |layer: &LayerSpec| match layer.moe().map(|moe| &moe.shared) {
        Some(SharedExpert::Plain(mlp) | SharedExpert::Gated(mlp)) => of(Some(mlp)),
        _ => of(layer.mlp()),
    };
    let routed: Vec<f32> = spec.layers.iter().map(|layer| of(layer.moe().map(|moe| &moe.expert))).collect();
    let beside: Vec<f32> = spec.layers.iter().map(shared).collect();
    for (row, values) in [(&FIELDS.expert_bounds, routed), (&FIELDS.shared_bounds, beside)] {
        if values.iter().any(|&limit| limit > 0.0) {
            keys.add(row, Value::Array(Array::F32(values)));
        }
    }
}

/// Which layers have experts.
fn sparse_layers(spec: &ModelSpec, keys: &mut Keys) {
    if keys.family.gguf_demanded.contains(&Demanded::SparseStep) {
        let sparse: Vec<bool> = spec.layers.iter().map(|layer| layer.moe().is_some()).collect();
        let every = |step: &usize| (0..sparse.len()).all(|i| sparse.get(i) == Some(&((i + 1) % step == 0)));
        keys.u32(&FIELDS.sparse_step, (1..=sparse.len()).find(every).unwrap_or(1));
    }
    let leading = spec.layers.iter().take_while(|layer| layer.moe().is_none()).count();
    if leading > 0 && spec.layers.iter().skip(leading).all(|layer| layer.moe().is_some()) {
        keys.u32(&FIELDS.leading_dense, leading);
    }
}

/// The factor that all branches share.
fn residual_scale(spec: &ModelSpec) -> Result<f32> {
    let branches = spec.layers.iter().flat_map(|layer| &layer.branches);
    // Adjugate experts have a factor of their own.
    let joined = branches.filter(|branch| branch.place != Place::Adjugate);
    let mut scales = joined.map(|branch| branch.scale);
    let first = scales.next().unwrap_or(1.0);
    if scales.all(|scale| scale.to_bits() == first.to_bits()) {
        Ok(first)
    } else {
        Err(unsupported("branches that join with different factors"))
    }
}
