//! The kernels of one tier as a table, and the safe functions that call it: every shape is asserted here, once, so that
//! the kernels need not. It must not know how any tier works.
//!
//! **Invariance.** For one tier, the bits of an output depend only on the values that define it, never on how many tokens
//! or rows were asked for together. `tiled` says why this holds for products.

#![allow(unsafe_code, reason = "kernels are reached through pointers whose instructions were detected")]

use half::f16;

use crate::activations::{ActivationKind, Activations, BLOCK, Columns, Record};
use crate::{Format, Isa, QMatrix};

mod attend;
mod limits;
pub(crate) mod lines;
#[cfg(target_arch = "aarch64")]
mod neon;
mod prefetch;
mod scalar;
mod tiled;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use attend::{Attend, KEY_GROUP, KvHead, MAX_HEAD_DIM, Running, SPAN};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::amx::obstacle as amx_obstacle;

/// Rows whose outputs stand together: as many as an activation block has columns.
pub const GROUP_ROWS: usize = 32;
/// Layer normalisation: `x`, weight, bias, epsilon, `out`.
type LayerNorm = unsafe fn(&[f32], &[f32], &[f32], f32, &mut [f32]);
/// A product of float weights with one token: matrix, `x`, `out`.
type Fused = unsafe fn(QMatrix<'_>, &[f32], &mut [f32]);

/// The kernels of one tier. Get one from [`Kernels::for_isa`]; it lives forever and any thread may use it.
///
/// The functions are `unsafe` to call because they may need instructions that the machine lacks. The table itself is
/// only handed out after they were detected, which makes its methods safe.
pub struct Kernels {
    isa: Isa,
    floats: &'static Floats,
    codes: &'static Codes,
}

/// Kernels on int8 activations.
struct Codes {
    /// A product of quantised weights.
    product: unsafe fn(QMatrix<'_>, Activations<'_>, &mut [f32]),
    /// [`crate::activations::fill`].
    fill: unsafe fn(Columns<'_>, usize, Record<'_>),
}

/// Where the outputs of a row and its followers in the same group of 32 rows stand.
#[derive(Clone, Copy)]
struct OutAt {
    /// Output of the row and the first token.
    start: usize,
    /// From token to token.
    stride: usize,
}

/// See [`Kernels::matmul`].
fn out_at(rows: usize, tokens: usize, row: usize, token: usize) -> OutAt {
    let group = row / GROUP_ROWS * GROUP_ROWS;
    let stride = GROUP_ROWS.min(rows - group);
    OutAt { start: group * tokens + token * stride + (row - group), stride }
}

/// Kernels on floats. Tiers that differ only in their integer instructions share one.
struct Floats {
    /// Floats per accumulator of `block`.
    lanes: usize,
    /// Decodes floats of any format.
    unpack: unsafe fn(Format, &[u8], &mut [f32]),
    /// A product with one token straight from the matrix; a tier without one unpacks first.
    fused: Option<Fused>,
    block: unsafe fn(tiled::Block<'_>),
    dot: unsafe fn(&[f32], &[f32]) -> f32,
    axpy: unsafe fn(f32, &[f32], &mut [f32]),
    to_f16: unsafe fn(&[f32], &mut [f16]),
    scale: unsafe fn(f32, &mut [f32]),
    rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    layer_norm: LayerNorm,
    attend: unsafe fn(&Attend<'_>, &mut [f32], &mut [Running]),
    attend_merge: unsafe fn(&[f32], Running, &mut [f32], &mut Running),
    silu_mul: unsafe fn(&[f32], &mut [f32]),
    gelu_tanh_mul: unsafe fn(&[f32], &mut [f32]),
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernels").field("isa", &self.isa).finish_non_exhaustive()
    }
}

impl Kernels {
    /// The kernels of a tier, or `None` if this machine cannot run it.
    pub fn for_isa(isa: Isa) -> Option<&'static Self> {
        let kernels: &'static Self = match isa {
            Isa::Scalar => {
                &const { Self { isa: Isa::Scalar, floats: &scalar::FLOATS, codes: &scalar::CODES } }
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &x86::AVX2,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => &x86::AVX_VNNI,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => &x86::AVX512_VNNI,
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => &x86::AMX,
            #[cfg(not(target_arch = "x86_64"))]
            _ => return None,
        };
        isa.is_available().then_some(kernels)
    }

    /// The tier.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// `out[r, t] = sum over k of w[r, k] * x[t, k]`. Outputs are grouped as the next product's activations are: `out` is
    /// `[rows / 32, tokens, 32]`, the last group having only the rows that are left; with one token that is `[rows]`. Threads
    /// share a product by ranges of rows that start at multiples of [`GROUP_ROWS`]: these are contiguous in `out`, and
    /// the split changes no bit.
    ///
    /// Float weights are summed in `f32`. Quantised weights follow the definition in `codes`, to the last bit on every
    /// tier. Each thread keeps a scratch of [`Kernels::SCRATCH_BYTES`] for float weights and, with AMX, a
    /// smaller one for quantised ones; nothing else is allocated.
    ///
    /// # Panics
    /// If the activations are not of the kind or width that the matrix takes, or `out` is not `rows * tokens` long.
    pub fn matmul(&self, w: QMatrix<'_>, x: Activations<'_>, out: &mut [f32]) {
        assert_eq!(x.kind(), ActivationKind::of(w.format()), "matmul: activations for {}", w.format());
        assert_eq!(x.cols(), w.cols(), "matmul: x is not [tokens, cols]");
        assert_eq!(Some(out.len()), x.tokens().checked_mul(w.rows()), "matmul: out is not [rows, tokens]");
        if w.cols() == 0 || out.is_empty() {
            out.fill(0.0);
            return;
        }
        match (x.kind(), self.floats.fused) {
            // SAFETY: `for_isa` detected the tier's instructions; the matrix and the activations were checked when they
            // were built, and that they and `out` belong together just now.
            (ActivationKind::Q8, _) => unsafe { (self.codes.product)(w, x, out) },
            // SAFETY: as above; the records hold one token.
            (ActivationKind::F32, Some(fused)) if x.place().0 == 1 => unsafe { fused(w, x.floats(), out) },
            (ActivationKind::F32, _) => tiled::matmul(self, w, x, out),
        }
    }

    /// Bytes of scratch that each thread keeps after its first [`Kernels::matmul`] of float weights and several tokens.
    pub const SCRATCH_BYTES: usize = tiled::SCRATCH * size_of::<f32>();

    /// Writes columns of some tokens into a record, as its tokens `first ..`: the same bits on every tier.
    ///
    /// # Panics
    /// If a length disagrees with the shape or the record has no such tokens.
    pub fn fill(&self, from: Columns<'_>, first: usize, record: Record<'_>) {
        assert!(0 < from.width && from.width <= BLOCK, "fill: {} columns", from.width);
        assert!(first + from.tokens <= record.tokens, "fill: the record has {} tokens", record.tokens);
        assert_eq!(record.lines.len(), record.kind.record_lines(record.tokens), "fill: lines of the record");
        // SAFETY: `for_isa` detected the tier's instructions; nothing else is asked of the arguments.
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

    /// Rounds to half precision, to nearest even; what is too large becomes infinite.
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

    /// Layer normalisation (arXiv 1607.06450): `out = (x - mean) / sqrt(var + eps) * weight + bias`, with the population
    /// variance.
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
}
