//! A lowered spec as GGUF metadata: the inverse of `gguf`. Keys follow the GGUF specification, so that other
//! readers of the format find what they expect. It must not know tensors' values.

use crate::config::field::FieldRow;
use crate::config::fields::FIELDS;
use crate::config::find::family_of;
use crate::config::ignored::VOCAB_KEY;
use crate::config::write_encdec;
use crate::container::gguf::{Array, Value};
use crate::error::{LoadError, Result};
use crate::families::{Family, LogitScale, Setting, SharedKind};
use crate::io::reader::narrow;
use crate::spec::{
    Activation, AttentionSpec, ExpertGroups, KvSource, LatentSpec, LayerInputs, LayerSpec, ModelSpec,
    MoeSpec, NormSpec, Place, Renormalise, RopeScaling, RopeSpec, Scoring, Select, SharedExpert, Temperature,
};

/// The keys that describe `spec`.
///
/// # Errors
/// [`LoadError::Unsupported`] for a spec that GGUF has no key for.
pub(crate) fn metadata(spec: &ModelSpec) -> Result<Vec<(String, Value)>> {
    let family = family_of(spec);
    if spec.streams.is_some() {
        return Err(unsupported("several residual streams"));
    }
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
    match spec.final_norm {
        NormSpec::Rms { eps } => keys.f32(&FIELDS.norm_eps, eps),
        // Readers of phimoe files look for the key of the other norm.
        NormSpec::Layer { eps } | NormSpec::LayerUnbiased { eps } => {
            let both = FIELDS.norm_eps.gguf.iter().rev().filter_map(|place| place.key(arch));
            keys.out.extend(both.map(|key| (key, Value::F32(eps))));
        }
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
    if let Some(LayerInputs { width, .. }) = spec.layer_inputs {
        keys.u32(&FIELDS.layer_input_width, width);
    }
    let family = family_of(spec);
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

struct Keys {
    family: &'static Family,
    arch: &'static str,
    out: Vec<(String, Value)>,
}

impl Keys {
    fn add(&mut self, row: &FieldRow, value: Value) {
        let key = row.gguf_key(self.arch).expect("only rows with a metadata key are written");
        self.out.push((key, value));
    }

    fn u32(&mut self, row: &FieldRow, value: usize) {
        self.add(row, Value::U32(small(value)));
    }

    fn f32(&mut self, row: &FieldRow, value: f32) {
        self.add(row, Value::F32(value));
    }

    fn f32_unless(&mut self, row: &FieldRow, value: f32, default: f32) {
        if value.to_bits() != default.to_bits() {
            self.f32(row, value);
        }
    }

    fn f32_if(&mut self, row: &FieldRow, value: Option<f32>) {
        if let Some(value) = value {
            self.f32(row, value);
        }
    }

    /// One number if all layers agree, else one per layer.
    fn per_layer(&mut self, row: &FieldRow, values: &[usize]) {
        match values {
            [first, rest @ ..] if rest.iter().all(|value| value == first) => self.u32(row, *first),
            _ => {
                let values = values.iter().map(|&value| small(value)).collect();
                self.add(row, Value::Array(Array::U32(values)));
            }
        }
    }
}

fn attention(spec: &ModelSpec, keys: &mut Keys) -> Result<()> {
    let layers: Vec<&AttentionSpec> = spec.attention_layers().collect();
    if layers.len() != spec.layers.len() {
        recurrences(spec, &layers, keys)?;
    }
    if let Some(latent) = spec.layers.first().and_then(LayerSpec::latent) {
        return latent_keys(spec, latent, keys);
    }
    let column = |get: fn(&AttentionSpec) -> usize| layers.iter().map(|a| get(a)).collect::<Vec<_>>();
    let first = *layers.first().ok_or_else(|| unsupported("a model without any attention"))?;
    keys.per_layer(&FIELDS.heads, &column(|a| a.heads));
    // Layers with short convolutions are those without key heads.
    let in_layer = |layer: &LayerSpec| layer.attention().map_or(0, |a| a.kv_heads);
    match spec.layers.iter().any(|layer| layer.conv().is_some()) {
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
    if layers.iter().any(|a| {
        a.value_dim != a.head_dim || a.chunk.is_some() || a.value_scale.to_bits() != 1.0_f32.to_bits()
    }) {
        return Err(unsupported("values of another width or scale, or runs of tokens"));
    }
    if let Some(Temperature { beta, period, .. }) = first.temperature {
        keys.f32(&FIELDS.temperature, beta);
        let of_rope = first.rope.as_ref().is_some_and(|rope| match rope.scaling {
            RopeScaling::Yarn { original_context, .. } => original_context == period,
            _ => false,
        });
        if !of_rope {
            return Err(unsupported("queries that grow over another length than that of YaRN"));
        }
    }
    if let Some(relative) = first.relative {
        keys.u32(&FIELDS.relative_buckets, relative.buckets);
        keys.u32(&FIELDS.relative_reach, relative.reach);
    }
    if let Some(window) = layers.iter().find_map(|a| a.window) {
        keys.u32(&FIELDS.window, window);
        let windowed: Vec<bool> = layers.iter().map(|a| a.window.is_some()).collect();
        if windowed.contains(&false) {
            keys.add(&FIELDS.window_layers, Value::Array(Array::Bool(windowed)));
        }
    }
    ropes(&layers, keys)
}

/// Delta nets or short convolutions in place of attention in some layers.
fn recurrences(spec: &ModelSpec, attention: &[&AttentionSpec], keys: &mut Keys) -> Result<()> {
    let uniform = |a: &AttentionSpec, b: &AttentionSpec| (a.heads, a.kv_heads) == (b.heads, b.kv_heads);
    if attention.windows(2).any(|pair| matches!(pair, [a, b] if !uniform(a, b))) {
        return Err(unsupported("recurrences beside attention with heads that differ by layer"));
    }
    if attention.iter().any(|a| a.window.is_some()) || spec.layers.iter().any(|l| l.latent().is_some()) {
        return Err(unsupported("recurrences beside windows or latent attention"));
    }
    let first_delta = spec.layers.iter().find_map(LayerSpec::delta);
    let first_conv = spec.layers.iter().find_map(LayerSpec::conv);
    let known = |layer: &LayerSpec| {
        let mixers = (layer.attention(), layer.delta(), layer.conv());
        match mixers {
            (Some(_), None, None) => true,
            (None, delta @ Some(_), None) => delta == first_delta && first_conv.is_none(),
            (None, None, conv @ Some(_)) => conv == first_conv && first_delta.is_none(),
            _ => false,
        }
    };
    if !spec.layers.iter().all(known) {
        return Err(unsupported("layers without attention of this kind"));
    }
    if let Some(delta) = first_delta {
        keys.u32(&FIELDS.delta_kernel, delta.conv_kernel);
        keys.u32(&FIELDS.delta_key_dim, delta.key_dim);
        keys.u32(&FIELDS.delta_key_heads, delta.key_heads);
        keys.u32(&FIELDS.delta_value_heads, delta.value_heads);
        keys.u32(&FIELDS.delta_inner, delta.values());
        let recurrent: Vec<bool> = spec.layers.iter().map(|layer| layer.delta().is_some()).collect();
        let period = |every: &usize| {
            let has_attention = |layer: usize| (layer + 1).is_multiple_of(*every);
            recurrent.iter().enumerate().all(|(layer, recurrent)| *recurrent != has_attention(layer))
        };
        if let Some(every) = (1..=recurrent.len()).find(period) {
            keys.u32(&FIELDS.attention_every, every);
        }
        keys.add(&FIELDS.recurrent_layers, Value::Array(Array::Bool(recurrent)));
    }
    if let Some(conv) = first_conv {
        keys.u32(&FIELDS.conv_kernel, conv.kernel);
    }
    Ok(())
}

/// The width of heads, or two: one of layers without a window, and one of layers with a window.
fn head_widths(layers: &[&AttentionSpec], keys: &mut Keys) -> Result<()> {
    let of = |windowed: bool| -> Result<Option<usize>> {
        let mut widths = layers.iter().filter(|a| a.window.is_some() == windowed).map(|a| a.head_dim);
        let first = widths.next();
        match widths.all(|width| Some(width) == first) {
            true => Ok(first),
            false => Err(unsupported("layers with different head widths")),
        }
    };
    let (full, local) = (of(false)?, of(true)?);
    let Some(width) = full.or(local) else { return Ok(()) };
    keys.u32(&FIELDS.head_dim, width);
    keys.u32(&FIELDS.value_dim, width);
    if let Some(local) = local.filter(|&local| local != width) {
        keys.u32(&FIELDS.local_head_dim, local);
        keys.u32(&FIELDS.local_value_dim, local);
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

/// Latent attention, whose cache files describe in one of two forms: by heads where keys and values have one
/// matrix, else as attention with one key head.
fn latent_keys(spec: &ModelSpec, latent: &LatentSpec, keys: &mut Keys) -> Result<()> {
    if spec.layers.iter().any(|layer| layer.latent() != Some(latent)) {
        return Err(unsupported("layers with different latent attention"));
    }
    if latent.indexer.is_some() {
        return Err(unsupported("sparse attention"));
    }
    let (attention, whole) = (&latent.attention, latent.query_dim());
    keys.u32(&FIELDS.heads, attention.heads);
    keys.u32(&FIELDS.kv_rank, latent.rank);
    if let Some(rank) = latent.query_rank {
        keys.u32(&FIELDS.query_rank, rank);
    }
    if latent.split {
        keys.u32(&FIELDS.kv_heads, 1);
        keys.u32(&FIELDS.head_dim, attention.head_dim);
        keys.u32(&FIELDS.value_dim, latent.rank);
        keys.u32(&FIELDS.latent_key_dim, whole);
        keys.u32(&FIELDS.latent_value_dim, latent.value_dim);
    } else {
        keys.u32(&FIELDS.kv_heads, attention.heads);
        keys.u32(&FIELDS.head_dim, whole);
        keys.u32(&FIELDS.value_dim, latent.value_dim);
    }
    let rope = attention.rope.as_ref().ok_or_else(|| unsupported("latent attention without positions"))?;
    if rope.pairing != keys.family.gguf_pairing {
        return Err(unsupported("latent attention whose rotated pairs are halves"));
    }
    match rope.scaling {
        RopeScaling::None => rope_keys(rope, keys),
        RopeScaling::Yarn { attention_factor, factor, .. } => {
            if attention_factor.to_bits() != 1.0_f32.to_bits() {
                return Err(unsupported("latent attention with a factor on rotated parts"));
            }
            let mut neutral = rope.scaling.clone();
            if let RopeScaling::Yarn { attention_factor, .. } = &mut neutral {
                *attention_factor = yarn_magnitude(factor);
            }
            rope_keys(&RopeSpec { scaling: neutral, ..rope.clone() }, keys)?;
            let width = f64::from(u32::try_from(whole).unwrap_or(u32::MAX)).sqrt();
            let magnitude = (f64::from(attention.scale) * width).sqrt();
            let per_log = (magnitude - 1.0) / f64::from(factor).ln().max(f64::MIN_POSITIVE);
            keys.f32_unless(&FIELDS.yarn_log_multiplier, narrow(per_log), 0.0);
            Ok(())
        }
        _ => Err(unsupported("latent attention with this scaling of the rope")),
    }
}

fn rope_keys(rope: &RopeSpec, keys: &mut Keys) -> Result<()> {
    keys.f32(&FIELDS.rope_theta, rope.theta);
    keys.u32(&FIELDS.rope_dim, rope.dim);
    let mut kind = |name: &str| keys.add(&FIELDS.rope_kind, Value::Str(name.into()));
    match &rope.scaling {
        // Divisors are a tensor; see `convert`.
        RopeScaling::None | RopeScaling::Llama3 { .. } | RopeScaling::Factors { .. } => {}
        RopeScaling::Linear { factor } => {
            kind("linear");
            keys.f32(&FIELDS.rope_factor, *factor);
        }
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, truncate } => {
            kind("yarn");
            // Other readers know no such key; they do what the family's models need.
            if *truncate != keys.family.yarn_truncate {
                keys.add(&FIELDS.rope_truncate, Value::Bool(*truncate));
            }
            keys.f32(&FIELDS.rope_factor, *factor);
            keys.u32(&FIELDS.rope_original_context, *original_context);
            keys.f32(&FIELDS.rope_beta_fast, *beta_fast);
            keys.f32(&FIELDS.rope_beta_slow, *beta_slow);
            if attention_factor.to_bits() == 1.0f32.to_bits() && *factor > 1.0 {
                // Both factors of DeepSeek's form, which cancel each other.
                keys.f32(&FIELDS.yarn_log_multiplier, 1.0);
            } else {
                let own = yarn_magnitude(*factor);
                keys.f32_unless(&FIELDS.rope_attention_factor, attention_factor / own, 1.0);
            }
        }
        RopeScaling::LongRope { short_factor, long_factor, .. }
            if short_factor.to_bits() != long_factor.to_bits() =>
        {
            return Err(unsupported("LongRoPE with different attention factors for short and long contexts"));
        }
        RopeScaling::LongRope { original_context, long_factor, .. } => {
            kind("longrope");
            keys.u32(&FIELDS.rope_original_context, *original_context);
            keys.f32(&FIELDS.rope_attention_factor, *long_factor);
        }
    }
    Ok(())
}

/// What readers of GGUF multiply a YaRN attention factor with (arXiv 2309.00071, equation 22).
pub(crate) fn yarn_magnitude(factor: f32) -> f32 {
    narrow(0.1 * f64::from(factor).ln().max(0.0) + 1.0)
}

fn feed_forward(spec: &ModelSpec, keys: &mut Keys) {
    let dense = spec.layers.iter().find_map(|layer| layer.mlp().map(|mlp| mlp.d_ff));
    let moe = spec.layers.iter().find_map(LayerSpec::moe);
    // Readers take the width of the dense layers for a layer that has experts alone.
    let width = |layer: &LayerSpec| {
        let own = layer.mlp().map(|mlp| mlp.d_ff).or(dense);
        own.or(layer.moe().map(|moe| moe.expert.d_ff))
    };
    if let Some(widths) = spec.layers.iter().map(width).collect::<Option<Vec<_>>>() {
        keys.per_layer(&FIELDS.d_ff, &widths);
    }
    if let Some(moe) = moe {
        experts(moe, keys);
        if let Some((adjugate, scale)) = spec.layers.iter().find_map(LayerSpec::adjugate) {
            keys.u32(&FIELDS.adjugate_d_ff, adjugate.expert.d_ff);
            keys.u32(&FIELDS.adjugate_group, moe.experts / adjugate.experts);
            keys.f32(&FIELDS.adjugate_scale, scale);
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
    keys.f32_unless(&FIELDS.router_scale, moe.router.scale, 1.0);
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

/// Which layers have experts.
fn sparse_layers(spec: &ModelSpec, keys: &mut Keys) {
    let leading = spec.layers.iter().take_while(|layer| layer.moe().is_none()).count();
    if leading > 0 {
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

fn unsupported(feature: &str) -> LoadError {
    LoadError::Unsupported {
        path: "GGUF metadata".into(),
        feature: feature.into(),
        hint: "no GGUF key describes it".into(),
    }
}

fn small(value: usize) -> u32 {
    u32::try_from(value).expect("the lowering bounds every size far below 2^32")
}
