//! Operations in which the tokens of a sequence exchange information, and their ropes, as data. It must not
//! know layers.

use super::relative::RelativeSpec;

/// Grouped-query attention. `heads` is a multiple of `kv_heads`.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a query and key head.
    pub head_dim: usize,
    /// Width of a value head, at most that of a key.
    pub value_dim: usize,
    /// Factor on `q . k`.
    pub scale: f32,
    /// Biases on the q, k and v projections.
    pub qkv_bias: bool,
    /// Bias on the output projection.
    pub out_bias: bool,
    /// Whether each query head has a learned logit, the sink, that takes part in the softmax and has no value
    /// (gpt-oss).
    pub sinks: bool,
    /// Norms on queries and keys before rope.
    pub qk_norm: QkNorm,
    /// Rotary positions; `None` for layers without positions.
    pub rope: Option<RopeSpec>,
    /// `Some(w)`: a token sees itself and the `w - 1` tokens before it.
    pub window: Option<usize>,
    /// Clamp on q, k and v, after the norms and before rope (OLMoE's `clip_qkv`).
    pub clip_qkv: Option<f32>,
    /// `Some(c)`: a score `s` becomes `c * tanh(s / c)` before the softmax (Gemma 2, arXiv 2408.00118).
    pub softcap: Option<f32>,
    /// Factor on queries that grows with their position.
    pub temperature: Option<Temperature>,
    /// Gate on the mixed values before the output projection.
    pub gate: Option<OutputGate>,
    /// Where keys and values come from.
    pub source: KvSource,
    /// `Some(eps)`: values have an RMS norm without weights, each head by itself (Gemma 4).
    pub value_norm: Option<f32>,
    /// Factor on values (MiMo-V2).
    pub value_scale: f32,
    /// `Some(c)`: a token sees itself and the tokens before it in its run of `c` tokens (Llama 4).
    pub chunk: Option<usize>,
    /// Whether a token sees all tokens of the text, which is read at once: in encoders.
    pub whole: bool,
    /// What the distance of two tokens adds to their score (T5).
    pub relative: Option<RelativeSpec>,
    /// How a token chooses the blocks of tokens that it attends to; `None` where it attends to all.
    pub blocks: Option<BlockChoice>,
}

/// How a token chooses blocks of tokens (Qwen3.8): each block has a small key, the norm of the mean of its
/// tokens' small keys, rotated at its first position. A token scores complete blocks by the sum of
/// `relu(q . k)` over small heads, and attends to the best of them and to all tokens behind the last complete
/// block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockChoice {
    /// Small query heads.
    pub heads: usize,
    /// Width of a small query and key. As many leading dimensions rotate as of other heads.
    pub head_dim: usize,
    /// Tokens of a block.
    pub size: usize,
    /// The most blocks that are chosen.
    pub top: usize,
    /// Added to the mean squares in the norms of small queries and keys.
    pub norm_eps: f32,
}

/// Where keys and values of attention come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvSource {
    /// A projection each.
    Projected,
    /// One projection for both: values are what keys are before their norm (Gemma 4).
    Shared,
    /// A projection each, of what the encoder makes of its text.
    Encoded,
    /// Those of an earlier layer with the same shapes and the same window, by its number (Gemma 3n and 4).
    Layer(usize),
}

/// A query at position `p` is multiplied by `1 + beta * ln(1 + floor((p + offset) / period))` (Llama 4,
/// Ministral 3).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Temperature {
    /// How fast it grows.
    pub beta: f32,
    /// Positions with one factor.
    pub period: usize,
    /// Added to positions.
    pub offset: usize,
}

/// Mixed values are multiplied by a function of `W x`, where `x` is the branch's normed input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputGate {
    /// `sigmoid`, for each value: `W` is `[heads * head_dim, d_model]` (AFMoE).
    SigmoidPerValue,
    /// As `SigmoidPerValue`, with the rows of `W` in the query projection: those of a head follow the rows
    /// of its query (Qwen3-Next).
    SigmoidWithQuery,
    /// `sigmoid`, one for all values of a head: `W` is `[heads, d_model]` (Step 3.5).
    SigmoidPerHead,
    /// `softplus`, one for all values of a head: `W` is `[heads, d_model]` (Laguna).
    SoftplusPerHead,
}

impl KvSource {
    /// Whether keys are projections of the tokens that attend.
    pub fn is_own(self) -> bool {
        matches!(self, Self::Projected | Self::Shared)
    }
}

impl AttentionSpec {
    /// Rows of the query projection.
    pub fn query_rows(&self) -> usize {
        let with_gate = self.gate == Some(OutputGate::SigmoidWithQuery);
        self.heads * self.head_dim * if with_gate { 2 } else { 1 }
    }

