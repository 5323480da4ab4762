//! Gated delta nets, as data. It must not know layers.

/// A gated delta net (arXiv 2412.06464), as Qwen3-Next has it. For each value head a matrix `S`
/// `[key_dim, value_dim]`: `S *= e^g`, `S += k (b (v - S^T k))^T`, `y = S^T q`, with queries and keys of
/// length 1 after a short convolution, and rates `g` and `b` of each token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeltaSpec {
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values, a multiple of the former.
    pub value_heads: usize,
    /// Width of a query or key.
    pub key_dim: usize,
    /// Width of a value.
    pub value_dim: usize,
    /// Tokens that the convolution sees, the present one among them.
    pub conv_kernel: usize,
    /// Added to the mean square in the norm of outputs.
    pub norm_eps: f32,
    /// How the file arranges the projections.
    pub layout: DeltaLayout,
    /// Which key head a value head has.
    pub order: DeltaOrder,
    /// Whether the file has the logarithm of the rate of forgetting, and not the negative rate.
    pub log_decay: bool,
    /// Whether gates are sigmoids, and not SiLU.
    pub sigmoid_gate: bool,
}

/// How the projections of a gated delta net are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaLayout {
    /// Queries, keys and values in one matrix; gates, strengths and steps in one each (Qwen3.5).
    Apart,
    /// As `Apart`, but strengths and steps are together, those of each key head one after the other.
    StepsByKeyHead,
    /// Everything by key head: queries, keys, values and gates; strengths and steps (Qwen3-Next).
    ByKeyHead,
}

/// The order of value heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaOrder {
    /// Those of the first key head, those of the second, and so on.
    Grouped,
    /// The first of each key head, the second of each, and so on.
    Tiled,
}

impl DeltaSpec {
    /// Channels of the convolution: queries, keys and values.
    pub fn channels(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.values()
    }

    /// Width of the values of all heads.
    pub fn values(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Numbers that the convolution keeps between tokens.
    pub fn conv_numbers(&self) -> usize {
        (self.conv_kernel - 1) * self.channels()
    }

    /// Numbers that are kept between tokens.
    pub fn state_numbers(&self) -> usize {
        self.conv_numbers() + self.value_heads * self.key_dim * self.value_dim
    }
}
