//! Lowering of latent attention (DeepSeek-V2, arXiv 2405.04434). It must not know feed-forward blocks.

use crate::config::field::Field;
use crate::config::fields::RawConfig;
use crate::config::limits::{Container, MAX_CONTEXT, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_WIDTH};
use crate::config::positions::{rope, temperature};
use crate::error::{Fault, LoadError, Result};
use crate::families::Family;
use crate::io::reader::narrow;
use crate::spec::{AttentionSpec, IndexerSpec, KvSource, LatentSpec, Pairing, QkNorm, RopeScaling, RopeSpec};

/// Epsilon of the inner norms of folders, whatever their `rms_norm_eps` is. GGUF files have one for all
/// norms.
const INNER_EPS: f32 = 1e-6;

/// The latent attention of each layer. `eps` is that of the other norms.
pub(super) fn latent_layers(
    raw: &RawConfig,
    family: &Family,
    container: Container,
    layers: usize,
    eps: f32,
) -> Result<Vec<LatentSpec>> {
    let heads = raw.per_layer(&raw.heads, layers, 1, MAX_HEADS)?;
    let folder = container == Container::HfFolder;
    refuse_biases(raw, folder)?;
    let (rope_dim, nope) = widths(raw, container)?;
    let rank = raw.count(&raw.kv_rank, 1, MAX_HEAD_DIM - 2)?;
    let head_dim = rank + rope_dim;
    let limit = usize::try_from(MAX_HEAD_DIM).unwrap_or(usize::MAX);
    if head_dim > limit {
        let other = format!("{rope_dim} rotated dimensions: more than {limit} in all");
        return Err(raw.fault(&raw.kv_rank.name, Fault::Contradiction { found: rank.to_string(), other }));
    }
    // In folders the partial factor is one of the whole head. It is not read here.
    let own = RawConfig { rope_dim: Field::new(raw.rope_dim.name.clone(), None), ..raw.clone() };
    let mut rope = rope(&own, family, container, rope_dim)?;
    if folder && raw.rope_interleave.value == Some(false) {
        rope.pairing = Pairing::Split;
    }
    let width = f64::from(u32::try_from(nope + rope_dim).unwrap_or(u32::MAX));
    let scale = narrow(width.sqrt().recip() * score_magnitude(raw, container, &mut rope.scaling)?);
    let query_rank = query_rank(raw)?;
    let temperature = temperature(raw, family, true)?;
    let own = if family.indexed.is_some() { choosing_layers(raw, layers)? } else { vec![true; layers] };
    let of_layer = |(heads, own): (usize, bool)| -> Result<LatentSpec> {
        let indexer = indexer(raw, family, query_rank, &rope)?;
        let chosen_before = indexer.as_ref().map(|indexer| indexer.top).filter(|_| !own);
        Ok(LatentSpec {
            attention: AttentionSpec {
                heads,
                kv_heads: 1,
                head_dim,
                scale,
                qkv_bias: false,
                out_bias: false,
                sinks: false,
                qk_norm: QkNorm::None,
                rope: family.latent_rope.then(|| rope.clone()),
                window: None,
                clip_qkv: None,
                softcap: None,
                temperature,
                gate: family.gate,
                source: KvSource::Projected,
                value_norm: None,
                value_dim: head_dim,
                value_scale: 1.0,
                chunk: None,
                whole: false,
                relative: None,
                blocks: None,
            },
            rank,
            nope,
            value_dim: raw.count(&raw.latent_value_dim, 1, MAX_HEAD_DIM)?,
            query_rank,
            norm_eps: if folder { INNER_EPS } else { eps },
            split: raw.kv_split.value.unwrap_or(false),
            indexer: indexer.filter(|_| own),
            chosen_before,
        })
    };
    heads.into_iter().zip(own).map(of_layer).collect()
}

fn refuse_biases(raw: &RawConfig, folder: bool) -> Result<()> {
    if folder && raw.qkv_bias.value == Some(true) {
        return Err(LoadError::Unsupported {
            path: raw.path.clone(),
            feature: format!("{} = true with latent attention", raw.qkv_bias.name),
            hint: "the projections of latent attention have no bias".into(),
        });
    }
    Ok(())
}

/// Width of the latent query; `None` where queries are projected at once.
fn query_rank(raw: &RawConfig) -> Result<Option<usize>> {
    match raw.query_rank.value {
        None | Some(0) => Ok(None),
        Some(_) => Ok(Some(raw.count(&raw.query_rank, 1, MAX_WIDTH)?)),
    }
}

