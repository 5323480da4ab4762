//! Lowering of models of images: patches, and an encoder whose layers may have experts. It must not know
//! files of images.

use crate::config::encdec::moe;
use crate::config::experts::{activation, dense_width};
use crate::config::fields::RawConfig;
use crate::config::limits::{
    MAX_EXPERTS, MAX_EXPERTS_TOTAL, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, root,
};
use crate::error::{Fault, LoadError, Result};
use crate::families::Family;
use crate::io::reader::narrow;
use crate::spec::{
    AttentionSpec, CapacitySpec, EncoderSpec, ExpertLimit, HeadSpec, ImagePool, ImageSpec, KvSource,
    LayerSpec, MlpSpec, ModelSpec, NormSpec, Op, Purpose, QkNorm, RouterSpec, Select,
};

/// Rows of an image: it is read at once, like a text.
const MOST_ROWS: usize = 2048;
/// Widest image and patch in pixels.
const MOST_PIXELS: u64 = 4096;
const MOST_PATCH: u64 = 64;
/// Largest factor on capacities, and least: beyond them a limit means nothing.
const MOST_FACTOR: f32 = 4096.0;

/// Lowers the configuration of a model of images.
///
/// # Errors
/// [`LoadError::Malformed`] naming the field, or [`LoadError::Unsupported`].
pub(super) fn images(raw: &RawConfig, family: &Family) -> Result<ModelSpec> {
    let layers = raw.count(&raw.layers, 1, MAX_LAYERS)?;
    let d_model = raw.count(&raw.d_model, 1, MAX_WIDTH)?;
    let image = image(raw)?;
    let final_norm = NormSpec::Layer { eps: raw.positive_or(&raw.norm_eps, family.default_eps)? };
    let attention = attention(raw, d_model)?;
    let d_ff = dense_width(raw, layers, 0)?;
    let mlp = MlpSpec { d_ff, gated: false, activation: activation(raw, family)?, bias: true };
    let experts = experts(raw, layers)?;
    let listed = raw.moe_layers.value.as_deref();
    let layer = |layer: usize| {
        let sparse = listed.is_none_or(|listed| listed.get(layer) == Some(&true));
        let ffn = match experts.as_ref().filter(|_| sparse) {
            None => Op::Mlp(mlp),
            Some((count, router)) => Op::Moe(moe(*count, router, mlp, true)),
        };
        LayerSpec::pre_norm(final_norm, Op::Attention(attention.clone()), ffn, 1.0)
    };
    Ok(ModelSpec {
        name: raw.text(&raw.model_name)?,
        family: family.label,
        vocab: image.rows(),
        d_model,
        max_context: MOST_ROWS,
        embed_scale: 1.0,
        streams: None,
        layer_inputs: None,
        positions: None,
        encoder: Some(EncoderSpec { layers, final_norm, start: 0, purpose: Purpose::Images }),
        image: Some(image),
        layers: (0..layers).map(layer).collect(),
        final_norm: None,
        head: HeadSpec { tied: false, bias: true, scale: 1.0, softcap: None },
    })
}

fn image(raw: &RawConfig) -> Result<ImageSpec> {
    let size = raw.count(&raw.image_size, 1, MOST_PIXELS)?;
    let patch = raw.count(&raw.patch_size, 1, MOST_PATCH)?;
    raw.count(&raw.image_channels, 3, 3)?;
    let pool = match raw.image_pool.value.as_deref() {
        None | Some("token") => ImagePool::First,
        Some("gap") => ImagePool::Mean,
        Some(other) => {
            return Err(LoadError::Unsupported {
                path: raw.path.clone(),
                feature: format!("{} = \"{}\"", raw.image_pool.name, other.escape_default()),
                hint: "supported are token and gap".into(),
            });
        }
    };
    let image = ImageSpec { size, patch, classes: raw.count(&raw.classes, 1, MAX_VOCAB)?, pool };
    let problem = match image.rows() {
        _ if !size.is_multiple_of(patch) => format!("images of {size} pixels"),
        rows if rows > MOST_ROWS => format!("at most {MOST_ROWS} rows of an image, which would have {rows}"),
        _ => return Ok(image),
    };
    Err(raw.fault(&raw.patch_size.name, Fault::Contradiction { found: patch.to_string(), other: problem }))
}

/// Attention in which every patch sees every other.
fn attention(raw: &RawConfig, d_model: usize) -> Result<AttentionSpec> {
    let all = raw.per_layer(&raw.heads, 1, 1, MAX_HEADS)?;
    let heads = all.first().copied().unwrap_or(1);
    if !d_model.is_multiple_of(heads) {
        let (found, other) = (heads.to_string(), format!("a width of {d_model}"));
        return Err(raw.fault(&raw.heads.name, Fault::Contradiction { found, other }));
    }
    let head_dim = raw.count_or(&raw.head_dim, d_model / heads, 1, MAX_HEAD_DIM)?;
    Ok(AttentionSpec {
        heads,
        kv_heads: heads,
        head_dim,
        value_dim: head_dim,
        scale: narrow(1.0 / root(head_dim)),
        qkv_bias: true,
        out_bias: true,
        sinks: false,
        qk_norm: QkNorm::None,
        rope: None,
        window: None,
        clip_qkv: None,
        softcap: None,
        temperature: None,
        gate: None,
        source: KvSource::Projected,
        value_norm: None,
        value_scale: 1.0,
        chunk: None,
        whole: true,
        relative: None,
        blocks: None,
    })
}

/// How many experts layers have, and their router (arXiv 2106.05974): weights are shares of all experts.
fn experts(raw: &RawConfig, layers: usize) -> Result<Option<(usize, RouterSpec)>> {
    if raw.experts.value.is_none() {
        return Ok(None);
    }
    let experts = raw.count(&raw.experts, 1, MAX_EXPERTS)?;
    if experts.saturating_mul(layers) > MAX_EXPERTS_TOTAL {
        let (found, other) = (experts.to_string(), format!("{layers} layers: too many experts in all"));
        return Err(raw.fault(&raw.experts.name, Fault::Contradiction { found, other }));
    }
    let k = raw.count(&raw.experts_used, 1, u64::try_from(experts).unwrap_or(MAX_EXPERTS))?;
    let capacity = match raw.capacity_factor.value {
        None => None,
        Some(_) => {
            let factor = raw.positive(&raw.capacity_factor)?.min(MOST_FACTOR);
            let times = factor * narrow(f64::from(u32::try_from(k).unwrap_or(u32::MAX)));
            let prioritised = raw.prioritised.get() == Some(&true);
            Some(CapacitySpec { limit: ExpertLimit::Share(times), renormalise: false, prioritised })
        }
    };
    let select = Select::SoftmaxTopK { k, renormalise: false };
    let router =
        RouterSpec { bias: false, select, scale: 1.0, listed: false, expert_scales: false, capacity };
    Ok(Some((experts, router)))
}
