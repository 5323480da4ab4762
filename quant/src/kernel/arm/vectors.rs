//! Registers of the ARM tiers as bytes and words. It must not know what they hold.

use core::arch::aarch64::*;

/// Words of rows 0 to 3 and 4 to 7, or 16 codes of rows `g` and `g + 4`.
pub(super) type Two = [int32x4_t; 2];

/// A register as bytes.
#[inline(always)]
pub(super) fn as_bytes(v: int32x4_t) -> uint8x16_t {
    // SAFETY: every processor of this architecture has NEON.
    unsafe { vreinterpretq_u8_s32(v) }
}

/// Four words of four rows, transposed: word `j` of row `i` in lane `i` of register `j`.
#[inline(always)]
pub(super) fn transposed(rows: [int32x4_t; 4]) -> [int32x4_t; 4] {
    let [a, b, c, d] = rows;
    // SAFETY: every processor of this architecture has NEON.
    unsafe {
        let pairs = |x: int32x4_t| vreinterpretq_s64_s32(x);
        let words = |x: int64x2_t| vreinterpretq_s32_s64(x);
        let (ab_even, ab_odd) = (pairs(vtrn1q_s32(a, b)), pairs(vtrn2q_s32(a, b)));
        let (cd_even, cd_odd) = (pairs(vtrn1q_s32(c, d)), pairs(vtrn2q_s32(c, d)));
        [
            words(vtrn1q_s64(ab_even, cd_even)),
            words(vtrn1q_s64(ab_odd, cd_odd)),
            words(vtrn2q_s64(ab_even, cd_even)),
            words(vtrn2q_s64(ab_odd, cd_odd)),
        ]
    }
}
