//! The families: what an architecture name implies that its configuration does not say. Data only, no
//! functions; a new model of known behaviour is one more entry here.
//!
//! Sources: the `configuration_*.py` and `modeling_*.py` files of Hugging Face transformers 5 for the
//! folders, the GGUF specification and real file headers for the GGUF architecture names.

use super::family::{
    ActivationKind, ExpertWidth, Family, NormKind, QkNormKind, RouterKind, Setting, SharedKind, WindowRule,
};
use crate::spec::Place::Ffn;
use crate::spec::{ModelSpec, Pairing, Renormalise, Scoring};
use crate::tensors::roles::{LayerTensor as T, NameRule, layer};

/// Llama. The other entries are given as differences from it.
const LLAMA: Family = Family {
    label: "llama",
    hf_types: &["llama"],
    gguf_arch: "llama",
    gguf_pairing: Pairing::Adjacent,
    folder_pairing: Pairing::Split,
    gguf_names: &[],
    folder_names: &[],
    latent: false,
    norm: NormKind::Rms,
    qkv_bias: Setting::Default(false),
    out_bias: Setting::Default(false),
    head_bias: Setting::Fixed(false),
    sinks: false,
    qk_norm: QkNormKind::None,
    has_qk_norm: Setting::Fixed(true),
    window: WindowRule::AllLayers,
    router: RouterKind::SoftmaxTopK,
    router_bias: false,
    expert_bias: false,
    activation: ActivationKind::Named,
    renormalise: Setting::Fixed(true),
    folder_renormalises: false,
    shared: SharedKind::None,
    expert_width: ExpertWidth::AsDense,
    yarn_truncate: true,
    default_theta: 10_000.0,
    default_eps: 1e-6,
    default_tied: false,
};

const QWEN2: Family = Family {
    label: "qwen2",
    hf_types: &["qwen2"],
    gguf_arch: "qwen2",
    gguf_pairing: Pairing::Split,
    qkv_bias: Setting::Fixed(true),
    out_bias: Setting::Fixed(false),
    window: WindowRule::Listed,
    ..LLAMA
};

const QWEN3: Family = Family {
    label: "qwen3",
    hf_types: &["qwen3"],
    gguf_arch: "qwen3",
    qkv_bias: Setting::Default(false),
    out_bias: Setting::Default(false),
    qk_norm: QkNormKind::PerHead,
    ..QWEN2
};

/// A router of DeepSeek-V3's kind (arXiv 2412.19437).
const V3_ROUTER: RouterKind = RouterKind::Scored {
    scoring: Some(Scoring::Sigmoid),
    bias: Setting::Fixed(true),
    divisor: Renormalise::Plus(1e-20),
};

/// GLM-4.5 (arXiv 2508.06471). Others with DeepSeek-V3's experts are given as differences from it.
const GLM4MOE: Family = Family {
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
const NORM_AFTER_ATTENTION: &[NameRule] = &[layer(T::PreNorm(Ffn), "blk.{L}.post_attention_norm.weight")];

/// DeepSeek-V3 and R1 (arXiv 2412.19437), Kimi-K2. GGUF files of all models with this attention have the same
/// architecture; they say by their tensors whether the router has a bias.
const DEEPSEEK3: Family = Family {
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

/// Every family. A GGUF architecture belongs to the first entry that names it.
pub const FAMILIES: &[Family] = &[
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
    // arXiv 2404.14219, 2409.12136.
    Family {
        label: "phimoe",
        hf_types: &["phimoe"],
        gguf_arch: "phimoe",
        gguf_pairing: Pairing::Split,
        norm: NormKind::Layer,
        head_bias: Setting::Default(false),
        router: RouterKind::SparseMixer,
        default_theta: 1_000_000.0,
        default_eps: 1e-5,
        ..LLAMA
    },
    GLM4MOE,
    DEEPSEEK3,
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
        gguf_names: &[],
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
    // The gpt-oss model card (arXiv 2508.10925) and its reference implementation.
    Family {
        label: "gpt-oss",
        hf_types: &[],
        gguf_arch: "gpt-oss",
        gguf_pairing: Pairing::Split,
        qkv_bias: Setting::Default(true),
        out_bias: Setting::Default(true),
        sinks: true,
        window: WindowRule::EverySecond,
        router_bias: true,
        expert_bias: true,
        activation: ActivationKind::ClampedSwiglu,
        yarn_truncate: false,
        default_theta: 150_000.0,
        default_eps: 1e-5,
        gguf_names: NORM_AFTER_ATTENTION,
        ..LLAMA
    },
];

/// The family of a spec.
///
/// # Panics
/// If the spec was not lowered by this crate.
pub(crate) fn family_of(spec: &ModelSpec) -> &'static Family {
    let found = FAMILIES.iter().find(|family| family.label == spec.family);
    found.expect("every lowered spec carries its family's label")
}

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
