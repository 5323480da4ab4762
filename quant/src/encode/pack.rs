//! Codes to the bit layouts of the blocks: the inverse of the accessors in `decode`. It must not know floats.

/// 32 four-bit codes in 16 bytes: the low nibbles hold the first half, the high nibbles the second. Higher
/// bits of the codes are dropped.
pub(super) fn nibbles(codes: &[u8; 32]) -> [u8; 16] {
    let [first, second] = halves(codes);
    std::array::from_fn(|i| first[i] & 15 | second[i] << 4)
}

/// The two halves of 32 codes.
fn halves(codes: &[u8; 32]) -> [&[u8; 16]; 2] {
    let (halves, _) = codes.as_chunks();
    [&halves[0], &halves[1]]
}

/// Bit 4 of 32 codes in four bytes.
pub(super) fn fifth_bits(codes: &[u8; 32]) -> [u8; 4] {
    let mut bits = [0; 4];
    for (byte, codes) in bits.iter_mut().zip(codes.as_chunks::<8>().0) {
        let ones = u64::from_le_bytes(*codes) >> 4 & 0x0101_0101_0101_0101;
        // A power of two for each byte of `ones` moves it to its place in the top byte; no two meet
        // elsewhere.
        *byte = (ones.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8;
    }
    bits
}

/// 256 four-bit codes in 128 bytes: each 64 are 32 bytes, low nibbles first. Higher bits of the codes are
/// dropped.
pub(super) fn four_bits(codes: &[u8; 256]) -> [u8; 128] {
    let mut bytes = [0; 128];
    for (bytes, codes) in bytes.as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<64>().0) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = codes[i] & 15 | codes[i + 32] << 4;
        }
    }
    bytes
}

/// Bit `place` of 256 codes in 32 bytes: byte `i` holds those of the codes `i`, `i + 32`, ...
pub(super) fn bits_of(codes: &[u8; 256], place: u32) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (bit, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
        for (byte, code) in bytes.iter_mut().zip(codes) {
            *byte |= (code >> place & 1) << bit;
        }
    }
    bytes
}

/// 256 two-bit codes in 64 bytes: each 128 codes are 32 bytes at shifts 0, 2, 4, 6. Higher bits are
/// dropped.
pub(super) fn two_bits(codes: &[u8; 256]) -> [u8; 64] {
    let mut bytes = [0; 64];
    for (bytes, codes) in bytes.as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<128>().0) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = (0..4).fold(0, |byte, quarter| byte | (codes[i + 32 * quarter] & 3) << (2 * quarter));
        }
    }
    bytes
}

/// The 16 scales of a `Q3_K` block, 0..=63 (32 stands for zero): low nibbles in 8 bytes, high pairs in 4.
pub(super) fn q3_k_scales(scales: &[u8; 16]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..8 => scales[i] & 15 | scales[i + 8] << 4,
        _ => (0..4).fold(0, |byte, quarter| byte | scales[i - 8 + 4 * quarter] >> 4 << (2 * quarter)),
    })
}

/// 256 six-bit codes: the low nibbles in 128 bytes (each 128 codes are 64 bytes, low nibbles first), the
/// high pairs in 64 (each 128 codes are 32 bytes at shifts 0, 2, 4, 6).
pub(super) fn six_bits(codes: &[u8; 256]) -> ([u8; 128], [u8; 64]) {
    let (mut low, mut high) = ([0; 128], [0; 64]);
    for (half, codes) in codes.as_chunks::<128>().0.iter().enumerate() {
        for (i, byte) in low[half * 64..][..64].iter_mut().enumerate() {
            *byte = codes[i] & 15 | codes[i + 64] << 4;
        }
        for (i, byte) in high[half * 32..][..32].iter_mut().enumerate() {
            *byte =
                codes[i] >> 4 | codes[i + 32] >> 4 << 2 | codes[i + 64] >> 4 << 4 | codes[i + 96] >> 4 << 6;
        }
    }
    (low, high)
}

/// The 8 scales and 8 minima of a `Q4_K` or `Q5_K` block, 0..=63 each.
pub(super) fn k_scales(scales: &[u8; 8], minima: &[u8; 8]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..4 => scales[i] | scales[i + 4] >> 4 << 6,
        4..8 => minima[i - 4] | minima[i] >> 4 << 6,
        _ => scales[i - 4] & 15 | minima[i - 4] << 4,
    })
}

/// The 8 scales of an `IQ4_XS` block, 0..=63 (32 stands for zero): two bytes of high pairs, four of low
/// nibbles.
pub(super) fn iq4_xs_scales(scales: &[u8; 8]) -> [u8; 6] {
    let high = scales.iter().rev().fold(0u16, |high, scale| high << 2 | u16::from(scale >> 4));
    let [a, b] = high.to_le_bytes();
    let low = |i: usize| scales[2 * i] & 15 | scales[2 * i + 1] << 4;
    [a, b, low(0), low(1), low(2), low(3)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;

    #[test]
    fn scales_come_back() {
        for shift in 0..64 {
            let scales = std::array::from_fn(|i| (i as u8).wrapping_mul(37).wrapping_add(shift) % 64);
            let minima =
                std::array::from_fn(|i| (i as u8).wrapping_mul(11).wrapping_add(shift.wrapping_mul(5)) % 64);
            assert_eq!(decode::k_scales(&k_scales(&scales, &minima)), (scales, minima));
            let signed = scales.map(|scale| scale as i8 - 32);
            assert_eq!(decode::iq4_xs_scales(&iq4_xs_scales(&scales)), signed);
            let sixteen: [u8; 16] =
                std::array::from_fn(|i| (i as u8).wrapping_mul(29).wrapping_add(shift) % 64);
            assert_eq!(decode::q3_k_scales(&q3_k_scales(&sixteen)), sixteen.map(|scale| scale as i8 - 32));
        }
    }
}
