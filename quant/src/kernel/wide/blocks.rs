//! Each quantised format's blocks as codes and scales of many rows at once, written once for all tiers over
//! [`Rows`]. What the bytes mean is `decode`; the codes and scales are those of `codes`, bit for bit.
//!
//! Codes come out unsigned, at most `TOP`, with `ZERO` still to subtract: the dot products need unsigned
//! bytes. It must not know activations.

use super::rows::{Rows, Source};
use crate::codes::Shape;
use crate::decode::{E2M1_DOUBLED, IQ4_VALUES};
use crate::format::Format;

/// A quantised format.
///
/// # Safety
/// All functions are as [`Source`], with `unit` at a block.
pub(in crate::kernel) trait Blocks {
    /// How its pieces are summed.
    const SHAPE: Shape;
    /// Pieces of 32 weights in a block: 1, 2, 4 or 8.
    const PIECES: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Subtracted from a code: 0 or a power of two.
    const ZERO: i32;
    /// The largest unsigned code.
    const TOP: i32;
    /// Scales and minima of a block.
    type Scales<R: Rows>: ScalesOf<R>;

    /// Scales of a block.
    unsafe fn scales<R: Rows, S: Source<R>>(unit: S) -> Self::Scales<R>;
    /// Codes of piece `first + NTH`: columns `4 g ..` in vector `g`. `first` is a multiple of four, `NTH`
    /// below four and known to the compiler, which reads bytes that several pieces share once.
    unsafe fn codes<R: Rows, S: Source<R>, const NTH: usize>(unit: S, first: usize) -> [R::I; 8];
}

/// `N` scales and minima.
pub(in crate::kernel) struct Scales<R: Rows, const N: usize> {
    scale: [R::F; N],
    min: [R::F; N],
}

/// Reads [`Scales`] of any number.
pub(in crate::kernel) trait ScalesOf<R: Rows> {
    fn scale(&self, i: usize) -> R::F;
    fn min(&self, i: usize) -> R::F;
}

impl<R: Rows, const N: usize> ScalesOf<R> for Scales<R, N> {
    #[inline(always)]
    fn scale(&self, i: usize) -> R::F {
        self.scale[i]
    }

    #[inline(always)]
    fn min(&self, i: usize) -> R::F {
        self.min[i]
    }
}

/// An array built from the index; its length follows from the context. Not `std::array::from_fn`: its
/// closures lack the tier's instructions, and the compiler may not inline them.
macro_rules! array {
    ($init:expr, |$i:ident| $element:expr) => {{
        let mut out = [$init; _];
        for ($i, out) in out.iter_mut().enumerate() {
            *out = $element;
        }
        out
    }};
}

macro_rules! ints {
    (|$i:ident| $element:expr) => {
        array!(R::splat(0), |$i| $element)
    };
}

macro_rules! floats {
    (|$i:ident| $element:expr) => {
        array!(R::splat_f(0.0), |$i| $element)
    };
}

/// One scale for the block, no minimum.
#[inline(always)]
fn one<R: Rows>(scale: R::F) -> Scales<R, 1> {
    Scales { scale: [scale], min: [scale] }
}

/// The same scale for all pieces of a block, no minimum.
#[inline(always)]
fn same<R: Rows, const N: usize>(scale: R::F) -> Scales<R, N> {
    Scales { scale: [scale; N], min: [scale; N] }
}

/// The first two f16 of a block as scale and minimum; in the formats that have them so, the minimum is added.
///
/// # Safety
/// As [`Source`].
#[inline(always)]
unsafe fn scale_and_offset<R: Rows, S: Source<R>>(unit: S) -> Scales<R, 1> {
    // SAFETY: the caller guarantees the block.
    unsafe { Scales { scale: [unit.halves(0)], min: [R::negated(unit.halves(2))] } }
}

/// The 32 four-bit codes of 16 bytes: low nibbles are the first half.
///
/// # Safety
/// As [`Rows`].
#[inline(always)]
unsafe fn nibbles<R: Rows, S: Source<R>>(unit: S, offset: usize) -> [R::I; 8] {
    // SAFETY: the caller guarantees the instructions and 16 bytes of each row.
    unsafe {
        let q = unit.quads(offset);
        let low = R::splat(0x0f0f_0f0f);
        ints!(|g| if g < 4 { R::and(q[g], low) } else { R::and(R::shr(q[g - 4], 4), low) })
    }
}

