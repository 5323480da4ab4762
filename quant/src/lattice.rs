//! Formats whose codes are found through tables: points of a lattice with signs (`IQ1_*`, `IQ2_*`, `IQ3_*`),
//! digits to the base 3 (`TQ1_0`), and small floats with 8-bit scales (`NVFP4`). This file is their meaning,
//! for decode and for products: a piece of 32 weights as signed codes and two scales. It must not know rows,
//! matrices or instruction sets.
//!
//! The points are constants of the formats. `lattices.bin` has them as the PyPI package `gguf` packs them,
//! four or two numbers in a byte; `tests/data/generate.py` writes it and the weights that
//! `tests/quant/reference.rs` compares.

use half::f16;

use crate::format::Format;

/// A piece of 32 weights: weight `i` is code `i` times `scales[i / 16]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CodedPiece {
    /// Signed bytes, the first in the lowest.
    pub codes: [u64; 4],
    pub scales: [f32; 2],
}

impl CodedPiece {
    /// The codes one by one.
    pub(crate) fn signed(&self) -> [i8; 32] {
        let mut out = [0; 32];
        for (out, word) in out.as_chunks_mut::<8>().0.iter_mut().zip(self.codes) {
            *out = word.to_le_bytes().map(|byte| byte as i8);
        }
        out
    }
}

/// Whether a format is one of this file.
pub(crate) const fn is_coded(format: Format) -> bool {
    use Format::{Iq1M, Iq1S, Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs, Nvfp4, Nvfp4F32, Tq1_0};
    matches!(format, Iq1S | Iq1M | Iq2Xxs | Iq2Xs | Iq2S | Iq3Xxs | Iq3S | Tq1_0 | Nvfp4 | Nvfp4F32)
}

/// Gives each piece of whole blocks, in order, to `put`.
///
/// # Panics
/// If the format is none of this file.
pub(crate) fn each_piece(format: Format, blocks: &[u8], put: impl FnMut(usize, CodedPiece)) {
    match format {
        Format::Iq1S => each::<_, 8>(blocks, half_at::<50, 0>, iq1_s, put),
        Format::Iq1M => each::<_, 8>(blocks, iq1_m_scale, iq1_m, put),
        Format::Iq2Xxs => each::<_, 8>(blocks, half_at::<66, 0>, iq2_xxs, put),
        Format::Iq2Xs => each::<_, 8>(blocks, half_at::<74, 0>, iq2_xs, put),
        Format::Iq2S => each::<_, 8>(blocks, half_at::<82, 0>, iq2_s, put),
        Format::Iq3Xxs => each::<_, 8>(blocks, half_at::<98, 0>, iq3_xxs, put),
        Format::Iq3S => each::<_, 8>(blocks, half_at::<110, 0>, iq3_s, put),
        Format::Tq1_0 => each::<_, 8>(blocks, half_at::<54, 52>, tq1_0, put),
        Format::Nvfp4 => each::<_, 2>(blocks, |_| 1.0, nvfp4, put),
        Format::Nvfp4F32 => each::<_, 2>(blocks, first_f32, nvfp4_f32, put),
        other => unreachable!("{other} has no table"),
    }
}

/// The codes of a piece, and by what the scale of its block is multiplied for each half.
type Coded = ([u64; 4], [f32; 2]);

/// Runs over blocks of `B` bytes and their `PIECES` pieces. Multiples have few digits, so that their product
/// with a half is exact, and with a code too: the order of these products changes no bit. With a scale in f32
/// the product with the multiple is rounded first.
#[inline(always)]
fn each<const B: usize, const PIECES: usize>(
    blocks: &[u8],
    scale: impl Fn(&[u8; B]) -> f32,
    piece: impl Fn(&[u8; B], usize) -> Coded,
    mut put: impl FnMut(usize, CodedPiece),
) {
    for (index, block) in blocks.as_chunks::<B>().0.iter().enumerate() {
        let scale = scale(block);
        for p in 0..PIECES {
            let (codes, multiples) = piece(block, p);
            put(index * PIECES + p, CodedPiece { codes, scales: multiples.map(|multiple| scale * multiple) });
        }
    }
}

