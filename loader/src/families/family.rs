//! What a family is: the properties that an architecture name implies and its configuration does not state.
//! Plain types without functions. It must not know which families there are.

use crate::spec::{Activation, OutputGate, Pairing, Purpose, Renormalise, Scoring};
use crate::tensors::roles::NameRule;

/// Properties that all models of a family share.
#[derive(Debug)]
pub struct Family {
    /// Name of the family as `inspect` shows it.
    pub label: &'static str,
    /// `model_type` values in `config.json`.
    pub hf_types: &'static [&'static str],
    /// `general.architecture` in GGUF files; the same name may serve several families of equal meaning.
    pub gguf_arch: &'static str,
    /// Q/K row order of GGUF files.
    pub gguf_pairing: Pairing,
    /// Q/K row order of folders.
    pub folder_pairing: Pairing,
    /// Tensors of GGUF files whose names mean something else in this family, or that it alone has.
    pub gguf_names: &'static [NameRule],
    /// The same of folders.
    pub folder_names: &'static [NameRule],
    /// What a model with an encoder has beside.
    pub pair: Option<PairKind>,
    /// Whether it reads images.
    pub images: bool,
    /// Whether query heads are experts (JetMoE).
    pub head_experts: bool,
    /// Epsilon of the norms in layers, where it is not that of the last norm.
    pub layer_eps: Option<f32>,
    /// Whether a bias is added to what all experts of a token give.
    pub experts_out_bias: bool,
    /// Whether what all experts of a token give goes through a sigmoid.
    pub experts_squashed: bool,
    /// Whether attention is to compressed tokens (DeepSeek-V4).
    pub compressed: bool,
    /// Whether there are several residual streams, where the file says so.
    pub streams: bool,
    /// Whether attention is to chosen blocks of tokens (Qwen3.8).
    pub blocks: bool,
    /// Whether gates of delta nets are sigmoids in GGUF files.
    pub sigmoid_gate: bool,
    /// Whether attention is latent (DeepSeek-V2).
    pub latent: bool,
    /// Where tokens choose what latent attention sees: which dimensions of their small queries and keys
    /// rotate together.
    pub indexed: Option<Pairing>,
    /// Whether latent attention has a rope.
    pub latent_rope: bool,
    /// Which layers of latent attention have Kimi delta attention in its place, and how it is stored.
    pub kda: KdaKind,
    /// How delta nets are stored, in families that have them.
    pub delta: Option<DeltaKind>,
    /// Which layers have Mamba-2 blocks.
    pub ssm: SsmKind,
    /// Whether layers without attention have short convolutions.
    pub short_conv: bool,
    /// Norms over the residual stream.
    pub norm: NormKind,
    /// Where the norms of a branch are.
    pub norms: NormPlaces,
    /// Whether norms of folders are stored less 1; those of GGUF files never are.
    pub folder_norms_centred: bool,
    /// Whether attention and feed-forward block read the same input, and their outputs are added together.
    pub parallel: bool,
    /// Biases on q, k, v.
    pub qkv_bias: Setting,
    /// Bias on the attention output.
    pub out_bias: Setting,
    /// Whether a bias `[vocab]` is added to the logits.
    pub head_bias: Setting,
    /// In which layers query heads have sinks.
    pub sinks: SinkLayers,
    /// Norms on queries and keys.
    pub qk_norm: QkNormKind,
    /// Whether a model of the family has these norms.
    pub has_qk_norm: Setting,
    /// Which layers a sliding window covers when one is given.
    pub window: WindowRule,
    /// Which layers have a rope, where the file has no list.
    pub rope_layers: RopeLayers,
    /// The rope of layers with a window.
    pub local_rope: LocalRope,
    /// Whether each layer adds numbers of its own for distances to scores (as T5 has them).
    pub distances: bool,
    /// Whether scores are not scaled, where the file does not say how.
    pub unscaled: bool,
    /// Whether values have a norm.
    pub value_norm: bool,
    /// Whether the residual stream is multiplied at the end of a layer.
    pub layer_scale: bool,
    /// GGUF files of a model with this number of layers scale scores by the width of the residual stream
    /// over the heads, and do not say so.
    pub gguf_share_layers: Option<u64>,
    /// Runs of tokens that layers with a rope see, where the file does not say.
    pub chunk: Option<usize>,
    /// How queries of layers without a rope grow, where the file does not say.
    pub growth: Option<Growth>,
    /// Whether layers without a window rotate half of what GGUF files say.
    pub gguf_half_rope: bool,
    /// Keys that other readers of GGUF files demand, although they say nothing new.
    pub gguf_demanded: &'static [Demanded],
    /// Gate on mixed values.
    pub gate: Option<OutputGate>,
    /// Whether the embedding is multiplied with the root of its width.
    pub embed_root: Setting,
    /// What the factor on logits does.
    pub logit_scale: LogitScale,
    /// How a token's experts are chosen. Not used by families without experts.
    pub router: RouterKind,
    /// What the router reads.
    pub router_input: RouterInputKind,
    /// Which dense block stands beside experts.
    pub beside: BesideKind,
    /// Whether each expert has a factor on its weights.
    pub expert_scales: bool,
    /// Whether the router has a bias.
    pub router_bias: bool,
    /// Whether the matrices of experts have biases.
    pub expert_bias: bool,
    /// The activation of feed-forward blocks.
    pub activation: ActivationKind,
    /// Whether bounds of the activation by layer are those of `silu`.
    pub bounded: bool,
    /// Whether these blocks have no gate.
    pub ungated: bool,
    /// Whether routed experts have no gate, whatever dense blocks have.
    pub ungated_experts: bool,
    /// Whether the sum of routed and shared experts is halved, where the file does not say.
    pub averages: bool,
    /// Whether weights are multiplied with inputs of experts.
    pub weighs_inputs: bool,
    /// Whether chosen weights are divided by their sum.
    pub renormalise: Setting,
    /// The same for folders that do not say, where files may.
    pub folder_renormalises: bool,
    /// The shared expert.
    pub shared: SharedKind,
    /// The adjugate experts of folders, which do not describe them.
    pub folder_adjugate: Option<AdjugateKind>,
    /// Which field holds the hidden width of a routed expert.
    pub expert_width: ExpertWidth,
    /// Whether YaRN rounds its range to whole dimensions when the configuration does not say.
    pub yarn_truncate: bool,
    /// Sizes that folders may leave out.
    pub folder_sizes: Option<FolderSizes>,
    /// Rope base when the configuration has none.
    pub default_theta: f64,
    /// Epsilon of the norms when the configuration has none.
    pub default_eps: f64,
    /// Whether head and embedding are one matrix when a folder's configuration does not say.
    pub default_tied: bool,
}

