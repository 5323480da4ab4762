//! Steps of recurrences: the bits of the plain vector kernels of the same tier one after the other, in place
//! and from one place to another, for widths around every vector width.

use moelten_quant::{DeltaStep, HeadMatrix, Kernels, SpaceStep};

use crate::common::{Rng, bits, tiers};

const SHAPES: [(usize, usize); 12] = [
    (1, 1),
    (3, 7),
    (5, 8),
    (2, 17),
    (4, 31),
    (6, 32),
    (3, 65),
    (8, 63),
    (128, 64),
    (16, 128),
    (128, 128),
    (2, 300),
];

/// The matrix after a step, and what was read of it.
type Stepped = (Vec<f32>, Vec<f32>);

/// Both ways to keep a matrix: `step` gets the matrix before and after, and what to read into.
fn both(before: &[f32], width: usize, what: &str, step: impl Fn(HeadMatrix<'_>, &mut [f32])) -> Stepped {
    let (mut now, mut out) = (before.to_vec(), vec![9.0; width]);
    step(HeadMatrix { before: None, now: &mut now }, &mut out);
    let (mut moved, mut read) = (vec![5.0; before.len()], vec![7.0; width]);
    step(HeadMatrix { before: Some(before), now: &mut moved }, &mut read);
    assert!(bits(&now) == bits(&moved) && bits(&out) == bits(&read), "{what}: another place");
    (now, out)
}

fn same(a: &Stepped, b: &Stepped, what: &str) {
    assert!(bits(&a.0) == bits(&b.0), "{what}: the matrix");
    assert!(bits(&a.1) == bits(&b.1), "{what}: what was read");
}

fn delta_by_parts(kernels: &Kernels, before: &[f32], [keep, q, k, v]: [&[f32]; 4], strength: f32) -> Stepped {
    let (mut now, width) = (before.to_vec(), v.len());
    let (mut change, mut out) = (vec![0.0; width], vec![0.0; width]);
    for ((row, &keep), &k) in now.chunks_exact_mut(width).zip(keep).zip(k) {
        kernels.scale(keep, row);
        kernels.axpy(k, row, &mut change);
    }
    change.iter_mut().zip(v).for_each(|(change, v)| *change = strength * (v - *change));
    for ((row, &k), &q) in now.chunks_exact_mut(width).zip(k).zip(q) {
        kernels.axpy(k, &change, row);
        kernels.axpy(q, row, &mut out);
    }
    (now, out)
}

fn space_by_parts(
    kernels: &Kernels,
    before: &[f32],
    [x, b, c]: [&[f32]; 3],
    keep: f32,
    step: f32,
) -> Stepped {
    let (mut now, mut out) = (before.to_vec(), vec![0.0; x.len()]);
    for ((row, &x), out) in now.chunks_exact_mut(b.len()).zip(x).zip(&mut out) {
        kernels.scale(keep, row);
        kernels.axpy(step * x, b, row);
        *out = kernels.dot(row, c);
    }
    (now, out)
}

#[test]
fn a_step_is_its_parts() {
    let mut rng = Rng(31);
    for kernels in tiers() {
        for (rows, width) in SHAPES {
            let what = format!("{} {rows} x {width}", kernels.isa());
            let before = rng.floats(rows * width);
            let [keep, q, k, v] = [rng.floats(rows), rng.floats(rows), rng.floats(rows), rng.floats(width)];
            let got = both(&before, width, &what, |matrix, out| {
                let (keep, q, k, v) = (&keep[..], &q[..], &k[..], &v[..]);
                kernels.delta_step(DeltaStep { matrix, keep, q, k, v, strength: 0.7 }, out);
            });
            same(&got, &delta_by_parts(kernels, &before, [&keep, &q, &k, &v], 0.7), &what);
            let (b, c) = (rng.floats(width), rng.floats(width));
            let got = both(&before, rows, &what, |matrix, out| {
                let (x, b, c) = (&q[..], &b[..], &c[..]);
                kernels.space_step(SpaceStep { matrix, keep: 0.9, x, step: 0.3, b, c }, out);
            });
            same(&got, &space_by_parts(kernels, &before, [&q, &b, &c], 0.9, 0.3), &what);
        }
    }
}
