//! Families that have an encoder: T5, Switch-Transformer, M2M100, NLLB-MoE, V-MoE. Data only. It must not
//! know the table.

use super::bases::LLAMA;
use super::family::{ActivationKind, Family, NormKind, PairKind, PairPositions, Setting, SparseLayers};
use crate::spec::Part::{Down, Gate, Up};
use crate::spec::Place::{Cross, Ffn, Mixer};
use crate::spec::{Activation, Pairing, Purpose};
use crate::tensors::joined::joined;
use crate::tensors::roles::Stack::{Decoder, Encoder};
use crate::tensors::roles::{LayerTensor as T, NameRule, Role, of_stack, top};

/// T5 (arXiv 1910.10683), and its version 1.1 with a gate.
pub(super) const T5: Family = Family {
    label: "t5",
    hf_types: &["t5", "mt5"],
    gguf_arch: "t5",
    gguf_pairing: Pairing::Split,
    gguf_names: GGUF,
    folder_names: T5_FOLDER,
    pair: Some(PAIR_OF_T5),
    default_tied: true,
    ..LLAMA
};

/// umT5 (arXiv 2304.09151): every layer has its own numbers for distances.
pub(super) const UMT5: Family = Family {
    label: "umt5",
    hf_types: &["umt5"],
    pair: Some(PairKind { positions: PairPositions::RelativeByLayer, ..PAIR_OF_T5 }),
    ..T5
};

/// Switch-Transformer (arXiv 2101.03961): T5 with one expert for each token in some layers. No other program
/// writes GGUF files of it.
pub(super) const SWITCH: Family = Family {
    label: "switch",
    hf_types: &["switch_transformers"],
    gguf_arch: "switch-transformer",
    pair: Some(PairKind { purpose: Purpose::Gaps, ..PAIR_OF_T5 }),
    renormalise: Setting::Fixed(false),
    ..T5
};

/// M2M100 (arXiv 2010.11125), and the dense NLLB models.
pub(super) const M2M100: Family = Family {
    label: "m2m100",
    hf_types: &["m2m_100"],
    gguf_arch: "m2m100",
    gguf_pairing: Pairing::Split,
    gguf_names: GGUF,
    folder_names: &M2M_FOLDER,
    norm: NormKind::Layer,
    pair: Some(PAIR_OF_M2M),
    embed_root: Setting::Default(true),
    default_eps: 1e-5,
    default_tied: true,
    ..LLAMA
};

/// NLLB-MoE (arXiv 2207.04672): two experts for each token in some layers. No other program writes GGUF files
/// of it.
pub(super) const NLLB_MOE: Family = Family {
    label: "nllb-moe",
    hf_types: &["nllb-moe"],
    gguf_arch: "nllb-moe",
    folder_names: &NLLB_FOLDER,
    expert_bias: true,
    pair: Some(PairKind { experts_used: 2, ..PAIR_OF_M2M }),
    ..M2M100
};

const PAIR_OF_T5: PairKind = PairKind {
    positions: PairPositions::Relative,
    biases: false,
    scaled_head: true,
    sparse: SparseLayers::SecondOfRun,
    experts_used: 1,
    purpose: Purpose::TextToText,
};

const PAIR_OF_M2M: PairKind = PairKind {
    positions: PairPositions::Sinusoids,
    biases: true,
    scaled_head: false,
    sparse: SparseLayers::LastOfRun,
    experts_used: 2,
    purpose: Purpose::Translation,
};

