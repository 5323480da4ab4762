//! DeepSeek-V4. Data only, no functions. It must not know the table.

use super::bases::LLAMA;
use super::family::{ActivationKind, ExpertWidth, Family, RouterKind, Setting, SharedKind};
use crate::spec::Part::{Down, Gate, Up};
use crate::spec::Place::{Ffn, Mixer};
use crate::spec::{Pairing, Renormalise, Scoring};
use crate::tensors::roles::{LayerTensor as T, NameRule, Role, layer, top};

/// DeepSeek-V4 (its technical report): several residual streams, attention to compressed tokens, experts that
/// the first layers list by token.
pub(super) const DEEPSEEK4: Family = Family {
    label: "deepseek4",
    hf_types: &["deepseek_v4"],
    folder_names: FOLDER,
    folder_pairing: Pairing::Adjacent,
    gguf_arch: "deepseek4",
    gguf_names: GGUF,
    compressed: true,
    streams: true,
    router: RouterKind::Scored {
        scoring: Some(Scoring::SqrtSoftplus),
        bias: Setting::Fixed(true),
        divisor: Renormalise::Plus(1e-20),
    },
    renormalise: Setting::Default(true),
    folder_renormalises: true,
    activation: ActivationKind::ClampedSilu,
    bounded: true,
    shared: SharedKind::Counted,
    expert_width: ExpertWidth::Own,
    ..LLAMA
};

/// Names of the release, with `model.` before them as transformers saves them.
const FOLDER: &[NameRule] = &[
    top(Role::Embed, "model.embed.weight"),
    top(Role::Embed, "model.embed_tokens.weight"),
    top(Role::Head, "head.weight"),
    top(Role::Head, "lm_head.weight"),
    top(Role::FinalNorm, "model.norm.weight"),
    top(Role::HeadStreamMix, "model.hc_head_fn"),
    top(Role::HeadStreamMix, "model.hc_head.hc_fn"),
    top(Role::HeadStreamBase, "model.hc_head_base"),
    top(Role::HeadStreamBase, "model.hc_head.hc_base"),
    top(Role::HeadStreamScale, "model.hc_head_scale"),
    top(Role::HeadStreamScale, "model.hc_head.hc_scale"),
    layer(T::StreamMix(Mixer), "model.layers.{L}.hc_attn_fn"),
    layer(T::StreamBase(Mixer), "model.layers.{L}.hc_attn_base"),
    layer(T::StreamScale(Mixer), "model.layers.{L}.hc_attn_scale"),
    layer(T::StreamMix(Ffn), "model.layers.{L}.hc_ffn_fn"),
    layer(T::StreamBase(Ffn), "model.layers.{L}.hc_ffn_base"),
    layer(T::StreamScale(Ffn), "model.layers.{L}.hc_ffn_scale"),
    layer(T::PreNorm(Mixer), "model.layers.{L}.attn_norm.weight"),
    layer(T::PreNorm(Ffn), "model.layers.{L}.ffn_norm.weight"),
    layer(T::QDown, "model.layers.{L}.attn.wq_a.weight"),
    layer(T::QDownNorm, "model.layers.{L}.attn.q_norm.weight"),
    layer(T::QUp, "model.layers.{L}.attn.wq_b.weight"),
    layer(T::KvDown, "model.layers.{L}.attn.wkv.weight"),
    layer(T::KvDownNorm, "model.layers.{L}.attn.kv_norm.weight"),
    layer(T::KvDownNorm, "model.layers.{L}.attn.norm.weight"),
    layer(T::Sinks, "model.layers.{L}.attn.attn_sink"),
    layer(T::OutDown, "model.layers.{L}.attn.wo_a.weight"),
    layer(T::O, "model.layers.{L}.attn.wo_b.weight"),
    layer(T::CompressValue, "model.layers.{L}.attn.compressor.wkv.weight"),
    layer(T::CompressGate, "model.layers.{L}.attn.compressor.wgate.weight"),
    layer(T::CompressPlace, "model.layers.{L}.attn.compressor.ape"),
    layer(T::CompressNorm, "model.layers.{L}.attn.compressor.norm.weight"),
    layer(T::IndexQ, "model.layers.{L}.attn.indexer.wq_b.weight"),
    layer(T::IndexWeights, "model.layers.{L}.attn.indexer.weights_proj.weight"),
    layer(T::IndexCompressValue, "model.layers.{L}.attn.indexer.compressor.wkv.weight"),
    layer(T::IndexCompressGate, "model.layers.{L}.attn.indexer.compressor.wgate.weight"),
    layer(T::IndexCompressPlace, "model.layers.{L}.attn.indexer.compressor.ape"),
    layer(T::IndexCompressNorm, "model.layers.{L}.attn.indexer.compressor.norm.weight"),
    layer(T::Router, "model.layers.{L}.ffn.gate.weight"),
    layer(T::SelectBias, "model.layers.{L}.ffn.gate.bias"),
    layer(T::TokenExperts, "model.layers.{L}.ffn.gate.tid2eid"),
    layer(T::Experts(Gate), "model.layers.{L}.ffn.experts.{E}.w1.weight"),
    layer(T::Experts(Up), "model.layers.{L}.ffn.experts.{E}.w3.weight"),
    layer(T::Experts(Down), "model.layers.{L}.ffn.experts.{E}.w2.weight"),
    layer(T::Shared(Gate), "model.layers.{L}.ffn.shared_experts.w1.weight"),
    layer(T::Shared(Up), "model.layers.{L}.ffn.shared_experts.w3.weight"),
    layer(T::Shared(Down), "model.layers.{L}.ffn.shared_experts.w2.weight"),
];

/// Tensors whose usual names mean something else.
const GGUF: &[NameRule] =
    &[layer(T::KvDown, "blk.{L}.attn_kv.weight"), layer(T::O, "blk.{L}.attn_output_b.weight")];
