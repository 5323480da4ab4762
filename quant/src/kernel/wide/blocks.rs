//! Each quantised format's blocks as codes and scales of many rows at once, written once for all tiers over
//! [`Rows`]. What the bytes mean is `decode`; the codes and scales are those of `codes`, bit for bit.
//!
//! Codes come out unsigned, at most `TOP`, with `ZERO` still to subtract: most dot products need unsigned
//! bytes; see [`Rows::SIGNED`] for the others. It must not know activations.

use super::rows::{Bytes, Rows, Source, StoredAs};
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
    /// Pieces of 32 weights in a block: 1, 4 or 8.
    const PIECES: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Subtracted from a code: 0 or a power of two.
    const ZERO: i32;
    /// The largest unsigned code.
    const TOP: i32;
    /// Scales and minima of a block.
    type Scales<R: Rows>: ScalesOf<R>;
    /// Bytes that hold bits of several pieces, 32 of each row.
    type Shared<R: Rows>;

    /// Whether scales and minima are [`Multiples`].
    const MULTIPLES: bool = false;
    /// Whether bits of pieces are shifted by a number for each, which should be a constant where few
    /// instructions use it. Only of blocks of eight pieces.
    const SHIFTED: bool = false;

    /// Scales of a block.
    unsafe fn scales<R: Rows, S: Source<R>>(unit: S) -> Self::Scales<R>;
    /// The same as they are stored, with [`Blocks::MULTIPLES`].
    #[inline(always)]
    unsafe fn multiples<R: Rows, S: Source<R>>(_unit: S) -> Multiples<R> {
        unreachable!("the scales are no multiples")
    }
    /// What pieces `first .. first + 4` share; `first` is a multiple of four. A tier with room for it in its
    /// registers reads it once for all of them.
    unsafe fn shared<R: Rows, S: Source<R>>(unit: S, first: usize) -> Self::Shared<R>;
    /// Codes of piece `first + NTH`: columns `4 g ..` in vector `g`. `NTH` is below four.
    unsafe fn codes<R: Rows, S: Source<R>, const NTH: usize>(
        unit: S,
        shared: &Self::Shared<R>,
        first: usize,
    ) -> [R::I; 8];
}

/// `N` scales and `M` minima: as many, or none.
pub(in crate::kernel) struct Scales<R: Rows, const N: usize, const M: usize> {
    scale: [R::F; N],
    min: [R::F; M],
}

/// Reads [`Scales`] of any number.
pub(in crate::kernel) trait ScalesOf<R: Rows> {
    fn scale(&self, i: usize) -> R::F;
    /// Only of formats with minima.
    fn min(&self, i: usize) -> R::F;
}

impl<R: Rows, const N: usize, const M: usize> ScalesOf<R> for Scales<R, N, M> {
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

/// An array of floats from the bytes `$n` of the words `$words`, in order. `$n` is a constant, as not every
/// processor shifts all lanes by a number in one instruction.
macro_rules! floats_of_bytes {
    ($words:expr, |$word:ident, $n:ident| $element:expr) => {{
        let mut out = [R::splat_f(0.0); _];
        for (out, $word) in out.as_chunks_mut::<4>().0.iter_mut().zip($words) {
            floats_of_bytes!(@ out, $n, $element, 0 1 2 3);
        }
        out
    }};
    (@ $out:ident, $n:ident, $element:expr, $($at:literal)*) => {$(
        $out[$at] = {
            const $n: usize = $at;
            $element
        };
    )*};
}

/// Scales that are whole multiples of a float, and minima of another. Multiple `i` is byte `i % 4` of the
/// lanes of word `i / 4`. As floats all are exact: 8 bits times the 11 of an f16.
pub(in crate::kernel) struct Multiples<R: Rows> {
    /// Of which the scales are multiples.
    pub unit: R::F,
    /// Of which the minima are multiples.
    pub min_unit: R::F,
    scales: [R::I; 4],
    minima: [R::I; 4],
    /// How scales are bytes.
    stored: StoredAs,
}

impl<R: Rows> Multiples<R> {
    /// The multiple that scale `i` is.
    ///
    /// # Safety
    /// `i` is below the number of both in a block.
    #[inline(always)]
    pub unsafe fn scale(&self, i: usize) -> Bytes<R::I> {
        // SAFETY: the caller guarantees the word.
        Bytes { words: unsafe { *self.scales.get_unchecked(i / 4) }, n: i % 4, stored: self.stored }
    }

