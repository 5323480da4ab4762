//! Dot products of AVX2 along rows, for a single token. Codes are not transposed: registers hold columns of
//! a row as they come from memory, and the token's codes are loaded for as many columns at a time. In return
//! the sums of a row are added across its part of a register. All are integers, so their order changes no
//! bit. Several tokens share a transposition, which is cheaper for them: see `rows256`. It must not know
//! formats.
//!
//! Codes are in one of two orders. From [`Rows::columns`], register `i` holds 16 columns of rows `i` and
//! `i + 4`. From [`Rows::keep_halves`], register `i` holds 32 columns of row `i`: eight loads less, and sums
//! of both halves from one product.

use core::arch::x86_64::*;

use super::rows256::{Avx2Dot, Rows256, each, fourth, half, pairs, quads, words};
use crate::kernel::wide::one_token::OneToken;
use crate::kernel::wide::rows::{Bytes, CODE_WORDS, Rows, StoredAs, another, rows_functions};
use crate::kernel::wide::tier::impl_tier;

/// Eight rows in a `ymm` register, products by `vpmaddubsw`.
pub(super) struct AlongRows;

impl_tier!(AlongRows, "avx2,fma,f16c");

/// Rows of half a register.
const FOUR: usize = 4;
/// Each of four rows in its lane.
const EACH: [usize; FOUR] = [0, 1, 2, 3];

/// 32 bytes of each of eight rows.
#[derive(Clone, Copy)]
#[allow(clippy::large_enum_variant, reason = "the variant is known when it is compiled")]
pub(super) enum Kept {
    /// In the order of [`Rows::columns`], 16 and 16.
    Columns([__m256i; 8]),
    /// The address of the first row, and the bytes from row to row.
    WholeRows(*const u8, usize),
}

/// Neighbouring products of codes up to `top` whose sum fits 16 bits.
const fn fit_of(top: i32) -> usize {
    if top > 127 { 1 } else { (32767 / (254 * top)) as usize }
}

