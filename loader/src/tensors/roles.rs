//! Names of tensors in each container. Two tables, one for GGUF and one for Hugging Face
//! folders, map roles to names. Conversion reads them backwards to name its output.
//!
//! It must not know families. A name that one family uses in another sense is in that family's own table.

use std::fmt;

use crate::spec::{Part, Place};
pub use crate::tensors::role::{AttentionTensors, LayerTensor, Role};

/// The rows of the named tensor (of each expert, in a bank) that belong to the role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// All of them.
    All,
    /// The upper half of a fused gate|up matrix.
    FirstHalf,
    /// The lower half.
    SecondHalf,
    /// The even rows of a fused gate|up matrix whose rows alternate.
    Even,
    /// The odd ones.
    Odd,
    /// The rows of one of several roles of the same layer whose matrices are stacked in this order.
    Stacked(&'static [LayerTensor]),
}

/// One name of a role. `{L}` is the layer, `{E}` the expert (one tensor per expert instead of a bank).
#[derive(Debug, Clone, Copy)]
pub struct NameRule {
    /// The role, with layer 0 standing for any layer.
    pub role: Role,
    /// The name pattern.
    pub pattern: &'static str,
    /// Which rows of that tensor.
    pub rows: Rows,
    /// Whether rows are the tensor's columns.
    pub lie: Lie,
    /// Which layers have it.
    pub stack: Stack,
}

/// The layers that a name is for. `{L}` is the number of a layer in its stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    /// All of a model that has one stack of layers.
    Only,
    /// Those of the encoder.
    Encoder,
    /// Those of the decoder, in models that have an encoder.
    Decoder,
}

/// How the matrices of a bank lie in their tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Row after row: `[experts, rows, cols]`.
    AsRows,
    /// Transposed: `[experts, cols, rows]`.
    AsColumns,
    /// One or the other, as the shape of the bank's first matrix that is not square says.
    ByShape,
}

/// The rule of a tensor of no layer.
pub(crate) const fn top(role: Role, pattern: &'static str) -> NameRule {
    NameRule { role, pattern, rows: Rows::All, lie: Lie::AsRows, stack: Stack::Only }
}

/// The rule of a tensor of a layer that is whole.
pub(crate) const fn layer(tensor: LayerTensor, pattern: &'static str) -> NameRule {
    NameRule { role: Role::Layer(0, tensor), pattern, rows: Rows::All, lie: Lie::AsRows, stack: Stack::Only }
}

/// The rule of a tensor of a layer of one of two stacks.
pub(crate) const fn of_stack(stack: Stack, tensor: LayerTensor, pattern: &'static str) -> NameRule {
    NameRule { stack, ..layer(tensor, pattern) }
}

/// The rule of a half of a fused matrix.
pub(crate) const fn half(tensor: LayerTensor, pattern: &'static str, rows: Rows) -> NameRule {
    NameRule { rows, ..layer(tensor, pattern) }
}

/// The rule of rows of experts that lie in some way.
pub(crate) const fn lying(part: Part, pattern: &'static str, rows: Rows, lie: Lie) -> NameRule {
    NameRule { rows, lie, ..layer(LayerTensor::Experts(part), pattern) }
}

/// Query, key and value rows of a fused projection.
pub(crate) const QKV: &[LayerTensor] = &[T::Q, T::K, T::V];
/// The same for its biases.
const QKV_BIAS: &[LayerTensor] = &[T::QBias, T::KBias, T::VBias];

/// The rule of a tensor that holds several roles.
pub(crate) const fn stacked(
    tensor: LayerTensor,
    pattern: &'static str,
    all: &'static [LayerTensor],
) -> NameRule {
    NameRule { rows: Rows::Stacked(all), ..layer(tensor, pattern) }
}

use LayerTensor as T;
use Part::{Down, Gate, Up};
use Place::{Ffn, Mixer};

