//! A model's weights outside its expert banks, ready to compute with: small vectors in f32, and references to
//! large matrices. They are built once from a spec and its tensors. Nothing here knows the name of a tensor.

pub mod build;
pub mod embedding;
mod head_streams;
pub mod layer_inputs;
mod task;

use moelten_loader::spec::{BankKey, Join, RopeSpec, RouterInput};

use crate::layers::ffn::dense::Mlp;
use crate::layers::ffn::moe::Moe;
use crate::layers::ffn::router_weights::RouterWeights;
use crate::layers::layer_input::LayerInput;
use crate::layers::linear::Linear;
use crate::layers::mixer::attention::Attention;
use crate::layers::mixer::compressed::Compressed;
use crate::layers::mixer::contract::Mixer;
use crate::layers::mixer::conv::Conv;
use crate::layers::mixer::cross::Cross;
use crate::layers::mixer::delta::Delta;
use crate::layers::mixer::heads::HeadExperts;
use crate::layers::mixer::kda::Kda;
use crate::layers::mixer::latent::Latent;
use crate::layers::mixer::lstm::Lstm;
use crate::layers::mixer::selective::Selective;
use crate::layers::mixer::ssm::Ssm;
use crate::layers::ngram::Ngram;
use crate::layers::norm::Norm;
use crate::layers::streams::StreamWeights;
use embedding::Embedding;
use layer_inputs::LayerInputWeights;

/// The weights of a model outside its expert banks.
pub struct Weights {
    /// The layers in order.
    pub layers: Vec<Layer>,
    /// The distinct ropes of the layers.
    pub ropes: Vec<RopeSpec>,
    /// The token embedding, `[vocab, d_model]`.
    pub embedding: Embedding,
    /// What every layer gets of a token besides, in models that have it.
    pub layer_inputs: Option<LayerInputWeights>,
    /// The norm of what the encoder gives, in models that have one.
    pub encoder_norm: Option<Norm>,
    /// What makes rows of an image, in models of images.
    pub image: Option<ImageWeights>,
    /// How the head mixes residual streams, where there are several.
    pub streams: Option<StreamWeights>,
    /// The norm before the head; `None` where the mix of streams has its own.
    pub final_norm: Option<Norm>,
    /// The output projection, `[vocab, d_model]`.
    pub head: Linear,
}

/// What makes rows of an image.
pub struct ImageWeights {
    /// The projection of patches.
    pub patches: Linear,
    /// The row before all patches, `[d_model]`; empty without one.
    pub first: Vec<f32>,
}

/// The weights of a layer.
pub struct Layer {
    /// The branches in the order in which they join.
    pub branches: Vec<Branch>,
    /// Norm of the sum of parallel branches before it joins.
    pub sum_norm: Option<Norm>,
    /// Factor on the residual stream at the end of the layer.
    pub scale: Option<f32>,
}

/// The weights of a branch.
pub struct Branch {
    /// The layer, and the number of the branch in it.
    pub key: (usize, usize),
    /// Which residual stream it reads.
    pub join: Join,
    /// How it mixes residual streams, where there are several.
    pub streams: Option<StreamWeights>,
    /// Norm of the input.
    pub pre: Option<Norm>,
    /// The operation.
    pub op: OpWeights,
    /// Norm of the output.
    pub post: Option<Norm>,
    /// Factor on the output as it joins the residual stream.
    pub scale: f32,
}

