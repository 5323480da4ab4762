//! The safe functions of [`Kernels`]: every shape is asserted here, so the functions of the tables need no
//! checks. It must not know how any tier works.
//!
//! **Invariance.** For one tier, the bits of an output depend only on the values that define it, never on
//! how many tokens or rows are computed together. `tiled` says why this holds for products.

use half::f16;

use super::attend::{Attend, Running};
use super::recurrence::{DeltaStep, SpaceStep};
use super::table::{Kernels, Reading};
use super::tiled;
use crate::activations::{ActivationKind, Activations, BLOCK, Columns, Record};
use crate::isa::Isa;
use crate::matrix::QMatrix;

impl Kernels {
    /// The instruction set that the functions were compiled for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// `out[r, t] = sum over k of w[r, k] * x[t, k]`. Outputs are grouped like activations of the next
    /// product: `out` is `[rows / 32, tokens, 32]`, the last group holding the remaining rows; with one
    /// token that is `[rows]`. Threads share a product by ranges of rows that start at multiples of
    /// [`GROUP_ROWS`]: these are contiguous in `out`, and the split changes no bit.
    ///
    /// Float weights are summed in `f32`. Quantised weights follow the definition in `codes`, to the last
    /// bit on every tier. Each thread keeps a scratch of [`Kernels::SCRATCH_BYTES`] for float weights and,
    /// with AMX, a smaller one for quantised ones; nothing else is allocated.
    ///
    /// # Panics
    /// If the activations are not of the kind or width that the matrix takes, or `out` is not
    /// `rows * tokens` long.
    pub fn matmul(&self, w: QMatrix<'_>, x: Activations<'_>, out: &mut [f32]) {
        assert_eq!(x.kind(), ActivationKind::of(w.format()), "matmul: activations for {}", w.format());
        assert_eq!(x.cols(), w.cols(), "matmul: x is not [tokens, cols]");
        assert_eq!(Some(out.len()), x.tokens().checked_mul(w.rows()), "matmul: out is not [rows, tokens]");
        if w.cols() == 0 || out.is_empty() {
            out.fill(0.0);
            return;
        }
        match (x.kind(), self.floats.fused) {
            // SAFETY: `for_isa` and `with_picks` detected the instructions; the matrix and the activations
            // were checked when they were built, and their shapes and that of `out` above.
            (ActivationKind::Q8, _) => unsafe { self.product(w.format(), x.tokens())(w, x, out) },
            // SAFETY: as above; the records hold one token.
            (ActivationKind::F32, Some(fused)) if x.place().0 == 1 => unsafe { fused(w, x.floats(), out) },
            (ActivationKind::F32, _) => tiled::matmul(self, w, x, out),
        }
    }

    /// Bytes of scratch that each thread keeps after its first [`Kernels::matmul`] of float weights and
    /// several tokens.
    pub const SCRATCH_BYTES: usize = tiled::SCRATCH * size_of::<f32>();

    /// Writes columns of some tokens into a record, as its tokens `first ..`: the same bits on every tier.
    ///
    /// # Panics
    /// If a length disagrees with the shape or the record has no such tokens.
    pub fn fill(&self, from: Columns<'_>, first: usize, record: Record<'_>) {
        assert!(0 < from.width && from.width <= BLOCK, "fill: {} columns", from.width);
        assert!(first + from.tokens <= record.tokens, "fill: the record has {} tokens", record.tokens);
        assert_eq!(record.lines.len(), record.kind.record_lines(record.tokens), "fill: lines of the record");
        // SAFETY: `for_isa` detected the tier's instructions; the function has no other requirements.
        unsafe { (self.codes.fill)(from, first, record) }
    }

