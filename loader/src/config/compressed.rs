//! Lowering of attention to compressed tokens (DeepSeek-V4). It must not know feed-forward blocks.

use crate::config::field::Field;
use crate::config::fields::RawConfig;
use crate::config::limits::{Container, MAX_CONTEXT, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_WIDTH};
use crate::config::positions::rope;
use crate::error::{Fault, LoadError, Result};
use crate::families::Family;
use crate::io::reader::narrow;
use crate::spec::{
    AttentionSpec, CompressedSpec, CompressorSpec, KvSource, MOST_STREAMS, QkNorm, RopeScaling, RopeSpec,
    RowChoice, StreamMix, StreamsSpec,
};

/// Types of layers of folders that transformers has saved.
const WINDOWED: &str = "sliding_attention";
const CHOOSING: &str = "compressed_sparse_attention";
const HEAVY: &str = "heavily_compressed_attention";
/// The longest run of tokens that becomes one row.
const MAX_RATE: u64 = 4096;
/// Where files list rates: the rate of layers that choose rows.
const CHOOSING_RATE: u64 = 4;

/// The attention of each layer. `eps` is that of the norms.
pub(super) fn compressed_layers(
    raw: &RawConfig,
    family: &Family,
    container: Container,
    layers: usize,
    eps: f32,
) -> Result<Vec<CompressedSpec>> {
    let head_dim = raw.count(&raw.head_dim, 2, MAX_HEAD_DIM)?;
    let (plain, scaled) = ropes(raw, family, container, head_dim)?;
    let heads = raw.per_layer(&raw.heads, layers, 1, MAX_HEADS)?;
    let groups = raw.count(&raw.out_groups, 1, MAX_HEADS)?;
    let window = raw.count(&raw.window, 1, MAX_CONTEXT)?;
    if raw.qkv_bias.value == Some(true) && container == Container::HfFolder {
        return Err(LoadError::Unsupported {
            path: raw.path.clone(),
            feature: format!("{} = true with compressed tokens", raw.qkv_bias.name),
            hint: "the projections of this attention have no bias".into(),
        });
    }
    if let Some(bad) = heads.iter().find(|heads| !heads.is_multiple_of(groups)) {
        let (found, other) = (groups.to_string(), format!("{bad} query heads"));
        return Err(raw.fault(&raw.out_groups.name, Fault::Contradiction { found, other }));
    }
    let query_rank = raw.count(&raw.query_rank, 1, MAX_WIDTH)?;
    let group_rank = raw.count(&raw.out_rank, 1, MAX_WIDTH)?;
    let width = f64::from(u32::try_from(head_dim).unwrap_or(u32::MAX));
    let compressors = compressors(raw, layers, scaled.dim)?;
    let of_layer = |(heads, compressor): (usize, Option<CompressorSpec>)| CompressedSpec {
        attention: AttentionSpec {
            heads,
            kv_heads: 1,
            head_dim,
            value_dim: head_dim,
            scale: narrow(width.sqrt().recip()),
            qkv_bias: false,
            out_bias: false,
            sinks: true,
            qk_norm: QkNorm::None,
            rope: Some(if compressor.is_some() { scaled.clone() } else { plain.clone() }),
            window: Some(window),
            clip_qkv: None,
            softcap: None,
            temperature: None,
            gate: None,
            source: KvSource::Shared,
            value_norm: None,
            value_scale: 1.0,
            chunk: None,
            whole: false,
            relative: None,
            blocks: None,
        },
        query_rank,
        norm_eps: eps,
        groups,
        group_rank,
        compressor,
    };
    Ok(heads.into_iter().zip(compressors).map(of_layer).collect())
}

/// The rope of layers that see the window alone, and that of the others.
fn ropes(
    raw: &RawConfig,
    family: &Family,
    container: Container,
    head_dim: usize,
) -> Result<(RopeSpec, RopeSpec)> {
    let mut own = raw.clone();
    if raw.latent_rope_dim.value.is_some() {
        own.rope_dim = raw.latent_rope_dim.clone();
    }
    if raw.compress_theta.value.is_some() {
        own.rope_theta = raw.compress_theta.clone();
    }
    let mut scaled = rope(&own, family, container, head_dim)?;
    match &mut scaled.scaling {
        RopeScaling::None => {}
        // Rotated parts keep their length, whatever the scheme has.
        RopeScaling::Yarn { attention_factor, .. } => *attention_factor = 1.0,
        _ => {
            return Err(LoadError::Unsupported {
                path: raw.path.clone(),
                feature: format!("{} with compressed tokens", raw.rope_kind.name),
                hint: "yarn is supported".into(),
            });
        }
    }
    let theta = raw.local_rope_theta.value.or(raw.rope_theta.value).unwrap_or(family.default_theta);
    let theta = raw.positive(&Field::new(raw.rope_theta.name.clone(), Some(theta)))?;
    let plain = RopeSpec { theta, scaling: RopeScaling::None, ..scaled.clone() };
    Ok((plain, scaled))
}

