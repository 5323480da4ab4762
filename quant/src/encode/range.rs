//! Scales in half precision, and that a scale is beyond it. It must not know block layouts.

use half::f16;

/// The scale of a block is beyond the largest half-precision number.
pub(super) struct OutOfRange;

/// `x` in half precision.
#[inline]
pub(super) fn finite_half(x: f32) -> Result<f16, OutOfRange> {
    let half = f16::from_f32(x);
    if half.is_finite() { Ok(half) } else { Err(OutOfRange) }
}

/// `x`, a scale for other scales, in half precision. Where halves are subnormal, and so the rounding large,
/// it is away from zero: a multiple can make up for a scale that is too large, but not for one that is too
/// small, or zero.
pub(super) fn half_at_least(x: f32) -> Result<f16, OutOfRange> {
    let half = finite_half(x)?;
    let short = x.abs() < f16::MIN_POSITIVE.to_f32() && half.to_f32().abs() < x.abs();
    Ok(if short { f16::from_bits(half.to_bits() + 1) } else { half })
}
