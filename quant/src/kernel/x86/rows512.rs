//! Sixteen rows in a `zmm` register, with the dot products of AVX-512 VNNI.
//!
//! **Range.** `vpdpbusd` adds four products of an unsigned and a signed byte to a 32-bit sum without
//! saturating on the way: `4 * 255 * 127` eight times stays below 2^21, and the correction `128 * 32 * 127`
//! below 2^20.

use core::arch::x86_64::*;

use super::kept::kept_in_registers;
use crate::kernel::wide::one_token::OneToken;
use crate::kernel::wide::rows::{CODE_WORDS, Distance, Rows, rows_functions};
use crate::kernel::wide::tier::impl_tier;

pub(super) struct Rows512;

impl Rows512 {
    rows_functions! {
        /// 16 bytes of rows `r`, `r + 4`, `r + 8`, `r + 12`.
        fn four(at: *const u8, stride: usize) -> __m512i {
            let load = |r: usize| _mm_loadu_si128(at.add(r * stride).cast());
            // In two halves: on Zen 4 an insertion from memory into 512 bits takes twice as long as into 256.
            let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load(0)), load(4));
            let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load(8)), load(12));
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        }
        /// Four bytes of four rows.
        fn four_words(at: *const u8, stride: usize) -> __m128i {
            let word = |r: usize| at.add(r * stride).cast::<i32>().read_unaligned();
            _mm_setr_epi32(word(0), word(1), word(2), word(3))
        }
        /// Byte `n` of each lane in all its four bytes.
        fn replicate(a: __m512i, n: usize) -> __m512i {
            let first = n as i32 * 0x0101_0101;
            let at = _mm_setr_epi32(first, first + 0x0404_0404, first + 0x0808_0808, first + 0x0c0c_0c0c);
            _mm512_shuffle_epi8(a, _mm512_broadcast_i32x4(at))
        }
        /// The smaller of each unsigned byte.
        fn min_bytes(a: __m512i, b: __m512i) -> __m512i { _mm512_min_epu8(a, b) }
    }
}

impl_tier!(Rows512, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c");

impl Rows for Rows512 {
    const ROWS: usize = 16;
    /// Sixteen streams wait for more lines than the first-level cache can ask for at a time. On Zen 4 this is
    /// up to 20 % faster than 384 bytes ahead in the first-level cache, and no slower in any format.
    const AHEAD: Distance = Distance { bytes: 1536, far: true };
    type Many = Self;
    type I = __m512i;
    type F = __m512;
    kept_in_registers!();

    rows_functions! {
        fn quads(at: *const u8, stride: usize) -> [__m512i; 4] {
            // A transposition of 4 x 4 words within each 128 bits: row 4 l + i ends in lane 4 l + i.
            let (a, b) = (Self::four(at, stride), Self::four(at.add(stride), stride));
            let (c, d) = (Self::four(at.add(2 * stride), stride), Self::four(at.add(3 * stride), stride));
            let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab_low, cd_low),
                _mm512_unpackhi_epi64(ab_low, cd_low),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ]
        }
        fn words(at: *const u8, stride: usize) -> __m512i {
            // Not a gather: see `rows256`. On Zen 4 one takes as long as the rest of a block.
            let v = _mm512_castsi128_si512(Self::four_words(at, stride));
            let v = _mm512_inserti32x4::<1>(v, Self::four_words(at.add(4 * stride), stride));
            let v = _mm512_inserti32x4::<2>(v, Self::four_words(at.add(8 * stride), stride));
            _mm512_inserti32x4::<3>(v, Self::four_words(at.add(12 * stride), stride))
        }
        fn splat(value: i32) -> __m512i { _mm512_set1_epi32(value) }
        fn and(a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
        fn or(a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        fn xor(a: __m512i, b: __m512i) -> __m512i { _mm512_xor_si512(a, b) }
        fn add(a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
        fn min(a: __m512i, b: __m512i) -> __m512i { _mm512_min_epi32(a, b) }
        fn max(a: __m512i, b: __m512i) -> __m512i { _mm512_max_epi32(a, b) }
        fn shl(a: __m512i, n: i32) -> __m512i { _mm512_sll_epi32(a, _mm_cvtsi32_si128(n)) }
        fn shr(a: __m512i, n: i32) -> __m512i { _mm512_srl_epi32(a, _mm_cvtsi32_si128(n)) }
        fn sar(a: __m512i, n: i32) -> __m512i { _mm512_sra_epi32(a, _mm_cvtsi32_si128(n)) }
        fn table(table: *const u8) -> __m512i { _mm512_broadcast_i32x4(_mm_loadu_si128(table.cast())) }
        fn lookup(table: __m512i, at: __m512i) -> __m512i { _mm512_shuffle_epi8(table, at) }
        fn with_fifth_bits(codes: [__m512i; 8], bits: __m512i) -> [__m512i; 8] {
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
        fn float(a: __m512i) -> __m512 { _mm512_cvtepi32_ps(a) }
        fn from_bits(a: __m512i) -> __m512 { _mm512_castsi512_ps(a) }
        fn half(a: __m512i) -> __m512 { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)) }
        fn splat_f(value: f32) -> __m512 { _mm512_set1_ps(value) }
        fn load(from: *const f32) -> __m512 { _mm512_loadu_ps(from) }
        fn store(to: *mut f32, v: __m512) { _mm512_storeu_ps(to, v) }
        fn negated(a: __m512) -> __m512 { _mm512_xor_ps(a, _mm512_set1_ps(-0.0)) }
        fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
    }

    const BATCH: usize = 8;

    #[inline(always)]
    unsafe fn dots<const N: usize, const T: usize>(
        w: &[__m512i; N],
        zero: i32,
        _top: i32,
        a: *const u32,
        minus_zeros: *const i32,
    ) -> [__m512i; T] {
        // SAFETY: the caller guarantees the instructions and what is read.
        unsafe {
            let mut sums = [_mm512_setzero_si512(); T];
            if zero > 0 {
                for (t, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_set1_epi32(minus_zeros.add(t).read());
                }
            }
            for (g, w) in w.iter().enumerate() {
                for (t, sum) in sums.iter_mut().enumerate() {
                    let a = _mm512_set1_epi32(a.add(t * CODE_WORDS + g).read() as i32);
                    *sum = _mm512_dpbusd_epi32(*sum, *w, a);
                }
            }
            sums
        }
    }
}

impl OneToken for Rows512 {}
