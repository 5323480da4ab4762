//! Blocks whose codes follow from the extremes of their values in one pass, byte for byte what ggml's
//! reference quantisers and the PyPI package `gguf` make of them. It must not know importance.

use half::f16;

use super::arith::{floor, inverse, largest, low_byte, magnitude, map, max, min, round};
use super::pack;
use super::range::{OutOfRange, finite_half};

// A scale too small for its inverse to be a number is stored as zero, and then any code decodes to zero.

/// The scale `max|x| / 127`, codes rounded half away from zero.
pub(super) fn q8_0(x: &[f32; 32]) -> Result<[u8; 34], OutOfRange> {
    let scale = magnitude(x) / 127.0;
    let stored = finite_half(scale)?;
    let inverse = inverse(scale);
    let mut block = [0; 34];
    block[..2].copy_from_slice(&stored.to_le_bytes());
    for (code, x) in block[2..].iter_mut().zip(x) {
        let scaled = x * inverse;
        // Half to even first: `even` is off by one where a tie was rounded towards zero. The difference is
        // exact.
        let even = round(scaled);
        let half = 0.5f32.copysign(scaled);
        let away = if scaled - even == half { even + 2.0 * half } else { even };
        *code = low_byte(away);
    }
    Ok(block)
}

/// The value of largest magnitude gets the lowest code, `-half`: the only one of its size.
#[inline(always)]
fn signed(x: &[f32; 32], half: f32) -> Result<(f16, [u8; 32]), OutOfRange> {
    let scale = largest(x) / -half;
    let stored = finite_half(scale)?;
    let inverse = inverse(scale);
    Ok((stored, map(x, |x| floor_code(x * inverse + (half + 0.5), 2.0 * half - 1.0))))
}

/// The extremes get the codes 0 and `top`.
#[inline(always)]
fn affine(x: &[f32; 32], top: f32) -> Result<(f16, f16, [u8; 32]), OutOfRange> {
    let (low, high) = (min(x), max(x));
    let scale = (high - low) / top;
    let (stored, minimum) = (finite_half(scale)?, finite_half(low)?);
    let inverse = inverse(scale);
    Ok((stored, minimum, map(x, |x| floor_code((x - low) * inverse + 0.5, top))))
}

/// The whole part of a number that is not negative, at most `top`.
#[inline(always)]
fn floor_code(x: f32, top: f32) -> u8 {
    low_byte(floor(if x < top { x } else { top }))
}

pub(super) fn q4_0(x: &[f32; 32]) -> Result<[u8; 18], OutOfRange> {
    signed(x, 8.0).map(|(scale, codes)| q4_0_block(scale, &codes))
}

pub(super) fn q4_1(x: &[f32; 32]) -> Result<[u8; 20], OutOfRange> {
    affine(x, 15.0).map(|(scale, minimum, codes)| q4_1_block(scale, minimum, &codes))
}

pub(super) fn q5_0(x: &[f32; 32]) -> Result<[u8; 22], OutOfRange> {
    signed(x, 16.0).map(|(scale, codes)| q5_0_block(scale, &codes))
}

pub(super) fn q5_1(x: &[f32; 32]) -> Result<[u8; 24], OutOfRange> {
    affine(x, 31.0).map(|(scale, minimum, codes)| q5_1_block(scale, minimum, &codes))
}

/// The layout of a `Q4_0` or `IQ4_NL` block.
pub(super) fn q4_0_block(scale: f16, codes: &[u8; 32]) -> [u8; 18] {
    let mut block = [0; 18];
    block[..2].copy_from_slice(&scale.to_le_bytes());
    block[2..].copy_from_slice(&pack::nibbles(codes));
    block
}

pub(super) fn q4_1_block(scale: f16, minimum: f16, codes: &[u8; 32]) -> [u8; 20] {
    let mut block = [0; 20];
    block[..2].copy_from_slice(&scale.to_le_bytes());
    block[2..4].copy_from_slice(&minimum.to_le_bytes());
    block[4..].copy_from_slice(&pack::nibbles(codes));
    block
}

pub(super) fn q5_0_block(scale: f16, codes: &[u8; 32]) -> [u8; 22] {
    let mut block = [0; 22];
    block[..2].copy_from_slice(&scale.to_le_bytes());
    block[2..6].copy_from_slice(&pack::fifth_bits(codes));
    block[6..].copy_from_slice(&pack::nibbles(codes));
    block
}

pub(super) fn q5_1_block(scale: f16, minimum: f16, codes: &[u8; 32]) -> [u8; 24] {
    let mut block = [0; 24];
    block[..2].copy_from_slice(&scale.to_le_bytes());
    block[2..4].copy_from_slice(&minimum.to_le_bytes());
    block[4..8].copy_from_slice(&pack::fifth_bits(codes));
    block[8..].copy_from_slice(&pack::nibbles(codes));
    block
}

/// The exponent of the largest magnitude, less 2, is the scale: OCP Microscaling Formats 1.0, section 6.3,
/// where 6, the largest E2M1 number, is `1.5 * 2^2`.
pub(super) fn mxfp4(x: &[f32; 32]) -> [u8; 17] {
    mxfp4_block(mxfp4_exponent(x), x)
}

/// The E8M0 exponent of [`mxfp4`]; 0 also where it would be lower.
pub(super) fn mxfp4_exponent(x: &[f32; 32]) -> u8 {
    let biased = magnitude(x).to_bits() >> 23;
    u8::try_from(biased.saturating_sub(2)).expect("finite: at most 254")
}

/// The codes nearest to the values under the scale `2^(e - 127)`; ties go to the smaller magnitude.
pub(super) fn mxfp4_block(e: u8, x: &[f32; 32]) -> [u8; 17] {
    /// The midpoints between the doubled E2M1 magnitudes.
    const MIDPOINTS: [f32; 7] = [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0];
    let scale = crate::decode::e8m0_half(e);
    let codes = map(x, |x| {
        let magnitude = x.abs() / scale;
        let code: u32 = MIDPOINTS.iter().map(|&midpoint| u32::from(magnitude > midpoint)).sum();
        // There are two zeros; the positive one is taken.
        let sign = if x < 0.0 && code > 0 { 8 } else { 0 };
        (code | sign) as u8
    });
    let mut block = [0; 17];
    block[0] = e;
    block[1..].copy_from_slice(&pack::nibbles(&codes));
    block
}
