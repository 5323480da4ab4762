//! Products of quantised weights with int8 activations: every tier and format gives the bits of the scalar
//! reference for any number of rows and tokens and whatever they stand beside, and these are within the
//! derived bound of double precision. `float_products.rs` has float weights, `guard.rs` what is read.
use crate::common::{Inputs, Packed, Rng, Weights, assert_same, halves, product, quantised, tiers};
use moelten_quant::{ActivationKind, Activations, Format, Isa, Kernels, Line, Picks, QMatrix, decode};

fn scalar() -> &'static Kernels {
    Kernels::for_isa(Isa::Scalar).unwrap()
}

/// `[tokens, rows]` of the reference cut down to its first tokens and some rows.
fn part(whole: &[f32], of: usize, rows: std::ops::Range<usize>, tokens: std::ops::Range<usize>) -> Vec<f32> {
    tokens.flat_map(|t| whole[t * of..][rows.clone()].iter().copied()).collect()
}

/// What double precision makes of decoded weights and the values that the codes stand for.
struct Exact {
    format: Format,
    cols: usize,
    weights: Vec<f64>,
    /// Magnitude of the minimum of each weight's block; zero in formats without.
    minima: Vec<f64>,
}

impl Exact {
    fn new(format: Format, bytes: &[u8], cols: usize) -> Self {
        let wide = |bytes: &[u8]| {
            let mut out = vec![0.0; bytes.len() / format.block_bytes() * format.block_len()];
            decode(format, bytes, &mut out);
            out.into_iter().map(f64::from).collect::<Vec<_>>()
        };
        // Codes of zero leave the minimum.
        let codes = match format {
            Format::Q4_1 | Format::Q5_1 => 4..format.block_bytes(),
            Format::Q4K | Format::Q5K => 16..format.block_bytes(),
            Format::Q2K => 16..80,
            _ => 0..format.block_bytes(),
        };
        let mut bare = bytes.to_vec();
        bare.chunks_mut(format.block_bytes()).for_each(|block| block[codes.clone()].fill(0));
        let mut minima = wide(&bare);
        if codes.start == 0 {
            minima.fill(0.0);
        }
        minima.iter_mut().for_each(|m| *m = m.abs());
        Self { format, cols, weights: wide(bytes), minima }
    }

    /// Checks `[tokens, rows]` outputs.
    ///
    /// Let `u = 2^-24` and `P` be the number of sums of a row: its blocks of 32, or halves of those. By the
    /// definition in `codes`, the exact `sum q a` of a block is rounded when it is scaled, when the minimum
    /// is subtracted, and each of up to `P` times that the output is added to. Here, a decoded weight
    /// `s q - m` is rounded twice and a value `t a` once. So each term has at most `n = P + 5` roundings,
    /// and `|error| <= n u / (1 - n u) * sum (|s q| + |m|) |t a|` (Higham, Accuracy and Stability, section
    /// 3.1), where `|s q| <= |w| + |m|`. Subnormal results lose up to 2^-150 each: three in a block, of
    /// which two are scaled by `t`, and two in each weight, scaled by `|t a|`; `t` is below the sum of
    /// `|t a|`. One percent covers that the bound is made of rounded numbers.
    fn check(&self, x: Activations<'_>, out: &[f32], what: &dyn Fn() -> String) {
        let rows = self.weights.len() / self.cols;
        let sums = self.cols / if halves(self.format) { 16 } else { 32 };
        let n = (sums + 5) as f64 * 2f64.powi(-24);
        for t in 0..x.tokens() {
            let x: Vec<f64> = (0..self.cols).map(|k| f64::from(x.value(t, k))).collect();
            let sum_x: f64 = x.iter().map(|x| x.abs()).sum();
            for r in 0..rows {
                let at = r * self.cols..(r + 1) * self.cols;
                let (mut expected, mut magnitude) = (0.0, 0.0);
                for ((w, m), x) in self.weights[at.clone()].iter().zip(&self.minima[at]).zip(&x) {
                    expected += w * x;
                    magnitude += (w.abs() + 2.0 * m) * x.abs();
                }
                let got = f64::from(out[t * rows + r]);
                if x.iter().any(|x| x.is_nan()) {
                    assert!(got.is_nan(), "{} [{t}, {r}]: {got}, and the token is not a number", what());
                } else if magnitude < f64::from(f32::MAX) / 2.0 {
                    let bound = 1.01 * n / (1.0 - n) * magnitude
                        + 2f64.powi(-149) * (2.0 * sums as f64 + 4.0 * sum_x);
                    let near = (got - expected).abs() <= bound;
                    assert!(near, "{} [{t}, {r}]: {got:e}, not {expected:e} +- {bound:e}", what());
                }
            }
        }
    }
}

