//! Lowering of models of images: patches, and an encoder whose layers may have experts. It must not know
//! files of images.

use crate::config::encdec::moe;
use crate::config::experts::{activation, dense_width, named_activation};
use crate::config::field::Field;
use crate::config::fields::RawConfig;
use crate::config::limits::{
    MAX_EXPERTS, MAX_EXPERTS_TOTAL, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, root,
};
use crate::error::{Fault, LoadError, Result};
use crate::families::Family;
use crate::io::reader::narrow;
use crate::spec::{
    AttentionSpec, CapacitySpec, EncoderSpec, ExpertLimit, HeadSpec, ImageHead, ImagePool, ImageSpec,
    ImageTask, KvSource, LayerSpec, MlpSpec, ModelSpec, NormSpec, Op, Purpose, QkNorm, RouterSpec, Select,
};

/// Rows of an image: it is read at once, like a text.
const MOST_ROWS: usize = 2048;
/// Widest image and patch in pixels.
const MOST_PIXELS: u64 = 4096;
const MOST_PATCH: u64 = 64;
/// Most scores of an image.
const MOST_SCORES: usize = 1 << 22;
/// Most tasks, and classes of one of them.
const MOST_TASKS: u64 = 256;
const MOST_CLASSES: u64 = 1 << 20;
/// Largest factor on capacities, and least: beyond them a limit means nothing.
const MOST_FACTOR: f32 = 4096.0;

/// Lowers the configuration of a model of images. Of several tasks the first is chosen.
///
/// # Errors
/// [`LoadError::Malformed`] naming the field, or [`LoadError::Unsupported`].
pub(super) fn images(raw: &RawConfig, family: &Family) -> Result<ModelSpec> {
    let layers = raw.count(&raw.layers, 1, MAX_LAYERS)?;
    let d_model = raw.count(&raw.d_model, 1, MAX_WIDTH)?;
    let final_norm = NormSpec::Layer { eps: raw.positive_or(&raw.norm_eps, family.default_eps)? };
    let attention = attention(raw, d_model)?;
    let d_ff = dense_width(raw, layers, 0)?;
    // GGUF files of encoders have it under another key.
    let activation = match raw.feed_forward.value.as_deref() {
        Some(name) => named_activation(raw, name)?,
        None => activation(raw, family)?,
    };
    let mlp = MlpSpec { d_ff, gated: false, activation, bias: true };
    let experts = expert_count(raw, layers)?;
    let tasks = tasks(raw, experts)?;
    let image = image(raw, &tasks)?;
    let router = match (experts, tasks.first()) {
        (None, _) => None,
        (Some(_), Some(task)) => task.router.clone(),
        (Some(count), None) => Some(router(raw, raw.count(&raw.experts_used, 1, wide(count))?)?),
    };
    let experts = experts.zip(router);
    let listed = raw.moe_layers.value.as_deref().or(raw.pair_sparse.value.as_deref());
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
        vocab: image.tasks * image.rows(),
        d_model,
        max_context: MOST_ROWS,
        embed_scale: 1.0,
        streams: None,
        layer_inputs: None,
        positions: None,
        encoder: Some(EncoderSpec { layers, final_norm, start: 0, purpose: Purpose::Images }),
        image: Some(image),
        tasks,
        layers: (0..layers).map(layer).collect(),
        final_norm: None,
        head: HeadSpec { tied: false, bias: true, scale: 1.0, softcap: None },
    })
}

/// The error for a word that stands for nothing.
fn unknown(raw: &RawConfig, name: &str, found: &str, hint: &str) -> LoadError {
    let feature = format!("{name} = \"{}\"", found.escape_default());
    LoadError::Unsupported { path: raw.path.clone(), feature, hint: hint.to_owned() }
}

fn image(raw: &RawConfig, tasks: &[ImageTask]) -> Result<ImageSpec> {
    let size = raw.count(&raw.image_size, 1, MOST_PIXELS)?;
    let patch = raw.count(&raw.patch_size, 1, MOST_PATCH)?;
    raw.count(&raw.image_channels, 3, 3)?;
    let pool = pool(raw)?;
    let head = match tasks.first() {
        Some(task) => task.head,
        None => ImageHead { classes: raw.count(&raw.classes, 1, MAX_VOCAB)?, pool },
    };
    let heads = || tasks.iter().map(|task| task.head).chain(tasks.is_empty().then_some(head));
    let all_classes = heads().map(|head| head.classes).sum();
    let (first_row, count) = (pool == ImagePool::First, tasks.len().max(1));
    let image =
        ImageSpec { size, patch, first_row, task: 0, tasks: count, head, first_class: 0, all_classes };
    let scores = heads().map(|head| ImageSpec { head, ..image }.scores()).max().unwrap_or(0);
    let problem = match image.rows() {
        _ if !size.is_multiple_of(patch) => format!("images of {size} pixels"),
        rows if rows > MOST_ROWS => format!("at most {MOST_ROWS} rows of an image, which would have {rows}"),
        _ if scores > MOST_SCORES => {
            format!("at most {MOST_SCORES} scores of an image, which would have {scores}")
        }
        _ => return Ok(image),
    };
    Err(raw.fault(&raw.patch_size.name, Fault::Contradiction { found: patch.to_string(), other: problem }))
}

