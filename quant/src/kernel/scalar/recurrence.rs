//! Steps of recurrences in plain Rust. It must not know how they are shared over threads.

use super::floats::{axpy, dot, scale};
use crate::kernel::recurrence::{DeltaStep, SpaceStep};

/// Numbers of a value whose corrections are computed together, on the stack.
const WIDE: usize = 64;

pub(super) fn delta_step(step: DeltaStep<'_>, out: &mut [f32]) {
    let DeltaStep { matrix, keep, q, k, v, strength } = step;
    let (rows, width) = (matrix.moved(), v.len());
    for (row, &keep) in rows.chunks_exact_mut(width).zip(keep) {
        scale(keep, row);
    }
    for (from, (v, out)) in v.chunks(WIDE).zip(out.chunks_mut(WIDE)).enumerate() {
        let columns = from * WIDE..from * WIDE + v.len();
        let mut change = [0.0; WIDE];
        let change = &mut change[..v.len()];
        for (row, &k) in rows.chunks_exact(width).zip(k) {
            axpy(k, &row[columns.clone()], change);
        }
        for (change, v) in change.iter_mut().zip(v) {
            *change = strength * (v - *change);
        }
        out.fill(0.0);
        for ((row, &k), &q) in rows.chunks_exact_mut(width).zip(k).zip(q) {
            axpy(k, change, &mut row[columns.clone()]);
            axpy(q, &row[columns.clone()], out);
        }
    }
}

pub(super) fn space_step(step: SpaceStep<'_>, out: &mut [f32]) {
    let SpaceStep { matrix, keep, x, step, b, c } = step;
    for ((row, &x), out) in matrix.moved().chunks_exact_mut(b.len()).zip(x).zip(out) {
        scale(keep, row);
        axpy(step * x, b, row);
        *out = dot(row, c);
    }
}