/// A key that other readers demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demanded {
    /// Of how many layers one has experts.
    SparseStep,
    /// The epsilon of norms with a mean, beside that of norms without.
    BothNorms,
    /// That layers have no numbers of their own for a token, where they have none.
    NoLayerInputs,
}

/// Experts that stand for groups of a layer's experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdjugateKind {
    /// Their hidden width.
    pub d_ff: u64,
    /// How many experts one of them stands for.
    pub group: usize,
    /// Factor on what they give.
    pub scale: f64,
}

/// What the models of a family have that are encoder and decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairKind {
    /// How positions are told.
    pub positions: PairPositions,
    /// Whether all matrices but those of routers have biases.
    pub biases: bool,
    /// Whether a tied head is scaled by one over the root of the width.
    pub scaled_head: bool,
    /// Which layers have experts.
    pub sparse: SparseLayers,
    /// Experts of a token.
    pub experts_used: usize,
    /// What people use it for.
    pub purpose: Purpose,
}

/// How an encoder-decoder tells positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairPositions {
    /// Distances add to scores, the same in all layers of a stack.
    Relative,
    /// The same, each layer its own.
    RelativeByLayer,
    /// Sines and cosines are added to the embedding.
    Sinusoids,
}

/// Which layers of a stack have experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SparseLayers {
    /// Of each run of layers the second one. There are as many runs as the file says that layers have
    /// experts.
    SecondOfRun,
    /// Of each run of layers the last one. The file says how long a run is.
    LastOfRun,
}

/// Sizes that `config.json` leaves out where they are those of the configuration's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FolderSizes {
    /// Rows of the embedding.
    pub vocab: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Longest context, in tokens.
    pub max_context: u64,
}

/// A property that is fixed by the family or read from the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// Always so, whatever the file says.
    Fixed(bool),
    /// The value of the file; this one if the file has none.
    Default(bool),
}

/// Which layers have Mamba-2 blocks (arXiv 2405.21060).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SsmKind {
    /// None has.
    None,
    /// All of them, and nothing else.
    Alone,
    /// Some, in place of attention.
    BesideAttention,
    /// Some have Mamba blocks, in place of attention (Jamba).
    Selective,
    /// Some. Each layer has one operation: a Mamba-2 block, attention, a dense block or experts.
    SingleOps,
    /// None has. Each layer has one operation: an LSTM, a dense block or experts.
    Lstm,
}

/// How the rates and gates of Kimi delta attention are stored (arXiv 2510.26692).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KdaKind {
    /// There is none.
    None,
    /// As two matrices each (Kimi Linear).
    LowRank,
    /// As one matrix each (Ling 3).
    Whole,
}

/// How the projections of delta nets are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaKind {
    /// In one matrix each; GGUF files reorder the value heads (Qwen3.5).
    Apart,
    /// By key head, which GGUF files take apart as far as strengths and steps (Qwen3-Next).
    ByKeyHead,
}