/// Names in GGUF files. Files are written with the first rule of a role.
pub static GGUF_NAMES: &[NameRule] = &[
    top(Role::Embed, "token_embd.weight"),
    top(Role::Patches, "v.patch_embd.weight"),
    top(Role::PatchBias, "v.patch_embd.bias"),
    top(Role::FirstRow, "v.class_embd"),
    top(Role::RopeDivisors, "rope_freqs.weight"),
    top(Role::RopeShort, "rope_factors_short.weight"),
    top(Role::RopeLong, "rope_factors_long.weight"),
    top(Role::LayerInputTable, "per_layer_token_embd.weight"),
    top(Role::LayerInputProjection, "per_layer_model_proj.weight"),
    top(Role::LayerInputNorm, "per_layer_proj_norm.weight"),
    top(Role::HeadStreamNorm, "output_hc_norm.weight"),
    top(Role::HeadStreamDown, "output_hc_down.weight"),
    top(Role::HeadStreamUp, "output_hc_up.weight"),
    top(Role::HeadStreamMix, "output_hc_fn.weight"),
    top(Role::HeadStreamBase, "output_hc_base.weight"),
    top(Role::HeadStreamScale, "output_hc_scale.weight"),
    top(Role::FinalNorm, "output_norm.weight"),
    top(Role::FinalNormBias, "output_norm.bias"),
    top(Role::Head, "output.weight"),
    top(Role::HeadBias, "output.bias"),
    layer(T::PreNorm(Mixer), "blk.{L}.attn_norm.weight"),
    layer(T::PreNormBias(Mixer), "blk.{L}.attn_norm.bias"),
    layer(T::Q, "blk.{L}.attn_q.weight"),
    layer(T::QBias, "blk.{L}.attn_q.bias"),
    layer(T::K, "blk.{L}.attn_k.weight"),
    layer(T::KBias, "blk.{L}.attn_k.bias"),
    layer(T::V, "blk.{L}.attn_v.weight"),
    layer(T::VBias, "blk.{L}.attn_v.bias"),
    layer(T::O, "blk.{L}.attn_output.weight"),
    layer(T::OBias, "blk.{L}.attn_output.bias"),
    top(Role::EncoderNorm, "enc.output_norm.weight"),
    top(Role::EncoderNormBias, "enc.output_norm.bias"),
    layer(T::PreNorm(Place::Cross), "blk.{L}.cross_attn_norm.weight"),
    layer(T::PreNormBias(Place::Cross), "blk.{L}.cross_attn_norm.bias"),
    layer(T::CrossQ, "blk.{L}.cross_attn_q.weight"),
    layer(T::CrossK, "blk.{L}.cross_attn_k.weight"),
    layer(T::CrossV, "blk.{L}.cross_attn_v.weight"),
    layer(T::CrossO, "blk.{L}.cross_attn_o.weight"),
    layer(T::CrossQBias, "blk.{L}.cross_attn_q.bias"),
    layer(T::CrossKBias, "blk.{L}.cross_attn_k.bias"),
    layer(T::CrossVBias, "blk.{L}.cross_attn_v.bias"),
    layer(T::CrossOBias, "blk.{L}.cross_attn_o.bias"),
    layer(T::RelativeBias, "blk.{L}.attn_rel_b.weight"),
    layer(T::Sinks, "blk.{L}.attn_sinks.weight"),
    stacked(T::Q, "blk.{L}.attn_qkv.weight", QKV),
    stacked(T::K, "blk.{L}.attn_qkv.weight", QKV),
    stacked(T::V, "blk.{L}.attn_qkv.weight", QKV),
    stacked(T::QBias, "blk.{L}.attn_qkv.bias", QKV_BIAS),
    stacked(T::KBias, "blk.{L}.attn_qkv.bias", QKV_BIAS),
    stacked(T::VBias, "blk.{L}.attn_qkv.bias", QKV_BIAS),
    layer(T::AttentionGate, "blk.{L}.attn_gate.weight"),
    layer(T::DeltaQkv, "blk.{L}.linear_attn_qkv.weight"),
    layer(T::DeltaGate, "blk.{L}.linear_attn_gate.weight"),
    layer(T::DeltaStrength, "blk.{L}.ssm_beta.weight"),
    layer(T::DeltaStep, "blk.{L}.ssm_alpha.weight"),
    layer(T::DeltaRates, "blk.{L}.ssm_ba.weight"),
    layer(T::DeltaByKeyHead, "blk.{L}.linear_attn_qkvz.weight"),
    layer(T::DeltaConv, "blk.{L}.ssm_conv1d.weight"),
    layer(T::DeltaDecay, "blk.{L}.ssm_a"),
    layer(T::DeltaStepBias, "blk.{L}.ssm_dt.bias"),
    layer(T::DeltaNorm, "blk.{L}.ssm_norm.weight"),
    layer(T::DeltaOut, "blk.{L}.ssm_out.weight"),
    layer(T::KdaConvQ, "blk.{L}.ssm_conv1d_q.weight"),
    layer(T::KdaConvK, "blk.{L}.ssm_conv1d_k.weight"),
    layer(T::KdaConvV, "blk.{L}.ssm_conv1d_v.weight"),
    layer(T::KdaRateDown, "blk.{L}.ssm_f_a.weight"),
    layer(T::KdaRateUp, "blk.{L}.ssm_f_b.weight"),
    layer(T::KdaGateDown, "blk.{L}.ssm_g_a.weight"),
    layer(T::KdaGateUp, "blk.{L}.ssm_g_b.weight"),
    layer(T::SsmIn, "blk.{L}.ssm_in.weight"),
    layer(T::SsmConv, "blk.{L}.ssm_conv1d.weight"),
    layer(T::SsmConvBias, "blk.{L}.ssm_conv1d.bias"),
    layer(T::SsmDecay, "blk.{L}.ssm_a"),
    layer(T::SsmStepBias, "blk.{L}.ssm_dt.bias"),
    layer(T::SsmSkip, "blk.{L}.ssm_d"),
    layer(T::SsmNorm, "blk.{L}.ssm_norm.weight"),
    layer(T::SsmOut, "blk.{L}.ssm_out.weight"),
    layer(T::SsmX, "blk.{L}.ssm_x.weight"),
    layer(T::SsmStep, "blk.{L}.ssm_dt.weight"),
    layer(T::SsmStepNorm, "blk.{L}.ssm_dt_norm.weight"),
    layer(T::SsmBNorm, "blk.{L}.ssm_b_norm.weight"),
    layer(T::SsmCNorm, "blk.{L}.ssm_c_norm.weight"),
    layer(T::LstmIn, "blk.{L}.lstm_in.weight"),
    layer(T::LstmBack, "blk.{L}.lstm_back.weight"),
    layer(T::LstmBias, "blk.{L}.lstm_in.bias"),
    layer(T::ConvIn, "blk.{L}.shortconv.in_proj.weight"),
    layer(T::ConvInBias, "blk.{L}.shortconv.in_proj.bias"),
    layer(T::ConvTaps, "blk.{L}.shortconv.conv.weight"),
    layer(T::ConvBias, "blk.{L}.shortconv.conv.bias"),
    layer(T::ConvOut, "blk.{L}.shortconv.out_proj.weight"),
    layer(T::ConvOutBias, "blk.{L}.shortconv.out_proj.bias"),
    layer(T::QDown, "blk.{L}.attn_q_a.weight"),
    layer(T::QDownNorm, "blk.{L}.attn_q_a_norm.weight"),
    layer(T::QUp, "blk.{L}.attn_q_b.weight"),
    layer(T::KvDown, "blk.{L}.attn_kv_a_mqa.weight"),
    layer(T::KvDownNorm, "blk.{L}.attn_kv_a_norm.weight"),
    layer(T::KvUp, "blk.{L}.attn_kv_b.weight"),
    layer(T::OutDown, "blk.{L}.attn_output_a.weight"),
    layer(T::CompressValue, "blk.{L}.attn_compressor_kv.weight"),
    layer(T::CompressGate, "blk.{L}.attn_compressor_gate.weight"),
    layer(T::CompressPlace, "blk.{L}.attn_compressor_ape.weight"),
    layer(T::CompressNorm, "blk.{L}.attn_compressor_norm.weight"),
    layer(T::IndexCompressValue, "blk.{L}.indexer_compressor_kv.weight"),
    layer(T::IndexCompressGate, "blk.{L}.indexer_compressor_gate.weight"),
    layer(T::IndexCompressPlace, "blk.{L}.indexer_compressor_ape.weight"),
    layer(T::IndexCompressNorm, "blk.{L}.indexer_compressor_norm.weight"),
    layer(T::TokenExperts, "blk.{L}.ffn_gate_tid2eid.weight"),
    layer(T::StreamMix(Mixer), "blk.{L}.hc_attn_fn.weight"),
    layer(T::StreamBase(Mixer), "blk.{L}.hc_attn_base.weight"),
    layer(T::StreamScale(Mixer), "blk.{L}.hc_attn_scale.weight"),
    layer(T::StreamMix(Ffn), "blk.{L}.hc_ffn_fn.weight"),
    layer(T::StreamBase(Ffn), "blk.{L}.hc_ffn_base.weight"),
    layer(T::StreamScale(Ffn), "blk.{L}.hc_ffn_scale.weight"),
    layer(T::StreamNorm(Mixer), "blk.{L}.hc_attn_norm.weight"),
    layer(T::StreamDown(Mixer), "blk.{L}.hc_attn_down.weight"),
    layer(T::StreamUp(Mixer), "blk.{L}.hc_attn_up.weight"),
    layer(T::StreamInject(Mixer), "blk.{L}.hc_attn_inject.weight"),
    layer(T::StreamNorm(Ffn), "blk.{L}.hc_ffn_norm.weight"),
    layer(T::StreamDown(Ffn), "blk.{L}.hc_ffn_down.weight"),
    layer(T::StreamUp(Ffn), "blk.{L}.hc_ffn_up.weight"),
    layer(T::StreamInject(Ffn), "blk.{L}.hc_ffn_inject.weight"),
    layer(T::BlockQ, "blk.{L}.indexer.q_proj.weight"),
    layer(T::BlockK, "blk.{L}.indexer.k_proj.weight"),
    layer(T::BlockQNorm, "blk.{L}.indexer.q_norm.weight"),
    layer(T::BlockKNorm, "blk.{L}.indexer.k_norm.weight"),
    layer(T::NgramTable, "blk.{L}.ple_table.{E}.weight"),
    layer(T::NgramFactors, "blk.{L}.ple_factors.weight"),
    layer(T::NgramFirst, "blk.{L}.ple_offsets.weight"),
    layer(T::NgramRows, "blk.{L}.ple_rows.weight"),
    layer(T::NgramKey, "blk.{L}.ple_key.weight"),
    layer(T::NgramValue, "blk.{L}.ple_value.weight"),
    layer(T::NgramKeyNorm, "blk.{L}.ple_norm_key.weight"),
    layer(T::NgramQueryNorm, "blk.{L}.ple_norm_query.weight"),
    layer(T::NgramConvNorm, "blk.{L}.ple_norm_conv.weight"),
    layer(T::NgramConv, "blk.{L}.ple_conv1d.weight"),
    layer(T::IndexQ, "blk.{L}.indexer.attn_q_b.weight"),
    layer(T::IndexK, "blk.{L}.indexer.attn_k.weight"),
    layer(T::IndexKNorm, "blk.{L}.indexer.k_norm.weight"),
    layer(T::IndexKNormBias, "blk.{L}.indexer.k_norm.bias"),
    layer(T::IndexWeights, "blk.{L}.indexer.proj.weight"),
    layer(T::KUp, "blk.{L}.attn_k_b.weight"),
    layer(T::VUp, "blk.{L}.attn_v_b.weight"),
    layer(T::QNorm, "blk.{L}.attn_q_norm.weight"),
    layer(T::KNorm, "blk.{L}.attn_k_norm.weight"),
    layer(T::PreNorm(Ffn), "blk.{L}.ffn_norm.weight"),
    layer(T::PreNormBias(Ffn), "blk.{L}.ffn_norm.bias"),
    layer(T::PreNorm(Place::Experts), "blk.{L}.ffn_norm_exps.weight"),
    layer(T::PostNorm(Mixer), "blk.{L}.post_attention_norm.weight"),
    layer(T::PostNormBias(Mixer), "blk.{L}.post_attention_norm.bias"),
    layer(T::PostNorm(Ffn), "blk.{L}.post_ffw_norm.weight"),
    layer(T::PostNormBias(Ffn), "blk.{L}.post_ffw_norm.bias"),
    layer(T::PreNorm(Place::Dense), "blk.{L}.ffn_norm.weight"),
    layer(T::PostNorm(Place::Dense), "blk.{L}.post_ffw_norm_1.weight"),
    layer(T::PostNorm(Place::Experts), "blk.{L}.post_ffw_norm_2.weight"),
    layer(T::SumNorm, "blk.{L}.post_ffw_norm.weight"),
    layer(T::LayerScale, "blk.{L}.layer_output_scale.weight"),
    layer(T::PostNorm(Place::LayerInput), "blk.{L}.post_norm.weight"),
    layer(T::LayerInputGate, "blk.{L}.inp_gate.weight"),
    layer(T::LayerInputUp, "blk.{L}.proj.weight"),
    layer(T::Dense(Gate), "blk.{L}.ffn_gate.weight"),
    layer(T::Dense(Up), "blk.{L}.ffn_up.weight"),
    layer(T::Dense(Down), "blk.{L}.ffn_down.weight"),
    layer(T::DenseBias(Gate), "blk.{L}.ffn_gate.bias"),
    layer(T::DenseBias(Up), "blk.{L}.ffn_up.bias"),
    layer(T::DenseBias(Down), "blk.{L}.ffn_down.bias"),
    layer(T::Router, "blk.{L}.ffn_gate_inp.weight"),
    layer(T::RouterBias, "blk.{L}.ffn_gate_inp.bias"),
    layer(T::RouterNorm, "blk.{L}.ffn_gate_inp.scale"),
    layer(T::ExpertScales, "blk.{L}.ffn_down_exps.scale"),
    layer(T::SelectBias, "blk.{L}.exp_probs_b.bias"),
    layer(T::LatentDown, "blk.{L}.ffn_latent_down.weight"),
    layer(T::LatentUp, "blk.{L}.ffn_latent_up.weight"),
    layer(T::Experts(Gate), "blk.{L}.ffn_gate_exps.weight"),
    layer(T::Experts(Up), "blk.{L}.ffn_up_exps.weight"),
    layer(T::Experts(Down), "blk.{L}.ffn_down_exps.weight"),
    layer(T::ExpertsBias(Gate), "blk.{L}.ffn_gate_exps.bias"),
    layer(T::ExpertsBias(Up), "blk.{L}.ffn_up_exps.bias"),
    layer(T::ExpertsBias(Down), "blk.{L}.ffn_down_exps.bias"),
    half(T::Experts(Gate), "blk.{L}.ffn_gate_up_exps.weight", Rows::FirstHalf),
    half(T::Experts(Up), "blk.{L}.ffn_gate_up_exps.weight", Rows::SecondHalf),
    layer(T::Experts(Gate), "blk.{L}.ffn_gate.{E}.weight"),
    layer(T::Experts(Up), "blk.{L}.ffn_up.{E}.weight"),
    layer(T::Experts(Down), "blk.{L}.ffn_down.{E}.weight"),
    layer(T::AdjugateExperts(Gate), "blk.{L}.ffn_gate_chexps.weight"),
    layer(T::AdjugateExperts(Up), "blk.{L}.ffn_up_chexps.weight"),
    layer(T::AdjugateExperts(Down), "blk.{L}.ffn_down_chexps.weight"),
    layer(T::HeadExperts(Up), "blk.{L}.attn_q_exps.weight"),
    layer(T::HeadExperts(Down), "blk.{L}.attn_output_exps.weight"),
    layer(T::HeadRouter, "blk.{L}.attn_gate_inp.weight"),
    layer(T::ExpertsOutBias, "blk.{L}.ffn_output_exps.bias"),
    layer(T::Shared(Gate), "blk.{L}.ffn_gate_shexp.weight"),
    layer(T::Shared(Up), "blk.{L}.ffn_up_shexp.weight"),
    layer(T::Shared(Down), "blk.{L}.ffn_down_shexp.weight"),
    layer(T::SharedBias(Gate), "blk.{L}.ffn_gate_shexp.bias"),
    layer(T::SharedBias(Up), "blk.{L}.ffn_up_shexp.bias"),
    layer(T::SharedBias(Down), "blk.{L}.ffn_down_shexp.bias"),
    layer(T::SharedInput, "blk.{L}.ffn_gate_inp_shexp.weight"),
];