/// Names of GGUF files of T5, and by their pattern those of the others.
const GGUF: &[NameRule] = &[
    top(Role::Embed, "token_embd.weight"),
    top(Role::EncoderNorm, "enc.output_norm.weight"),
    top(Role::EncoderNormBias, "enc.output_norm.bias"),
    top(Role::FinalNorm, "dec.output_norm.weight"),
    top(Role::FinalNormBias, "dec.output_norm.bias"),
    top(Role::Head, "output.weight"),
    of_stack(Encoder, T::PreNorm(Mixer), "enc.blk.{L}.attn_norm.weight"),
    of_stack(Encoder, T::PreNormBias(Mixer), "enc.blk.{L}.attn_norm.bias"),
    of_stack(Encoder, T::Q, "enc.blk.{L}.attn_q.weight"),
    of_stack(Encoder, T::QBias, "enc.blk.{L}.attn_q.bias"),
    of_stack(Encoder, T::K, "enc.blk.{L}.attn_k.weight"),
    of_stack(Encoder, T::KBias, "enc.blk.{L}.attn_k.bias"),
    of_stack(Encoder, T::V, "enc.blk.{L}.attn_v.weight"),
    of_stack(Encoder, T::VBias, "enc.blk.{L}.attn_v.bias"),
    of_stack(Encoder, T::O, "enc.blk.{L}.attn_o.weight"),
    of_stack(Encoder, T::OBias, "enc.blk.{L}.attn_o.bias"),
    of_stack(Encoder, T::RelativeBias, "enc.blk.{L}.attn_rel_b.weight"),
    of_stack(Encoder, T::PreNorm(Ffn), "enc.blk.{L}.ffn_norm.weight"),
    of_stack(Encoder, T::PreNormBias(Ffn), "enc.blk.{L}.ffn_norm.bias"),
    of_stack(Encoder, T::Dense(Gate), "enc.blk.{L}.ffn_gate.weight"),
    of_stack(Encoder, T::DenseBias(Gate), "enc.blk.{L}.ffn_gate.bias"),
    of_stack(Encoder, T::Dense(Up), "enc.blk.{L}.ffn_up.weight"),
    of_stack(Encoder, T::DenseBias(Up), "enc.blk.{L}.ffn_up.bias"),
    of_stack(Encoder, T::Dense(Down), "enc.blk.{L}.ffn_down.weight"),
    of_stack(Encoder, T::DenseBias(Down), "enc.blk.{L}.ffn_down.bias"),
    of_stack(Encoder, T::Router, "enc.blk.{L}.ffn_gate_inp.weight"),
    of_stack(Encoder, T::RouterBias, "enc.blk.{L}.ffn_gate_inp.bias"),
    of_stack(Encoder, T::Experts(Gate), "enc.blk.{L}.ffn_gate_exps.weight"),
    of_stack(Encoder, T::ExpertsBias(Gate), "enc.blk.{L}.ffn_gate_exps.bias"),
    of_stack(Encoder, T::Experts(Up), "enc.blk.{L}.ffn_up_exps.weight"),
    of_stack(Encoder, T::ExpertsBias(Up), "enc.blk.{L}.ffn_up_exps.bias"),
    of_stack(Encoder, T::Experts(Down), "enc.blk.{L}.ffn_down_exps.weight"),
    of_stack(Encoder, T::ExpertsBias(Down), "enc.blk.{L}.ffn_down_exps.bias"),
    of_stack(Decoder, T::PreNorm(Mixer), "dec.blk.{L}.attn_norm.weight"),
    of_stack(Decoder, T::PreNormBias(Mixer), "dec.blk.{L}.attn_norm.bias"),
    of_stack(Decoder, T::Q, "dec.blk.{L}.attn_q.weight"),
    of_stack(Decoder, T::QBias, "dec.blk.{L}.attn_q.bias"),
    of_stack(Decoder, T::K, "dec.blk.{L}.attn_k.weight"),
    of_stack(Decoder, T::KBias, "dec.blk.{L}.attn_k.bias"),
    of_stack(Decoder, T::V, "dec.blk.{L}.attn_v.weight"),
    of_stack(Decoder, T::VBias, "dec.blk.{L}.attn_v.bias"),
    of_stack(Decoder, T::O, "dec.blk.{L}.attn_o.weight"),
    of_stack(Decoder, T::OBias, "dec.blk.{L}.attn_o.bias"),
    of_stack(Decoder, T::RelativeBias, "dec.blk.{L}.attn_rel_b.weight"),
    of_stack(Decoder, T::PreNorm(Cross), "dec.blk.{L}.cross_attn_norm.weight"),
    of_stack(Decoder, T::PreNormBias(Cross), "dec.blk.{L}.cross_attn_norm.bias"),
    of_stack(Decoder, T::CrossQ, "dec.blk.{L}.cross_attn_q.weight"),
    of_stack(Decoder, T::CrossQBias, "dec.blk.{L}.cross_attn_q.bias"),
    of_stack(Decoder, T::CrossK, "dec.blk.{L}.cross_attn_k.weight"),
    of_stack(Decoder, T::CrossKBias, "dec.blk.{L}.cross_attn_k.bias"),
    of_stack(Decoder, T::CrossV, "dec.blk.{L}.cross_attn_v.weight"),
    of_stack(Decoder, T::CrossVBias, "dec.blk.{L}.cross_attn_v.bias"),
    of_stack(Decoder, T::CrossO, "dec.blk.{L}.cross_attn_o.weight"),
    of_stack(Decoder, T::CrossOBias, "dec.blk.{L}.cross_attn_o.bias"),
    of_stack(Decoder, T::PreNorm(Ffn), "dec.blk.{L}.ffn_norm.weight"),
    of_stack(Decoder, T::PreNormBias(Ffn), "dec.blk.{L}.ffn_norm.bias"),
    of_stack(Decoder, T::Dense(Gate), "dec.blk.{L}.ffn_gate.weight"),
    of_stack(Decoder, T::DenseBias(Gate), "dec.blk.{L}.ffn_gate.bias"),
    of_stack(Decoder, T::Dense(Up), "dec.blk.{L}.ffn_up.weight"),
    of_stack(Decoder, T::DenseBias(Up), "dec.blk.{L}.ffn_up.bias"),
    of_stack(Decoder, T::Dense(Down), "dec.blk.{L}.ffn_down.weight"),
    of_stack(Decoder, T::DenseBias(Down), "dec.blk.{L}.ffn_down.bias"),
    of_stack(Decoder, T::Router, "dec.blk.{L}.ffn_gate_inp.weight"),
    of_stack(Decoder, T::RouterBias, "dec.blk.{L}.ffn_gate_inp.bias"),
    of_stack(Decoder, T::Experts(Gate), "dec.blk.{L}.ffn_gate_exps.weight"),
    of_stack(Decoder, T::ExpertsBias(Gate), "dec.blk.{L}.ffn_gate_exps.bias"),
    of_stack(Decoder, T::Experts(Up), "dec.blk.{L}.ffn_up_exps.weight"),
    of_stack(Decoder, T::ExpertsBias(Up), "dec.blk.{L}.ffn_up_exps.bias"),
    of_stack(Decoder, T::Experts(Down), "dec.blk.{L}.ffn_down_exps.weight"),
    of_stack(Decoder, T::ExpertsBias(Down), "dec.blk.{L}.ffn_down_exps.bias"),
];

