//! Every function of every tier on small shapes: fast enough for Miri, which checks every access of the
//! scalar tier (`.ci/miri`). What results have to be, the other files test.

use half::f16;
use moelten_quant::{
    ActivationKind, Activations, Attend, Format, KEY_GROUP, KvHead, Line, QMatrix, Reading, Running,
    activations, decode,
};

use crate::common::{Rng, Weights, tiers};

/// The product of a format with 3 tokens, in plain order, `[rows, tokens]`, and the sums of magnitudes.
fn plain(format: Format, bytes: &[u8], x: &[f32], cols: usize) -> Vec<(f64, f64)> {
    let mut weights = vec![0.0; bytes.len() / format.block_bytes() * format.block_len()];
    decode(format, bytes, &mut weights);
    let mut all = Vec::new();
    for row in weights.chunks(cols) {
        for token in x.chunks(cols) {
            let terms = row.iter().zip(token).map(|(&w, &x)| f64::from(w) * f64::from(x));
            all.push(terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs())));
        }
    }
    all
}

#[test]
fn products_of_every_format() {
    let mut rng = Rng(11);
    for kernels in tiers() {
        for format in Format::ALL {
            let (rows, cols, tokens) = (5, format.block_len().max(32), 3);
            let bytes = Weights::Random.bytes(format, rows * cols, &mut rng);
            let x = rng.floats(tokens * cols);
            let kind = ActivationKind::of(format);
            let packed = activations(kernels, kind, &x, cols);
            let matrix = QMatrix::new(format, rows, cols, &bytes).unwrap();
            let mut out = vec![f32::NAN; rows * tokens];
            kernels.matmul(matrix, Activations::new(kind, tokens, cols, &packed), &mut out);
            // One group of rows: outputs are [tokens, rows].
            for (at, (sum, size)) in plain(format, &bytes, &x, cols).into_iter().enumerate() {
                let got = f64::from(out[at % tokens * rows + at / tokens]);
                assert!((got - sum).abs() <= 0.02 * size + 1e-6, "{format} {at}: {got}, not {sum}");
            }
        }
    }
}

#[test]
fn vectors_of_odd_lengths() {
    let mut rng = Rng(12);
    for kernels in tiers() {
        for n in [0, 1, 7, 8, 31, 33] {
            let (a, b) = (rng.floats(n), rng.floats(n));
            let sum: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
            assert!((kernels.dot(&a, &b) - sum).abs() < 1e-4);
            let mut y = b.clone();
            kernels.axpy(0.5, &a, &mut y);
            kernels.scale(2.0, &mut y);
            let mut halves = vec![f16::ZERO; n];
            kernels.to_f16(&y, &mut halves);
            for (i, half) in halves.iter().enumerate() {
                assert!((half.to_f32() - (a[i] + 2.0 * b[i])).abs() < 1e-2);
            }
            let mut out = vec![0.0; n];
            kernels.rms_norm(&a, &b, 1e-5, &mut out);
            kernels.layer_norm(&a, &b, &y, 1e-5, &mut out);
            kernels.silu_mul(&a, &mut out);
            kernels.gelu_tanh_mul(&b, &mut out);
            assert!(out.iter().all(|x| x.is_finite()));
        }
        assert_eq!(kernels.read_through(&[0; 200], Reading::InTurn), 0);
        assert!(kernels.multiply_int8(1) > 0);
    }
}

#[test]
fn attention_of_a_short_text() {
    let mut rng = Rng(13);
    let (head_dim, positions) = (6, KEY_GROUP + 3);
    let capacity = positions.next_multiple_of(KEY_GROUP);
    for kernels in tiers() {
        let (keys, values) = (rng.floats(capacity * head_dim), rng.floats(capacity * head_dim));
        let halves = |x: &[f32]| x.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>();
        let (half_keys, half_values) = (halves(&keys), halves(&values));
        let heads = [
            KvHead::F16 { keys: &half_keys, values: &half_values },
            KvHead::F32 { keys: &keys, values: &values },
        ];
        for kv in heads {
            for (window, softcap) in [(None, None), (Some(4), Some(2.0))] {
                let (group, tokens) = (2, 3);
                let queries = rng.floats(tokens * group * head_dim);
                let task = Attend {
                    kv,
                    huge_pages: false,
                    head_dim,
                    scale: 0.3,
                    softcap,
                    window,
                    whole: None,
                    bias: None,
                    queries: &queries,
                    stride: group * head_dim,
                    group,
                    tokens,
                    first: positions - tokens,
                    spans: 0..1,
                };
                let mut out = vec![f32::NAN; queries.len()];
                let mut state = vec![Running::default(); tokens * group];
                kernels.attend(&task, &mut out, &mut state);
                assert!(out.iter().all(|x| x.is_finite()), "{out:?}");
                let (later, later_state) = (out[..head_dim].to_vec(), state[0]);
                kernels.attend_merge(&later, later_state, &mut out[head_dim..2 * head_dim], &mut state[1]);
                assert!(state.iter().all(|state| state.sum > 0.0 && state.max.is_finite()));
            }
        }
    }
}

#[test]
fn lines_are_seen_as_their_numbers() {
    let kind = ActivationKind::of(Format::Q8_0);
    let lines = vec![Line::ZERO; kind.record_lines(2)];
    assert_eq!(Activations::new(kind, 2, 32, &lines).tokens(), 2);
}