/// What heads read that tell classes of an image.
fn pool(raw: &RawConfig) -> Result<ImagePool> {
    Ok(match raw.image_pool.value.as_deref() {
        None | Some("token") => ImagePool::First,
        Some("gap") => ImagePool::Mean,
        Some("patches") => ImagePool::Each,
        Some(other) => {
            return Err(unknown(raw, &raw.image_pool.name, other, "supported are token, gap and patches"));
        }
    })
}

/// The tasks of a model that has several (AdaMV-MoE, ICCV 2023): each has a number of experts and a head of
/// its own.
fn tasks(raw: &RawConfig, experts: Option<usize>) -> Result<Vec<ImageTask>> {
    let Some(names) = raw.tasks.value.as_deref() else { return Ok(Vec::new()) };
    raw.count(&Field::new(&*raw.tasks.name, Some(wide(names.len()))), 1, MOST_TASKS)?;
    for (index, name) in names.iter().enumerate() {
        if name.is_empty() || names.iter().take(index).any(|other| other == name) {
            let (found, other) = (format!("{name:?}"), "names that are all different".to_owned());
            return Err(raw.fault(&raw.tasks.name, Fault::Contradiction { found, other }));
        }
    }
    let classes = of_tasks(raw, &raw.task_classes, names.len())?;
    let classes = classes.ok_or_else(|| raw.missing(&raw.task_classes.name))?;
    let used = of_tasks(raw, &raw.task_experts_used, names.len())?;
    let heads = of_tasks(raw, &raw.task_heads, names.len())?;
    let pool = pool(raw)?;
    let task = |index: usize, name: &String| -> Result<ImageTask> {
        let count = |field: &Field<Vec<u64>>, values: &[u64], most| {
            raw.count(&Field::new(&*field.name, values.get(index).copied()), 1, most)
        };
        let pool = match heads.and_then(|heads| heads.get(index)).map(String::as_str) {
            None => pool,
            // The mean tells of an image where the model's own heads tell of patches.
            Some("image") if pool == ImagePool::Each => ImagePool::Mean,
            Some("image") => pool,
            Some("patches") => ImagePool::Each,
            Some(other) => {
                return Err(unknown(raw, &raw.task_heads.name, other, "supported are image and patches"));
            }
        };
        let router = match (experts, used) {
            (None, _) => None,
            (Some(most), None) => Some(router(raw, raw.count(&raw.experts_used, 1, wide(most))?)?),
            (Some(most), Some(used)) => Some(router(raw, count(&raw.task_experts_used, used, wide(most))?)?),
        };
        let head = ImageHead { classes: count(&raw.task_classes, classes, MOST_CLASSES)?, pool };
        Ok(ImageTask { name: name.clone(), head, router })
    };
    names.iter().enumerate().map(|(index, name)| task(index, name)).collect()
}

/// A list with an entry for each task.
fn of_tasks<'a, T>(raw: &RawConfig, field: &'a Field<Vec<T>>, tasks: usize) -> Result<Option<&'a [T]>> {
    match field.value.as_deref() {
        Some(values) if values.len() != tasks => {
            let (found, other) = (format!("a list of {} values", values.len()), format!("{tasks} tasks"));
            Err(raw.fault(&field.name, Fault::Contradiction { found, other }))
        }
        values => Ok(values),
    }
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

/// How many experts layers have.
fn expert_count(raw: &RawConfig, layers: usize) -> Result<Option<usize>> {
    if raw.experts.value.is_none() {
        return Ok(None);
    }
    let experts = raw.count(&raw.experts, 1, MAX_EXPERTS)?;
    if experts.saturating_mul(layers) > MAX_EXPERTS_TOTAL {
        let (found, other) = (experts.to_string(), format!("{layers} layers: too many experts in all"));
        return Err(raw.fault(&raw.experts.name, Fault::Contradiction { found, other }));
    }
    Ok(Some(experts))
}

/// The router that gives a token `k` experts (arXiv 2106.05974): weights are shares of all experts.
fn router(raw: &RawConfig, k: usize) -> Result<RouterSpec> {
    let capacity = match raw.capacity_factor.value {
        None => None,
        Some(_) => {
            let factor = raw.positive(&raw.capacity_factor)?.min(MOST_FACTOR);
            let prioritised = raw.prioritised.get() == Some(&true);
            Some(CapacitySpec { limit: ExpertLimit::Share { factor, k }, renormalise: false, prioritised })
        }
    };
    let select = Select::SoftmaxTopK { k, renormalise: false };
    Ok(RouterSpec { bias: false, select, scale: 1.0, listed: false, expert_scales: false, capacity })
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