/// T5 and Switch-Transformer.
const T5_FOLDER: &[NameRule] = &[
    top(Role::Embed, "shared.weight"),
    top(Role::Embed, "encoder.embed_tokens.weight"),
    top(Role::Embed, "decoder.embed_tokens.weight"),
    top(Role::EncoderNorm, "encoder.final_layer_norm.weight"),
    top(Role::FinalNorm, "decoder.final_layer_norm.weight"),
    top(Role::Head, "lm_head.weight"),
    of_stack(Encoder, T::PreNorm(Mixer), "encoder.block.{L}.layer.0.layer_norm.weight"),
    of_stack(Encoder, T::Q, "encoder.block.{L}.layer.0.SelfAttention.q.weight"),
    of_stack(Encoder, T::K, "encoder.block.{L}.layer.0.SelfAttention.k.weight"),
    of_stack(Encoder, T::V, "encoder.block.{L}.layer.0.SelfAttention.v.weight"),
    of_stack(Encoder, T::O, "encoder.block.{L}.layer.0.SelfAttention.o.weight"),
    of_stack(
        Encoder,
        T::RelativeBias,
        "encoder.block.{L}.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
    of_stack(Encoder, T::PreNorm(Ffn), "encoder.block.{L}.layer.1.layer_norm.weight"),
    of_stack(Encoder, T::Dense(Gate), "encoder.block.{L}.layer.1.DenseReluDense.wi_0.weight"),
    of_stack(Encoder, T::Dense(Up), "encoder.block.{L}.layer.1.DenseReluDense.wi_1.weight"),
    of_stack(Encoder, T::Dense(Up), "encoder.block.{L}.layer.1.DenseReluDense.wi.weight"),
    of_stack(Encoder, T::Dense(Down), "encoder.block.{L}.layer.1.DenseReluDense.wo.weight"),
    of_stack(Encoder, T::Dense(Gate), "encoder.block.{L}.layer.1.mlp.wi_0.weight"),
    of_stack(Encoder, T::Dense(Up), "encoder.block.{L}.layer.1.mlp.wi_1.weight"),
    of_stack(Encoder, T::Dense(Up), "encoder.block.{L}.layer.1.mlp.wi.weight"),
    of_stack(Encoder, T::Dense(Down), "encoder.block.{L}.layer.1.mlp.wo.weight"),
    of_stack(Encoder, T::Router, "encoder.block.{L}.layer.1.mlp.router.classifier.weight"),
    of_stack(Encoder, T::RouterBias, "encoder.block.{L}.layer.1.mlp.router.classifier.bias"),
    of_stack(Encoder, T::Experts(Gate), "encoder.block.{L}.layer.1.mlp.experts.expert_{E}.wi_0.weight"),
    of_stack(Encoder, T::Experts(Up), "encoder.block.{L}.layer.1.mlp.experts.expert_{E}.wi_1.weight"),
    of_stack(Encoder, T::Experts(Up), "encoder.block.{L}.layer.1.mlp.experts.expert_{E}.wi.weight"),
    of_stack(Encoder, T::Experts(Down), "encoder.block.{L}.layer.1.mlp.experts.expert_{E}.wo.weight"),
    of_stack(Decoder, T::PreNorm(Mixer), "decoder.block.{L}.layer.0.layer_norm.weight"),
    of_stack(Decoder, T::Q, "decoder.block.{L}.layer.0.SelfAttention.q.weight"),
    of_stack(Decoder, T::K, "decoder.block.{L}.layer.0.SelfAttention.k.weight"),
    of_stack(Decoder, T::V, "decoder.block.{L}.layer.0.SelfAttention.v.weight"),
    of_stack(Decoder, T::O, "decoder.block.{L}.layer.0.SelfAttention.o.weight"),
    of_stack(
        Decoder,
        T::RelativeBias,
        "decoder.block.{L}.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
    of_stack(Decoder, T::PreNorm(Cross), "decoder.block.{L}.layer.1.layer_norm.weight"),
    of_stack(Decoder, T::CrossQ, "decoder.block.{L}.layer.1.EncDecAttention.q.weight"),
    of_stack(Decoder, T::CrossK, "decoder.block.{L}.layer.1.EncDecAttention.k.weight"),
    of_stack(Decoder, T::CrossV, "decoder.block.{L}.layer.1.EncDecAttention.v.weight"),
    of_stack(Decoder, T::CrossO, "decoder.block.{L}.layer.1.EncDecAttention.o.weight"),
    of_stack(Decoder, T::PreNorm(Ffn), "decoder.block.{L}.layer.2.layer_norm.weight"),
    of_stack(Decoder, T::Dense(Gate), "decoder.block.{L}.layer.2.DenseReluDense.wi_0.weight"),
    of_stack(Decoder, T::Dense(Up), "decoder.block.{L}.layer.2.DenseReluDense.wi_1.weight"),
    of_stack(Decoder, T::Dense(Up), "decoder.block.{L}.layer.2.DenseReluDense.wi.weight"),
    of_stack(Decoder, T::Dense(Down), "decoder.block.{L}.layer.2.DenseReluDense.wo.weight"),
    of_stack(Decoder, T::Dense(Gate), "decoder.block.{L}.layer.2.mlp.wi_0.weight"),
    of_stack(Decoder, T::Dense(Up), "decoder.block.{L}.layer.2.mlp.wi_1.weight"),
    of_stack(Decoder, T::Dense(Up), "decoder.block.{L}.layer.2.mlp.wi.weight"),
    of_stack(Decoder, T::Dense(Down), "decoder.block.{L}.layer.2.mlp.wo.weight"),
    of_stack(Decoder, T::Router, "decoder.block.{L}.layer.2.mlp.router.classifier.weight"),
    of_stack(Decoder, T::RouterBias, "decoder.block.{L}.layer.2.mlp.router.classifier.bias"),
    of_stack(Decoder, T::Experts(Gate), "decoder.block.{L}.layer.2.mlp.experts.expert_{E}.wi_0.weight"),
    of_stack(Decoder, T::Experts(Up), "decoder.block.{L}.layer.2.mlp.experts.expert_{E}.wi_1.weight"),
    of_stack(Decoder, T::Experts(Up), "decoder.block.{L}.layer.2.mlp.experts.expert_{E}.wi.weight"),
    of_stack(Decoder, T::Experts(Down), "decoder.block.{L}.layer.2.mlp.experts.expert_{E}.wo.weight"),
];

/// What M2M100 and NLLB-MoE call the same.
const M2M_SHARED: [NameRule; 28] = [
    top(Role::Embed, "model.shared.weight"),
    top(Role::Embed, "model.encoder.embed_tokens.weight"),
    top(Role::Embed, "model.decoder.embed_tokens.weight"),
    top(Role::EncoderNorm, "model.encoder.layer_norm.weight"),
    top(Role::EncoderNormBias, "model.encoder.layer_norm.bias"),
    top(Role::FinalNorm, "model.decoder.layer_norm.weight"),
    top(Role::FinalNormBias, "model.decoder.layer_norm.bias"),
    top(Role::Head, "lm_head.weight"),
    of_stack(Encoder, T::PreNorm(Mixer), "model.encoder.layers.{L}.self_attn_layer_norm.weight"),
    of_stack(Encoder, T::PreNormBias(Mixer), "model.encoder.layers.{L}.self_attn_layer_norm.bias"),
    of_stack(Encoder, T::Q, "model.encoder.layers.{L}.self_attn.q_proj.weight"),
    of_stack(Encoder, T::QBias, "model.encoder.layers.{L}.self_attn.q_proj.bias"),
    of_stack(Encoder, T::K, "model.encoder.layers.{L}.self_attn.k_proj.weight"),
    of_stack(Encoder, T::KBias, "model.encoder.layers.{L}.self_attn.k_proj.bias"),
    of_stack(Encoder, T::V, "model.encoder.layers.{L}.self_attn.v_proj.weight"),
    of_stack(Encoder, T::VBias, "model.encoder.layers.{L}.self_attn.v_proj.bias"),
    of_stack(Encoder, T::O, "model.encoder.layers.{L}.self_attn.out_proj.weight"),
    of_stack(Encoder, T::OBias, "model.encoder.layers.{L}.self_attn.out_proj.bias"),
    of_stack(Decoder, T::PreNorm(Mixer), "model.decoder.layers.{L}.self_attn_layer_norm.weight"),
    of_stack(Decoder, T::PreNormBias(Mixer), "model.decoder.layers.{L}.self_attn_layer_norm.bias"),
    of_stack(Decoder, T::Q, "model.decoder.layers.{L}.self_attn.q_proj.weight"),
    of_stack(Decoder, T::QBias, "model.decoder.layers.{L}.self_attn.q_proj.bias"),
    of_stack(Decoder, T::K, "model.decoder.layers.{L}.self_attn.k_proj.weight"),
    of_stack(Decoder, T::KBias, "model.decoder.layers.{L}.self_attn.k_proj.bias"),
    of_stack(Decoder, T::V, "model.decoder.layers.{L}.self_attn.v_proj.weight"),
    of_stack(Decoder, T::VBias, "model.decoder.layers.{L}.self_attn.v_proj.bias"),
    of_stack(Decoder, T::O, "model.decoder.layers.{L}.self_attn.out_proj.weight"),
    of_stack(Decoder, T::OBias, "model.decoder.layers.{L}.self_attn.out_proj.bias"),
];

/// What M2M100 calls otherwise.
const M2M_OWN: [NameRule; 22] = [
    of_stack(Encoder, T::PreNorm(Ffn), "model.encoder.layers.{L}.final_layer_norm.weight"),
    of_stack(Encoder, T::PreNormBias(Ffn), "model.encoder.layers.{L}.final_layer_norm.bias"),
    of_stack(Encoder, T::Dense(Up), "model.encoder.layers.{L}.fc1.weight"),
    of_stack(Encoder, T::DenseBias(Up), "model.encoder.layers.{L}.fc1.bias"),
    of_stack(Encoder, T::Dense(Down), "model.encoder.layers.{L}.fc2.weight"),
    of_stack(Encoder, T::DenseBias(Down), "model.encoder.layers.{L}.fc2.bias"),
    of_stack(Decoder, T::PreNorm(Cross), "model.decoder.layers.{L}.encoder_attn_layer_norm.weight"),
    of_stack(Decoder, T::PreNormBias(Cross), "model.decoder.layers.{L}.encoder_attn_layer_norm.bias"),
    of_stack(Decoder, T::CrossQ, "model.decoder.layers.{L}.encoder_attn.q_proj.weight"),
    of_stack(Decoder, T::CrossQBias, "model.decoder.layers.{L}.encoder_attn.q_proj.bias"),
    of_stack(Decoder, T::CrossK, "model.decoder.layers.{L}.encoder_attn.k_proj.weight"),
    of_stack(Decoder, T::CrossKBias, "model.decoder.layers.{L}.encoder_attn.k_proj.bias"),
    of_stack(Decoder, T::CrossV, "model.decoder.layers.{L}.encoder_attn.v_proj.weight"),
    of_stack(Decoder, T::CrossVBias, "model.decoder.layers.{L}.encoder_attn.v_proj.bias"),
    of_stack(Decoder, T::CrossO, "model.decoder.layers.{L}.encoder_attn.out_proj.weight"),
    of_stack(Decoder, T::CrossOBias, "model.decoder.layers.{L}.encoder_attn.out_proj.bias"),
    of_stack(Decoder, T::PreNorm(Ffn), "model.decoder.layers.{L}.final_layer_norm.weight"),
    of_stack(Decoder, T::PreNormBias(Ffn), "model.decoder.layers.{L}.final_layer_norm.bias"),
    of_stack(Decoder, T::Dense(Up), "model.decoder.layers.{L}.fc1.weight"),
    of_stack(Decoder, T::DenseBias(Up), "model.decoder.layers.{L}.fc1.bias"),
    of_stack(Decoder, T::Dense(Down), "model.decoder.layers.{L}.fc2.weight"),
    of_stack(Decoder, T::DenseBias(Down), "model.decoder.layers.{L}.fc2.bias"),
];

/// What NLLB-MoE calls otherwise.
const NLLB_OWN: [NameRule; 34] = [
    of_stack(Encoder, T::PreNorm(Ffn), "model.encoder.layers.{L}.ff_layer_norm.weight"),
    of_stack(Encoder, T::PreNormBias(Ffn), "model.encoder.layers.{L}.ff_layer_norm.bias"),
    of_stack(Encoder, T::Dense(Up), "model.encoder.layers.{L}.ffn.fc1.weight"),
    of_stack(Encoder, T::DenseBias(Up), "model.encoder.layers.{L}.ffn.fc1.bias"),
    of_stack(Encoder, T::Dense(Down), "model.encoder.layers.{L}.ffn.fc2.weight"),
    of_stack(Encoder, T::DenseBias(Down), "model.encoder.layers.{L}.ffn.fc2.bias"),
    of_stack(Encoder, T::Router, "model.encoder.layers.{L}.ffn.router.classifier.weight"),
    of_stack(Encoder, T::RouterBias, "model.encoder.layers.{L}.ffn.router.classifier.bias"),
    of_stack(Encoder, T::Experts(Up), "model.encoder.layers.{L}.ffn.experts.expert_{E}.fc1.weight"),
    of_stack(Encoder, T::ExpertsBias(Up), "model.encoder.layers.{L}.ffn.experts.expert_{E}.fc1.bias"),
    of_stack(Encoder, T::Experts(Down), "model.encoder.layers.{L}.ffn.experts.expert_{E}.fc2.weight"),
    of_stack(Encoder, T::ExpertsBias(Down), "model.encoder.layers.{L}.ffn.experts.expert_{E}.fc2.bias"),
    of_stack(Decoder, T::PreNorm(Cross), "model.decoder.layers.{L}.cross_attention_layer_norm.weight"),
    of_stack(Decoder, T::PreNormBias(Cross), "model.decoder.layers.{L}.cross_attention_layer_norm.bias"),
    of_stack(Decoder, T::CrossQ, "model.decoder.layers.{L}.cross_attention.q_proj.weight"),
    of_stack(Decoder, T::CrossQBias, "model.decoder.layers.{L}.cross_attention.q_proj.bias"),
    of_stack(Decoder, T::CrossK, "model.decoder.layers.{L}.cross_attention.k_proj.weight"),
    of_stack(Decoder, T::CrossKBias, "model.decoder.layers.{L}.cross_attention.k_proj.bias"),
    of_stack(Decoder, T::CrossV, "model.decoder.layers.{L}.cross_attention.v_proj.weight"),
    of_stack(Decoder, T::CrossVBias, "model.decoder.layers.{L}.cross_attention.v_proj.bias"),
    of_stack(Decoder, T::CrossO, "model.decoder.layers.{L}.cross_attention.out_proj.weight"),
    of_stack(Decoder, T::CrossOBias, "model.decoder.layers.{L}.cross_attention.out_proj.bias"),
    of_stack(Decoder, T::PreNorm(Ffn), "model.decoder.layers.{L}.ff_layer_norm.weight"),
    of_stack(Decoder, T::PreNormBias(Ffn), "model.decoder.layers.{L}.ff_layer_norm.bias"),
    of_stack(Decoder, T::Dense(Up), "model.decoder.layers.{L}.ffn.fc1.weight"),
    of_stack(Decoder, T::DenseBias(Up), "model.decoder.layers.{L}.ffn.fc1.bias"),
    of_stack(Decoder, T::Dense(Down), "model.decoder.layers.{L}.ffn.fc2.weight"),
    of_stack(Decoder, T::DenseBias(Down), "model.decoder.layers.{L}.ffn.fc2.bias"),
    of_stack(Decoder, T::Router, "model.decoder.layers.{L}.ffn.router.classifier.weight"),
    of_stack(Decoder, T::RouterBias, "model.decoder.layers.{L}.ffn.router.classifier.bias"),
    of_stack(Decoder, T::Experts(Up), "model.decoder.layers.{L}.ffn.experts.expert_{E}.fc1.weight"),
    of_stack(Decoder, T::ExpertsBias(Up), "model.decoder.layers.{L}.ffn.experts.expert_{E}.fc1.bias"),
    of_stack(Decoder, T::Experts(Down), "model.decoder.layers.{L}.ffn.experts.expert_{E}.fc2.weight"),
    of_stack(Decoder, T::ExpertsBias(Down), "model.decoder.layers.{L}.ffn.experts.expert_{E}.fc2.bias"),
];

const M2M_FOLDER: [NameRule; 50] = joined(M2M_SHARED, M2M_OWN);
const NLLB_FOLDER: [NameRule; 62] = joined(M2M_SHARED, NLLB_OWN);

/// V-MoE (arXiv 2106.05974): a ViT whose layers may have experts. Released weights are JAX arrays; names are
/// those that transformers has for ViT, and for experts those of `docs/images.md`.
pub(super) const VMOE: Family = Family {
    label: "vmoe",
    hf_types: &["vmoe"],
    gguf_arch: "vmoe",
    gguf_names: GGUF,
    folder_names: &[
        top(Role::Embed, "vit.embeddings.position_embeddings"),
        top(Role::Patches, "vit.embeddings.patch_embeddings.projection.weight"),
        top(Role::PatchBias, "vit.embeddings.patch_embeddings.projection.bias"),
        top(Role::FirstRow, "vit.embeddings.cls_token"),
        top(Role::EncoderNorm, "vit.layernorm.weight"),
        top(Role::EncoderNormBias, "vit.layernorm.bias"),
        top(Role::Head, "classifier.weight"),
        top(Role::HeadBias, "classifier.bias"),
        of_stack(Encoder, T::PreNorm(Mixer), "vit.encoder.layer.{L}.layernorm_before.weight"),
        of_stack(Encoder, T::PreNormBias(Mixer), "vit.encoder.layer.{L}.layernorm_before.bias"),
        of_stack(Encoder, T::Q, "vit.encoder.layer.{L}.attention.attention.query.weight"),
        of_stack(Encoder, T::QBias, "vit.encoder.layer.{L}.attention.attention.query.bias"),
        of_stack(Encoder, T::K, "vit.encoder.layer.{L}.attention.attention.key.weight"),
        of_stack(Encoder, T::KBias, "vit.encoder.layer.{L}.attention.attention.key.bias"),
        of_stack(Encoder, T::V, "vit.encoder.layer.{L}.attention.attention.value.weight"),
        of_stack(Encoder, T::VBias, "vit.encoder.layer.{L}.attention.attention.value.bias"),
        of_stack(Encoder, T::O, "vit.encoder.layer.{L}.attention.output.dense.weight"),
        of_stack(Encoder, T::OBias, "vit.encoder.layer.{L}.attention.output.dense.bias"),
        of_stack(Encoder, T::PreNorm(Ffn), "vit.encoder.layer.{L}.layernorm_after.weight"),
        of_stack(Encoder, T::PreNormBias(Ffn), "vit.encoder.layer.{L}.layernorm_after.bias"),
        of_stack(Encoder, T::Dense(Up), "vit.encoder.layer.{L}.intermediate.dense.weight"),
        of_stack(Encoder, T::DenseBias(Up), "vit.encoder.layer.{L}.intermediate.dense.bias"),
        of_stack(Encoder, T::Dense(Down), "vit.encoder.layer.{L}.output.dense.weight"),
        of_stack(Encoder, T::DenseBias(Down), "vit.encoder.layer.{L}.output.dense.bias"),
        of_stack(Encoder, T::Router, "vit.encoder.layer.{L}.moe.router.weight"),
        of_stack(Encoder, T::Experts(Up), "vit.encoder.layer.{L}.moe.experts.up_proj.weight"),
        of_stack(Encoder, T::ExpertsBias(Up), "vit.encoder.layer.{L}.moe.experts.up_proj.bias"),
        of_stack(Encoder, T::Experts(Down), "vit.encoder.layer.{L}.moe.experts.down_proj.weight"),
        of_stack(Encoder, T::ExpertsBias(Down), "vit.encoder.layer.{L}.moe.experts.down_proj.bias"),
    ],
    images: true,
    norm: NormKind::Layer,
    activation: ActivationKind::Named(Activation::GeluTanh),
    default_eps: 1e-6,
    ..LLAMA
};

/// AdaMV-MoE (Chen et al., ICCV 2023): the same with tasks. Each has patches, places, routers and a head of
/// its own, one below the other in the tensors of V-MoE.
pub(super) const ADAMVMOE: Family =
    Family { label: "adamvmoe", hf_types: &["adamvmoe"], gguf_arch: "adamvmoe", ..VMOE };
