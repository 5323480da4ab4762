//! Integer products of eight rows with tokens: by widening multiplications, which every processor has, and
//! by `sdot`, which is not stable in Rust and so is inline assembly. It must not know formats.
//!
//! **Range.** `smull` and `smlal` add products of bytes to 16-bit sums. A register of 16 codes of at most
//! `top` adds two products to each, so two registers add at most `4 * 127 * top`: below 32768 up to six
//! bits. Wider codes are signed and at most 128: there each register's sums are widened before the next.

use core::arch::aarch64::*;
use core::arch::asm;

use super::vectors::{Two, as_bytes, transposed};
use crate::kernel::wide::rows::CODE_WORDS;

/// How codes are multiplied. Columns `16 n ..` of row `r` are register `r / 4` of `w[4 n + r % 4]`.
pub(super) trait CodeDot {
    /// As [`crate::kernel::wide::rows::Rows::BATCH`].
    const BATCH: usize;

    /// [`crate::kernel::wide::one_token::OneToken::dot`].
    ///
    /// # Safety
    /// As there.
    unsafe fn one(w: &[Two; 8], zero: i32, top: i32, a: *const u32, minus_zero: i32) -> Two;

    /// [`crate::kernel::wide::one_token::OneToken::dot_halves`].
    ///
    /// # Safety
    /// As there.
    unsafe fn halves(w: &[Two; 8], zero: i32, top: i32, a: *const u32, minus_zeros: [i32; 2]) -> [Two; 2];

    /// # Safety
    /// As [`crate::kernel::wide::rows::Rows::arrange`].
    #[inline(always)]
    unsafe fn arrange(codes: &[Two; 8]) -> [Two; 8] {
        *codes
    }

    /// # Safety
    /// As [`crate::kernel::wide::rows::Rows::dots`].
    unsafe fn dots<const N: usize, const T: usize>(
        w: &[Two; N],
        zero: i32,
        top: i32,
        a: *const u32,
        minus_zeros: *const i32,
    ) -> [Two; T];
}

/// Sums of four rows of which each register has four.
#[inline(always)]
fn sums_of(rows: [int32x4_t; 4]) -> int32x4_t {
    let [a, b, c, d] = rows;
    // SAFETY: every processor of this architecture has NEON.
    unsafe { vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)) }
}

/// The same of eight rows.
#[inline(always)]
fn sums_of_rows(rows: [int32x4_t; 8]) -> Two {
    let [a, b, c, d, e, f, g, h] = rows;
    [sums_of([a, b, c, d]), sums_of([e, f, g, h])]
}

