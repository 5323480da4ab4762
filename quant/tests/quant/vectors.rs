//! The float vector kernels of every tier against double precision, lengths around every vector width.

use crate::common::{Rng, bits, tiers};
use half::f16;
use moelten_quant::{Isa, Kernels};

/// One unit of rounding.
const U: f64 = 1.0 / (1u64 << 24) as f64;

const LENGTHS: [usize; 14] = [0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 63, 64, 130, 1000];

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn close(got: f32, expected: f64, bound: f64, what: &str) {
    assert!((f64::from(got) - expected).abs() <= bound, "{what}: {got}, not {expected} +- {bound}");
}

#[test]
fn dots_and_sums() {
    let mut rng = Rng(1);
    for kernels in tiers() {
        for n in LENGTHS {
            let what = format!("{} {n}", kernels.isa());
            let (a, b) = (rng.floats(n), rng.floats(n));
            let terms = || wide(&a).into_iter().zip(wide(&b)).map(|(a, b)| a * b);
            // As for products: additions in a lane of at least 8, across lanes and accumulators, and the
            // product.
            let roundings = (n.div_ceil(8) + 7) as f64;
            let bound = 1.01 * roundings * U * terms().map(f64::abs).sum::<f64>();
            close(kernels.dot(&a, &b), terms().sum(), bound, &what);
            let mut y = a.clone();
            kernels.axpy(0.7, &b, &mut y);
            for (i, y) in y.into_iter().enumerate() {
                let product = f64::from(0.7f32) * f64::from(b[i]);
                let expected = f64::from(a[i]) + product;
                close(y, expected, 1.01 * U * (expected.abs() + product.abs()), &what);
            }
            let mut scaled = a.clone();
            kernels.scale(-0.3, &mut scaled);
            assert!(scaled.iter().zip(&a).all(|(s, a)| s.to_bits() == (a * -0.3).to_bits()), "{what}");
            let halves: Vec<f16> = b.iter().map(|&b| f16::from_f32(b)).collect();
            let mut stored = vec![f16::ZERO; n];
            kernels.to_f16(&b, &mut stored);
            assert_eq!(stored, halves, "{what}");
        }
        let special = [65504.0, 65520.0, -1e9, 6e-8, 2e-8, f32::INFINITY, -0.0, 1.0 + 2f32.powi(-11)];
        let mut stored = [f16::ZERO; 8];
        kernels.to_f16(&special, &mut stored);
        assert_eq!(
            stored.map(f16::to_bits),
            [0x7bff, 0x7c00, 0xfc00, 1, 0, 0x7c00, 0x8000, 0x3c00],
            "{}",
            kernels.isa()
        );
    }
}

#[test]
fn norms() {
    let mut rng = Rng(2);
    for kernels in tiers() {
        for n in LENGTHS.into_iter().filter(|&n| n > 0) {
            let what = format!("{} {n}", kernels.isa());
            let (x, weight, bias) = (rng.floats(n), rng.floats(n), rng.floats(n));
            let (eps, len) = (1e-5f32, n as f64);
            let mut out = vec![0.0; n];
            kernels.rms_norm(&x, &weight, eps, &mut out);
            let wx = wide(&x);
            let inverse = 1.0 / (wx.iter().map(|x| x * x).sum::<f64>() / len + f64::from(eps)).sqrt();
            // Half of the error of the sum survives the root; seven more operations.
            let relative = (0.5 * (n.div_ceil(8) + 7) as f64 + 7.0) * U;
            for i in 0..n {
                let expected = wx[i] * inverse * f64::from(weight[i]);
                close(out[i], expected, relative * expected.abs(), &what);
            }
            kernels.layer_norm(&x, &weight, &bias, eps, &mut out);
            let mean = wx.iter().sum::<f64>() / len;
            let inverse =
                1.0 / (wx.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / len + f64::from(eps)).sqrt();
            // The mean is off by up to its roundings times the mean magnitude, at most 1; all is scaled by
            // `inverse`.
            let mean_error = (n.div_ceil(8) + 7) as f64 * U;
            for i in 0..n {
                let normal = (wx[i] - mean) * inverse;
                let expected = normal * f64::from(weight[i]) + f64::from(bias[i]);
                let error = (mean_error + U) * inverse * (1.0 + normal.abs()) + relative * normal.abs();
                close(
                    out[i],
                    expected,
                    2.0 * error * f64::from(weight[i]).abs() + 2.0 * U * (expected.abs() + 1.0),
                    &what,
                );
            }
        }
    }
}

