//! The families: what an architecture name implies that its configuration does not say. Data only, no
//! functions; a new model of known behaviour is one more entry here.
//!
//! Sources: the `configuration_*.py` and `modeling_*.py` files of Hugging Face transformers 5 for the
//! folders, the GGUF specification and real file headers for the GGUF architecture names.

use crate::spec::Pairing;

/// Properties that all models of a family share.
#[derive(Debug)]
pub struct Family {
    /// Name of the family as `inspect` shows it.
    pub label: &'static str,
    /// `model_type` values in `config.json`.
    pub hf_types: &'static [&'static str],
    /// `general.architecture` in GGUF files; the same name may serve several families of equal meaning.
    pub gguf_arch: &'static str,
    /// Q/K row order of GGUF files (Hugging Face folders are always `Split`).
    pub gguf_pairing: Pairing,
    /// Norms over the residual stream.
    pub norm: NormKind,
    /// Biases on q, k, v.
    pub qkv_bias: Setting,
    /// Bias on the attention output.
    pub out_bias: Setting,
    /// Whether a bias `[vocab]` is added to the logits.
    pub head_bias: Setting,
    /// Norms on queries and keys.
    pub qk_norm: QkNormKind,
    /// Which layers a sliding window covers when one is given.
    pub window: WindowRule,
    /// How a token's experts are chosen. Not used by families without experts.
    pub router: RouterKind,
    /// Whether chosen weights are divided by their sum.
    pub renormalise: Setting,
    /// The shared expert.
    pub shared: SharedKind,
    /// Which field holds the hidden width of a routed expert.
    pub expert_width: ExpertWidth,
    /// Rope base when the configuration has none.
    pub default_theta: f64,
    /// Epsilon of the norms when the configuration has none.
    pub default_eps: f64,
    /// Whether head and embedding are one matrix when a folder's configuration does not say.
    pub default_tied: bool,
}

/// A property that is fixed by the family or read from the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// Always so, whatever the file says.
    Fixed(bool),
    /// The value of the file; this one if the file has none.
    Default(bool),
}

/// The norms over the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// RMS norm (arXiv 1910.07467).
    Rms,
    /// Layer norm with bias (arXiv 1607.06450).
    Layer,
}

/// Kinds of query and key norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNormKind {
    /// Queries and keys are used as projected.
    None,
    /// One RMS norm for each head, weight `[head_dim]`.
    PerHead,
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
}

/// Kinds of routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouterKind {
    /// The k highest of a softmax over all experts.
    SoftmaxTopK,
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
}

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
    qk_norm: QkNormKind::None,
    window: WindowRule::AllLayers,
    router: RouterKind::SoftmaxTopK,
    renormalise: Setting::Fixed(true),
    shared: SharedKind::None,
    expert_width: ExpertWidth::AsDense,
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