/// Bits `shift ..` of 32 bytes, masked with `mask` in each byte.
///
/// # Safety
/// As [`Rows`].
#[inline(always)]
unsafe fn fields<R: Rows, S: Source<R>>(unit: S, offset: usize, shift: i32, mask: i32) -> [R::I; 8] {
    // SAFETY: the caller guarantees the instructions and 32 bytes of each row.
    unsafe {
        let (a, b) = (unit.quads(offset), unit.quads(offset + 16));
        let mask = R::splat(mask * 0x0101_0101);
        ints!(|g| R::and(R::shr(if g < 4 { a[g] } else { b[g - 4] }, shift), mask))
    }
}

/// Four bits for each of 8 vectors, spread to bit 4 of its bytes: the fifth bits of 32 codes in a word of
/// each row.
///
/// # Safety
/// As [`Rows`].
#[inline(always)]
unsafe fn with_fifth_bits<R: Rows>(codes: [R::I; 8], bits: R::I) -> [R::I; 8] {
    // SAFETY: the caller guarantees the instructions.
    unsafe {
        let each = R::splat(0x8040_2010_u32 as i32);
        let sixteen = R::splat(0x1010_1010);
        ints!(|g| {
            // Bits 4 g .. 4 g + 4 are a nibble of byte g / 2; in all bytes, as high nibble, each byte keeps
            // its own.
            let byte = R::replicate(bits, g / 2);
            let high = if g % 2 == 0 { R::shl(byte, 4) } else { byte };
            R::or(codes[g], R::min_bytes(R::and(high, each), sixteen))
        })
    }
}

/// `codes | high << shift`.
///
/// # Safety
/// As [`Rows`].
#[inline(always)]
unsafe fn with_high<R: Rows>(codes: [R::I; 8], high: [R::I; 8], shift: i32) -> [R::I; 8] {
    // SAFETY: the caller guarantees the instructions.
    unsafe { ints!(|g| R::or(codes[g], R::shl(high[g], shift))) }
}

/// Bytes of a 16-entry table.
///
/// # Safety
/// As [`Rows`].
#[inline(always)]
unsafe fn looked_up<R: Rows>(table: &'static [u8; 16], codes: [R::I; 8]) -> [R::I; 8] {
    // SAFETY: the caller guarantees the instructions; the table has 16 bytes.
    unsafe {
        let table = R::table(table.as_ptr());
        ints!(|g| R::lookup(table, codes[g]))
    }
}

/// Byte `n` of each lane, unsigned, as float.
///
/// # Safety
/// As [`Rows`].
#[inline(always)]
unsafe fn byte<R: Rows>(words: R::I, n: usize) -> R::F {
    // SAFETY: the caller guarantees the instructions.
    unsafe { R::float(R::and(R::shr(words, 8 * n as i32), R::splat(255))) }
}

/// Byte `n` of each lane, signed, as float.
///
/// # Safety
/// As [`Rows`].
#[inline(always)]
unsafe fn signed_byte<R: Rows>(words: R::I, n: usize) -> R::F {
    // SAFETY: the caller guarantees the instructions.
    unsafe { R::float(R::sar(R::shl(words, 24 - 8 * n as i32), 24)) }
}

/// The 8 scales and minima of `Q4_K` and `Q5_K` from the first 16 bytes of their blocks.
///
/// # Safety
/// As [`Rows`].
#[inline(always)]
unsafe fn k_scales<R: Rows, S: Source<R>>(unit: S) -> Scales<R, 8> {
    // SAFETY: the caller guarantees the instructions and 16 bytes of each row.
    unsafe {
        let (d, dmin) = (unit.halves(0), unit.halves(2));
        let (a, b, c) = (unit.words(4), unit.words(8), unit.words(12));
        let (six, four, two) = (R::splat(0x3f3f_3f3f), R::splat(0x0f0f_0f0f), R::splat(0x3030_3030));
        let high_scales = R::or(R::and(c, four), R::and(R::shr(a, 2), two));
        let high_minima = R::or(R::and(R::shr(c, 4), four), R::and(R::shr(b, 2), two));
        let scales = [R::and(a, six), high_scales];
        let minima = [R::and(b, six), high_minima];
        Scales {
            scale: floats!(|i| R::mul(d, byte::<R>(scales[i / 4], i % 4))),
            min: floats!(|i| R::mul(dmin, byte::<R>(minima[i / 4], i % 4))),
        }
    }
}

/// `table + zero` as unsigned bytes.
const fn above_zero(table: [i8; 16], zero: i16) -> [u8; 16] {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = (table[i] as i16 + zero) as u8;
        i += 1;
    }
    out
}

static IQ4_UNSIGNED: [u8; 16] = above_zero(IQ4_VALUES, 128);
static E2M1_UNSIGNED: [u8; 16] = above_zero(E2M1_DOUBLED, 16);

