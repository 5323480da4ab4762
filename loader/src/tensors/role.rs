//! What tensors are for. It must not know their names.

use crate::spec::{BankKind, Part, Place};

/// The purpose of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Token embedding `[vocab, d_model]`. In models of images a row for each place.
    Embed,
    /// Projection of the patches of an image `[d_model, numbers of a patch]`.
    Patches,
    /// Its bias `[d_model]`.
    PatchBias,
    /// The row before all patches `[d_model]`.
    FirstRow,
    /// Divisors of the rope frequencies `[rope_dim / 2]`.
    RopeDivisors,
    /// LongRoPE divisors up to the original context `[rope_dim / 2]`.
    RopeShort,
    /// LongRoPE divisors beyond the original context `[rope_dim / 2]`.
    RopeLong,
    /// Weight of the last norm `[d_model]`.
    FinalNorm,
    /// Bias of the last norm `[d_model]`.
    FinalNormBias,
    /// Weight of the norm of what an encoder gives `[d_model]`.
    EncoderNorm,
    /// Its bias `[d_model]`.
    EncoderNormBias,
    /// Output projection `[vocab, d_model]`, or of classes.
    Head,
    /// Bias of the output projection `[vocab]`.
    HeadBias,
    /// Numbers of every layer by token `[vocab, layers * width]`.
    LayerInputTable,
    /// Projection of the embedding to numbers of every layer `[layers * width, d_model]`.
    LayerInputProjection,
    /// Norm of what that gives `[width]`.
    LayerInputNorm,
    /// Matrix of the mix of residual streams before the head `[streams, streams * d_model]`.
    HeadStreamMix,
    /// Added to what it gives `[streams]`.
    HeadStreamBase,
    /// Factor on that `[1]`.
    HeadStreamScale,
    /// Norm of residual streams before the head `[streams * d_model]`.
    HeadStreamNorm,
    /// Narrow projection of them `[rank, streams * d_model]`.
    HeadStreamDown,
    /// Gates from that `[streams * d_model, rank]`.
    HeadStreamUp,
    /// A tensor of one layer.
    Layer(usize, LayerTensor),
}

/// The tensors of one of the attentions of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionTensors {
    /// Projections of queries, keys, values and of the output.
    pub matrices: [LayerTensor; 4],
    /// Their biases.
    pub biases: [LayerTensor; 4],
}

impl AttentionTensors {
    /// Attention to the tokens of a layer's own text.
    pub const OWN: Self = {
        use LayerTensor::{K, KBias, O, OBias, Q, QBias, V, VBias};
        Self { matrices: [Q, K, V, O], biases: [QBias, KBias, VBias, OBias] }
    };
    /// Attention to the encoder's text.
    pub const CROSS: Self = {
        use LayerTensor::{CrossK, CrossKBias, CrossO, CrossOBias, CrossQ, CrossQBias, CrossV, CrossVBias};
        Self {
            matrices: [CrossQ, CrossK, CrossV, CrossO],
            biases: [CrossQBias, CrossKBias, CrossVBias, CrossOBias],
        }
    };
}

