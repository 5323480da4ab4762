//! The tables of functions that make up a tier. It must not know any tier.

use half::f16;

use super::attend::{Attend, Running};
use super::piece::PieceProduct;
use super::recurrence::{DeltaStep, SpaceStep};
use crate::activations::{Activations, Columns, Record};
use crate::format::Format;
use crate::isa::Isa;
use crate::matrix::QMatrix;

/// Layer normalisation: `x`, weight, bias, epsilon, `out`.
type LayerNorm = unsafe fn(&[f32], &[f32], &[f32], f32, &mut [f32]);
/// A product of float weights with one token: matrix, `x`, `out`.
type Fused = unsafe fn(QMatrix<'_>, &[f32], &mut [f32]);

/// The exclusive or of all words of some lines.
pub(super) type Read = unsafe fn(&[[u8; 64]]) -> u64;

/// The kernels of one tier. [`Kernels::for_isa`] returns a `'static` one that any thread may use.
///
/// The functions are `unsafe` to call because they may need instructions that the machine lacks. `for_isa`
/// returns a table only after it detected them, which makes the methods safe.
pub struct Kernels {
    pub(super) isa: Isa,
    pub(super) floats: &'static Floats,
    pub(super) codes: &'static Codes,
    /// Loops of other tiers for products of quantised weights, if they were picked; else those of `codes`.
    pub(super) picked: Option<Products>,
    pub(super) peaks: &'static Peaks,
}

/// A product of quantised weights.
pub(super) type Product = unsafe fn(QMatrix<'_>, Activations<'_>, &mut [f32]);

/// Products by format, with one token and with several.
#[derive(Clone, Copy)]
pub(super) struct Products {
    pub one: [Product; Format::ALL.len()],
    pub several: [Product; Format::ALL.len()],
}

/// Kernels on int8 activations.
pub(super) struct Codes {
    /// A product of quantised weights.
    pub product: Product,
    /// [`crate::activations::fill`].
    pub fill: unsafe fn(Columns<'_>, usize, Record<'_>),
}

/// Kernels on floats. Tiers that differ only in their integer instructions share one.
pub(super) struct Floats {
    /// Floats per accumulator of `block`.
    pub lanes: usize,
    /// Decodes floats of any format.
    pub unpack: unsafe fn(Format, &[u8], &mut [f32]),
    /// A product with one token straight from the matrix; a tier without one unpacks first.
    pub fused: Option<Fused>,
    pub block: unsafe fn(PieceProduct<'_>),
    pub dot: unsafe fn(&[f32], &[f32]) -> f32,
    pub axpy: unsafe fn(f32, &[f32], &mut [f32]),
    pub to_f16: unsafe fn(&[f32], &mut [f16]),
    pub scale: unsafe fn(f32, &mut [f32]),
    pub rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    pub layer_norm: LayerNorm,
    pub attend: unsafe fn(&Attend<'_>, &mut [f32], &mut [Running]),
    pub attend_merge: unsafe fn(&[f32], Running, &mut [f32], &mut Running),
    pub silu_mul: unsafe fn(&[f32], &mut [f32]),
    pub gelu_tanh_mul: unsafe fn(&[f32], &mut [f32]),
    pub delta_step: unsafe fn(DeltaStep<'_>, &mut [f32]),
    pub space_step: unsafe fn(SpaceStep<'_>, &mut [f32]),
}

/// How memory is read to measure its speed. Which order is the faster one depends on the processor: on Zen 3
/// bursts get two thirds of what lines in turn get (`docs/bench.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// A line of each of several streams in turn.
    InTurn,
    /// Several lines of a stream together.
    InBursts,
}

impl Reading {
    /// All orders.
    pub const ALL: [Self; 2] = [Self::InTurn, Self::InBursts];
}

/// Loops that measure the limits of a core.
pub(super) struct Peaks {
    /// The exclusive or of all 64-bit words, one loop for each [`Reading`].
    pub read: [Read; Reading::ALL.len()],
    /// Multiplies in registers as many rounds as are asked for; the result is the number of operations.
    pub multiply: unsafe fn(usize) -> u64,
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernels").field("isa", &self.isa).finish_non_exhaustive()
    }
}
