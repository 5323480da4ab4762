//! Families of 2025 and later that differ from others in several properties. Data only, no functions. It must
//! not know the table.

use super::bases::{COHERE2, DEEPSEEK3, GLM4MOE, LLAMA, QWEN3};
use super::family::{
    ActivationKind, AdjugateKind, Demanded, ExpertWidth, Family, Growth, LocalRope, QkNormKind, RopeLayers,
    RouterKind, Setting, SharedKind, SinkLayers, WindowRule,
};
use crate::spec::Part::{Down, Gate, Up};
use crate::spec::{Activation, OutputGate, Pairing, Renormalise, Scoring};
use crate::tensors::roles::{LayerTensor as T, Lie, NameRule, Rows, half, layer, lying, stacked};

/// Hunyuan 3 (its model card).
pub(super) const HYV3: Family = Family {
    label: "hyv3",
    hf_types: &["hy_v3"],
    folder_names: &[layer(T::SelectBias, "model.layers.{L}.mlp.expert_bias")],
    gguf_arch: "hy_v3",
    gguf_names: &[layer(T::SelectBias, "blk.{L}.exp_probs_b")],
    out_bias: Setting::Default(false),
    has_qk_norm: Setting::Fixed(true),
    ..GLM4MOE
};

/// MiMo-V2-Flash (its model card).
pub(super) const MIMO2: Family = Family {
    label: "mimo2",
    hf_types: &["mimo_v2_flash"],
    folder_names: &[layer(T::Sinks, "model.layers.{L}.self_attn.attention_sink_bias")],
    gguf_arch: "mimo2",
    gguf_names: &[],
    out_bias: Setting::Default(false),
    sinks: SinkLayers::Windowed,
    has_qk_norm: Setting::Fixed(false),
    local_rope: LocalRope::Plain { theta: Some(10_000.0) },
    shared: SharedKind::None,
    default_theta: 5_000_000.0,
    ..GLM4MOE
};

/// Step 3.5 and 3.7 Flash (their model cards).
pub(super) const STEP35: Family = Family {
    label: "step35",
    hf_types: &[],
    gguf_arch: "step35",
    gguf_names: &[],
    out_bias: Setting::Default(false),
    has_qk_norm: Setting::Default(false),
    local_rope: LocalRope::Plain { theta: None },
    gguf_half_rope: true,
    gate: Some(OutputGate::SigmoidPerHead),
    bounded: true,
    shared: SharedKind::PlainIfPresent,
    ..GLM4MOE
};

/// Tensors of Llama 4's folders, where matrices of experts are transposed.
const LLAMA4_FOLDER: &[NameRule] = &[
    layer(T::Dense(Gate), "model.layers.{L}.feed_forward.gate_proj.weight"),
    layer(T::Dense(Up), "model.layers.{L}.feed_forward.up_proj.weight"),
    layer(T::Dense(Down), "model.layers.{L}.feed_forward.down_proj.weight"),
    layer(T::Router, "model.layers.{L}.feed_forward.router.weight"),
    lying(Gate, LLAMA4_UP, Rows::FirstHalf, Lie::AsColumns),
    lying(Up, LLAMA4_UP, Rows::SecondHalf, Lie::AsColumns),
    lying(Down, "model.layers.{L}.feed_forward.experts.down_proj", Rows::All, Lie::AsColumns),
    layer(T::Shared(Gate), "model.layers.{L}.feed_forward.shared_expert.gate_proj.weight"),
    layer(T::Shared(Up), "model.layers.{L}.feed_forward.shared_expert.up_proj.weight"),
    layer(T::Shared(Down), "model.layers.{L}.feed_forward.shared_expert.down_proj.weight"),
];
const LLAMA4_UP: &str = "model.layers.{L}.feed_forward.experts.gate_up_proj";