/// Rows around every vector and group, and tokens around every batch, tile and run.
const ROWS: [usize; 15] = [0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 64, 65, 100];
const TOKENS: [usize; 20] = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 127, 128, 129, 200];

#[test]
fn every_shape_has_the_bits_of_the_reference() {
    let mut rng = Rng(1);
    let (most_rows, most) = (ROWS[ROWS.len() - 1], TOKENS[TOKENS.len() - 1]);
    for format in quantised() {
        let cols = if format.block_len() == 32 { 96 } else { 256 };
        let bytes = Weights::Random.bytes(format, most_rows * cols, &mut rng);
        let matrix = QMatrix::new(format, most_rows, cols, &bytes).unwrap();
        let x = rng.floats(most * cols);
        let whole = product(scalar(), matrix, Packed::new(scalar(), format, &x, cols).view());
        for kernels in tiers() {
            for tokens in TOKENS {
                let x = Packed::new(kernels, format, &x[..tokens * cols], cols);
                // The reference has no paths for many of both, and is slow.
                for rows in
                    ROWS.into_iter().filter(|rows| kernels.isa() != Isa::Scalar || rows * tokens < 1200)
                {
                    let got = product(kernels, matrix.slice_rows(0..rows), x.view());
                    let expected = part(&whole, most_rows, 0..rows, 0..tokens);
                    let what = || format!("{} {format} {rows} rows, {tokens} tokens", kernels.isa());
                    assert_same(&got, &expected, &what);
                }
            }
        }
    }
}

/// Rows enough for several runs of rows per lane, and a loop of another tier for every other format and
/// number of tokens.
#[test]
fn runs_and_picked_loops_have_the_bits_of_the_reference() {
    let mut rng = Rng(7);
    for format in quantised() {
        let (cols, rows) = (256, 16 * 33 + 11);
        let bytes = Weights::Random.bytes(format, rows * cols, &mut rng);
        let matrix = QMatrix::new(format, rows, cols, &bytes).unwrap();
        let x = rng.floats(3 * cols);
        let whole = product(scalar(), matrix, Packed::new(scalar(), format, &x, cols).view());
        for (n, kernels) in tiers().into_iter().enumerate() {
            let mut picks = Picks::of(kernels.isa());
            for (i, format) in Format::ALL.into_iter().enumerate() {
                for tokens in [1, 2] {
                    let candidates = Picks::candidates(tokens);
                    picks.set(format, tokens, candidates[(n + i + tokens) % candidates.len()]);
                }
            }
            let picked = kernels.with_picks(&picks).expect("candidates are here");
            assert_eq!(picked.isa(), kernels.isa());
            for kernels in [kernels, picked] {
                for tokens in [1, 3] {
                    let x = Packed::new(kernels, format, &x[..tokens * cols], cols);
                    let expected = part(&whole, rows, 0..rows, 0..tokens);
                    let what = || format!("{} {format} {tokens} tokens, {picks:?}", kernels.isa());
                    assert_same(&product(kernels, matrix, x.view()), &expected, &what);
                }
            }
        }
    }
}

#[test]
fn every_kind_of_number_has_the_bits_of_the_reference() {
    let mut rng = Rng(2);
    let (rows, most) = (33, 19);
    for format in quantised() {
        for blocks in [1, 3] {
            let cols = format.block_len() * blocks;
            for weights in Weights::ALL {
                let bytes = weights.bytes(format, rows * cols, &mut rng);
                let matrix = QMatrix::new(format, rows, cols, &bytes).unwrap();
                let exact = Exact::new(format, &bytes, cols);
                for inputs in Inputs::ALL {
                    let x = inputs.floats(most, cols, &mut rng);
                    for tokens in [1, 6, most] {
                        let x = Packed::new(scalar(), format, &x[..tokens * cols], cols);
                        let what =
                            || format!("{format} {rows} x {cols}, {weights:?} x {inputs:?}, {tokens} tokens");
                        let expected = product(scalar(), matrix, x.view());
                        if weights != Weights::Bytes {
                            exact.check(x.view(), &expected, &what);
                        }
                        for kernels in tiers() {
                            let got = product(kernels, matrix, x.view());
                            assert_same(&got, &expected, &|| format!("{} {}", kernels.isa(), what()));
                        }
                    }
                }
            }
        }
    }
}