    /// The sum of `a[i] * b[i]`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len(), "dot");
        // SAFETY: `for_isa` detected the tier's instructions; the lengths agree.
        unsafe { (self.floats.dot)(a, b) }
    }

    /// `y[i] += alpha * x[i]`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn axpy(&self, alpha: f32, x: &[f32], y: &mut [f32]) {
        assert_eq!(x.len(), y.len(), "axpy");
        // SAFETY: `for_isa` detected the tier's instructions; the lengths agree.
        unsafe { (self.floats.axpy)(alpha, x, y) }
    }

    /// Rounds to half precision, to nearest even; values out of range become infinite.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn to_f16(&self, src: &[f32], dst: &mut [f16]) {
        assert_eq!(src.len(), dst.len(), "to_f16");
        // SAFETY: `for_isa` detected the tier's instructions; the lengths agree.
        unsafe { (self.floats.to_f16)(src, dst) }
    }

    /// `x[i] *= alpha`.
    pub fn scale(&self, alpha: f32, x: &mut [f32]) {
        // SAFETY: `for_isa` detected the tier's instructions.
        unsafe { (self.floats.scale)(alpha, x) }
    }

    /// Root mean square normalisation (arXiv 1910.07467): `out = x / sqrt(mean(x^2) + eps) * weight`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len(), "rms_norm");
        // SAFETY: `for_isa` detected the tier's instructions; the lengths agree.
        unsafe { (self.floats.rms_norm)(x, weight, eps, out) }
    }

    /// Layer normalisation (arXiv 1607.06450): `out = (x - mean) / sqrt(var + eps) * weight + bias`, with
    /// the population variance.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn layer_norm(&self, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
        let n = x.len();
        assert!(n == weight.len() && n == bias.len() && n == out.len(), "layer_norm");
        // SAFETY: `for_isa` detected the tier's instructions; the lengths agree.
        unsafe { (self.floats.layer_norm)(x, weight, bias, eps, out) }
    }

    /// `up[i] *= silu(gate[i])`, where `silu(g) = g / (1 + exp(-g))` (arXiv 1702.03118) and `silu(-inf) = 0`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn silu_mul(&self, gate: &[f32], up: &mut [f32]) {
        assert_eq!(gate.len(), up.len(), "silu_mul");
        // SAFETY: `for_isa` detected the tier's instructions; the lengths agree.
        unsafe { (self.floats.silu_mul)(gate, up) }
    }

    /// `up[i] *= gelu(gate[i])` with the tanh approximation (arXiv 1606.08415), written as `g * sigmoid(2u)`,
    /// `u = sqrt(2/pi) * (g + 0.044715 * g^3)`, and `gelu(-inf) = 0`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn gelu_tanh_mul(&self, gate: &[f32], up: &mut [f32]) {
        assert_eq!(gate.len(), up.len(), "gelu_tanh_mul");
        // SAFETY: `for_isa` detected the tier's instructions; the lengths agree.
        unsafe { (self.floats.gelu_tanh_mul)(gate, up) }
    }

    /// One token of a head by the delta rule, read into `out`, `[value_dim]`.
    ///
    /// # Panics
    /// If the lengths disagree.
    pub fn delta_step(&self, step: DeltaStep<'_>, out: &mut [f32]) {
        let rows = step.k.len();
        step.matrix.check(rows, step.v.len());
        assert!(step.keep.len() == rows && step.q.len() == rows, "delta_step: [key_dim]");
        assert_eq!(step.v.len(), out.len(), "delta_step: [value_dim]");
        // SAFETY: `for_isa` detected the tier's instructions; the lengths agree.
        unsafe { (self.floats.delta_step)(step, out) }
    }

    /// One token of a head of a state space, read into `out`, `[rows]`.
    ///
    /// # Panics
    /// If the lengths disagree.
    pub fn space_step(&self, step: SpaceStep<'_>, out: &mut [f32]) {
        step.matrix.check(out.len(), step.b.len());
        assert!(step.x.len() == out.len() && step.b.len() == step.c.len(), "space_step");
        // SAFETY: `for_isa` detected the tier's instructions; the lengths agree.
        unsafe { (self.floats.space_step)(step, out) }
    }

    /// For every query of the task, the sum of `exp(score - max) * value` over the positions of the task's
    /// spans that its token sees, `score = scale * q . key`. The row is written to `out`, laid out as the
    /// queries; its maximum and the sum of its weights to `state`, at the index of the row in `out` divided
    /// by `head_dim`. Rows that see no position of the spans are left unchanged.
    ///
    /// # Panics
    /// If a length disagrees with the shape, or the cache ends before the last position.
    pub fn attend(&self, task: &Attend<'_>, out: &mut [f32], state: &mut [Running]) {
        task.check(out, state);
        // SAFETY: `for_isa` detected the tier's instructions; every length was checked above.
        unsafe { (self.floats.attend)(task, out, state) }
    }

    /// Merges a row that [`Kernels::attend`] computed for later spans into the row of the spans before
    /// them. In ascending order, the result has the same bits as one call for all spans.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn attend_merge(&self, later: &[f32], later_state: Running, out: &mut [f32], state: &mut Running) {
        assert_eq!(later.len(), out.len(), "attend_merge");
        // SAFETY: `for_isa` detected the tier's instructions; the lengths agree.
        unsafe { (self.floats.attend_merge)(later, later_state, out, state) }
    }

    /// Reads every byte of `data` once, folds it with exclusive or, and returns the fold so that the
    /// compiler cannot drop a read. Timed over much more data than the caches hold, it gives the bandwidth
    /// of the RAM. The fold may differ between tiers and orders.
    pub fn read_through(&self, data: &[u8], order: Reading) -> u64 {
        let (lines, rest) = data.as_chunks::<64>();
        // SAFETY: `for_isa` detected the tier's instructions.
        let folded = unsafe { (self.peaks.read[order as usize])(lines) };
        rest.iter().fold(folded, |folded, &byte| folded ^ u64::from(byte))
    }

    /// Multiplies int8 numbers in registers, with the instructions that products of this tier use, `rounds`
    /// times. Returns the number of operations; a multiplication and an addition are two. Timed, it gives
    /// the peak of a core.
    pub fn multiply_int8(&self, rounds: usize) -> u64 {
        // SAFETY: `for_isa` detected the tier's instructions; tiles only after the system permitted them.
        unsafe { (self.peaks.multiply)(rounds) }
    }
}
