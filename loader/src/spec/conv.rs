//! Short convolutions, as data. It must not know layers.

/// A gated short convolution (LFM2): of the projections `b`, `c` and `h` of a token, `c * conv(b * h)`,
/// where the convolution takes each channel by itself over the last tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvSpec {
    /// Channels.
    pub width: usize,
    /// Tokens that the convolution sees, the present one among them.
    pub kernel: usize,
    /// Whether the projections and the convolution have biases.
    pub bias: bool,
}

impl ConvSpec {
    /// Numbers that are kept between tokens.
    pub fn state_numbers(&self) -> usize {
        (self.kernel - 1) * self.width
    }
}
