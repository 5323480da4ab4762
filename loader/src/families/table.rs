//! The families: what an architecture name implies that its configuration does not say. Data only, no
//! functions; a new model of known behaviour is one more entry here.
//!
//! Sources: the `configuration_*.py` and `modeling_*.py` files of Hugging Face transformers 5 for the
//! folders, the GGUF specification and real file headers for the GGUF architecture names.

use super::bases::{
    COHERE2, DEEPSEEK3, FUSED_BOTH, FUSED_QKV, FUSED_UP, GEMMA2, GEMMA4, GLM4MOE, LFM2, LLAMA,
    NORM_AFTER_ATTENTION, OLMO2, QWEN2, QWEN3, QWEN3NEXT,
};
use super::deepseek4::DEEPSEEK4;
use super::family::{
    ActivationKind, BesideKind, DeltaKind, Demanded, ExpertWidth, Family, FolderSizes, LocalRope, NormKind,
    NormPlaces, QkNormKind, RopeLayers, RouterInputKind, RouterKind, Setting, SharedKind, SinkLayers,
    WindowRule,
};
use super::hybrids::{BAILING_HYBRID, GRANITE_HYBRID, JAMBA, KIMI_LINEAR, MAMBA2, MOE_LSTM, NEMOTRON_H};
use super::pairs::{ADAMVMOE, M2M100, NLLB_MOE, SWITCH, T5, UMT5, VMOE};
use super::qwen4exp::QWEN4EXP;
use super::recent::{
    COHERE2MOE, DEEPSEEK32, DSMOE, GLAM, GLM_DSA, GROVEMOE, HYV3, JETMOE, LLAMA4, MIMO2, PLM, STEP35,
};
use crate::spec::Part::{Down, Gate, Up};
use crate::spec::Place::{Ffn, Mixer};
use crate::spec::{Activation, OutputGate, Pairing, Renormalise, Scoring};
use crate::tensors::roles::{
    LayerTensor as T, Lie, NameRule, QKV, Role, Rows, half, layer, lying, stacked, top,
};

/// DBRX: the norm before the experts has the name of its place, and there is one projection.
const DBRX_GGUF: &[NameRule] = &[
    layer(T::PreNorm(Ffn), "blk.{L}.attn_output_norm.weight"),
    stacked(T::Q, "blk.{L}.attn_qkv.weight", QKV),
    stacked(T::K, "blk.{L}.attn_qkv.weight", QKV),
    stacked(T::V, "blk.{L}.attn_qkv.weight", QKV),
];

/// gpt-oss: gate and up rows of experts alternate, in blocks of four-bit numbers or in transposed matrices.
const GPT_OSS_FOLDER: &[NameRule] = &[
    lying(Gate, "model.layers.{L}.mlp.experts.gate_up_proj_blocks", Rows::Even, Lie::AsRows),
    lying(Up, "model.layers.{L}.mlp.experts.gate_up_proj_blocks", Rows::Odd, Lie::AsRows),
    lying(Down, "model.layers.{L}.mlp.experts.down_proj_blocks", Rows::All, Lie::AsRows),
    lying(Gate, "model.layers.{L}.mlp.experts.gate_up_proj", Rows::Even, Lie::AsColumns),
    lying(Up, "model.layers.{L}.mlp.experts.gate_up_proj", Rows::Odd, Lie::AsColumns),
    lying(Down, "model.layers.{L}.mlp.experts.down_proj", Rows::All, Lie::AsColumns),
    half(T::ExpertsBias(Gate), "model.layers.{L}.mlp.experts.gate_up_proj_bias", Rows::Even),
    half(T::ExpertsBias(Up), "model.layers.{L}.mlp.experts.gate_up_proj_bias", Rows::Odd),
    layer(T::ExpertsBias(Down), "model.layers.{L}.mlp.experts.down_proj_bias"),
];

