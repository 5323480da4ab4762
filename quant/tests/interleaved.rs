//! Interleaved rows are the same matrix: every tier and quantised format gives the bits of the rows as files have them, for
//! rows and tokens around every vector, tile and run. `guard.rs` has what is read of them.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

mod common;

use common::{Packed, Rng, Weights, assert_same, bits, product, quantised, tiers};
use moelten_quant::{Format, Isa, Kernels, Layout, QMatrix, can_interleave, interleave};

const ROWS: [usize; 3] = [16, 48, 80];
const TOKENS: [usize; 7] = [1, 2, 8, 9, 17, 33, 130];

/// The bytes of a matrix, interleaved.
fn interleaved(matrix: QMatrix<'_>) -> Vec<u8> {
    let mut out = vec![0xa5; matrix.data().len()];
    interleave(matrix.format(), matrix.row_bytes(), matrix.data(), &mut out);
    out
}

/// Rows of a few blocks, and of more than are unpacked at a time.
fn columns(format: Format) -> [usize; 2] {
    if format.block_len() == 32 { [96, 65 * 32] } else { [256, 9 * 256] }
}

#[test]
fn products_have_the_bits_of_stock_rows() {
    let mut rng = Rng(1);
    let scalar = Kernels::for_isa(Isa::Scalar).unwrap();
    for format in quantised() {
        for cols in columns(format) {
            // Plain Rust is slow.
            let long = cols > 256;
            for rows in ROWS.into_iter().filter(|&rows| rows == 48 || !long) {
                let bytes = Weights::Random.bytes(format, rows * cols, &mut rng);
                let stock = QMatrix::new(format, rows, cols, &bytes).unwrap();
                let bytes = interleaved(stock);
                let matrix = QMatrix::interleaved(format, rows, cols, &bytes).unwrap();
                for tokens in TOKENS.into_iter().filter(|&tokens| tokens < 33 || !long) {
                    let x = Packed::new(scalar, format, &rng.floats(tokens * cols), cols);
                    let expected = product(scalar, stock, x.view());
                    for kernels in tiers() {
                        let what = || format!("{} {format} {rows} x {cols}, {tokens} tokens", kernels.isa());
                        assert_same(&product(kernels, matrix, x.view()), &expected, &what);
                    }
                }
            }
        }
    }
}

/// Weights and scales of every kind, as scales that are infinite or not numbers, and of the largest codes.
#[test]
fn no_kind_of_weight_is_read_differently() {
    let mut rng = Rng(2);
    let (rows, tokens) = (32, 10);
    for format in quantised() {
        let cols = 2 * format.block_len();
        for weights in Weights::ALL {
            let bytes = weights.bytes(format, rows * cols, &mut rng);
            let stock = QMatrix::new(format, rows, cols, &bytes).unwrap();
            let bytes = interleaved(stock);
            let matrix = QMatrix::interleaved(format, rows, cols, &bytes).unwrap();
            for kernels in tiers() {
                let x = Packed::new(kernels, format, &rng.floats(tokens * cols), cols);
                let what = || format!("{} {format} {weights:?}", kernels.isa());
                assert_same(&product(kernels, matrix, x.view()), &product(kernels, stock, x.view()), &what);
            }
        }
    }
}

#[test]
fn sixteens_of_rows_are_matrices_of_their_own() {
    let mut rng = Rng(3);
    let (rows, tokens) = (80, 11);
    for format in quantised() {
        let cols = format.block_len();
        let bytes = Weights::Random.bytes(format, rows * cols, &mut rng);
        let stock = QMatrix::new(format, rows, cols, &bytes).unwrap();
        let bytes = interleaved(stock);
        let matrix = QMatrix::interleaved(format, rows, cols, &bytes).unwrap();
        for kernels in tiers() {
            let x = Packed::new(kernels, format, &rng.floats(tokens * cols), cols);
            for range in [0..16, 16..32, 32..80, 64..80, 48..48] {
                let (part, expected) = (matrix.slice_rows(range.clone()), stock.slice_rows(range.clone()));
                assert_eq!(part.layout(), Layout::Interleaved);
                let what = || format!("{} {format} rows {range:?}", kernels.isa());
                assert_same(&product(kernels, part, x.view()), &product(kernels, expected, x.view()), &what);
            }
        }
    }
}

#[test]
fn rows_decode_as_they_did() {
    let mut rng = Rng(4);
    let rows = 48;
    for format in quantised() {
        let cols = 3 * format.block_len();
        let bytes = Weights::Random.bytes(format, rows * cols, &mut rng);
        let stock = QMatrix::new(format, rows, cols, &bytes).unwrap();
        let bytes = interleaved(stock);
        let whole = QMatrix::interleaved(format, rows, cols, &bytes).unwrap();
        let (mut got, mut expected) = (vec![0.0; cols], vec![0.0; cols]);
        for row in 0..rows {
            stock.decode_row(row, &mut expected);
            whole.decode_row(row, &mut got);
            assert_eq!(bits(&got), bits(&expected), "{format} row {row}");
            let start = row / 16 * 16;
            whole.slice_rows(start..rows).decode_row(row - start, &mut got);
            assert_eq!(bits(&got), bits(&expected), "{format} row {row} of a part");
        }
    }
}

#[test]
fn only_whole_sixteens_of_quantised_rows_can_be_interleaved() {
    for format in Format::ALL {
        let quantised = format.block_len() > 1;
        for (rows, whole) in [(1, false), (15, false), (16, true), (17, false), (40, false), (48, true)] {
            assert_eq!(can_interleave(format, rows), quantised && whole, "{rows} rows of {format}");
        }
    }
}

#[test]
#[should_panic(expected = "are not interleaved")]
fn a_view_of_rows_that_cannot_be_interleaved_is_refused() {
    let _ = QMatrix::interleaved(Format::Q8_0, 17, 32, &[0; 17 * 34]);
}

#[test]
#[should_panic(expected = "of an interleaved matrix")]
fn rows_within_a_sixteen_are_not_sliced() {
    QMatrix::interleaved(Format::Q8_0, 32, 32, &[0; 32 * 34]).unwrap().slice_rows(0..8);
}

#[test]
#[should_panic(expected = "interleave: lengths")]
fn rows_that_cannot_be_interleaved_are_refused() {
    interleave(Format::Q8_0, 34, &[0; 17 * 34], &mut [0; 17 * 34]);
}
