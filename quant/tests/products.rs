//! Matrix products and decoding of every tier and format: against double precision, against themselves in other batches,
//! and against another library. `guard.rs` has what they read.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

mod common;

use common::{Rng, Weights, bits, tiers};
use moelten_quant::{Format, QMatrix, decode};

/// Columns to test: one block, a few, more than one piece of 512, and for plain floats tails of every kind.
fn columns(format: Format) -> Vec<usize> {
    match format.block_len() {
        1 => vec![1, 7, 8, 31, 33, 100, 519, 1061],
        32 => vec![32, 96, 544, 1056],
        _ => vec![256, 768, 1280],
    }
}

/// Checks `out` (`[rows, tokens]`) against double precision.
///
/// With `u = 2^-24` and `n` roundings on the way of a term into the result, `|error| <= n u / (1 - n u) * sum |w x|` (Higham,
/// Accuracy and Stability, section 3.1). Every tier has at least 8 lanes, so a term sees `ceil(cols / 8)` additions in its
/// lane and 4 across 16 lanes, and one more for a product that is not fused. Subnormal products lose up to 2^-149 each.
fn check(w: &[f32], x: &[f32], [rows, cols, tokens]: [usize; 3], out: &[f32], what: &str) {
    let n = (cols.div_ceil(8) + 5) as f64 * 2f64.powi(-24);
    for r in 0..rows {
        for t in 0..tokens {
            let terms = || {
                w[r * cols..][..cols]
                    .iter()
                    .zip(&x[t * cols..][..cols])
                    .map(|(w, x)| f64::from(*w) * f64::from(*x))
            };
            let (expected, magnitude): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
            let got = f64::from(out[r * tokens + t]);
            let bound = n / (1.0 - n) * magnitude + cols as f64 * 2f64.powi(-149);
            assert!((got - expected).abs() <= bound, "{what} [{r}, {t}]: {got}, not {expected} +- {bound}");
        }
    }
}

