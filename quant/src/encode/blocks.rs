//! Blocks of 32 values whose scale is searched for: the plain formats where columns have importance, and
//! `IQ4_NL`. It must not know super-blocks.

use half::f16;

use super::arith::{MAGIC, clamp, dot, inverse, largest, map, round};
use super::plain;
use super::range::{OutOfRange, finite_half};
use super::search::{Affine, AffineSearch, Scaled, Searches, codes, fit_affine, fit_scale, weights};
use crate::decode::{IQ4_VALUES, decode, e8m0_half};
use crate::format::Format;

/// The inverse of the scale as stored, for values divided by `unit`; 0 when the scale is stored as zero.
fn stored_inverse(stored: f16, unit: f32) -> f32 {
    inverse(stored.to_f32() / unit)
}

/// The best scale for the codes from `-half` to `half - 1`, from those around the one under which the
/// largest value gets `-half`.
pub(super) fn signed_scale<const N: usize>(x: &[f32; N], w: &[f32; N], half: f32) -> f32 {
    let largest = largest(x);
    let starts = [-1.0, -0.7, -0.45, -0.2, 0.0, 0.25, 0.5, 0.8];
    fit_scale(x, w, starts.map(|start| (half + start) / -largest), 2, signed_nearest(half))
}

/// The whole numbers from `-half` to `half - 1` nearest to those given.
pub(super) fn signed_nearest(half: f32) -> impl Fn(Searches) -> Searches {
    move |x| x.map(|x| clamp(round(x), -half, half - 1.0))
}

fn signed(x: &[f32; 32], importance: &[f32; 32], half: f32) -> Result<(f16, [u8; 32]), OutOfRange> {
    let Some(block) = Scaled::new(x)? else { return Ok((f16::ZERO, [half as u8; 32])) };
    let w = weights(&block.x, importance, block.mean_square());
    let stored = finite_half(signed_scale(&block.x, &w, half) * block.unit)?;
    Ok((stored, codes(&block.x, stored_inverse(stored, block.unit), -half, half - 1.0)))
}

fn affine(x: &[f32; 32], importance: &[f32; 32], top: f32) -> Result<(f16, f16, [u8; 32]), OutOfRange> {
    let Some(block) = Scaled::new(x)? else { return Ok((f16::ZERO, f16::ZERO, [0; 32])) };
    let w = weights(&block.x, importance, block.mean_square());
    let search = AffineSearch {
        top,
        positive_offset: true,
        starts: [-0.9, -0.6, -0.3, 0.0, 0.2, 0.5, 0.8, 1.2],
        rounds: 3,
    };
    let Affine { scale, offset } = fit_affine(&block.x, &w, search);
    let (stored, minimum) = (finite_half(scale * block.unit)?, finite_half(offset * block.unit)?);
    let offset = minimum.to_f32() / block.unit;
    let above = map(&block.x, |x| x - offset);
    Ok((stored, minimum, codes(&above, stored_inverse(stored, block.unit), 0.0, top)))
}

// Where only the searched scale or minimum is too large, a block is encoded as without importance.

pub(super) fn q4_0(x: &[f32; 32], importance: &[f32; 32]) -> Result<[u8; 18], OutOfRange> {
    signed(x, importance, 8.0)
        .map(|(scale, codes)| plain::q4_0_block(scale, &codes))
        .or_else(|_| plain::q4_0(x))
}

pub(super) fn q4_1(x: &[f32; 32], importance: &[f32; 32]) -> Result<[u8; 20], OutOfRange> {
    affine(x, importance, 15.0)
        .map(|(scale, minimum, codes)| plain::q4_1_block(scale, minimum, &codes))
        .or_else(|_| plain::q4_1(x))
}

pub(super) fn q5_0(x: &[f32; 32], importance: &[f32; 32]) -> Result<[u8; 22], OutOfRange> {
    signed(x, importance, 16.0)
        .map(|(scale, codes)| plain::q5_0_block(scale, &codes))
        .or_else(|_| plain::q5_0(x))
}

pub(super) fn q5_1(x: &[f32; 32], importance: &[f32; 32]) -> Result<[u8; 24], OutOfRange> {
    affine(x, importance, 31.0)
        .map(|(scale, minimum, codes)| plain::q5_1_block(scale, minimum, &codes))
        .or_else(|_| plain::q5_1(x))
}

