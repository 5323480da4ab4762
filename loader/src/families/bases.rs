//! Families that the entries of the table are given as differences from, and names of tensors that several
//! of them share. Data only, no functions. It must not know the table.

use super::family::{
    ActivationKind, BesideKind, DeltaKind, Demanded, ExpertWidth, Family, KdaKind, LocalRope, LogitScale,
    NormKind, NormPlaces, QkNormKind, RopeLayers, RouterInputKind, RouterKind, Setting, SharedKind,
    SinkLayers, SsmKind, WindowRule,
};
use crate::spec::Part::{Down, Gate, Up};
use crate::spec::Place::{self, Ffn, Mixer};
use crate::spec::{Activation, OutputGate, Pairing, Renormalise, Scoring};
use crate::tensors::roles::{LayerTensor as T, NameRule, QKV, Role, Rows, half, layer, stacked, top};

/// Llama. The other entries are given as differences from it.
pub(super) const LLAMA: Family = Family {
    label: "llama",
    hf_types: &["llama"],
    gguf_arch: "llama",
    gguf_pairing: Pairing::Adjacent,
    folder_pairing: Pairing::Split,
    gguf_names: &[],
    folder_names: &[],
    pair: None,
    images: false,
    head_experts: false,
    layer_eps: None,
    experts_out_bias: false,
    experts_squashed: false,
    compressed: false,
    streams: false,
    blocks: false,
    sigmoid_gate: false,
    latent: false,
    indexed: None,
    latent_rope: true,
    kda: KdaKind::None,
    delta: None,
    ssm: SsmKind::None,
    short_conv: false,
    norm: NormKind::Rms,
    norms: NormPlaces::Before,
    folder_norms_centred: false,
    parallel: false,
    qkv_bias: Setting::Default(false),
    out_bias: Setting::Default(false),
    head_bias: Setting::Fixed(false),
    sinks: SinkLayers::None,
    qk_norm: QkNormKind::None,
    has_qk_norm: Setting::Fixed(true),
    window: WindowRule::AllLayers,
    rope_layers: RopeLayers::All,
    local_rope: LocalRope::Same,
    distances: false,
    unscaled: false,
    value_norm: false,
    layer_scale: false,
    gguf_share_layers: None,
    chunk: None,
    growth: None,
    gguf_half_rope: false,
    gguf_demanded: &[],
    gate: None,
    embed_root: Setting::Fixed(false),
    logit_scale: LogitScale::Divides,
    router: RouterKind::SoftmaxTopK,
    router_input: RouterInputKind::Branch,
    beside: BesideKind::None,
    expert_scales: false,
    router_bias: false,
    expert_bias: false,
    activation: ActivationKind::Named(Activation::Silu),
    bounded: false,
    ungated: false,
    ungated_experts: false,
    averages: false,
    weighs_inputs: false,
    renormalise: Setting::Fixed(true),
    folder_renormalises: false,
    shared: SharedKind::None,
    folder_adjugate: None,
    expert_width: ExpertWidth::AsDense,
    yarn_truncate: true,
    folder_sizes: None,
    default_theta: 10_000.0,
    default_eps: 1e-6,
    default_tied: false,
};

pub(super) const QWEN2: Family = Family {
    label: "qwen2",
    hf_types: &["qwen2"],
    gguf_arch: "qwen2",
    gguf_pairing: Pairing::Split,
    qkv_bias: Setting::Fixed(true),
    out_bias: Setting::Fixed(false),
    window: WindowRule::Listed,
    ..LLAMA
};

pub(super) const QWEN3: Family = Family {
    label: "qwen3",
    hf_types: &["qwen3"],
    gguf_arch: "qwen3",
    qkv_bias: Setting::Default(false),
    out_bias: Setting::Default(false),
    qk_norm: QkNormKind::PerHead,
    ..QWEN2
};