/// The weights of an operation.
pub enum OpWeights {
    /// Attention with a KV cache.
    Attention {
        /// Projections and norms.
        attention: Attention,
        /// The number of its state among those of a sequence.
        state: usize,
    },
    /// Attention to the encoder's text.
    Cross {
        /// Projections.
        cross: Box<Cross>,
        /// The number of its state among those of a sequence.
        state: usize,
    },
    /// A mixture of attention heads.
    HeadExperts {
        /// Router, keys and values.
        heads: Box<HeadExperts>,
        /// The number of its state among those of a sequence.
        state: usize,
        /// The layer of its bank, and the number of the bank in it.
        key: BankKey,
        /// The next branch with experts: its layer, and its number there. `None` for the last.
        next: Option<(usize, usize)>,
    },
    /// Latent attention.
    Latent {
        /// Projections and norms.
        latent: Latent,
        /// The number of its state among those of a sequence.
        state: usize,
    },
    /// Attention to compressed tokens.
    Compressed {
        /// Projections, norms, compressors.
        compressed: Box<Compressed>,
        /// The number of its state among those of a sequence.
        state: usize,
    },
    /// A gated delta net.
    Delta {
        /// Projections, convolution, rates.
        delta: Delta,
        /// The number of its state among those of a sequence.
        state: usize,
    },
    /// Kimi delta attention.
    Kda {
        /// Projections, convolutions, rates.
        kda: Box<Kda>,
        /// The number of its state among those of a sequence.
        state: usize,
    },
    /// A Mamba block.
    Selective {
        /// Projections, convolution, rates.
        ssm: Box<Selective>,
        /// The number of its state among those of a sequence.
        state: usize,
    },
    /// A Mamba-2 block.
    Ssm {
        /// Projections, convolution, rates.
        ssm: Ssm,
        /// The number of its state among those of a sequence.
        state: usize,
    },
    /// A short convolution.
    Conv {
        /// Projections and taps.
        conv: Conv,
        /// The number of its state among those of a sequence.
        state: usize,
    },
    /// Long short-term memory.
    Lstm {
        /// Projections.
        lstm: Lstm,
        /// The number of its state among those of a sequence.
        state: usize,
    },
    /// The layer's own numbers of a token.
    LayerInput(LayerInput),
    /// Numbers of runs of tokens.
    Ngram {
        /// Table, projections, taps.
        ngram: Box<Ngram>,
        /// The number of its state among those of a sequence.
        state: usize,
    },
    /// A dense feed-forward block.
    Mlp(Mlp),
    /// A mixture of experts.
    Moe {
        /// Router and shared expert.
        moe: Moe,
        /// The layer of its bank, and the number of the bank in it.
        key: BankKey,
        /// The next branch with experts: its layer, and its number there. `None` for the last.
        next: Option<(usize, usize)>,
    },
}

/// What is to be known of a bank to guess which of its experts are needed.
#[derive(Clone, Copy)]
pub struct NextBank<'a> {
    /// Its number in the store.
    pub bank: usize,
    /// Number of its experts.
    pub experts: usize,
    /// What its router reads.
    pub input: RouterInput,
    /// The router; `None` for experts that are chosen with those of the branch before.
    pub router: Option<&'a RouterWeights>,
    /// How its branch mixes residual streams, where there are several.
    pub streams: Option<&'a StreamWeights>,
    /// The norm of what the router reads.
    pub norm: Option<&'a Norm>,
}

impl OpWeights {
    /// The operation as one with a state, and the number of that state.
    pub fn mixer(&self) -> Option<(&dyn Mixer, usize)> {
        match self {
            Self::Attention { attention, state } => Some((attention, *state)),
            Self::Cross { cross, state } => Some((&**cross, *state)),
            Self::Latent { latent, state } => Some((latent, *state)),
            Self::Compressed { compressed, state } => Some((&**compressed, *state)),
            Self::Delta { delta, state } => Some((delta, *state)),
            Self::Conv { conv, state } => Some((conv, *state)),
            Self::Lstm { lstm, state } => Some((lstm, *state)),
            Self::Ssm { ssm, state } => Some((ssm, *state)),
            Self::Selective { ssm, state } => Some((&**ssm, *state)),
            Self::Kda { kda, state } => Some((&**kda, *state)),
            Self::Ngram { .. }
            | Self::LayerInput(_)
            | Self::Mlp(_)
            | Self::Moe { .. }
            | Self::HeadExperts { .. } => None,
        }
    }
}

impl Weights {
    /// The next bank of experts after this branch.
    pub fn next_bank(&self, branch: &Branch) -> Option<NextBank<'_>> {
        let (OpWeights::Moe { next, .. } | OpWeights::HeadExperts { next, .. }) = &branch.op else {
            return None;
        };
        let (layer, number) = (*next)?;
        let next = self.layers.get(layer)?.branches.get(number)?;
        match &next.op {
            OpWeights::Moe { moe, .. } => Some(NextBank {
                bank: moe.bank,
                experts: moe.spec.experts,
                input: moe.spec.router_input,
                router: moe.router.as_ref(),
                streams: next.streams.as_ref(),
                norm: moe.router_norm.as_ref().or(next.pre.as_ref()),
            }),
            OpWeights::HeadExperts { heads, .. } => Some(NextBank {
                bank: heads.bank,
                experts: heads.spec.experts,
                input: RouterInput::Branch,
                router: Some(&heads.router),
                streams: next.streams.as_ref(),
                norm: next.pre.as_ref(),
            }),
            _ => None,
        }
    }
}