/// Records of the tokens `chosen` alone.
fn gathered(x: Activations<'_>, chosen: &[usize]) -> Vec<Line> {
    let lines = x.kind().record_lines(chosen.len());
    let mut gathered = vec![Line::ZERO; x.cols() / 32 * lines];
    for (block, record) in gathered.chunks_mut(lines).enumerate() {
        x.gather(block, chosen.iter().copied(), record);
    }
    gathered
}

/// Rows of more blocks than are unpacked at a time, and an output from parts of everything: some rows, some
/// tokens of the records, tokens gathered in another order.
#[test]
fn a_product_does_not_depend_on_what_is_computed_beside_it() {
    let mut rng = Rng(3);
    let (rows, most) = (70, 150);
    for format in quantised() {
        let cols = if format.block_len() == 32 { 65 * 32 } else { 9 * 256 };
        let bytes = Weights::Random.bytes(format, rows * cols, &mut rng);
        let matrix = QMatrix::new(format, rows, cols, &bytes).unwrap();
        let packed = Packed::new(scalar(), format, &rng.floats(most * cols), cols);
        let x = packed.view();
        let tiers = tiers();
        // The test of shapes shows that tiers agree, so the fastest stands for all; a few rows and tokens
        // check long rows.
        let whole = product(tiers[tiers.len() - 1], matrix, x);
        let few = (matrix.slice_rows(3..20), x.slice_tokens(5..14));
        Exact::new(format, few.0.data(), cols)
            .check(few.1, &part(&whole, rows, 3..20, 5..14), &|| format!("{format}"));
        for kernels in tiers {
            let what = |part: &str| format!("{} {format} {part}", kernels.isa());
            if kernels.isa() == Isa::Scalar {
                assert_same(&product(kernels, few.0, few.1), &part(&whole, rows, 3..20, 5..14), &|| {
                    what("a few")
                });
                continue;
            }
            assert_same(&product(kernels, matrix, x), &whole, &|| what("whole"));
            for range in [0..1, 0..37, 1..4, 5..22, 16..70, 69..70, 40..40] {
                let got = product(kernels, matrix.slice_rows(range.clone()), x);
                assert_same(&got, &part(&whole, rows, range.clone(), 0..most), &|| {
                    what(&format!("rows {range:?}"))
                });
            }
            for range in [
                0..1,
                149..150,
                7..8,
                1..9,
                3..12,
                16..32,
                16..33,
                17..33,
                100..150,
                134..150,
                145..150,
                0..129,
                9..9,
            ] {
                let got = product(kernels, matrix, x.slice_tokens(range.clone()));
                assert_same(&got, &part(&whole, rows, 0..rows, range.clone()), &|| {
                    what(&format!("tokens {range:?}"))
                });
            }
            for (chosen, slice) in [
                (vec![149], 0..most),
                (vec![3, 3, 0], 0..most),
                ((0..40).rev().collect(), 0..most),
                ((0..100).map(|i| i * 49 % 137).collect::<Vec<_>>(), 13..most),
            ] {
                let lines = gathered(x.slice_tokens(slice.clone()), &chosen);
                let got = product(kernels, matrix, Activations::new(x.kind(), chosen.len(), cols, &lines));
                let expected: Vec<f32> = chosen
                    .iter()
                    .flat_map(|t| part(&whole, rows, 0..rows, slice.start + t..slice.start + t + 1))
                    .collect();
                assert_same(&got, &expected, &|| what(&format!("tokens {chosen:?}")));
            }
        }
    }
}

/// A token of which the records hold others too, whether it is copied first or not.
#[test]
fn one_token_of_several_has_the_same_bits() {
    let (mut rng, rows, tokens) = (Rng(4), 20, 3);
    for format in quantised() {
        for cols in [512, 2048, 2304] {
            let bytes = Weights::Random.bytes(format, rows * cols, &mut rng);
            let matrix = QMatrix::new(format, rows, cols, &bytes).unwrap();
            let packed = Packed::new(scalar(), format, &rng.floats(tokens * cols), cols);
            let whole = product(scalar(), matrix, packed.view());
            for (kernels, t) in tiers().into_iter().flat_map(|kernels| (0..tokens).map(move |t| (kernels, t)))
            {
                let got = product(kernels, matrix, packed.view().slice_tokens(t..t + 1));
                assert_same(&got, &part(&whole, rows, 0..rows, t..t + 1), &|| {
                    format!("{} {format} of {cols} columns, token {t}", kernels.isa())
                });
            }
        }
    }
}

