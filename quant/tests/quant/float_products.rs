//! Products of float weights with float activations, of every tier: against double precision, against
//! themselves in other batches, and against another library.
use crate::common::{Inputs, Packed, Rng, Weights, assert_same, product, tiers};
use moelten_quant::{Activations, Format, Line, QMatrix, decode};

const FLOATS: [Format; 4] = [Format::F32, Format::F16, Format::BF16, Format::F8];
/// Columns to test: tails of every kind, and more than one piece of 512.
const COLUMNS: [usize; 10] = [1, 7, 8, 31, 32, 33, 100, 519, 544, 1061];

/// Those that are whole blocks.
fn columns(format: Format) -> impl Iterator<Item = usize> {
    COLUMNS.into_iter().filter(move |cols| cols.is_multiple_of(format.block_len()))
}

/// Checks `out` (`[tokens, rows]`) against double precision.
///
/// With `u = 2^-24` and `n` roundings on the way of a term into the result,
/// `|error| <= n u / (1 - n u) * sum |w x|` (Higham, Accuracy and Stability, section 3.1). Every tier has
/// at least 8 lanes, so a term sees `ceil(cols / 8)` additions in its lane and 4 across 16 lanes, and one
/// more for a product that is not fused. Subnormal products lose up to 2^-149 each.
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
            let got = f64::from(out[t * rows + r]);
            if expected.is_nan() {
                assert!(got.is_nan(), "{what} [{t}, {r}]: {got}, not NaN");
                continue;
            }
            let bound = n / (1.0 - n) * magnitude + cols as f64 * 2f64.powi(-149);
            let near = magnitude >= f64::from(f32::MAX) || (got - expected).abs() <= bound;
            assert!(near, "{what} [{t}, {r}]: {got}, not {expected} +- {bound}");
        }
    }
}

#[test]
fn products_agree_with_double_precision() {
    let mut rng = Rng(1);
    for format in FLOATS {
        for cols in columns(format) {
            for weights in [Weights::Random, Weights::Extreme, Weights::Zero] {
                let bytes = weights.bytes(format, 33 * cols, &mut rng);
                let mut w = vec![0.0; 33 * cols];
                decode(format, &bytes, &mut w);
                let matrix = QMatrix::new(format, 33, cols, &bytes).unwrap();
                for inputs in Inputs::ALL {
                    let all = inputs.floats(13, cols, &mut rng);
                    for (rows, tokens) in [(0, 2), (1, 1), (3, 5), (21, 4), (21, 6), (33, 1), (33, 13)] {
                        let x = &all[..tokens * cols];
                        for kernels in tiers() {
                            let packed = Packed::new(kernels, format, x, cols);
                            let out = product(kernels, matrix.slice_rows(0..rows), packed.view());
                            let what = format!(
                                "{} {format} {weights:?} {rows} x {cols}, {inputs:?} {tokens} tokens",
                                kernels.isa()
                            );
                            check(&w, x, [rows, cols, tokens], &out, &what);
                        }
                    }
                }
            }
        }
    }
}

/// A product with a unit vector is the weight, so formats are read as `decode` reads them.
#[test]
fn products_with_unit_vectors_are_the_weights() {
    let mut rng = Rng(2);
    for kernels in tiers() {
        for format in FLOATS {
            for cols in columns(format) {
                for weights in [Weights::Random, Weights::Extreme] {
                    let bytes = weights.bytes(format, cols, &mut rng);
                    let mut expected = vec![0.0; cols];
                    decode(format, &bytes, &mut expected);
                    let matrix = QMatrix::new(format, 1, cols, &bytes).unwrap();
                    for one in [0, cols / 2, cols - 1] {
                        for tokens in [1, 2] {
                            let mut x = vec![0.0; tokens * cols];
                            x[one] = 1.0;
                            let out = product(kernels, matrix, Packed::new(kernels, format, &x, cols).view());
                            assert_eq!(out[0], expected[one], "{} {format} {one} of {cols}", kernels.isa());
                        }
                    }
                }
            }
        }
    }
}

