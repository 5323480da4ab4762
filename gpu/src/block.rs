//! The shape of an expert, and where its parts lie in a slot. It must not know how it is computed.

use moelten_quant::{BLOCK, Format, QMatrix};

/// Formats with a kernel.
pub const FORMATS: [Format; 8] = [
    Format::Q4_0,
    Format::Q8_0,
    Format::Q4K,
    Format::Q5K,
    Format::Q6K,
    Format::Iq4Nl,
    Format::Iq4Xs,
    Format::Mxfp4,
];

/// A matrix of an expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// How rows are stored.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
}

impl Matrix {
    pub(crate) fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.cols).unwrap_or(0)
    }

    fn bytes(&self) -> usize {
        self.rows * self.row_bytes()
    }
}

/// What is applied between the products.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `silu(gate) * up`.
    Silu,
    /// GELU, tanh approximation.
    GeluTanh,
    /// `max(gate, 0) * up`.
    Relu,
    /// `max(gate, 0)^2 * up`.
    ReluSquared,
    /// `silu(g) * u` with `g = min(gate, limit)`, `u = clamp(up, -limit, limit)`.
    ClampedSilu {
        /// The bound.
        limit: f32,
    },
    /// `g * sigmoid(alpha * g) * (u + 1)` with `g = min(gate, limit)`, `u = clamp(up, -limit, limit)`.
    ClampedSwiglu {
        /// Factor in the sigmoid.
        alpha: f32,
        /// The bound.
        limit: f32,
    },
}

/// An expert: `down(act(gate(x)) * up(x))`, or `down(act(up(x)))`. The bias of `down` is the caller's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Block {
    /// `[d_ff, d_model]`; `None` in an expert of two matrices.
    pub gate: Option<Matrix>,
    /// `[d_ff, d_model]`.
    pub up: Matrix,
    /// `[d_model, d_ff]`.
    pub down: Matrix,
    /// Whether the gate has a bias.
    pub gate_bias: bool,
    /// Whether `up` has a bias.
    pub up_bias: bool,
    /// Applied to the output of the gate, or of `up` in an expert without one.
    pub activation: Activation,
}

/// Matrices and biases that are to be copied to a slot.
#[derive(Debug, Clone, Copy)]
pub struct ExpertBytes<'a> {
    /// As [`Block::gate`].
    pub gate: Option<QMatrix<'a>>,
    /// As [`Block::up`].
    pub up: QMatrix<'a>,
    /// As [`Block::down`].
    pub down: QMatrix<'a>,
    /// `[d_ff]`.
    pub gate_bias: Option<&'a [f32]>,
    /// `[d_ff]`.
    pub up_bias: Option<&'a [f32]>,
}

/// Where the parts of an expert begin in its slot, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    pub gate: usize,
    pub up: usize,
    pub down: usize,
    pub gate_bias: usize,
    pub up_bias: usize,
    /// Bytes of a slot.
    pub slot: usize,
}

/// What parts of a slot are aligned to.
const ALIGN: usize = 16;
/// Largest number of rows or columns: sums of addresses stay far below 2^32, and a dispatch has at most
/// 65,535 workgroups of eight rows.
const MOST: usize = 500_000;

impl Block {
    /// Whether it can be computed here; otherwise the reason.
    ///
    /// # Errors
    /// What is not possible, in words.
    pub fn check(&self) -> Result<(), String> {
        for matrix in self.gate.iter().chain([&self.up, &self.down]) {
            if !FORMATS.contains(&matrix.format) {
                return Err(format!("{} has no kernel for a GPU", matrix.format));
            }
            let whole = matrix.cols.is_multiple_of(BLOCK.max(matrix.format.block_len()));
            if !whole || matrix.cols == 0 || matrix.rows == 0 || matrix.rows.max(matrix.cols) > MOST {
                return Err(format!("{} x {} weights have no kernel", matrix.rows, matrix.cols));
            }
        }
        let wide = |matrix: &Matrix| (matrix.rows, matrix.cols) == (self.d_ff(), self.d_model());
        if !wide(&self.up) || !self.gate.iter().all(wide) || self.down.rows != self.d_model() {
            return Err("matrices do not fit each other".to_owned());
        }
        Ok(())
    }

    /// Width of the hidden layer.
    pub fn d_ff(&self) -> usize {
        self.down.cols
    }

    /// Width of inputs and outputs.
    pub fn d_model(&self) -> usize {
        self.up.cols
    }

    /// What one expert takes of a slab: matrices and biases, each aligned.
    pub fn slot_bytes(&self) -> usize {
        self.places().slot
    }

    pub(crate) fn places(&self) -> Places {
        let mut end = 0;
        let mut take = |bytes: usize| {
            let at = end;
            end += bytes.next_multiple_of(ALIGN);
            at
        };
        let bias = |has: bool| if has { self.d_ff() * 4 } else { 0 };
        let gate = take(self.gate.map_or(0, |gate| gate.bytes()));
        let up = take(self.up.bytes());
        let down = take(self.down.bytes());
        let gate_bias = take(bias(self.gate_bias));
        let up_bias = take(bias(self.up_bias));
        Places { gate, up, down, gate_bias, up_bias, slot: end }
    }
}
