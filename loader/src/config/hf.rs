//! Reads `config.json` of a Hugging Face folder into a [`RawConfig`]: the form of transformers 5 (`rope_parameters`)
//! and the older one (`rope_theta`, `rope_scaling` at the top). Fields that are not understood are listed, never
//! ignored silently. It must not know what the values mean for a model.

use std::path::Path;

use serde_json::{Map, Value};

use crate::config::raw::{Field, RawConfig, RawRope};
use crate::error::{Fault, LoadError, Result};

/// Fields that say nothing about inference of a decoder-only model, or that are read elsewhere.
const HARMLESS: &[&str] = &[
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "auto_map",
    "bos_token_id",
    "decoder_sparse_step",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "initializer_range",
    "input_jitter_noise",
    "layer_types",
    "max_window_layers",
    "mlp_only_layers",
    "mlp_bias",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "resid_pdrop",
    "hidden_dropout",
    "hidden_dropout_prob",
    "router_aux_loss_coef",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "use_sliding_window",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "original_max_position_embeddings",
];

/// Reads a parsed `config.json`.
///
/// # Errors
/// [`LoadError::Malformed`] when a field has another type than it must have.
pub fn read(path: &Path, config: &Value) -> Result<RawConfig> {
    let Value::Object(map) = config else {
        let fault = Fault::WrongType { found: kind(config).into(), expected: "a JSON object" };
        return Err(LoadError::malformed(path, "the file", fault));
    };
    let mut r = Reader {
        path,
        map,
        prefix: "",
        seen: HARMLESS.iter().map(|s| (*s).to_owned()).collect(),
        unknown: Vec::new(),
    };
    let layers = r.u64("num_hidden_layers")?;
    let heads = r.u64("num_attention_heads")?;
    let d_model = r.u64("hidden_size")?;
    let head_dim = r.u64("head_dim")?;
    let mut raw = RawConfig {
        path: path.to_owned(),
        model_name: r
            .str("_name_or_path")?
            .value
            .filter(|n| !n.is_empty())
            .unwrap_or_else(|| folder_name(path)),
        architecture: r.str("model_type")?,
        vocab: r.u64("vocab_size")?,
        rope: rope(&mut r, head_width(&head_dim, &d_model, &heads))?,
        window_layers: window_layers(&mut r, &layers)?,
        moe_layers: moe_layers(&mut r, &layers)?,
        layers,
        heads: Field { name: heads.name.clone(), value: heads.value.map(|h| vec![h]) },
        kv_heads: r
            .u64("num_key_value_heads")
            .map(|f| Field { name: f.name, value: f.value.map(|h| vec![h]) })?,
        head_dim,
        value_dim: Field::absent(),
        d_ff: r.u64("intermediate_size")?,
        max_context: r.u64("max_position_embeddings")?,
        norm_eps: r.first_f64(&["rms_norm_eps", "layer_norm_epsilon", "norm_eps"])?,
        d_model,
        window: r.u64("sliding_window")?,
        qkv_bias: r.first_bool(&["qkv_bias", "attention_bias"])?,
        out_bias: r.bool("attention_bias")?,
        head_bias: r.bool("lm_head_bias")?,
        tied: r.bool("tie_word_embeddings")?,
        activation: r.str("hidden_act")?,
        clip_qkv: r.f64("clip_qkv")?,
        experts: r.first_u64(&["num_local_experts", "num_experts"])?,
        experts_used: r.u64("num_experts_per_tok")?,
        expert_d_ff: r.u64("moe_intermediate_size")?,
        shared_d_ff: r.first_u64(&["shared_expert_intermediate_size", "shared_intermediate_size"])?,
        renormalise: r.bool("norm_topk_prob")?,
        router_jitter: r.f64("router_jitter_noise")?,
        embed_scale: r.f64("embedding_multiplier")?,
        residual_scale: r.f64("residual_multiplier")?,
        logit_divisor: r.f64("logits_scaling")?,
        attention_scale: r.f64("attention_multiplier")?,
        unknown: Vec::new(),
    };
    // The configuration classes default to false, whatever the family.
    raw.renormalise.value.get_or_insert(false);
    // Configurations of the Qwen kind have the window off unless they say that it is on.
    let qwen_kind = r.u64("max_window_layers")?.value.is_some();
    if !r.bool("use_sliding_window")?.value.unwrap_or(!qwen_kind) {
        raw.window.value = None;
    }
    if r.bool("mlp_bias")?.value == Some(true) {
        return Err(LoadError::Unsupported {
            path: path.to_owned(),
            feature: "mlp_bias = true".into(),
            hint: "no released model of the supported families uses it".into(),
        });
    }
    raw.unknown = map.keys().filter(|key| !r.seen.contains(key)).cloned().chain(r.unknown).collect();
    Ok(raw)
}

