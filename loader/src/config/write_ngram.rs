//! Numbers of runs of tokens and choices of blocks of tokens as GGUF metadata (Qwen3.8). It must not know
//! residual streams.

use crate::config::fields::FIELDS;
use crate::config::find::family_of;
use crate::config::write_keys::{Keys, small, unsupported};
use crate::container::gguf::{Array, Value};
use crate::error::Result;
use crate::spec::{AttentionSpec, LayerSpec, ModelSpec, NgramHash, NgramSpec, Op};

/// The keys of numbers of runs of tokens, but for those of their hash where tensors have them.
pub(super) fn ngram_keys(spec: &ModelSpec, keys: &mut Keys) {
    let Some((layer, ngram)) = spec.layers.iter().enumerate().find_map(|(index, l)| Some((index, ngram(l)?)))
    else {
        return;
    };
    keys.list(&FIELDS.ngram_layers, &[layer]);
    keys.u32(&FIELDS.ngram_tokens, ngram.most_tokens);
    keys.u32(&FIELDS.ngram_heads, ngram.heads);
    keys.u32(&FIELDS.ngram_kernel, ngram.kernel);
    keys.add(&FIELDS.ngram_end, Value::U32(ngram.end));
    keys.u32(&FIELDS.ngram_width, ngram.width);
    if let Some(hash) = &ngram.hash {
        hash_numbers(hash, keys);
    }
}

fn ngram(layer: &LayerSpec) -> Option<&NgramSpec> {
    layer.branches.iter().find_map(|branch| match &branch.op {
        Op::Ngram(ngram) => Some(ngram),
        _ => None,
    })
}

fn hash_numbers(hash: &NgramHash, keys: &mut Keys) {
    for (row, numbers) in [
        (&FIELDS.ngram_factors, &hash.factors),
        (&FIELDS.ngram_first, &hash.first),
        (&FIELDS.ngram_head_rows, &hash.rows),
    ] {
        keys.add(row, Value::Array(Array::U64(numbers.clone())));
    }
}

/// The keys of a hash whose numbers are tensors in the source.
pub(crate) fn hash_keys(spec: &ModelSpec, hash: &NgramHash) -> Vec<(String, Value)> {
    let family = family_of(spec);
    let mut keys = Keys { family, arch: family.gguf_arch, out: Vec::new() };
    hash_numbers(hash, &mut keys);
    keys.out
}

/// The keys of layers whose tokens choose the blocks that they attend to.
///
/// # Errors
/// [`crate::error::LoadError::Unsupported`] for choices that differ by layer.
pub(super) fn block_keys(spec: &ModelSpec, keys: &mut Keys) -> Result<()> {
    let choice = |layer: &LayerSpec| layer.attention().and_then(|attention| attention.blocks);
    let Some(first) = spec.layers.iter().find_map(choice) else { return Ok(()) };
    if spec.attention_layers().any(|attention: &AttentionSpec| attention.blocks != Some(first)) {
        return Err(unsupported("layers with different choices of blocks"));
    }
    let size = |layer: &LayerSpec| choice(layer).map_or(0, |blocks| small(blocks.size));
    let sizes = spec.layers.iter().map(size).collect();
    keys.add(&FIELDS.compress_ratios, Value::Array(Array::U32(sizes)));
    keys.u32(&FIELDS.block_heads, first.heads);
    keys.u32(&FIELDS.block_head_dim, first.head_dim);
    keys.u32(&FIELDS.block_budget, first.top * first.size);
    Ok(())
}
