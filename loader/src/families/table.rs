//! The families: what an architecture name implies that its configuration does not say. Data only, no
//! functions; a new model of known behaviour is one more entry here.
//!
//! Sources: the `configuration_*.py` and `modeling_*.py` files of Hugging Face transformers 5 for the
//! folders, the GGUF specification and real file headers for the GGUF architecture names.

use super::family::{
    ActivationKind, ExpertWidth, Family, NormKind, QkNormKind, RouterKind, Setting, SharedKind, WindowRule,
};
use crate::spec::{ModelSpec, Pairing, Place};
use crate::tensors::roles::{LayerTensor, NameRule, layer};

/// Llama. The other entries are given as differences from it.
const LLAMA: Family = Family {
    label: "llama",
    hf_types: &["llama"],
    gguf_arch: "llama",
    gguf_pairing: Pairing::Adjacent,
    norm: NormKind::Rms,
    qkv_bias: Setting::Default(false),
    out_bias: Setting::Default(false),
    head_bias: Setting::Fixed(false),
    sinks: false,
    qk_norm: QkNormKind::None,
    window: WindowRule::AllLayers,
    router: RouterKind::SoftmaxTopK,
    router_bias: false,
    expert_bias: false,
    activation: ActivationKind::Named,
    renormalise: Setting::Fixed(true),
    shared: SharedKind::None,
    expert_width: ExpertWidth::AsDense,
    yarn_truncate: true,
    default_theta: 10_000.0,
    default_eps: 1e-6,
    default_tied: false,
    gguf_names: &[],
    folder_names: &[],
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
        gguf_names: FFN_NORM_AFTER_ATTENTION,
        ..LLAMA
    },
];

/// The norm before the feed-forward block has the name of what comes before it.
const FFN_NORM_AFTER_ATTENTION: &[NameRule] = &[
    layer(LayerTensor::PreNorm(Place::Ffn), "blk.{L}.post_attention_norm.weight"),
    layer(LayerTensor::PreNormBias(Place::Ffn), "blk.{L}.post_attention_norm.bias"),
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
                assert_eq!((a.norm, a.qk_norm, a.router), (b.norm, b.qk_norm, b.router));
                assert_eq!((a.qkv_bias, a.out_bias, a.head_bias), (b.qkv_bias, b.out_bias, b.head_bias));
                assert_eq!(
                    (a.renormalise, a.expert_width, a.shared),
                    (b.renormalise, b.expert_width, b.shared)
                );
            }
        }
    }
}