fn folder_name(path: &Path) -> String {
    let folder = path.parent().and_then(Path::file_name);
    folder.map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

fn head_width(head_dim: &Field<u64>, d_model: &Field<u64>, heads: &Field<u64>) -> Option<u64> {
    head_dim.value.or_else(|| d_model.value?.checked_div(heads.value?))
}

/// Qwen2-style lists: `layer_types`, or "from `max_window_layers` on".
fn window_layers(r: &mut Reader<'_>, layers: &Field<u64>) -> Result<Field<Vec<bool>>> {
    let listed = r.strings("layer_types")?;
    if let Some(types) = listed.value {
        let windowed = types.iter().map(|t| t == "sliding_attention").collect();
        return Ok(Field::new(listed.name, Some(windowed)));
    }
    let from = r.u64("max_window_layers")?;
    let bounded = layers.value.filter(|&n| n <= 4096);
    let value = match (from.value, bounded) {
        (Some(from), Some(n)) => Some((0..n).map(|layer| layer >= from).collect()),
        _ => None,
    };
    Ok(Field::new(from.name, value))
}

/// Qwen-style sparsity: every `decoder_sparse_step`-th layer, minus `mlp_only_layers`.
fn moe_layers(r: &mut Reader<'_>, layers: &Field<u64>) -> Result<Field<Vec<bool>>> {
    let step = r.u64("decoder_sparse_step")?;
    let dense = r.u64s("mlp_only_layers")?;
    let bounded = layers.value.filter(|&n| n <= 4096);
    // One of the two fields is enough: every layer counts unless the step says otherwise.
    let value = match (step.value.or(dense.value.is_some().then_some(1)), bounded) {
        (None, _) | (_, None) => None,
        (Some(0), _) => {
            return Err(LoadError::malformed(
                r.path,
                step.name,
                Fault::OutOfRange { found: "0".into(), low: 1, high: 4096 },
            ));
        }
        (Some(step), Some(n)) => {
            let dense = dense.value.unwrap_or_default();
            let sparse = |layer: u64| !dense.contains(&layer) && layer.saturating_add(1).is_multiple_of(step);
            Some((0..n).map(sparse).collect())
        }
    };
    Ok(Field::new(step.name, value))
}

fn rope(r: &mut Reader<'_>, head_width: Option<u64>) -> Result<RawRope> {
    let theta = r.f64("rope_theta")?;
    let partial = r.f64("partial_rotary_factor")?;
    let outer_original = r.u64("original_max_position_embeddings")?;
    let (prefix, nested) = match (r.map.get("rope_parameters"), r.map.get("rope_scaling")) {
        (Some(Value::Object(map)), _) => ("rope_parameters.", map),
        (_, Some(Value::Object(map))) => ("rope_scaling.", map),
        (None | Some(Value::Null), None | Some(Value::Null)) => ("rope_parameters.", &Map::new()),
        (Some(other), _) | (_, Some(other)) => {
            let fault = Fault::WrongType { found: kind(other).into(), expected: "a JSON object" };
            return Err(LoadError::malformed(r.path, "rope_parameters", fault));
        }
    };
    if let Some((key, _)) = nested.iter().find(|(_, value)| value.is_object()) {
        return Err(LoadError::Unsupported {
            path: r.path.to_owned(),
            feature: format!("{prefix}{} (a rope per layer type)", key.escape_default()),
            hint: "one rope for all layers is".into(),
        });
    }
    let mut n = Reader { path: r.path, map: nested, prefix, seen: Vec::new(), unknown: Vec::new() };
    let partial_inner = n.f64("partial_rotary_factor")?;
    let partial = if partial_inner.value.is_some() { partial_inner } else { partial };
    let inner_theta = n.f64("rope_theta")?;
    let original = n.u64("original_max_position_embeddings")?;
    let rope = RawRope {
        kind: n.first_str(&["rope_type", "type"])?,
        theta: if inner_theta.value.is_some() { inner_theta } else { theta },
        dim: Field { value: rotated(r.path, &partial, head_width)?, name: partial.name },
        factor: n.f64("factor")?,
        original_context: if original.value.is_some() { original } else { outer_original },
        low_freq_factor: n.f64("low_freq_factor")?,
        high_freq_factor: n.f64("high_freq_factor")?,
        beta_fast: n.f64("beta_fast")?,
        beta_slow: n.f64("beta_slow")?,
        attention_factor: n.f64("attention_factor")?,
        truncate: n.bool("truncate")?,
        short_divisors: n.f64s("short_factor")?,
        long_divisors: n.f64s("long_factor")?,
        short_mscale: n.f64("short_mscale")?,
        long_mscale: n.f64("long_mscale")?,
        divisors: Field::absent(),
    };
    let odd = nested.keys().filter(|key| !n.seen.contains(key));
    r.unknown.extend(odd.map(|key| format!("{prefix}{key}")));
    Ok(rope)
}

/// How many dimensions of a head rotate under a partial factor.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the factor is checked to be within 0..=1 and head widths are small"
)]
fn rotated(path: &Path, partial: &Field<f64>, head_width: Option<u64>) -> Result<Option<u64>> {
    match (partial.value, head_width) {
        (Some(factor), Some(width)) if factor > 0.0 && factor <= 1.0 => {
            Ok(Some((width as f64 * factor) as u64))
        }
        (Some(factor), Some(_)) => {
            let fault = Fault::BadNumber { found: factor.to_string(), must: "above 0 and at most 1" };
            Err(LoadError::malformed(path, partial.name.clone(), fault))
        }
        _ => Ok(None),
    }
}

