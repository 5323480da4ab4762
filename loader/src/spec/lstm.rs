//! Long short-term memory, as data. It must not know layers.

/// Long short-term memory with a forget gate (Hochreiter and Schmidhuber 1997; Gers et al. 2000). With the
/// token `x` and its last output `h`, `i, f, g, o = W x + U h + b`; then the memory is
/// `c = sigmoid(f) * c + sigmoid(i) * tanh(g)`, and the output `h = sigmoid(o) * tanh(c)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LstmSpec {
    /// Units, as many as the residual stream is wide.
    pub width: usize,
}

impl LstmSpec {
    /// Numbers that are kept between tokens: outputs and memories.
    pub fn state_numbers(&self) -> usize {
        2 * self.width
    }
}
