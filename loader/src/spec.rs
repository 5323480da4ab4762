//! What a model is, as data: enums and numbers, no strings to interpret, no options to default. The engine
//! `match`es on these; a new model is a new table entry, and new behaviour is a new variant, never a name test.
//!
//! Everything here has been validated by the lowering (`families`, `lower`): divisions divide, counts are positive,
//! numbers are finite. It must not know tensor names or containers.

/// A whole decoder-only model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// Name for people, from the file.
    pub name: String,
    /// Family label for people (`inspect`); nothing may branch on it.
    pub family: &'static str,
    /// Rows of the embedding and of the head.
    pub vocab: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Longest context the model was made for, in tokens.
    pub max_context: usize,
    /// Factor on the embedding output.
    pub embed_scale: f32,
    /// The layers in order.
    pub layers: Vec<LayerSpec>,
    /// Norm before the head.
    pub final_norm: NormSpec,
    /// The output projection.
    pub head: HeadSpec,
}

/// One layer: `x += s * mixer(norm(x)); x += s * ffn(norm(x))`.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// Norm before the mixer.
    pub mixer_norm: NormSpec,
    /// Token mixing.
    pub mixer: Mixer,
    /// Norm before the feed-forward part.
    pub ffn_norm: NormSpec,
    /// The feed-forward part.
    pub ffn: Ffn,
    /// Factor on both branches before they join the residual stream.
    pub residual_scale: f32,
}

/// How tokens of a sequence exchange information. Latent attention (MLA), recurrent and convolutional mixers
/// become further variants.
#[derive(Debug, Clone, PartialEq)]
pub enum Mixer {
    /// Grouped-query attention with a KV cache.
    Attention(AttentionSpec),
}

/// Grouped-query attention. `heads` is a multiple of `kv_heads`.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a query, key and value head.
    pub head_dim: usize,
    /// Factor on `q . k`.
    pub scale: f32,
    /// Biases on the q, k and v projections.
    pub qkv_bias: bool,
    /// Bias on the output projection.
    pub out_bias: bool,
    /// Norms on queries and keys before rope.
    pub qk_norm: QkNorm,
    /// Rotary positions; `None` for layers without positions.
    pub rope: Option<RopeSpec>,
    /// `Some(w)`: a token sees itself and the `w - 1` tokens before it.
    pub window: Option<usize>,
    /// Clamp on q, k and v, after the norms and before rope (OLMoE's `clip_qkv`).
    pub clip_qkv: Option<f32>,
}

/// RMS norms on queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum QkNorm {
    /// None.
    None,
    /// Each head by itself, weight `[head_dim]` (Qwen3).
    PerHead {
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

/// Which two dimensions rotate together. A property of the stored Q/K row order, not of the model: GGUF files of
/// some families store rows permuted for `Adjacent`.
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

/// A normalisation over `d_model`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NormSpec {
    /// `x / sqrt(mean(x^2) + eps) * w` (arXiv 1910.07467).
    Rms {
        /// Added to the mean square.
        eps: f32,
    },
    /// `(x - mean) / sqrt(var + eps) * w + b` (arXiv 1607.06450).
    Layer {
        /// Added to the variance.
        eps: f32,
    },
}

/// The feed-forward part of a layer.
#[derive(Debug, Clone, PartialEq)]
pub enum Ffn {
    /// One block for every token.
    Dense(MlpSpec),
    /// A router and experts.
    Moe(MoeSpec),
}

/// `down(act(gate(x)) * up(x))`: three matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MlpSpec {
    /// Width of the hidden layer.
    pub d_ff: usize,
    /// Applied to the gate.
    pub activation: Activation,
}

/// Activations of feed-forward blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU, tanh approximation.
    GeluTanh,
}

/// A mixture of experts.
#[derive(Debug, Clone, PartialEq)]
pub struct MoeSpec {
    /// Number of routed experts.
    pub experts: usize,
    /// One routed expert.
    pub expert: MlpSpec,
    /// Who gets a token.
    pub router: RouterSpec,
    /// Experts that every token visits.
    pub shared: SharedExpert,
}

/// From router logits to experts and weights. Selection is on f32; ties go to the lower expert id.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterSpec {
    /// How experts are scored and picked.
    pub select: Select,
    /// Factor on the final weights.
    pub scale: f32,
}

/// Scoring and selection. Grouped, biased-sigmoid and threshold selection become further variants; every variant
/// gives a list of experts per token, whose length need not be a constant.
#[derive(Debug, Clone, PartialEq)]
pub enum Select {
    /// Softmax over all experts, the `k` best.
    SoftmaxTopK {
        /// Experts per token.
        k: usize,
        /// Whether the chosen weights are divided by their sum (the same as a softmax over the chosen logits).
        renormalise: bool,
    },
    /// SparseMixer's inference path (Phi-3.5-MoE, arXiv 2409.12136): two experts; each weight is a softmax over the
    /// experts whose logit is within `2 * jitter` of the best, relative to the larger magnitude.
    SparseMixer {
        /// The `router_jitter_noise` of the configuration.
        jitter: f32,
    },
}

impl Select {
    /// The most experts one token can get.
    pub fn max_experts(&self) -> usize {
        match self {
            Self::SoftmaxTopK { k, .. } => *k,
            Self::SparseMixer { .. } => 2,
        }
    }
}

/// An expert that every token visits.
#[derive(Debug, Clone, PartialEq)]
pub enum SharedExpert {
    /// There is none.
    None,
    /// Added as it is.
    Plain(MlpSpec),
    /// Multiplied by `sigmoid(x . w)`, weight `[1, d_model]` (Qwen1.5/2-MoE).
    Gated(MlpSpec),
}

/// The output projection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadSpec {
    /// The embedding matrix is used again.
    pub tied: bool,
    /// A bias `[vocab]` is added.
    pub bias: bool,
    /// Factor on the logits.
    pub scale: f32,
}