rows_functions! {
    /// 16 codes of the token, from word `g` on, beside both rows.
    fn sixteen(a: *const u32, g: usize) -> __m256i {
        _mm256_broadcastsi128_si256(_mm_loadu_si128(a.add(g).cast()))
    }
    /// Products of codes, neighbours added: the sums fit 16 bits. Codes of more than seven bits, plus 128,
    /// are multiplied as their magnitudes, and give their signs to the token's codes.
    fn products(w: __m256i, a: __m256i, top: i32) -> __m256i {
        if top <= 127 {
            return _mm256_maddubs_epi16(w, a);
        }
        let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
        _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w))
    }
    /// Bytes of rows `rows[i]` and `rows[i] + 4` in lanes `i` and `i + 4`, as both words.
    fn words_of(bytes: Bytes<__m256i>, rows: [usize; FOUR]) -> __m256i {
        let lane = |i: usize| 0x8000_8000_u32 as i32 | (0x0001_0001 * (4 * rows[i] + bytes.n) as i32);
        let at = _mm256_broadcastsi128_si256(_mm_setr_epi32(lane(0), lane(1), lane(2), lane(3)));
        let words = _mm256_shuffle_epi8(bytes.words, at);
        match bytes.stored {
            StoredAs::Plain => words,
            StoredAs::Plus32 => _mm256_sub_epi16(words, _mm256_set1_epi16(32)),
            StoredAs::Signed => unreachable!("such scales are floats in this tier"),
        }
    }
    /// Neighbours among 16 words, added to 8. Lane `i` is row `rows[i]`, and is multiplied with its byte if
    /// there are bytes.
    fn paired(words: __m256i, by: Option<Bytes<__m256i>>, rows: [usize; FOUR]) -> __m256i {
        let by = match by {
            Some(by) => words_of(by, rows),
            None => _mm256_set1_epi16(1),
        };
        _mm256_madd_epi16(words, by)
    }
    /// Halves of the rows of `a` and `b`: what two words of 32 bits apart hold is to be added.
    fn halves(a: __m256i, b: __m256i) -> [__m256i; 2] {
        [_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)]
    }
    /// The same, of what [`halves`] gave.
    fn quarters(a: __m256i, b: __m256i) -> [__m256i; 2] {
        [_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)]
    }
    /// Words of four rows in each half, two for each row, which are sums of four words: these fit 16 bits.
    fn words_of_rows(words: [__m256i; FOUR]) -> __m256i {
        let [a, b, c, d] = words;
        let ([ab, ba], [cd, dc]) = (halves(a, b), halves(c, d));
        let [low, high] = quarters(_mm256_add_epi16(ab, ba), _mm256_add_epi16(cd, dc));
        _mm256_add_epi16(low, high)
    }
    /// The sums of four rows in each half from words that each hold up to `terms` of the `fit` products that
    /// fit 16 bits: they are added as 16 bits as long as they fit. Sums are multiplied with the row's byte if
    /// there are bytes.
    fn sums_of_rows(words: [__m256i; FOUR], terms: usize, fit: usize, by: Option<Bytes<__m256i>>) -> __m256i {
        let [a, b, c, d] = words;
        if 4 * terms <= fit {
            return paired(words_of_rows(words), by, EACH);
        }
        if 2 * terms > fit {
            let (a, b) = (paired(a, by, [0; FOUR]), paired(b, by, [1; FOUR]));
            return sums_of_lanes([a, b, paired(c, by, [2; FOUR]), paired(d, by, [3; FOUR])]);
        }
        let ([ab, ba], [cd, dc]) = (halves(a, b), halves(c, d));
        let ab = paired(_mm256_add_epi16(ab, ba), by, [0, 1, 0, 1]);
        let [low, high] = quarters(ab, paired(_mm256_add_epi16(cd, dc), by, [2, 3, 2, 3]));
        _mm256_add_epi32(low, high)
    }
    /// As [`sums_of_rows`], of sums of 32 bits.
    fn sums_of_lanes(sums: [__m256i; FOUR]) -> __m256i {
        let [a, b, c, d] = sums;
        let ([ab, ba], [cd, dc]) = (halves(a, b), halves(c, d));
        let [low, high] = quarters(_mm256_add_epi32(ab, ba), _mm256_add_epi32(cd, dc));
        _mm256_add_epi32(low, high)
    }
    /// The sums of eight rows from 16 columns.
    fn sixteen_columns(w: [__m256i; FOUR], top: i32, a: *const u32) -> __m256i {
        let a = sixteen(a, 0);
        let words = each!(FOUR, _mm256_setzero_si256(), |i| products(w[i], a, top));
        sums_of_rows(words, 1, fit_of(top), None)
    }
    /// As [`sums_of_rows`], of eight rows from 32 columns.
    fn all_columns(w: &[__m256i; 8], top: i32, a: *const u32, by: Option<Bytes<__m256i>>) -> __m256i {
        let (low, high) = (sixteen(a, 0), sixteen(a, FOUR));
        let first = each!(FOUR, _mm256_setzero_si256(), |i| products(w[i], low, top));
        let second = each!(FOUR, _mm256_setzero_si256(), |i| products(w[i + FOUR], high, top));
        if fit_of(top) < 2 {
            return sums_of_lanes(each!(FOUR, _mm256_setzero_si256(), |i| {
                _mm256_add_epi32(paired(first[i], by, [i; FOUR]), paired(second[i], by, [i; FOUR]))
            }));
        }
        let both = each!(FOUR, _mm256_setzero_si256(), |i| _mm256_add_epi16(first[i], second[i]));
        sums_of_rows(both, 2, fit_of(top), by)
    }
    /// With the zero's part.
    fn corrected(sums: __m256i, zero: i32, minus_zero: i32) -> __m256i {
        if zero == 0 { sums } else { _mm256_add_epi32(sums, _mm256_set1_epi32(minus_zero)) }
    }
    /// Products of rows 0 to 3 and 4 to 7, 32 columns each.
    fn whole_rows(w: &[__m256i; 8], a: *const u32) -> [[__m256i; FOUR]; 2] {
        let a = _mm256_loadu_si256(a.cast());
        let four = |first: usize| each!(FOUR, _mm256_setzero_si256(), |i| _mm256_maddubs_epi16(w[first + i], a));
        [four(0), four(FOUR)]
    }
    /// First halves of eight rows and second halves, from both of four rows.
    fn halves_of_rows(low: __m256i, high: __m256i) -> [__m256i; 2] {
        [_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high)]
    }
    /// Bit 4 of codes of 16 columns of rows `i` and `i + 4`, the second ones if `high`.
    fn fifth_bits(bits: __m256i, i: usize, high: bool) -> __m256i {
        let each = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        // Byte `n` of a row's bits beside eight columns, then the next byte.
        let first = (4 * i + 2 * usize::from(high)) as i64 * 0x0101_0101_0101_0101;
        let at = _mm_set_epi64x(first + 0x0101_0101_0101_0101, first);
        let bytes = _mm256_shuffle_epi8(bits, _mm256_broadcastsi128_si256(at));
        let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, each), each);
        _mm256_and_si256(set, _mm256_set1_epi8(16))
    }
}

impl Rows for AlongRows {
    const ROWS: usize = 8;
    type Many = Rows256<Avx2Dot, 2>;
    type I = __m256i;
    type F = __m256;
    type Kept = Kept;