/// Tensors of a layer. Expert banks hold all experts of the layer: `[experts, rows, cols]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayerTensor {
    /// Norm of a branch's input `[d_model]`.
    PreNorm(Place),
    /// Its bias `[d_model]`.
    PreNormBias(Place),
    /// Norm of a branch's output `[d_model]`.
    PostNorm(Place),
    /// Its bias `[d_model]`.
    PostNormBias(Place),
    /// Matrix of the mix of residual streams that a branch reads and writes `[rows, streams * d_model]`.
    StreamMix(Place),
    /// Added to what it gives `[rows]`.
    StreamBase(Place),
    /// Factors on that: of what is read, of what is written, of streams on streams `[3]`.
    StreamScale(Place),
    /// Norm of the residual streams that a branch reads `[streams * d_model]`.
    StreamNorm(Place),
    /// Narrow projection of them `[rank, streams * d_model]`.
    StreamDown(Place),
    /// Gates from that `[streams * d_model, rank]`.
    StreamUp(Place),
    /// Weights of what the branch gives for each stream `[streams, streams * d_model]`.
    StreamInject(Place),
    /// Queries of choices of blocks `[heads * head_dim, d_model]`.
    BlockQ,
    /// Keys of choices of blocks `[head_dim, d_model]`.
    BlockK,
    /// Norm of these queries `[head_dim]`.
    BlockQNorm,
    /// Norm of these keys `[head_dim]`.
    BlockKNorm,
    /// Table of numbers of runs of tokens `[rows, width]`, perhaps in several tensors.
    NgramTable,
    /// Factors of tokens of their hash, whole numbers.
    NgramFactors,
    /// First rows of heads, whole numbers.
    NgramFirst,
    /// Rows of heads, whole numbers.
    NgramRows,
    /// Keys of streams `[streams * d_model, read]`.
    NgramKey,
    /// Values `[d_model, read]`.
    NgramValue,
    /// Norm of keys `[streams * d_model]`.
    NgramKeyNorm,
    /// Norm of queries `[streams * d_model]`.
    NgramQueryNorm,
    /// Norm of what is convolved `[streams * d_model]`.
    NgramConvNorm,
    /// Taps of the convolution `[streams * d_model, kernel]`.
    NgramConv,
    /// Norm of the sum of parallel branches `[d_model]`.
    SumNorm,
    /// Factor on the residual stream at the end of the layer `[1]`.
    LayerScale,
    /// Gate on the layer's own numbers of a token `[width, d_model]`.
    LayerInputGate,
    /// From these numbers to the residual stream `[d_model, width]`.
    LayerInputUp,
    /// Query projection `[heads * head_dim, d_model]`.
    Q,
    /// Key projection `[kv_heads * head_dim, d_model]`.
    K,
    /// Value projection `[kv_heads * head_dim, d_model]`.
    V,
    /// Output projection `[d_model, heads * head_dim]`.
    O,
    /// Gate on the mixed values `[heads * head_dim, d_model]` or `[heads, d_model]`.
    AttentionGate,
    /// Projection to the latent query `[query_rank, d_model]`.
    QDown,
    /// Norm of the latent query `[query_rank]`.
    QDownNorm,
    /// From the latent query to queries `[heads * (nope + rope), query_rank]`.
    QUp,
    /// Projection to the latent vector and the shared key `[rank + rope, d_model]`.
    KvDown,
    /// Norm of the latent vector `[rank]`.
    KvDownNorm,
    /// From the latent vector to keys and values, head by head `[heads * (nope + value_dim), rank]`.
    KvUp,
    /// From queries to the latent space, head by head `[heads * rank, nope]`.
    KUp,
    /// From the latent vector to values, head by head `[heads * value_dim, rank]`.
    VUp,
    /// From groups of heads, group by group `[groups * rank, heads * head_dim / groups]`.
    OutDown,
    /// Values of compressed tokens `[series * head_dim, d_model]`.
    CompressValue,
    /// Logits of their weights `[series * head_dim, d_model]`.
    CompressGate,
    /// Added to logits by place in a run `[rate, series * head_dim]`.
    CompressPlace,
    /// Norm of compressed tokens `[head_dim]`.
    CompressNorm,
    /// Values of the small rows by which compressed tokens are chosen `[series * width, d_model]`.
    IndexCompressValue,
    /// Logits of their weights `[series * width, d_model]`.
    IndexCompressGate,
    /// Added to these by place in a run `[rate, series * width]`.
    IndexCompressPlace,
    /// Norm of small rows `[width]`.
    IndexCompressNorm,
    /// Experts of each token of the vocabulary, whole numbers `[vocab, k]`.
    TokenExperts,
    /// Queries of choices `[heads * head_dim, query_rank]`.
    IndexQ,
    /// Keys of choices `[head_dim, d_model]`.
    IndexK,
    /// Norm of these keys `[head_dim]`.
    IndexKNorm,
    /// Its bias `[head_dim]`.
    IndexKNormBias,
    /// Weights of the heads of choices `[heads, d_model]`.
    IndexWeights,
    /// Queries, keys and values of a delta net `[channels, d_model]`.
    DeltaQkv,
    /// Its gates `[values, d_model]`.
    DeltaGate,
    /// Its strengths `[value_heads, d_model]`.
    DeltaStrength,
    /// Its steps `[value_heads, d_model]`.
    DeltaStep,
    /// Its strengths and steps by key head `[2 * value_heads, d_model]`.
    DeltaRates,
    /// Its queries, keys, values and gates by key head `[channels + values, d_model]`.
    DeltaByKeyHead,
    /// Taps of its convolution `[channels, kernel]`.
    DeltaConv,
    /// Its rates of forgetting `[value_heads]`.
    DeltaDecay,
    /// Biases of its steps `[value_heads]`.
    DeltaStepBias,
    /// Norm of its outputs `[value_dim]`.
    DeltaNorm,
    /// Its output projection `[d_model, values]`.
    DeltaOut,
    /// Taps of the convolution over queries of Kimi delta attention `[inner, kernel]`.
    KdaConvQ,
    /// Over keys `[inner, kernel]`.
    KdaConvK,
    /// Over values `[inner, kernel]`.
    KdaConvV,
    /// Projection before its rates `[rank, d_model]`.
    KdaRateDown,
    /// Its rates `[inner, rank]` or `[inner, d_model]`.
    KdaRateUp,
    /// Projection before its gates `[rank, d_model]`.
    KdaGateDown,
    /// Its gates `[inner, rank]` or `[inner, d_model]`.
    KdaGateUp,
    /// Projection of a Mamba-2 block `[projected, d_model]`.
    SsmIn,
    /// Taps of its convolution `[channels, kernel]`.
    SsmConv,
    /// Their bias `[channels]`.
    SsmConvBias,
    /// Its rates of forgetting `[heads]`.
    SsmDecay,
    /// Biases of its steps `[heads]`.
    SsmStepBias,
    /// What goes past its memories `[heads]`.
    SsmSkip,
    /// Norm of its outputs `[inner]`.
    SsmNorm,
    /// Projection of a Mamba block to steps and inputs `[rank + 2 * state, inner]`.
    SsmX,
    /// Its steps `[inner, rank]`.
    SsmStep,
    /// Norm of its narrow steps `[rank]`.
    SsmStepNorm,
    /// Norm of what its memories take up `[state]`.
    SsmBNorm,
    /// Norm of what its memories are read with `[state]`.
    SsmCNorm,
    /// Its output projection `[d_model, inner]`.
    SsmOut,
    /// Gates and values of a short convolution `[3 * width, d_model]`.
    ConvIn,
    /// Their bias.
    ConvInBias,
    /// Its taps `[width, kernel]`.
    ConvTaps,
    /// Their bias `[width]`.
    ConvBias,
    /// Its output projection `[d_model, width]`.
    ConvOut,
    /// Bias of that `[d_model]`.
    ConvOutBias,
    /// From the token to gates and candidates of an LSTM `[4 * width, d_model]`.
    LstmIn,
    /// From its last output to the same `[4 * width, width]`.
    LstmBack,
    /// Their bias `[4 * width]`.
    LstmBias,
    /// Query bias.
    QBias,
    /// Key bias.
    KBias,
    /// Value bias.
    VBias,
    /// Output bias `[d_model]`.
    OBias,
    /// Query projection of attention to the encoder's text.
    CrossQ,
    /// Its key projection, of what the encoder gives.
    CrossK,
    /// Its value projection, of what the encoder gives.
    CrossV,
    /// Its output projection.
    CrossO,
    /// Bias of its queries.
    CrossQBias,
    /// Bias of its keys.
    CrossKBias,
    /// Bias of its values.
    CrossVBias,
    /// Bias of its output `[d_model]`.
    CrossOBias,
    /// What distances add to the scores of heads `[buckets, heads]`.
    RelativeBias,
    /// Logits of the attention sinks `[heads]`.
    Sinks,
    /// Query norm `[head_dim]` or `[heads * head_dim]`.
    QNorm,
    /// Key norm `[head_dim]` or `[kv_heads * head_dim]`.
    KNorm,
    /// A matrix of the dense feed-forward block.
    Dense(Part),
    /// Its bias `[rows]`.
    DenseBias(Part),
    /// Router `[experts, d_model]`.
    Router,
    /// Its bias `[experts]`.
    RouterBias,
    /// Norm of its input, times the root of the width `[d_model]`.
    RouterNorm,
    /// Factors on the weights of experts `[experts]`.
    ExpertScales,
    /// Added to the scores of experts for the choice alone `[experts]`.
    SelectBias,
    /// Projection before routed experts `[latent, d_model]`.
    LatentDown,
    /// Projection after them `[d_model, latent]`.
    LatentUp,
    /// The experts' matrices.
    Experts(Part),
    /// Matrices of experts that read what the others give.
    AdjugateExperts(Part),
    /// Matrices of attention experts: queries as [`Part::Up`], output as [`Part::Down`].
    HeadExperts(Part),
    /// Router of attention experts `[experts, d_model]`.
    HeadRouter,
    /// Added to what all experts of a token give `[d_model]`.
    ExpertsOutBias,
    /// Their biases `[experts, rows]`.
    ExpertsBias(Part),
    /// A matrix of the shared expert.
    Shared(Part),
    /// Its bias `[rows]`.
    SharedBias(Part),
    /// Gate of the shared expert `[1, d_model]`.
    SharedInput,
}

