//! A lowered spec as GGUF metadata: the inverse of `gguf`. Keys follow the GGUF specification, so that other
//! readers of the format find what they expect. It must not know tensors' values.

use crate::config::raw::narrow;
use crate::container::gguf::{Array, Value};
use crate::error::{LoadError, Result};
use crate::families::{FAMILIES, Family};
use crate::spec::{
    AttentionSpec, LayerSpec, ModelSpec, MoeSpec, NormSpec, RopeScaling, RopeSpec, Select, SharedExpert,
};

/// The family of a spec.
///
/// # Panics
/// If the spec was not lowered by this crate.
pub(crate) fn family_of(spec: &ModelSpec) -> &'static Family {
    FAMILIES
        .iter()
        .find(|family| family.label == spec.family)
        .expect("every lowered spec carries its family's label")
}

/// The keys that describe `spec`.
///
/// # Errors
/// [`LoadError::Unsupported`] for a spec that GGUF has no key for.
pub(crate) fn metadata(spec: &ModelSpec) -> Result<Vec<(String, Value)>> {
    let arch = family_of(spec).gguf_arch;
    let mut keys = Keys { arch, out: Vec::new() };
    keys.out.push(("general.architecture".into(), Value::Str(arch.into())));
    keys.out.push(("general.name".into(), Value::Str(spec.name.clone())));
    keys.u32("block_count", spec.layers.len());
    keys.u32("context_length", spec.max_context);
    keys.u32("embedding_length", spec.d_model);
    keys.u32("vocab_size", spec.vocab);
    match spec.final_norm {
        NormSpec::Rms { eps } => keys.f32("attention.layer_norm_rms_epsilon", eps),
        NormSpec::Layer { eps } => {
            keys.f32("attention.layer_norm_epsilon", eps);
            // Readers of phimoe files look for the other key.
            keys.f32("attention.layer_norm_rms_epsilon", eps);
        }
    }
    attention(spec, &mut keys)?;
    feed_forward(spec, &mut keys);
    keys.f32_unless("embedding_scale", spec.embed_scale, 1.0);
    keys.f32_unless("residual_scale", residual_scale(spec)?, 1.0);
    keys.f32_unless("logit_scale", 1.0 / spec.head.scale, 1.0);
    Ok(keys.out)
}

struct Keys {
    arch: &'static str,
    out: Vec<(String, Value)>,
}

impl Keys {
    fn add(&mut self, suffix: &str, value: Value) {
        self.out.push((format!("{}.{suffix}", self.arch), value));
    }

    fn u32(&mut self, suffix: &str, value: usize) {
        self.add(suffix, Value::U32(small(value)));
    }

    fn f32(&mut self, suffix: &str, value: f32) {
        self.add(suffix, Value::F32(value));
    }

    fn f32_unless(&mut self, suffix: &str, value: f32, default: f32) {
        if value.to_bits() != default.to_bits() {
            self.f32(suffix, value);
        }
    }

    /// One number if all layers agree, else one per layer.
    fn per_layer(&mut self, suffix: &str, values: &[usize]) {
        match values {
            [first, rest @ ..] if rest.iter().all(|value| value == first) => self.u32(suffix, *first),
            _ => {
                let values = values.iter().map(|&value| small(value)).collect();
                self.add(suffix, Value::Array(Array::U32(values)));
            }
        }
    }
}

