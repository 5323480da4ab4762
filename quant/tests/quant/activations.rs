//! How activations are packed: codes and scales are what the format says, and every tier writes the same
//! bits, in pieces or at once. What is done with them is in `products.rs` and `float_products.rs`.
use crate::common::{Inputs, Packed, Rng, bits, tiers};
use moelten_quant::{ActivationKind, Activations, BLOCK, Columns, Format, Isa, Kernels, Line, Record};

const KINDS: [ActivationKind; 2] = [ActivationKind::F32, ActivationKind::Q8];
const TINY: f32 = 7.888_609e-31; // 2^-100

fn scalar() -> &'static Kernels {
    Kernels::for_isa(Isa::Scalar).unwrap()
}

/// What a block of values becomes, from the definition: `max |x| / 127` times the nearest whole number,
/// ties to even.
fn rounded(x: &[f32]) -> Vec<f32> {
    if x.iter().any(|x| !x.is_finite()) {
        return vec![f32::NAN; x.len()];
    }
    let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    if largest < TINY {
        return vec![0.0; x.len()];
    }
    x.iter().map(|x| (largest / 127.0) * (x * (127.0 / largest)).round_ties_even()).collect()
}

#[test]
fn codes_are_the_nearest() {
    let mut rng = Rng(1);
    for kernels in tiers() {
        for inputs in Inputs::ALL {
            for cols in [32, 64, 5, 33, 63] {
                let tokens = 11;
                let x = inputs.floats(tokens, cols, &mut rng);
                let packed = Packed::new(kernels, Format::Q8_0, &x, cols);
                let floats = Packed::new(kernels, Format::F32, &x, cols);
                for (t, x) in x.chunks(cols).enumerate() {
                    let values = |of: &Packed| (0..cols).map(|k| of.view().value(t, k)).collect::<Vec<_>>();
                    assert_eq!(bits(&values(&floats)), bits(x), "floats are kept");
                    let got = values(&packed);
                    for ((block, x), got) in x.chunks(BLOCK).enumerate().zip(got.chunks(BLOCK)) {
                        let what =
                            format!("{} {inputs:?}, token {t}, block {block} of {cols}", kernels.isa());
                        let largest = x.iter().fold(0f32, |top, x| top.max(x.abs()));
                        for ((got, expected), x) in got.iter().zip(rounded(x)).zip(x) {
                            // Minus zero is written as a code of zero.
                            let same = *got == expected || got.is_nan() && expected.is_nan();
                            assert!(same, "{what}: {got:e} for {x:e}, not {expected:e}");
                            // Half a step, and a little for steps being rounded themselves.
                            let half = f64::from(largest) / 254.0 * (1.0 + 1e-4) + f64::from(TINY);
                            let near = got.is_nan() || f64::from((got - x).abs()) <= half;
                            assert!(near, "{what}: {got:e} for {x:e}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn ties_go_to_even_and_what_is_not_finite_shows() {
    let mut x = vec![127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, 63.49];
    x.resize(64, 0.0);
    x[32] = TINY;
    x.extend_from_slice(&x.clone());
    x[64 + 32] = TINY * (1.0 - 2f32.powi(-24));
    x[64 + 3] = f32::NEG_INFINITY;
    for kernels in tiers() {
        let packed = Packed::new(kernels, Format::Q8_0, &x, 64);
        let values: Vec<f32> = (0..8).map(|k| packed.view().value(0, k)).collect();
        assert_eq!(values, [127.0, 0.0, 2.0, 2.0, 0.0, -2.0, -126.0, 63.0], "{}", kernels.isa());
        let at = |t, k| packed.view().value(t, k);
        assert!((at(0, 32) - TINY).abs() <= TINY * 1e-6 && at(0, 33) == 0.0, "{}", kernels.isa());
        assert_eq!(at(1, 32), 0.0, "below 2^-100");
        assert!((0..32).all(|k| at(1, k).is_nan()) && at(1, 33) == 0.0, "a block is broken as a whole");
    }
}

/// Whole, in parts of tokens in any order, and from rows that are further apart: the same lines.
#[test]
fn every_tier_fills_the_same_lines_however_they_are_cut() {
    let mut rng = Rng(2);
    for kind in KINDS {
        for inputs in Inputs::ALL {
            for width in [1, 2, 7, 8, 9, 15, 16, 17, 24, 31, 32] {
                for tokens in [1, 2, 8, 9, 16, 17, 40] {
                    let stride = width + (rng.bits() % 3) as usize;
                    // Memory that ends with the last token's last column.
                    let mut x = inputs.floats(tokens, stride, &mut rng);
                    x.truncate((tokens - 1) * stride + width);
                    let fill = |kernels: &Kernels, pieces: &[usize]| {
                        let mut lines = vec![Line::ZERO; kind.record_lines(tokens)];
                        for ends in pieces.windows(2).rev() {
                            let from = Columns {
                                x: &x[x.len().min(ends[0] * stride)..],
                                stride,
                                width,
                                tokens: ends[1] - ends[0],
                            };
                            kernels.fill(from, ends[0], Record { kind, tokens, lines: &mut lines });
                        }
                        lines
                    };
                    let expected = fill(scalar(), &[0, tokens]);
                    for kernels in tiers() {
                        for pieces in
                            [&[0, tokens][..], &[0, tokens / 2, tokens], &[0, 1, tokens / 2 + 1, tokens]]
                        {
                            let same = fill(kernels, pieces) == expected;
                            assert!(
                                same,
                                "{} {kind:?} {inputs:?} {width} columns, {tokens} tokens in {pieces:?}",
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
fn gathered_tokens_are_as_if_they_were_all() {
    let mut rng = Rng(3);
    let (cols, tokens) = (65, 23);
    let x = rng.floats(tokens * cols);
    for (kind, format) in KINDS.into_iter().zip([Format::F32, Format::Q8_0]) {
        let all = Packed::new(scalar(), format, &x, cols);
        for chosen in [vec![22], vec![5, 5, 0], (0..23).rev().collect::<Vec<_>>(), vec![]] {
            let rows: Vec<f32> = chosen.iter().flat_map(|t| x[t * cols..][..cols].to_vec()).collect();
            let expected = Packed::new(scalar(), format, &rows, cols);
            let record = kind.record_lines(chosen.len());
            let mut lines = vec![Line::ZERO; kind.lines(chosen.len(), cols)];
            for (block, lines) in lines.chunks_mut(record.max(1)).enumerate() {
                all.view().gather(block, chosen.iter().copied(), lines);
            }
            assert!(lines == expected.lines, "{kind:?} {chosen:?}");
            // The same from a part of the tokens, by their new numbers.
            if let Some(first) = chosen.iter().min() {
                let part = all.view().slice_tokens(*first..tokens);
                let values =
                    |of: Activations<'_>, t: usize| (0..cols).map(|k| of.value(t, k)).collect::<Vec<_>>();
                for t in &chosen {
                    assert_eq!(values(part, t - first), values(all.view(), *t));
                }
                for (block, lines) in lines.chunks_mut(record).enumerate() {
                    lines.fill(Line::ZERO);
                    part.gather(block, chosen.iter().map(|t| t - first), lines);
                }
                assert!(lines == expected.lines, "{kind:?} {chosen:?} from a part");
            }
        }
    }
}

#[test]
#[should_panic(expected = "activations [3, 64] as Q8")]
fn lines_of_another_shape_are_refused() {
    Activations::new(ActivationKind::Q8, 3, 64, &[Line::ZERO; 4]);
}

#[test]
#[should_panic(expected = "the record has 4 tokens")]
fn more_tokens_than_the_record_has_are_refused() {
    let kind = ActivationKind::Q8;
    let mut lines = vec![Line::ZERO; kind.record_lines(4)];
    let from = Columns { x: &[1.0; 64], stride: 32, width: 32, tokens: 2 };
    tiers()[0].fill(from, 3, Record { kind, tokens: 4, lines: &mut lines });
}

#[test]
#[should_panic(expected = "token 2 of 2")]
fn a_token_that_is_not_there_cannot_be_gathered() {
    let packed = Packed::new(scalar(), Format::Q8_0, &[1.0; 96], 32);
    let part = packed.view().slice_tokens(0..2);
    part.gather(0, [2].into_iter(), &mut vec![Line::ZERO; part.kind().record_lines(1)]);
}
