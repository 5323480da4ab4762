//! Kimi delta attention, as data. It must not know layers.

/// Kimi delta attention (arXiv 2510.26692): a gated delta net whose matrix forgets each row at a rate of its
/// own. For each head a matrix `S` `[head_dim, head_dim]`: `S *= e^g` row by row, `S += k (b (v - S^T k))^T`,
/// `y = S^T q`, with queries and keys of length 1 after a short convolution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KdaSpec {
    /// Heads, each with a matrix of its own.
    pub heads: usize,
    /// Width of a query, key and value.
    pub head_dim: usize,
    /// Tokens that the convolutions see, the present one among them.
    pub conv_kernel: usize,
    /// Width between the two matrices that give rates, and the two that give gates; `None` for one matrix
    /// each.
    pub rank: Option<usize>,
    /// `Some(l)`: rates are `l * sigmoid(e^a (f + bias))`; else `-e^a softplus(f + bias)`.
    pub lower_bound: Option<f32>,
    /// Added to the mean square in the norm of outputs.
    pub norm_eps: f32,
    /// Whether the file has `a`, and not `-e^a`.
    pub log_decay: bool,
}

impl KdaSpec {
    /// Width of the values of all heads.
    pub fn inner(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Numbers that the convolutions keep between tokens.
    pub fn taps_kept(&self) -> usize {
        (self.conv_kernel - 1) * 3 * self.inner()
    }

    /// Numbers that are kept between tokens.
    pub fn state_numbers(&self) -> usize {
        self.taps_kept() + self.inner() * self.head_dim
    }
}
