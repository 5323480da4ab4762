//! The interleaved layout: the order in which kernels like to read a matrix. It must not know what is done with it.
//!
//! Sixteen rows stand together, block by block. A block of sixteen rows takes sixteen times the bytes of one, and a field
//! at offset `o` of the stock block is at offset `16 o`: first the first four bytes of the field of each row, then the next
//! four, and so on; fields of one or two bytes (a lone scale) stand row by row likewise. So a kernel reads one run of memory
//! from the beginning to the end, and every load is a vector with a row in each lane, for 16, 8 or 4 lanes. No byte is
//! added, changed or lost.

use crate::Format;

/// Rows that stand together.
const ROWS: usize = 16;

/// Whether a matrix of that many rows can be interleaved: quantised rows in whole sixteens.
pub fn can_interleave(format: Format, rows: usize) -> bool {
    format.block_len() > 1 && rows.is_multiple_of(ROWS)
}

/// Offset and width of the fields of a block that are not four bytes wide; all other bytes are words.
const fn narrow_fields(format: Format) -> &'static [(usize, usize)] {
    match format {
        Format::F32 | Format::F16 | Format::BF16 | Format::Iq4Xs => &[],
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::Iq4Nl => &[(0, 2)],
        Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[(0, 2), (2, 2)],
        Format::Q2K => &[(80, 2), (82, 2)],
        Format::Q3K => &[(108, 2)],
        Format::Q6K => &[(208, 2)],
        Format::Mxfp4 => &[(0, 1)],
    }
}

/// Calls `field(offset, width)` for each field of a block.
fn for_each_field(format: Format, mut field: impl FnMut(usize, usize)) {
    let mut offset = 0;
    while offset < format.block_bytes() {
        let narrow = narrow_fields(format).iter().find(|(at, _)| *at == offset);
        let width = narrow.map_or(4, |&(_, width)| width);
        field(offset, width);
        offset += width;
    }
}

/// Interleaves rows of `row_bytes` bytes.
///
/// # Panics
/// If they cannot be ([`can_interleave`]), or the lengths disagree.
pub fn interleave(format: Format, row_bytes: usize, rows: &[u8], out: &mut [u8]) {
    check(format, row_bytes, rows.len(), out.len());
    let (block, group) = (format.block_bytes(), ROWS * row_bytes);
    for (rows, out) in rows.chunks_exact(group).zip(out.chunks_exact_mut(group)) {
        for (b, out) in out.chunks_exact_mut(ROWS * block).enumerate() {
            for_each_field(format, |offset, width| {
                let out = &mut out[ROWS * offset..][..ROWS * width];
                for (row, out) in rows.chunks_exact(row_bytes).zip(out.chunks_exact_mut(width)) {
                    copy_field(&row[b * block + offset..][..width], out);
                }
            });
        }
    }
}

/// The way back: rows of `row_bytes` bytes, one after the other, out of what [`interleave`] wrote.
///
/// # Panics
/// As [`interleave`].
pub fn deinterleave(format: Format, row_bytes: usize, interleaved: &[u8], out: &mut [u8]) {
    check(format, row_bytes, interleaved.len(), out.len());
    let (block, group) = (format.block_bytes(), ROWS * row_bytes);
    for (interleaved, out) in interleaved.chunks_exact(group).zip(out.chunks_exact_mut(group)) {
        for (b, blocks) in interleaved.chunks_exact(ROWS * block).enumerate() {
            for_each_field(format, |offset, width| {
                let fields = &blocks[ROWS * offset..][..ROWS * width];
                for (field, row) in fields.chunks_exact(width).zip(out.chunks_exact_mut(row_bytes)) {
                    copy_field(field, &mut row[b * block + offset..][..width]);
                }
            });
        }
    }
}

fn check(format: Format, row_bytes: usize, len: usize, out_len: usize) {
    let block = format.block_bytes();
    assert!(row_bytes > 0 && row_bytes.is_multiple_of(block), "interleave: rows of {row_bytes} bytes");
    assert!(can_interleave(format, len / row_bytes) && len == out_len, "interleave: lengths");
}

/// Most fields are words: one load and one store.
fn copy_field(field: &[u8], out: &mut [u8]) {
    match (out.as_mut_array::<4>(), field.as_array::<4>()) {
        (Some(out), Some(field)) => *out = *field,
        _ => out.copy_from_slice(field),
    }
}

/// Row `row` of sixteen interleaved ones.
pub(crate) fn one_row(format: Format, group: &[u8], row: usize, out: &mut [u8]) {
    let block = format.block_bytes();
    for (group, out) in group.chunks_exact(ROWS * block).zip(out.chunks_exact_mut(block)) {
        for_each_field(format, |offset, width| {
            let field = &group[ROWS * offset + row * width..][..width];
            out[offset..offset + width].copy_from_slice(field);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::QMatrix;

    #[test]
    fn rows_come_back_byte_for_byte() {
        let mut state = 1u32;
        for format in Format::ALL.into_iter().filter(|f| f.block_len() > 1) {
            let cols = 512;
            let row_bytes = format.row_bytes(cols).unwrap();
            let rows: Vec<u8> = (0..32 * row_bytes)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            let mut packed = vec![0; rows.len()];
            interleave(format, row_bytes, &rows, &mut packed);
            assert_ne!(packed, rows);
            let mut back = vec![0; rows.len()];
            deinterleave(format, row_bytes, &packed, &mut back);
            assert!(back == rows, "{format}");
            let matrix = QMatrix::interleaved(format, 32, cols, &packed).unwrap();
            for (r, row) in rows.chunks(row_bytes).enumerate() {
                assert_eq!(*matrix.row(r), *row, "{format} row {r}");
                assert_eq!(
                    *matrix.slice_rows(16..32).row(r % 16),
                    rows[(16 + r % 16) * row_bytes..][..row_bytes]
                );
            }
        }
    }
}
