//! A configuration as a file states it, before any meaning: every value optional, each with the name of the field
//! it came from, so that an error can point at it. Filled by `hf` and `gguf`, read by `lower`.

use std::path::PathBuf;

use crate::error::{Fault, LoadError, Result};

/// A value and the name of the field that holds it or should.
#[derive(Debug, Clone, PartialEq)]
pub struct Field<T> {
    /// Field or key name, for messages.
    pub name: String,
    /// The value, if the file has one.
    pub value: Option<T>,
}

impl<T> Field<T> {
    /// A field as read.
    pub fn new(name: impl Into<String>, value: Option<T>) -> Self {
        Self { name: name.into(), value }
    }

    /// Never in this kind of file.
    pub fn absent() -> Self {
        Self { name: String::new(), value: None }
    }
}

/// Scaling of rope frequencies as the file states it.
#[derive(Debug, Clone, PartialEq)]
pub struct RawRope {
    /// `rope_type` / `type` / `rope.scaling.type`.
    pub kind: Field<String>,
    /// Base frequency.
    pub theta: Field<f64>,
    /// How many dimensions rotate.
    pub dim: Field<u64>,
    /// Context extension factor.
    pub factor: Field<f64>,
    /// Context of the original training.
    pub original_context: Field<u64>,
    /// Llama 3 ramp.
    pub low_freq_factor: Field<f64>,
    /// Llama 3 ramp.
    pub high_freq_factor: Field<f64>,
    /// YaRN.
    pub beta_fast: Field<f64>,
    /// YaRN.
    pub beta_slow: Field<f64>,
    /// YaRN and LongRoPE: factor on queries and keys.
    pub attention_factor: Field<f64>,
    /// YaRN: whether correction dimensions are rounded.
    pub truncate: Field<bool>,
    /// LongRoPE divisors and factors.
    pub short_divisors: Field<Vec<f64>>,
    /// LongRoPE divisors beyond the original context.
    pub long_divisors: Field<Vec<f64>>,
    /// LongRoPE: factor up to the original context.
    pub short_mscale: Field<f64>,
    /// LongRoPE: factor beyond it.
    pub long_mscale: Field<f64>,
    /// One divisor per frequency (a tensor in GGUF files).
    pub divisors: Field<Vec<f64>>,
}

/// Everything the lowering reads.
#[derive(Debug, Clone, PartialEq)]
pub struct RawConfig {
    /// The file, for messages.
    pub path: PathBuf,
    /// Name for people.
    pub model_name: String,
    /// `model_type` or `general.architecture`.
    pub architecture: Field<String>,
    /// Rows of the embedding.
    pub vocab: Field<u64>,
    /// Width of the residual stream.
    pub d_model: Field<u64>,
    /// Number of layers.
    pub layers: Field<u64>,
    /// Query heads: one value, or one per layer.
    pub heads: Field<Vec<u64>>,
    /// Key/value heads: one value, or one per layer.
    pub kv_heads: Field<Vec<u64>>,
    /// Width of a head.
    pub head_dim: Field<u64>,
    /// Width of a value head, when it may differ.
    pub value_dim: Field<u64>,
    /// Hidden width of dense blocks.
    pub d_ff: Field<u64>,
    /// Longest context.
    pub max_context: Field<u64>,
    /// Epsilon of the norms.
    pub norm_eps: Field<f64>,
    /// Rope.
    pub rope: RawRope,
    /// Sliding window.
    pub window: Field<u64>,
    /// Which layers use the window, when the file says so.
    pub window_layers: Field<Vec<bool>>,
    /// Biases on q, k, v.
    pub qkv_bias: Field<bool>,
    /// Bias on the attention output.
    pub out_bias: Field<bool>,
    /// Bias on the head.
    pub head_bias: Field<bool>,
    /// Head shares the embedding.
    pub tied: Field<bool>,
    /// Activation name.
    pub activation: Field<String>,
    /// Clamp on q, k, v.
    pub clip_qkv: Field<f64>,
    /// Routed experts.
    pub experts: Field<u64>,
    /// Experts per token.
    pub experts_used: Field<u64>,
    /// Hidden width of a routed expert.
    pub expert_d_ff: Field<u64>,
    /// Hidden width of the shared expert.
    pub shared_d_ff: Field<u64>,
    /// Divide the chosen weights by their sum.
    pub renormalise: Field<bool>,
    /// SparseMixer noise width.
    pub router_jitter: Field<f64>,
    /// Which layers have experts.
    pub moe_layers: Field<Vec<bool>>,
    /// Factor on the embedding.
    pub embed_scale: Field<f64>,
    /// Factor on residual branches.
    pub residual_scale: Field<f64>,
    /// Divisor of the logits.
    pub logit_divisor: Field<f64>,
    /// Factor on attention scores.
    pub attention_scale: Field<f64>,
    /// Fields that are present and not understood.
    pub unknown: Vec<String>,
}

