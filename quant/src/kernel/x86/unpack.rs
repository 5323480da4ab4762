//! Each format's blocks to vectors of floats, once for all tiers. The layouts are explained in `decode`, whose bits these
//! functions reproduce.
//!
//! All quantised formats go through 32 signed bytes in a `ymm` register: bit operations make them, [`Lanes::widen`] makes
//! floats of them. It must not know what becomes of the floats: they go into a [`Sink`].

use core::arch::x86_64::*;

use super::lanes::Lanes;
use crate::Format;
use crate::decode::{E2M1_DOUBLED, IQ4_VALUES, e8m0_half, iq4_xs_scales, k_scales, q3_k_scales};

/// Takes the weights of a block, each vector once, in ascending order.
pub(super) trait Sink<L: Lanes> {
    /// Weights `at .. at + L::N` of the block.
    ///
    /// # Safety
    /// As [`Lanes`].
    unsafe fn put(&mut self, at: usize, weights: L::V);
}

/// A format that can be unpacked. A unit of weights comes in parts of at most 64, so that a product can go from row to
/// row after each: the additions of one row wait for each other, those of another need not.
pub(super) trait Unpack {
    /// Which one.
    const FORMAT: Format;
    /// Weights of a unit: a block, or 32 plain floats.
    const LEN: usize = if Self::FORMAT.block_len() == 1 { 32 } else { Self::FORMAT.block_len() };
    /// Bytes of a unit.
    const BYTES: usize = Self::LEN / Self::FORMAT.block_len() * Self::FORMAT.block_bytes();
    /// Parts of a unit.
    const PARTS: usize = Self::LEN.div_ceil(64);
    /// What all parts need: the scales.
    type Head: Copy;

    /// Reads the scales of a unit.
    ///
    /// # Safety
    /// As [`Lanes`], with `unit` good for reading [`Unpack::BYTES`].
    unsafe fn head<L: Lanes>(unit: *const u8) -> Self::Head;

    /// Unpacks part `part` of a unit: `LEN / PARTS` weights.
    ///
    /// # Safety
    /// As [`Unpack::head`], which read `head` from the same unit; `part < PARTS`.
    unsafe fn part<L: Lanes>(unit: *const u8, head: &Self::Head, part: usize, sink: &mut impl Sink<L>);
}

/// Declares the formats: the type of the head, how it is read from `$unit`, and a part. The bodies run in unsafe blocks.
macro_rules! formats {
    ($(
        $format:ident: $head:ty;
        |$unit:ident| $read_head:block
        |$scales:pat_param, $part:pat_param, $sink:ident| $body:block
    )*) => {$(
        pub(super) struct $format;

        impl Unpack for $format {
            const FORMAT: Format = Format::$format;
            type Head = $head;

            #[inline(always)]
            #[allow(clippy::unused_unit, unused_unsafe, unused_variables, reason = "plain floats have no scales")]
            unsafe fn head<L: Lanes>($unit: *const u8) -> Self::Head {
                // SAFETY: the caller vouches for the instructions and for `BYTES` bytes; every read is within the
                // unit as `decode` lays it out.
                unsafe { $read_head }
            }

            #[inline(always)]
            unsafe fn part<L: Lanes>($unit: *const u8, $scales: &$head, $part: usize, $sink: &mut impl Sink<L>) {
                // SAFETY: as above.
                unsafe { $body }
            }
        }
    )*};
}