/// Typed access to one JSON object; remembers what was asked for.
struct Reader<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
    prefix: &'static str,
    seen: Vec<String>,
    /// Fields of nested objects that nothing asked for.
    unknown: Vec<String>,
}

impl Reader<'_> {
    fn get<T>(
        &mut self,
        key: &str,
        expected: &'static str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<Field<T>> {
        self.seen.push(key.to_owned());
        let name = format!("{}{key}", self.prefix);
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(Field::new(name, None)),
            Some(value) => match convert(value) {
                Some(converted) => Ok(Field::new(name, Some(converted))),
                None => {
                    let found = if value.is_number() { value.to_string() } else { kind(value).into() };
                    Err(LoadError::malformed(self.path, name, Fault::WrongType { found, expected }))
                }
            },
        }
    }

    /// The first of several spellings that is there.
    fn first<T>(
        &mut self,
        keys: &[&str],
        mut one: impl FnMut(&mut Self, &str) -> Result<Field<T>>,
    ) -> Result<Field<T>> {
        let mut found: Option<Field<T>> = None;
        for key in keys {
            let field = one(self, key)?;
            match &found {
                Some(first) if first.value.is_some() || field.value.is_none() => {}
                _ => found = Some(field),
            }
        }
        Ok(found.unwrap_or_else(Field::absent))
    }

    fn u64(&mut self, key: &str) -> Result<Field<u64>> {
        self.get(key, "a whole number of at least zero", Value::as_u64)
    }

    fn f64(&mut self, key: &str) -> Result<Field<f64>> {
        self.get(key, "a number", Value::as_f64)
    }

    fn bool(&mut self, key: &str) -> Result<Field<bool>> {
        self.get(key, "true or false", Value::as_bool)
    }

    fn str(&mut self, key: &str) -> Result<Field<String>> {
        self.get(key, "a string", |v| v.as_str().map(str::to_owned))
    }

    fn strings(&mut self, key: &str) -> Result<Field<Vec<String>>> {
        self.get(key, "a list of strings", |v| {
            v.as_array()?.iter().map(|s| Some(s.as_str()?.to_owned())).collect()
        })
    }

    fn u64s(&mut self, key: &str) -> Result<Field<Vec<u64>>> {
        self.get(key, "a list of whole numbers", |v| v.as_array()?.iter().map(Value::as_u64).collect())
    }

    fn f64s(&mut self, key: &str) -> Result<Field<Vec<f64>>> {
        self.get(key, "a list of numbers", |v| v.as_array()?.iter().map(Value::as_f64).collect())
    }

    fn first_u64(&mut self, keys: &[&str]) -> Result<Field<u64>> {
        self.first(keys, Self::u64)
    }

    fn first_f64(&mut self, keys: &[&str]) -> Result<Field<f64>> {
        self.first(keys, Self::f64)
    }

    fn first_bool(&mut self, keys: &[&str]) -> Result<Field<bool>> {
        self.first(keys, Self::bool)
    }

    fn first_str(&mut self, keys: &[&str]) -> Result<Field<String>> {
        self.first(keys, Self::str)
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