/// The norms over the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// RMS norm (arXiv 1910.07467).
    Rms,
    /// Layer norm with bias (arXiv 1607.06450).
    Layer,
    /// Layer norm without bias.
    LayerUnbiased,
}

/// The norms of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlaces {
    /// Of its input.
    Before,
    /// Of its output.
    After,
    /// Of its input and of its output.
    Both,
    /// There are none, also before the head. A mix of residual streams has its own.
    Nowhere,
}

/// In which layers query heads have a logit without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkLayers {
    /// In no layer.
    None,
    /// In every layer.
    All,
    /// Those with a window.
    Windowed,
}

/// How queries grow with their position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    /// How fast.
    pub beta: f64,
    /// Positions with one factor.
    pub period: usize,
    /// Added to positions.
    pub offset: usize,
}

/// The dense block beside experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BesideKind {
    /// There is none.
    None,
    /// As wide as the residual stream; experts read what their layer received (Arctic).
    Outset,
    /// Of the file's width; both read the same, and their sum has a norm (Gemma 4).
    Sum,
}

/// What a router reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouterInputKind {
    /// The normed input of its branch.
    Branch,
    /// What its layer received.
    Outset,
    /// The input of its branch under its own norm.
    Residual,
}

/// Which layers have a rope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayers {
    /// All of them.
    All,
    /// All of them, if the file says that positions are ropes. A GGUF file says when they are not.
    Stated,
    /// Positions are not told to attention.
    None,
    /// Those with a window; all of a model without windows.
    Windowed,
    /// Those with a window, and those without experts.
    WindowedOrDense,
    /// All layers but the last of each run of this length.
    AllButEvery(usize),
}

/// The rope of layers with a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LocalRope {
    /// That of the other layers, unless a folder describes another.
    Same,
    /// Without extension of the context.
    Plain {
        /// Its base, where the file has none; `None` for that of the other layers.
        theta: Option<f64>,
    },
}

/// What the factor on logits in a file does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LogitScale {
    /// Logits are divided by it.
    Divides,
    /// Logits are multiplied with it.
    Multiplies {
        /// The factor of files without one.
        default: f64,
    },
}

/// Kinds of query and key norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNormKind {
    /// Queries and keys are used as projected.
    None,
    /// One RMS norm for each head, weight `[head_dim]`.
    PerHead,
    /// The same, applied to rotated queries and keys.
    PerHeadAfterRope,
    /// A norm without weights for each rotated head, of layers with a rope. GGUF files do not say so; models
    /// with this number of experts have none.
    PlainAfterRope {
        /// The number.
        but_of: u64,
    },
    /// One RMS norm over all heads, weights `[heads * head_dim]`.
    Full,
}

/// Which layers a sliding window covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowRule {
    /// All of them.
    AllLayers,
    /// The layers that the file lists; no layer without a list.
    Listed,
    /// The layers that the file lists; without a list all but one of each run of `period` layers.
    Periodic {
        /// Layers of a run, where the file does not say.
        period: usize,
        /// Whether the first of a run has no window; else the last.
        first_is_full: bool,
    },
}

/// The activation of feed-forward blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ActivationKind {
    /// The one that the file names; this one if it names none.
    Named(Activation),
    /// The clamped activation of gpt-oss, whatever the file names.
    ClampedSwiglu,
    /// SiLU of clamped inputs, whatever the file names.
    ClampedSilu,
}

/// Kinds of routing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RouterKind {
    /// The k highest of a softmax over all experts.
    SoftmaxTopK,
    /// The k highest of scores plus a bias, perhaps out of the best groups (arXiv 2412.19437).
    Scored {
        /// From logits to scores, if the file does not say. `None`: a sigmoid with a bias, a softmax without.
        scoring: Option<Scoring>,
        /// Whether there is a bias.
        bias: Setting,
        /// How weights are divided by their sum, where they are.
        divisor: Renormalise,
    },
    /// SparseMixer (arXiv 2409.12136), which always chooses two experts.
    SparseMixer,
}

/// Kinds of shared experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedKind {
    /// The family has no shared expert.
    None,
    /// Added without a gate; only present if the file gives it a width.
    PlainIfPresent,
    /// Added without a gate. If the file has no width for it, it is as wide as a routed expert.
    One,
    /// Added without a gate. If the file has no width for it, the width of that many routed experts.
    Counted,
    /// Added without a gate. That many times the width of the file, or else of a routed expert.
    Several,
    /// Multiplied by a sigmoid gate.
    Gated,
}

/// Which field holds the hidden width of a routed expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertWidth {
    /// The field of the dense width.
    AsDense,
    /// A separate field.
    Own,
    /// A separate field, or else the one of the dense width, where dense blocks have a field of their own.
    Either,
}