/// `a - b`. With an intrinsic the compiler takes the additions that gave `a` apart, into more instructions.
#[inline(always)]
fn difference(mut a: int32x4_t, b: int32x4_t) -> int32x4_t {
    // SAFETY: every processor of this architecture has NEON; the instruction changes one register.
    unsafe {
        asm!(
            "sub {0:v}.4s, {0:v}.4s, {1:v}.4s",
            inout(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    a
}

/// Sums with the zero's part.
#[inline(always)]
fn corrected(sums: Two, zero: i32, minus_zero: i32) -> Two {
    if zero == 0 {
        return sums;
    }
    // SAFETY: every processor of this architecture has NEON.
    unsafe {
        let minus_zero = vdupq_n_s32(minus_zero);
        [vaddq_s32(sums[0], minus_zero), vaddq_s32(sums[1], minus_zero)]
    }
}

/// 16 codes of the token from word `g` on.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn sixteen(a: *const u32, g: usize) -> int8x16_t {
    // SAFETY: as for this function.
    unsafe { vld1q_s8(a.add(g).cast()) }
}

/// Products by `smull` and `smlal`.
pub(super) struct Widening;
/// Products by `sdot`.
pub(super) struct Sdot;
/// Products by `sdot`, in a tier that multiplies several tokens by `smmla`.
pub(super) struct Smmla;

impl Widening {
    /// Four sums of the products of codes of a row and of the token.
    ///
    /// # Safety
    /// The processor has NEON.
    #[inline(always)]
    unsafe fn row<const N: usize>(w: [int32x4_t; N], top: i32, a: [int8x16_t; N]) -> int32x4_t {
        let fits = 4 * 127 * top < 32768;
        // SAFETY: the caller guarantees the instructions.
        unsafe {
            let mut sums = vdupq_n_s32(0);
            let mut narrow = vdupq_n_s16(0);
            for (n, (w, a)) in w.into_iter().zip(a).enumerate() {
                let w = vreinterpretq_s8_u8(as_bytes(w));
                let low = (vget_low_s8(w), vget_low_s8(a));
                narrow =
                    if n == 0 || !fits { vmull_s8(low.0, low.1) } else { vmlal_s8(narrow, low.0, low.1) };
                narrow = vmlal_high_s8(narrow, w, a);
                if n == 0 && !fits {
                    sums = vpaddlq_s16(narrow);
                }
            }
            if fits || N == 1 { vpaddlq_s16(narrow) } else { vpadalq_s16(sums, narrow) }
        }
    }

    /// Sums of products of all rows.
    ///
    /// # Safety
    /// As [`CodeDot::dots`] for one token.
    #[inline(always)]
    unsafe fn sums<const N: usize>(w: &[Two; N], top: i32, a: *const u32) -> Two {
        // SAFETY: as for this function.
        unsafe {
            let mut sums = [vdupq_n_s32(0); 2];
            for (i, sum) in sums.iter_mut().enumerate() {
                let mut rows = [vdupq_n_s32(0); 4];
                for (r, row) in rows.iter_mut().enumerate() {
                    *row = if N == 8 {
                        Self::row([w[r][i], w[r + 4][i]], top, [sixteen(a, 0), sixteen(a, 4)])
                    } else {
                        Self::row([w[r][i]], top, [sixteen(a, 0)])
                    };
                }
                *sum = sums_of(rows);
            }
            sums
        }
    }
}

impl CodeDot for Widening {
    const BATCH: usize = 1;

    #[inline(always)]
    unsafe fn one(w: &[Two; 8], zero: i32, top: i32, a: *const u32, minus_zero: i32) -> Two {
        // SAFETY: the caller guarantees the instructions and what is read.
        unsafe { corrected(Self::sums(w, top, a), zero, minus_zero) }
    }

    #[inline(always)]
    unsafe fn halves(w: &[Two; 8], zero: i32, top: i32, a: *const u32, minus_zeros: [i32; 2]) -> [Two; 2] {
        let [c0, c1, c2, c3, c4, c5, c6, c7] = *w;
        // SAFETY: the caller guarantees the instructions and what is read.
        unsafe {
            let low = Self::sums(&[c0, c1, c2, c3], top, a);
            let high = Self::sums(&[c4, c5, c6, c7], top, a.add(4));
            [corrected(low, zero, minus_zeros[0]), corrected(high, zero, minus_zeros[1])]
        }
    }

    #[inline(always)]
    unsafe fn dots<const N: usize, const T: usize>(
        w: &[Two; N],
        zero: i32,
        top: i32,
        a: *const u32,
        minus_zeros: *const i32,
    ) -> [Two; T] {
        // SAFETY: the caller guarantees the instructions and what is read.
        unsafe {
            let mut sums = [[vdupq_n_s32(0); 2]; T];
            for (t, sums) in sums.iter_mut().enumerate() {
                *sums = Self::sums(w, top, a.add(t * CODE_WORDS));
                if zero > 0 {
                    *sums = corrected(*sums, zero, minus_zeros.add(t).read());
                }
            }
            sums
        }
    }
}

/// `sums[i] += sum of w[4 i + j] * a[4 i + j]`, `j` from 0 to 3.
///
/// # Safety
/// The processor has `sdot`.
#[inline(always)]
unsafe fn sdot(mut sums: int32x4_t, w: int32x4_t, a: int8x16_t) -> int32x4_t {
    // SAFETY: the caller guarantees the instruction, which changes one register.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sums, in(vreg) w, in(vreg) a,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// `sums[i] += sum of w[4 i + j] * a[4 WORD + j]`, `j` from 0 to 3.
///
/// # Safety
/// The processor has `sdot`.
#[inline(always)]
unsafe fn sdot_word<const WORD: u32>(mut sums: int32x4_t, w: int32x4_t, a: int8x16_t) -> int32x4_t {
    // SAFETY: the caller guarantees the instruction, which changes one register.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{3}]",
            inout(vreg) sums, in(vreg) w, in(vreg) a, const WORD,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// What the sums of rows start at: one of a row's four at the zero's part.
#[inline(always)]
fn start(zero: i32, minus_zero: i32) -> int32x4_t {
    // SAFETY: every processor of this architecture has NEON.
    unsafe {
        let none = vdupq_n_s32(0);
        if zero == 0 { none } else { vsetq_lane_s32::<0>(minus_zero, none) }
    }
}

impl Sdot {
    /// The four sums of each row, and products of 16 columns of it and of the token.
    ///
    /// # Safety
    /// The processor has `sdot`.
    #[inline(always)]
    unsafe fn added(mut rows: [int32x4_t; 8], w: [Two; 4], a: int8x16_t) -> [int32x4_t; 8] {
        for (r, w) in w.iter().enumerate() {
            for (i, w) in w.iter().enumerate() {
                // SAFETY: the caller guarantees the instruction.
                rows[4 * i + r] = unsafe { sdot(rows[4 * i + r], *w, a) };
            }
        }
        rows
    }
}

impl CodeDot for Sdot {
    const BATCH: usize = 4;

    #[inline(always)]
    unsafe fn one(w: &[Two; 8], zero: i32, _: i32, a: *const u32, minus_zero: i32) -> Two {
        // SAFETY: the caller guarantees the instructions and what is read.
        unsafe {
            let (low, high) = (sixteen(a, 0), sixteen(a, 4));
            let mut rows = [start(zero, minus_zero); 8];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = sdot(sdot(*row, w[i % 4][i / 4], low), w[i % 4 + 4][i / 4], high);
            }
            sums_of_rows(rows)
        }
    }

    /// The sums of the second half go on from those of the first, which spares starting them.
    #[inline(always)]
    unsafe fn halves(w: &[Two; 8], zero: i32, _: i32, a: *const u32, minus_zeros: [i32; 2]) -> [Two; 2] {
        let [c0, c1, c2, c3, c4, c5, c6, c7] = *w;
        // SAFETY: the caller guarantees the instructions and what is read.
        unsafe {
            let rows = Self::added([start(zero, minus_zeros[0]); 8], [c0, c1, c2, c3], sixteen(a, 0));
            let low = sums_of_rows(rows);
            let both = sums_of_rows(Self::added(rows, [c4, c5, c6, c7], sixteen(a, 4)));
            let high = [difference(both[0], low[0]), difference(both[1], low[1])];
            [low, corrected(high, zero, minus_zeros[1])]
        }
    }

    /// Transposes words, so that a lane is a row: with several tokens that costs less than adding across
    /// lanes for each.
    #[inline(always)]
    unsafe fn arrange(codes: &[Two; 8]) -> [Two; 8] {
        let mut out = *codes;
        for (codes, out) in codes.as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<4>().0) {
            for i in 0..2 {
                let words = transposed([codes[0][i], codes[1][i], codes[2][i], codes[3][i]]);
                for (out, words) in out.iter_mut().zip(words) {
                    out[i] = words;
                }
            }
        }
        out
    }

    #[inline(always)]
    unsafe fn dots<const N: usize, const T: usize>(
        w: &[Two; N],
        zero: i32,
        _top: i32,
        a: *const u32,
        minus_zeros: *const i32,
    ) -> [Two; T] {
        // SAFETY: the caller guarantees the instructions and what is read.
        unsafe {
            let mut sums = [[vdupq_n_s32(0); 2]; T];
            if zero > 0 {
                for (t, sums) in sums.iter_mut().enumerate() {
                    *sums = [vdupq_n_s32(minus_zeros.add(t).read()); 2];
                }
            }
            for (n, w) in w.as_chunks::<4>().0.iter().enumerate() {
                for (t, sums) in sums.iter_mut().enumerate() {
                    let a = vld1q_s8(a.add(t * CODE_WORDS + 4 * n).cast());
                    for (i, sum) in sums.iter_mut().enumerate() {
                        *sum = sdot_word::<0>(*sum, w[0][i], a);
                        *sum = sdot_word::<1>(*sum, w[1][i], a);
                        *sum = sdot_word::<2>(*sum, w[2][i], a);
                        *sum = sdot_word::<3>(*sum, w[3][i], a);
                    }
                }
            }
            sums
        }
    }
}

impl CodeDot for Smmla {
    const BATCH: usize = Sdot::BATCH;

    #[inline(always)]
    unsafe fn one(w: &[Two; 8], zero: i32, top: i32, a: *const u32, minus_zero: i32) -> Two {
        // SAFETY: as for this function.
        unsafe { Sdot::one(w, zero, top, a, minus_zero) }
    }

    #[inline(always)]
    unsafe fn halves(w: &[Two; 8], zero: i32, top: i32, a: *const u32, minus_zeros: [i32; 2]) -> [Two; 2] {
        // SAFETY: as for this function.
        unsafe { Sdot::halves(w, zero, top, a, minus_zeros) }
    }

    #[inline(always)]
    unsafe fn arrange(codes: &[Two; 8]) -> [Two; 8] {
        // SAFETY: as for this function.
        unsafe { Sdot::arrange(codes) }
    }

    #[inline(always)]
    unsafe fn dots<const N: usize, const T: usize>(
        w: &[Two; N],
        zero: i32,
        top: i32,
        a: *const u32,
        minus_zeros: *const i32,
    ) -> [Two; T] {
        // SAFETY: as for this function.
        unsafe { Sdot::dots(w, zero, top, a, minus_zeros) }
    }
}
