//! Block bytes to floats: the scalar reference, and with it the meaning of each format. Every vector kernel
//! is tested for equality with this file, bit by bit, so the order of the float operations here is part of
//! the format.
//!
//! Layouts and operation order follow the ggml block formats as published with the GGUF specification;
//! MXFP4 is the OCP Microscaling Formats specification 1.0. It must not know rows, matrices or instruction
//! sets.

use half::f16;

use crate::format::Format;
use crate::lattice;
pub(crate) use crate::lattice::E2M1_DOUBLED;

/// The 16 values of `IQ4_NL` and `IQ4_XS`: denser near zero, as weights are.
pub(crate) const IQ4_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Decodes whole blocks: `bytes` holds `out.len()` weights of `format`.
///
/// A non-finite scale in the bytes gives non-finite weights; nothing else is possible with any input bytes.
///
/// # Panics
/// If `out.len()` is not a whole number of blocks or `bytes` is not exactly as long as they are.
pub fn decode(format: Format, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        format.row_bytes(out.len()),
        Some(bytes.len()),
        "decode: {} weights of {format} do not match {} bytes",
        out.len(),
        bytes.len()
    );
    match format {
        Format::F32 => each::<4, 1>(bytes, out, |b, y| y[0] = f32::from_le_bytes(*b)),
        Format::F16 => each::<2, 1>(bytes, out, |b, y| y[0] = half_at(b, 0)),
        Format::BF16 => each::<2, 1>(bytes, out, |b, y| y[0] = half::bf16::from_le_bytes(*b).to_f32()),
        Format::Q4_0 => each(bytes, out, q4_0),
        Format::Q4_1 => each(bytes, out, q4_1),
        Format::Q5_0 => each(bytes, out, q5_0),
        Format::Q5_1 => each(bytes, out, q5_1),
        Format::Q8_0 => each(bytes, out, q8_0),
        Format::Q2K => each(bytes, out, q2_k),
        Format::Q3K => each(bytes, out, q3_k),
        Format::Q4K => each(bytes, out, q4_k),
        Format::Q5K => each(bytes, out, q5_k),
        Format::Q6K => each(bytes, out, q6_k),
        Format::Iq4Nl => each(bytes, out, iq4_nl),
        Format::Iq4Xs => each(bytes, out, iq4_xs),
        Format::Mxfp4 => each(bytes, out, mxfp4),
        Format::Tq2_0 => each(bytes, out, tq2_0),
        Format::Q1_0 => each(bytes, out, q1_0),
        Format::Q8K => each(bytes, out, q8_k),
        Format::F8 => each(bytes, out, f8),
        Format::Iq1S
        | Format::Iq1M
        | Format::Iq2Xxs
        | Format::Iq2Xs
        | Format::Iq2S
        | Format::Iq3Xxs
        | Format::Iq3S
        | Format::Tq1_0
        | Format::Nvfp4
        | Format::Nvfp4F32 => lattice::each_piece(format, bytes, |index, piece| {
            let out = &mut out[index * 32..][..32];
            for (i, (y, code)) in out.iter_mut().zip(piece.signed()).enumerate() {
                *y = piece.scales[i / 16] * f32::from(code);
            }
        }),
    }
}

/// Runs `block` on each pair of `B` bytes and `N` weights. The lengths were checked by [`decode`].
fn each<const B: usize, const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; B], &mut [f32; N]),
) {
    for (b, y) in bytes.as_chunks::<B>().0.iter().zip(out.as_chunks_mut::<N>().0) {
        block(b, y);
    }
}

/// The half-precision number at byte `at`.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Code `i` of 32 four-bit codes in 16 bytes: the low nibbles hold the first half, the high nibbles the
/// second.
fn nibble(qs: &[u8], i: usize) -> u8 {
    if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 }
}

/// `d: f16 | 16 x nibbles`, `w = d * (q - 8)`.
fn q4_0(b: &[u8; 18], y: &mut [f32; 32]) {
    let d = half_at(b, 0);
    for (i, y) in y.iter_mut().enumerate() {
        *y = d * f32::from(nibble(&b[2..], i) as i8 - 8);
    }
}

