//! Kernels on floats in plain Rust; the compiler vectorises the eight-lane loops. It must not know formats.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::activations::BLOCK;
use crate::kernel::piece::{DEPTH, PieceProduct, TOKENS};

/// Accumulators per sum.
pub(super) const LANES: usize = 8;

/// What silu and gelu clamp their input to: both are 0 there in single precision, and minus infinity would
/// be NaN.
const GATE_MIN: f32 = -120.0;

pub(super) fn block(block: PieceProduct<'_>) {
    for r in 0..block.rows {
        let w = &block.w[r * DEPTH..][..block.depth];
        for t in 0..block.tokens {
            let acc = &mut block.acc[(r * TOKENS + t) * LANES..][..LANES];
            let mut lanes = [0.0; LANES];
            if !block.first {
                lanes.copy_from_slice(acc);
            }
            for (w, x) in w.chunks_exact(BLOCK).zip(block.x.chunks(block.x_stride)) {
                multiply_add(&mut lanes, w, &x[t * BLOCK..][..BLOCK]);
            }
            if block.last {
                block.out[t * block.out_stride + r] = sum(lanes);
            } else {
                acc.copy_from_slice(&lanes);
            }
        }
    }
}

/// `lanes[i % LANES] += a[i] * b[i]`, in ascending order.
fn multiply_add(lanes: &mut [f32; LANES], a: &[f32], b: &[f32]) {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for j in 0..LANES {
            lanes[j] += a[j] * b[j];
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += a * b;
    }
}

/// The lanes, added pairwise in a fixed order.
fn sum(l: [f32; LANES]) -> f32 {
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    multiply_add(&mut lanes, a, b);
    sum(lanes)
}

/// Half-precision values are widened this many at a time, on the stack.
const WIDEN: usize = 64;

pub(super) fn axpy(alpha: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += alpha * x;
    }
}

/// `y += alpha * x`, for attention.
pub(super) fn axpy_f16(alpha: f32, x: &[f16], y: &mut [f32]) {
    for (x, y) in x.chunks(WIDEN).zip(y.chunks_mut(WIDEN)) {
        let mut wide = [0.0; WIDEN];
        x.convert_to_f32_slice(&mut wide[..x.len()]);
        axpy(alpha, &wide[..x.len()], y);
    }
}

pub(super) fn to_f16(src: &[f32], dst: &mut [f16]) {
    dst.convert_from_f32_slice(src);
}

pub(super) fn scale(alpha: f32, x: &mut [f32]) {
    for x in x {
        *x *= alpha;
    }
}

pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let inverse = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * inverse * weight;
    }
}

pub(super) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let n = x.len() as f32;
    let mut lanes = [0.0; LANES];
    for x in x.chunks(LANES) {
        lanes.iter_mut().zip(x).for_each(|(lane, x)| *lane += x);
    }
    let mean = sum(lanes) / n;
    for (out, x) in out.iter_mut().zip(x) {
        *out = x - mean;
    }
    let inverse = 1.0 / (dot(out, out) / n + eps).sqrt();
    for ((out, weight), bias) in out.iter_mut().zip(weight).zip(bias) {
        *out = *out * inverse * weight + bias;
    }
}

/// `g`, but at least [`GATE_MIN`]; NaN stays.
fn clamp_gate(g: f32) -> f32 {
    if g < GATE_MIN { GATE_MIN } else { g }
}

pub(super) fn silu_mul(gate: &[f32], up: &mut [f32]) {
    for (up, &g) in up.iter_mut().zip(gate) {
        let g = clamp_gate(g);
        *up *= g / (1.0 + exp(0.0 - g));
    }
}

pub(super) fn gelu_tanh_mul(gate: &[f32], up: &mut [f32]) {
    let minus_two_c = -2.0 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
    for (up, &g) in up.iter_mut().zip(gate) {
        let g = clamp_gate(g);
        let cube = g * (g * g);
        let u = 0.044715_f32.mul_add(cube, g);
        *up *= g / (1.0 + exp(minus_two_c * u));
    }
}

/// The polynomial of `wide::vector::exp`, operation by operation, so that hidden layers have the same bits on
/// every tier.
fn exp(x: f32) -> f32 {
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // NaN stays.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 100.0 { 100.0 } else { x };
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-LN_2_HIGH, x);
    let r = n.mul_add(-LN_2_LOW, r);
    let coefficients = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let sum = coefficients.into_iter().fold(1.0_f32 / 5040.0, |sum, c| sum.mul_add(r, c));
    // In two steps, so that neither factor is out of range. Of NaN, `n as i32` is 0.
    let n = n as i32;
    let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    sum * power(n / 2) * power(n - n / 2)
}
