//! Products of several tokens by `smmla`: two rows times two tokens in a register. The instruction is not
//! stable in Rust and so is inline assembly. It must not know formats.
//!
//! While a tile is computed, the sums of a pair of tokens are four registers, one for each pair of rows:
//! row 0 and the first token, row 0 and the second, row 1 and the first, row 1 and the second. Scales and
//! activations are brought into that order, so that sums are rearranged once for a tile and not for each
//! block. Weights lie in memory and are read for two pairs of tokens at a time. They are signed here, without
//! their zero. Every sum goes through the steps of `codes`, so the bits are the same.

use core::arch::aarch64::*;
use core::arch::asm;

use super::dots::Smmla;
use super::rows::RowsNeon;
use super::vectors::{Two, as_bytes};
use crate::activations::Activations;
use crate::kernel::wide::blocks::{Blocks, ScalesOf, for_format, zero_of};
use crate::kernel::wide::coded;
use crate::kernel::wide::product8::{
    Chunk, Consumer, TOKENS, TileProduct, Tiles, Tokens, fits, float_scales, walk,
};
use crate::kernel::wide::rows::{CODE_WORDS, Neighbours, Rows, Stock};
use crate::kernel::wide::tier::Tier;
use crate::lattice::is_coded;
use crate::matrix::QMatrix;

/// The rows of this tier.
type R = RowsNeon<Smmla>;
/// Pairs of rows.
const PAIRS: usize = R::ROWS / 2;
/// Sums of a pair of tokens.
const SUMS: usize = 2 * R::ROWS;

// A last token without another has sums for a pair.
const _: () = assert!(R::ROWS * (TOKENS + 1) <= 16 * TOKENS);

/// [`coded::product`], with `smmla` for several tokens.
///
/// # Safety
/// As there.
pub(super) unsafe fn product(w: QMatrix<'_>, x: Activations<'_>, out: &mut [f32]) {
    // SAFETY: as for this function.
    unsafe {
        if x.tokens() == 1 || is_coded(w.format()) || !fits::<R>(w) {
            return coded::product::<R>(w, x, out);
        }
        Chunk::each(w, x, out, |chunk| {
            for_format!(w.format(), |B| R::call(Tiles::<B, Pairs>::of(chunk)));
        });
    }
}

/// Tiles by `smmla`.
struct Pairs;

impl TileProduct<R> for Pairs {
    #[inline(always)]
    unsafe fn tile<B: Blocks>(
        tile: Stock<Neighbours>,
        units: usize,
        x: Tokens<'_>,
        sums: *mut f32,
        stride: usize,
    ) {
        debug_assert_eq!(stride, R::ROWS);
        // SAFETY: the caller guarantees the instructions, the rows and the tokens, and sums for them and one
        // more, as asserted above.
        unsafe {
            let pairs = x.count.div_ceil(2);
            sums.write_bytes(0, pairs * SUMS);
            walk::<R, B, _, _>(tile, 0..units, &mut Adder { x, sums });
            for pair in 0..pairs {
                let at = sums.add(pair * SUMS);
                let rows: [float32x4_t; PAIRS] = std::array::from_fn(|p| vld1q_f32(at.add(4 * p)));
                vst1q_f32(at, vuzp1q_f32(rows[0], rows[1]));
                vst1q_f32(at.add(4), vuzp1q_f32(rows[2], rows[3]));
                vst1q_f32(at.add(8), vuzp2q_f32(rows[0], rows[1]));
                vst1q_f32(at.add(12), vuzp2q_f32(rows[2], rows[3]));
            }
        }
    }
}