/// Runs an expression for the [`Blocks`] of a quantised format, which it knows as a type.
macro_rules! for_format {
    ($format:expr, |$B:ident| $body:expr) => {
        for_format!(@ $format, $B, $body, Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2K Q3K Q4K Q5K Q6K Iq4Nl Iq4Xs Mxfp4 Tq2_0 Nvfp4 Q1_0 Q8K)
    };
    (@ $format:expr, $B:ident, $body:expr, $($name:ident)*) => {
        match $format {
            $($crate::format::Format::$name => {
                type $B = $crate::kernel::wide::blocks::$name;
                $body
            })*
            format => unreachable!("{format} has no codes that vectors unpack"),
        }
    };
}

pub(in crate::kernel) use for_format;

/// Declares the formats: number of scales, zero and top of the codes, and how both are read. The bodies run
/// in unsafe blocks, with `R` as the tier.
macro_rules! blocks {
    ($(
        $format:ident: [$n:literal], $zero:literal, $top:literal;
        |$unit:ident| $scales:block
        |$codes_unit:ident, $p:pat_param| $codes:block
    )*) => {$(
        pub(in crate::kernel) struct $format;

        impl Blocks for $format {
            const SHAPE: Shape = Shape::of(Format::$format);
            const PIECES: usize = Format::$format.block_len() / 32;
            const BYTES: usize = Format::$format.block_bytes();
            const ZERO: i32 = $zero;
            const TOP: i32 = $top;
            type Scales<R: Rows> = Scales<R, $n>;

            #[inline(always)]
            unsafe fn scales<R: Rows, S: Source<R>>($unit: S) -> Self::Scales<R> {
                // SAFETY: the caller guarantees the instructions and the block of each row; every read is
                // within it as `decode` lays it out.
                unsafe { $scales }
            }

            #[inline(always)]
            unsafe fn codes<R: Rows, S: Source<R>, const NTH: usize>($codes_unit: S, $p: usize) -> [R::I; 8] {
                // SAFETY: as above.
                unsafe { $codes }
            }
        }
    )*};
}