/// Llama 4, its text (its model card).
pub(super) const LLAMA4: Family = Family {
    label: "llama4",
    hf_types: &["llama4_text", "llama4"],
    folder_pairing: Pairing::Adjacent,
    folder_names: LLAMA4_FOLDER,
    gguf_arch: "llama4",
    gguf_demanded: &[Demanded::SparseStep],
    qk_norm: QkNormKind::PlainAfterRope { but_of: 128 },
    chunk: Some(8192),
    growth: Some(Growth { beta: 0.1, period: 8192, offset: 1 }),
    window: WindowRule::Listed,
    rope_layers: RopeLayers::AllButEvery(4),
    router: RouterKind::Scored {
        scoring: Some(Scoring::Sigmoid),
        bias: Setting::Fixed(false),
        divisor: Renormalise::Plus(1e-20),
    },
    weighs_inputs: true,
    renormalise: Setting::Fixed(false),
    shared: SharedKind::One,
    expert_width: ExpertWidth::Either,
    default_theta: 500_000.0,
    default_eps: 1e-5,
    ..LLAMA
};

/// DeepSeek-V3.2 (its technical report): V3 whose tokens choose what they attend to.
pub(super) const DEEPSEEK32: Family = Family {
    label: "deepseek3.2",
    hf_types: &["deepseek_v32"],
    gguf_arch: "deepseek32",
    indexed: Some(Pairing::Split),
    ..DEEPSEEK3
};

/// GLM-5 (its model card): the same choice, with neighbours rotated together.
pub(super) const GLM_DSA: Family = Family {
    label: "glm-5",
    hf_types: &["glm_moe_dsa"],
    gguf_arch: "glm-dsa",
    indexed: Some(Pairing::Adjacent),
    default_eps: 1e-5,
    ..DEEPSEEK32
};

/// GroveMoE (arXiv 2508.07785): folders as the authors' code reads them, which has the sizes of adjugate
/// experts in it, and GGUF files as llama.cpp runs them.
pub(super) const GROVEMOE: Family = Family {
    label: "grovemoe",
    hf_types: &["grove_moe", "grovemoe"],
    folder_names: &[
        layer(T::AdjugateExperts(Gate), "model.layers.{L}.mlp.chunk_experts.{E}.gate_proj.weight"),
        layer(T::AdjugateExperts(Up), "model.layers.{L}.mlp.chunk_experts.{E}.up_proj.weight"),
        layer(T::AdjugateExperts(Down), "model.layers.{L}.mlp.chunk_experts.{E}.down_proj.weight"),
    ],
    gguf_arch: "grovemoe",
    renormalise: Setting::Fixed(true),
    folder_adjugate: Some(AdjugateKind { d_ff: 128, group: 2, scale: 0.05 }),
    expert_width: ExpertWidth::Own,
    ..QWEN3
};

/// JetMoE (arXiv 2404.07413). No other program writes GGUF files of it.
pub(super) const JETMOE: Family = Family {
    label: "jetmoe",
    hf_types: &["jetmoe"],
    folder_names: &[
        stacked(T::K, "model.layers.{L}.self_attention.kv_proj.weight", &[T::K, T::V]),
        stacked(T::V, "model.layers.{L}.self_attention.kv_proj.weight", &[T::K, T::V]),
        layer(T::HeadRouter, "model.layers.{L}.self_attention.experts.router.layer.weight"),
        layer(T::HeadExperts(Up), "model.layers.{L}.self_attention.experts.input_linear.weight"),
        layer(T::HeadExperts(Down), "model.layers.{L}.self_attention.experts.output_linear.weight"),
        layer(T::OBias, "model.layers.{L}.self_attention.experts.bias"),
        layer(T::Router, "model.layers.{L}.mlp.router.layer.weight"),
        half(T::Experts(Gate), "model.layers.{L}.mlp.input_linear.weight", Rows::FirstHalf),
        half(T::Experts(Up), "model.layers.{L}.mlp.input_linear.weight", Rows::SecondHalf),
        layer(T::Experts(Down), "model.layers.{L}.mlp.output_linear.weight"),
        layer(T::ExpertsOutBias, "model.layers.{L}.mlp.bias"),
    ],
    gguf_arch: "jetmoe",
    gguf_pairing: Pairing::Split,
    head_experts: true,
    layer_eps: Some(1e-6),
    experts_out_bias: true,
    qkv_bias: Setting::Fixed(false),
    out_bias: Setting::Fixed(true),
    default_eps: 1e-6,
    default_tied: true,
    ..LLAMA
};