impl Role {
    /// Whether it is the weight of a norm.
    pub fn is_norm(self) -> bool {
        use LayerTensor::{
            BlockKNorm, BlockQNorm, KNorm, NgramConvNorm, NgramKeyNorm, NgramQueryNorm, PostNorm, PreNorm,
            QNorm, StreamNorm,
        };
        matches!(
            self,
            Self::FinalNorm
                | Self::EncoderNorm
                | Self::HeadStreamNorm
                | Self::Layer(_, PreNorm(_) | PostNorm(_) | QNorm | KNorm | StreamNorm(_))
                | Self::Layer(_, BlockQNorm | BlockKNorm | NgramKeyNorm | NgramQueryNorm | NgramConvNorm)
        )
    }
}

impl LayerTensor {
    /// The matrices of experts of this kind.
    pub fn of_bank(kind: BankKind, part: Part) -> Self {
        match kind {
            BankKind::FeedForward => Self::Experts(part),
            BankKind::Adjugate => Self::AdjugateExperts(part),
            BankKind::Heads => Self::HeadExperts(part),
        }
    }

    /// Which matrix of experts it is, if it is one.
    pub fn expert_part(self) -> Option<Part> {
        match self {
            Self::Experts(part) | Self::AdjugateExperts(part) | Self::HeadExperts(part) => Some(part),
            _ => None,
        }
    }

