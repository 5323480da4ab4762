//! Rows of numbers of four and eight bits that folders and files keep with scales beside them, as the blocks
//! that products take. It must not know where rows and scales come from.

use std::sync::LazyLock;

use moelten_quant::Format;

/// E4M3 numbers of a row as blocks with a scale, or as floats where a row is no whole number of blocks.
pub(super) fn write_eights(format: Format, codes: &[u8], scale: impl Fn(usize) -> f32, to: &mut [u8]) {
    if format == Format::F8 {
        let blocks = to.chunks_exact_mut(format.block_bytes());
        for (b, (to, codes)) in blocks.zip(codes.chunks_exact(32)).enumerate() {
            to[..4].copy_from_slice(&scale(32 * b).to_le_bytes());
            to[4..].copy_from_slice(codes);
        }
        return;
    }
    for (column, (to, &code)) in to.chunks_exact_mut(4).zip(codes).enumerate() {
        let value = EIGHT_BITS[usize::from(code)] * scale(column);
        to.copy_from_slice(&value.to_le_bytes());
    }
}

/// Every E4M3 number.
pub(super) static EIGHT_BITS: LazyLock<[f32; 256]> = LazyLock::new(|| {
    let mut values = [0.0; 256];
    for (b, values) in values.chunks_exact_mut(32).enumerate() {
        let mut block = [0; 36];
        block[..4].copy_from_slice(&1.0_f32.to_le_bytes());
        for (code, i) in block[4..].iter_mut().zip(0..) {
            *code = 32 * b as u8 + i;
        }
        moelten_quant::decode(Format::F8, &block, values);
    }
    values
});

/// Pairs of neighbours as MXFP4 blocks, whose bytes hold number `j` and number `j + 16`.
pub(super) fn write_fours(codes: &[u8], powers: &[u8], to: &mut [u8]) {
    let blocks = to.chunks_exact_mut(Format::Mxfp4.block_bytes()).zip(codes.as_chunks::<16>().0);
    for ((to, codes), &power) in blocks.zip(powers) {
        to[0] = power;
        let (first, second) = codes.split_at(8);
        for (to, (a, b)) in to[1..].chunks_exact_mut(2).zip(first.iter().zip(second)) {
            to[0] = a & 15 | b << 4;
            to[1] = a >> 4 | b & 0xf0;
        }
    }
}

/// Pairs of neighbours with an E4M3 scale for each 16, as NVFP4 blocks behind the scale of the whole matrix,
/// or as floats where a row is no whole number of blocks.
pub(super) fn write_sixteens(format: Format, whole: f32, codes: &[u8], scales: &[u8], to: &mut [u8]) {
    let (codes, _) = codes.as_chunks::<8>();
    if format == Format::Nvfp4F32 {
        let blocks = to.chunks_exact_mut(40).zip(codes.chunks_exact(4).zip(scales.chunks_exact(4)));
        blocks.for_each(|(to, (codes, scales))| write_block(whole, codes, scales, to));
        return;
    }
    for ((to, codes), scale) in to.chunks_exact_mut(4 * 16).zip(codes).zip(scales) {
        let (mut block, mut values) = ([0; 40], [0.0; 64]);
        write_block(whole, std::slice::from_ref(codes), std::slice::from_ref(scale), &mut block);
        moelten_quant::decode(Format::Nvfp4F32, &block, &mut values);
        for (to, value) in to.as_chunks_mut::<4>().0.iter_mut().zip(values) {
            *to = value.to_le_bytes();
        }
    }
}

/// Groups of 16 numbers, whose blocks hold number `j` and number `j + 8` in a byte.
fn write_block(whole: f32, codes: &[[u8; 8]], scales: &[u8], to: &mut [u8]) {
    let nan = scales.iter().any(|scale| scale & 0x7f == 0x7f);
    to[..4].copy_from_slice(&if nan { f32::NAN } else { whole }.to_le_bytes());
    let (of_groups, groups) = to[4..].split_at_mut(4);
    for ((group, codes), (of_group, scale)) in
        groups.as_chunks_mut::<8>().0.iter_mut().zip(codes).zip(of_groups.iter_mut().zip(scales))
    {
        // Scales of blocks have no sign: that of the numbers takes its place.
        let signs = if scale & 0x80 == 0 { 0 } else { 0x88 };
        // This number stands for zero in blocks, and what it scales is not a number.
        *of_group = if scale & 0x7f == 0x7f { 0x38 } else { scale & 0x7f };
        let (first, second) = codes.split_at(4);
        for (to, (a, b)) in group.as_chunks_mut::<2>().0.iter_mut().zip(first.iter().zip(second)) {
            *to = [(a & 15 | b << 4) ^ signs, (a >> 4 | b & 0xf0) ^ signs];
        }
    }
}

/// NVFP4 blocks of a row behind the scale of the whole matrix.
pub(super) fn write_blocks(whole: f32, blocks: &[u8], to: &mut [u8]) {
    for (to, block) in to.chunks_exact_mut(40).zip(blocks.chunks_exact(36)) {
        to[..4].copy_from_slice(&whole.to_le_bytes());
        to[4..].copy_from_slice(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number `i` of a row: its code, and the scale of its 16.
    fn row(count: usize, scale: impl Fn(usize) -> u8) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let codes: Vec<u8> = (0..count).map(|i| (i * 7 % 16) as u8).collect();
        let pairs = codes.chunks_exact(2).map(|pair| pair[0] | pair[1] << 4).collect();
        (codes, pairs, (0..count / 16).map(scale).collect())
    }

    /// By the words of the formats; the scale may be negative.
    fn value(whole: f32, code: u8, scale: u8) -> f32 {
        let e2m1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        let sign = if code < 8 { 1.0 } else { -1.0 };
        e2m1[usize::from(code & 7)] * sign * (EIGHT_BITS[usize::from(scale)] * whole)
    }

    #[test]
    fn groups_of_sixteen_become_blocks_or_floats() {
        let scale = |group: usize| [0x38, 0x01, 0x7e, 0xb9, 0x00, 0x42][group % 6];
        for (format, count) in [(Format::Nvfp4F32, 192), (Format::F32, 96)] {
            let (codes, pairs, scales) = row(count, scale);
            let mut bytes = vec![0; format.row_bytes(count).unwrap()];
            write_sixteens(format, -0.3, &pairs, &scales, &mut bytes);
            let mut values = vec![0.0; count];
            moelten_quant::decode(format, &bytes, &mut values);
            for (i, got) in values.into_iter().enumerate() {
                assert_eq!(got, value(-0.3, codes[i], scales[i / 16]), "{format} {i}");
            }
        }
    }

    /// What is not a number stays that, and is found where numbers are checked.
    #[test]
    fn scales_that_are_no_numbers_are_not_hidden() {
        for nan in [0x7f, 0xff] {
            let (_, pairs, scales) = row(64, |group| if group == 2 { nan } else { 0x38 });
            let mut bytes = [0; 40];
            write_sixteens(Format::Nvfp4F32, 1.0, &pairs, &scales, &mut bytes);
            let mut values = [0.0; 64];
            moelten_quant::decode(Format::Nvfp4F32, &bytes, &mut values);
            assert!(values[32..48].iter().all(|value| value.is_nan()), "{values:?}");
        }
    }
}
