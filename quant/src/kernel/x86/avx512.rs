//! The tier of AVX-512 F, BW, DQ and VL: sixteen floats, thirty-two registers.

use core::arch::x86_64::*;

use super::avx2::Avx2;
use crate::kernel::wide::lanes::{Lanes, lanes_functions};

/// Sixteen floats in a `zmm` register.
pub(super) struct Avx512;

impl Avx512 {
    #[inline(always)]
    fn mask(n: usize) -> __mmask16 {
        debug_assert!(n < 16);
        (1 << n) - 1
    }

    lanes_functions! {
        fn upper(v: __m512) -> __m256 { _mm512_extractf32x8_ps::<1>(v) }
    }
}

impl Lanes for Avx512 {
    const N: usize = 16;
    const TILE_TOKENS: usize = 6;
    const ATTEND_ROWS: usize = 8;
    type V = __m512;

    lanes_functions! {
        fn splat(value: f32) -> __m512 { _mm512_set1_ps(value) }
        fn load(from: *const f32) -> __m512 { _mm512_loadu_ps(from) }
        fn store(to: *mut f32, v: __m512) { _mm512_storeu_ps(to, v) }
        fn load_part(from: *const f32, n: usize) -> __m512 { _mm512_maskz_loadu_ps(Self::mask(n), from) }
        fn store_part(to: *mut f32, n: usize, v: __m512) { _mm512_mask_storeu_ps(to, Self::mask(n), v) }
        fn load_f16(from: *const u16) -> __m512 {
            // Without a rounding mode of its own the instruction can load by itself, which saves a shuffle.
            _mm512_cvt_roundph_ps::<_MM_FROUND_CUR_DIRECTION>(_mm256_loadu_si256(from.cast()))
        }
        fn store_f16(to: *mut u16, v: __m512) {
            _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v))
        }
        fn load_bf16(from: *const u16) -> __m512 {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        }
        fn load_f8(from: *const u8) -> __m512 {
            // Exponent and mantissa are those of a half that is 2^8 times smaller, subnormal ones too. NaN
            // alone becomes a number that way.
            let bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(from.cast()));
            let magnitude = _mm256_slli_epi16::<7>(_mm256_and_si256(bytes, _mm256_set1_epi16(0x7f)));
            let sign = _mm256_slli_epi16::<8>(_mm256_and_si256(bytes, _mm256_set1_epi16(0x80)));
            let nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x3f80));
            let halves = _mm256_or_si256(_mm256_or_si256(magnitude, sign), _mm256_and_si256(nan, _mm256_set1_epi16(0x7e00)));
            _mm512_mul_ps(_mm512_cvtph_ps(halves), _mm512_set1_ps(256.0))
        }
        fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        fn round(v: __m512) -> __m512 { _mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(v) }
        fn times_power_of_two(v: __m512, n: __m512) -> __m512 { _mm512_scalef_ps(v, n) }
        fn first(v: __m512) -> f32 { _mm512_cvtss_f32(v) }
        fn sum(v: __m512) -> f32 { Avx2::sum(_mm256_add_ps(_mm512_castps512_ps256(v), Self::upper(v))) }
        fn largest(v: __m512) -> f32 { Avx2::largest(_mm256_max_ps(_mm512_castps512_ps256(v), Self::upper(v))) }
    }
}
