//! Feed-forward blocks, mixtures of experts and their routers, as data. It must not know layers.

use super::bank::BankKind;
use super::capacity::CapacitySpec;

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
    /// `min(silu(g), limit) * clamp(u, -limit, limit)` of the gate `g` and `u` (Step 3.5).
    BoundedSilu {
        /// The bound.
        limit: f32,
    },
    /// `silu(min(g, limit)) * clamp(u, -limit, limit)` of the gate `g` and `u` (DeepSeek-V4).
    ClampedSilu {
        /// The bound.
        limit: f32,
    },
    /// GELU, tanh approximation.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)^2`.
    ReluSquared,
    /// `g * sigmoid(alpha * g) * (u + 1)` of the gate `g`, at most `limit`, and `u`, within `-limit..=limit`
    /// (gpt-oss).
    ClampedSwiglu {
        /// Steepness of the sigmoid.
        alpha: f32,
        /// Bound of both inputs.
        limit: f32,
    },
}

/// `W_up (act(W_gate x) * n)` with the layer's own numbers `n` of a token, see [`crate::spec::LayerInputs`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerInputSpec {
    /// How many they are.
    pub width: usize,
    /// Applied to what the gate gives.
    pub activation: Activation,
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
    /// What the router reads.
    pub router_input: RouterInput,
    /// Experts that every token visits.
    pub shared: SharedExpert,
    /// Width of what routed experts read and give, where it is not that of the residual stream: a projection
    /// before them and one after their sum (Nemotron-3).
    pub latent: Option<usize>,
    /// Factor on what the shared expert gives (Cohere 2).
    pub shared_scale: f32,
    /// Whether a bias `[d_model]` is added to what all experts of a token give (JetMoE).
    pub out_bias: bool,
    /// Whether what all experts of a token give goes through a sigmoid (Shazeer et al. 2017, appendix C.1).
    pub squashed: bool,
    /// Whether a token's weight is multiplied with the input of its expert, and not with its output: each
    /// token has one expert then (Llama 4).
    pub weighs_inputs: bool,
}

/// What a router reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RouterInput {
    /// The normed input of its branch, as the experts do.
    Branch,
    /// The residual stream as the layer received it, before any norm (SmallThinker, arXiv 2507.20984).
    Outset,
    /// What the branch reads, under an RMS norm of the router's own, whose weights are divided by the root of
    /// the width (Gemma 4).
    Residual {
        /// Added to the mean square.
        eps: f32,
    },
    /// Nothing: it takes the choice of the branch before it, a mixture whose shared expert has no gate. Each
    /// of the token's experts there stands for its group of `size` neighbours, which is an expert here
    /// (GroveMoE).
    Groups {
        /// Experts of a group.
        size: usize,
        /// What such an expert weighs.
        weights: GroupWeights,
    },
}

/// The weight of an expert that stands for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupWeights {
    /// The sum of the weights of the token's experts in the group (GroveMoE, as its authors have it).
    OfExperts,
    /// What the softmax over all experts gave to the expert of the group's number, over the sum of these, as
    /// often as the group is chosen (GroveMoE, as llama.cpp has it).
    OfNumbers,
}

impl MoeSpec {
    /// What its experts are for.
    pub fn kind(&self) -> BankKind {
        match self.router_input {
            RouterInput::Groups { .. } => BankKind::Adjugate,
            _ => BankKind::FeedForward,
        }
    }
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
    /// Whether the experts of a token are not chosen, but listed by its id, as many as there are of a choice;
    /// their weights are those that the rule gives them (DeepSeek-V4).
    pub listed: bool,
    /// Whether each expert has a factor of its own on its weights, `[experts]` (Gemma 4).
    pub expert_scales: bool,
    /// How many tokens of a text an expert takes; `None` for all that choose it.
    pub capacity: Option<CapacitySpec>,
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
    /// Softmax over all experts; those whose share is over `eps` times an equal share, best first (DS-MoE,
    /// arXiv 2404.05567, section 3.3). There is always one, because `eps` is below 1.
    Threshold {
        /// From 0 up to 1.
        eps: f32,
        /// The most experts of a token.
        most: usize,
        /// Whether the chosen weights are divided by their sum.
        renormalise: bool,
    },
    /// Softmax over all experts; the best one, and the second where `second` says so. Their weights are
    /// divided by the sum of both, also where only the best one is used (GShard, arXiv 2006.16668, algorithm
    /// 1; ST-MoE, arXiv 2202.08906).
    TopTwo {
        /// When the second expert is used.
        second: Second,
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
            Self::Threshold { most, .. } => *most,
            Self::SparseMixer { .. } | Self::TopTwo { .. } => 2,
        }
    }

    /// Whether the router has a bias `[experts]` that is added to scores for the choice alone.
    pub fn has_bias(&self) -> bool {
        matches!(self, Self::Scored { bias: true, .. })
    }
}

/// When the second expert of a token is used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Second {
    /// Where its part of both weights is over so much.
    Over(f32),
    /// By chance: twice its part is the probability. The draw depends on `seed` and on the logits of the
    /// router alone, so a token's neighbours never change it.
    Chance {
        /// Of the draws.
        seed: u64,
    },
}

/// From a router's logits to scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// Softmax over all experts.
    Softmax,
    /// `1 / (1 + exp(-logit))` of each expert by itself.
    Sigmoid,
    /// `sqrt(ln(1 + exp(logit)))` of each expert by itself (DeepSeek-V4).
    SqrtSoftplus,
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
