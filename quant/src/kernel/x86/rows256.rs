//! Eight rows in a `ymm` register, with the dot products of AVX2 or of AVX-VNNI.
//!
//! **Range.** `vpmaddubsw` adds two products of an unsigned and a signed byte to a 16-bit sum that
//! saturates at 32767. With codes of at most `top` and activations of at most 127 a pair is at most
//! `254 top`: for nibbles eight pairs fit, for five bits four, for six bits two. Wider codes take their
//! magnitude as the unsigned side and give their sign to the activation: `2 * 128 * 127 = 32512`. The
//! 32-bit sums of AVX-VNNI do not saturate; see `rows512`.

use core::arch::x86_64::*;
use core::marker::PhantomData;

use super::kept::kept_in_registers;
use crate::kernel::wide::rows::{CODE_WORDS, Rows, rows_functions};
use crate::kernel::wide::tier::{Tier, impl_tier};

/// Eight rows; `D` multiplies.
pub(super) struct Rows256<D>(PhantomData<D>);

/// How codes are multiplied.
pub(super) trait Dot {
    /// As [`Rows::BATCH`].
    const BATCH: usize;
    /// As [`Rows::WIDE_BATCH`].
    const WIDE_BATCH: usize = Self::BATCH;

    /// As [`Rows::dot`].
    ///
    /// # Safety
    /// As [`Rows`].
    unsafe fn dot<const N: usize, const T: usize>(
        w: &[__m256i; N],
        zero: i32,
        top: i32,
        a: *const u32,
        minus_zeros: *const i32,
    ) -> [__m256i; T];
}

/// Products by `vpmaddubsw`.
pub(super) struct Avx2Dot;
/// Products by `vpdpbusd`.
pub(super) struct VnniDot;

/// What the sums start from.
///
/// # Safety
/// As [`Rows::dot`].
#[inline(always)]
unsafe fn starts<const T: usize>(zero: i32, minus_zeros: *const i32) -> [__m256i; T] {
    // SAFETY: the caller guarantees the instructions and `T` corrections, if there is a zero.
    unsafe {
        let mut sums = [_mm256_setzero_si256(); T];
        if zero > 0 {
            for (t, sum) in sums.iter_mut().enumerate() {
                *sum = _mm256_set1_epi32(minus_zeros.add(t).read());
            }
        }
        sums
    }
}

/// Word `g` of token `t`, in every lane.
///
/// # Safety
/// As [`Rows::dot`].
#[inline(always)]
unsafe fn word(a: *const u32, t: usize, g: usize) -> __m256i {
    // SAFETY: the caller guarantees the instructions and the word.
    unsafe { _mm256_set1_epi32(a.add(t * CODE_WORDS + g).read() as i32) }
}

impl Dot for Avx2Dot {
    const BATCH: usize = 2;
    // Magnitudes and signs of weights are worth the registers of two more tokens.
    const WIDE_BATCH: usize = 4;

    #[inline(always)]
    unsafe fn dot<const N: usize, const T: usize>(
        w: &[__m256i; N],
        zero: i32,
        top: i32,
        a: *const u32,
        minus_zeros: *const i32,
    ) -> [__m256i; T] {
        // SAFETY: the caller guarantees the instructions and what is read.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            if top > 127 {
                let mut sums = [_mm256_setzero_si256(); T];
                for (g, w) in w.iter().enumerate() {
                    let w = _mm256_xor_si256(*w, _mm256_set1_epi8(-128));
                    for (t, sum) in sums.iter_mut().enumerate() {
                        let a = _mm256_sign_epi8(word(a, t, g), w);
                        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), a);
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
                    }
                }
                return sums;
            }
            let fit = (32767 / (254 * top)) as usize;
            let mut sums = starts(zero, minus_zeros);
            let mut pairs = [_mm256_setzero_si256(); T];
            for (g, w) in w.iter().enumerate() {
                for t in 0..T {
                    let product = _mm256_maddubs_epi16(*w, word(a, t, g));
                    pairs[t] = if g % fit == 0 { product } else { _mm256_add_epi16(pairs[t], product) };
                    if g % fit == fit - 1 || g == N - 1 {
                        sums[t] = _mm256_add_epi32(sums[t], _mm256_madd_epi16(pairs[t], ones));
                    }
                }
            }
            sums
        }
    }
}

impl Dot for VnniDot {
    const BATCH: usize = 4;

    #[inline(always)]
    unsafe fn dot<const N: usize, const T: usize>(
        w: &[__m256i; N],
        zero: i32,
        _top: i32,
        a: *const u32,
        minus_zeros: *const i32,
    ) -> [__m256i; T] {
        // SAFETY: the caller guarantees the instructions and what is read.
        unsafe {
            let mut sums = starts(zero, minus_zeros);
            for (g, w) in w.iter().enumerate() {
                for (t, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm256_dpbusd_avx_epi32(*sum, *w, word(a, t, g));
                }
            }
            sums
        }
    }
}