/// How each layer compresses tokens, or not. `rotated` dimensions of rows rotate.
fn compressors(raw: &RawConfig, layers: usize, rotated: usize) -> Result<Vec<Option<CompressorSpec>>> {
    let kinds = kinds(raw, layers)?;
    let choice = match kinds.iter().any(|(_, chooses)| *chooses) {
        true => Some(choice(raw, rotated)?),
        false => None,
    };
    let compressor = |(rate, chooses): (usize, bool)| {
        let choice = choice.clone().filter(|_| chooses);
        (rate > 0).then_some(CompressorSpec { rate, choice })
    };
    Ok(kinds.into_iter().map(compressor).collect())
}

fn choice(raw: &RawConfig, rotated: usize) -> Result<RowChoice> {
    let head_dim = raw.count(&raw.index_head_dim, 2, MAX_HEAD_DIM)?;
    if rotated > head_dim {
        let (found, other) = (head_dim.to_string(), format!("{rotated} rotated dimensions"));
        return Err(raw.fault(&raw.index_head_dim.name, Fault::Contradiction { found, other }));
    }
    let heads = raw.count(&raw.index_heads, 1, MAX_HEADS)?;
    Ok(RowChoice { heads, head_dim, top: raw.count(&raw.index_top, 1, MAX_CONTEXT)? })
}

/// The rate of each layer, 0 for none, and whether it chooses rows: as files list rates, or as folders list
/// types.
fn kinds(raw: &RawConfig, layers: usize) -> Result<Vec<(usize, bool)>> {
    let length = |name: &str, found: usize| {
        let (found, other) = (format!("a list of {found} layers"), format!("{layers} layers"));
        raw.fault(name, Fault::Contradiction { found, other })
    };
    if let Some(rates) = &raw.compress_ratios.value {
        // Layers that predict several tokens at once are at the end of the list.
        let name = &raw.compress_ratios.name;
        let own = rates.get(..layers).ok_or_else(|| length(name, rates.len()))?;
        let rate = |&rate: &u64| -> Result<(usize, bool)> {
            let field = Field::new(name.clone(), Some(rate));
            Ok((raw.count(&field, 0, MAX_RATE)?, rate == CHOOSING_RATE))
        };
        return own.iter().map(rate).collect();
    }
    let rate_of = |field: &Field<u64>| raw.count(field, 1, MAX_RATE);
    let (choosing, heavy) = (rate_of(&raw.choosing_rate)?, rate_of(&raw.heavy_rate)?);
    match &raw.layer_types.value {
        Some(types) if types.len() != layers => Err(length(&raw.layer_types.name, types.len())),
        Some(types) => types
            .iter()
            .map(|kind| match kind.as_str() {
                WINDOWED => Ok((0, false)),
                CHOOSING => Ok((choosing, true)),
                HEAVY => Ok((heavy, false)),
                other => Err(LoadError::Unsupported {
                    path: raw.path.clone(),
                    feature: format!("{} with \"{}\"", raw.layer_types.name, other.escape_default()),
                    hint: format!("supported are {WINDOWED}, {CHOOSING} and {HEAVY}"),
                }),
            })
            .collect(),
        // Every other layer chooses, but for the first ones.
        None => {
            let chooses = |layer: usize| layer > 2 && layer % 2 == 1;
            let kind = |layer| if chooses(layer) { (choosing, true) } else { (heavy, false) };
            Ok((0..layers).map(kind).collect())
        }
    }
}

/// Which layers list the experts of a token by its id.
pub(super) fn listing_layers(raw: &RawConfig, layers: usize) -> Result<Vec<bool>> {
    if let Some(types) = &raw.mlp_types.value {
        return Ok(types
            .iter()
            .map(|kind| kind == "hash_moe")
            .chain(std::iter::repeat(false))
            .take(layers)
            .collect());
    }
    let first = raw.count_or(&raw.listing_layers, 0, 0, MAX_LAYERS)?;
    Ok((0..layers).map(|layer| layer < first).collect())
}

/// The residual streams of a model, where there are several. `eps` is that of the norms.
pub(super) fn streams(raw: &RawConfig, eps: f32) -> Result<Option<StreamsSpec>> {
    let most = u64::try_from(MOST_STREAMS).unwrap_or(u64::MAX);
    let count = raw.count(&raw.streams, 1, most)?;
    if count == 1 {
        return Ok(None);
    }
    let mix = match raw.stream_rank.value {
        Some(_) => StreamMix::Gated { rank: raw.count(&raw.stream_rank, 1, MAX_WIDTH)?, norm_eps: eps },
        None => StreamMix::Sinkhorn {
            iterations: raw.count(&raw.stream_iterations, 1, 1000)?,
            eps: raw.positive(&raw.stream_eps)?,
            norm_eps: eps,
        },
    };
    Ok(Some(StreamsSpec { count, mix }))
}
