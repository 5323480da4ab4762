//! What a model is, as data: enums and numbers, no strings to interpret, no options to default. The engine
//! `match`es on these; a new model is a new table entry, and new behaviour is a new variant, never a name
//! test.
//!
//! Everything here has been validated by the lowering (`families`, `lower`): divisions divide, counts are
//! positive, numbers are finite. It must not know tensor names or containers.

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

/// One layer: its branches, joined to the residual stream one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// The branches in the order in which they join.
    pub branches: Vec<BranchSpec>,
}

/// One branch of a layer: `x += scale * post(op(pre(x)))`. This is the only residual rule.
#[derive(Debug, Clone, PartialEq)]
pub struct BranchSpec {
    /// Which place of the layer it takes; decides which tensors are its norms.
    pub place: Place,
    /// What its input is.
    pub join: Join,
    /// Norm of the input; `None` where the operation reads the residual stream as it is.
    pub pre_norm: Option<NormSpec>,
    /// What is computed.
    pub op: Op,
    /// Norm of the output before it joins.
    pub post_norm: Option<NormSpec>,
    /// Factor on the output as it joins.
    pub scale: f32,
}

/// The place of a branch in its layer. Files name norms by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// Where tokens of a sequence exchange information.
    Mixer,
    /// Where each token is computed by itself.
    Ffn,
}

/// What a branch reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// The residual stream with the outputs of all branches before it.
    InOrder,
    /// The residual stream that the branch before it read: both outputs are added afterwards, in order.
    Parallel,
}

/// What a branch computes. Recurrences, convolutions and attention experts become further variants.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Grouped-query attention with a KV cache.
    Attention(AttentionSpec),
    /// Attention whose keys and values are made from one latent vector for each token, which is cached.
    Latent(LatentSpec),
    /// A recurrence whose matrices forget and are corrected.
    Delta(DeltaSpec),
    /// A feed-forward block that every token visits.
    Mlp(MlpSpec),
    /// A router and a bank of feed-forward experts.
    Moe(MoeSpec),
}

impl LayerSpec {
    /// A layer of two branches in order, as most decoders have it: `x += scale * mixer(norm(x))`, then
    /// `x += scale * ffn(norm(x))`.
    pub fn pre_norm(norm: NormSpec, mixer: Op, ffn: Op, scale: f32) -> Self {
        let branch = |place, op| BranchSpec {
            place,
            join: Join::InOrder,
            pre_norm: Some(norm),
            op,
            post_norm: None,
            scale,
        };
        Self { branches: vec![branch(Place::Mixer, mixer), branch(Place::Ffn, ffn)] }
    }

    /// Its attention, if it has one.
    pub fn attention(&self) -> Option<&AttentionSpec> {
        self.branches.iter().find_map(|branch| branch.op.attention())
    }

    /// Its latent attention, if it has one.
    pub fn latent(&self) -> Option<&LatentSpec> {
        self.branches.iter().find_map(|branch| match &branch.op {
            Op::Latent(latent) => Some(latent),
            Op::Attention(_) | Op::Delta(_) | Op::Mlp(_) | Op::Moe(_) => None,
        })
    }

    /// Its dense feed-forward block, if it has one.
    pub fn mlp(&self) -> Option<&MlpSpec> {
        self.branches.iter().find_map(|branch| match &branch.op {
            Op::Mlp(mlp) => Some(mlp),
            Op::Attention(_) | Op::Latent(_) | Op::Delta(_) | Op::Moe(_) => None,
        })
    }

    /// Its mixture of experts, if it has one.
    pub fn moe(&self) -> Option<&MoeSpec> {
        self.branches.iter().find_map(|branch| match &branch.op {
            Op::Moe(moe) => Some(moe),
            Op::Attention(_) | Op::Latent(_) | Op::Delta(_) | Op::Mlp(_) => None,
        })
    }

    /// The expert banks of its branches, in order.
    pub fn banks(&self, d_model: usize) -> impl Iterator<Item = BankSpec> + '_ {
        self.branches.iter().filter_map(move |branch| branch.op.bank(d_model))
    }
}

impl ModelSpec {
    /// Every expert bank of the model in the order of computation: the numbers by which the expert store
    /// knows them.
    pub fn banks(&self) -> impl Iterator<Item = (BankKey, BankSpec)> + '_ {
        self.layers.iter().enumerate().flat_map(|(layer, spec)| {
            let banks = spec.banks(self.d_model).enumerate();
            banks.map(move |(bank, spec)| (BankKey { layer, bank }, spec))
        })
    }

    /// Its first layer; the lowering refuses models without one.
    ///
    /// # Panics
    /// If there is none.
    pub fn first_layer(&self) -> &LayerSpec {
        self.layers.first().expect("a model has at least one layer")
    }

    /// Attention of all layers that have one.
    pub fn attention_layers(&self) -> impl Iterator<Item = &AttentionSpec> {
        self.layers.iter().filter_map(LayerSpec::attention)
    }
}