/// Relative error of the exponential: 2 units in the last place, a unit being at most `2 U` of the value.
const EXP: f64 = 4.0 * U;

#[test]
fn gates_are_close() {
    for kernels in tiers() {
        let gate: Vec<f32> = (-20_000..20_000).map(|i| i as f32 * 0.0047).collect();
        let run = |f: &dyn Fn(&[f32], &mut [f32])| {
            let mut up = vec![1.0; gate.len()];
            f(&gate, &mut up);
            up
        };
        let (silu, gelu) = (run(&|g, u| kernels.silu_mul(g, u)), run(&|g, u| kernels.gelu_tanh_mul(g, u)));
        for (i, &g) in gate.iter().enumerate() {
            let what = format!("{} {g}", kernels.isa());
            let g = f64::from(g);
            // Below -88 the exponential overflows and the result is 0 instead of a value under 1e-36.
            let tiny = 1e-36;
            let expected = g / (1.0 + (-g).exp());
            close(silu[i], expected, (EXP + 4.0 * U) * expected.abs() + tiny, &format!("silu {what}"));
            let u = (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g * g * g);
            let expected = g / (1.0 + (-2.0 * u).exp());
            // An error in `u` (6 roundings, constants included) is one of `2u` times that in the exponential.
            let relative = EXP + 4.0 * U + 6.0 * U * (2.0 * u).abs();
            close(gelu[i], expected, relative * expected.abs() + tiny, &format!("gelu {what}"));
        }
        let special =
            [f32::NEG_INFINITY, f32::MIN, -200.0, -0.0, 0.0, 200.0, f32::MAX, f32::INFINITY, f32::NAN];
        for gelu in [false, true] {
            let mut up = [1.0; 9];
            if gelu {
                kernels.gelu_tanh_mul(&special, &mut up)
            } else {
                kernels.silu_mul(&special, &mut up)
            }
            assert!(up[..5].iter().all(|&v| v == 0.0), "{} {up:?}", kernels.isa());
            assert!(up[5..8] == special[5..8] && up[8].is_nan(), "{} {up:?}", kernels.isa());
        }
    }
}

/// Hidden layers, and therefore experts, have one set of bits, which a GPU can be compared with.
#[test]
fn gates_have_the_same_bits_on_every_tier() {
    let mut rng = Rng(6);
    let mut gate: Vec<f32> = (-30_000..30_000).map(|i| i as f32 * 0.0043).collect();
    gate.extend([
        f32::NEG_INFINITY,
        f32::MIN,
        -200.0,
        -1e-40,
        -0.0,
        0.0,
        1e-40,
        200.0,
        f32::MAX,
        f32::INFINITY,
    ]);
    let up = rng.floats(gate.len());
    let run = |kernels: &Kernels, gelu: bool| {
        let mut up = up.clone();
        if gelu {
            kernels.gelu_tanh_mul(&gate, &mut up)
        } else {
            kernels.silu_mul(&gate, &mut up)
        }
        bits(&up)
    };
    let scalar = Kernels::for_isa(Isa::Scalar).unwrap();
    for kernels in tiers() {
        for gelu in [false, true] {
            assert!(run(kernels, gelu) == run(scalar, gelu), "{}, gelu: {gelu}", kernels.isa());
        }
    }
}

/// A thread may take any part of a vector.
#[test]
fn elementwise_kernels_do_not_depend_on_how_slices_are_cut() {
    let mut rng = Rng(4);
    let (gate, up) = (rng.floats(100), rng.floats(100));
    for kernels in tiers() {
        let (mut whole, mut cut) = (up.clone(), up.clone());
        kernels.silu_mul(&gate, &mut whole);
        for (gate, up) in gate.chunks(13).zip(cut.chunks_mut(13)) {
            kernels.silu_mul(gate, up);
        }
        assert_eq!(bits(&whole), bits(&cut), "{}", kernels.isa());
        let (mut whole, mut cut) = (up.clone(), up.clone());
        kernels.axpy(0.3, &gate, &mut whole);
        for (gate, up) in gate.chunks(13).zip(cut.chunks_mut(13)) {
            kernels.axpy(0.3, gate, up);
        }
        assert_eq!(bits(&whole), bits(&cut), "{}", kernels.isa());
    }
}
