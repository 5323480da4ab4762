//! Eight rows in a `ymm` register, with the dot products of AVX2 or of AVX-VNNI. With several tokens AVX2
//! takes two registers, so that each word of a token is broadcast once for sixteen rows. With one token it
//! multiplies along rows: see `along256`.
//!
//! **Range.** `vpmaddubsw` adds two products of an unsigned and a signed byte to a 16-bit sum that
//! saturates at 32767. With codes of at most `top` and activations of at most 127 a pair is at most
//! `254 top`: for nibbles eight pairs fit, for five bits four, for six bits two. Wider codes take their
//! magnitude as the unsigned side and give their sign to the activation: `2 * 128 * 127 = 32512`. The
//! 32-bit sums of AVX-VNNI do not saturate; see `rows512`.

use core::arch::x86_64::*;
use core::marker::PhantomData;

use super::kept::kept_in_registers;
use crate::kernel::wide::one_token::OneToken;
use crate::kernel::wide::rows::{CODE_WORDS, Rows, another, rows_functions};
use crate::kernel::wide::tier::{Tier, impl_tier};

/// `K` registers of eight rows; `D` multiplies.
pub(super) struct Rows256<D, const K: usize = 1>(PhantomData<D>);

/// An array of `$n` elements. Not `std::array::from_fn`: its closures lack the tier's instructions.
macro_rules! each {
    ($n:expr, $zero:expr, |$k:ident| $element:expr) => {{
        let mut out = [$zero; $n];
        for ($k, out) in out.iter_mut().enumerate() {
            *out = $element;
        }
        out
    }};
}

pub(super) use each;

/// [`each`] of integers, one for each register.
macro_rules! ints {
    (|$k:ident| $element:expr) => {
        each!(K, _mm256_setzero_si256(), |$k| $element)
    };
}

/// [`each`] of floats, one for each register.
macro_rules! floats {
    (|$k:ident| $element:expr) => {
        each!(K, _mm256_setzero_ps(), |$k| $element)
    };
}

/// How codes are multiplied.
pub(super) trait Dot {
    /// As [`Rows::Many`].
    type Many: Rows;
    /// As [`Rows::NARROW_BATCH`].
    const NARROW_BATCH: usize = 4;
    /// As [`Rows::BATCH`].
    const BATCH: usize;
    /// As [`Rows::WIDE_BATCH`].
    const WIDE_BATCH: usize = Self::BATCH;

    /// As [`Rows::dots`].
    ///
    /// # Safety
    /// As [`Rows`].
    unsafe fn dot<const K: usize, const N: usize, const T: usize>(
        w: &[[__m256i; K]; N],
        zero: i32,
        top: i32,
        a: *const u32,
        minus_zeros: *const i32,
    ) -> [[__m256i; K]; T];
}

/// Products by `vpmaddubsw`.
pub(super) struct Avx2Dot;
/// Products by `vpdpbusd`.
pub(super) struct VnniDot;

/// What the sums start from.
///
/// # Safety
/// As [`Rows::dots`].
#[inline(always)]
unsafe fn starts<const K: usize, const T: usize>(zero: i32, minus_zeros: *const i32) -> [[__m256i; K]; T] {
    // SAFETY: the caller guarantees the instructions and `T` corrections, if there is a zero.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); K]; T];
        if zero > 0 {
            for (t, sum) in sums.iter_mut().enumerate() {
                *sum = [_mm256_set1_epi32(minus_zeros.add(t).read()); K];
            }
        }
        sums
    }
}

/// Word `g` of token `t`, in every lane.
///
/// # Safety
/// As [`Rows::dots`].
#[inline(always)]
unsafe fn word(a: *const u32, t: usize, g: usize) -> __m256i {
    // SAFETY: the caller guarantees the instructions and the word.
    unsafe { _mm256_set1_epi32(a.add(t * CODE_WORDS + g).read() as i32) }
}

impl Dot for Avx2Dot {
    type Many = Rows256<Self, 2>;
    // More tokens would need more registers for sums of codes of more than four bits.
    const BATCH: usize = 2;
    // Magnitudes and signs of weights are worth the registers of two more tokens.
    const WIDE_BATCH: usize = 4;

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
            let ones = _mm256_set1_epi16(1);
            if top > 127 {
                let mut sums = [[_mm256_setzero_si256(); K]; T];
                // One register of rows after the other: there are none left for magnitudes of both.
                for k in 0..K {
                    for (g, w) in w.iter().enumerate() {
                        let w = _mm256_xor_si256(w[k], _mm256_set1_epi8(-128));
                        for (t, sum) in sums.iter_mut().enumerate() {
                            let a = _mm256_sign_epi8(word(a, t, g), w);
                            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), a);
                            sum[k] = _mm256_add_epi32(sum[k], _mm256_madd_epi16(pairs, ones));
                        }
                    }
                }
                return sums;
            }
            let fit = (32767 / (254 * top)) as usize;
            let mut sums = starts::<K, T>(zero, minus_zeros);
            let mut pairs = [[_mm256_setzero_si256(); K]; T];
            for (g, w) in w.iter().enumerate() {
                for t in 0..T {
                    let a = word(a, t, g);
                    for k in 0..K {
                        let (sum, pair) = (&mut sums[t][k], &mut pairs[t][k]);
                        let product = _mm256_maddubs_epi16(w[k], a);
                        *pair = if g % fit == 0 { product } else { _mm256_add_epi16(*pair, product) };
                        if g % fit == fit - 1 || g == N - 1 {
                            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(*pair, ones));
                        }
                    }
                }
            }
            sums
        }
    }
}

