//! Steps of recurrences over any [`Lanes`]: what is read of a matrix stays in registers, and every number of
//! it is written once. It must not know how steps are shared over threads.
//!
//! Every number goes through the same operations in the same order wherever it stands.

use super::lanes::Lanes;
use crate::kernel::recurrence::{DeltaStep, HeadMatrix, SpaceStep};

/// Where the numbers of a matrix are read and written. Each is read before it is written.
fn places(matrix: HeadMatrix<'_>) -> (*const f32, *mut f32) {
    let now = matrix.now.as_mut_ptr();
    (matrix.before.map_or(now.cast_const(), <[f32]>::as_ptr), now)
}

/// [`DeltaStep`], read into `out`.
///
/// # Safety
/// As [`Lanes`]. All lengths are those that the step says.
#[inline(always)]
pub(in crate::kernel) unsafe fn delta_step<L: Lanes>(step: DeltaStep<'_>, out: &mut [f32]) {
    let DeltaStep { matrix, keep, q, k, v, strength } = step;
    let (before, now) = places(matrix);
    let rows = DeltaRows { before, now, keep, q, k, v, strength, out: out.as_mut_ptr() };
    let mut at = 0;
    while at < v.len() {
        let live = v.len() - at;
        // SAFETY: the caller guarantees the instructions and the lengths; the columns are below `v.len()`.
        at += unsafe {
            if L::N == 16 && live >= 8 * L::N {
                rows.columns::<L, 8>(at, L::N)
            } else if live >= 4 * L::N {
                rows.columns::<L, 4>(at, L::N)
            } else {
                rows.columns::<L, 1>(at, live.min(L::N))
            }
        };
    }
}

/// The parts of a [`DeltaStep`].
struct DeltaRows<'a> {
    before: *const f32,
    now: *mut f32,
    keep: &'a [f32],
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    strength: f32,
    out: *mut f32,
}

impl DeltaRows<'_> {
    /// Computes `C` vectors of columns from `at` on, each with its first `live` lanes, and returns how many
    /// columns these are.
    ///
    /// # Safety
    /// As [`delta_step`]; the columns exist.
    #[inline(always)]
    unsafe fn columns<L: Lanes, const C: usize>(&self, at: usize, live: usize) -> usize {
        let width = self.v.len();
        // SAFETY: the caller guarantees the instructions and the columns; there are as many rows as keys.
        unsafe {
            let (before, now) = (self.before.add(at), self.now.add(at));
            let mut change = [L::splat(0.0); C];
            for (row, (&keep, &k)) in self.keep.iter().zip(self.k).enumerate() {
                let (from, keep, k) = (before.add(row * width), L::splat(keep), L::splat(k));
                for (i, change) in change.iter_mut().enumerate() {
                    let kept = L::mul(keep, L::load_up_to(from.add(i * L::N), live));
                    *change = L::fma(k, kept, *change);
                }
            }
            let strength = L::splat(self.strength);
            for (i, change) in change.iter_mut().enumerate() {
                let v = L::load_up_to(self.v.as_ptr().add(at + i * L::N), live);
                *change = L::mul(strength, L::sub(v, *change));
            }
            let mut out = [L::splat(0.0); C];
            for (row, ((&keep, &k), &q)) in self.keep.iter().zip(self.k).zip(self.q).enumerate() {
                let (keep, k, q) = (L::splat(keep), L::splat(k), L::splat(q));
                for (i, (change, out)) in change.iter().zip(&mut out).enumerate() {
                    let place = row * width + i * L::N;
                    let kept = L::mul(keep, L::load_up_to(before.add(place), live));
                    let cells = L::fma(k, *change, kept);
                    L::store_up_to(now.add(place), live, cells);
                    *out = L::fma(q, cells, *out);
                }
            }
            for (i, out) in out.into_iter().enumerate() {
                L::store_up_to(self.out.add(at + i * L::N), live, out);
            }
        }
        (C - 1) * L::N + live
    }
}

/// [`SpaceStep`], read into `out`, with the sums of `vector::dot`.
///
/// # Safety
/// As [`Lanes`]. All lengths are those that the step says.
#[inline(always)]
pub(in crate::kernel) unsafe fn space_step<L: Lanes>(step: SpaceStep<'_>, out: &mut [f32]) {
    let SpaceStep { matrix, keep, x, step, b, c } = step;
    let (before, now) = places(matrix);
    let (n, b, c) = (b.len(), b.as_ptr(), c.as_ptr());
    for (row, (&x, out)) in x.iter().zip(out).enumerate() {
        // SAFETY: the caller guarantees the instructions and the lengths; the row exists.
        unsafe {
            let (before, now) = (before.add(row * n), now.add(row * n));
            let (keep, take) = (L::splat(keep), L::splat(step * x));
            let mut acc = [L::splat(0.0); 4];
            for (i, at) in (0..n).step_by(L::N).enumerate() {
                let live = L::N.min(n - at);
                let kept = L::mul(keep, L::load_up_to(before.add(at), live));
                let cells = L::fma(take, L::load_up_to(b.add(at), live), kept);
                L::store_up_to(now.add(at), live, cells);
                let acc = &mut acc[i % 4];
                *acc = L::fma(cells, L::load_up_to(c.add(at), live), *acc);
            }
            *out = L::sum(L::add(L::add(acc[0], acc[1]), L::add(acc[2], acc[3])));
        }
    }
}