/// The best of the scale of [`plain::mxfp4`] and its neighbours: one up cuts off less, one down is finer.
pub(super) fn mxfp4(x: &[f32; 32], importance: &[f32; 32]) -> [u8; 17] {
    let middle = plain::mxfp4_exponent(x);
    let unit = e8m0_half(middle);
    let largest = importance.iter().fold(f32::MIN_POSITIVE, |a, &b| a.max(b));
    let loss = |block: &[u8; 17]| {
        let mut back = [0.0; 32];
        decode(Format::Mxfp4, block, &mut back);
        let errors: [f32; 32] = std::array::from_fn(|i| (x[i] - back[i]) / unit);
        dot(&map(&errors, |e| e * e), &map(importance, |w| w / largest))
    };
    let mut best = plain::mxfp4_block(middle, x);
    let mut least = loss(&best);
    // 254 is the largest scale that is a number.
    for e in [(middle + 1).min(254), middle.saturating_sub(1)] {
        let block = plain::mxfp4_block(e, x);
        let loss = loss(&block);
        if loss < least {
            (best, least) = (block, loss);
        }
    }
    best
}

/// The nearest `IQ4_NL` code for each half step from -128 on: the midpoints between the values are whole or
/// half numbers.
const NEAREST: [u8; 512] = {
    let mut table = [0; 512];
    let (mut i, mut code) = (0, 0);
    while i < 512 {
        // The half step `i` ends at `(i + 1) / 2 - 128`; `code` holds while that is not above the midpoint
        // to the next value.
        while code < 15 && i as i32 + 1 - 256 > IQ4_VALUES[code] as i32 + IQ4_VALUES[code + 1] as i32 {
            code += 1;
        }
        table[i] = code as u8;
        i += 1;
    }
    table
};

/// The value of the nearest code for each half step.
const NEAREST_VALUE: [f32; 512] = {
    let mut table = [0.0; 512];
    let mut i = 0;
    while i < 512 {
        table[i] = IQ4_VALUES[NEAREST[i] as usize] as f32;
        i += 1;
    }
    table
};

/// The half step from -128 that `x` lies in.
#[inline(always)]
fn half_step(x: f32) -> usize {
    // Rounding `2x - 1/2` is the floor of `2x`.
    (clamp(x * 2.0, -255.0, 255.0) + 255.5 + MAGIC).to_bits() as usize & 511
}

/// The table values nearest to those given.
#[inline(always)]
pub(super) fn iq4_nearest(x: Searches) -> Searches {
    x.map(half_step).map(|step| NEAREST_VALUE[step])
}

/// The codes of the table values nearest to `x * inverse`.
pub(super) fn iq4_codes(x: &[f32; 32], inverse: f32) -> [u8; 32] {
    map(x, |x| NEAREST[half_step(x * inverse)])
}

/// The best scale for the table of `IQ4_NL`.
pub(super) fn iq4_scale(x: &[f32; 32], w: &[f32; 32]) -> f32 {
    // Around the scales under which the largest value is at one of the ends of the table.
    let largest = largest(x);
    let ends = [-134.0, -130.0, -126.0, -122.0, 108.0, 112.0, 116.0, 120.0];
    fit_scale(x, w, ends.map(|end| end / largest), 2, iq4_nearest)
}

/// Errors of larger values count more, within the importance of the columns where that is known.
pub(super) fn by_size<const N: usize>(
    x: &[f32; N],
    importance: Option<&[f32; N]>,
    mean_square: f32,
) -> [f32; N] {
    importance
        .map_or_else(|| map(x, |x| mean_square + x * x), |importance| weights(x, importance, mean_square))
}

pub(super) fn iq4_nl(x: &[f32; 32], importance: Option<&[f32; 32]>) -> Result<[u8; 18], OutOfRange> {
    let Some(block) = Scaled::new(x)? else { return Ok([0; 18]) };
    let w = by_size(&block.x, importance, block.mean_square());
    let stored = finite_half(iq4_scale(&block.x, &w) * block.unit)?;
    Ok(plain::q4_0_block(stored, &iq4_codes(&block.x, stored_inverse(stored, block.unit))))
}