/// DS-MoE (arXiv 2404.05567): attention experts and experts of two matrices, by their share of a softmax. No
/// weights were released; names and fields are those of `docs/survey.md`.
pub(super) const DSMOE: Family = Family {
    label: "dsmoe",
    hf_types: &["dsmoe"],
    folder_names: &[
        layer(T::HeadRouter, "model.layers.{L}.self_attn.router.weight"),
        layer(T::HeadExperts(Up), "model.layers.{L}.self_attn.experts.q_proj.weight"),
        layer(T::HeadExperts(Down), "model.layers.{L}.self_attn.experts.o_proj.weight"),
        layer(T::Router, "model.layers.{L}.mlp.router.weight"),
        layer(T::Experts(Up), "model.layers.{L}.mlp.experts.up_proj.weight"),
        layer(T::Experts(Down), "model.layers.{L}.mlp.experts.down_proj.weight"),
    ],
    gguf_arch: "dsmoe",
    gguf_pairing: Pairing::Split,
    head_experts: true,
    qkv_bias: Setting::Fixed(false),
    out_bias: Setting::Fixed(false),
    renormalise: Setting::Fixed(false),
    activation: ActivationKind::Named(Activation::GeluTanh),
    ungated: true,
    default_eps: 1e-5,
    ..LLAMA
};

/// GLaM (arXiv 2112.06905): experts of two matrices in every other layer, dense blocks with a gate, distances
/// in place of positions. No weights were released; names and fields are those of `docs/models.md`.
pub(super) const GLAM: Family = Family {
    label: "glam",
    hf_types: &["glam"],
    folder_names: &[
        layer(T::RelativeBias, "model.layers.{L}.self_attn.relative_attention_bias.weight"),
        layer(T::Router, "model.layers.{L}.mlp.router.weight"),
        layer(T::Experts(Up), "model.layers.{L}.mlp.experts.up_proj.weight"),
        layer(T::Experts(Down), "model.layers.{L}.mlp.experts.down_proj.weight"),
    ],
    gguf_arch: "glam",
    gguf_pairing: Pairing::Split,
    rope_layers: RopeLayers::None,
    distances: true,
    qkv_bias: Setting::Fixed(false),
    out_bias: Setting::Fixed(false),
    activation: ActivationKind::Named(Activation::GeluTanh),
    ungated_experts: true,
    default_tied: true,
    ..LLAMA
};

/// PLM-1.8B (arXiv 2503.12167): latent attention, dense.
pub(super) const PLM: Family = Family {
    label: "plm",
    hf_types: &[],
    gguf_arch: "plm",
    activation: ActivationKind::Named(Activation::ReluSquared),
    ungated: true,
    default_tied: true,
    ..DEEPSEEK3
};

/// Command A with experts (its model card).
pub(super) const COHERE2MOE: Family = Family {
    label: "cohere2moe",
    hf_types: &["cohere2_moe"],
    gguf_arch: "cohere2moe",
    rope_layers: RopeLayers::WindowedOrDense,
    router: RouterKind::Scored {
        scoring: Some(Scoring::Sigmoid),
        bias: Setting::Fixed(false),
        divisor: Renormalise::Plus(1e-20),
    },
    averages: true,
    renormalise: Setting::Default(true),
    folder_renormalises: true,
    shared: SharedKind::Counted,
    expert_width: ExpertWidth::Either,
    ..COHERE2
};
