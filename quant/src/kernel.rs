//! The kernels of one tier as a table, and the safe functions that call it: every shape is asserted here, once, so that
//! the kernels need not. It must not know how any tier works.
//!
//! **Invariance.** For one tier, the bits of an output depend only on the values that define it, never on how many tokens
//! or rows were asked for together. `tiled` says why this holds for products.

#![allow(unsafe_code, reason = "kernels are reached through pointers whose instructions were detected")]

use half::f16;

use crate::{Format, Isa, QMatrix};

mod attend;
mod prefetch;
mod scalar;
mod tiled;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use attend::{Attend, KEY_GROUP, KvHead, MAX_HEAD_DIM, Running, SPAN};

/// Decodes whole blocks of one format.
type Unpack = unsafe fn(&[u8], &mut [f32]);
/// A product with one token straight from the blocks: matrix, `x`, `out`.
type Fused = unsafe fn(QMatrix<'_>, &[f32], &mut [f32]);

/// Layer normalisation: `x`, weight, bias, epsilon, `out`.
type LayerNorm = unsafe fn(&[f32], &[f32], &[f32], f32, &mut [f32]);

/// The kernels of one tier. Get one from [`Kernels::for_isa`]; it lives forever and any thread may use it.
///
/// The functions are `unsafe` to call because they may need instructions that the machine lacks. The table itself is
/// only handed out after they were detected, which makes its methods safe.
pub struct Kernels {
    isa: Isa,
    /// Floats per accumulator of `block`.
    lanes: usize,
    /// By `Format as usize`.
    unpack: [Unpack; Format::ALL.len()],
    /// By `Format as usize`; a tier without fused products unpacks first.
    fused: Option<[Fused; Format::ALL.len()]>,
    block: unsafe fn(tiled::Block<'_>),
    dot: unsafe fn(&[f32], &[f32]) -> f32,
    dot_f16: unsafe fn(&[f32], &[f16]) -> f32,
    axpy: unsafe fn(f32, &[f32], &mut [f32]),
    axpy_f16: unsafe fn(f32, &[f16], &mut [f32]),
    to_f16: unsafe fn(&[f32], &mut [f16]),
    scale: unsafe fn(f32, &mut [f32]),
    rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    layer_norm: LayerNorm,
    softmax: unsafe fn(&mut [f32]),
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
        let kernels = match isa {
            Isa::Scalar => &scalar::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &x86::AVX2,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &x86::AVX512,
            #[cfg(not(target_arch = "x86_64"))]
            _ => return None,
        };
        isa.is_available().then_some(kernels)
    }

    /// The tier.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// `out[r, t] = sum over k of w[r, k] * x[t, k]`, with `x` `[tokens, cols]` and `out` `[rows, tokens]`. Threads share a
    /// product by taking ranges of rows: these are contiguous in `out`, and the split changes no bit.
    ///
    /// Weights are those of [`crate::decode`], bit for bit; the sum is in `f32`. Each thread that calls this keeps a scratch
    /// of [`Kernels::SCRATCH_BYTES`]; nothing else is allocated.
    ///
    /// # Panics
    /// If `tokens` is 0 or a length disagrees with the shape.
    pub fn matmul(&self, w: QMatrix<'_>, x: &[f32], tokens: usize, out: &mut [f32]) {
        assert!(tokens > 0, "matmul needs a token");
        assert_eq!(Some(x.len()), tokens.checked_mul(w.cols()), "matmul: x is not [tokens, cols]");
        assert_eq!(Some(out.len()), tokens.checked_mul(w.rows()), "matmul: out is not [rows, tokens]");
        if w.cols() == 0 {
            out.fill(0.0);
            return;
        }
        match self.fused {
            // SAFETY: `for_isa` detected the tier's instructions; the matrix was checked when it was built and `x`
            // and `out` just now.
            Some(fused) if tokens == 1 => unsafe { fused[w.format() as usize](w, x, out) },
            _ => tiled::matmul(self, w, x, tokens, out),
        }
    }

    /// Bytes of scratch that each thread keeps after its first [`Kernels::matmul`] of several tokens.
    pub const SCRATCH_BYTES: usize = tiled::SCRATCH * size_of::<f32>();

    /// Decodes whole blocks: [`crate::decode`] with this tier's instructions and the same bits.
    ///
    /// # Panics
    /// As [`crate::decode`].
    pub fn decode(&self, format: Format, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(format.row_bytes(out.len()), Some(bytes.len()), "decode: lengths disagree");
        // SAFETY: `for_isa` detected the tier's instructions; the lengths agree.
        unsafe { self.unpack[format as usize](bytes, out) }
    }

    /// The sum of `a[i] * b[i]`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len(), "dot");
        // SAFETY: `for_isa` detected the tier's instructions; the lengths agree.
        unsafe { (self.dot)(a, b) }
    }

    /// The sum of `a[i] * b[i]`, in single precision.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn dot_f16(&self, a: &[f32], b: &[f16]) -> f32 {
        assert_eq!(a.len(), b.len(), "dot_f16");
        // SAFETY: `for_isa` detected the tier's instructions; the lengths agree.
        unsafe { (self.dot_f16)(a, b) }
    }

    /// `y[i] += alpha * x[i]`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn axpy(&self, alpha: f32, x: &[f32], y: &mut [f32]) {
        assert_eq!(x.len(), y.len(), "axpy");
        // SAFETY: `for_isa` detected the tier's instructions; the lengths agree.
        unsafe { (self.axpy)(alpha, x, y) }
    }

    /// `y[i] += alpha * x[i]`, in single precision.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn axpy_f16(&self, alpha: f32, x: &[f16], y: &mut [f32]) {
        assert_eq!(x.len(), y.len(), "axpy_f16");
        // SAFETY: `for_isa` detected the tier's instructions; the lengths agree.
        unsafe { (self.axpy_f16)(alpha, x, y) }
    }

    /// Rounds to half precision, to nearest even; what is too large becomes infinite.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn to_f16(&self, src: &[f32], dst: &mut [f16]) {
        assert_eq!(src.len(), dst.len(), "to_f16");
        // SAFETY: `for_isa` detected the tier's instructions; the lengths agree.
        unsafe { (self.to_f16)(src, dst) }
    }

    /// `x[i] *= alpha`.
    pub fn scale(&self, alpha: f32, x: &mut [f32]) {
        // SAFETY: `for_isa` detected the tier's instructions.
        unsafe { (self.scale)(alpha, x) }
    }

    /// Root mean square normalisation (arXiv 1910.07467): `out = x / sqrt(mean(x^2) + eps) * weight`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len(), "rms_norm");
        // SAFETY: `for_isa` detected the tier's instructions; the lengths agree.
        unsafe { (self.rms_norm)(x, weight, eps, out) }
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
        unsafe { (self.layer_norm)(x, weight, bias, eps, out) }
    }

    /// `x[i] = exp(x[i] - max(x)) / sum`, in place. Entries of minus infinity become 0, and so does a row that holds nothing
    /// else. NaN or plus infinity anywhere makes every entry NaN.
    pub fn softmax(&self, x: &mut [f32]) {
        // SAFETY: `for_isa` detected the tier's instructions.
        unsafe { (self.softmax)(x) }
    }

    /// `up[i] *= silu(gate[i])`, where `silu(g) = g / (1 + exp(-g))` (arXiv 1702.03118) and `silu(-inf) = 0`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn silu_mul(&self, gate: &[f32], up: &mut [f32]) {
        assert_eq!(gate.len(), up.len(), "silu_mul");
        // SAFETY: `for_isa` detected the tier's instructions; the lengths agree.
        unsafe { (self.silu_mul)(gate, up) }
    }

    /// `up[i] *= gelu(gate[i])` with the tanh approximation (arXiv 1606.08415), written as `g * sigmoid(2u)`,
    /// `u = sqrt(2/pi) * (g + 0.044715 * g^3)`, and `gelu(-inf) = 0`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn gelu_tanh_mul(&self, gate: &[f32], up: &mut [f32]) {
        assert_eq!(gate.len(), up.len(), "gelu_tanh_mul");
        // SAFETY: `for_isa` detected the tier's instructions; the lengths agree.
        unsafe { (self.gelu_tanh_mul)(gate, up) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_by_format_are_in_the_order_of_the_enum() {
        for (i, format) in Format::ALL.into_iter().enumerate() {
            assert_eq!(format as usize, i);
        }
    }
}
