//! Latent attention, and attention to compressed tokens, as GGUF metadata. It must not know other attention.

use crate::config::fields::FIELDS;
use crate::config::ignored::STREAMS_KEY;
use crate::config::write_keys::{Keys, small, unsupported};
use crate::config::write_recurrent::told_by_heads;
use crate::config::write_rope::{rope_keys, yarn_magnitude};
use crate::container::gguf::{Array, Value};
use crate::error::Result;
use crate::io::reader::narrow;
use crate::spec::{
    CompressedSpec, CompressorSpec, IndexerSpec, LatentSpec, LayerSpec, ModelSpec, Op, RopeScaling, RopeSpec,
    StreamMix, StreamsSpec,
};

/// Where files list rates of compression, that of layers that choose rows.
const CHOOSING_RATE: usize = 4;

/// Latent attention with a matrix for keys and one for values: its cache is that of attention with one key
/// head.
pub(super) fn latent_keys(spec: &ModelSpec, latent: &LatentSpec, keys: &mut Keys) -> Result<()> {
    // Whose choice of tokens a layer takes may differ.
    let without = |latent: &LatentSpec| LatentSpec { indexer: None, chosen_before: None, ..latent.clone() };
    let same =
        |other: &LatentSpec| without(other) == without(latent) && other.most_chosen() == latent.most_chosen();
    if !spec.layers.iter().filter_map(LayerSpec::latent).all(same) {
        return Err(unsupported("layers with different latent attention"));
    }
    let (attention, whole) = (&latent.attention, latent.query_dim());
    keys.u32(&FIELDS.heads, attention.heads);
    keys.u32(&FIELDS.kv_rank, latent.rank);
    if let Some(rank) = latent.query_rank {
        keys.u32(&FIELDS.query_rank, rank);
    }
    match told_by_heads(spec) {
        true => {
            let of_layer = |layer: &LayerSpec| usize::from(layer.latent().is_some());
            keys.list(&FIELDS.kv_heads, &spec.layers.iter().map(of_layer).collect::<Vec<_>>());
        }
        false => keys.u32(&FIELDS.kv_heads, 1),
    }
    keys.u32(&FIELDS.head_dim, attention.head_dim);
    keys.u32(&FIELDS.value_dim, latent.rank);
    keys.u32(&FIELDS.latent_key_dim, whole);
    keys.u32(&FIELDS.latent_value_dim, latent.value_dim);
    if let Some(IndexerSpec { heads, head_dim, top, .. }) = &latent.indexer {
        let (heads, head_dim, top) = (*heads, *head_dim, *top);
        keys.u32(&FIELDS.index_heads, heads);
        keys.u32(&FIELDS.index_head_dim, head_dim);
        keys.u32(&FIELDS.index_top, top);
        let latent_layers = spec.layers.iter().filter_map(LayerSpec::latent);
        let own = latent_layers.map(|latent| latent.indexer.is_some()).collect();
        keys.add(&FIELDS.index_own, Value::Array(Array::Bool(own)));
    }
    let Some(rope) = attention.rope.as_ref() else {
        keys.u32(&FIELDS.rope_dim, latent.rope_dim());
        return Ok(());
    };
    if rope.pairing != keys.family.gguf_pairing {
        return Err(unsupported("latent attention whose rotated pairs are halves"));
    }
    match rope.scaling {
        RopeScaling::None => rope_keys(rope, keys),
        RopeScaling::Yarn { attention_factor, factor, .. } => {
            if attention_factor.to_bits() != 1.0_f32.to_bits() {
                return Err(unsupported("latent attention with a factor on rotated parts"));
            }
            rope_keys(&neutral(rope), keys)?;
            let width = f64::from(u32::try_from(whole).unwrap_or(u32::MAX)).sqrt();
            let magnitude = (f64::from(attention.scale) * width).sqrt();
            let per_log = (magnitude - 1.0) / f64::from(factor).ln().max(f64::MIN_POSITIVE);
            keys.f32_unless(&FIELDS.yarn_log_multiplier, narrow(per_log), 0.0);
            Ok(())
        }
        _ => Err(unsupported("latent attention with this scaling of the rope")),
    }
}