impl Dot for VnniDot {
    // Two registers were not measured where this instruction is.
    type Many = Rows256<Self>;
    const BATCH: usize = 4;

    #[inline(always)]
    unsafe fn dot<const K: usize, const N: usize, const T: usize>(
        w: &[[__m256i; K]; N],
        zero: i32,
        _top: i32,
        a: *const u32,
        minus_zeros: *const i32,
    ) -> [[__m256i; K]; T] {
        // SAFETY: the caller guarantees the instructions and what is read.
        unsafe {
            let mut sums = starts::<K, T>(zero, minus_zeros);
            for (g, w) in w.iter().enumerate() {
                for (t, sum) in sums.iter_mut().enumerate() {
                    let a = word(a, t, g);
                    for (w, sum) in w.iter().zip(sum) {
                        *sum = _mm256_dpbusd_avx_epi32(*sum, *w, a);
                    }
                }
            }
            sums
        }
    }
}

/// Row 4. To the compiler it could be anywhere: otherwise it computes the address of each row by itself.
#[inline(always)]
pub(super) fn fourth(at: *const u8, stride: usize) -> *const u8 {
    another(at.wrapping_add(4 * stride))
}

rows_functions! {
    /// 16 bytes of a row below and of one above.
    fn two(low: *const u8, high: *const u8) -> __m256i {
        let (low, high) = (_mm_loadu_si128(low.cast()), _mm_loadu_si128(high.cast()));
        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
    }
    /// 16 bytes of eight rows: rows `i` and `i + 4` in register `i`.
    pub(super) fn pairs(at: *const u8, stride: usize) -> [__m256i; 4] {
        let high = fourth(at, stride);
        each!(4, _mm256_setzero_si256(), |i| two(at.add(i * stride), high.add(i * stride)))
    }
    /// [`Rows::quads`] of eight rows.
    pub(super) fn quads(at: *const u8, stride: usize) -> [__m256i; 4] {
        // A transposition of 4 x 4 words within each 128 bits: row 4 l + i ends in lane 4 l + i.
        let [a, b, c, d] = pairs(at, stride);
        let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab_low, cd_low),
            _mm256_unpackhi_epi64(ab_low, cd_low),
            _mm256_unpacklo_epi64(ab_high, cd_high),
            _mm256_unpackhi_epi64(ab_high, cd_high),
        ]
    }
    /// [`Rows::words`] of eight rows.
    pub(super) fn words(at: *const u8, stride: usize) -> __m256i {
        // Not a gather: those are ten times slower on the many laptops whose microcode guards against
        // Downfall.
        let high = fourth(at, stride);
        let low = |r: usize| at.add(r * stride).cast::<i32>().read_unaligned();
        let high = |r: usize| high.add(r * stride).cast::<i32>().read_unaligned();
        _mm256_setr_epi32(low(0), low(1), low(2), low(3), high(0), high(1), high(2), high(3))
    }
    /// Byte `n` of each lane in all its four bytes.
    fn replicate(a: __m256i, n: usize) -> __m256i {
        let first = n as i32 * 0x0101_0101;
        let at = _mm_setr_epi32(first, first + 0x0404_0404, first + 0x0808_0808, first + 0x0c0c_0c0c);
        _mm256_shuffle_epi8(a, _mm256_broadcastsi128_si256(at))
    }
    /// Bit 4 of codes of columns `4 g ..`: see [`Rows::with_fifth_bits`].
    fn fifth_bits(bits: __m256i, g: usize) -> __m256i {
        let (each, sixteen) = (_mm256_set1_epi32(0x8040_2010_u32 as i32), _mm256_set1_epi32(0x1010_1010));
        // Bits 4 g .. 4 g + 4 are a nibble of byte g / 2; in all bytes, as high nibble, each byte keeps its
        // own.
        let byte = replicate(bits, g / 2);
        let high = if g.is_multiple_of(2) { _mm256_slli_epi32::<4>(byte) } else { byte };
        _mm256_min_epu8(_mm256_and_si256(high, each), sixteen)
    }
    /// [`Rows::half`] of eight rows.
    pub(super) fn half(a: __m256i) -> __m256 {
        let low = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
        let packed = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256::<1>(low));
        _mm256_cvtph_ps(packed)
    }
}