/// Names in Hugging Face folders.
pub static HF_NAMES: &[NameRule] = &[
    top(Role::Embed, "model.embed_tokens.weight"),
    top(Role::Embed, "model.word_embeddings.weight"),
    top(Role::LayerInputTable, "model.embed_tokens_per_layer.weight"),
    top(Role::LayerInputProjection, "model.per_layer_model_projection.weight"),
    top(Role::LayerInputNorm, "model.per_layer_projection_norm.weight"),
    top(Role::FinalNorm, "model.norm.weight"),
    top(Role::FinalNormBias, "model.norm.bias"),
    top(Role::Head, "lm_head.weight"),
    top(Role::HeadBias, "lm_head.bias"),
    layer(T::PreNorm(Mixer), "model.layers.{L}.input_layernorm.weight"),
    layer(T::PreNormBias(Mixer), "model.layers.{L}.input_layernorm.bias"),
    layer(T::Q, "model.layers.{L}.self_attn.q_proj.weight"),
    layer(T::QBias, "model.layers.{L}.self_attn.q_proj.bias"),
    layer(T::K, "model.layers.{L}.self_attn.k_proj.weight"),
    layer(T::KBias, "model.layers.{L}.self_attn.k_proj.bias"),
    layer(T::V, "model.layers.{L}.self_attn.v_proj.weight"),
    layer(T::VBias, "model.layers.{L}.self_attn.v_proj.bias"),
    layer(T::O, "model.layers.{L}.self_attn.o_proj.weight"),
    layer(T::OBias, "model.layers.{L}.self_attn.o_proj.bias"),
    layer(T::AttentionGate, "model.layers.{L}.self_attn.gate_proj.weight"),
    layer(T::AttentionGate, "model.layers.{L}.self_attn.g_proj.weight"),
    layer(T::Sinks, "model.layers.{L}.self_attn.sinks"),
    layer(T::DeltaQkv, "model.layers.{L}.linear_attn.in_proj_qkv.weight"),
    layer(T::DeltaGate, "model.layers.{L}.linear_attn.in_proj_z.weight"),
    layer(T::DeltaStrength, "model.layers.{L}.linear_attn.in_proj_b.weight"),
    layer(T::DeltaStep, "model.layers.{L}.linear_attn.in_proj_a.weight"),
    layer(T::DeltaRates, "model.layers.{L}.linear_attn.in_proj_ba.weight"),
    layer(T::DeltaByKeyHead, "model.layers.{L}.linear_attn.in_proj_qkvz.weight"),
    layer(T::DeltaConv, "model.layers.{L}.linear_attn.conv1d.weight"),
    layer(T::DeltaDecay, "model.layers.{L}.linear_attn.A_log"),
    layer(T::DeltaStepBias, "model.layers.{L}.linear_attn.dt_bias"),
    layer(T::DeltaNorm, "model.layers.{L}.linear_attn.norm.weight"),
    layer(T::DeltaOut, "model.layers.{L}.linear_attn.out_proj.weight"),
    layer(T::KdaConvQ, "model.layers.{L}.self_attn.q_conv1d.weight"),
    layer(T::KdaConvK, "model.layers.{L}.self_attn.k_conv1d.weight"),
    layer(T::KdaConvV, "model.layers.{L}.self_attn.v_conv1d.weight"),
    layer(T::KdaRateDown, "model.layers.{L}.self_attn.f_a_proj.weight"),
    layer(T::KdaRateUp, "model.layers.{L}.self_attn.f_b_proj.weight"),
    layer(T::KdaGateDown, "model.layers.{L}.self_attn.g_a_proj.weight"),
    layer(T::KdaGateUp, "model.layers.{L}.self_attn.g_b_proj.weight"),
    layer(T::SsmIn, "model.layers.{L}.mamba.in_proj.weight"),
    layer(T::SsmConv, "model.layers.{L}.mamba.conv1d.weight"),
    layer(T::SsmConvBias, "model.layers.{L}.mamba.conv1d.bias"),
    layer(T::SsmDecay, "model.layers.{L}.mamba.A_log"),
    layer(T::SsmStepBias, "model.layers.{L}.mamba.dt_bias"),
    layer(T::SsmSkip, "model.layers.{L}.mamba.D"),
    layer(T::SsmNorm, "model.layers.{L}.mamba.norm.weight"),
    layer(T::SsmOut, "model.layers.{L}.mamba.out_proj.weight"),
    layer(T::SsmX, "model.layers.{L}.mamba.x_proj.weight"),
    layer(T::SsmStep, "model.layers.{L}.mamba.dt_proj.weight"),
    layer(T::SsmStepNorm, "model.layers.{L}.mamba.dt_layernorm.weight"),
    layer(T::SsmBNorm, "model.layers.{L}.mamba.b_layernorm.weight"),
    layer(T::SsmCNorm, "model.layers.{L}.mamba.c_layernorm.weight"),
    layer(T::ConvIn, "model.layers.{L}.conv.in_proj.weight"),
    layer(T::ConvInBias, "model.layers.{L}.conv.in_proj.bias"),
    layer(T::ConvTaps, "model.layers.{L}.conv.conv.weight"),
    layer(T::ConvBias, "model.layers.{L}.conv.conv.bias"),
    layer(T::ConvOut, "model.layers.{L}.conv.out_proj.weight"),
    layer(T::ConvOutBias, "model.layers.{L}.conv.out_proj.bias"),
    layer(T::QDown, "model.layers.{L}.self_attn.q_a_proj.weight"),
    layer(T::QDownNorm, "model.layers.{L}.self_attn.q_a_layernorm.weight"),
    layer(T::QUp, "model.layers.{L}.self_attn.q_b_proj.weight"),
    layer(T::KvDown, "model.layers.{L}.self_attn.kv_a_proj_with_mqa.weight"),
    layer(T::KvDownNorm, "model.layers.{L}.self_attn.kv_a_layernorm.weight"),
    layer(T::KvUp, "model.layers.{L}.self_attn.kv_b_proj.weight"),
    layer(T::IndexQ, "model.layers.{L}.self_attn.indexer.wq_b.weight"),
    layer(T::IndexK, "model.layers.{L}.self_attn.indexer.wk.weight"),
    layer(T::IndexKNorm, "model.layers.{L}.self_attn.indexer.k_norm.weight"),
    layer(T::IndexKNormBias, "model.layers.{L}.self_attn.indexer.k_norm.bias"),
    layer(T::IndexWeights, "model.layers.{L}.self_attn.indexer.weights_proj.weight"),
    layer(T::QNorm, "model.layers.{L}.self_attn.q_norm.weight"),
    layer(T::KNorm, "model.layers.{L}.self_attn.k_norm.weight"),
    layer(T::QNorm, "model.layers.{L}.self_attn.query_layernorm.weight"),
    layer(T::KNorm, "model.layers.{L}.self_attn.key_layernorm.weight"),
    stacked(T::Q, "model.layers.{L}.attention.query_key_value.weight", QKV),
    stacked(T::K, "model.layers.{L}.attention.query_key_value.weight", QKV),
    stacked(T::V, "model.layers.{L}.attention.query_key_value.weight", QKV),
    stacked(T::QBias, "model.layers.{L}.attention.query_key_value.bias", QKV_BIAS),
    stacked(T::KBias, "model.layers.{L}.attention.query_key_value.bias", QKV_BIAS),
    stacked(T::VBias, "model.layers.{L}.attention.query_key_value.bias", QKV_BIAS),
    layer(T::O, "model.layers.{L}.attention.dense.weight"),
    layer(T::OBias, "model.layers.{L}.attention.dense.bias"),
    layer(T::QNorm, "model.layers.{L}.attention.query_layernorm.weight"),
    layer(T::KNorm, "model.layers.{L}.attention.key_layernorm.weight"),
    layer(T::PreNorm(Ffn), "model.layers.{L}.post_attention_layernorm.weight"),
    layer(T::PreNormBias(Ffn), "model.layers.{L}.post_attention_layernorm.bias"),
    layer(T::Dense(Gate), "model.layers.{L}.mlp.gate_proj.weight"),
    layer(T::Dense(Up), "model.layers.{L}.mlp.up_proj.weight"),
    layer(T::Dense(Down), "model.layers.{L}.mlp.down_proj.weight"),
    layer(T::DenseBias(Gate), "model.layers.{L}.mlp.gate_proj.bias"),
    layer(T::DenseBias(Up), "model.layers.{L}.mlp.up_proj.bias"),
    layer(T::DenseBias(Down), "model.layers.{L}.mlp.down_proj.bias"),
    layer(T::Router, "model.layers.{L}.mlp.gate.weight"),
    layer(T::Router, "model.layers.{L}.mlp.router.weight"),
    layer(T::RouterBias, "model.layers.{L}.mlp.router.bias"),
    layer(T::Router, "model.layers.{L}.block_sparse_moe.gate.weight"),
    layer(T::Router, "model.layers.{L}.block_sparse_moe.router.layer.weight"),
    layer(T::Router, "model.layers.{L}.mlp.gate.wg.weight"),
    layer(T::Router, "model.layers.{L}.mlp.router.gate.weight"),
    layer(T::RouterNorm, "model.layers.{L}.router.scale"),
    layer(T::ExpertScales, "model.layers.{L}.router.per_expert_scale"),
    layer(T::LayerScale, "model.layers.{L}.layer_scalar"),
    layer(T::PostNorm(Place::LayerInput), "model.layers.{L}.post_per_layer_input_norm.weight"),
    layer(T::LayerInputGate, "model.layers.{L}.per_layer_input_gate.weight"),
    layer(T::LayerInputUp, "model.layers.{L}.per_layer_projection.weight"),
    layer(T::SelectBias, "model.layers.{L}.mlp.gate.e_score_correction_bias"),
    layer(T::SelectBias, "model.layers.{L}.mlp.moe_statics.e_score_correction_bias"),
    layer(T::SelectBias, "model.layers.{L}.block_sparse_moe.e_score_correction_bias"),
    layer(T::SelectBias, "model.layers.{L}.mlp.gate.expert_bias"),
    layer(T::Experts(Gate), "model.layers.{L}.mlp.experts.{E}.gate_proj.weight"),
    layer(T::Experts(Up), "model.layers.{L}.mlp.experts.{E}.up_proj.weight"),
    layer(T::Experts(Down), "model.layers.{L}.mlp.experts.{E}.down_proj.weight"),
    layer(T::Experts(Gate), "model.layers.{L}.block_sparse_moe.experts.{E}.w1.weight"),
    layer(T::Experts(Up), "model.layers.{L}.block_sparse_moe.experts.{E}.w3.weight"),
    layer(T::Experts(Down), "model.layers.{L}.block_sparse_moe.experts.{E}.w2.weight"),
    lying(Gate, "model.layers.{L}.mlp.experts.gate_up_proj", Rows::FirstHalf, Lie::ByShape),
    lying(Up, "model.layers.{L}.mlp.experts.gate_up_proj", Rows::SecondHalf, Lie::ByShape),
    lying(Down, "model.layers.{L}.mlp.experts.down_proj", Rows::All, Lie::ByShape),
    half(T::Experts(Gate), "model.layers.{L}.block_sparse_moe.input_linear.weight", Rows::FirstHalf),
    half(T::Experts(Up), "model.layers.{L}.block_sparse_moe.input_linear.weight", Rows::SecondHalf),
    layer(T::Experts(Down), "model.layers.{L}.block_sparse_moe.output_linear.weight"),
    layer(T::Shared(Gate), "model.layers.{L}.mlp.shared_expert.gate_proj.weight"),
    layer(T::Shared(Up), "model.layers.{L}.mlp.shared_expert.up_proj.weight"),
    layer(T::Shared(Down), "model.layers.{L}.mlp.shared_expert.down_proj.weight"),
    layer(T::Shared(Gate), "model.layers.{L}.mlp.shared_experts.gate_proj.weight"),
    layer(T::Shared(Up), "model.layers.{L}.mlp.shared_experts.up_proj.weight"),
    layer(T::Shared(Down), "model.layers.{L}.mlp.shared_experts.down_proj.weight"),
    layer(T::Shared(Gate), "model.layers.{L}.mlp.shared_mlp.gate_proj.weight"),
    layer(T::Shared(Up), "model.layers.{L}.mlp.shared_mlp.up_proj.weight"),
    layer(T::Shared(Down), "model.layers.{L}.mlp.shared_mlp.down_proj.weight"),
    layer(T::Shared(Gate), "model.layers.{L}.block_sparse_moe.shared_experts.gate_proj.weight"),
    layer(T::Shared(Up), "model.layers.{L}.block_sparse_moe.shared_experts.up_proj.weight"),
    layer(T::Shared(Down), "model.layers.{L}.block_sparse_moe.shared_experts.down_proj.weight"),
    half(T::Shared(Gate), "model.layers.{L}.shared_mlp.input_linear.weight", Rows::FirstHalf),
    half(T::Shared(Up), "model.layers.{L}.shared_mlp.input_linear.weight", Rows::SecondHalf),
    layer(T::Shared(Down), "model.layers.{L}.shared_mlp.output_linear.weight"),
    layer(T::SharedInput, "model.layers.{L}.mlp.shared_expert_gate.weight"),
];