blocks! {
    Q4_0: [1], 8, 15;
    |unit| { one(unit.halves(0)) }
    |unit, _| { nibbles(unit, 2) }

    Q4_1: [1], 0, 15;
    |unit| { scale_and_offset(unit) }
    |unit, _| { nibbles(unit, 4) }

    Q5_0: [1], 16, 31;
    |unit| { one(unit.halves(0)) }
    |unit, _| {
        with_fifth_bits::<R>(nibbles(unit, 6), unit.words(2))
    }

    Q5_1: [1], 0, 31;
    |unit| { scale_and_offset(unit) }
    |unit, _| {
        with_fifth_bits::<R>(nibbles(unit, 8), unit.words(4))
    }

    Q8_0: [1], 128, 255;
    |unit| { one(unit.halves(0)) }
    |unit, _| {
        let (a, b) = (unit.quads(2), unit.quads(18));
        let sign = R::splat(0x8080_8080_u32 as i32);
        ints!(|g| R::xor(if g < 4 { a[g] } else { b[g - 4] }, sign))
    }

    Q2K: [16], 0, 3;
    |unit| {
        let packed = unit.quads(0);
        let (d, dmin) = (unit.halves(80), unit.last_halves(82));
        let low = R::splat(0x0f0f_0f0f);
        Scales {
            scale: floats!(|i| R::mul(d, byte::<R>(R::and(packed[i / 4], low), i % 4))),
            min: floats!(|i| R::mul(dmin, byte::<R>(R::and(R::shr(packed[i / 4], 4), low), i % 4))),
        }
    }
    |unit, first| { fields(unit, 16 + first / 4 * 32, 2 * NTH as i32, 3) }

    Q3K: [16], 4, 7;
    |unit| {
        let (a, b, c) = (
            unit.words(96),
            unit.words(100),
            unit.words(104),
        );
        let d = unit.last_halves(108);
        let (four, two) = (R::splat(0x0f0f_0f0f), R::splat(0x0303_0303));
        let low = [a, b, R::shr(a, 4), R::shr(b, 4)];
        let high = [c, R::shr(c, 2), R::shr(c, 4), R::shr(c, 6)];
        let scales: [R::I; 4] = ints!(|i| R::or(R::and(low[i], four), R::shl(R::and(high[i], two), 4)));
        let scale = floats!(|i| {
            let unsigned = R::and(R::shr(scales[i / 4], 8 * (i % 4) as i32), R::splat(255));
            R::mul(d, R::float(R::add(unsigned, R::splat(-32))))
        });
        Scales { scale, min: scale }
    }
    |unit, first| {
        let low = fields(unit, 32 + first / 4 * 32, 2 * NTH as i32, 3);
        with_high::<R>(low, fields(unit, 0, (first + NTH) as i32, 1), 2)
    }

    Q4K: [8], 0, 15;
    |unit| { k_scales(unit) }
    |unit, first| { fields(unit, 16 + (first + NTH) / 2 * 32, 4 * (NTH % 2) as i32, 15) }

    Q5K: [8], 0, 31;
    |unit| { k_scales(unit) }
    |unit, first| {
        let low = fields(unit, 48 + (first + NTH) / 2 * 32, 4 * (NTH % 2) as i32, 15);
        with_high::<R>(low, fields(unit, 16, (first + NTH) as i32, 1), 4)
    }

    Q6K: [16], 32, 63;
    |unit| {
        let packed = unit.quads(192);
        let d = unit.last_halves(208);
        let scale = floats!(|i| R::mul(d, signed_byte::<R>(packed[i / 4], i % 4)));
        Scales { scale, min: scale }
    }
    |unit, first| {
        let low = fields(unit, first / 4 * 64 + NTH % 2 * 32, 4 * (NTH / 2) as i32, 15);
        let high = fields(unit, 128 + first / 4 * 32, 2 * NTH as i32, 3);
        with_high::<R>(low, high, 4)
    }

    Iq4Nl: [1], 128, 241;
    |unit| { one(unit.halves(0)) }
    |unit, _| { looked_up::<R>(&IQ4_UNSIGNED, nibbles(unit, 2)) }

    Iq4Xs: [8], 128, 241;
    |unit| {
        let (first, low) = (unit.words(0), unit.words(4));
        let d = R::half(first);
        let scale = floats!(|i| {
            let low = R::and(R::shr(low, 4 * i as i32), R::splat(15));
            let high = R::and(R::shr(first, 16 + 2 * i as i32), R::splat(3));
            let scale = R::add(R::or(low, R::shl(high, 4)), R::splat(-32));
            R::mul(d, R::float(scale))
        });
        Scales { scale, min: scale }
    }
    |unit, first| { looked_up::<R>(&IQ4_UNSIGNED, nibbles(unit, 8 + 16 * (first + NTH))) }

    Mxfp4: [1], 16, 28;
    |unit| {
        // As `e8m0_half`: the two smallest are subnormal, and below these bits only they are larger.
        let e = unit.bytes(0);
        let normal = R::shl(R::add(e, R::splat(-1)), 23);
        let subnormal = R::add(R::splat(0x0020_0000), R::shl(R::min(e, R::splat(1)), 21));
        one(R::from_bits(R::max(normal, subnormal)))
    }
    |unit, _| { looked_up::<R>(&E2M1_UNSIGNED, nibbles(unit, 1)) }

    Tq2_0: [8], 1, 3;
    |unit| { same::<R, 8>(unit.last_halves(64)) }
    |unit, first| { fields(unit, first / 4 * 32, 2 * NTH as i32, 3) }

    Nvfp4: [4], 16, 28;
    |unit| {
        let packed = unit.words(0);
        let scale = floats!(|i| {
            // As `ue4m3_half`: the bits of a half that is 2^7 times smaller, and zero for 0x7f.
            let byte = R::and(R::shr(packed, 8 * i as i32), R::splat(255));
            let other = R::min(R::xor(byte, R::splat(0x7f)), R::splat(1));
            let keep = R::xor(R::add(other, R::splat(-1)), R::splat(-1));
            let half = R::shl(R::and(byte, R::splat(0x7f)), 7);
            R::mul(R::half(R::and(half, keep)), R::splat_f(128.0))
        });
        Scales { scale, min: scale }
    }
    |unit, first| {
        let q = unit.quads(4 + 16 * (first + NTH));
        let low = R::splat(0x0f0f_0f0f);
        // Eight bytes are sixteen weights, low nibbles first.
        let codes: [R::I; 8] = ints!(|g| {
            let two = q[g / 4 * 2 + g % 2];
            R::and(if g % 4 < 2 { two } else { R::shr(two, 4) }, low)
        });
        looked_up::<R>(&E2M1_UNSIGNED, codes)
    }

    Q1_0: [4], 1, 2;
    |unit| { same::<R, 4>(unit.halves(0)) }
    |unit, first| {
        // Bits at place 4, moved to place 1: 0 or 2.
        let bits = with_fifth_bits::<R>([R::splat(0); 8], unit.words(2 + 4 * (first + NTH)));
        ints!(|g| R::shr(bits[g], 3))
    }

    Q8K: [8], 128, 255;
    |unit| { same::<R, 8>(R::from_bits(unit.words(0))) }
    |unit, first| {
        let at = 4 + 32 * (first + NTH);
        let (a, b) = (unit.quads(at), unit.quads(at + 16));
        let sign = R::splat(0x8080_8080_u32 as i32);
        ints!(|g| R::xor(if g < 4 { a[g] } else { b[g - 4] }, sign))
    }
}
