//! The gated feed-forward block `down(act(gate(x)) * up(x))` (arXiv 2002.05202): dense layers, shared experts, and
//! each routed expert.

use moelten_loader::spec::Activation;
use moelten_quant::{Kernels, QMatrix};

use crate::layers::linear::Compute;
use crate::scratch::MlpScratch;

/// The three matrices, ready to multiply with.
#[derive(Clone, Copy)]
pub struct MlpView<'a> {
    /// `[d_ff, d_model]`.
    pub gate: QMatrix<'a>,
    /// `[d_ff, d_model]`.
    pub up: QMatrix<'a>,
    /// `[d_model, d_ff]`.
    pub down: QMatrix<'a>,
    /// Applied to the gate.
    pub activation: Activation,
}

impl MlpView<'_> {
    /// The block over a chunk: `x` and `out` are `[tokens, d_model]`, `tmp` holds as much as `out`.
    pub fn forward(
        &self,
        compute: Compute<'_>,
        x: &[f32],
        tokens: usize,
        s: &mut MlpScratch,
        out: &mut [f32],
        tmp: &mut [f32],
    ) {
        if tokens == 1 {
            return self.forward_by_rows(compute, x, 1, s, out);
        }
        let tmp = &mut tmp[..out.len()];
        self.forward_by_rows(compute, x, tokens, s, tmp);
        compute.transpose(tmp, tokens, out);
    }

    /// `out[r, t]` of the block, `[d_model, tokens]`; `x` is `[tokens, d_model]`.
    pub fn forward_by_rows(
        &self,
        compute: Compute<'_>,
        x: &[f32],
        tokens: usize,
        s: &mut MlpScratch,
        out: &mut [f32],
    ) {
        let d_ff = self.gate.rows();
        let hidden = &mut s.hidden[..d_ff * tokens];
        let gate = &mut s.gate[..d_ff * tokens];
        compute.matmul_by_rows(self.gate, x, tokens, gate);
        let kernels = compute.kernels;
        let gate = &*gate;
        compute.pool.rows(hidden, tokens, |rows, hidden| {
            kernels.matmul(self.up.slice_rows(rows.clone()), x, tokens, hidden);
            activate(kernels, self.activation, &gate[rows.start * tokens..rows.end * tokens], hidden);
        });
        let hidden = if tokens == 1 {
            &*hidden
        } else {
            compute.transpose(hidden, tokens, &mut s.gate[..d_ff * tokens]);
            &s.gate[..d_ff * tokens]
        };
        compute.matmul_by_rows(self.down, hidden, tokens, out);
    }
}

/// `up = act(gate) * up`.
pub fn activate(kernels: &Kernels, activation: Activation, gate: &[f32], up: &mut [f32]) {
    match activation {
        Activation::Silu => kernels.silu_mul(gate, up),
        Activation::GeluTanh => kernels.gelu_tanh_mul(gate, up),
    }
}
