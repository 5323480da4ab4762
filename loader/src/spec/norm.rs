//! Norms, as data. It must not know where they stand.

/// A normalisation over `d_model`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NormSpec {
    /// `x / sqrt(mean(x^2) + eps) * w` (arXiv 1910.07467).
    Rms {
        /// Added to the mean square.
        eps: f32,
    },
    /// `(x - mean) / sqrt(var + eps) * w + b` (arXiv 1607.06450).
    Layer {
        /// Added to the variance.
        eps: f32,
    },
    /// As `Layer`, without `b` (Cohere 2).
    LayerUnbiased {
        /// Added to the variance.
        eps: f32,
    },
}
