//! The searches for the scale, or the scale and the minimum, under which a few values lose least: weighted least squares,
//! started from a number of scales and refitted to the codes that those give. The codes of a given scale are the nearest
//! ones, the scale of given codes is a linear fit, and so each refit can only lower the error (Lloyd's iteration).
//!
//! All of it works on values brought to a common magnitude by a power of two, so nothing can overflow or vanish. It must not
//! know block layouts.

use super::OutOfRange;
use super::arith::{Sum, clamp, dot, low_byte, magnitude, max, min, round, sum};

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
        // Half the smallest half is 2^-25, the largest value of any format 2^28: what lies outside needs no search, and the
        // inverse of the unit of what is left is a normal number.
        if largest < 2f32.powi(-30) {
            return Ok(None);
        }
        if largest > 2f32.powi(30) {
            return Err(OutOfRange);
        }
        let unit = f32::from_bits(largest.to_bits() & 0x7f80_0000);
        let inverse = 1.0 / unit;
        Ok(Some(Self { x: x.map(|x| x * inverse), unit }))
    }

    /// The mean of the squares.
    pub(super) fn mean_square(&self) -> f32 {
        dot(&self.x, &self.x) / N as f32
    }
}

/// The weight of each error when columns have importance: the importance, and within it more for larger values, since those
/// move the result more; `sqrt(2 * mean_square + x^2)` keeps small ones from being ignored.
pub(super) fn weights<const N: usize>(x: &[f32; N], importance: &[f32; N], mean_square: f32) -> [f32; N] {
    let largest = max(importance);
    // No column matters: none more than another.
    let inverse = if largest < f32::MIN_POSITIVE { 0.0 } else { 1.0 / largest };
    let base = if inverse == 0.0 { 1.0 } else { 0.0 };
    std::array::from_fn(|i| (base + importance[i] * inverse) * (2.0 * mean_square + x[i] * x[i]).sqrt())
}

/// The scale `s` for which `sum w * (x - s * q)^2` is least among those that start from the inverse scales given and two
/// refits of the best; 0 when the values are. `nearest` gives the best codes, as numbers, of `x * inverse`.
#[inline(always)]
pub(super) fn fit_scale<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    inverses: impl Iterator<Item = f32>,
    nearest: impl Fn(&[f32; N], f32) -> [f32; N],
) -> f32 {
    // With the best scale, sum(wxq) / sum(wqq), the error is sum(wxx) less this gain.
    let (mut scale, mut gain) = (0.0, 0.0);
    let mut consider = |inverse: f32| {
        let q = nearest(x, inverse);
        let (mut wxq, mut wqq) = (Sum::ZERO, Sum::ZERO);
        let (x, w, q) = (x.as_chunks::<8>().0, w.as_chunks::<8>().0, q.as_chunks::<8>().0);
        for ((x, w), q) in x.iter().zip(w).zip(q) {
            let wq = std::array::from_fn(|i| w[i] * q[i]);
            wxq.add_products(x, &wq);
            wqq.add_products(q, &wq);
        }
        let (wxq, wqq) = (wxq.total(), wqq.total());
        let fitted = wxq / wqq;
        // Not a number when every code is zero.
        if wxq * fitted > gain {
            (scale, gain) = (fitted, wxq * fitted);
        }
        scale
    };
    let best = inverses.fold(0.0, |_, inverse| consider(inverse));
    if best == 0.0 {
        return 0.0;
    }
    let refitted = consider(1.0 / best);
    consider(1.0 / refitted)
}

/// The whole numbers from `low` to `high` nearest to `x * inverse`, as numbers.
#[inline(always)]
pub(super) fn whole<const N: usize>(x: &[f32; N], inverse: f32, low: f32, high: f32) -> [f32; N] {
    x.map(|x| clamp(round(x * inverse), low, high))
}

/// The codes of [`whole`], counted from `low`.
#[inline(always)]
pub(super) fn codes<const N: usize>(x: &[f32; N], inverse: f32, low: f32, high: f32) -> [u8; N] {
    x.map(|x| low_byte(clamp(round(x * inverse), low, high) - low))
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
    /// Scales tried: `range / (top + first + i * step)`.
    pub(super) first: f32,
    pub(super) step: f32,
    pub(super) count: u32,
}

/// The scale and offset for which `sum w * (x - scale * q - offset)^2` is least, by the search given and two refits of the best.
#[inline(always)]
pub(super) fn fit_affine<const N: usize>(x: &[f32; N], w: &[f32; N], search: AffineSearch) -> Affine {
    let low = if search.positive_offset { min(x) } else { min(x).min(0.0) };
    let range = max(x) - low;
    if range < 2f32.powi(-20) {
        return Affine { scale: 0.0, offset: low };
    }
    // Measured from `low`, the sums keep their digits when all values lie far from zero.
    let t = x.map(|x| x - low);
    let fixed = Fixed { w: sum(w), wt: dot(w, &t), ceiling: if search.positive_offset { f32::MAX } else { -low } };
    let start = Affine { scale: range / search.top, offset: 0.0 };
    let (mut best, mut gain) = (start, f64::MIN);
    let mut consider = |from: Affine| {
        let inverse = 1.0 / from.scale;
        let (mut wq, mut wqq, mut wqt) = (Sum::ZERO, Sum::ZERO, Sum::ZERO);
        for (t, w) in t.as_chunks::<8>().0.iter().zip(w.as_chunks::<8>().0) {
            let q: [f32; 8] =
                std::array::from_fn(|i| clamp(round((t[i] - from.offset) * inverse), 0.0, search.top));
            let weighted = std::array::from_fn(|i| w[i] * q[i]);
            wq.add(&weighted);
            wqq.add_products(&weighted, &q);
            wqt.add_products(&weighted, t);
        }
        let (fitted, fitted_gain) = fixed.fit(wq.total(), wqq.total(), wqt.total());
        if fitted_gain > gain && fitted.scale > 0.0 {
            (best, gain) = (fitted, fitted_gain);
        }
        best
    };
    let best = (0..search.count).fold(start, |_, i| {
        consider(Affine { scale: range / (search.top + search.first + search.step * i as f32), offset: 0.0 })
    });
    let refitted = consider(best);
    let Affine { scale, offset } = consider(refitted);
    Affine { scale, offset: offset + low }
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
    fn fit(&self, wq: f32, wqq: f32, wqt: f32) -> (Affine, f64) {
        let [w, wt, wq, wqq, wqt] = [self.w, self.wt, wq, wqq, wqt].map(f64::from);
        let determinant = w * wqq - wq * wq;
        let mut offset = (wqq * wt - wq * wqt) / determinant;
        // Codes that are all the same leave the offset open.
        if determinant <= 1e-6 * w * wqq {
            offset = 0.0;
        }
        offset = offset.min(f64::from(self.ceiling));
        let scale = (wqt - offset * wq) / wqq;
        let gain = 2.0 * (scale * wqt + offset * wt)
            - (scale * scale * wqq + 2.0 * scale * offset * wq + offset * offset * w);
        (Affine { scale: scale as f32, offset: offset as f32 }, gain)
    }
}
