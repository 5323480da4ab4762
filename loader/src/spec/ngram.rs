//! Numbers of runs of tokens, as data. It must not know layers.

/// Rows of a large table, chosen by a hash of the last tokens, that join every residual stream (Qwen3.8): a
/// key of each stream against a query made from the stream gates a value, which passes a convolution over
/// earlier tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct NgramSpec {
    /// The most tokens of a run that is hashed; the fewest are 2.
    pub most_tokens: usize,
    /// Hashes of a run, each with a part of the table of its own.
    pub heads: usize,
    /// Numbers of a row of the table.
    pub width: usize,
    /// Tensors that the table is in, one below the other.
    pub parts: usize,
    /// Taps of the convolution, as many tokens apart as runs are long.
    pub kernel: usize,
    /// The token that stands before a text, and that no run reaches over.
    pub end: u32,
    /// Added to the mean squares of norms.
    pub norm_eps: f32,
    /// The numbers of the hash where metadata have them; `None` where tensors have.
    pub hash: Option<NgramHash>,
}

/// The numbers of a hash: a run is the XOR of its tokens times factors; a head takes it modulo its rows,
/// behind those of the heads before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NgramHash {
    /// Of a token, of the one before it, and so on.
    pub factors: Vec<u64>,
    /// The first row of each head.
    pub first: Vec<u64>,
    /// Rows of each head.
    pub rows: Vec<u64>,
}

impl NgramSpec {
    /// Rows that a token reads.
    pub fn all_heads(&self) -> usize {
        (self.most_tokens - 1) * self.heads
    }

    /// Numbers of these rows together.
    pub fn read_width(&self) -> usize {
        self.all_heads() * self.width
    }

    /// Tokens before a token that its convolution sees, those between taps among them.
    pub fn reach(&self) -> usize {
        (self.kernel - 1) * self.most_tokens
    }

    /// Numbers that are kept between tokens, of streams of `width` together.
    pub fn state_numbers(&self, width: usize) -> usize {
        (self.most_tokens - 1) + self.reach() * width
    }
}