/// `d: f16 | m: f16 | 16 x nibbles`, `w = d * q + m`.
fn q4_1(b: &[u8; 20], y: &mut [f32; 32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    for (i, y) in y.iter_mut().enumerate() {
        *y = d * f32::from(nibble(&b[4..], i)) + m;
    }
}

/// Bit 4 of code `i`, from four bytes of high bits.
fn fifth_bit(qh: &[u8], i: usize) -> u8 {
    (qh[i / 8] >> (i % 8) & 1) << 4
}

/// `d: f16 | 32 high bits | 16 x nibbles`, `w = d * (q - 16)`.
fn q5_0(b: &[u8; 22], y: &mut [f32; 32]) {
    let d = half_at(b, 0);
    for (i, y) in y.iter_mut().enumerate() {
        *y = d * f32::from((nibble(&b[6..], i) | fifth_bit(&b[2..], i)) as i8 - 16);
    }
}

/// `d: f16 | m: f16 | 32 high bits | 16 x nibbles`, `w = d * q + m`.
fn q5_1(b: &[u8; 24], y: &mut [f32; 32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    for (i, y) in y.iter_mut().enumerate() {
        *y = d * f32::from(nibble(&b[8..], i) | fifth_bit(&b[4..], i)) + m;
    }
}

/// `d: f16 | 32 x i8`, `w = d * q`.
fn q8_0(b: &[u8; 34], y: &mut [f32; 32]) {
    let d = half_at(b, 0);
    for (y, &q) in y.iter_mut().zip(&b[2..]) {
        *y = f32::from(q as i8) * d;
    }
}

/// `16 x (scale: low nibble, min: high nibble) | 64 x four 2-bit codes | d: f16 | dmin: f16`,
/// `w = (d * scale) * q - (dmin * min)`, a scale for each 16 weights.
fn q2_k(b: &[u8; 84], y: &mut [f32; 256]) {
    let (scales, qs) = (&b[..16], &b[16..80]);
    let (d, dmin) = (half_at(b, 80), half_at(b, 82));
    for (i, y) in y.iter_mut().enumerate() {
        let scale = scales[i / 16];
        *y = (d * f32::from(scale & 15)) * f32::from(two_bits(qs, i)) - dmin * f32::from(scale >> 4);
    }
}

/// Code `i` of 256 two-bit codes in 64 bytes: each half of the block is 32 bytes read at shifts 0, 2, 4, 6.
fn two_bits(qs: &[u8], i: usize) -> u8 {
    qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

/// `32 x eight high bits | 64 x four 2-bit codes | 12 bytes: 16 scales of 6 bits | d: f16`,
/// `w = (d * scale) * (q - 4 unless the high bit is set)`, a scale for each 16 weights.
fn q3_k(b: &[u8; 110], y: &mut [f32; 256]) {
    let (high, qs) = (&b[..32], &b[32..96]);
    let scales = q3_k_scales(b[96..108].as_array().expect("12 bytes"));
    let d = half_at(b, 108);
    for (i, y) in y.iter_mut().enumerate() {
        let minus = if high[i % 32] >> (i / 32) & 1 == 1 { 0 } else { 4 };
        *y = (d * f32::from(scales[i / 16])) * f32::from(two_bits(qs, i) as i8 - minus);
    }
}

/// The 16 scales of a `Q3_K` block, -32..=31: low nibbles in the first 8 bytes, high pairs in the last 4.
pub(crate) fn q3_k_scales(packed: &[u8; 12]) -> [i8; 16] {
    let [a, b, c] = words(packed);
    let mut scales = [0; 16];
    for (part, (low, high)) in
        [(a, c), (b, c >> 2), (a >> 4, c >> 4), (b >> 4, c >> 6)].into_iter().enumerate()
    {
        let six_bits = low & 0x0f0f_0f0f | (high & 0x0303_0303) << 4;
        for (s, byte) in scales[part * 4..].iter_mut().zip(six_bits.to_le_bytes()) {
            *s = byte as i8 - 32;
        }
    }
    scales
}

/// The 8 scales and 8 minima of a `Q4_K` or `Q5_K` block, 0..=63 each.
pub(crate) fn k_scales(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let [a, b, c] = words(packed);
    let pack = |low: u32, high: u32| (u64::from(low) | u64::from(high) << 32).to_le_bytes();
    let scales = pack(a & 0x3f3f_3f3f, c & 0x0f0f_0f0f | a >> 2 & 0x3030_3030);
    let minima = pack(b & 0x3f3f_3f3f, c >> 4 & 0x0f0f_0f0f | b >> 2 & 0x3030_3030);
    (scales, minima)
}

/// Twelve bytes as three little-endian words, so that four 6-bit fields are taken apart at once.
fn words(packed: &[u8; 12]) -> [u32; 3] {
    let mut words = [0; 3];
    for (w, bytes) in words.iter_mut().zip(packed.as_chunks::<4>().0) {
        *w = u32::from_le_bytes(*bytes);
    }
    words
}

/// `d: f16 | dmin: f16 | 12 bytes: 8 scales, 8 minima of 6 bits | 128 x nibbles`,
/// `w = (d * scale) * q - (dmin * min)`, a scale for each 32 weights.
fn q4_k(b: &[u8; 144], y: &mut [f32; 256]) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    let (scales, minima) = k_scales(b[4..16].as_array().expect("12 bytes"));
    for (i, y) in y.iter_mut().enumerate() {
        let q = four_bits(&b[16..], i);
        *y = (d * f32::from(scales[i / 32])) * f32::from(q) - dmin * f32::from(minima[i / 32]);
    }
}

/// Code `i` of 256 four-bit codes in 128 bytes: each 64 weights are 32 bytes, low nibbles first.
fn four_bits(qs: &[u8], i: usize) -> u8 {
    qs[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15
}

/// `d: f16 | dmin: f16 | 12 bytes: 8 scales, 8 minima of 6 bits | 32 x eight high bits | 128 x nibbles`,
/// `w = (d * scale) * q - (dmin * min)`, a scale for each 32 weights.
fn q5_k(b: &[u8; 176], y: &mut [f32; 256]) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    let (scales, minima) = k_scales(b[4..16].as_array().expect("12 bytes"));
    for (i, y) in y.iter_mut().enumerate() {
        let high = b[16 + i % 32] >> (i / 32) & 1;
        let q = four_bits(&b[48..], i) | high << 4;
        *y = (d * f32::from(scales[i / 32])) * f32::from(q) - dmin * f32::from(minima[i / 32]);
    }
}

/// `128 x low nibbles | 64 x four high pairs | 16 x i8 scale | d: f16`, `w = (d * scale) * (q - 32)`, a
/// scale for each 16 weights.
fn q6_k(b: &[u8; 210], y: &mut [f32; 256]) {
    let (low, high, scales) = (&b[..128], &b[128..192], &b[192..208]);
    let d = half_at(b, 208);
    for (i, y) in y.iter_mut().enumerate() {
        let q = low[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15 | two_bits(high, i) << 4;
        *y = (d * f32::from(scales[i / 16] as i8)) * f32::from(q as i8 - 32);
    }
}

/// `d: f16 | 16 x nibbles`, `w = d * table[q]`.
fn iq4_nl(b: &[u8; 18], y: &mut [f32; 32]) {
    let d = half_at(b, 0);
    for (i, y) in y.iter_mut().enumerate() {
        *y = d * f32::from(IQ4_VALUES[usize::from(nibble(&b[2..], i))]);
    }
}

/// `d: f16 | 8 x high pair | 8 x low nibble (scales, 6 bits) | 8 x 16 nibbles`,
/// `w = (d * (scale - 32)) * table[q]`, a scale for each 32 weights.
fn iq4_xs(b: &[u8; 136], y: &mut [f32; 256]) {
    let d = half_at(b, 0);
    let scales = iq4_xs_scales(b[2..8].as_array().expect("6 bytes"));
    for (i, y) in y.iter_mut().enumerate() {
        let q = nibble(&b[8 + i / 32 * 16..], i % 32);
        *y = (d * f32::from(scales[i / 32])) * f32::from(IQ4_VALUES[usize::from(q)]);
    }
}

/// The 8 scales of an `IQ4_XS` block, -32..=31: two bytes of high pairs, four bytes of low nibbles.
pub(crate) fn iq4_xs_scales(packed: &[u8; 6]) -> [i8; 8] {
    let high = u16::from_le_bytes([packed[0], packed[1]]);
    std::array::from_fn(|i| {
        let low = packed[2 + i / 2] >> (i % 2 * 4) & 15;
        (low | ((high >> (2 * i)) as u8 & 3) << 4) as i8 - 32
    })
}

/// `e: E8M0 | 16 x nibbles`, `w = 2^(e - 128) * doubled(q)`.
fn mxfp4(b: &[u8; 17], y: &mut [f32; 32]) {
    let d = e8m0_half(b[0]);
    for (i, y) in y.iter_mut().enumerate() {
        *y = d * f32::from(E2M1_DOUBLED[usize::from(nibble(&b[1..], i))]);
    }
}

/// Half of the E8M0 scale `2^(e - 127)`. The two smallest results are subnormal; 255, NaN in the
/// specification, is read as the power of two that it would be, as ggml does.
pub(crate) fn e8m0_half(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (u32::from(e) - 1) << 23 })
}

/// `64 x four 2-bit codes | d: f16`, `w = d * (q - 1)`.
fn tq2_0(b: &[u8; 66], y: &mut [f32; 256]) {
    let d = half_at(b, 64);
    for (i, y) in y.iter_mut().enumerate() {
        *y = d * f32::from(two_bits(b, i) as i8 - 1);
    }
}

/// `d: f16 | 128 bits`, `w = d` where the bit is set, else `-d`.
fn q1_0(b: &[u8; 18], y: &mut [f32; 128]) {
    let d = half_at(b, 0);
    for (i, y) in y.iter_mut().enumerate() {
        *y = d * f32::from(q1_0_code(b, i));
    }
}

/// Code `i` of a `Q1_0` block: 1 or -1.
pub(crate) fn q1_0_code(b: &[u8], i: usize) -> i8 {
    (b[2 + i / 8] >> (i % 8) & 1) as i8 * 2 - 1
}

/// `d: f32 | 256 x i8 | 16 x i16: sums`, `w = d * q`.
fn q8_k(b: &[u8; 292], y: &mut [f32; 256]) {
    let d = f32_at(b, 0);
    for (y, &q) in y.iter_mut().zip(&b[4..]) {
        *y = d * f32::from(q as i8);
    }
}

/// The single-precision number at byte `at`.
pub(crate) fn f32_at(block: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// `d: f32 | 32 x E4M3`, `w = d * q`.
fn f8(b: &[u8; 36], y: &mut [f32; 32]) {
    let d = f32_at(b, 0);
    for (y, &q) in y.iter_mut().zip(&b[4..]) {
        *y = E4M3[usize::from(q)] * d;
    }
}

/// Every E4M3 number (OCP OFP8 1.0, the form without infinities).
pub(crate) static E4M3: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut i = 0;
    while i < 256 {
        let (exponent, mantissa) = (i >> 3 & 15, i & 7);
        let magnitude = match (exponent, mantissa) {
            (15, 7) => f32::NAN,
            // 2^-9 and its multiples.
            (0, _) => mantissa as f32 / 512.0,
            // The exponent is that of single precision less 120.
            _ => f32::from_bits(((exponent + 120) << 23 | mantissa << 20) as u32),
        };
        values[i] = if i < 128 { magnitude } else { -magnitude };
        i += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bit_floats_are_those_of_the_specification() {
        let e4m3 = |bits: usize| E4M3[bits];
        // Table 2 of OFP8 1.0: the largest, one, the smallest normal, the largest and smallest subnormal.
        let known = [(0x7e, 448.0), (0x38, 1.0), (0x08, 2f32.powi(-6)), (0x07, 0.875 * 2f32.powi(-6))];
        for (bits, value) in known.into_iter().chain([(0x01, 2f32.powi(-9)), (0x00, 0.0)]) {
            assert_eq!((e4m3(bits), e4m3(bits | 0x80)), (value, -value), "{bits:#x}");
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        assert!((0..0x7e).all(|bits| e4m3(bits) < e4m3(bits + 1)));
    }
}