/// Where an expert bank is in a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BankKey {
    /// Number of the layer, from 0.
    pub layer: usize,
    /// Which of the layer's banks, in the order of its branches.
    pub bank: usize,
}

/// The shape of an expert bank, all that storing and caching its experts takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BankSpec {
    /// Number of experts.
    pub experts: usize,
    /// The matrices of each expert, in the order in which files and records hold them.
    pub matrices: Vec<BankMatrix>,
    /// The most experts one token can get.
    pub most_per_token: usize,
}

/// A matrix that every expert of a bank has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BankMatrix {
    /// What it is for.
    pub part: Part,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
}

/// The most matrices that an expert has.
pub const MOST_MATRICES: usize = 4;

impl Op {
    /// The expert bank of the operation, if it has one.
    pub fn bank(&self, d_model: usize) -> Option<BankSpec> {
        match self {
            Self::Moe(moe) => Some(BankSpec {
                experts: moe.experts,
                matrices: moe.expert.matrices(d_model).collect(),
                most_per_token: moe.router.select.max_experts(),
            }),
            Self::Attention(_) | Self::Latent(_) | Self::Delta(_) | Self::Mlp(_) => None,
        }
    }

    /// Attention to the cache as this operation does it, if it does.
    pub fn attention(&self) -> Option<&AttentionSpec> {
        match self {
            Self::Attention(attention) => Some(attention),
            Self::Latent(latent) => Some(&latent.attention),
            Self::Delta(_) | Self::Mlp(_) | Self::Moe(_) => None,
        }
    }
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
}

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1). Each token caches a latent vector
/// `[rank]` and a rotated key `[rope]` that all heads share. The matrix from the latent vector to a head's keys
/// is applied to its query instead, and that to its values to the mixed latent vectors ("absorbed").
#[derive(Debug, Clone, PartialEq)]
pub struct LatentSpec {
    /// Attention to the cache: one key head of `rank + rope` numbers, as many query heads as the model has.
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
}

impl LatentSpec {
    /// Width of the rotated part of queries and keys.
    pub fn rope_dim(&self) -> usize {
        self.attention.head_dim - self.rank
    }

    /// Width of a head's query as it is projected.
    pub fn query_dim(&self) -> usize {
        self.nope + self.rope_dim()
    }
}

/// A gated delta net (arXiv 2412.06464), as Qwen3-Next has it. For each value head a matrix `S` `[key_dim,
/// value_dim]`: `S *= e^g`, `S += k (b (v - S^T k))^T`, `y = S^T q`, with queries and keys of length 1 after a
/// short convolution, and rates `g` and `b` of each token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeltaSpec {
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values, a multiple of the former.
    pub value_heads: usize,
    /// Width of a query or key.
    pub key_dim: usize,
    /// Width of a value.
    pub value_dim: usize,
    /// Tokens that the convolution sees, the present one among them.
    pub conv_kernel: usize,
    /// Added to the mean square in the norm of outputs.
    pub norm_eps: f32,
    /// How the file arranges the projections.
    pub layout: DeltaLayout,
    /// Which key head a value head has.
    pub order: DeltaOrder,
    /// Whether the file has the logarithm of the rate of forgetting, and not the negative rate.
    pub log_decay: bool,
}

/// How the projections of a gated delta net are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaLayout {
    /// Queries, keys and values in one matrix; gates, strengths and steps in one each (Qwen3.5).
    Apart,
    /// As `Apart`, but strengths and steps are together, those of each key head one after the other.
    StepsByKeyHead,
    /// Everything by key head: queries, keys, values and gates; strengths and steps (Qwen3-Next).
    ByKeyHead,
}

/// The order of value heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaOrder {
    /// Those of the first key head, those of the second, and so on.
    Grouped,
    /// The first of each key head, the second of each, and so on.
    Tiled,
}

impl DeltaSpec {
    /// Channels of the convolution: queries, keys and values.
    pub fn channels(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.values()
    }

