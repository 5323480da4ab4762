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

/// How codes are multiplied. Functions are as those of [`crate::kernel::wide::rows::Rows`]; columns
/// `16 n ..` of row `r` are register `r / 4` of `w[4 n + r % 4]`.
pub(super) trait CodeDot {
    /// As [`crate::kernel::wide::rows::Rows::BATCH`].
    const BATCH: usize;

    /// Whether sums can start at a number as well as at zero. Otherwise it is added at the end.
    const STARTS: bool;

    /// Adds the products of 16 codes of a row and of a token to the four sums `start`, in some order. Without
    /// [`CodeDot::STARTS`] these are zero.
    ///
    /// # Safety
    /// The processor has the tier's instructions.
    unsafe fn row<const N: usize>(
        start: int32x4_t,
        w: [int32x4_t; N],
        top: i32,
        a: [int8x16_t; N],
    ) -> int32x4_t;

    /// # Safety
    /// As [`crate::kernel::wide::rows::Rows::arrange`].
    #[inline(always)]
    unsafe fn arrange(codes: &[Two; 8]) -> [Two; 8] {
        *codes
    }

    /// # Safety
    /// As [`crate::kernel::wide::rows::Rows::dots`].
    #[inline(always)]
    unsafe fn dots<const N: usize, const T: usize>(
        w: &[Two; N],
        zero: i32,
        top: i32,
        a: *const u32,
        minus_zeros: *const i32,
    ) -> [Two; T] {
        // SAFETY: as for this function.
        unsafe { Self::dot(w, zero, top, a, minus_zeros) }
    }

    /// # Safety
    /// As [`crate::kernel::wide::rows::Rows::dot`].
    #[inline(always)]
    unsafe fn dot<const N: usize, const T: usize>(
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
                let a = a.add(t * CODE_WORDS).cast::<i8>();
                let none = vdupq_n_s32(0);
                // One of the four sums of a row, which are added in the end.
                let start = if zero > 0 && Self::STARTS {
                    vsetq_lane_s32::<0>(minus_zeros.add(t).read(), none)
                } else {
                    none
                };
                for (i, sum) in sums.iter_mut().enumerate() {
                    let mut rows = [none; 4];
                    for (r, row) in rows.iter_mut().enumerate() {
                        *row = if N == 8 {
                            Self::row(start, [w[r][i], w[r + 4][i]], top, [vld1q_s8(a), vld1q_s8(a.add(16))])
                        } else {
                            Self::row(start, [w[r][i]], top, [vld1q_s8(a)])
                        };
                    }
                    *sum = vpaddq_s32(vpaddq_s32(rows[0], rows[1]), vpaddq_s32(rows[2], rows[3]));
                    if zero > 0 && !Self::STARTS {
                        *sum = vaddq_s32(*sum, vdupq_n_s32(minus_zeros.add(t).read()));
                    }
                }
            }
            sums
        }
    }
}

/// Products by `smull` and `smlal`.
pub(super) struct Widening;
/// Products by `sdot`.
pub(super) struct Sdot;
/// Products by `sdot`, in a tier that multiplies several tokens by `smmla`.
pub(super) struct Smmla;

impl CodeDot for Widening {
    const BATCH: usize = 2;
    // The instructions that add to sums change a register, so each row would copy the start.
    const STARTS: bool = false;

    #[inline(always)]
    unsafe fn row<const N: usize>(
        _zero: int32x4_t,
        w: [int32x4_t; N],
        top: i32,
        a: [int8x16_t; N],
    ) -> int32x4_t {
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

impl CodeDot for Sdot {
    const BATCH: usize = 4;
    const STARTS: bool = true;

    #[inline(always)]
    unsafe fn row<const N: usize>(
        start: int32x4_t,
        w: [int32x4_t; N],
        _top: i32,
        a: [int8x16_t; N],
    ) -> int32x4_t {
        // SAFETY: the caller guarantees the instructions.
        unsafe {
            let mut sums = start;
            for (w, a) in w.into_iter().zip(a) {
                sums = sdot(sums, w, a);
            }
            sums
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
    const STARTS: bool = Sdot::STARTS;

    #[inline(always)]
    unsafe fn row<const N: usize>(
        start: int32x4_t,
        w: [int32x4_t; N],
        top: i32,
        a: [int8x16_t; N],
    ) -> int32x4_t {
        // SAFETY: as for this function.
        unsafe { Sdot::row(start, w, top, a) }
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