/// The names of a container as a family uses them.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// Names that mean something else in this family, or that it alone has. A role that is spelled here has
    /// no other name.
    pub own: &'static [NameRule],
    /// The names of the container: [`GGUF_NAMES`] or [`HF_NAMES`].
    pub common: &'static [NameRule],
    /// The layers of the model's encoder, where it has one.
    pub encoder: Option<usize>,
}

impl Names {
    /// The names of `role`, the usual one first.
    pub fn of(self, role: Role) -> impl Iterator<Item = &'static NameRule> {
        let stack = self.stack(role);
        let spells = move |rule: &NameRule| rule.spells(role) && rule.stack == stack;
        let own = self.own.iter().any(spells);
        let rules = if own { self.own } else { self.common };
        rules.iter().filter(move |rule| spells(rule))
    }

    /// The stack that a tensor belongs to.
    fn stack(self, role: Role) -> Stack {
        match (role, self.encoder) {
            (Role::Layer(layer, _), Some(encoder)) if layer < encoder => Stack::Encoder,
            (Role::Layer(..), Some(_)) => Stack::Decoder,
            _ => Stack::Only,
        }
    }

    /// The name of the tensor of a role and expert by one of [`Self::of`].
    pub fn by(self, rule: &NameRule, role: Role, expert: usize) -> String {
        match (role, self.encoder) {
            (Role::Layer(layer, tensor), Some(encoder)) if layer >= encoder => {
                rule.name(Role::Layer(layer - encoder, tensor), expert)
            }
            _ => rule.name(role, expert),
        }
    }

    /// The name that files are written with.
    ///
    /// # Panics
    /// If the container has no name for the role.
    pub fn name(self, role: Role) -> String {
        self.by(self.of(role).next().expect("every role has a name"), role, 0)
    }
}