fn attention(spec: &ModelSpec, keys: &mut Keys) -> Result<()> {
    let layers: Vec<&AttentionSpec> = spec.attention_layers().collect();
    if layers.len() != spec.layers.len() {
        return Err(unsupported("layers without attention"));
    }
    let column = |get: fn(&AttentionSpec) -> usize| layers.iter().map(|a| get(a)).collect::<Vec<_>>();
    keys.per_layer("attention.head_count", &column(|a| a.heads));
    keys.per_layer("attention.head_count_kv", &column(|a| a.kv_heads));
    let first = *layers.first().expect("a lowered spec has layers");
    if layers.iter().any(|a| a.head_dim != first.head_dim || a.rope != first.rope) {
        return Err(unsupported("layers with different head widths or ropes"));
    }
    keys.u32("attention.key_length", first.head_dim);
    keys.u32("attention.value_length", first.head_dim);
    let width = u32::try_from(first.head_dim).unwrap_or(u32::MAX);
    keys.f32_unless("attention.scale", first.scale, narrow(1.0 / f64::from(width).sqrt()));
    if let Some(limit) = first.clip_qkv {
        keys.f32("attention.clamp_kqv", limit);
    }
    if let Some(window) = layers.iter().find_map(|a| a.window) {
        keys.u32("attention.sliding_window", window);
        let windowed: Vec<bool> = layers.iter().map(|a| a.window.is_some()).collect();
        if windowed.contains(&false) {
            keys.add("attention.sliding_window_pattern", Value::Array(Array::Bool(windowed)));
        }
    }
    if let Some(rope) = &first.rope {
        rope_keys(rope, keys)?;
    }
    Ok(())
}

fn rope_keys(rope: &RopeSpec, keys: &mut Keys) -> Result<()> {
    keys.f32("rope.freq_base", rope.theta);
    keys.u32("rope.dimension_count", rope.dim);
    let mut kind = |name: &str| keys.add("rope.scaling.type", Value::Str(name.into()));
    match &rope.scaling {
        // Divisors are a tensor; see `convert`.
        RopeScaling::None | RopeScaling::Llama3 { .. } | RopeScaling::Factors { .. } => {}
        RopeScaling::Linear { factor } => {
            kind("linear");
            keys.f32("rope.scaling.factor", *factor);
        }
        RopeScaling::Yarn { truncate: false, .. } => {
            return Err(unsupported("YaRN whose correction range is not rounded"));
        }
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, .. } => {
            kind("yarn");
            keys.f32("rope.scaling.factor", *factor);
            keys.u32("rope.scaling.original_context_length", *original_context);
            keys.f32("rope.scaling.yarn_beta_fast", *beta_fast);
            keys.f32("rope.scaling.yarn_beta_slow", *beta_slow);
            keys.f32_unless("rope.scaling.attn_factor", attention_factor / yarn_magnitude(*factor), 1.0);
        }
        RopeScaling::LongRope { short_factor, long_factor, .. }
            if short_factor.to_bits() != long_factor.to_bits() =>
        {
            return Err(unsupported("LongRoPE with different attention factors for short and long contexts"));
        }
        RopeScaling::LongRope { original_context, long_factor, .. } => {
            kind("longrope");
            keys.u32("rope.scaling.original_context_length", *original_context);
            keys.f32("rope.scaling.attn_factor", *long_factor);
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
    if let Some(width) = dense.or(moe.map(|moe| moe.expert.d_ff)) {
        keys.u32("feed_forward_length", width);
    }
    if let Some(moe) = moe {
        experts(moe, keys);
    }
}

fn experts(moe: &MoeSpec, keys: &mut Keys) {
    keys.u32("expert_count", moe.experts);
    keys.u32("expert_used_count", moe.router.select.max_experts());
    keys.u32("expert_feed_forward_length", moe.expert.d_ff);
    if let SharedExpert::Plain(mlp) | SharedExpert::Gated(mlp) = moe.shared {
        keys.u32("expert_shared_feed_forward_length", mlp.d_ff);
    }
    match moe.router.select {
        Select::SoftmaxTopK { renormalise, .. } => keys.add("expert_weights_norm", Value::Bool(renormalise)),
        Select::SparseMixer { jitter } => keys.f32("router_jitter_noise", jitter),
    }
}

/// The one factor on all branches.
fn residual_scale(spec: &ModelSpec) -> Result<f32> {
    let mut scales = spec.layers.iter().flat_map(|layer| &layer.branches).map(|branch| branch.scale);
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