/// Records have room for whole tiles of tokens. Stale data in the padding is not used.
#[test]
fn what_is_left_in_the_room_of_a_record_is_not_used() {
    let mut rng = Rng(4);
    let (rows, tokens) = (32, 33);
    let kind = ActivationKind::Q8;
    assert_eq!(kind.record_lines(tokens), kind.record_lines(48), "there is room to spoil");
    for format in quantised() {
        let cols = 256;
        let bytes = Weights::Random.bytes(format, rows * cols, &mut rng);
        let matrix = QMatrix::new(format, rows, cols, &bytes).unwrap();
        let x = rng.floats(tokens * cols);
        for kernels in tiers() {
            let clean = Packed::new(kernels, format, &x, cols);
            let mut spoilt = Packed::new(kernels, format, &vec![f32::NAN; 48 * cols], cols);
            for (block, lines) in spoilt.lines.chunks_mut(kind.record_lines(tokens)).enumerate() {
                let from = moelten_quant::Columns::of(&x, cols, block);
                kernels.fill(from, 0, moelten_quant::Record { kind, tokens, lines });
            }
            spoilt.tokens = tokens;
            assert!(spoilt.lines != clean.lines);
            let (got, expected) =
                (product(kernels, matrix, spoilt.view()), product(kernels, matrix, clean.view()));
            assert!(expected.iter().all(|x| x.is_finite()));
            assert_same(&got, &expected, &|| format!("{} {format}", kernels.isa()));
        }
    }
}

#[test]
fn threads_that_share_a_product_change_nothing() {
    let mut rng = Rng(5);
    let (rows, cols, tokens) = (256, 768, 33);
    for kernels in tiers() {
        for format in [Format::Q4K, Format::Q6K, Format::Q8_0] {
            let bytes = Weights::Random.bytes(format, rows * cols, &mut rng);
            let matrix = QMatrix::new(format, rows, cols, &bytes).unwrap();
            let x = Packed::new(kernels, format, &rng.floats(tokens * cols), cols);
            let (mut whole, mut shared) = (vec![0.0; rows * tokens], vec![0.0; rows * tokens]);
            kernels.matmul(matrix, x.view(), &mut whole);
            std::thread::scope(|scope| {
                for (i, out) in shared.chunks_mut(64 * tokens).enumerate() {
                    let x = x.view();
                    scope.spawn(move || kernels.matmul(matrix.slice_rows(i * 64..(i + 1) * 64), x, out));
                }
            });
            assert_same(&shared, &whole, &|| format!("{} {format}", kernels.isa()));
        }
    }
}

#[test]
fn matrices_without_columns_multiply_to_zero() {
    for kernels in tiers() {
        for format in [Format::Q4_0, Format::F32] {
            let kind = ActivationKind::of(format);
            let mut out = [1.0; 6];
            let x = Activations::new(kind, 2, 0, &[]);
            kernels.matmul(QMatrix::new(format, 3, 0, &[]).unwrap(), x, &mut out);
            assert_eq!(out, [0.0; 6]);
        }
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

/// Multiplies one row of `Q4_0` with activations of another shape.
fn misuse(format: Format, cols: usize, outputs: usize) {
    let bytes = [0; 18];
    let x = Packed::new(scalar(), format, &vec![0.0; 2 * cols], cols);
    scalar().matmul(QMatrix::new(Format::Q4_0, 1, 32, &bytes).unwrap(), x.view(), &mut vec![0.0; outputs]);
}

#[test]
#[should_panic(expected = "x is not [tokens, cols]")]
fn activations_of_another_width_are_refused() {
    misuse(Format::Q4_0, 64, 2);
}

#[test]
#[should_panic(expected = "activations for Q4_0")]
fn activations_of_another_kind_are_refused() {
    misuse(Format::F32, 32, 2);
}

#[test]
#[should_panic(expected = "out is not [rows, tokens]")]
fn outputs_of_another_length_are_refused() {
    misuse(Format::Q4_0, 32, 3);
}