fn half_at<const B: usize, const AT: usize>(block: &[u8; B]) -> f32 {
    f16::from_le_bytes([block[AT], block[AT + 1]]).to_f32()
}

fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// All points, packed: see the head of this file.
static PACKED: &[u8; 9216] = include_bytes!("lattices.bin");

/// `N` points of eight numbers of two bits each, from byte `at` of the table.
const fn eights<const N: usize>(at: usize, values: [i8; 3]) -> [u64; N] {
    let mut points = [0; N];
    let mut i = 0;
    while i < 8 * N {
        let code = PACKED[at + i / 4] >> (2 * (i % 4)) & 3;
        points[i / 8] |= (values[code as usize] as u8 as u64) << (8 * (i % 8));
        i += 1;
    }
    points
}

/// `N` points of four numbers of three bits each, in half a byte.
const fn fours<const N: usize>(at: usize, values: [u8; 8]) -> [u32; N] {
    let mut points = [0; N];
    let mut i = 0;
    while i < 4 * N {
        let code = PACKED[at + i / 2] >> (4 * (i % 2)) & 7;
        points[i / 4] |= (values[code as usize] as u32) << (8 * (i % 4));
        i += 1;
    }
    points
}

static IQ2_XXS: [u64; 256] = eights(0, [8, 25, 43]);
static IQ2_XS: [u64; 512] = eights(512, [8, 25, 43]);
static IQ2_S: [u64; 1024] = eights(1536, [8, 25, 43]);
/// Eight times the values -1, 0, 1, so that the shift of an eighth is a whole number.
static IQ1: [u64; 2048] = eights(3584, [-8, 0, 8]);
static IQ3_XXS: [u32; 256] = fours(7680, [4, 12, 20, 28, 36, 44, 52, 62]);
static IQ3_S: [u32; 512] = fours(8192, [1, 3, 5, 7, 9, 11, 13, 15]);

/// A byte of ones for each bit that is set.
static SIGNS: [u64; 256] = {
    let mut masks = [0; 256];
    let mut i = 0;
    while i < 8 * 256 {
        if (i / 8) >> (i % 8) & 1 == 1 {
            masks[i / 8] |= 0xff << (8 * (i % 8));
        }
        i += 1;
    }
    masks
};

const ONES: u64 = 0x0101_0101_0101_0101;
const TOPS: u64 = 0x8080_8080_8080_8080;

/// Positive bytes, negated where the bit of `signs` is set. No byte is zero, so no sum leaves its byte.
#[inline(always)]
fn signed(point: u64, signs: u8) -> u64 {
    let mask = SIGNS[usize::from(signs)];
    (point ^ mask) + (mask & ONES)
}

/// Seven signs and the eighth that makes the number of minuses even.
#[inline(always)]
fn even(seven: u32) -> u8 {
    let seven = seven as u8 & 127;
    seven | (seven.count_ones() as u8 & 1) << 7
}

/// Adds bytes, wrapping each.
#[inline(always)]
fn add_bytes(a: u64, b: u64) -> u64 {
    ((a & !TOPS) + (b & !TOPS)) ^ ((a ^ b) & TOPS)
}

/// Codes plus 64, as unsigned bytes: none is below -62 or above 62. Only tiers with vectors take them so.
#[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(any(fuzzing, test))))]
#[inline(always)]
pub(crate) fn above_zero(codes: u64) -> u64 {
    add_bytes(codes, 64 * ONES)
}

/// Four scale bits as `(0.5 + s) / 4`.
fn quarter(s: u32) -> f32 {
    (0.5 + s as f32) * 0.25
}

