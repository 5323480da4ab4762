//! Names of expert banks. It must not know what their experts are.

/// Where an expert bank is in a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BankKey {
    /// Number of the layer, from 0.
    pub layer: usize,
    /// Which of the layer's banks, in the order of its branches.
    pub bank: usize,
}

/// What the experts of a bank are for. Files name their tensors by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BankKind {
    /// Feed-forward blocks.
    FeedForward,
    /// Feed-forward blocks that stand for groups of those of the layer (GroveMoE).
    Adjugate,
    /// Query heads of attention (JetMoE).
    Heads,
}
