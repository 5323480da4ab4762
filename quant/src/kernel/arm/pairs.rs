//! Products of several tokens by `smmla`: two rows times two tokens in a register. The instruction is not
//! stable in Rust and so is inline assembly. It must not know formats.
//!
//! While a tile is computed, the sums of a pair of tokens are four registers, one for each pair of rows:
//! row 0 and the first token, row 0 and the second, row 1 and the first, row 1 and the second. Scales and
//! activations are brought into that order, so that sums are rearranged once for a tile and not for each
//! block. Every sum goes through the steps of `codes`, so the bits are the same.

use core::arch::aarch64::*;
use core::arch::asm;

use super::dots::Smmla;
use super::rows::RowsNeon;
use super::vectors::{Two, as_bytes};
use crate::activations::Activations;
use crate::kernel::wide::blocks::{Blocks, ScalesOf, for_format, zero_of};
use crate::kernel::wide::coded;
use crate::kernel::wide::product8::{Chunk, Consumer, TOKENS, TileProduct, Tiles, Tokens, fits, walk};
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

/// Codes as pairs of rows: columns `8 j ..` of rows `2 p` and `2 p + 1` in `[p][j]`.
#[inline(always)]
fn rows_in_pairs(codes: &[Two; 8]) -> [[int64x2_t; 4]; PAIRS] {
    // SAFETY: every processor of this architecture has NEON.
    unsafe {
        let mut out = [[vdupq_n_s64(0); 4]; PAIRS];
        for (p, out) in out.iter_mut().enumerate() {
            let row = |r: usize, half: usize| {
                vreinterpretq_s64_u8(as_bytes(codes[4 * half + (2 * p + r) % 4][(2 * p + r) / 4]))
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

/// Weights of a block and its scales, as pairs of rows.
struct Weights {
    codes: [[int64x2_t; 4]; PAIRS],
    /// Of the block, or of each half.
    scales: [[float32x4_t; PAIRS]; 2],
    /// Likewise, in formats that have them.
    minima: [[float32x4_t; PAIRS]; 2],
}

/// Adds blocks to the sums of pairs of tokens.
struct Adder<'a> {
    x: Tokens<'a>,
    sums: *mut f32,
}

impl<B: Blocks> Consumer<R, B> for Adder<'_> {
    #[inline(always)]
    unsafe fn take(&mut self, block: usize, codes: &[Two; 8], scales: &B::Scales<R>, i: usize) {
        let [first, second] = if B::SHAPE.halves { [2 * i, 2 * i + 1] } else { [i, i] };
        let scale = [twice(scales.scale(first)), twice(scales.scale(second))];
        let minima =
            if B::SHAPE.minima { [twice(scales.min(first)), twice(scales.min(second))] } else { scale };
        let weights = Weights { codes: rows_in_pairs(codes), scales: scale, minima };
        // SAFETY: the caller guarantees the instructions and the block; there are sums for every pair.
        unsafe {
            let (a, sides) = self.x.sides(block);
            let mut t = 0;
            while t + 1 < self.x.count {
                let sides = sides.from(t);
                let pair = Pair::read(a.add(t * CODE_WORDS), sides.scales, sides.minus_sums);
                add::<B>(&weights, &pair, self.sums.add(t * R::ROWS));
                t += 2;
            }
            if t < self.x.count {
                let sides = sides.from(t);
                let pair = Pair::read_twice(a.add(t * CODE_WORDS), sides.scales, sides.minus_sums);
                add::<B>(&weights, &pair, self.sums.add(t * R::ROWS));
            }
        }
    }
}

/// Adds a block times a pair of tokens to their sums.
///
/// # Safety
/// As [`Rows`], with [`SUMS`] sums.
#[inline(always)]
unsafe fn add<B: Blocks>(weights: &Weights, pair: &Pair, sums: *mut f32) {
    let zero = const { zero_of::<R, B>() };
    // SAFETY: as for this function.
    unsafe {
        let [sum, low] = pair.minus_sums;
        let minus_sums = if B::SHAPE.halves { [low, vsubq_s32(sum, low)] } else { [sum, sum] };
        for p in 0..PAIRS {
            let mut acc = vld1q_f32(sums.add(4 * p));
            let parts: &[&[usize]] = if B::SHAPE.halves { &[&[0, 1], &[2, 3]] } else { &[&[0, 1, 2, 3]] };
            for (h, columns) in parts.iter().enumerate() {
                let mut dot = if zero > 0 { vmulq_n_s32(minus_sums[h], zero) } else { vdupq_n_s32(0) };
                for &j in *columns {
                    dot = smmla(dot, weights.codes[p][j], pair.codes[j]);
                }
                let mut v = vmulq_f32(vcvtq_f32_s32(dot), weights.scales[h][p]);
                if B::SHAPE.minima {
                    v = vfmaq_f32(v, vcvtq_f32_s32(minus_sums[h]), weights.minima[h][p]);
                }
                acc = vfmaq_f32(acc, v, pair.scales);
            }
            vst1q_f32(sums.add(4 * p), acc);
        }
    }
}