    /// Gates of a token; 0 without a gate.
    pub fn gate_rows(&self) -> usize {
        match self.gate {
            None => 0,
            Some(OutputGate::SigmoidPerValue | OutputGate::SigmoidWithQuery) => self.heads * self.value_dim,
            Some(OutputGate::SigmoidPerHead | OutputGate::SoftplusPerHead) => self.heads,
        }
    }
}

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1). Each token caches a latent
/// vector `[rank]` and a rotated key `[rope]` that all heads share. The matrix from the latent vector to a
/// head's keys is applied to its query instead, and that to its values to the mixed latent vectors
/// ("absorbed").
#[derive(Debug, Clone, PartialEq)]
pub struct LatentSpec {
    /// Attention to the cache: one key head of `rank + rope` numbers, as many query heads as the model has.
    /// Its gate is on the values of heads.
    pub attention: AttentionSpec,
    /// Width of the latent vector.
    pub rank: usize,
    /// Width of the part of a head's query that is not rotated.
    pub nope: usize,
    /// Width of a head's value.
    pub value_dim: usize,
    /// Width of the latent query; `None` where queries are projected at once.
    pub query_rank: Option<usize>,
    /// Added to the mean square in the norms of the latent vector and of the latent query.
    pub norm_eps: f32,
    /// Whether the file has the matrices for keys and for values apart, those for keys transposed.
    pub split: bool,
    /// How tokens choose what they attend to; `None` where they attend to all, or choose before.
    pub indexer: Option<IndexerSpec>,
    /// `Some(n)`: tokens attend to the at most `n` that they chose in the last layer before with an `indexer`
    /// (GLM-5).
    pub chosen_before: Option<usize>,
}

/// How a token chooses the tokens that it attends to (DeepSeek-V3.2): each has a small key, and scores it by
/// the sum of `w relu(q . k)` over small heads, whose queries come from the latent query.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexerSpec {
    /// Small query heads.
    pub heads: usize,
    /// Width of a small query and key.
    pub head_dim: usize,
    /// The most tokens that are chosen.
    pub top: usize,
    /// Rope of the leading dimensions.
    pub rope: RopeSpec,
    /// Added to the variance in the layer norm of small keys.
    pub norm_eps: f32,
}

impl LatentSpec {
    /// The most tokens that a token attends to; `None` where it attends to all.
    pub fn most_chosen(&self) -> Option<usize> {
        self.indexer.as_ref().map(|indexer| indexer.top).or(self.chosen_before)
    }

    /// Width of the rotated part of queries and keys.
    pub fn rope_dim(&self) -> usize {
        self.attention.head_dim - self.rank
    }

    /// Width of a head's query as it is projected.
    pub fn query_dim(&self) -> usize {
        self.nope + self.rope_dim()
    }
}

/// RMS norms on queries and keys, before rope if a variant does not say otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum QkNorm {
    /// Queries and keys are used as they are projected.
    None,
    /// Each head by itself, weight `[head_dim]` (Qwen3).
    PerHead {
        /// Added to the mean square.
        eps: f32,
    },
    /// As `PerHead`, but applied to the rotated queries and keys (Hunyuan).
    PerHeadAfterRope {
        /// Added to the mean square.
        eps: f32,
    },
    /// As `PerHeadAfterRope`, without weights (Llama 4).
    PlainAfterRope {
        /// Added to the mean square.
        eps: f32,
    },
    /// All heads together, weights `[heads * head_dim]` and `[kv_heads * head_dim]` (OLMoE).
    Full {
        /// Added to the mean square.
        eps: f32,
    },
}

/// Rotary position embedding (arXiv 2104.09864).
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// Base of the geometric frequencies.
    pub theta: f32,
    /// How many leading dimensions of a head rotate; even, at most `head_dim`.
    pub dim: usize,
    /// Which dimensions form a pair.
    pub pairing: Pairing,
    /// Changes to the frequencies for long contexts.
    pub scaling: RopeScaling,
}

/// Which two dimensions rotate together. A property of the stored Q/K row order, not of the model: GGUF files
/// of some families store rows permuted for `Adjacent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// Dimensions `2i` and `2i + 1`.
    Adjacent,
    /// Dimensions `i` and `i + dim/2`.
    Split,
}

/// Context-extension schemes for rope frequencies.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Plain frequencies.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f32,
        /// Wavelengths above `original_context / low_freq_factor` are divided.
        low_freq_factor: f32,
        /// Wavelengths below `original_context / high_freq_factor` are kept.
        high_freq_factor: f32,
        /// Context of the original training.
        original_context: usize,
    },
    /// YaRN (arXiv 2309.00071).
    Yarn {
        /// The divisor of interpolated frequencies.
        factor: f32,
        /// Context of the original training.
        original_context: usize,
        /// Rotations above which a frequency is kept.
        beta_fast: f32,
        /// Rotations below which a frequency is divided.
        beta_slow: f32,
        /// Factor on the rotated queries and keys.
        attention_factor: f32,
        /// Whether the correction range is rounded to whole dimensions.
        truncate: bool,
    },
    /// One divisor per frequency (`rope_freqs.weight` in GGUF files).
    Factors {
        /// Divisors, `[dim / 2]`.
        divisors: Vec<f32>,
    },
    /// LongRoPE (arXiv 2402.13753): two sets of divisors, chosen by the length of the sequence at load.
    LongRope {
        /// Divisors up to `original_context`, `[dim / 2]`.
        short: Vec<f32>,
        /// Divisors beyond it, `[dim / 2]`.
        long: Vec<f32>,
        /// Context of the original training.
        original_context: usize,
        /// Factor on rotated queries and keys up to `original_context`.
        short_factor: f32,
        /// The same beyond it.
        long_factor: f32,
    },
}