/// DBRX: matrices of all experts one below the other; the last of the three is stored transposed.
const DBRX_FOLDER: &[NameRule] = &[
    top(Role::Embed, "transformer.wte.weight"),
    top(Role::FinalNorm, "transformer.norm_f.weight"),
    layer(T::PreNorm(Mixer), "transformer.blocks.{L}.norm_attn_norm.norm_1.weight"),
    layer(T::PreNorm(Ffn), "transformer.blocks.{L}.norm_attn_norm.norm_2.weight"),
    stacked(T::Q, "transformer.blocks.{L}.norm_attn_norm.attn.Wqkv.weight", QKV),
    stacked(T::K, "transformer.blocks.{L}.norm_attn_norm.attn.Wqkv.weight", QKV),
    stacked(T::V, "transformer.blocks.{L}.norm_attn_norm.attn.Wqkv.weight", QKV),
    layer(T::O, "transformer.blocks.{L}.norm_attn_norm.attn.out_proj.weight"),
    layer(T::Router, "transformer.blocks.{L}.ffn.router.layer.weight"),
    lying(Gate, "transformer.blocks.{L}.ffn.experts.mlp.w1", Rows::All, Lie::AsRows),
    lying(Up, "transformer.blocks.{L}.ffn.experts.mlp.v1", Rows::All, Lie::AsRows),
    lying(Down, "transformer.blocks.{L}.ffn.experts.mlp.w2", Rows::All, Lie::AsColumns),
];

/// Phi-3: fused projections.
const PHI3_FOLDER: &[NameRule] = &[
    stacked(T::Q, "model.layers.{L}.self_attn.qkv_proj.weight", QKV),
    stacked(T::K, "model.layers.{L}.self_attn.qkv_proj.weight", QKV),
    stacked(T::V, "model.layers.{L}.self_attn.qkv_proj.weight", QKV),
    half(T::Dense(Gate), "model.layers.{L}.mlp.gate_up_proj.weight", Rows::FirstHalf),
    half(T::Dense(Up), "model.layers.{L}.mlp.gate_up_proj.weight", Rows::SecondHalf),
];

