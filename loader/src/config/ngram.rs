//! Lowering of numbers of runs of tokens, of choices of blocks of tokens, and of gated mixes of residual
//! streams (Qwen3.8). It must not know feed-forward blocks.

use crate::config::field::Field;
use crate::config::fields::RawConfig;
use crate::config::limits::{Container, MAX_CONTEXT, MAX_HEAD_DIM, MAX_HEADS, MAX_VOCAB, MAX_WIDTH};
use crate::error::{Fault, LoadError, Result};
use crate::spec::{AttentionSpec, BlockChoice, BranchSpec, Join, LayerSpec, NgramHash, NgramSpec, Op, Place};

/// The longest run of tokens, the most hashes of one, and the most parts of the table.
const MOST_TOKENS: u64 = 16;
const MOST_HASHES: u64 = 64;
const MOST_PARTS: u64 = 4096;
/// The longest block of tokens.
const MAX_BLOCK: u64 = 4096;

/// Adds the numbers of runs of tokens to the layers that have them, before their other branches.
pub(super) fn add_ngrams(
    raw: &RawConfig,
    container: Container,
    eps: f32,
    layers: &mut [LayerSpec],
) -> Result<()> {
    let Some(listed) = raw.ngram_layers.value.as_deref().filter(|listed| !listed.is_empty()) else {
        return Ok(());
    };
    let name = &raw.ngram_layers.name;
    let &[layer] = listed else {
        return Err(LoadError::Unsupported {
            path: raw.path.clone(),
            feature: format!("{name} with {} layers", listed.len()),
            hint: "one layer with numbers of runs of tokens is supported".into(),
        });
    };
    let first = u64::from(container == Container::HfFolder);
    let count = u64::try_from(layers.len()).unwrap_or(u64::MAX);
    let place = layer.checked_sub(first).and_then(|layer| usize::try_from(layer).ok());
    let Some(layer) = place.and_then(|place| layers.get_mut(place)) else {
        let fault = Fault::OutOfRange { found: layer.to_string(), low: first, high: count - 1 + first };
        return Err(raw.fault(name, fault));
    };
    let (place, join, op) = (Place::Ngram, Join::InOrder, Op::Ngram(ngram(raw, container, eps)?));
    layer.branches.insert(0, BranchSpec { place, join, pre_norm: None, op, post_norm: None, scale: 1.0 });
    Ok(())
}

fn ngram(raw: &RawConfig, container: Container, eps: f32) -> Result<NgramSpec> {
    let most_tokens = raw.count(&raw.ngram_tokens, 2, MOST_TOKENS)?;
    let heads = raw.count(&raw.ngram_heads, 1, MOST_HASHES)?;
    let all = (most_tokens - 1) * heads;
    let (width, hash) = match container {
        Container::Gguf => (raw.count(&raw.ngram_width, 1, MAX_WIDTH)?, Some(hash(raw, most_tokens, all)?)),
        Container::HfFolder => {
            let read = raw.count(&raw.ngram_read, 1, MAX_WIDTH)?;
            if !read.is_multiple_of(all) {
                let (found, other) = (read.to_string(), format!("{all} rows of a token"));
                return Err(raw.fault(&raw.ngram_read.name, Fault::Contradiction { found, other }));
            }
            (read / all, None)
        }
    };
    let end = raw.count(&raw.ngram_end, 0, MAX_VOCAB)?;
    Ok(NgramSpec {
        most_tokens,
        heads,
        width,
        parts: raw.count(&raw.ngram_parts, 1, MOST_PARTS)?,
        kernel: raw.count(&raw.ngram_kernel, 2, MOST_TOKENS)?,
        end: u32::try_from(end).unwrap_or(u32::MAX),
        norm_eps: eps,
        hash,
    })
}

/// The numbers of the hash in metadata.
fn hash(raw: &RawConfig, most_tokens: usize, all: usize) -> Result<NgramHash> {
    let list = |field: &Field<Vec<u64>>, length: usize| {
        let values = field.value.clone().ok_or_else(|| raw.missing(&field.name))?;
        if values.len() == length {
            return Ok(values);
        }
        let (found, other) = (format!("a list of {} numbers", values.len()), format!("{length} of them"));
        Err(raw.fault(&field.name, Fault::Contradiction { found, other }))
    };
    Ok(NgramHash {
        factors: list(&raw.ngram_factors, most_tokens)?,
        first: list(&raw.ngram_first, all)?,
        rows: list(&raw.ngram_head_rows, all)?,
    })
}

/// How tokens of a layer choose the blocks that they attend to. `eps` is that of the norms.
pub(super) fn blocks(
    raw: &RawConfig,
    attention: &AttentionSpec,
    layer: usize,
    eps: f32,
) -> Result<Option<BlockChoice>> {
    let size = match &raw.compress_ratios.value {
        Some(ratios) => {
            let ratio = Field::new(raw.compress_ratios.name.clone(), ratios.get(layer).copied());
            raw.count(&ratio, 0, MAX_BLOCK)?
        }
        None => raw.count(&raw.block_size, 1, MAX_BLOCK)?,
    };
    // No blocks: attention to everything.
    if size == 0 {
        return Ok(None);
    }
    let head_dim = raw.count(&raw.block_head_dim, 2, MAX_HEAD_DIM)?;
    let rotated = attention.rope.as_ref().map_or(0, |rope| rope.dim);
    if rotated > head_dim {
        let (found, other) = (head_dim.to_string(), format!("{rotated} rotated dimensions"));
        return Err(raw.fault(&raw.block_head_dim.name, Fault::Contradiction { found, other }));
    }
    let budget = raw.count(&raw.block_budget, 1, MAX_CONTEXT)?;
    let top = (budget / size).max(1);
    let heads = raw.count(&raw.block_heads, 1, MAX_HEADS)?;
    Ok(Some(BlockChoice { heads, head_dim, size, top, norm_eps: eps }))
}
