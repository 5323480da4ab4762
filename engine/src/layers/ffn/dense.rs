//! Feed-forward blocks outside the expert store: dense blocks and shared experts. Every token of a batch visits them. The
//! arithmetic is that of `mlp`. It must not know layers, nor files.

use moelten_loader::spec::Activation;
use moelten_loader::tensors::bank::MatrixRef;
use moelten_quant::Line;

use crate::layers::ffn::mlp::{Biases, MlpView, Visit, add_visits};
use crate::layers::linear::{Compute, Packed};
use crate::layers::scratch::{PASS, ProductScratch};
use crate::layers::squares::{HiddenSquares, HiddenSum};

/// A feed-forward block outside the expert store.
#[derive(Debug, Clone)]
pub struct Mlp {
    /// `[d_ff, d_model]`; `None` for a block of two matrices.
    pub gate: Option<MatrixRef>,
    /// `[d_ff, d_model]`.
    pub up: MatrixRef,
    /// `[d_model, d_ff]`.
    pub down: MatrixRef,
    /// `[rows]` each.
    pub biases: OwnBiases,
    /// Applied to the gate, or to `up` without one.
    pub activation: Activation,
}

/// Biases in memory, `[blocks, rows]` each; empty where there are none.
#[derive(Debug, Clone, Default)]
pub struct OwnBiases {
    /// Of the gate.
    pub gate: Vec<f32>,
    /// Of `up`.
    pub up: Vec<f32>,
    /// Of `down`.
    pub down: Vec<f32>,
}

impl OwnBiases {
    /// Those of one block of hidden width `d_ff`.
    pub fn of(&self, block: usize, d_ff: usize, d_model: usize) -> Biases<'_> {
        fn part(all: &[f32], block: usize, rows: usize) -> Option<&[f32]> {
            (!all.is_empty()).then(|| &all[block * rows..(block + 1) * rows])
        }
        Biases {
            gate: part(&self.gate, block, d_ff),
            up: part(&self.up, block, d_ff),
            down: part(&self.down, block, d_model),
        }
    }
}

impl Mlp {
    /// The matrices, ready to multiply with.
    pub fn view<'a>(&'a self, compute: Compute<'a>) -> MlpView<'a> {
        let view = |matrix| compute.tensors.view(matrix);
        MlpView {
            gate: self.gate.as_ref().map(view),
            up: view(&self.up),
            down: view(&self.down),
            biases: self.biases.of(0, self.up.rows, self.down.rows),
            activation: self.activation,
        }
    }

    /// `out = mlp(x)`, both `[tokens, d_model]`; `squares` gets those of the hidden layer.
    pub fn forward(
        &self,
        compute: Compute<'_>,
        x: &[f32],
        s: &mut ProductScratch,
        squares: Option<HiddenSquares<'_>>,
        out: &mut [f32],
    ) {
        let (mlp, d_model) = (self.view(compute), self.up.cols);
        let grouped = &mut s.grouped[..out.len()];
        grouped.fill(0.0);
        s.visitors.clear();
        s.visitors.extend((0..x.len() / d_model).map(|token| (token as u32, 1.0)));
        compute.pack(x, d_model, [mlp.up.format()], &mut s.packed);
        let sum = squares.as_ref().map(|squares| &squares.sums[0]);
        add_whole_batch(compute, &mlp, x, &s.visitors, &mut s.packed, &mut s.hidden, sum, grouped);
        if let Some(HiddenSquares { whole, sums, .. }) = squares {
            whole.add_hidden(0, s.visitors.len(), &mut sums[0]);
        }
        compute.ungroup(grouped, d_model, None, out);
    }
}

/// Adds a block that every token visits; `packed` is of this `x`.
#[allow(clippy::too_many_arguments, reason = "every argument is one of the operation's operands")]
pub fn add_whole_batch(
    compute: Compute<'_>,
    mlp: &MlpView<'_>,
    x: &[f32],
    visitors: &[(u32, f32)],
    packed: &mut Packed,
    hidden: &mut [Line],
    squares: Option<&HiddenSum>,
    grouped: &mut [f32],
) {
    let d_model = mlp.up.cols();
    let gate = mlp.gate.as_ref().unwrap_or(&mlp.up);
    compute.pack_also(x, [gate.format(), mlp.up.format()], packed);
    let (to_gate, to_up) = (packed.for_matrix(gate), packed.for_matrix(&mlp.up));
    for (first, visitors) in (0..).step_by(PASS).zip(visitors.chunks(PASS)) {
        let tokens = first..first + visitors.len();
        let (to_gate, to_up) = (to_gate.slice_tokens(tokens.clone()), to_up.slice_tokens(tokens));
        let visit = Visit { mlp: *mlp, to_gate, to_up, visitors, squares };
        add_visits(compute, &[visit], hidden, grouped, d_model);
    }
}