formats! {
    F32: ();
    |unit| { () }
    |(), _, sink| {
        for at in (0..32).step_by(L::N) {
            sink.put(at, L::load(unit.cast::<f32>().add(at)));
        }
    }

    F16: ();
    |unit| { () }
    |(), _, sink| {
        for at in (0..32).step_by(L::N) {
            sink.put(at, L::load_f16(unit.cast::<u16>().add(at)));
        }
    }

    BF16: ();
    |unit| { () }
    |(), _, sink| {
        for at in (0..32).step_by(L::N) {
            sink.put(at, L::load_bf16(unit.cast::<u16>().add(at)));
        }
    }

    Q4_0: f32;
    |unit| { half(unit) }
    |&d, _, sink| {
        let codes = _mm256_sub_epi8(nibbles(unit.add(2)), _mm256_set1_epi8(8));
        scaled::<L>(sink, 0, codes, [d; 2]);
    }

    Q4_1: [f32; 2];
    |unit| { [half(unit), half(unit.add(2))] }
    |&[d, m], _, sink| { affine::<L>(sink, 0, nibbles(unit.add(4)), [d; 2], [m; 2]); }

    Q5_0: f32;
    |unit| { half(unit) }
    |&d, _, sink| {
        let codes = _mm256_or_si256(nibbles(unit.add(6)), fifth_bits(unit.add(2)));
        scaled::<L>(sink, 0, _mm256_sub_epi8(codes, _mm256_set1_epi8(16)), [d; 2]);
    }

    Q5_1: [f32; 2];
    |unit| { [half(unit), half(unit.add(2))] }
    |&[d, m], _, sink| {
        let codes = _mm256_or_si256(nibbles(unit.add(8)), fifth_bits(unit.add(4)));
        affine::<L>(sink, 0, codes, [d; 2], [m; 2]);
    }

    Q8_0: f32;
    |unit| { half(unit) }
    |&d, _, sink| { scaled::<L>(sink, 0, load(unit.add(2)), [d; 2]); }

    Q2K: [[f32; 16]; 2];
    |unit| {
        let scales = _mm_loadu_si128(unit.cast());
        let low = _mm_set1_epi8(15);
        [
            sixteen::<L>(_mm_and_si128(scales, low), half(unit.add(80))),
            sixteen::<L>(_mm_and_si128(_mm_srli_epi16::<4>(scales), low), -half(unit.add(82))),
        ]
    }
    |[d, m], part, sink| {
        let packed = shift(load(unit.add(16 + part / 2 * 32)), part % 2 * 4);
        for i in 0..2 {
            let group = part * 2 + i;
            affine::<L>(sink, i * 32, bits(packed, i * 2, 3), pair(d, group), pair(m, group));
        }
    }

    Q3K: [f32; 16];
    |unit| {
        let scales = q3_k_scales(&unit.add(96).cast::<[u8; 12]>().read());
        sixteen::<L>(_mm_loadu_si128(scales.as_ptr().cast()), half(unit.add(108)))
    }
    |d, part, sink| {
        let packed = shift(load(unit.add(32 + part / 2 * 32)), part % 2 * 4);
        let high = shift(load(unit), part * 2);
        for i in 0..2 {
            // The high bit as bit 2, then minus 4: the same as minus 4 unless it is set.
            let q = _mm256_or_si256(bits(packed, i * 2, 3), _mm256_slli_epi16::<2>(bits(high, i, 1)));
            scaled::<L>(sink, i * 32, _mm256_sub_epi8(q, _mm256_set1_epi8(4)), pair(d, part * 2 + i));
        }
    }

    Q4K: [[f32; 16]; 2];
    |unit| { k_head::<L>(unit) }
    |[d, m], part, sink| {
        let packed = load(unit.add(16 + part * 32));
        for i in 0..2 {
            let group = part * 2 + i;
            affine::<L>(sink, i * 32, bits(packed, i * 4, 15), [d[group]; 2], [m[group]; 2]);
        }
    }

    Q5K: [[f32; 16]; 2];
    |unit| { k_head::<L>(unit) }
    |[d, m], part, sink| {
        let packed = load(unit.add(48 + part * 32));
        let high = shift(load(unit.add(16)), part * 2);
        for i in 0..2 {
            let group = part * 2 + i;
            let q = _mm256_or_si256(bits(packed, i * 4, 15), _mm256_slli_epi16::<4>(bits(high, i, 1)));
            affine::<L>(sink, i * 32, q, [d[group]; 2], [m[group]; 2]);
        }
    }

    Q6K: [f32; 16];
    |unit| { sixteen::<L>(_mm_loadu_si128(unit.add(192).cast()), half(unit.add(208))) }
    |d, part, sink| {
        let high = shift(load(unit.add(128 + part / 2 * 32)), part % 2 * 4);
        for i in 0..2 {
            let low = bits(load(unit.add(part / 2 * 64 + i * 32)), part % 2 * 4, 15);
            let q = _mm256_or_si256(low, _mm256_slli_epi16::<4>(bits(high, i * 2, 3)));
            scaled::<L>(sink, i * 32, _mm256_sub_epi8(q, _mm256_set1_epi8(32)), pair(d, part * 2 + i));
        }
    }

    Iq4Nl: f32;
    |unit| { half(unit) }
    |&d, _, sink| { scaled::<L>(sink, 0, look_up(&IQ4_VALUES, nibbles(unit.add(2))), [d; 2]); }

    Iq4Xs: [f32; 16];
    |unit| {
        let mut scales = [0; 16];
        scales[..8].copy_from_slice(&iq4_xs_scales(&unit.add(2).cast::<[u8; 6]>().read()));
        sixteen::<L>(_mm_loadu_si128(scales.as_ptr().cast()), half(unit))
    }
    |d, part, sink| {
        for i in 0..2 {
            let group = part * 2 + i;
            let q = look_up(&IQ4_VALUES, nibbles(unit.add(8 + group * 16)));
            scaled::<L>(sink, i * 32, q, [d[group]; 2]);
        }
    }

    Mxfp4: f32;
    |unit| { e8m0_half(unit.read()) }
    |&d, _, sink| { scaled::<L>(sink, 0, look_up(&E2M1_DOUBLED, nibbles(unit.add(1))), [d; 2]); }
}

