//! An encoder-decoder as GGUF metadata: the keys of T5 files where they exist, and keys of our own beside
//! them (`docs/encdec.md`). It must not know how keys are spelled.

use crate::config::field::FieldRow;
use crate::config::fields::FIELDS;
use crate::container::gguf::{Array, Value};
use crate::spec::{
    Activation, AttentionSpec, CapacitySpec, EncoderSpec, ExpertLimit, LayerSpec, MlpSpec, ModelSpec,
    MoeSpec, Select,
};

/// The rows of the table that describe what other models do not have, with their values.
pub(super) fn rows(spec: &ModelSpec, encoder: EncoderSpec) -> Vec<(&'static FieldRow, Value)> {
    let (read, written) = spec.layers.split_at(encoder.layers);
    let mut out = vec![
        (&FIELDS.encoder_layers, count(read.len())),
        (&FIELDS.decoder_layers, count(written.len())),
        (&FIELDS.decoder_start, Value::U32(encoder.start)),
        (&FIELDS.scaled_head, Value::Bool(spec.head.scale.to_bits() != 1.0_f32.to_bits())),
    ];
    if let (Some(read), Some(written)) = (attention(read), attention(written)) {
        out.push((&FIELDS.encoder_heads, count(read.heads)));
        out.push((&FIELDS.pair_head_dim, count(read.head_dim)));
        out.push((&FIELDS.value_dim, count(read.head_dim)));
        if written.heads != read.heads {
            out.push((&FIELDS.decoder_heads, count(written.heads)));
        }
        if let Some(relative) = read.relative {
            out.push((&FIELDS.relative_buckets, count(relative.buckets)));
            out.push((&FIELDS.relative_reach, count(relative.reach)));
        }
    }
    if let (Some(read), Some(written)) = (block(read), block(written)) {
        out.push((&FIELDS.encoder_d_ff, count(read.d_ff)));
        out.push((&FIELDS.decoder_d_ff, count(written.d_ff)));
        out.push((&FIELDS.feed_forward, Value::Str(feed_forward(read))));
    }
    if let Some(moe) = spec.layers.iter().find_map(LayerSpec::moe) {
        let sparse = spec.layers.iter().map(|layer| layer.moe().is_some()).collect();
        out.push((&FIELDS.pair_sparse, Value::Array(Array::Bool(sparse))));
        experts(moe, &mut out);
    }
    // Layers of the decoder have no capacity.
    let moes = || spec.layers.iter().filter_map(LayerSpec::moe);
    if let Some(CapacitySpec { limit, renormalise, .. }) = moes().find_map(|moe| moe.router.capacity) {
        match limit {
            ExpertLimit::Tokens(tokens) => out.push((&FIELDS.expert_capacity, count(tokens))),
            ExpertLimit::Part(part) => out.push((&FIELDS.expert_capacity_part, Value::F32(part))),
            // Models of images have it.
            ExpertLimit::Share { .. } => {}
            ExpertLimit::Factor(_) => out.push((&FIELDS.expert_capacity_part, Value::F32(0.0))),
        }
        out.push((&FIELDS.weights_before_capacity, Value::Bool(!renormalise)));
    }
    out
}

fn experts(moe: &MoeSpec, out: &mut Vec<(&'static FieldRow, Value)>) {
    out.push((&FIELDS.experts, count(moe.experts)));
    out.push((&FIELDS.experts_used, count(moe.router.select.max_experts())));
    out.push((&FIELDS.expert_d_ff, count(moe.expert.d_ff)));
    out.push((&FIELDS.router_scale, Value::F32(moe.router.scale)));
    if let Select::SoftmaxTopK { renormalise, .. } = moe.router.select {
        out.push((&FIELDS.renormalise, Value::Bool(renormalise)));
    }
}

fn attention(layers: &[LayerSpec]) -> Option<&AttentionSpec> {
    layers.iter().find_map(LayerSpec::attention)
}

/// The feed-forward block of a stack; experts are as wide as dense blocks.
fn block(layers: &[LayerSpec]) -> Option<MlpSpec> {
    layers.iter().find_map(|layer| layer.mlp().copied().or_else(|| Some(layer.moe()?.expert)))
}

/// The name of an activation, and whether there is a gate.
pub(super) fn feed_forward(mlp: MlpSpec) -> String {
    let name = match mlp.activation {
        Activation::Relu => "relu",
        Activation::ReluSquared => "relu2",
        Activation::GeluTanh => "gelu_new",
        // The lowering of these models makes no others.
        _ => "silu",
    };
    if mlp.gated { format!("gated-{name}") } else { name.to_owned() }
}

fn count(value: usize) -> Value {
    Value::U32(u32::try_from(value).expect("the lowering bounds every size far below 2^32"))
}
