//! The tier of AVX2, FMA and F16C: eight floats, sixteen registers.

use core::arch::x86_64::*;

use crate::kernel::wide::lanes::{Lanes, lanes_functions};

/// Eight floats in a `ymm` register.
pub(super) struct Avx2;

/// Eight words of ones, then eight zeros: the mask for `n` elements starts at `8 - n`.
static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

impl Avx2 {
    lanes_functions! {
        fn mask(n: usize) -> __m256i {
            debug_assert!(n <= 8);
            _mm256_loadu_si256(MASKS.as_ptr().add(8 - n).cast())
        }
    }
}

impl Lanes for Avx2 {
    const N: usize = 8;
    const TILE_TOKENS: usize = 3;
    const ATTEND_ROWS: usize = 4;
    type V = __m256;

    lanes_functions! {
        fn splat(value: f32) -> __m256 { _mm256_set1_ps(value) }
        fn load(from: *const f32) -> __m256 { _mm256_loadu_ps(from) }
        fn store(to: *mut f32, v: __m256) { _mm256_storeu_ps(to, v) }
        fn load_part(from: *const f32, n: usize) -> __m256 { _mm256_maskload_ps(from, Self::mask(n)) }
        fn store_part(to: *mut f32, n: usize, v: __m256) { _mm256_maskstore_ps(to, Self::mask(n), v) }
        fn load_f16(from: *const u16) -> __m256 { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
        fn store_f16(to: *mut u16, v: __m256) {
            _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v))
        }
        fn load_bf16(from: *const u16) -> __m256 {
            let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
        }
        fn load_f8(from: *const u8) -> __m256 {
            // As in `avx512`.
            let bytes = _mm_cvtepu8_epi16(_mm_loadl_epi64(from.cast()));
            let magnitude = _mm_slli_epi16::<7>(_mm_and_si128(bytes, _mm_set1_epi16(0x7f)));
            let sign = _mm_slli_epi16::<8>(_mm_and_si128(bytes, _mm_set1_epi16(0x80)));
            let nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x3f80));
            let halves = _mm_or_si128(_mm_or_si128(magnitude, sign), _mm_and_si128(nan, _mm_set1_epi16(0x7e00)));
            _mm256_mul_ps(_mm256_cvtph_ps(halves), _mm256_set1_ps(256.0))
        }
        fn add(a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
        fn sub(a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
        fn mul(a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
        fn div(a: __m256, b: __m256) -> __m256 { _mm256_div_ps(a, b) }
        fn fma(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
        fn max(a: __m256, b: __m256) -> __m256 { _mm256_max_ps(a, b) }
        fn min(a: __m256, b: __m256) -> __m256 { _mm256_min_ps(a, b) }
        fn round(v: __m256) -> __m256 {
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v)
        }
        fn times_power_of_two(v: __m256, n: __m256) -> __m256 {
            // In two steps, as 2^n alone may be out of range; the first is exact.
            let n = _mm256_cvtps_epi32(n);
            let first = _mm256_srai_epi32::<1>(n);
            let second = _mm256_sub_epi32(n, first);
            let power = |n| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))));
            _mm256_mul_ps(_mm256_mul_ps(v, power(first)), power(second))
        }
        fn first(v: __m256) -> f32 { _mm256_cvtss_f32(v) }
        fn sum(v: __m256) -> f32 {
            let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
        fn largest(v: __m256) -> f32 {
            let four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
}