/// A container's names without those of a family.
impl From<&'static [NameRule]> for Names {
    fn from(common: &'static [NameRule]) -> Self {
        Self { own: &[], common, encoder: None }
    }
}

/// Suffixes of tensors in real files that no computation needs.
pub const IGNORED_SUFFIXES: &[&str] = &[
    ".rotary_emb.inv_freq",
    ".input_scale",
    "_proj_input_scale",
    ".input_global_scale",
    ".k_scale",
    ".v_scale",
    ".attn_rot_embd",
    ".attention.masked_bias",
    ".attention.bias",
    ".embed_positions.weights",
];

impl NameRule {
    /// Whether this rule spells `role` (whatever its layer).
    pub fn spells(&self, role: Role) -> bool {
        match (self.role, role) {
            (Role::Layer(_, a), Role::Layer(_, b)) => a == b,
            (a, b) => a == b,
        }
    }

    /// Whether this rule has one tensor for each expert.
    pub fn per_expert(&self) -> bool {
        self.pattern.contains("{E}")
    }

    /// The tensor's name for a role and expert.
    pub fn name(&self, role: Role, expert: usize) -> String {
        let name = self.pattern.replace("{E}", &expert.to_string());
        match role {
            Role::Layer(layer, _) => name.replace("{L}", &layer.to_string()),
            _ => name,
        }
    }