#[test]
fn products_agree_with_double_precision() {
    let mut rng = Rng(1);
    for kernels in tiers() {
        for format in Format::ALL {
            for cols in columns(format) {
                for (kind, rows) in
                    Weights::ALL.into_iter().flat_map(|kind| [0, 1, 3, 21].map(|rows| (kind, rows)))
                {
                    let bytes = kind.bytes(format, rows * cols, &mut rng);
                    let mut w = vec![0.0; rows * cols];
                    decode(format, &bytes, &mut w);
                    let matrix = QMatrix::new(format, rows, cols, &bytes).unwrap();
                    for tokens in [1, 2, 3, 4, 5, 6, 13] {
                        let x = rng.floats(tokens * cols);
                        let mut out = vec![f32::NAN; rows * tokens];
                        kernels.matmul(matrix, &x, tokens, &mut out);
                        let what =
                            format!("{} {format} {kind:?} {rows} x {cols}, {tokens} tokens", kernels.isa());
                        check(&w, &x, [rows, cols, tokens], &out, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn every_tier_unpacks_the_bits_of_the_reference() {
    let mut rng = Rng(2);
    for kernels in tiers() {
        for format in Format::ALL {
            for cols in columns(format) {
                for kind in Weights::ALL {
                    let bytes = kind.bytes(format, cols, &mut rng);
                    let (mut expected, mut got) = (vec![0.0; cols], vec![0.0; cols]);
                    decode(format, &bytes, &mut expected);
                    kernels.decode(format, &bytes, &mut got);
                    assert_eq!(bits(&got), bits(&expected), "{} {format} {kind:?} {cols}", kernels.isa());
                    // A product with a unit vector is the weight itself, up to the sign of zero.
                    let matrix = QMatrix::new(format, 1, cols, &bytes).unwrap();
                    for one in [0, cols / 2, cols - 1] {
                        for tokens in [1, 2] {
                            let (mut x, mut out) = (vec![0.0; tokens * cols], vec![0.0; tokens]);
                            x[one] = 1.0;
                            kernels.matmul(matrix, &x, tokens, &mut out);
                            assert_eq!(
                                out[0],
                                expected[one],
                                "{} {format} {kind:?} weight {one} of {cols}",
                                kernels.isa()
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn random_bytes_unpack_to_the_same_bits_whatever_they_are() {
    let mut rng = Rng(3);
    for kernels in tiers() {
        for format in Format::ALL {
            let n = 64 * format.block_len();
            let bytes: Vec<u8> = (0..64 * format.block_bytes()).map(|_| rng.bits() as u8).collect();
            let (mut expected, mut got) = (vec![0.0; n], vec![0.0; n]);
            decode(format, &bytes, &mut expected);
            kernels.decode(format, &bytes, &mut got);
            for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
                assert!(same, "{} {format} weight {i}: {got}, not {expected}", kernels.isa());
            }
        }
    }
}

/// The promise that prefill and decode give the same logits: an output's bits depend on its row and token alone.
#[test]
fn a_product_does_not_depend_on_its_batch_or_on_the_split_of_rows() {
    let mut rng = Rng(4);
    for kernels in tiers() {
        for format in Format::ALL {
            // Large enough for every order of the loops: 64 tokens here are more than a cache is trusted with.
            let cols = if format.block_len() == 1 { 2309 } else { 2304 };
            let (rows, most) = (70, 200);
            let bytes = Weights::Random.bytes(format, rows * cols, &mut rng);
            let matrix = QMatrix::new(format, rows, cols, &bytes).unwrap();
            let x = rng.floats(most * cols);
            let mut alone = vec![0.0; rows * most];
            for t in 0..most {
                let mut out = vec![0.0; rows];
                kernels.matmul(matrix, &x[t * cols..][..cols], 1, &mut out);
                out.iter().enumerate().for_each(|(r, out)| alone[r * most + t] = *out);
            }
            let isa = kernels.isa();
            for tokens in [2, 3, 5, 17, 64, 200] {
                let first = rng.bits() as usize % (most - tokens + 1);
                let mut out = vec![0.0; rows * tokens];
                kernels.matmul(matrix, &x[first * cols..][..tokens * cols], tokens, &mut out);
                for (r, out) in out.chunks(tokens).enumerate() {
                    let expected = &alone[r * most + first..][..tokens];
                    assert_eq!(
                        bits(out),
                        bits(expected),
                        "{isa} {format} row {r}, tokens {first} + {tokens}"
                    );
                }
            }
            for range in [0..1, 0..37, 1..4, 5..22, 16..70, 69..70] {
                for tokens in [1, 7, 64] {
                    let mut out = vec![0.0; range.len() * tokens];
                    kernels.matmul(matrix.slice_rows(range.clone()), &x[..tokens * cols], tokens, &mut out);
                    for (r, out) in range.clone().zip(out.chunks(tokens)) {
                        let expected = &alone[r * most..][..tokens];
                        assert_eq!(
                            bits(out),
                            bits(expected),
                            "{isa} {format} row {r} of {range:?}, {tokens} tokens"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn threads_that_share_a_product_change_nothing() {
    let mut rng = Rng(5);
    let (rows, cols, tokens) = (40, 768, 9);
    for kernels in tiers() {
        let bytes = Weights::Random.bytes(Format::Q4K, rows * cols, &mut rng);
        let matrix = QMatrix::new(Format::Q4K, rows, cols, &bytes).unwrap();
        let x = rng.floats(tokens * cols);
        let (mut whole, mut shared) = (vec![0.0; rows * tokens], vec![0.0; rows * tokens]);
        kernels.matmul(matrix, &x, tokens, &mut whole);
        std::thread::scope(|scope| {
            for (i, out) in shared.chunks_mut(10 * tokens).enumerate() {
                let x = &x;
                scope.spawn(move || kernels.matmul(matrix.slice_rows(i * 10..(i + 1) * 10), x, tokens, out));
            }
        });
        assert_eq!(bits(&whole), bits(&shared), "{}", kernels.isa());
    }
}

/// Not our own arithmetic: the crate `gemm` on the same numbers. Both are within the bound of [`check`] of the truth.
#[test]
#[allow(unsafe_code, reason = "gemm takes pointers")]
fn f32_products_agree_with_the_gemm_crate() {
    let mut rng = Rng(6);
    let (rows, cols, tokens) = (45, 1061, 19);
    let (w, x) = (rng.floats(rows * cols), rng.floats(tokens * cols));
    let mut theirs = vec![0.0; rows * tokens];
    // SAFETY: the sizes and strides are those of the three vectors.
    unsafe {
        gemm::gemm(
            rows,
            tokens,
            cols,
            theirs.as_mut_ptr(),
            1,
            tokens as isize,
            false,
            w.as_ptr(),
            1,
            cols as isize,
            x.as_ptr(),
            cols as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
    let bytes: Vec<u8> = w.iter().flat_map(|w| w.to_le_bytes()).collect();
    for kernels in tiers() {
        let mut out = vec![0.0; rows * tokens];
        kernels.matmul(QMatrix::new(Format::F32, rows, cols, &bytes).unwrap(), &x, tokens, &mut out);
        for (i, (ours, theirs)) in out.iter().zip(&theirs).enumerate() {
            // Two bounds for cols terms below 1 in magnitude, theirs with one lane at worst.
            let bound = 2.0 * cols as f32 * cols as f32 * 2f32.powi(-24);
            assert!((ours - theirs).abs() <= bound, "{} output {i}: {ours} and {theirs}", kernels.isa());
        }
    }
}

#[test]
fn matrices_without_columns_multiply_to_zero() {
    for kernels in tiers() {
        let mut out = [1.0; 6];
        kernels.matmul(QMatrix::new(Format::Q4_0, 3, 0, &[]).unwrap(), &[], 2, &mut out);
        assert_eq!(out, [0.0; 6]);
    }
}

#[test]
fn a_shape_that_does_not_fit_is_an_error() {
    use moelten_quant::ShapeError::*;
    let new = |format, rows, cols, len: usize| QMatrix::new(format, rows, cols, &[0; 64][..len]).err();
    assert_eq!(new(Format::Q4_0, 2, 32, 36), None);
    assert_eq!(new(Format::Q4_0, 2, 33, 36), Some(PartialBlock { cols: 33, block_len: 32 }));
    assert_eq!(new(Format::Q4_0, 2, 32, 35), Some(Length { expected: 36, got: 35 }));
    assert_eq!(new(Format::F32, usize::MAX, 2, 0), Some(Overflow { rows: usize::MAX, cols: 2 }));
    assert_eq!(new(Format::F32, 1, usize::MAX, 0), Some(Overflow { rows: 1, cols: usize::MAX }));
}

#[test]
#[should_panic(expected = "x is not [tokens, cols]")]
fn activations_of_the_wrong_length_are_refused() {
    let bytes = [0; 18];
    let matrix = QMatrix::new(Format::Q4_0, 1, 32, &bytes).unwrap();
    tiers()[0].matmul(matrix, &[0.0; 63], 2, &mut [0.0; 2]);
}