/// The rope with the factor that YaRN has by itself, which no key has to state.
fn neutral(rope: &RopeSpec) -> RopeSpec {
    let mut scaling = rope.scaling.clone();
    if let RopeScaling::Yarn { attention_factor, factor, .. } = &mut scaling {
        *attention_factor = yarn_magnitude(*factor);
    }
    RopeSpec { scaling, ..rope.clone() }
}

/// Attention to a window and to compressed tokens.
pub(super) fn compressed_keys(spec: &ModelSpec, keys: &mut Keys) -> Result<()> {
    let layers: Vec<&CompressedSpec> = spec.layers.iter().filter_map(compressed).collect();
    let first = *layers.first().ok_or_else(|| unsupported("a model without any attention"))?;
    let heads: Vec<usize> = layers.iter().map(|layer| layer.attention.heads).collect();
    keys.per_layer(&FIELDS.heads, &heads);
    keys.u32(&FIELDS.kv_heads, 1);
    keys.u32(&FIELDS.head_dim, first.attention.head_dim);
    keys.u32(&FIELDS.value_dim, first.attention.head_dim);
    keys.u32(&FIELDS.query_rank, first.query_rank);
    keys.u32(&FIELDS.out_groups, first.groups);
    keys.u32(&FIELDS.out_rank, first.group_rank);
    if let Some(window) = first.attention.window {
        keys.u32(&FIELDS.window, window);
    }
    let rates = layers.iter().map(|layer| rate(layer.compressor.as_ref())).collect::<Result<Vec<_>>>()?;
    keys.list(&FIELDS.compress_ratios, &rates);
    let mut choices = layers.iter().filter_map(|layer| layer.compressor.as_ref()?.choice.as_ref());
    if let Some(choice) = choices.next() {
        keys.u32(&FIELDS.index_heads, choice.heads);
        keys.u32(&FIELDS.index_head_dim, choice.head_dim);
        keys.u32(&FIELDS.index_top, choice.top);
    }
    let rope_of = |compresses: bool| {
        let mut alike = layers.iter().filter(|layer| layer.compressor.is_some() == compresses);
        alike.find_map(|layer| layer.attention.rope.as_ref())
    };
    let (plain, scaled) = (rope_of(false), rope_of(true));
    if let Some(scaled) = scaled {
        keys.f32(&FIELDS.compress_theta, scaled.theta);
    }
    // The scheme is that of layers that compress; the base is that of the others.
    match (plain, scaled) {
        (Some(RopeSpec { theta, .. }), Some(scaled)) => {
            rope_keys(&RopeSpec { theta: *theta, ..neutral(scaled) }, keys)
        }
        (Some(rope), None) | (None, Some(rope)) => rope_keys(&neutral(rope), keys),
        (None, None) => Err(unsupported("compressed tokens without positions")),
    }
}

/// The keys of several residual streams.
pub(super) fn stream_keys(spec: &ModelSpec, streams: &StreamsSpec, keys: &mut Keys) {
    keys.u32(&FIELDS.streams, streams.count);
    let (iterations, eps) = match streams.mix {
        StreamMix::Sinkhorn { iterations, eps, .. } => (iterations, eps),
        StreamMix::Gated { rank, .. } => {
            keys.u32(&FIELDS.stream_rank, rank);
            return;
        }
    };
    keys.u32(&FIELDS.stream_iterations, iterations);
    keys.f32(&FIELDS.stream_eps, eps);
    let listing = spec.layers.iter().filter_map(LayerSpec::moe).take_while(|moe| moe.router.listed).count();
    keys.u32(&FIELDS.listing_layers, listing);
    let width = small(streams.count * spec.d_model);
    keys.out.push((STREAMS_KEY.replace("{arch}", keys.arch), Value::U32(width)));
}

/// Attention to compressed tokens of a layer, if it has one.
pub(super) fn compressed(layer: &LayerSpec) -> Option<&CompressedSpec> {
    layer.branches.iter().find_map(|branch| match &branch.op {
        Op::Compressed(compressed) => Some(compressed),
        _ => None,
    })
}

/// The rate of a layer; 0 where nothing is compressed.
fn rate(compressor: Option<&CompressorSpec>) -> Result<usize> {
    match compressor {
        None => Ok(0),
        Some(CompressorSpec { rate, choice }) if choice.is_some() == (*rate == CHOOSING_RATE) => Ok(*rate),
        Some(_) => Err(unsupported("rates of compression that do not tell which layers choose rows")),
    }
}