    rows_functions! {
        fn quads(at: *const u8, stride: usize) -> [__m256i; 4] { quads(at, stride) }
        fn columns(at: *const u8, stride: usize) -> [__m256i; 4] { pairs(at, stride) }
        fn keep(at: *const u8, offset: usize, stride: usize) -> Kept {
            let at = at.add(offset);
            let ([a, b, c, d], [e, f, g, h]) = (pairs(at, stride), pairs(at.add(16), stride));
            Kept::Columns([a, b, c, d, e, f, g, h])
        }
        fn kept(bytes: &Kept) -> [__m256i; 8] {
            match *bytes {
                Kept::Columns(registers) => registers,
                Kept::WholeRows(at, stride) => {
                    // Otherwise the compiler reads for several pieces at a time and keeps what it read in
                    // memory.
                    let low = another(at);
                    let high = fourth(low, stride);
                    each!(8, _mm256_setzero_si256(), |i| {
                        let row = if i < FOUR { low.add(i * stride) } else { high.add((i - FOUR) * stride) };
                        _mm256_loadu_si256(row.cast())
                    })
                }
            }
        }
        fn words(at: *const u8, stride: usize) -> __m256i { words(at, stride) }
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
            each!(8, bits, |g| _mm256_or_si256(codes[g], fifth_bits(bits, g % FOUR, g >= FOUR)))
        }
        fn float(a: __m256i) -> __m256 { _mm256_cvtepi32_ps(a) }
        fn from_bits(a: __m256i) -> __m256 { _mm256_castsi256_ps(a) }
        fn half(a: __m256i) -> __m256 { half(a) }
        fn splat_f(value: f32) -> __m256 { _mm256_set1_ps(value) }
        fn load(from: *const f32) -> __m256 { _mm256_loadu_ps(from) }
        fn store(to: *mut f32, v: __m256) { _mm256_storeu_ps(to, v) }
        fn negated(a: __m256) -> __m256 { _mm256_xor_ps(a, _mm256_set1_ps(-0.0)) }
        fn mul(a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
        fn fma(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn keep_halves(at: *const u8, offset: usize, stride: usize) -> Kept {
        Kept::WholeRows(at.wrapping_add(offset), stride)
    }

    /// Of one token, with formats of tables: several tokens are multiplied by [`Rows::Many`].
    const BATCH: usize = 1;

    #[inline(always)]
    unsafe fn dots<const N: usize, const T: usize>(
        w: &[__m256i; N],
        zero: i32,
        top: i32,
        a: *const u32,
        minus_zeros: *const i32,
    ) -> [__m256i; T] {
        // SAFETY: the caller guarantees the instructions and what is read.
        unsafe {
            each!(T, _mm256_setzero_si256(), |t| {
                let a = a.add(t * CODE_WORDS);
                let sums = if N == FOUR {
                    sixteen_columns(each!(FOUR, w[0], |i| w[i]), top, a)
                } else {
                    all_columns(&each!(8, w[0], |i| w[i]), top, a, None)
                };
                match zero_left(zero, top) {
                    0 => sums,
                    zero => corrected(sums, zero, minus_zeros.add(t).read()),
                }
            })
        }
    }
}

/// The zero whose part is to be added to sums: magnitudes and signs need none.
const fn zero_left(zero: i32, top: i32) -> i32 {
    if top > 127 { 0 } else { zero }
}

impl OneToken for AlongRows {
    const MULTIPLES: i32 = 31;
    const MULTIPLES_OF_HALVES: i32 = 7;

    rows_functions! {
        fn dot(
            w: &[__m256i; 8],
            zero: i32,
            top: i32,
            a: *const u32,
            minus_zero: i32
        ) -> __m256i {
            corrected(all_columns(w, top, a, None), zero_left(zero, top), minus_zero)
        }
        fn dot_halves(
            w: &[__m256i; 8],
            zero: i32,
            top: i32,
            a: *const u32,
            minus_zeros: [i32; 2]
        ) -> [__m256i; 2] {
            let [first, second] = whole_rows(w, a);
            let of_four = |words| sums_of_rows(words, 1, fit_of(top), None);
            let [low, high] = halves_of_rows(of_four(first), of_four(second));
            [corrected(low, zero, minus_zeros[0]), corrected(high, zero, minus_zeros[1])]
        }
        fn dot_times(w: &[__m256i; 8], top: i32, a: *const u32, scale: Bytes<__m256i>) -> __m256i {
            all_columns(w, top, a, Some(scale))
        }
        fn dot_halves_times(
            w: &[__m256i; 8],
            zero: i32,
            top: i32,
            a: *const u32,
            minus_zeros: [i32; 2],
            scales: [Bytes<__m256i>; 2]
        ) -> [__m256i; 2] {
            // Sums of all columns and the zeros fit 16 bits: 16 products of up to 7 * 127, and 4 * 16 * 127.
            assert!(top <= 7 && zero <= 4, "sums of codes up to {top} may not fit 16 bits");
            let [low, high] = whole_rows(w, a);
            let words = halves_of_rows(words_of_rows(low), words_of_rows(high));
            each!(2, _mm256_setzero_si256(), |h| {
                let mut words = words[h];
                if zero > 0 {
                    // Added to one of the two words of each row.
                    words = _mm256_add_epi16(words, _mm256_set1_epi32(minus_zeros[h] & 0xffff));
                }
                paired(words, Some(scales[h]), EACH)
            })
        }
        fn times(value: i32, bytes: Bytes<__m256i>) -> __m256i {
            // The upper word of each lane is multiplied with 0.
            let by = _mm256_and_si256(words_of(bytes, EACH), _mm256_set1_epi32(0xffff));
            _mm256_madd_epi16(by, _mm256_set1_epi32(value))
        }
    }
}
