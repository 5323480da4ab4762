//! Quantised blocks as whole numbers, and what a product with int8 activations is: the scalar reference.
//! Every integer kernel gives the same bits as this file, on every tier and for any number of tokens.
//!
//! **The product.** Weights come in blocks of 32 codes `q` with a scale `s` and a minimum `m`
//! (`w = s q - m`), or in halves of 16 with a scale and a minimum each; activations in blocks of 32 codes
//! `a` with a scale `t` per token. In order of the blocks, and of the halves within them, all in single
//! precision with the marked steps rounded once:
//!
//! ```text
//! v   = float(sum q a) * s
//! v   = fma(float(-sum a), m, v)      formats with minima
//! out = fma(v, t, out)
//! ```
//!
//! The integer sums are exact: `|sum q a| <= 32 * 128 * 127 < 2^24`, so their floats are too. What the
//! bytes mean is `decode`: `s q - m` are its weights, bit for bit.

use half::f16;

use crate::activations::Activations;
use crate::decode::{
    E2M1_DOUBLED, IQ4_VALUES, e8m0_half, f32_at, iq4_xs_scales, k_scales, q1_0_code, q3_k_scales,
};
use crate::format::Format;
use crate::lattice;
use crate::matrix::QMatrix;

/// 32 weights: `scale[h] * code - min[h]` with `h = i / 16`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Piece {
    pub codes: [i8; 32],
    pub scale: [f32; 2],
    pub min: [f32; 2],
}

/// How the pieces of a format are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Scales are per 16 weights.
    pub halves: bool,
    /// There are minima.
    pub minima: bool,
}

impl Shape {
    pub(crate) const fn of(format: Format) -> Self {
        Self {
            halves: matches!(
                format,
                Format::Q2K
                    | Format::Q3K
                    | Format::Q6K
                    | Format::Iq1M
                    | Format::Iq2Xs
                    | Format::Iq2S
                    | Format::Nvfp4
                    | Format::Nvfp4F32
            ),
            minima: matches!(format, Format::Q4_1 | Format::Q5_1 | Format::Q2K | Format::Q4K | Format::Q5K),
        }
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Code `i` of 32 four-bit codes in 16 bytes.
fn nibble(qs: &[u8], i: usize) -> u8 {
    if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 }
}

/// 32 weights from one scale and minimum.
fn whole(scale: f32, min: f32, code: impl Fn(usize) -> i8) -> Piece {
    Piece { codes: std::array::from_fn(code), scale: [scale; 2], min: [min; 2] }
}

/// Piece `p` of a block of a format of tables.
fn coded(format: Format, b: &[u8], p: usize) -> Piece {
    let mut found = Piece { codes: [0; 32], scale: [0.0; 2], min: [0.0; 2] };
    lattice::each_piece(format, b, |index, piece| {
        if index == p {
            (found.codes, found.scale) = (piece.signed(), piece.scales);
        }
    });
    found
}

/// Piece `p` (weights `32 p ..`) of the block `b` of a quantised format.
///
/// # Panics
/// For plain floats, or if the block is short or has no such piece.
pub(crate) fn piece(format: Format, b: &[u8], p: usize) -> Piece {
    let d = |at| half_at(b, at);
    // Position of weight `i` of the piece in its block, and in the half blocks of 128 that some formats have.
    let at = |i: usize| p * 32 + i;
    let two_bits = |qs: usize, i: usize| b[qs + at(i) / 128 * 32 + i] >> (at(i) % 128 / 32 * 2) & 3;
    let four_bits = |qs: usize, i: usize| b[qs + at(i) / 64 * 32 + i] >> (at(i) % 64 / 32 * 4) & 15;
    let high_bit = |qh: usize, i: usize| b[qh + i] >> p & 1;
    let fifth = |qh: usize, i: usize| b[qh + i / 8] >> (i % 8) & 1;
    let k = |at: usize| k_scales(b[at..at + 12].as_array().expect("12 bytes"));
    match format {
        Format::F32 | Format::F16 | Format::BF16 | Format::F8 => panic!("{format} has no codes"),
        Format::Q4_0 => whole(d(0), 0.0, |i| nibble(&b[2..], i) as i8 - 8),
        Format::Q4_1 => whole(d(0), -d(2), |i| nibble(&b[4..], i) as i8),
        Format::Q5_0 => whole(d(0), 0.0, |i| (nibble(&b[6..], i) | fifth(2, i) << 4) as i8 - 16),
        Format::Q5_1 => whole(d(0), -d(2), |i| (nibble(&b[8..], i) | fifth(4, i) << 4) as i8),
        Format::Q8_0 => whole(d(0), 0.0, |i| b[2 + i] as i8),
        Format::Q2K => Piece {
            codes: std::array::from_fn(|i| two_bits(16, i) as i8),
            scale: [0, 1].map(|h| d(80) * f32::from(b[2 * p + h] & 15)),
            min: [0, 1].map(|h| d(82) * f32::from(b[2 * p + h] >> 4)),
        },
        Format::Q3K => {
            let scales = q3_k_scales(b[96..108].as_array().expect("12 bytes"));
            Piece {
                codes: std::array::from_fn(|i| (two_bits(32, i) | high_bit(0, i) << 2) as i8 - 4),
                scale: [0, 1].map(|h| d(108) * f32::from(scales[2 * p + h])),
                min: [0.0; 2],
            }
        }
        Format::Q4K => {
            let (scales, minima) = k(4);
            whole(d(0) * f32::from(scales[p]), d(2) * f32::from(minima[p]), |i| four_bits(16, i) as i8)
        }
        Format::Q5K => {
            let (scales, minima) = k(4);
            let code = |i| (four_bits(48, i) | high_bit(16, i) << 4) as i8;
            whole(d(0) * f32::from(scales[p]), d(2) * f32::from(minima[p]), code)
        }
        Format::Q6K => Piece {
            codes: std::array::from_fn(|i| {
                let low = b[at(i) / 128 * 64 + at(i) % 64] >> (at(i) % 128 / 64 * 4) & 15;
                (low | two_bits(128, i) << 4) as i8 - 32
            }),
            scale: [0, 1].map(|h| d(208) * f32::from(b[192 + 2 * p + h] as i8)),
            min: [0.0; 2],
        },
        Format::Iq4Nl => whole(d(0), 0.0, |i| IQ4_VALUES[usize::from(nibble(&b[2..], i))]),
        Format::Iq4Xs => {
            let scales = iq4_xs_scales(b[2..8].as_array().expect("6 bytes"));
            let scale = d(0) * f32::from(scales[p]);
            whole(scale, 0.0, |i| IQ4_VALUES[usize::from(nibble(&b[8 + p * 16..], i))])
        }
        Format::Mxfp4 => whole(e8m0_half(b[0]), 0.0, |i| E2M1_DOUBLED[usize::from(nibble(&b[1..], i))]),
        Format::Tq2_0 => whole(d(64), 0.0, |i| two_bits(0, i) as i8 - 1),
        Format::Q1_0 => whole(d(0), 0.0, |i| q1_0_code(b, at(i))),
        Format::Q8K => whole(f32_at(b, 0), 0.0, |i| b[4 + at(i)] as i8),
        Format::Iq1S
        | Format::Iq1M
        | Format::Iq2Xxs
        | Format::Iq2Xs
        | Format::Iq2S
        | Format::Iq3Xxs
        | Format::Iq3S
        | Format::Tq1_0
        | Format::Nvfp4
        | Format::Nvfp4F32 => coded(format, b, p),
    }
}

/// Outputs of row `row` of a product of a quantised matrix with `Q8` activations, for each token in its
/// order.
pub(crate) fn row_product<'o>(
    w: QMatrix<'_>,
    row: usize,
    x: Activations<'_>,
    out: impl Iterator<Item = &'o mut f32>,
) {
    let (format, shape) = (w.format(), Shape::of(w.format()));
    let bytes = w.row(row);
    let pieces = format.block_len() / 32;
    for (token, out) in out.enumerate() {
        *out = 0.0;
        for (unit, bytes) in bytes.chunks_exact(format.block_bytes()).enumerate() {
            for p in 0..pieces {
                let (codes, scale) = x.codes(unit * pieces + p, token);
                add_piece(shape, &piece(format, bytes, p), &codes, scale, out);
            }
        }
    }
}

