//! Feed-forward blocks outside the expert store, which every token of a batch visits: dense blocks and shared
//! experts. The arithmetic is in `mlp`. It must not know which layer a block belongs to, nor where its
//! weights are.

use moelten_loader::spec::Activation;
use moelten_loader::tensors::bank::MatrixRef;
use moelten_quant::Line;

use crate::layers::ffn::mlp::{Biases, MlpView, Visit, add_visits};
use crate::layers::linear::{Compute, Packed};
use crate::layers::scratch::{PASS, ProductScratch};
use crate::layers::squares::{HiddenSquares, HiddenSum};

/// The weights of a feed-forward block outside the expert store.
#[derive(Debug, Clone)]
pub struct Mlp {
    /// `[d_ff, d_model]`; `None` for a block of two matrices.
    pub gate: Option<MatrixRef>,
    /// `[d_ff, d_model]`.
    pub up: MatrixRef,
    /// `[d_model, d_ff]`.
    pub down: MatrixRef,
    /// Biases of the matrices, one block.
    pub biases: MlpBiases,
    /// Applied to the output of the gate, or of `up` in a block without a gate.
    pub activation: Activation,
}

/// Biases of one block, or of all experts of a bank. A list is empty where matrices have no bias.
#[derive(Debug, Clone, Default)]
pub struct MlpBiases {
    /// `[blocks, d_ff]`, added to the output of the gate.
    pub gate: Vec<f32>,
    /// `[blocks, d_ff]`, added to the output of `up`.
    pub up: Vec<f32>,
    /// `[blocks, d_model]`, added to the output of `down`.
    pub down: Vec<f32>,
}

impl MlpBiases {
    /// The biases of one block.
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
    /// The block as the kernels take it.
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

    /// `out = mlp(x)`, both `[tokens, d_model]`. The squares of the hidden layer are added to `squares`.
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
        add_to_all_tokens(compute, &mlp, x, &s.visitors, &mut s.packed, &mut s.hidden, sum, grouped);
        if let Some(HiddenSquares { dense, sums, .. }) = squares {
            dense.add_hidden(0, s.visitors.len(), &mut sums[0]);
        }
        compute.ungroup(grouped, d_model, None, out);
    }
}

/// Adds the outputs of a block that every token visits to `grouped`, `[d_model / 32, tokens, 32]`. `packed`
/// holds `x` in any kinds that were packed before.
#[allow(clippy::too_many_arguments, reason = "every argument is one of the operation's operands")]
pub fn add_to_all_tokens(
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