/// Declares helpers: `#[inline(always)]`, `unsafe` as [`Lanes`], the body in an unsafe block.
macro_rules! helpers {
    ($(
        $(#[$doc:meta])*
        fn $name:ident $(<$l:ident: Lanes>)? ($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? { $($body:tt)* }
    )*) => {$(
        $(#[$doc])*
        #[inline(always)]
        unsafe fn $name $(<$l: Lanes>)? ($($arg: $type),*) $(-> $result)? {
            // SAFETY: the caller vouches for the instructions and the pointers.
            unsafe { $($body)* }
        }
    )*};
}

helpers! {
    /// 32 bytes.
    fn load(from: *const u8) -> __m256i { _mm256_loadu_si256(from.cast()) }

    /// The half-precision number at `from`.
    fn half(from: *const u8) -> f32 {
        _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(from.cast::<u16>().read_unaligned()))))
    }

    /// 16 bytes as 32 codes: the low nibbles, then the high ones.
    fn nibbles(from: *const u8) -> __m256i {
        let bytes = _mm_loadu_si128(from.cast());
        let both = _mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes);
        _mm256_and_si256(both, _mm256_set1_epi8(15))
    }

    /// 16-bit words shifted right. The upper bits of each lower byte are its neighbour's: see [`bits`].
    fn shift(words: __m256i, by: usize) -> __m256i { _mm256_srl_epi16(words, _mm_cvtsi32_si128(by as i32)) }

    /// `bytes >> by & mask`, where the mask drops what the shift of words brought from the neighbouring byte.
    fn bits(bytes: __m256i, by: usize, mask: i8) -> __m256i {
        _mm256_and_si256(shift(bytes, by), _mm256_set1_epi8(mask))
    }

    /// 4 bytes of bits, bit `i` as 16 in byte `i`.
    fn fifth_bits(from: *const u8) -> __m256i {
        let word = _mm256_set1_epi32(from.cast::<i32>().read_unaligned());
        let spread = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
        let select = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        let selected = _mm256_and_si256(_mm256_shuffle_epi8(word, spread), select);
        _mm256_and_si256(_mm256_cmpeq_epi8(selected, select), _mm256_set1_epi8(16))
    }

    /// `table[code]` for each code, 0..=15.
    fn look_up(table: &[i8; 16], codes: __m256i) -> __m256i {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
        _mm256_shuffle_epi8(table, codes)
    }

    /// The scales of a block: 16 signed bytes times `d`.
    fn sixteen<L: Lanes>(codes: __m128i, d: f32) -> [f32; 16] {
        let mut scales = [0.0; 16];
        for part in 0..16 / L::N {
            let wide = L::widen(_mm256_castsi128_si256(codes), part);
            L::store(scales.as_mut_ptr().add(part * L::N), L::mul(L::splat(d), wide));
        }
        scales
    }

    /// The 8 scales and 8 negated minima of a `Q4_K` or `Q5_K` block; the rest of each array is no one's.
    fn k_head<L: Lanes>(block: *const u8) -> [[f32; 16]; 2] {
        let (scales, minima) = k_scales(&block.add(4).cast::<[u8; 12]>().read());
        [
            sixteen::<L>(_mm_loadl_epi64(scales.as_ptr().cast()), half(block)),
            sixteen::<L>(_mm_loadl_epi64(minima.as_ptr().cast()), -half(block.add(2))),
        ]
    }
}

/// The scales of the two halves of a group of 32, where there is one for each 16 weights.
#[inline(always)]
fn pair(scales: &[f32; 16], group: usize) -> [f32; 2] {
    [scales[group * 2], scales[group * 2 + 1]]
}

/// Puts `d * q` for 32 codes, `d` for each half.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn scaled<L: Lanes>(sink: &mut impl Sink<L>, at: usize, codes: __m256i, d: [f32; 2]) {
    for part in 0..32 / L::N {
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            let d = L::splat(d[part * L::N / 16]);
            sink.put(at + part * L::N, L::mul(d, L::widen(codes, part)));
        }
    }
}

/// Puts `d * q + m` for 32 codes, `d` and `m` for each half. The reference rounds the product first, but no product
/// needs it: a half-precision number times a scale of 6 bits times a code of 5 has 22 bits, and 24 fit.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn affine<L: Lanes>(sink: &mut impl Sink<L>, at: usize, codes: __m256i, d: [f32; 2], m: [f32; 2]) {
    for part in 0..32 / L::N {
        let half = part * L::N / 16;
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            let weights = L::fma(L::splat(d[half]), L::widen(codes, part), L::splat(m[half]));
            sink.put(at + part * L::N, weights);
        }
    }
}