    /// The multiple that minimum `i` is.
    ///
    /// # Safety
    /// `i` is below the number of both in a block.
    #[inline(always)]
    pub unsafe fn min(&self, i: usize) -> Bytes<R::I> {
        // SAFETY: the caller guarantees the word.
        Bytes { words: unsafe { *self.minima.get_unchecked(i / 4) }, n: i % 4, stored: StoredAs::Plain }
    }

    /// As floats.
    ///
    /// # Safety
    /// As [`Rows`].
    #[inline(always)]
    unsafe fn floats<const N: usize, const M: usize>(self) -> Scales<R, N, M> {
        let Self { unit, min_unit, scales, minima, stored } = self;
        // SAFETY: the caller guarantees the instructions.
        unsafe {
            let of_byte = |word, n: usize| R::and(R::shr(word, 8 * n as i32), R::splat(255));
            let scale = floats_of_bytes!(scales, |word, AT| {
                let number = match stored {
                    StoredAs::Plain => of_byte(word, AT),
                    StoredAs::Plus32 => R::add(of_byte(word, AT), R::splat(-32)),
                    StoredAs::Signed => R::sar(R::shl(word, 24 - 8 * AT as i32), 24),
                };
                R::mul(unit, R::float(number))
            });
            Scales {
                scale,
                min: floats_of_bytes!(minima, |word, AT| R::mul(min_unit, R::float(of_byte(word, AT)))),
            }
        }
    }
}

/// One scale for the block, no minimum.
#[inline(always)]
fn one<R: Rows>(scale: R::F) -> Scales<R, 1, 0> {
    Scales { scale: [scale], min: [] }
}

/// The same scale for all pieces of a block, no minimum.
#[inline(always)]
fn same<R: Rows, const N: usize>(scale: R::F) -> Scales<R, N, 0> {
    Scales { scale: [scale; N], min: [] }
}

/// Two f16 in a word as scale and minimum; in the formats that have them so, the minimum is added.
///
/// # Safety
/// As [`Rows`].
#[inline(always)]
unsafe fn scale_and_offset<R: Rows>(pair: R::I) -> Scales<R, 1, 1> {
    // SAFETY: the caller guarantees the instructions.
    unsafe {
        let (scale, offset) = halves_of::<R>(pair);
        Scales { scale: [scale], min: [R::negated(offset)] }
    }
}

/// The two f16 of each lane.
///
/// # Safety
/// As [`Rows`].
#[inline(always)]
unsafe fn halves_of<R: Rows>(pair: R::I) -> (R::F, R::F) {
    // SAFETY: the caller guarantees the instructions.
    unsafe { (R::half(pair), R::half(R::shr(pair, 16))) }
}

/// The last two bytes of `low` and the first two of `high`.
///
/// # Safety
/// As [`Rows`].
#[inline(always)]
unsafe fn between<R: Rows>(low: R::I, high: R::I) -> R::I {
    // SAFETY: the caller guarantees the instructions.
    unsafe { R::or(R::shr(low, 16), R::shl(high, 16)) }
}

/// The 32 four-bit codes of 16 bytes: low nibbles are the first half.
///
/// # Safety
/// As [`Rows`].
#[inline(always)]
unsafe fn nibbles<R: Rows, S: Source<R>>(unit: S, offset: usize) -> [R::I; 8] {
    // SAFETY: the caller guarantees the instructions and 16 bytes of each row.
    unsafe {
        let q = unit.columns(offset);
        ints!(|g| if g < 4 { R::field(q[g], 0, 15) } else { R::field(q[g - 4], 4, 15) })
    }
}

/// 32 codes of a byte each.
///
/// # Safety
/// As [`Rows`], with as many bytes of each row.
#[inline(always)]
unsafe fn whole<R: Rows, S: Source<R>>(unit: S, offset: usize) -> [R::I; 8] {
    // SAFETY: as for this function.
    let ([a, b, c, d], [e, f, g, h]) = unsafe { (unit.columns(offset), unit.columns(offset + 16)) };
    [a, b, c, d, e, f, g, h]
}

/// Bits `shift ..` of 32 bytes, masked with `mask` in each byte.
///
/// # Safety
/// As [`Rows`].
#[inline(always)]
unsafe fn fields<R: Rows>(bytes: &R::Kept, shift: i32, mask: i32) -> [R::I; 8] {
    // SAFETY: the caller guarantees the instructions.
    unsafe {
        let bytes = R::kept(bytes);
        ints!(|g| R::field(bytes[g], shift, mask))
    }
}

/// `codes` with bits `from ..` of 32 bytes, masked with `mask`, as their bits `to ..`.
///
/// # Safety
/// As [`Rows`].
#[inline(always)]
unsafe fn with_fields<R: Rows>(
    codes: [R::I; 8],
    bytes: &R::Kept,
    from: i32,
    to: i32,
    mask: i32,
) -> [R::I; 8] {
    // SAFETY: the caller guarantees the instructions.
    unsafe {
        let bytes = R::kept(bytes);
        ints!(|g| R::with_field(codes[g], bytes[g], from, to, mask))
    }
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

/// The 8 scales and minima of `Q4_K` and `Q5_K` from the first 16 bytes of their blocks.
///
/// # Safety
/// As [`Rows`].
#[inline(always)]
unsafe fn k_multiples<R: Rows, S: Source<R>>(unit: S) -> Multiples<R> {
    // SAFETY: the caller guarantees the instructions and 16 bytes of each row.
    unsafe {
        // All at once: 16 bytes of each row cost little more than one word of each.
        let [ds, a, b, c] = unit.quads(0);
        let (unit, min_unit) = halves_of::<R>(ds);
        let (six, four, two) = (R::splat(0x3f3f_3f3f), R::splat(0x0f0f_0f0f), R::splat(0x3030_3030));
        let high_scales = R::or(R::and(c, four), R::and(R::shr(a, 2), two));
        let high_minima = R::or(R::and(R::shr(c, 4), four), R::and(R::shr(b, 2), two));
        let none = R::splat(0);
        let scales = [R::and(a, six), high_scales, none, none];
        let minima = [R::and(b, six), high_minima, none, none];
        Multiples { unit, min_unit, scales, minima, stored: StoredAs::Plain }
    }
}

/// The 16 scales and minima of `Q2_K`.
///
/// # Safety
/// As [`Rows`].
#[inline(always)]
unsafe fn q2_multiples<R: Rows, S: Source<R>>(unit: S) -> Multiples<R> {
    // SAFETY: the caller guarantees the instructions and the block of each row.
    unsafe {
        let packed = unit.quads(0);
        let (unit, min_unit) = halves_of::<R>(unit.words(80));
        let low = R::splat(0x0f0f_0f0f);
        let scales = ints!(|i| R::and(packed[i], low));
        let minima = ints!(|i| R::and(R::shr(packed[i], 4), low));
        Multiples { unit, min_unit, scales, minima, stored: StoredAs::Plain }
    }
}

/// The 16 scales of `Q3_K`.
///
/// # Safety
/// As [`Rows`].
#[inline(always)]
unsafe fn q3_multiples<R: Rows, S: Source<R>>(unit: S) -> Multiples<R> {
    // SAFETY: the caller guarantees the instructions and the block of each row.
    unsafe {
        // The 12 bytes of scales begin in the middle of a word of the last 16 bytes.
        let [p, q, r, s] = unit.quads(94);
        let (a, b, c) = (between::<R>(p, q), between::<R>(q, r), between::<R>(r, s));
        let d = R::half(R::shr(s, 16));
        let (four, two) = (R::splat(0x0f0f_0f0f), R::splat(0x3030_3030));
        let low = [a, b, R::shr(a, 4), R::shr(b, 4)];
        let high = [R::shl(c, 4), R::shl(c, 2), c, R::shr(c, 2)];
        let scales = ints!(|i| R::or(R::and(low[i], four), R::and(high[i], two)));
        Multiples { unit: d, min_unit: d, scales, minima: [R::splat(0); 4], stored: StoredAs::Plus32 }
    }
}

/// The 16 scales of `Q6_K`.
///
/// # Safety
/// As [`Rows`].
#[inline(always)]
unsafe fn q6_multiples<R: Rows, S: Source<R>>(unit: S) -> Multiples<R> {
    // SAFETY: the caller guarantees the instructions and the block of each row.
    unsafe {
        let (scales, unit) = (unit.quads(192), unit.last_halves(208));
        Multiples { unit, min_unit: unit, scales, minima: [R::splat(0); 4], stored: StoredAs::Signed }
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

static IQ4_SIGNED: [u8; 16] = above_zero(IQ4_VALUES, 0);
static IQ4_UNSIGNED: [u8; 16] = above_zero(IQ4_VALUES, 128);
static E2M1_UNSIGNED: [u8; 16] = above_zero(E2M1_DOUBLED, 16);

/// The table of `IQ4_NL` and `IQ4_XS` as dot products of a tier take codes of more than seven bits.
#[inline(always)]
fn iq4_table<R: Rows>() -> &'static [u8; 16] {
    if R::SIGNED { &IQ4_SIGNED } else { &IQ4_UNSIGNED }
}

/// What remains to subtract from the codes of a format: see [`Rows::SIGNED`].
#[inline(always)]
pub(in crate::kernel) const fn zero_of<R: Rows, B: Blocks>() -> i32 {
    if R::SIGNED && B::TOP > 127 { 0 } else { B::ZERO }
}

/// Runs an expression for the [`Blocks`] of a quantised format, which it knows as a type.
macro_rules! for_format {
    ($format:expr, |$B:ident| $body:expr) => {
        for_format!(@ $format, $B, $body, Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2K Q3K Q4K Q5K Q6K Iq4Nl Iq4Xs Mxfp4 Tq2_0 Q1_0 Q8K)
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

/// Declares the formats: number of scales and of minima, zero and top of the codes, how scales are read, how
/// many times 32 bytes pieces share, whether they are shifted by a number for each piece, how they are read,
/// and how codes are. The bodies run in unsafe blocks, with `R` as the tier.
macro_rules! blocks {
    ($(
        $format:ident: [$n:literal, $m:literal], $zero:literal, $top:literal;
        |$unit:ident| $scales:block $(multiples $multiples:block)?
        [$k:literal$(, shifted $shifted:literal)?] |$shared_unit:pat_param, $q:pat_param| $shared:block
        |$codes_unit:pat_param, $bytes:pat_param, $p:pat_param| $codes:block
    )*) => {$(
        pub(in crate::kernel) struct $format;

        impl Blocks for $format {
            const SHAPE: Shape = Shape::of(Format::$format);
            const PIECES: usize = Format::$format.block_len() / 32;
            const BYTES: usize = Format::$format.block_bytes();
            const ZERO: i32 = $zero;
            const TOP: i32 = $top;
            type Scales<R: Rows> = Scales<R, $n, $m>;
            type Shared<R: Rows> = [R::Kept; $k];
            $(const SHIFTED: bool = $shifted;)?

            #[inline(always)]
            unsafe fn scales<R: Rows, S: Source<R>>($unit: S) -> Self::Scales<R> {
                // SAFETY: the caller guarantees the instructions and the block of each row; every read is
                // within it as `decode` lays it out.
                unsafe { $scales }
            }

            $(
                const MULTIPLES: bool = true;

                #[inline(always)]
                unsafe fn multiples<R: Rows, S: Source<R>>($unit: S) -> Multiples<R> {
                    // SAFETY: as above.
                    unsafe { $multiples }
                }
            )?

            #[inline(always)]
            #[allow(unused_unsafe, reason = "pieces of many formats share nothing")]
            unsafe fn shared<R: Rows, S: Source<R>>($shared_unit: S, $q: usize) -> Self::Shared<R> {
                // SAFETY: as above.
                unsafe { $shared }
            }

            #[inline(always)]
            unsafe fn codes<R: Rows, S: Source<R>, const NTH: usize>(
                $codes_unit: S,
                $bytes: &Self::Shared<R>,
                $p: usize,
            ) -> [R::I; 8] {
                // SAFETY: as above.
                unsafe { $codes }
            }
        }
    )*};
}

blocks! {
    Q4_0: [1, 0], 8, 15;
    |unit| { one(unit.halves(0)) }
    [0] |_, _| { [] }
    |unit, _, _| { nibbles(unit, 2) }

    Q4_1: [1, 1], 0, 15;
    |unit| { scale_and_offset::<R>(unit.words(0)) }
    [0] |_, _| { [] }
    |unit, _, _| { nibbles(unit, 4) }

    Q5_0: [1, 0], 16, 31;
    |unit| { one(R::half(unit.quads(0)[0])) }
    [0] |_, _| { [] }
    |unit, _, _| {
        let [first, second, ..] = unit.quads(0);
        R::with_fifth_bits(nibbles(unit, 6), between::<R>(first, second))
    }

    Q5_1: [1, 1], 0, 31;
    |unit| { scale_and_offset::<R>(unit.quads(0)[0]) }
    [0] |_, _| { [] }
    |unit, _, _| {
        R::with_fifth_bits(nibbles(unit, 8), unit.quads(0)[1])
    }

    Q8_0: [1, 0], 128, 255;
    |unit| { one(unit.halves(0)) }
    [0] |_, _| { [] }
    |unit, _, _| {
        let bytes = whole(unit, 2);
        let sign = R::splat(if R::SIGNED { 0 } else { 0x8080_8080_u32 as i32 });
        ints!(|g| R::xor(bytes[g], sign))
    }

    Q2K: [16, 16], 0, 3;
    |unit| { q2_multiples(unit).floats() } multiples { q2_multiples(unit) }
    [1] |unit, first| { [unit.keep_halves(16 + first / 4 * 32)] }
    |_, [bytes], _| { fields::<R>(bytes, 2 * NTH as i32, 3) }

    Q3K: [16, 0], 4, 7;
    |unit| { q3_multiples(unit).floats() } multiples { q3_multiples(unit) }
    [2, shifted true] |unit, first| { [unit.keep_halves(32 + first / 4 * 32), unit.keep_halves(0)] }
    |_, [low, high], first| {
        with_fields::<R>(fields::<R>(low, 2 * NTH as i32, 3), high, (first + NTH) as i32, 2, 1)
    }

    Q4K: [8, 8], 0, 15;
    |unit| { k_multiples(unit).floats() } multiples { k_multiples(unit) }
    [2] |unit, first| { [unit.keep(16 + first / 2 * 32), unit.keep(48 + first / 2 * 32)] }
    |_, bytes, _| { fields::<R>(&bytes[NTH / 2], 4 * (NTH % 2) as i32, 15) }

    Q5K: [8, 8], 0, 31;
    |unit| { k_multiples(unit).floats() } multiples { k_multiples(unit) }
    [3, shifted true] |unit, first| {
        [unit.keep(48 + first / 2 * 32), unit.keep(80 + first / 2 * 32), unit.keep(16)]
    }
    |_, bytes, first| {
        let low = fields::<R>(&bytes[NTH / 2], 4 * (NTH % 2) as i32, 15);
        with_fields::<R>(low, &bytes[2], (first + NTH) as i32, 4, 1)
    }

    Q6K: [16, 0], 32, 63;
    |unit| { q6_multiples(unit).floats() } multiples { q6_multiples(unit) }
    [3] |unit, first| {
        let at = first / 4 * 64;
        [unit.keep_halves(at), unit.keep_halves(at + 32), unit.keep_halves(128 + at / 2)]
    }
    |_, bytes, _| {
        let low = fields::<R>(&bytes[NTH % 2], 4 * (NTH / 2) as i32, 15);
        with_fields::<R>(low, &bytes[2], 2 * NTH as i32, 4, 3)
    }

    Iq4Nl: [1, 0], 128, 241;
    |unit| { one(unit.halves(0)) }
    [0] |_, _| { [] }
    |unit, _, _| { looked_up::<R>(iq4_table::<R>(), nibbles(unit, 2)) }

    Iq4Xs: [8, 0], 128, 241;
    |unit| {
        let [first, low, ..] = unit.quads(0);
        let d = R::half(first);
        let scale = floats!(|i| {
            let low = R::and(R::shr(low, 4 * i as i32), R::splat(15));
            let high = R::and(R::shr(first, 16 + 2 * i as i32), R::splat(3));
            let scale = R::add(R::or(low, R::shl(high, 4)), R::splat(-32));
            R::mul(d, R::float(scale))
        });
        Scales { scale, min: [] }
    }
    [0] |_, _| { [] }
    |unit, _, first| { looked_up::<R>(iq4_table::<R>(), nibbles(unit, 8 + 16 * (first + NTH))) }

    Mxfp4: [1, 0], 16, 28;
    |unit| {
        // As `e8m0_half`: the two smallest are subnormal, and below these bits only they are larger.
        let e = unit.bytes(0);
        let normal = R::shl(R::add(e, R::splat(-1)), 23);
        let subnormal = R::add(R::splat(0x0020_0000), R::shl(R::min(e, R::splat(1)), 21));
        one(R::from_bits(R::max(normal, subnormal)))
    }
    [0] |_, _| { [] }
    |unit, _, _| { looked_up::<R>(&E2M1_UNSIGNED, nibbles(unit, 1)) }

    Tq2_0: [8, 0], 1, 3;
    |unit| { same::<R, 8>(unit.last_halves(64)) }
    [1] |unit, first| { [unit.keep(first / 4 * 32)] }
    |_, [bytes], _| { fields::<R>(bytes, 2 * NTH as i32, 3) }

    Q1_0: [4, 0], 1, 2;
    |unit| { same::<R, 4>(unit.halves(0)) }
    [0] |_, _| { [] }
    |unit, _, first| {
        // Bits at place 4, moved to place 1: 0 or 2.
        let bits = R::with_fifth_bits([R::splat(0); 8], unit.words(2 + 4 * (first + NTH)));
        ints!(|g| R::field(bits[g], 3, 2))
    }

    Q8K: [8, 0], 128, 255;
    |unit| { same::<R, 8>(R::from_bits(unit.words(0))) }
    [0] |_, _| { [] }
    |unit, _, first| {
        let bytes = whole(unit, 4 + 32 * (first + NTH));
        let sign = R::splat(if R::SIGNED { 0 } else { 0x8080_8080_u32 as i32 });
        ints!(|g| R::xor(bytes[g], sign))
    }
}