    /// Whether it is multiplied with inputs, and not a vector beside such a matrix.
    pub fn is_matrix(self) -> bool {
        match self {
            Self::Q | Self::K | Self::V | Self::O | Self::AttentionGate => true,
            Self::CrossQ | Self::CrossK | Self::CrossV | Self::CrossO => true,
            Self::CrossQBias | Self::CrossKBias | Self::CrossVBias | Self::CrossOBias => false,
            Self::RelativeBias => false,
            Self::Router | Self::HeadRouter | Self::HeadExperts(_) | Self::SharedInput => true,
            Self::LayerInputGate | Self::LayerInputUp => true,
            Self::SumNorm | Self::LayerScale | Self::RouterNorm | Self::ExpertScales => false,
            Self::QDown | Self::QUp | Self::KvDown | Self::KvUp | Self::KUp | Self::VUp => true,
            Self::QDownNorm | Self::KvDownNorm => false,
            Self::StreamDown(_) | Self::StreamUp(_) | Self::StreamInject(_) | Self::BlockQ | Self::BlockK => {
                true
            }
            Self::NgramKey | Self::NgramValue => true,
            Self::StreamNorm(_) | Self::BlockQNorm | Self::BlockKNorm | Self::NgramTable => false,
            Self::NgramFactors | Self::NgramFirst | Self::NgramRows | Self::NgramConv => false,
            Self::NgramKeyNorm | Self::NgramQueryNorm | Self::NgramConvNorm => false,
            Self::StreamMix(_) | Self::OutDown | Self::CompressValue | Self::CompressGate => true,
            Self::IndexCompressValue | Self::IndexCompressGate => true,
            Self::StreamBase(_) | Self::StreamScale(_) | Self::CompressPlace | Self::CompressNorm => false,
            Self::IndexCompressPlace | Self::IndexCompressNorm | Self::TokenExperts => false,
            Self::DeltaQkv | Self::DeltaGate | Self::DeltaStrength | Self::DeltaStep => true,
            Self::ConvIn | Self::ConvOut | Self::SsmIn | Self::SsmOut => true,
            Self::SsmX | Self::SsmStep | Self::LstmIn | Self::LstmBack => true,
            Self::SsmStepNorm | Self::SsmBNorm | Self::SsmCNorm => false,
            Self::LatentDown | Self::LatentUp => true,
            Self::IndexQ | Self::IndexK | Self::IndexWeights => true,
            Self::IndexKNorm | Self::IndexKNormBias => false,
            Self::KdaRateDown | Self::KdaRateUp | Self::KdaGateDown | Self::KdaGateUp => true,
            Self::KdaConvQ | Self::KdaConvK | Self::KdaConvV => false,
            Self::SsmConv | Self::SsmConvBias | Self::SsmDecay | Self::SsmStepBias => false,
            Self::SsmSkip | Self::SsmNorm | Self::LstmBias => false,
            Self::ConvInBias | Self::ConvTaps | Self::ConvBias | Self::ConvOutBias => false,
            Self::DeltaRates | Self::DeltaByKeyHead | Self::DeltaOut => true,
            Self::DeltaConv | Self::DeltaDecay | Self::DeltaStepBias | Self::DeltaNorm => false,
            Self::Dense(_) | Self::Experts(_) | Self::AdjugateExperts(_) | Self::Shared(_) => true,
            Self::PreNorm(_) | Self::PreNormBias(_) | Self::PostNorm(_) | Self::PostNormBias(_) => false,
            Self::DenseBias(_) | Self::ExpertsBias(_) | Self::SharedBias(_) => false,
            Self::QBias | Self::KBias | Self::VBias | Self::OBias | Self::QNorm | Self::KNorm => false,
            Self::Sinks | Self::RouterBias | Self::SelectBias | Self::ExpertsOutBias => false,
        }
    }
}