/// Every family. A GGUF architecture belongs to the first entry that names it.
pub static FAMILIES: &[Family] = &[
    LLAMA,
    Family { label: "mistral", hf_types: &["mistral"], ..LLAMA },
    // arXiv 2401.04088. In GGUF files a Mixtral is a llama with an expert count.
    Family {
        label: "mixtral",
        hf_types: &["mixtral"],
        default_theta: 1_000_000.0,
        default_eps: 1e-5,
        ..LLAMA
    },
    QWEN2,
    QWEN3,
    Family {
        label: "qwen2moe",
        hf_types: &["qwen2_moe"],
        gguf_arch: "qwen2moe",
        qkv_bias: Setting::Default(true),
        renormalise: Setting::Default(false),
        shared: SharedKind::Gated,
        expert_width: ExpertWidth::Own,
        ..QWEN2
    },
    Family {
        label: "qwen3moe",
        hf_types: &["qwen3_moe"],
        gguf_arch: "qwen3moe",
        // Folders state it (`config/hf`). GGUF files of this architecture do not; their models renormalise.
        renormalise: Setting::Default(true),
        expert_width: ExpertWidth::Own,
        ..QWEN3
    },
    // arXiv 2409.02060.
    Family {
        label: "olmoe",
        hf_types: &["olmoe"],
        gguf_arch: "olmoe",
        gguf_pairing: Pairing::Split,
        qk_norm: QkNormKind::Full,
        window: WindowRule::Listed,
        renormalise: Setting::Default(false),
        default_eps: 1e-5,
        ..LLAMA
    },
    Family {
        label: "granitemoe",
        hf_types: &["granitemoe", "granitemoeshared"],
        gguf_arch: "granitemoe",
        window: WindowRule::Listed,
        shared: SharedKind::PlainIfPresent,
        ..LLAMA
    },
    HYV3,
    MIMO2,
    STEP35,
    LLAMA4,
    PLM,
    GROVEMOE,
    JETMOE,
    DSMOE,
    GLAM,
    JAMBA,
    KIMI_LINEAR,
    BAILING_HYBRID,
    GRANITE_HYBRID,
    MAMBA2,
    MOE_LSTM,
    NEMOTRON_H,
    // Without experts.
    Family { label: "nemotron-h-dense", hf_types: &[], gguf_arch: "nemotron_h", ..NEMOTRON_H },
    // arXiv 2404.14219, 2409.12136.
    Family {
        label: "phimoe",
        hf_types: &["phimoe"],
        gguf_arch: "phimoe",
        gguf_demanded: &[Demanded::BothNorms],
        gguf_pairing: Pairing::Split,
        norm: NormKind::Layer,
        head_bias: Setting::Default(false),
        router: RouterKind::SparseMixer,
        default_theta: 1_000_000.0,
        default_eps: 1e-5,
        ..LLAMA
    },
    GLM4MOE,
    LFM2,
    Family {
        label: "lfm2moe",
        hf_types: &["lfm2_moe"],
        gguf_arch: "lfm2moe",
        router: RouterKind::Scored {
            scoring: Some(Scoring::Sigmoid),
            bias: Setting::Default(false),
            divisor: Renormalise::Plus(1e-6),
        },
        renormalise: Setting::Default(true),
        expert_width: ExpertWidth::Own,
        ..LFM2
    },
    QWEN3NEXT,
    // Qwen3.5 and 3.6. Folders may nest the language model.
    Family {
        label: "qwen35moe",
        hf_types: &["qwen3_5_moe", "qwen3_5_moe_text"],
        gguf_arch: "qwen35moe",
        delta: Some(DeltaKind::Apart),
        renormalise: Setting::Fixed(true),
        ..QWEN3NEXT
    },
    Family {
        label: "qwen35",
        hf_types: &["qwen3_5", "qwen3_5_text"],
        gguf_arch: "qwen35",
        delta: Some(DeltaKind::Apart),
        shared: SharedKind::None,
        ..QWEN3NEXT
    },
    QWEN4EXP,
    DEEPSEEK3,
    DEEPSEEK4,
    DEEPSEEK32,
    GLM_DSA,
    // arXiv 2405.04434.
    Family {
        label: "deepseek2",
        hf_types: &["deepseek_v2"],
        router: RouterKind::Scored {
            scoring: Some(Scoring::Softmax),
            bias: Setting::Default(false),
            divisor: Renormalise::Plus(1e-20),
        },
        folder_renormalises: false,
        ..DEEPSEEK3
    },
    // Its GGUF files do not say how queries grow with their position.
    Family {
        label: "mistral4",
        hf_types: &["mistral4"],
        gguf_arch: "mistral4",
        router: RouterKind::Scored {
            scoring: Some(Scoring::Softmax),
            bias: Setting::Default(false),
            divisor: Renormalise::Plus(1e-20),
        },
        ..DEEPSEEK3
    },
    // GLM-4.7-Flash.
    Family {
        label: "glm4moelite",
        hf_types: &["glm4_moe_lite"],
        default_theta: 1_000_000.0,
        default_eps: 1e-5,
        ..DEEPSEEK3
    },
    // arXiv 2506.05767.
    Family {
        label: "dots1",
        hf_types: &["dots1"],
        gguf_arch: "dots1",
        gguf_names: &[],
        out_bias: Setting::Default(false),
        has_qk_norm: Setting::Fixed(true),
        folder_renormalises: false,
        default_eps: 1e-6,
        ..GLM4MOE
    },
    Family {
        label: "ernie4.5moe",
        hf_types: &["ernie4_5_moe"],
        gguf_arch: "ernie4_5-moe",
        gguf_demanded: &[Demanded::SparseStep],
        gguf_pairing: Pairing::Adjacent,
        folder_pairing: Pairing::Adjacent,
        out_bias: Setting::Default(false),
        router: RouterKind::Scored {
            scoring: Some(Scoring::Softmax),
            bias: Setting::Fixed(true),
            divisor: Renormalise::AtLeast(1e-12),
        },
        renormalise: Setting::Fixed(true),
        shared: SharedKind::Counted,
        expert_width: ExpertWidth::Own,
        default_theta: 500_000.0,
        default_eps: 1e-5,
        default_tied: true,
        ..LLAMA
    },
    // Ling, arXiv 2503.05139.
    Family {
        label: "bailingmoe",
        hf_types: &["bailing_moe"],
        gguf_arch: "bailingmoe",
        out_bias: Setting::Default(false),
        renormalise: Setting::Default(false),
        folder_renormalises: true,
        shared: SharedKind::Counted,
        expert_width: ExpertWidth::Own,
        default_theta: 600_000.0,
        ..LLAMA
    },
    // Ling 2.0, arXiv 2510.22115.
    Family {
        label: "bailingmoe2",
        hf_types: &["bailing_moe_v2"],
        gguf_arch: "bailingmoe2",
        gguf_names: FUSED_QKV,
        out_bias: Setting::Default(false),
        has_qk_norm: Setting::Fixed(true),
        router: RouterKind::Scored {
            scoring: Some(Scoring::Sigmoid),
            bias: Setting::Default(true),
            divisor: Renormalise::Plus(1e-20),
        },
        shared: SharedKind::Several,
        default_theta: 600_000.0,
        default_eps: 1e-6,
        ..GLM4MOE
    },
    // arXiv 2401.06066. Its weights are never divided by their sum, whatever a file says.
    Family {
        label: "deepseekmoe",
        hf_types: &["deepseek"],
        gguf_arch: "deepseek",
        renormalise: Setting::Fixed(false),
        shared: SharedKind::Counted,
        expert_width: ExpertWidth::Own,
        ..LLAMA
    },
    Family {
        label: "hunyuanmoe",
        hf_types: &["hunyuan_v1_moe"],
        gguf_arch: "hunyuan-moe",
        gguf_pairing: Pairing::Split,
        qk_norm: QkNormKind::PerHeadAfterRope,
        has_qk_norm: Setting::Default(true),
        shared: SharedKind::Counted,
        expert_width: ExpertWidth::Own,
        default_eps: 1e-5,
        ..LLAMA
    },
    // arXiv 2506.13585, and the model card of MiniMax-M2.
    Family {
        label: "minimax-m2",
        hf_types: &["minimax_m2"],
        gguf_arch: "minimax-m2",
        gguf_names: &[],
        qk_norm: QkNormKind::Full,
        has_qk_norm: Setting::Fixed(true),
        renormalise: Setting::Fixed(true),
        shared: SharedKind::None,
        expert_width: ExpertWidth::AsDense,
        default_theta: 5_000_000.0,
        default_eps: 1e-6,
        ..GLM4MOE
    },
    OLMO2,
    // arXiv 2507.07024. No other program writes GGUF files of it.
    Family {
        label: "flexolmo",
        hf_types: &["flex_olmo"],
        gguf_arch: "flexolmo",
        window: WindowRule::Listed,
        local_rope: LocalRope::Same,
        renormalise: Setting::Default(false),
        default_theta: 500_000.0,
        ..OLMO2
    },
    // arXiv 2507.11407.
    Family {
        label: "exaone4",
        hf_types: &["exaone4"],
        gguf_arch: "exaone4",
        qk_norm: QkNormKind::PerHead,
        rope_layers: RopeLayers::Windowed,
        local_rope: LocalRope::Same,
        ..OLMO2
    },
    Family {
        label: "exaone-moe",
        hf_types: &["exaone_moe"],
        folder_names: &[layer(T::SelectBias, "model.layers.{L}.mlp.e_score_correction_bias")],
        gguf_arch: "exaone-moe",
        gguf_names: &[],
        out_bias: Setting::Default(false),
        has_qk_norm: Setting::Fixed(true),
        window: WindowRule::Periodic { period: 4, first_is_full: false },
        rope_layers: RopeLayers::Windowed,
        ..GLM4MOE
    },
    Family {
        label: "smollm3",
        hf_types: &["smollm3"],
        gguf_arch: "smollm3",
        window: WindowRule::Listed,
        rope_layers: RopeLayers::AllButEvery(4),
        default_theta: 2_000_000.0,
        default_tied: true,
        ..LLAMA
    },
    Family {
        label: "seed-oss",
        hf_types: &["seed_oss"],
        gguf_arch: "seed_oss",
        gguf_pairing: Pairing::Split,
        gguf_names: NORM_AFTER_ATTENTION,
        qkv_bias: Setting::Default(true),
        ..LLAMA
    },
    Family {
        label: "glm4",
        hf_types: &["glm4"],
        gguf_arch: "glm4",
        folder_pairing: Pairing::Adjacent,
        gguf_names: FUSED_UP,
        folder_names: &[
            layer(T::PostNorm(Mixer), "model.layers.{L}.post_self_attn_layernorm.weight"),
            layer(T::PostNorm(Ffn), "model.layers.{L}.post_mlp_layernorm.weight"),
            half(T::Dense(Gate), "model.layers.{L}.mlp.gate_up_proj.weight", Rows::FirstHalf),
            half(T::Dense(Up), "model.layers.{L}.mlp.gate_up_proj.weight", Rows::SecondHalf),
        ],
        norms: NormPlaces::Both,
        out_bias: Setting::Fixed(false),
        default_eps: 1.5625e-7,
        ..LLAMA
    },
    COHERE2,
    COHERE2MOE,
    Family {
        label: "mellum",
        hf_types: &["mellum"],
        gguf_arch: "mellum",
        window: WindowRule::Periodic { period: 4, first_is_full: false },
        local_rope: LocalRope::Plain { theta: None },
        renormalise: Setting::Default(true),
        folder_renormalises: true,
        expert_width: ExpertWidth::Own,
        ..QWEN3
    },
    // The text of models for text and images, whose ropes give a text plain positions.
    Family {
        label: "qwen3vlmoe",
        hf_types: &["qwen3_vl_moe", "qwen3_vl_moe_text"],
        gguf_arch: "qwen3vlmoe",
        renormalise: Setting::Default(true),
        folder_renormalises: true,
        expert_width: ExpertWidth::Own,
        ..QWEN3
    },
    Family {
        label: "ministral3",
        hf_types: &["ministral3", "mistral3"],
        gguf_arch: "mistral3",
        default_theta: 1_000_000.0,
        default_eps: 1e-5,
        ..LLAMA
    },
    // arXiv 2404.14219.
    Family {
        label: "phi3",
        hf_types: &["phi3"],
        folder_names: PHI3_FOLDER,
        gguf_arch: "phi3",
        gguf_pairing: Pairing::Split,
        gguf_names: FUSED_BOTH,
        default_eps: 1e-5,
        ..LLAMA
    },
    GEMMA2,
    // arXiv 2503.19786.
    Family {
        label: "gemma3",
        hf_types: &["gemma3_text", "gemma3"],
        gguf_arch: "gemma3",
        qk_norm: QkNormKind::PerHead,
        window: WindowRule::Periodic { period: 6, first_is_full: false },
        local_rope: LocalRope::Plain { theta: Some(10_000.0) },
        gguf_share_layers: Some(62),
        // Of the smallest model for text and images, whose folder has none of them.
        folder_sizes: Some(FolderSizes {
            vocab: 262_208,
            heads: 8,
            kv_heads: 4,
            head_dim: 256,
            max_context: 131_072,
        }),
        default_theta: 1_000_000.0,
        ..GEMMA2
    },
    GEMMA4,
    Family {
        label: "afmoe",
        hf_types: &["afmoe"],
        gguf_arch: "afmoe",
        gguf_names: &[],
        folder_names: &[
            layer(T::PostNorm(Mixer), "model.layers.{L}.post_attention_layernorm.weight"),
            layer(T::PreNorm(Ffn), "model.layers.{L}.pre_mlp_layernorm.weight"),
            layer(T::PostNorm(Ffn), "model.layers.{L}.post_mlp_layernorm.weight"),
            layer(T::SelectBias, "model.layers.{L}.mlp.expert_bias"),
        ],
        norms: NormPlaces::Both,
        has_qk_norm: Setting::Fixed(true),
        window: WindowRule::Periodic { period: 4, first_is_full: false },
        rope_layers: RopeLayers::Windowed,
        gate: Some(OutputGate::SigmoidPerValue),
        embed_root: Setting::Default(true),
        ..GLM4MOE
    },
    // arXiv 2507.20984. Its routers are read before attention.
    Family {
        label: "smallthinker",
        hf_types: &[],
        gguf_arch: "smallthinker",
        gguf_pairing: Pairing::Split,
        window: WindowRule::Periodic { period: 4, first_is_full: true },
        rope_layers: RopeLayers::Windowed,
        router: RouterKind::Scored {
            scoring: Some(Scoring::Sigmoid),
            bias: Setting::Fixed(false),
            divisor: Renormalise::AtLeast(6.1e-5),
        },
        router_input: RouterInputKind::Outset,
        activation: ActivationKind::Named(Activation::Relu),
        expert_width: ExpertWidth::Own,
        default_theta: 1_500_000.0,
        ..LLAMA
    },
    // The Snowflake Arctic model card.
    Family {
        label: "arctic",
        hf_types: &[],
        gguf_arch: "arctic",
        beside: BesideKind::Outset,
        default_eps: 1e-5,
        ..LLAMA
    },
    // The DBRX model card.
    Family {
        label: "dbrx",
        hf_types: &["dbrx"],
        folder_names: DBRX_FOLDER,
        gguf_arch: "dbrx",
        gguf_pairing: Pairing::Split,
        gguf_names: DBRX_GGUF,
        norm: NormKind::LayerUnbiased,
        default_theta: 500_000.0,
        default_eps: 1e-5,
        ..LLAMA
    },
    Family {
        label: "laguna",
        hf_types: &["laguna"],
        folder_names: &[layer(T::SelectBias, "model.layers.{L}.mlp.experts.e_score_correction_bias")],
        gguf_arch: "laguna",
        gguf_names: &[],
        has_qk_norm: Setting::Fixed(true),
        window: WindowRule::Periodic { period: 4, first_is_full: true },
        local_rope: LocalRope::Plain { theta: Some(10_000.0) },
        gate: Some(OutputGate::SoftplusPerHead),
        shared: SharedKind::PlainIfPresent,
        default_eps: 1e-6,
        ..GLM4MOE
    },
    // The gpt-oss model card (arXiv 2508.10925) and its reference implementation.
    Family {
        label: "gpt-oss",
        hf_types: &["gpt_oss"],
        folder_names: GPT_OSS_FOLDER,
        gguf_arch: "gpt-oss",
        gguf_pairing: Pairing::Split,
        qkv_bias: Setting::Default(true),
        out_bias: Setting::Default(true),
        sinks: SinkLayers::All,
        window: WindowRule::Periodic { period: 2, first_is_full: false },
        router_bias: true,
        expert_bias: true,
        activation: ActivationKind::ClampedSwiglu,
        yarn_truncate: false,
        default_theta: 150_000.0,
        default_eps: 1e-5,
        gguf_names: NORM_AFTER_ATTENTION,
        ..LLAMA
    },
    T5,
    UMT5,
    SWITCH,
    M2M100,
    NLLB_MOE,
    VMOE,
    ADAMVMOE,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unambiguous() {
        let mut types: Vec<_> = FAMILIES.iter().flat_map(|f| f.hf_types).collect();
        types.sort_unstable();
        let count = types.len();
        types.dedup();
        assert_eq!(count, types.len(), "a model_type belongs to one family");
    }

    #[test]
    fn families_that_share_a_gguf_name_agree_on_what_gguf_files_mean() {
        for a in FAMILIES {
            for b in FAMILIES.iter().filter(|b| b.gguf_arch == a.gguf_arch) {
                assert_eq!(a.gguf_pairing, b.gguf_pairing);
                assert_eq!((a.norm, a.qk_norm, a.latent), (b.norm, b.qk_norm, b.latent));
                // GGUF files with a scored router say what folders leave to the family.
                assert_eq!(std::mem::discriminant(&a.router), std::mem::discriminant(&b.router));
                assert_eq!((a.qkv_bias, a.out_bias, a.head_bias), (b.qkv_bias, b.out_bias, b.head_bias));
                assert_eq!(
                    (a.renormalise, a.expert_width, a.shared),
                    (b.renormalise, b.expert_width, b.shared)
                );
            }
        }
    }
}
