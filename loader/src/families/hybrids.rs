//! Families with recurrences beside attention or in its place. Data only, no functions. It must not know the
//! table.

use super::bases::{DEEPSEEK3, LLAMA, V3_ROUTER};
use super::family::{
    ActivationKind, Demanded, ExpertWidth, Family, KdaKind, NormPlaces, RopeLayers, Setting, SharedKind,
    SsmKind, WindowRule,
};
use crate::spec::Part::{Down, Gate, Up};
use crate::spec::Place::{Ffn, Mixer};
use crate::spec::{Activation, OutputGate};
use crate::tensors::roles::{LayerTensor as T, NameRule, Role, Rows, half, layer, top};

/// Granite 4 (the model card of granite-4.0-h). Its position embeddings are mostly none.
pub(super) const GRANITE_HYBRID: Family = Family {
    label: "granitehybrid",
    hf_types: &["granitemoehybrid"],
    gguf_arch: "granitehybrid",
    ssm: SsmKind::BesideAttention,
    folder_names: &[
        half(T::Dense(Gate), "model.layers.{L}.shared_mlp.input_linear.weight", Rows::FirstHalf),
        half(T::Dense(Up), "model.layers.{L}.shared_mlp.input_linear.weight", Rows::SecondHalf),
        layer(T::Dense(Down), "model.layers.{L}.shared_mlp.output_linear.weight"),
    ],
    window: WindowRule::Listed,
    rope_layers: RopeLayers::Stated,
    shared: SharedKind::PlainIfPresent,
    ..LLAMA
};

/// Jamba (arXiv 2403.19887).
pub(super) const JAMBA: Family = Family {
    label: "jamba",
    hf_types: &["jamba"],
    gguf_arch: "jamba",
    ssm: SsmKind::Selective,
    folder_names: &[
        top(Role::FinalNorm, "model.final_layernorm.weight"),
        layer(T::PreNorm(Ffn), "model.layers.{L}.pre_ff_layernorm.weight"),
        layer(T::Dense(Gate), "model.layers.{L}.feed_forward.gate_proj.weight"),
        layer(T::Dense(Up), "model.layers.{L}.feed_forward.up_proj.weight"),
        layer(T::Dense(Down), "model.layers.{L}.feed_forward.down_proj.weight"),
        layer(T::Router, "model.layers.{L}.feed_forward.router.weight"),
        layer(T::Experts(Gate), "model.layers.{L}.feed_forward.experts.{E}.gate_proj.weight"),
        layer(T::Experts(Up), "model.layers.{L}.feed_forward.experts.{E}.up_proj.weight"),
        layer(T::Experts(Down), "model.layers.{L}.feed_forward.experts.{E}.down_proj.weight"),
        layer(T::SsmStepBias, "model.layers.{L}.mamba.dt_proj.bias"),
    ],
    window: WindowRule::Listed,
    rope_layers: RopeLayers::None,
    renormalise: Setting::Fixed(false),
    ..LLAMA
};

/// Kimi Linear (arXiv 2510.26692): latent attention without positions beside delta attention.
pub(super) const KIMI_LINEAR: Family = Family {
    label: "kimi-linear",
    hf_types: &["kimi_linear"],
    folder_names: &[
        layer(T::DeltaStrength, "model.layers.{L}.self_attn.b_proj.weight"),
        layer(T::DeltaDecay, "model.layers.{L}.self_attn.A_log"),
        layer(T::DeltaStepBias, "model.layers.{L}.self_attn.dt_bias"),
        layer(T::DeltaNorm, "model.layers.{L}.self_attn.o_norm.weight"),
        layer(T::SelectBias, "model.layers.{L}.block_sparse_moe.gate.e_score_correction_bias"),
    ],
    gguf_arch: "kimi-linear",
    latent_rope: false,
    kda: KdaKind::LowRank,
    renormalise: Setting::Default(true),
    default_eps: 1e-5,
    ..DEEPSEEK3
};

/// Ling 3, Ring 3.
pub(super) const BAILING_HYBRID: Family = Family {
    label: "bailing-hybrid",
    hf_types: &["bailing_hybrid"],
    folder_names: BAILING_HYBRID_FOLDER,
    gguf_arch: "bailing-hybrid",
    latent_rope: true,
    kda: KdaKind::Whole,
    gate: Some(OutputGate::SigmoidPerHead),
    default_theta: 6_000_000.0,
    default_eps: 1e-6,
    ..KIMI_LINEAR
};

/// Tensors of Ling 3's folders.
const BAILING_HYBRID_FOLDER: &[NameRule] = &[
    layer(T::DeltaStrength, "model.layers.{L}.attention.b_proj.weight"),
    layer(T::DeltaDecay, "model.layers.{L}.attention.A_log"),
    layer(T::DeltaStepBias, "model.layers.{L}.attention.dt_bias"),
    layer(T::DeltaNorm, "model.layers.{L}.attention.o_norm.weight"),
    layer(T::Q, "model.layers.{L}.attention.q_proj.weight"),
    layer(T::K, "model.layers.{L}.attention.k_proj.weight"),
    layer(T::V, "model.layers.{L}.attention.v_proj.weight"),
    layer(T::O, "model.layers.{L}.attention.dense.weight"),
    layer(T::AttentionGate, "model.layers.{L}.attention.g_proj.weight"),
    layer(T::KdaConvQ, "model.layers.{L}.attention.q_conv1d.weight"),
    layer(T::KdaConvK, "model.layers.{L}.attention.k_conv1d.weight"),
    layer(T::KdaConvV, "model.layers.{L}.attention.v_conv1d.weight"),
    layer(T::KdaRateUp, "model.layers.{L}.attention.f_proj.weight"),
    layer(T::KdaGateUp, "model.layers.{L}.attention.g_proj.weight"),
    layer(T::KvDown, "model.layers.{L}.attention.kv_a_proj_with_mqa.weight"),
    layer(T::KvDownNorm, "model.layers.{L}.attention.kv_a_layernorm.weight"),
    layer(T::KvUp, "model.layers.{L}.attention.kv_b_proj.weight"),
    layer(T::QDown, "model.layers.{L}.attention.q_a_proj.weight"),
    layer(T::QDownNorm, "model.layers.{L}.attention.q_a_layernorm.weight"),
    layer(T::QUp, "model.layers.{L}.attention.q_b_proj.weight"),
];

