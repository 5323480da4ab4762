//! A model's weights outside its expert banks, ready to compute with: small vectors in f32, places of the
//! large matrices. They are built from a spec and its tensors once. Nothing here knows a tensor's name.

mod build;
pub mod embedding;

use moelten_loader::spec::{BankKey, Join, RopeSpec};

use crate::layers::ffn::dense::Mlp;
use crate::layers::ffn::moe::Moe;
use crate::layers::linear::Linear;
use crate::layers::mixer::attention::Attention;
use crate::layers::norm::Norm;
use embedding::Embedding;

/// Weights of a model.
pub struct Weights {
    /// The layers in order.
    pub layers: Vec<Layer>,
    /// The distinct ropes of the layers.
    pub ropes: Vec<RopeSpec>,
    /// `[vocab, d_model]`.
    pub embedding: Embedding,
    /// Norm before the head.
    pub final_norm: Norm,
    /// The output projection.
    pub head: Linear,
}

/// One layer.
pub struct Layer {
    /// Its branches in order.
    pub branches: Vec<Branch>,
}

/// One branch of a layer.
pub struct Branch {
    /// Its layer, and its number there.
    pub key: (usize, usize),
    /// What it reads.
    pub join: Join,
    /// Norm of its input.
    pub pre: Option<Norm>,
    /// What it computes.
    pub op: OpWeights,
    /// Norm of its output.
    pub post: Option<Norm>,
    /// Factor on its output as it joins.
    pub scale: f32,
}

/// The weights of an operation.
pub enum OpWeights {
    /// Attention, and the number of its state among those of a sequence.
    Attention {
        /// Projections and norms.
        attention: Attention,
        /// The number of its state.
        state: usize,
    },
    /// A block that every token visits.
    Mlp(Mlp),
    /// A router and a bank of experts.
    Moe {
        /// Router and shared expert.
        moe: Moe,
        /// Where its bank is in the model.
        key: BankKey,
        /// The branch that asks for experts next: its layer and number.
        next: Option<(usize, usize)>,
    },
}

impl Weights {
    /// The mixture that asks for experts after this branch, and the norm of its input.
    pub fn next_bank(&self, branch: &Branch) -> Option<(&Moe, Option<&Norm>)> {
        let OpWeights::Moe { next: Some((layer, number)), .. } = branch.op else { return None };
        let next = self.layers.get(layer)?.branches.get(number)?;
        match &next.op {
            OpWeights::Moe { moe, .. } => Some((moe, next.pre.as_ref())),
            OpWeights::Attention { .. } | OpWeights::Mlp(_) => None,
        }
    }
}