/// LFM2 (the model card of Liquid AI, arXiv 2511.23404). Its mixture of experts is given as a difference
/// from it.
pub(super) const LFM2: Family = Family {
    label: "lfm2",
    hf_types: &["lfm2"],
    gguf_arch: "lfm2",
    gguf_names: &[top(Role::FinalNorm, "token_embd_norm.weight"), top(Role::FinalNorm, "output_norm.weight")],
    folder_names: &[
        top(Role::FinalNorm, "model.embedding_norm.weight"),
        layer(T::PreNorm(Mixer), "model.layers.{L}.operator_norm.weight"),
        layer(T::PreNorm(Ffn), "model.layers.{L}.ffn_norm.weight"),
        layer(T::QNorm, "model.layers.{L}.self_attn.q_layernorm.weight"),
        layer(T::KNorm, "model.layers.{L}.self_attn.k_layernorm.weight"),
        layer(T::O, "model.layers.{L}.self_attn.out_proj.weight"),
        layer(T::Dense(Gate), "model.layers.{L}.feed_forward.w1.weight"),
        layer(T::Dense(Up), "model.layers.{L}.feed_forward.w3.weight"),
        layer(T::Dense(Down), "model.layers.{L}.feed_forward.w2.weight"),
        layer(T::Router, "model.layers.{L}.feed_forward.gate.weight"),
        layer(T::SelectBias, "model.layers.{L}.feed_forward.expert_bias"),
        layer(T::Experts(Gate), "model.layers.{L}.feed_forward.experts.{E}.w1.weight"),
        layer(T::Experts(Up), "model.layers.{L}.feed_forward.experts.{E}.w3.weight"),
        layer(T::Experts(Down), "model.layers.{L}.feed_forward.experts.{E}.w2.weight"),
    ],
    short_conv: true,
    default_theta: 1_000_000.0,
    default_eps: 1e-5,
    default_tied: true,
    ..QWEN3
};

/// Qwen3-Next: gated delta nets, and gated attention in every fourth layer (arXiv 2412.06464, and the model
/// card). Qwen3.5 is given as a difference from it.
pub(super) const QWEN3NEXT: Family = Family {
    label: "qwen3next",
    hf_types: &["qwen3_next"],
    gguf_arch: "qwen3next",
    gguf_names: DELTA_NAMES,
    delta: Some(DeltaKind::ByKeyHead),
    folder_norms_centred: true,
    gate: Some(OutputGate::SigmoidWithQuery),
    renormalise: Setting::Default(true),
    shared: SharedKind::Gated,
    expert_width: ExpertWidth::Own,
    default_theta: 10_000_000.0,
    ..QWEN3
};

/// Tensors of GGUF files with delta nets, and the name that these files have for the norm before the
/// feed-forward block.
const DELTA_NAMES: &[NameRule] = &[
    layer(T::DeltaQkv, "blk.{L}.attn_qkv.weight"),
    layer(T::DeltaGate, "blk.{L}.attn_gate.weight"),
    layer(T::PreNorm(Ffn), "blk.{L}.post_attention_norm.weight"),
];

/// A router of DeepSeek-V3's kind (arXiv 2412.19437).
pub(super) const V3_ROUTER: RouterKind = RouterKind::Scored {
    scoring: Some(Scoring::Sigmoid),
    bias: Setting::Fixed(true),
    divisor: Renormalise::Plus(1e-20),
};

/// GLM-4.5 (arXiv 2508.06471). Others with DeepSeek-V3's experts are given as differences from it.
pub(super) const GLM4MOE: Family = Family {
    label: "glm4moe",
    hf_types: &["glm4_moe"],
    gguf_arch: "glm4moe",
    gguf_pairing: Pairing::Split,
    gguf_names: NORM_AFTER_ATTENTION,
    out_bias: Setting::Fixed(false),
    qk_norm: QkNormKind::PerHead,
    has_qk_norm: Setting::Default(false),
    window: WindowRule::Listed,
    router: V3_ROUTER,
    renormalise: Setting::Default(true),
    folder_renormalises: true,
    shared: SharedKind::Counted,
    expert_width: ExpertWidth::Own,
    default_eps: 1e-5,
    ..LLAMA
};

