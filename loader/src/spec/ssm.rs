//! State-space recurrences, as data. It must not know layers.

/// A Mamba-2 block (arXiv 2405.21060). For each head a memory `S` `[head_dim, state]`: with the step `d =
/// softplus(dt + bias)`, `S = e^(d A) S + d x B^T`, `y = S C + D x`, after a short convolution over `x`, `B`
/// and `C`. Outputs are multiplied with `silu(z)` and normed group by group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SsmSpec {
    /// Heads, each with a memory of its own.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Groups of heads that share `B` and `C`; it divides the number of heads.
    pub groups: usize,
    /// Width of `B` and `C`.
    pub state: usize,
    /// Tokens that the convolution sees, the present one among them.
    pub conv_kernel: usize,
    /// Whether the convolution has biases.
    pub conv_bias: bool,
    /// Added to the mean square in the norm of outputs.
    pub norm_eps: f32,
    /// Whether the file has the logarithm of the rate of forgetting, and not the negative rate.
    pub log_decay: bool,
}

impl SsmSpec {
    /// Width of the outputs of all heads.
    pub fn inner(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Channels of the convolution: `x`, `B` and `C`.
    pub fn channels(&self) -> usize {
        self.inner() + 2 * self.groups * self.state
    }

    /// Rows of the projection: `z`, the channels, and the steps.
    pub fn projected(&self) -> usize {
        self.inner() + self.channels() + self.heads
    }

    /// Numbers that the convolution keeps between tokens.
    pub fn taps_kept(&self) -> usize {
        (self.conv_kernel - 1) * self.channels()
    }

    /// Numbers that are kept between tokens.
    pub fn state_numbers(&self) -> usize {
        self.taps_kept() + self.inner() * self.state
    }
}

/// A Mamba block (arXiv 2312.00752) with norms of steps and inputs, as Jamba has it (arXiv 2403.19887). For
/// each channel a memory `S` `[state]`: `S = e^(d A) S + d x B`, `y = S . C + D x`, after a short convolution
/// over `x`; `d = softplus(W rms(t) + bias)`, where `t`, `B` and `C` are projections of `x`. Outputs are
/// multiplied with `silu(z)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SelectiveSpec {
    /// Channels.
    pub inner: usize,
    /// Numbers of a channel's memory.
    pub state: usize,
    /// Width of `t`.
    pub rank: usize,
    /// Tokens that the convolution sees, the present one among them.
    pub conv_kernel: usize,
    /// Whether the convolution has biases.
    pub conv_bias: bool,
    /// Added to the mean square in the norms of `t`, `B` and `C`.
    pub norm_eps: f32,
    /// Whether the file has the logarithms of the rates of forgetting, and not the negative rates.
    pub log_decay: bool,
}

impl SelectiveSpec {
    /// Width of `t`, `B` and `C` together.
    pub fn projected(&self) -> usize {
        self.rank + 2 * self.state
    }

    /// Numbers that the convolution keeps between tokens.
    pub fn taps_kept(&self) -> usize {
        (self.conv_kernel - 1) * self.inner
    }

    /// Numbers that are kept between tokens.
    pub fn state_numbers(&self) -> usize {
        self.taps_kept() + self.inner * self.state
    }
}