/// The language models of Shazeer et al. (arXiv 1701.06538, appendix C.1): experts between LSTMs, no norms.
/// No weights were released; names and fields are those of `docs/models.md`.
pub(super) const MOE_LSTM: Family = Family {
    label: "moe-lstm",
    hf_types: &["moe_lstm"],
    gguf_arch: "moe-lstm",
    ssm: SsmKind::Lstm,
    folder_names: &[
        layer(T::LstmIn, "model.layers.{L}.lstm.weight_ih"),
        layer(T::LstmBack, "model.layers.{L}.lstm.weight_hh"),
        layer(T::LstmBias, "model.layers.{L}.lstm.bias"),
        layer(T::Router, "model.layers.{L}.mlp.router.weight"),
        layer(T::Experts(Up), "model.layers.{L}.mlp.experts.up_proj.weight"),
        layer(T::Experts(Down), "model.layers.{L}.mlp.experts.down_proj.weight"),
    ],
    norms: NormPlaces::Nowhere,
    activation: ActivationKind::Named(Activation::Relu),
    ungated: true,
    experts_squashed: true,
    ..LLAMA
};

/// Mamba-2 alone (arXiv 2405.21060).
pub(super) const MAMBA2: Family = Family {
    label: "mamba2",
    hf_types: &["mamba2"],
    gguf_arch: "mamba2",
    ssm: SsmKind::Alone,
    folder_names: BACKBONE,
    default_eps: 1e-5,
    default_tied: true,
    ..LLAMA
};

/// Nemotron-H and Nemotron-3 (arXiv 2504.03624, 2512.20848): layers of one operation each.
pub(super) const NEMOTRON_H: Family = Family {
    label: "nemotron-h",
    hf_types: &["nemotron_h"],
    gguf_arch: "nemotron_h_moe",
    gguf_demanded: &[Demanded::BothNorms],
    gguf_names: &[layer(T::PreNorm(Ffn), "blk.{L}.attn_norm.weight")],
    ssm: SsmKind::SingleOps,
    window: WindowRule::Listed,
    rope_layers: RopeLayers::None,
    router: V3_ROUTER,
    renormalise: Setting::Default(true),
    folder_renormalises: true,
    shared: SharedKind::Counted,
    expert_width: ExpertWidth::Own,
    activation: ActivationKind::Named(Activation::ReluSquared),
    ungated: true,
    default_tied: false,
    ..MAMBA2
};

/// Tensors of folders whose layers are called mixers.
const BACKBONE: &[NameRule] = &[
    top(Role::Embed, "backbone.embeddings.weight"),
    top(Role::Embed, "backbone.embedding.weight"),
    top(Role::FinalNorm, "backbone.norm_f.weight"),
    layer(T::PreNorm(Mixer), "backbone.layers.{L}.norm.weight"),
    layer(T::PreNorm(Ffn), "backbone.layers.{L}.norm.weight"),
    layer(T::SsmIn, "backbone.layers.{L}.mixer.in_proj.weight"),
    layer(T::SsmConv, "backbone.layers.{L}.mixer.conv1d.weight"),
    layer(T::SsmConvBias, "backbone.layers.{L}.mixer.conv1d.bias"),
    layer(T::SsmDecay, "backbone.layers.{L}.mixer.A_log"),
    layer(T::SsmStepBias, "backbone.layers.{L}.mixer.dt_bias"),
    layer(T::SsmSkip, "backbone.layers.{L}.mixer.D"),
    layer(T::SsmNorm, "backbone.layers.{L}.mixer.norm.weight"),
    layer(T::SsmOut, "backbone.layers.{L}.mixer.out_proj.weight"),
    layer(T::Q, "backbone.layers.{L}.mixer.q_proj.weight"),
    layer(T::K, "backbone.layers.{L}.mixer.k_proj.weight"),
    layer(T::V, "backbone.layers.{L}.mixer.v_proj.weight"),
    layer(T::O, "backbone.layers.{L}.mixer.o_proj.weight"),
    layer(T::Dense(Up), "backbone.layers.{L}.mixer.up_proj.weight"),
    layer(T::Dense(Down), "backbone.layers.{L}.mixer.down_proj.weight"),
    layer(T::Router, "backbone.layers.{L}.mixer.gate.weight"),
    layer(T::SelectBias, "backbone.layers.{L}.mixer.gate.e_score_correction_bias"),
    layer(T::Experts(Up), "backbone.layers.{L}.mixer.experts.{E}.up_proj.weight"),
    layer(T::Experts(Down), "backbone.layers.{L}.mixer.experts.{E}.down_proj.weight"),
    layer(T::LatentDown, "backbone.layers.{L}.mixer.fc1_latent_proj.weight"),
    layer(T::LatentUp, "backbone.layers.{L}.mixer.fc2_latent_proj.weight"),
    layer(T::Shared(Up), "backbone.layers.{L}.mixer.shared_experts.up_proj.weight"),
    layer(T::Shared(Down), "backbone.layers.{L}.mixer.shared_experts.down_proj.weight"),
];