/// GGUF files of some families name the norm before the feed-forward block after its place behind attention.
pub(super) const NORM_AFTER_ATTENTION: &[NameRule] =
    &[layer(T::PreNorm(Ffn), "blk.{L}.post_attention_norm.weight")];

/// Tensors of folders with norms of outputs.
pub(super) const POST_NORMS: &[NameRule] = &[
    layer(T::PostNorm(Mixer), "model.layers.{L}.post_attention_layernorm.weight"),
    layer(T::PostNorm(Ffn), "model.layers.{L}.post_feedforward_layernorm.weight"),
];

/// GGUF files of some families have queries, keys and values in one tensor.
pub(super) const FUSED_QKV: &[NameRule] = &[
    stacked(T::Q, "blk.{L}.attn_qkv.weight", QKV),
    stacked(T::K, "blk.{L}.attn_qkv.weight", QKV),
    stacked(T::V, "blk.{L}.attn_qkv.weight", QKV),
];

/// GGUF files of some families have gate and up in one tensor.
pub(super) const FUSED_UP: &[NameRule] = &[
    half(T::Dense(Gate), "blk.{L}.ffn_up.weight", Rows::FirstHalf),
    half(T::Dense(Up), "blk.{L}.ffn_up.weight", Rows::SecondHalf),
];

/// Phi-3: queries, keys and values in one matrix as well.
pub(super) const FUSED_BOTH: &[NameRule] = &[
    stacked(T::Q, "blk.{L}.attn_qkv.weight", QKV),
    stacked(T::K, "blk.{L}.attn_qkv.weight", QKV),
    stacked(T::V, "blk.{L}.attn_qkv.weight", QKV),
    half(T::Dense(Gate), "blk.{L}.ffn_up.weight", Rows::FirstHalf),
    half(T::Dense(Up), "blk.{L}.ffn_up.weight", Rows::SecondHalf),
];

/// OLMo 2 and 3 (arXiv 2501.00656). Others with norms of outputs are given as differences from it.
pub(super) const OLMO2: Family = Family {
    label: "olmo2",
    hf_types: &["olmo2", "olmo3"],
    gguf_arch: "olmo2",
    gguf_pairing: Pairing::Split,
    folder_names: POST_NORMS,
    norms: NormPlaces::After,
    qk_norm: QkNormKind::Full,
    window: WindowRule::Periodic { period: 4, first_is_full: false },
    local_rope: LocalRope::Plain { theta: None },
    default_eps: 1e-5,
    ..LLAMA
};

/// Command R7B and Command A (arXiv 2504.00698).
pub(super) const COHERE2: Family = Family {
    label: "cohere2",
    hf_types: &["cohere2"],
    gguf_arch: "cohere2",
    folder_pairing: Pairing::Adjacent,
    gguf_names: &[layer(T::PreNorm(Ffn), "blk.{L}.attn_norm.weight")],
    folder_names: &[layer(T::PreNorm(Ffn), "model.layers.{L}.input_layernorm.weight")],
    norm: NormKind::LayerUnbiased,
    parallel: true,
    window: WindowRule::Periodic { period: 4, first_is_full: false },
    rope_layers: RopeLayers::Windowed,
    logit_scale: LogitScale::Multiplies { default: 0.0625 },
    default_eps: 1e-5,
    default_tied: true,
    ..LLAMA
};

