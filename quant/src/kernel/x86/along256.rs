//! Dot products of AVX2 along rows, for a single token: a register holds 16 columns of two rows, straight
//! from memory. Codes are not transposed, and the token's codes are loaded for 16 columns at a time, not for
//! four. In return the sums of a row are added across its half of the register. All are integers, so their
//! order changes no bit. Several tokens share a transposition, which is cheaper for them: see `rows256`. It
//! must not know formats.

use core::arch::x86_64::*;

use super::rows256::{Avx2Dot, Dot, Rows256, each, starts};
use crate::kernel::wide::rows::{CODE_WORDS, rows_functions};
use crate::kernel::wide::tier::impl_tier;

/// Products by `vpmaddubsw`, where register `i` of the codes holds rows `i` and `i + 4`.
pub(super) struct AlongRows;

impl_tier!(Rows256<AlongRows>, "avx2,fma,f16c");

/// The four registers that hold the first half of the columns of rows `i` and `i + 4`.
const ROWS: usize = 4;

rows_functions! {
    /// 16 codes of token `t`, from word `g` on, beside both rows.
    fn sixteen(a: *const u32, t: usize, g: usize) -> __m256i {
        _mm256_broadcastsi128_si256(_mm_loadu_si128(a.add(t * CODE_WORDS + g).cast()))
    }
    /// Products of codes, neighbours added: the sums fit 16 bits. Codes of more than seven bits, plus 128,
    /// are multiplied as their magnitudes, and give their signs to the token's codes.
    fn products(w: __m256i, a: __m256i, wide: bool) -> __m256i {
        if !wide {
            return _mm256_maddubs_epi16(w, a);
        }
        let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
        _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w))
    }
    /// Neighbours among 16 words, added to 8.
    fn paired(words: __m256i) -> __m256i {
        _mm256_madd_epi16(words, _mm256_set1_epi16(1))
    }
    /// Halves of the rows of `a` and `b`: what two words of 32 bits apart hold is to be added.
    fn halves(a: __m256i, b: __m256i) -> [__m256i; 2] {
        [_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)]
    }
    /// The same, of what [`halves`] gave.
    fn quarters(a: __m256i, b: __m256i) -> [__m256i; 2] {
        [_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)]
    }
    /// The sums of all rows in lanes 0 to 7 from words of rows `i` and `i + 4`, of which each holds up to
    /// `terms` of the `fit` products that fit 16 bits: they are added as 16 bits as long as they fit.
    fn sums_of_rows(words: [__m256i; ROWS], terms: usize, fit: usize) -> __m256i {
        let [a, b, c, d] = words;
        if 2 * terms > fit {
            return sums_of_lanes([paired(a), paired(b), paired(c), paired(d)]);
        }
        let ([ab, ba], [cd, dc]) = (halves(a, b), halves(c, d));
        let (ab, cd) = (_mm256_add_epi16(ab, ba), _mm256_add_epi16(cd, dc));
        if 4 * terms > fit {
            let [low, high] = quarters(paired(ab), paired(cd));
            return _mm256_add_epi32(low, high);
        }
        let [low, high] = quarters(ab, cd);
        paired(_mm256_add_epi16(low, high))
    }
    /// As [`sums_of_rows`], of sums of 32 bits.
    fn sums_of_lanes(sums: [__m256i; ROWS]) -> __m256i {
        let [a, b, c, d] = sums;
        let ([ab, ba], [cd, dc]) = (halves(a, b), halves(c, d));
        let [low, high] = quarters(_mm256_add_epi32(ab, ba), _mm256_add_epi32(cd, dc));
        _mm256_add_epi32(low, high)
    }
}

impl Dot for AlongRows {
    const ALONG_ROWS: bool = true;
    type Many = Rows256<Avx2Dot, 2>;
    const BATCH: usize = Avx2Dot::BATCH;

    #[inline(always)]
    unsafe fn dot<const K: usize, const N: usize, const T: usize>(
        w: &[[__m256i; K]; N],
        zero: i32,
        top: i32,
        a: *const u32,
        minus_zeros: *const i32,
    ) -> [[__m256i; K]; T] {
        // SAFETY: the caller guarantees the instructions and what is read.
        unsafe {
            let wide = top > 127;
            let fit = if wide { 1 } else { (32767 / (254 * top)) as usize };
            // Magnitudes and signs need no correction.
            let mut out = starts::<K, T>(if wide { 0 } else { zero }, minus_zeros);
            for (t, out) in out.iter_mut().enumerate() {
                let low = sixteen(a, t, 0);
                let high = if N > ROWS { sixteen(a, t, ROWS) } else { low };
                for (k, out) in out.iter_mut().enumerate() {
                    let first = each!(ROWS, _mm256_setzero_si256(), |i| products(w[i][k], low, wide));
                    let sums = if N == ROWS {
                        sums_of_rows(first, 1, fit)
                    } else {
                        let second =
                            each!(ROWS, _mm256_setzero_si256(), |i| products(w[i + N - ROWS][k], high, wide));
                        if fit < 2 {
                            sums_of_lanes(each!(ROWS, _mm256_setzero_si256(), |i| {
                                _mm256_add_epi32(paired(first[i]), paired(second[i]))
                            }))
                        } else {
                            let both = each!(ROWS, _mm256_setzero_si256(), |i| {
                                _mm256_add_epi16(first[i], second[i])
                            });
                            sums_of_rows(both, 2, fit)
                        }
                    };
                    *out = _mm256_add_epi32(*out, sums);
                }
            }
            out
        }
    }
}