/// Whether tokens choose by themselves in each layer, or take the choice of the layer before.
fn choosing_layers(raw: &RawConfig, layers: usize) -> Result<Vec<bool>> {
    let (name, own) = if let Some(types) = &raw.index_types.value {
        let mut own = Vec::with_capacity(layers);
        for kind in types.iter().take(layers) {
            own.push(match kind.as_str() {
                "full" => true,
                "shared" => false,
                other => return Err(unknown_choice(raw, &raw.index_types.name, other)),
            });
        }
        (&raw.index_types.name, own)
    } else if let Some(own) = &raw.index_own.value {
        (&raw.index_own.name, own.iter().copied().take(layers).collect())
    } else if let Some(letters) = &raw.index_letters.value {
        if let Some(other) = letters.chars().find(|letter| !"FS".contains(*letter)) {
            return Err(unknown_choice(raw, &raw.index_letters.name, &other.to_string()));
        }
        (&raw.index_letters.name, letters.chars().take(layers).map(|letter| letter == 'F').collect())
    } else {
        let every = raw.count(&raw.index_every, 1, MAX_LAYERS)?;
        let first = raw.count(&raw.index_first, 0, MAX_LAYERS)?;
        let own = |layer: usize| (layer + 1).saturating_sub(first).is_multiple_of(every);
        (&raw.index_every.name, (0..layers).map(own).collect::<Vec<_>>())
    };
    if own.len() == layers && own.first() == Some(&true) {
        return Ok(own);
    }
    let found = format!("{} layers, the first of which does not choose", own.len());
    let found = if own.len() == layers { found } else { format!("{} layers", own.len()) };
    Err(raw.fault(name, Fault::Contradiction { found, other: format!("{layers} layers") }))
}

fn unknown_choice(raw: &RawConfig, name: &str, other: &str) -> LoadError {
    LoadError::Unsupported {
        path: raw.path.clone(),
        feature: format!("{name} with \"{}\"", other.escape_default()),
        hint: "layers choose by themselves (full) or as the layer before (shared)".into(),
    }
}

/// How tokens choose what they attend to; `None` in families that attend to all.
fn indexer(
    raw: &RawConfig,
    family: &Family,
    query_rank: Option<usize>,
    rope: &RopeSpec,
) -> Result<Option<IndexerSpec>> {
    let Some(pairing) = family.indexed else { return Ok(None) };
    if query_rank.is_none() {
        return Err(raw.missing(&raw.query_rank.name));
    }
    let head_dim = raw.count(&raw.index_head_dim, 2, MAX_HEAD_DIM)?;
    if rope.dim > head_dim {
        let other = format!("{} rotated dimensions", rope.dim);
        return Err(
            raw.fault(&raw.index_head_dim.name, Fault::Contradiction { found: head_dim.to_string(), other })
        );
    }
    Ok(Some(IndexerSpec {
        heads: raw.count(&raw.index_heads, 1, MAX_HEADS)?,
        head_dim,
        top: raw.count(&raw.index_top, 1, MAX_CONTEXT)?,
        rope: RopeSpec { pairing, ..rope.clone() },
        norm_eps: INNER_EPS,
    }))
}

/// How many dimensions of a head's query are rotated, and how many are not.
fn widths(raw: &RawConfig, container: Container) -> Result<(usize, usize)> {
    let (rope, nope) = match container {
        Container::HfFolder => {
            let nope = raw.count(&raw.nope_dim, 1, MAX_HEAD_DIM)?;
            (raw.count(&raw.latent_rope_dim, 2, MAX_HEAD_DIM)?, nope)
        }
        Container::Gguf => {
            let whole = raw.count(&raw.latent_key_dim, 3, MAX_HEAD_DIM)?;
            let rope = raw.count(&raw.rope_dim, 2, MAX_HEAD_DIM)?;
            let Some(nope) = whole.checked_sub(rope).filter(|&nope| nope > 0) else {
                let (found, other) = (whole.to_string(), format!("{rope} rotated dimensions"));
                return Err(raw.fault(&raw.latent_key_dim.name, Fault::Contradiction { found, other }));
            };
            (rope, nope)
        }
    };
    if rope.is_multiple_of(2) {
        return Ok((rope, nope));
    }
    let name =
        if raw.latent_rope_dim.value.is_some() { &raw.latent_rope_dim.name } else { &raw.rope_dim.name };
    Err(raw
        .fault(name, Fault::Contradiction { found: rope.to_string(), other: "pairs of dimensions".into() }))
}

/// What YaRN multiplies the scores with beside the rotated parts. Files say it by `mscale_all_dim`, GGUF
/// files by a tenth of it.
fn score_magnitude(raw: &RawConfig, container: Container, scaling: &mut RopeScaling) -> Result<f64> {
    let RopeScaling::Yarn { factor, attention_factor, .. } = scaling else { return Ok(1.0) };
    let per_log = match container {
        Container::HfFolder => 0.1 * f64::from(raw.non_negative(&raw.rope_mscale_all)?),
        Container::Gguf => {
            // Readers of these files cancel the factor of the rotated parts.
            *attention_factor = 1.0;
            f64::from(raw.non_negative(&raw.yarn_log_multiplier)?)
        }
    };
    let magnitude = 1.0 + per_log * f64::from(*factor).ln().max(0.0);
    Ok(magnitude * magnitude)
}
