//! The searches for the scale, or the scale and the offset, under which a few values lose least: weighted
//! least squares by Lloyd's iteration (S. Lloyd, "Least squares quantization in PCM", 1982). The best codes
//! of a given scale are the nearest ones, the best scale of given codes is a linear fit, and taking turns
//! can only lower the error. It ends in a local minimum, so eight searches start from different scales and
//! run side by side, one in each lane of the vectors.
//!
//! All of it works on values brought to a common magnitude by a power of two, so nothing can overflow or
//! vanish. It must not know block layouts.

use super::arith::{self, clamp, dot, low_byte, magnitude, map, max, min, round, sum};
use super::range::OutOfRange;

/// Searches that run side by side.
pub(super) const LANES: usize = 8;

/// One number for each search.
pub(super) type Searches = [f32; LANES];

/// A block brought to magnitudes below 2.
pub(super) struct Scaled<const N: usize> {
    /// The values divided by `unit`.
    pub(super) x: [f32; N],
    /// The power of two of the largest magnitude.
    pub(super) unit: f32,
}

impl<const N: usize> Scaled<N> {
    /// Nothing when every value is too small for a half-precision scale.
    ///
    /// # Errors
    /// A value that is too large for one, whatever the format.
    pub(super) fn new(x: &[f32; N]) -> Result<Option<Self>, OutOfRange> {
        let largest = magnitude(x);
        // Half the smallest half is 2^-25, the largest value of any format 2^28: what lies outside needs no
        // search, and the inverse of the unit of what is left is a normal number.
        if largest < 2f32.powi(-30) {
            return Ok(None);
        }
        if largest > 2f32.powi(30) {
            return Err(OutOfRange);
        }
        let unit = f32::from_bits(largest.to_bits() & 0x7f80_0000);
        let inverse = 1.0 / unit;
        Ok(Some(Self { x: map(x, |x| x * inverse), unit }))
    }

    /// Mean of `x * x` over the block.
    pub(super) fn mean_square(&self) -> f32 {
        dot(&self.x, &self.x) / N as f32
    }
}

/// The weight of each error when columns have importance: the importance, and within it more for larger
/// values, since those move the result more; `sqrt(2 * mean_square + x^2)` keeps small ones from being
/// ignored.
pub(super) fn weights<const N: usize>(x: &[f32; N], importance: &[f32; N], mean_square: f32) -> [f32; N] {
    let largest = max(importance);
    // No column matters: none more than another.
    let inverse = if largest < f32::MIN_POSITIVE { 0.0 } else { 1.0 / largest };
    let base = if inverse == 0.0 { 1.0 } else { 0.0 };
    std::array::from_fn(|i| (base + importance[i] * inverse) * (2.0 * mean_square + x[i] * x[i]).sqrt())
}

/// The scale `s` for which `sum w * (x - s * q)^2` is least among those found from the inverse scales
/// given; 0 when the values are. `nearest` gives the best codes, as numbers, of `x * inverse`.
#[inline(always)]
pub(super) fn fit_scale<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    mut inverse: Searches,
    rounds: u32,
    nearest: impl Fn(Searches) -> Searches,
) -> f32 {
    let (mut scale, mut gain) = ([0.0; LANES], [0.0; LANES]);
    for _ in 0..rounds {
        let (mut wqx, mut wqq) = ([0.0; LANES], [0.0; LANES]);
        for (&x, &w) in x.iter().zip(w) {
            let q = nearest(inverse.map(|inverse| x * inverse));
            for i in 0..LANES {
                let wq = w * q[i];
                wqx[i] += wq * x;
                wqq[i] += wq * q[i];
            }
        }
        for i in 0..LANES {
            // The best scale for these codes; with it the error is sum(wxx) less the gain. Codes that are
            // all zero fit nothing.
            scale[i] = if wqq[i] > 0.0 { wqx[i] / wqq[i] } else { 0.0 };
            gain[i] = wqx[i] * scale[i];
            inverse[i] = arith::inverse(scale[i]);
        }
    }
    scale[best(&gain)]
}

/// The position of the largest number.
pub(super) fn best<T: PartialOrd>(gains: &[T; LANES]) -> usize {
    (1..LANES).fold(0, |best, i| if gains[i] > gains[best] { i } else { best })
}

/// The codes, counted from `low`, of the whole numbers from `low` to `high` nearest to `x * inverse`.
#[inline(always)]
pub(super) fn codes<const N: usize>(x: &[f32; N], inverse: f32, low: f32, high: f32) -> [u8; N] {
    map(x, |x| low_byte(clamp(round(x * inverse), low, high) - low))
}

/// A scale and what the code 0 stands for.
#[derive(Clone, Copy)]
pub(super) struct Affine {
    pub(super) scale: f32,
    pub(super) offset: f32,
}