impl_tier!(Rows256<Avx2Dot, 2>, "avx2,fma,f16c");
impl_tier!(Rows256<VnniDot>, "avx2,fma,f16c,avxvnni");

impl<D: Dot, const K: usize> Rows for Rows256<D, K>
where
    Self: Tier,
{
    const ROWS: usize = 8 * K;
    type Many = D::Many;
    type I = [__m256i; K];
    type F = [__m256; K];
    kept_in_registers!();

    rows_functions! {
        fn quads(at: *const u8, stride: usize) -> [Self::I; 4] {
            let of_eight = each!(K, [_mm256_setzero_si256(); 4], |k| quads(at.add(8 * k * stride), stride));
            each!(4, [_mm256_setzero_si256(); K], |j| ints!(|k| of_eight[k][j]))
        }
        fn words(at: *const u8, stride: usize) -> Self::I { ints!(|k| words(at.add(8 * k * stride), stride)) }
        fn splat(value: i32) -> Self::I { [_mm256_set1_epi32(value); K] }
        fn and(a: Self::I, b: Self::I) -> Self::I { ints!(|k| _mm256_and_si256(a[k], b[k])) }
        fn or(a: Self::I, b: Self::I) -> Self::I { ints!(|k| _mm256_or_si256(a[k], b[k])) }
        fn xor(a: Self::I, b: Self::I) -> Self::I { ints!(|k| _mm256_xor_si256(a[k], b[k])) }
        fn add(a: Self::I, b: Self::I) -> Self::I { ints!(|k| _mm256_add_epi32(a[k], b[k])) }
        fn min(a: Self::I, b: Self::I) -> Self::I { ints!(|k| _mm256_min_epi32(a[k], b[k])) }
        fn max(a: Self::I, b: Self::I) -> Self::I { ints!(|k| _mm256_max_epi32(a[k], b[k])) }
        fn shl(a: Self::I, n: i32) -> Self::I { ints!(|k| _mm256_sll_epi32(a[k], _mm_cvtsi32_si128(n))) }
        fn shr(a: Self::I, n: i32) -> Self::I { ints!(|k| _mm256_srl_epi32(a[k], _mm_cvtsi32_si128(n))) }
        fn sar(a: Self::I, n: i32) -> Self::I { ints!(|k| _mm256_sra_epi32(a[k], _mm_cvtsi32_si128(n))) }
        fn table(table: *const u8) -> Self::I {
            [_mm256_broadcastsi128_si256(_mm_loadu_si128(table.cast())); K]
        }
        fn lookup(table: Self::I, at: Self::I) -> Self::I { ints!(|k| _mm256_shuffle_epi8(table[k], at[k])) }
        fn with_fifth_bits(codes: [Self::I; 8], bits: Self::I) -> [Self::I; 8] {
            let mut codes = codes;
            for (g, code) in codes.iter_mut().enumerate() {
                *code = Self::or(*code, ints!(|k| fifth_bits(bits[k], g)));
            }
            codes
        }
        fn float(a: Self::I) -> Self::F { floats!(|k| _mm256_cvtepi32_ps(a[k])) }
        fn from_bits(a: Self::I) -> Self::F { floats!(|k| _mm256_castsi256_ps(a[k])) }
        fn half(a: Self::I) -> Self::F { floats!(|k| half(a[k])) }
        fn splat_f(value: f32) -> Self::F { [_mm256_set1_ps(value); K] }
        fn load(from: *const f32) -> Self::F { floats!(|k| _mm256_loadu_ps(from.add(8 * k))) }
        fn store(to: *mut f32, v: Self::F) {
            for (k, v) in v.iter().enumerate() {
                _mm256_storeu_ps(to.add(8 * k), *v);
            }
        }
        fn negated(a: Self::F) -> Self::F { floats!(|k| _mm256_xor_ps(a[k], _mm256_set1_ps(-0.0))) }
        fn mul(a: Self::F, b: Self::F) -> Self::F { floats!(|k| _mm256_mul_ps(a[k], b[k])) }
        fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
            floats!(|k| _mm256_fmadd_ps(a[k], b[k], c[k]))
        }
    }

    const NARROW_BATCH: usize = D::NARROW_BATCH;
    const BATCH: usize = D::BATCH;
    const WIDE_BATCH: usize = D::WIDE_BATCH;

    #[inline(always)]
    unsafe fn dots<const N: usize, const T: usize>(
        w: &[Self::I; N],
        zero: i32,
        top: i32,
        a: *const u32,
        minus_zeros: *const i32,
    ) -> [Self::I; T] {
        // SAFETY: the caller guarantees what the trait asks.
        unsafe { D::dot(w, zero, top, a, minus_zeros) }
    }
}

/// AVX-VNNI; AVX2 goes along rows.
impl OneToken for Rows256<VnniDot> {}