/// `sums += w * a`: two rows of eight codes times two tokens of eight codes.
///
/// # Safety
/// The processor has `smmla`.
#[inline(always)]
unsafe fn smmla(mut sums: int32x4_t, w: int64x2_t, a: int64x2_t) -> int32x4_t {
    // SAFETY: the caller guarantees the instruction, which changes one register.
    unsafe {
        asm!(
            "smmla {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sums, in(vreg) w, in(vreg) a,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// Codes without their zero, as pairs of rows: columns `8 j ..` of rows `2 p` and `2 p + 1` in `[p][j]`.
#[inline(always)]
fn rows_in_pairs<B: Blocks>(codes: &[Two; 8]) -> [[int64x2_t; 4]; PAIRS] {
    let zero = const { zero_of::<R, B>() };
    // SAFETY: every processor of this architecture has NEON.
    unsafe {
        let mut out = [[vdupq_n_s64(0); 4]; PAIRS];
        for (p, out) in out.iter_mut().enumerate() {
            let row = |r: usize, half: usize| {
                let codes = as_bytes(codes[4 * half + (2 * p + r) % 4][(2 * p + r) / 4]);
                vreinterpretq_s64_u8(if zero > 0 { vsubq_u8(codes, vdupq_n_u8(zero as u8)) } else { codes })
            };
            for half in 0..2 {
                out[2 * half] = vzip1q_s64(row(0, half), row(1, half));
                out[2 * half + 1] = vzip2q_s64(row(0, half), row(1, half));
            }
        }
        out
    }
}

/// Numbers of eight rows, each twice: those of rows `2 p` and `2 p + 1` in `[p]`.
#[inline(always)]
fn twice(v: [float32x4_t; 2]) -> [float32x4_t; PAIRS] {
    // SAFETY: every processor of this architecture has NEON.
    unsafe {
        [vzip1q_f32(v[0], v[0]), vzip2q_f32(v[0], v[0]), vzip1q_f32(v[1], v[1]), vzip2q_f32(v[1], v[1])]
    }
}

/// Two words at `from`, twice.
///
/// # Safety
/// They are good for reading.
#[inline(always)]
unsafe fn two_words<T>(from: *const T) -> int32x4_t {
    const { assert!(size_of::<T>() == 4) };
    // SAFETY: as for this function; every processor of this architecture has NEON.
    unsafe { vreinterpretq_s32_s64(vdupq_n_s64(from.cast::<i64>().read_unaligned())) }
}

/// What two tokens contribute to a block.
struct Pair {
    /// Columns `8 j ..` of both.
    codes: [int64x2_t; 4],
    scales: float32x4_t,
    /// Negated sums of all codes and of the first 16.
    minus_sums: [int32x4_t; 2],
}

impl Pair {
    /// Reads two tokens that follow each other.
    ///
    /// # Safety
    /// They are good for reading in every part.
    #[inline(always)]
    unsafe fn read(codes: *const u32, scales: *const f32, minus_sums: [*const i32; 2]) -> Self {
        // SAFETY: as for this function. Eight bytes in turn, each to the next register: two tokens have four
        // times eight each.
        unsafe {
            let int64x2x4_t(a, b, c, d) = vld4q_s64(codes.cast());
            Self {
                codes: [a, b, c, d],
                scales: vreinterpretq_f32_s32(two_words(scales)),
                minus_sums: [two_words(minus_sums[0]), two_words(minus_sums[1])],
            }
        }
    }

    /// The negated sums of part `h` of a block.
    #[inline(always)]
    fn minus_sums<B: Blocks>(&self, h: usize) -> float32x4_t {
        let [sum, low] = self.minus_sums;
        // SAFETY: every processor of this architecture has NEON.
        unsafe {
            vcvtq_f32_s32(match (B::SHAPE.halves, h) {
                (true, 0) => low,
                (true, _) => vsubq_s32(sum, low),
                (false, _) => sum,
            })
        }
    }

    /// Reads one token, twice: a last one may have none after it.
    ///
    /// # Safety
    /// As [`Pair::read`], for one token.
    #[inline(always)]
    unsafe fn read_twice(codes: *const u32, scales: *const f32, minus_sums: [*const i32; 2]) -> Self {
        // SAFETY: as for this function.
        unsafe {
            let mut both = [[0; CODE_WORDS]; 2];
            both.fill(codes.cast::<[u32; CODE_WORDS]>().read());
            let [sum, low] = [[minus_sums[0].read(); 2], [minus_sums[1].read(); 2]];
            Self::read(both.as_ptr().cast(), [scales.read(); 2].as_ptr(), [sum.as_ptr(), low.as_ptr()])
        }
    }
}

/// Weights of a block and what their sums are multiplied with, as pairs of rows.
struct Weights {
    codes: [[int64x2_t; 4]; PAIRS],
    /// Scales, then minima in formats that have them: of the block, or of each half.
    factors: [[float32x4_t; 4]; PAIRS],
}

impl Weights {
    #[inline(always)]
    fn of<B: Blocks>(codes: &[Two; 8], scales: &B::Scales<R>, i: usize) -> Self {
        let parts = parts::<B>();
        // SAFETY: every processor of this architecture has NEON.
        let mut factors = [[unsafe { vdupq_n_f32(0.0) }; 4]; PAIRS];
        for part in 0..parts {
            let at = parts * i + part;
            for (factors, scale) in factors.iter_mut().zip(twice(scales.scale(at))) {
                factors[part] = scale;
            }
            if B::SHAPE.minima {
                for (factors, min) in factors.iter_mut().zip(twice(scales.min(at))) {
                    factors[parts + part] = min;
                }
            }
        }
        Self { codes: rows_in_pairs::<B>(codes), factors }
    }
}

/// Parts of a block that have a scale each.
const fn parts<B: Blocks>() -> usize {
    if B::SHAPE.halves { 2 } else { 1 }
}

/// The same pointer. To the compiler what it points at may have changed, so that it is read where it is used:
/// kept in registers, weights and scales would leave too few for two pairs of tokens.
#[inline(always)]
fn in_memory<T>(value: &T) -> *const T {
    let mut at: *const T = value;
    // SAFETY: the assembly is empty.
    unsafe { asm!("/* {0} */", inout(reg) at, options(nostack, preserves_flags)) };
    at
}

/// Adds blocks to the sums of pairs of tokens.
struct Adder<'a> {
    x: Tokens<'a>,
    sums: *mut f32,
}

impl<B: Blocks> Consumer<R, B> for Adder<'_> {
    float_scales!();

    #[inline(always)]
    unsafe fn take(&mut self, block: usize, codes: &[Two; 8], scales: &B::Scales<R>, i: usize) {
        let weights = Weights::of::<B>(codes, scales, i);
        let weights = in_memory(&weights);
        // SAFETY: the caller guarantees the instructions and the block; there are sums for every pair.
        unsafe {
            let (a, sides) = self.x.sides(block);
            let pair = |t: usize| {
                let sides = sides.from(t);
                Pair::read(a.add(t * CODE_WORDS), sides.scales, sides.minus_sums)
            };
            let mut t = 0;
            while t + 3 < self.x.count {
                add::<B, 2>(weights, &[pair(t), pair(t + 2)], self.sums.add(t * R::ROWS));
                t += 4;
            }
            if t + 1 < self.x.count {
                add::<B, 1>(weights, &[pair(t)], self.sums.add(t * R::ROWS));
                t += 2;
            }
            if t < self.x.count {
                let sides = sides.from(t);
                let pair = Pair::read_twice(a.add(t * CODE_WORDS), sides.scales, sides.minus_sums);
                add::<B, 1>(weights, &[pair], self.sums.add(t * R::ROWS));
            }
        }
    }
}

/// Adds a block times pairs of tokens to their sums.
///
/// # Safety
/// As [`Rows`], with [`SUMS`] sums of each pair.
#[inline(always)]
unsafe fn add<B: Blocks, const N: usize>(weights: *const Weights, pairs: &[Pair; N], sums: *mut f32) {
    let parts = const { parts::<B>() };
    // SAFETY: as for this function; the weights are a reference's.
    unsafe {
        let zero = vdupq_n_s32(0);
        for two in 0..PAIRS / 2 {
            let at = |n: usize, p: usize| sums.add(n * SUMS + 4 * (2 * two + p));
            let mut acc: [[float32x4_t; 2]; N] =
                std::array::from_fn(|n| [vld1q_f32(at(n, 0)), vld1q_f32(at(n, 1))]);
            for p in 0..2 {
                let (codes, factors) = ((*weights).codes[2 * two + p], (*weights).factors[2 * two + p]);
                for (pair, acc) in pairs.iter().zip(&mut acc) {
                    for h in 0..parts {
                        let mut dot = zero;
                        #[allow(clippy::needless_range_loop, reason = "other loops are not unrolled")]
                        for j in 4 / parts * h..4 / parts * (h + 1) {
                            dot = smmla(dot, codes[j], pair.codes[j]);
                        }
                        let mut v = vmulq_f32(vcvtq_f32_s32(dot), factors[h]);
                        if B::SHAPE.minima {
                            v = vfmaq_f32(v, pair.minus_sums::<B>(h), factors[parts + h]);
                        }
                        acc[p] = vfmaq_f32(acc[p], v, pair.scales);
                    }
                }
            }
            for (n, acc) in acc.iter().enumerate() {
                vst1q_f32(at(n, 0), acc[0]);
                vst1q_f32(at(n, 1), acc[1]);
            }
        }
    }
}