impl RawConfig {
    /// A required whole number within bounds.
    pub fn count(&self, field: &Field<u64>, low: u64, high: u64) -> Result<usize> {
        match field.value {
            Some(value) => self.bounded(&field.name, value, low, high),
            None => Err(self.missing(&field.name)),
        }
    }

    /// An optional whole number within bounds.
    pub fn count_or(&self, field: &Field<u64>, default: usize, low: u64, high: u64) -> Result<usize> {
        field.value.map_or(Ok(default), |value| self.bounded(&field.name, value, low, high))
    }

    /// One value for all layers or one per layer, within bounds.
    pub fn per_layer(
        &self,
        field: &Field<Vec<u64>>,
        layers: usize,
        low: u64,
        high: u64,
    ) -> Result<Vec<usize>> {
        let values = field.value.as_deref().ok_or_else(|| self.missing(&field.name))?;
        let one = values.len() == 1;
        if !one && values.len() != layers {
            return Err(self.fault(
                &field.name,
                Fault::Contradiction {
                    found: format!("a list of {} values", values.len()),
                    other: format!("{layers} layers"),
                },
            ));
        }
        (0..layers)
            .map(|layer| {
                let value = values.get(if one { 0 } else { layer }).copied().unwrap_or(0);
                self.bounded(&field.name, value, low, high)
            })
            .collect()
    }

    /// A positive finite number, or the default.
    pub fn positive_or(&self, field: &Field<f64>, default: f64) -> Result<f32> {
        let value = field.value.unwrap_or(default);
        self.finite(field, value, value > 0.0, "a finite number above zero")
    }

    /// A finite number of at least zero, or the default.
    pub fn non_negative_or(&self, field: &Field<f64>, default: f64) -> Result<f32> {
        let value = field.value.unwrap_or(default);
        self.finite(field, value, value >= 0.0, "a finite number of at least zero")
    }

    fn finite(&self, field: &Field<f64>, value: f64, ok: bool, must: &'static str) -> Result<f32> {
        let single = narrow(value);
        if ok && single.is_finite() && (value == 0.0 || single != 0.0) {
            return Ok(single);
        }
        Err(self.fault(&field.name, Fault::BadNumber { found: value.to_string(), must }))
    }

    fn bounded(&self, name: &str, value: u64, low: u64, high: u64) -> Result<usize> {
        match usize::try_from(value) {
            Ok(count) if (low..=high).contains(&value) => Ok(count),
            _ => Err(self.fault(name, Fault::OutOfRange { found: value.to_string(), low, high })),
        }
    }

    /// An error at a field of this configuration.
    pub fn fault(&self, name: &str, fault: Fault) -> LoadError {
        LoadError::malformed(&self.path, name, fault)
    }

    /// A missing field.
    pub fn missing(&self, name: &str) -> LoadError {
        self.fault(name, Fault::Missing { hint: "" })
    }
}

/// A double as the nearest single; too large becomes infinite, which the checks refuse.
#[allow(clippy::cast_possible_truncation, reason = "rounding to single precision is the purpose")]
pub fn narrow(value: f64) -> f32 {
    value as f32
}
