//! Qwen3.8-Flash-Next. Data only, no functions. It must not know the table.

use super::bases::QWEN3NEXT;
use super::family::{DeltaKind, Family, NormPlaces, Setting};
use crate::spec::Place::{Ffn, Mixer};
use crate::tensors::roles::{LayerTensor as T, NameRule, Role, layer, stacked, top};

/// Qwen3.8-Flash-Next (its model card): Qwen3.5's layers between gated residual streams, attention to chosen
/// blocks of tokens, numbers of runs of tokens.
pub(super) const QWEN4EXP: Family = Family {
    label: "qwen4exp",
    hf_types: &["qwen4_exp", "qwen4_exp_text"],
    folder_names: FOLDER,
    gguf_arch: "qwen4exp",
    gguf_names: &[
        layer(T::DeltaQkv, "blk.{L}.attn_qkv.weight"),
        layer(T::DeltaGate, "blk.{L}.attn_gate.weight"),
        layer(T::NgramTable, "per_layer_token_embd.weight"),
    ],
    delta: Some(DeltaKind::Apart),
    streams: true,
    blocks: true,
    sigmoid_gate: true,
    norms: NormPlaces::Nowhere,
    renormalise: Setting::Default(true),
    folder_renormalises: true,
    ..QWEN3NEXT
};

const QK: &[T] = &[T::BlockQ, T::BlockK];

const FOLDER: &[NameRule] = &[
    top(Role::HeadStreamNorm, "model.hyper_connection_mixer.hc_norm.weight"),
    top(Role::HeadStreamDown, "model.hyper_connection_mixer.input_mix_weight_down.weight"),
    top(Role::HeadStreamUp, "model.hyper_connection_mixer.input_mix_weight_up.weight"),
    layer(T::StreamNorm(Mixer), "model.layers.{L}.attn_hyper_connection.hc_norm.weight"),
    layer(T::StreamDown(Mixer), "model.layers.{L}.attn_hyper_connection.input_mix_weight_down.weight"),
    layer(T::StreamUp(Mixer), "model.layers.{L}.attn_hyper_connection.input_mix_weight_up.weight"),
    layer(T::StreamInject(Mixer), "model.layers.{L}.attn_hyper_connection.block_inject_weight.weight"),
    layer(T::StreamNorm(Ffn), "model.layers.{L}.mlp_hyper_connection.hc_norm.weight"),
    layer(T::StreamDown(Ffn), "model.layers.{L}.mlp_hyper_connection.input_mix_weight_down.weight"),
    layer(T::StreamUp(Ffn), "model.layers.{L}.mlp_hyper_connection.input_mix_weight_up.weight"),
    layer(T::StreamInject(Ffn), "model.layers.{L}.mlp_hyper_connection.block_inject_weight.weight"),
    stacked(T::BlockQ, "model.layers.{L}.self_attn.indexer.index_qk_proj.weight", QK),
    stacked(T::BlockK, "model.layers.{L}.self_attn.indexer.index_qk_proj.weight", QK),
    layer(T::BlockQNorm, "model.layers.{L}.self_attn.indexer.q_layernorm.weight"),
    layer(T::BlockKNorm, "model.layers.{L}.self_attn.indexer.k_layernorm.weight"),
    layer(T::NgramTable, "model.layers.{L}.ple.ple_embedding.ngram_embedding.shard_{E}.weight"),
    layer(T::NgramFactors, "model.layers.{L}.ple.ple_embedding.layer_multipliers"),
    layer(T::NgramFirst, "model.layers.{L}.ple.ple_embedding.ngram_heads_offsets"),
    layer(T::NgramRows, "model.layers.{L}.ple.ple_embedding.ngram_heads_vocab_sizes"),
    layer(T::NgramKey, "model.layers.{L}.ple.key_proj.weight"),
    layer(T::NgramValue, "model.layers.{L}.ple.value_proj.weight"),
    layer(T::NgramKeyNorm, "model.layers.{L}.ple.norm_key.weight"),
    layer(T::NgramQueryNorm, "model.layers.{L}.ple.norm_query.weight"),
    layer(T::NgramConvNorm, "model.layers.{L}.ple.norm_conv.weight"),
    layer(T::NgramConv, "model.layers.{L}.ple.conv1d.weight"),
];