impl<D> Rows256<D> {
    rows_functions! {
        /// 16 bytes of rows `r` and `r + 4`.
        fn two(at: *const u8, stride: usize) -> __m256i {
            let load = |r: usize| _mm_loadu_si128(at.add(r * stride).cast());
            _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load(0)), load(4))
        }
        /// Byte `n` of each lane in all its four bytes.
        fn replicate(a: __m256i, n: usize) -> __m256i {
            let first = n as i32 * 0x0101_0101;
            let at = _mm_setr_epi32(first, first + 0x0404_0404, first + 0x0808_0808, first + 0x0c0c_0c0c);
            _mm256_shuffle_epi8(a, _mm256_broadcastsi128_si256(at))
        }
        /// The smaller of each unsigned byte.
        fn min_bytes(a: __m256i, b: __m256i) -> __m256i { _mm256_min_epu8(a, b) }
    }
}

impl_tier!(Rows256<Avx2Dot>, "avx2,fma,f16c");
impl_tier!(Rows256<VnniDot>, "avx2,fma,f16c,avxvnni");

impl<D: Dot> Rows for Rows256<D>
where
    Self: Tier,
{
    const ROWS: usize = 8;
    type I = __m256i;
    type F = __m256;
    kept_in_registers!();

    rows_functions! {
        fn quads(at: *const u8, stride: usize) -> [__m256i; 4] {
            // A transposition of 4 x 4 words within each 128 bits: row 4 l + i ends in lane 4 l + i.
            let (a, b) = (Self::two(at, stride), Self::two(at.add(stride), stride));
            let (c, d) = (Self::two(at.add(2 * stride), stride), Self::two(at.add(3 * stride), stride));
            let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            [
                _mm256_unpacklo_epi64(ab_low, cd_low),
                _mm256_unpackhi_epi64(ab_low, cd_low),
                _mm256_unpacklo_epi64(ab_high, cd_high),
                _mm256_unpackhi_epi64(ab_high, cd_high),
            ]
        }
        fn words(at: *const u8, stride: usize) -> __m256i {
            // Not a gather: those are ten times slower on the many laptops whose microcode guards against
            // Downfall.
            let word = |r: usize| at.add(r * stride).cast::<i32>().read_unaligned();
            _mm256_setr_epi32(word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7))
        }
        fn splat(value: i32) -> __m256i { _mm256_set1_epi32(value) }
        fn and(a: __m256i, b: __m256i) -> __m256i { _mm256_and_si256(a, b) }
        fn or(a: __m256i, b: __m256i) -> __m256i { _mm256_or_si256(a, b) }
        fn xor(a: __m256i, b: __m256i) -> __m256i { _mm256_xor_si256(a, b) }
        fn add(a: __m256i, b: __m256i) -> __m256i { _mm256_add_epi32(a, b) }
        fn min(a: __m256i, b: __m256i) -> __m256i { _mm256_min_epi32(a, b) }
        fn max(a: __m256i, b: __m256i) -> __m256i { _mm256_max_epi32(a, b) }
        fn shl(a: __m256i, n: i32) -> __m256i { _mm256_sll_epi32(a, _mm_cvtsi32_si128(n)) }
        fn shr(a: __m256i, n: i32) -> __m256i { _mm256_srl_epi32(a, _mm_cvtsi32_si128(n)) }
        fn sar(a: __m256i, n: i32) -> __m256i { _mm256_sra_epi32(a, _mm_cvtsi32_si128(n)) }
        fn table(table: *const u8) -> __m256i { _mm256_broadcastsi128_si256(_mm_loadu_si128(table.cast())) }
        fn lookup(table: __m256i, at: __m256i) -> __m256i { _mm256_shuffle_epi8(table, at) }
        fn with_fifth_bits(codes: [__m256i; 8], bits: __m256i) -> [__m256i; 8] {
            let (each, sixteen) = (Self::splat(0x8040_2010_u32 as i32), Self::splat(0x1010_1010));
            let mut codes = codes;
            for (g, code) in codes.iter_mut().enumerate() {
                // Bits 4 g .. 4 g + 4 are a nibble of byte g / 2; in all bytes, as high nibble, each byte
                // keeps its own.
                let byte = Self::replicate(bits, g / 2);
                let high = if g % 2 == 0 { Self::shl(byte, 4) } else { byte };
                *code = Self::or(*code, Self::min_bytes(Self::and(high, each), sixteen));
            }
            codes
        }
        fn float(a: __m256i) -> __m256 { _mm256_cvtepi32_ps(a) }
        fn from_bits(a: __m256i) -> __m256 { _mm256_castsi256_ps(a) }
        fn half(a: __m256i) -> __m256 {
            let low = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
            let packed = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256::<1>(low));
            _mm256_cvtph_ps(packed)
        }
        fn splat_f(value: f32) -> __m256 { _mm256_set1_ps(value) }
        fn load(from: *const f32) -> __m256 { _mm256_loadu_ps(from) }
        fn store(to: *mut f32, v: __m256) { _mm256_storeu_ps(to, v) }
        fn negated(a: __m256) -> __m256 { _mm256_xor_ps(a, _mm256_set1_ps(-0.0)) }
        fn mul(a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
        fn fma(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
    }

    const BATCH: usize = D::BATCH;
    const WIDE_BATCH: usize = D::WIDE_BATCH;

    #[inline(always)]
    unsafe fn dot<const N: usize, const T: usize>(
        w: &[__m256i; N],
        zero: i32,
        top: i32,
        a: *const u32,
        minus_zeros: *const i32,
    ) -> [__m256i; T] {
        // SAFETY: the caller guarantees what the trait asks.
        unsafe { D::dot(w, zero, top, a, minus_zeros) }
    }
}