/// How [`fit_affine`] searches.
#[derive(Clone, Copy)]
pub(super) struct AffineSearch {
    /// The highest code.
    pub(super) top: f32,
    /// Whether the offset may be above zero.
    pub(super) positive_offset: bool,
    /// The first scales tried: `range / (top + starts)`.
    pub(super) starts: Searches,
    /// Refits.
    pub(super) rounds: u32,
}

/// The scale and offset for which `sum w * (x - scale * q - offset)^2` is least among those found by the
/// search given.
#[inline(always)]
pub(super) fn fit_affine<const N: usize>(x: &[f32; N], w: &[f32; N], search: AffineSearch) -> Affine {
    let AffineSearch { top, .. } = search;
    let low = if search.positive_offset { min(x) } else { min(x).min(0.0) };
    let range = max(x) - low;
    if range < 2f32.powi(-20) {
        return Affine { scale: 0.0, offset: low };
    }
    // Measured from `low`, the sums keep their digits when all values lie far from zero.
    let t = map(x, |x| x - low);
    let fixed =
        Fixed { w: sum(w), wt: dot(w, &t), ceiling: if search.positive_offset { f32::MAX } else { -low } };
    let (mut scale, mut offset) = (search.starts.map(|start| range / (top + start)), [0.0; LANES]);
    let mut gain = [0.0; LANES];
    for _ in 0..search.rounds {
        let inverse = scale.map(|scale| 1.0 / scale);
        let (mut wq, mut wqq, mut wqt) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for (&t, &w) in t.iter().zip(w) {
            for i in 0..LANES {
                let q = clamp(round((t - offset[i]) * inverse[i]), 0.0, top);
                let weighted = w * q;
                wq[i] += weighted;
                wqq[i] += weighted * q;
                wqt[i] += weighted * t;
            }
        }
        for i in 0..LANES {
            let (fit, fit_gain) = fixed.fit(wq[i], wqq[i], wqt[i]);
            gain[i] = fit_gain;
            // All codes may have come out as zero; the lane then starts over.
            scale[i] = if fit.scale > 0.0 { fit.scale } else { range / top };
            offset[i] = if fit.scale > 0.0 { fit.offset } else { 0.0 };
        }
    }
    let best = best(&gain);
    Affine { scale: scale[best], offset: offset[best] + low }
}

/// What does not depend on the codes in a fit of `t` by `scale * q + offset`.
struct Fixed {
    w: f32,
    wt: f32,
    /// The highest offset allowed.
    ceiling: f32,
}

impl Fixed {
    /// The best scale and offset for codes with these sums, and by how much they lower `sum w * t^2`.
    #[inline(always)]
    fn fit(&self, wq: f32, wqq: f32, wqt: f32) -> (Affine, f64) {
        let [w, wt, wq, wqq, wqt] = [self.w, self.wt, wq, wqq, wqt].map(f64::from);
        let determinant = w * wqq - wq * wq;
        // Codes that are all the same leave the offset open.
        let free = determinant > 1e-6 * w * wqq;
        let offset = if free { (wqq * wt - wq * wqt) / determinant } else { 0.0 };
        let ceiling = f64::from(self.ceiling);
        let offset = if offset < ceiling { offset } else { ceiling };
        let scale = if wqq > 0.0 { (wqt - offset * wq) / wqq } else { 0.0 };
        let gain = 2.0 * (scale * wqt + offset * wt)
            - (scale * scale * wqq + 2.0 * scale * offset * wq + offset * offset * w);
        (Affine { scale: scale as f32, offset: offset as f32 }, gain)
    }
}

/// `sum w * (x - scale * q - offset)^2` with the best codes `q` from 0 to `top`, for eight scales and
/// offsets. A scale of 0 leaves the offset.
pub(super) fn affine_losses<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    scale: &Searches,
    offset: &Searches,
    top: f32,
) -> Searches {
    let inverse = scale.map(arith::inverse);
    let mut losses = [0.0; LANES];
    for (&x, &w) in x.iter().zip(w) {
        for i in 0..LANES {
            let above = x - offset[i];
            let error = above - scale[i] * clamp(round(above * inverse[i]), 0.0, top);
            losses[i] += w * (error * error);
        }
    }
    losses
}

/// `sum w * (x - scale * q)^2` for eight scales. `nearest` gives the best codes, as numbers, of `x / scale`.
#[inline(always)]
pub(super) fn scale_losses<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    scale: &Searches,
    nearest: impl Fn(Searches) -> Searches,
) -> Searches {
    let inverse = scale.map(arith::inverse);
    let mut losses = [0.0; LANES];
    for (&x, &w) in x.iter().zip(w) {
        let q = nearest(inverse.map(|inverse| x * inverse));
        for i in 0..LANES {
            let error = x - scale[i] * q[i];
            losses[i] += w * (error * error);
        }
    }
    losses
}
