//! Counts in single precision, as the reference implementations compute with them. It must not know what is
//! counted.

/// Counts are bounded far below what single precision holds.
#[allow(clippy::cast_precision_loss, reason = "see above")]
pub fn small(value: usize) -> f32 {
    value as f32
}

/// The whole part of a number; saturates.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
pub fn whole(value: f32) -> usize {
    value.max(0.0) as usize
}
