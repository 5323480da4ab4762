//! Mixtures of attention heads, as data. It must not know layers.

use super::ffn::{BankMatrix, Part, RouterSpec};
use super::mixer::AttentionSpec;

/// Attention whose query heads are experts (arXiv 2210.05144; JetMoE, arXiv 2404.07413): each expert has a
/// projection to the queries of a few heads and one from what these mix to the residual stream. All of them
/// attend to the same keys and values. What the experts give is weighed by the router and added up.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadExpertsSpec {
    /// Attention of all heads that a token can have: those of its experts, as many as it can have of them.
    /// There are no norms, gates or biases, but perhaps one of the output.
    pub attention: AttentionSpec,
    /// Number of experts.
    pub experts: usize,
    /// How they are chosen.
    pub router: RouterSpec,
}

impl HeadExpertsSpec {
    /// Heads of an expert, a multiple of the key and value heads.
    pub fn own_heads(&self) -> usize {
        self.attention.heads / self.router.select.max_experts()
    }

    /// Width of the queries of an expert, and of what its heads mix.
    pub fn own_width(&self) -> usize {
        self.own_heads() * self.attention.head_dim
    }

    /// The matrices of an expert: the projection to queries as [`Part::Up`], that of the output as
    /// [`Part::Down`].
    pub fn matrices(&self, d_model: usize) -> [BankMatrix; 2] {
        let width = self.own_width();
        [
            BankMatrix { part: Part::Up, rows: width, cols: d_model },
            BankMatrix { part: Part::Down, rows: d_model, cols: width },
        ]
    }
}