/// `d: f16 | 8 x (4 x 8 bits: point | 4 x 7 bits: signs, 4 bits: scale)`.
#[inline(always)]
fn iq2_xxs(b: &[u8; 66], p: usize) -> Coded {
    let at = 2 + 8 * p;
    let rest = u32_at(b, at + 4);
    let codes = std::array::from_fn(|j| signed(IQ2_XXS[usize::from(b[at + j])], even(rest >> (7 * j))));
    (codes, [quarter(rest >> 28); 2])
}

/// `d: f16 | 32 x (9 bits: point, 7 bits: signs) | 8 x two scales of 4 bits`.
#[inline(always)]
fn iq2_xs(b: &[u8; 74], p: usize) -> Coded {
    let codes = std::array::from_fn(|j| {
        let field = u16_at(b, 2 + 8 * p + 2 * j);
        signed(IQ2_XS[usize::from(field & 511)], even(u32::from(field >> 9)))
    });
    let scales = u32::from(b[66 + p]);
    (codes, [quarter(scales & 15), quarter(scales >> 4)])
}

/// `d: f16 | 32 x low 8 bits of a point | 32 x signs | 8 x four pairs of high bits | 8 x two scales of 4
/// bits`.
#[inline(always)]
fn iq2_s(b: &[u8; 82], p: usize) -> Coded {
    let codes = std::array::from_fn(|j| {
        let high = usize::from(b[66 + p] >> (2 * j) & 3);
        signed(IQ2_S[usize::from(b[2 + 4 * p + j]) | high << 8], b[34 + 4 * p + j])
    });
    let scales = u32::from(b[74 + p]);
    (codes, [quarter(scales & 15), quarter(scales >> 4)])
}

/// `d: f16 | 64 x 8 bits: point of four | 8 x (4 x 7 bits: signs, 4 bits: scale)`.
#[inline(always)]
fn iq3_xxs(b: &[u8; 98], p: usize) -> Coded {
    let rest = u32_at(b, 66 + 4 * p);
    let codes = std::array::from_fn(|j| {
        let [low, high] = [0, 1].map(|i| u64::from(IQ3_XXS[usize::from(b[2 + 8 * p + 2 * j + i])]));
        signed(low | high << 32, even(rest >> (7 * j)))
    });
    (codes, [(0.5 + (rest >> 28) as f32) * 0.5; 2])
}

/// `d: f16 | 64 x low 8 bits of a point of four | 8 x eight high bits | 32 x signs | 4 x two scales of 4
/// bits`.
#[inline(always)]
fn iq3_s(b: &[u8; 110], p: usize) -> Coded {
    let codes = std::array::from_fn(|j| {
        let [low, high] = [0, 1].map(|i| {
            let ninth = usize::from(b[66 + p] >> (2 * j + i) & 1);
            u64::from(IQ3_S[usize::from(b[2 + 8 * p + 2 * j + i]) | ninth << 8])
        });
        signed(low | high << 32, b[74 + 4 * p + j])
    });
    let scale = b[106 + p / 2] >> (p % 2 * 4) & 15;
    (codes, [f32::from(1 + 2 * scale); 2])
}

/// A point of `IQ1`, all of it shifted by an eighth up or down: in eighths.
#[inline(always)]
fn shifted(point: usize, down: bool) -> u64 {
    add_bytes(IQ1[point], if down { u64::MAX } else { ONES })
}

/// Three scale bits as `(2 s + 1) / 8`: codes are eighths.
fn eighth(s: u16) -> f32 {
    f32::from(2 * (s & 7) + 1) * 0.125
}

/// `d: f16 | 32 x low 8 bits of a point | 8 x (4 x 3 high bits, 3 bits: scale, 1 bit: shift down)`.
#[inline(always)]
fn iq1_s(b: &[u8; 50], p: usize) -> Coded {
    let rest = u16_at(b, 34 + 2 * p);
    let codes = std::array::from_fn(|j| {
        let high = usize::from(rest >> (3 * j) & 7);
        shifted(usize::from(b[2 + 4 * p + j]) | high << 8, rest >> 15 == 1)
    });
    (codes, [eighth(rest >> 12); 2])
}