    /// The role and the expert of a name under this rule: the inverse of [`Self::name`].
    fn read(&self, name: &str) -> Option<(Role, Option<usize>)> {
        let (mut layer, mut expert) = (0, None);
        let (mut rest, mut pattern) = (name, self.pattern);
        while let Some((literal, (hole, after))) =
            pattern.split_once('{').and_then(|(literal, hole)| Some((literal, hole.split_once('}')?)))
        {
            rest = rest.strip_prefix(literal)?;
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (number, others) = rest.split_at(end);
            let number = number.parse().ok()?;
            if hole == "L" {
                layer = number;
            } else {
                expert = Some(number);
            }
            (rest, pattern) = (others, after);
        }
        let role = match self.role {
            Role::Layer(_, tensor) => Role::Layer(layer, tensor),
            top => top,
        };
        // Numbers in names have no leading zeros.
        (self.name(role, expert.unwrap_or(0)) == name).then_some((role, expert))
    }
}

/// The roles of a tensor name in a GGUF file, with the expert if the tensor belongs to one: two roles for a
/// fused matrix, none for an unknown name.
pub fn gguf_roles(name: &str) -> Vec<(Role, Option<usize>)> {
    GGUF_NAMES.iter().filter_map(|rule| rule.read(name)).collect()
}

/// The name that files are written with, but for families with names of their own: see [`Names::name`].
pub fn gguf_name(role: Role) -> String {
    Names::from(GGUF_NAMES).name(role)
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&gguf_name(*self))
    }
}

#[cfg(test)]
mod tests;