    /// Width of the values of all heads.
    pub fn values(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Numbers that the convolution keeps between tokens.
    pub fn conv_numbers(&self) -> usize {
        (self.conv_kernel - 1) * self.channels()
    }

    /// Numbers that are kept between tokens.
    pub fn state_numbers(&self) -> usize {
        self.conv_numbers() + self.value_heads * self.key_dim * self.value_dim
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

/// A feed-forward block: `down(act(gate(x)) * up(x))` with three matrices, or `down(act(up(x)))` with two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MlpSpec {
    /// Width of the hidden layer.
    pub d_ff: usize,
    /// Whether there is a gate, to which the activation is applied; else it is applied to `up`.
    pub gated: bool,
    /// Applied to the gate, or to `up` without one.
    pub activation: Activation,
    /// Whether every matrix has a bias `[rows]`.
    pub bias: bool,
}

impl MlpSpec {
    /// A gated block of three matrices without biases (arXiv 2002.05202).
    pub fn gated(d_ff: usize, activation: Activation) -> Self {
        Self { d_ff, gated: true, activation, bias: false }
    }

    /// Its matrices, in the order in which files and records hold them.
    pub fn matrices(&self, d_model: usize) -> impl Iterator<Item = BankMatrix> + use<> {
        let Self { d_ff, gated, .. } = *self;
        let gate = gated.then_some(BankMatrix { part: Part::Gate, rows: d_ff, cols: d_model });
        let up = BankMatrix { part: Part::Up, rows: d_ff, cols: d_model };
        let down = BankMatrix { part: Part::Down, rows: d_model, cols: d_ff };
        gate.into_iter().chain([up, down])
    }
}

/// A matrix of a feed-forward block or of an expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// `[d_ff, d_model]`, goes through the activation.
    Gate,
    /// `[d_ff, d_model]`, multiplied with the activated gate; without a gate it goes through the activation.
    Up,
    /// `[d_model, d_ff]`.
    Down,
}

impl Part {
    /// All of them, in the order in which files and records hold them.
    pub const ALL: [Self; 3] = [Self::Gate, Self::Up, Self::Down];
}

/// Activations of feed-forward blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU, tanh approximation.
    GeluTanh,
    /// `g * sigmoid(alpha * g) * (u + 1)` of the gate `g`, at most `limit`, and `u`, within `-limit..=limit`
    /// (gpt-oss).
    ClampedSwiglu {
        /// Steepness of the sigmoid.
        alpha: f32,
        /// Bound of both inputs.
        limit: f32,
    },
}

/// A mixture of experts.
#[derive(Debug, Clone, PartialEq)]
pub struct MoeSpec {
    /// Number of routed experts.
    pub experts: usize,
    /// One routed expert.
    pub expert: MlpSpec,
    /// How experts are chosen for a token.
    pub router: RouterSpec,
    /// Experts that every token visits.
    pub shared: SharedExpert,
}

/// From router logits to experts and weights. Selection is on f32; ties go to the lower expert id.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterSpec {
    /// Whether a bias `[experts]` is added to the logits.
    pub bias: bool,
    /// How experts are scored and picked.
    pub select: Select,
    /// Factor on the final weights.
    pub scale: f32,
}

/// Scoring and selection. Every variant gives a list of experts per token, whose length need not be a
/// constant.
#[derive(Debug, Clone, PartialEq)]
pub enum Select {
    /// Softmax over all experts, the `k` best.
    SoftmaxTopK {
        /// Experts per token.
        k: usize,
        /// Whether the chosen weights are divided by their sum (the same as a softmax over the chosen
        /// logits).
        renormalise: bool,
    },
    /// Each expert is scored, and the `k` best are chosen by score plus bias (DeepSeek-V3, arXiv 2412.19437,
    /// section 2.1.2). The weights are the scores without the bias.
    Scored {
        /// Experts per token.
        k: usize,
        /// From a logit to a score.
        scoring: Scoring,
        /// Whether a bias `[experts]` is added to the scores for the choice alone.
        bias: bool,
        /// The groups that choice is limited to.
        groups: Option<ExpertGroups>,
        /// What becomes of the weights of the chosen experts.
        renormalise: Renormalise,
    },
    /// SparseMixer's inference path (Phi-3.5-MoE, arXiv 2409.12136): two experts; each weight is a softmax
    /// over the experts whose logit is within `2 * jitter` of the best, relative to the larger magnitude.
    SparseMixer {
        /// The `router_jitter_noise` of the configuration.
        jitter: f32,
    },
}

impl Select {
    /// The most experts one token can get.
    pub fn max_experts(&self) -> usize {
        match self {
            Self::SoftmaxTopK { k, .. } | Self::Scored { k, .. } => *k,
            Self::SparseMixer { .. } => 2,
        }
    }

    /// Whether the router has a bias `[experts]` that is added to scores for the choice alone.
    pub fn has_bias(&self) -> bool {
        matches!(self, Self::Scored { bias: true, .. })
    }
}

/// From a router's logits to scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// Softmax over all experts.
    Softmax,
    /// `1 / (1 + exp(-logit))` of each expert by itself.
    Sigmoid,
}

/// Experts in groups of equal size, neighbours by id. A group counts by the sum of its highest scores
/// with bias; experts outside the best groups are not chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertGroups {
    /// Number of groups; it divides the number of experts, and each group has at least two.
    pub count: usize,
    /// How many groups experts are chosen from.
    pub kept: usize,
    /// How many scores of a group are summed: 2 in DeepSeek-V3, 1 in DeepSeek-V2.
    pub summed: usize,
}

/// Whether and how the weights of the chosen experts are divided by their sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Renormalise {
    /// They stay the scores.
    No,
    /// Divided by their sum plus this.
    Plus(f32),
    /// Divided by their sum, or by this if it is larger.
    AtLeast(f32),
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