/// The promise that prefill and decode give the same logits: an output's bits depend on its row and token
/// alone.
#[test]
fn a_product_does_not_depend_on_its_batch_or_on_the_split_of_rows() {
    let mut rng = Rng(4);
    // Large enough for every order of the loops: 64 tokens here are more than the limit for one cache.
    let (rows, most) = (70, 200);
    for kernels in tiers() {
        for format in FLOATS {
            let cols = if format.block_len() == 1 { 2309 } else { 2304 };
            let bytes = Weights::Random.bytes(format, rows * cols, &mut rng);
            let matrix = QMatrix::new(format, rows, cols, &bytes).unwrap();
            let x = rng.floats(most * cols);
            let packed = Packed::new(kernels, format, &x, cols);
            let whole = product(kernels, matrix, packed.view());
            let what = |what: String| move || format!("{} {format} {what}", kernels.isa());
            for t in [0, 1, 62, 63, 64, 65, 127, 128, 199] {
                let expected = &whole[t * rows..][..rows];
                let alone = Packed::new(kernels, format, &x[t * cols..][..cols], cols);
                assert_same(
                    &product(kernels, matrix, alone.view()),
                    expected,
                    &what(format!("token {t} alone")),
                );
                let sliced = product(kernels, matrix, packed.view().slice_tokens(t..t + 1));
                assert_same(&sliced, expected, &what(format!("token {t} of all")));
            }
            for tokens in [2, 3, 5, 17, 64, 100] {
                let first = rng.bits() as usize % (most - tokens + 1);
                let range = first..first + tokens;
                let expected = &whole[first * rows..][..tokens * rows];
                let own = Packed::new(kernels, format, &x[first * cols..][..tokens * cols], cols);
                assert_same(
                    &product(kernels, matrix, own.view()),
                    expected,
                    &what(format!("tokens {range:?} alone")),
                );
                let sliced = packed.view().slice_tokens(range.clone());
                assert_same(
                    &product(kernels, matrix, sliced),
                    expected,
                    &what(format!("tokens {range:?} of all")),
                );
                let mut gathered = vec![Line::ZERO; sliced.kind().lines(tokens, cols)];
                let lines = sliced.kind().record_lines(tokens);
                for (block, record) in gathered.chunks_mut(lines).enumerate() {
                    sliced.gather(block, (0..tokens).rev(), record);
                }
                let got = product(kernels, matrix, Activations::new(sliced.kind(), tokens, cols, &gathered));
                let expected: Vec<f32> = expected.chunks(rows).rev().flatten().copied().collect();
                assert_same(&got, &expected, &what(format!("tokens {range:?} gathered")));
            }
            for range in [0..1, 0..37, 1..4, 5..22, 16..70, 69..70] {
                for tokens in [1, 7, 64] {
                    let x = packed.view().slice_tokens(0..tokens);
                    let got = product(kernels, matrix.slice_rows(range.clone()), x);
                    let expected: Vec<f32> = whole
                        .chunks(rows)
                        .take(tokens)
                        .flat_map(|token| token[range.clone()].to_vec())
                        .collect();
                    assert_same(&got, &expected, &what(format!("rows {range:?}, {tokens} tokens")));
                }
            }
        }
    }
}

/// An independent implementation, the crate `gemm`, on the same numbers. Both are within the bound of
/// [`check`] of the truth.
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
            rows as isize,
            1,
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
        let packed = Packed::new(kernels, Format::F32, &x, cols);
        let out = product(kernels, QMatrix::new(Format::F32, rows, cols, &bytes).unwrap(), packed.view());
        for (i, (ours, theirs)) in out.iter().zip(&theirs).enumerate() {
            // Two bounds for cols terms below 1 in magnitude, theirs with one lane at worst.
            let bound = 2.0 * cols as f32 * cols as f32 * 2f32.powi(-24);
            assert!((ours - theirs).abs() <= bound, "{} output {i}: {ours} and {theirs}", kernels.isa());
        }
    }
}