/// Adds a piece times one token's codes.
fn add_piece(shape: Shape, piece: &Piece, codes: &[i8; 32], scale: f32, out: &mut f32) {
    let mut add = |range: std::ops::Range<usize>, h: usize| {
        let (q, a) = (&piece.codes[range.clone()], &codes[range]);
        let dot: i32 = q.iter().zip(a).map(|(&q, &a)| i32::from(q) * i32::from(a)).sum();
        let mut v = dot as f32 * piece.scale[h];
        if shape.minima {
            let minus_sum: i32 = a.iter().map(|&a| -i32::from(a)).sum();
            v = (minus_sum as f32).mul_add(piece.min[h], v);
        }
        *out = v.mul_add(scale, *out);
    };
    if shape.halves {
        add(0..16, 0);
        add(16..32, 1);
    } else {
        add(0..32, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;

    /// Random bytes are blocks of every format, so the two readings must agree on all of them.
    #[test]
    fn codes_and_scales_are_the_decoded_weights() {
        let mut state = 7u64;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        for format in Format::ALL.into_iter().filter(|f| !f.is_float()) {
            for _ in 0..200 {
                let block: Vec<u8> = (0..format.block_bytes()).map(|_| byte()).collect();
                let mut weights = vec![0.0; format.block_len()];
                decode(format, &block, &mut weights);
                for (i, &weight) in weights.iter().enumerate() {
                    let piece = piece(format, &block, i / 32);
                    let (i, h) = (i % 32, i % 32 / 16);
                    let scaled = piece.scale[h] * f32::from(piece.codes[i]);
                    let value = if Shape::of(format).minima { scaled - piece.min[h] } else { scaled };
                    let same = value.to_bits() == weight.to_bits() || value.is_nan() && weight.is_nan();
                    assert!(same, "{format}: {value}, not {weight}");
                }
            }
        }
    }
}