/// The scale of an `IQ1_M` block: the high four bits of each of its last four words.
fn iq1_m_scale(b: &[u8; 56]) -> f32 {
    let bits = (0..4).fold(0, |bits, i| bits | (u16_at(b, 48 + 2 * i) >> 12) << (4 * i));
    f16::from_bits(bits).to_f32()
}

/// `32 x low 8 bits of a point | 32 x (3 high bits, 1 bit: shift down) | 4 x (4 scales of 3 bits, 4 bits of
/// d)`.
#[inline(always)]
fn iq1_m(b: &[u8; 56], p: usize) -> Coded {
    let codes = std::array::from_fn(|j| {
        let high = usize::from(b[32 + 2 * p + j / 2] >> (j % 2 * 4) & 15);
        shifted(usize::from(b[4 * p + j]) | (high & 7) << 8, high >= 8)
    });
    let scales = u16_at(b, 48 + p / 2 * 2) >> (p % 2 * 6);
    (codes, [eighth(scales), eighth(scales >> 3)])
}

/// `48 x five digits to the base 3 | 4 x four digits | d: f16`, `w = d (digit - 1)`. A byte is 256 times the
/// fraction that its digits are, rounded up: times a power of 3 its fraction begins with the next digit.
#[inline(always)]
fn tq1_0(b: &[u8; 54], p: usize) -> Coded {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let digit = |i: usize| {
        let (byte, digit) = match i {
            0..160 => (i % 32, i / 32),
            160..240 => (32 + i % 16, (i - 160) / 16),
            _ => (48 + i % 4, (i - 240) / 4),
        };
        let fraction = b[byte].wrapping_mul(POWERS[digit]);
        (((u16::from(fraction) * 3) >> 8) as u8).wrapping_sub(1)
    };
    let codes =
        std::array::from_fn(|j| u64::from_le_bytes(std::array::from_fn(|i| digit(32 * p + 8 * j + i))));
    (codes, [1.0; 2])
}

/// The 16 values of E2M1, doubled so that they are whole numbers; the scale is halved to match.
pub(crate) const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `4 x UE4M3 scale | 4 x 8 x nibbles`, `w = scale / 2 * doubled(q)`, a scale for each 16 weights, whose low
/// nibbles are the first half.
#[inline(always)]
fn nvfp4(b: &[u8; 36], p: usize) -> Coded {
    sixteens(b, p)
}

/// `d: f32`, then as [`nvfp4`], `w = (d * scale / 2) * doubled(q)`.
#[inline(always)]
fn nvfp4_f32(b: &[u8; 40], p: usize) -> Coded {
    sixteens(&b[4..], p)
}

/// Scale of 16 weights times code: four scales, then the codes.
#[inline(always)]
fn sixteens(b: &[u8], p: usize) -> Coded {
    let codes = std::array::from_fn(|j| {
        let (part, shift) = (2 * p + j / 2, j % 2 * 4);
        let code = |i: usize| E2M1_DOUBLED[usize::from(b[4 + 8 * part + i] >> shift & 15)];
        u64::from_le_bytes(std::array::from_fn(|i| code(i) as u8))
    });
    (codes, [0, 1].map(|h| ue4m3_half(b[2 * p + h])))
}

fn first_f32(block: &[u8; 40]) -> f32 {
    f32::from_le_bytes([block[0], block[1], block[2], block[3]])
}

/// Half of an unsigned E4M3 number. 0x7f, which is NaN as a signed one, counts as zero, as in ggml.
fn ue4m3_half(x: u8) -> f32 {
    // The bits of a half-precision number that is 2^7 times smaller, subnormal ones too.
    if x == 0x7f { 0.0 } else { f16::from_bits(u16::from(x & 0x7f) << 7).to_f32() * 128.0 }
}