/// Gemma 2 (arXiv 2408.00118).
pub(super) const GEMMA2: Family = Family {
    label: "gemma2",
    hf_types: &["gemma2"],
    gguf_arch: "gemma2",
    gguf_pairing: Pairing::Split,
    folder_names: &[
        layer(T::PostNorm(Mixer), "model.layers.{L}.post_attention_layernorm.weight"),
        layer(T::PreNorm(Ffn), "model.layers.{L}.pre_feedforward_layernorm.weight"),
        layer(T::PostNorm(Ffn), "model.layers.{L}.post_feedforward_layernorm.weight"),
    ],
    norms: NormPlaces::Both,
    folder_norms_centred: true,
    window: WindowRule::Periodic { period: 2, first_is_full: false },
    // The model of 27 billion weights.
    gguf_share_layers: Some(46),
    activation: ActivationKind::Named(Activation::GeluTanh),
    embed_root: Setting::Fixed(true),
    default_tied: true,
    ..LLAMA
};

/// Gemma 4 (its model card). Its small models have numbers for each layer and token.
pub(super) const GEMMA4: Family = Family {
    label: "gemma4",
    hf_types: &["gemma4_text", "gemma4"],
    gguf_arch: "gemma4",
    gguf_names: &[layer(T::PreNorm(Place::Experts), "blk.{L}.pre_ffw_norm_2.weight")],
    folder_names: GEMMA4_FOLDER,
    folder_norms_centred: false,
    qk_norm: QkNormKind::PerHead,
    value_norm: true,
    unscaled: true,
    layer_scale: true,
    window: WindowRule::Periodic { period: 6, first_is_full: false },
    local_rope: LocalRope::Plain { theta: Some(10_000.0) },
    gguf_share_layers: None,
    gguf_demanded: &[Demanded::NoLayerInputs],
    router_input: RouterInputKind::Residual,
    beside: BesideKind::Sum,
    expert_scales: true,
    expert_width: ExpertWidth::Own,
    default_theta: 1_000_000.0,
    ..GEMMA2
};

/// Tensors of Gemma 4's folders.
const GEMMA4_FOLDER: &[NameRule] = &[
    layer(T::PostNorm(Mixer), "model.layers.{L}.post_attention_layernorm.weight"),
    layer(T::PreNorm(Ffn), "model.layers.{L}.pre_feedforward_layernorm.weight"),
    layer(T::PostNorm(Ffn), "model.layers.{L}.post_feedforward_layernorm.weight"),
    layer(T::PreNorm(Place::Dense), "model.layers.{L}.pre_feedforward_layernorm.weight"),
    layer(T::PostNorm(Place::Dense), "model.layers.{L}.post_feedforward_layernorm_1.weight"),
    layer(T::PreNorm(Place::Experts), "model.layers.{L}.pre_feedforward_layernorm_2.weight"),
    layer(T::PostNorm(Place::Experts), "model.layers.{L}.post_feedforward_layernorm_2.weight"),
    layer(T::SumNorm, "model.layers.{L}.post_feedforward_layernorm.weight"),
    layer(T::Router, "model.layers.{L}.router.proj.weight"),
    half(T::Experts(Gate), "model.layers.{L}.experts.gate_up_proj", Rows::FirstHalf),
    half(T::Experts(Up), "model.layers.{L}.experts.gate_up_proj", Rows::SecondHalf),
    layer(T::Experts(Down), "model.layers.{L}.experts.down_proj"),
];

/// DeepSeek-V3 and R1 (arXiv 2412.19437), Kimi-K2. GGUF files of all models with this attention have the same
/// architecture; they say by their tensors whether the router has a bias.
pub(super) const DEEPSEEK3: Family = Family {
    label: "deepseek3",
    hf_types: &["deepseek_v3", "kimi_k2"],
    gguf_arch: "deepseek2",
    folder_pairing: Pairing::Adjacent,
    latent: true,
    router: RouterKind::Scored {
        scoring: None,
        bias: Setting::Default(true),
        divisor: Renormalise::Plus(1e-20),
    },
    renormalise: Setting::Default(false),
    folder_renormalises: true,
    shared: SharedKind::Counted,
    expert_width: ExpertWidth::Own,
    ..LLAMA
};
