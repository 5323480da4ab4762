//! Products of float weights with several tokens: the loops around a tier's `unpack` and `block`. Plain
//! Rust, shared by all tiers; it must not know formats or instructions.
//!
//! Rows are taken [`ROWS`] at a time and columns [`DEPTH`] at a time: that piece of the matrix is unpacked
//! once into a scratch that stays in the first-level cache, and multiplied with up to [`TOKENS`] tokens. A
//! piece usually moves along its rows. When the activations of these tokens are more than the second-level
//! cache holds, it first moves down [`GROUP`] rows, so that each fetched column is used that many times.
//!
//! **Why the bits do not depend on the tiling.** An output `(r, t)` has one accumulator of `lanes` floats.
//! Lane `j` adds the products of the columns `k` with `k % lanes == j`, in ascending order, and at the end
//! the lanes are added in a fixed order. Between pieces of columns the accumulator is stored in the
//! scratch, unrounded; pieces start at multiples of every lane count. So an output's value is a function of
//! its row and its token alone. Fused products with one token keep the same accumulator and are equal to
//! the last bit.

use std::cell::RefCell;
use std::ops::Range;

use super::outputs::out_at;
use super::piece::{DEPTH, PieceProduct, ROWS, TOKENS};
use super::prefetch::prefetch;
use super::table::Kernels;
use crate::activations::{Activations, BLOCK};
use crate::matrix::QMatrix;

/// Rows whose accumulators fit the scratch.
const GROUP: usize = 64;
/// Activations that fit a second-level cache beside other data: 512 KiB.
const CACHED: usize = 128 * 1024;
/// The widest accumulator of any tier.
const MAX_LANES: usize = 16;
/// Floats in a cache line, to which the scratch is aligned.
const LINE: usize = 16;
/// Floats in the accumulators of a piece.
const PIECE_ACC: usize = ROWS * TOKENS * MAX_LANES;

/// Floats of scratch: a piece of the matrix, and the accumulators of a group of rows.
pub(super) const SCRATCH: usize = ROWS * DEPTH + GROUP / ROWS * PIECE_ACC + LINE;

thread_local! {
    static SCRATCH_OF_THREAD: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// [`Kernels::matmul`] for float weights and any number of tokens. The caller has checked all lengths.
pub(super) fn matmul(kernels: &Kernels, w: QMatrix<'_>, x: Activations<'_>, out: &mut [f32]) {
    let (tokens, all, x) = (x.tokens(), x.place().0, x.floats());
    SCRATCH_OF_THREAD.with_borrow_mut(|scratch| {
        scratch.resize(SCRATCH, 0.0);
        let aligned = scratch.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let (piece, acc) = scratch[aligned..].split_at_mut(ROWS * DEPTH);
        for first in (0..tokens).step_by(TOKENS) {
            let some = first..tokens.min(first + TOKENS);
            let group = if some.len() * w.cols() > CACHED { GROUP } else { ROWS };
            for row in (0..w.rows()).step_by(group) {
                let rows = row..w.rows().min(row + group);
                for column in (0..w.cols()).step_by(DEPTH) {
                    let columns = column..w.cols().min(column + DEPTH);
                    for (row, acc) in rows.clone().step_by(ROWS).zip(acc.chunks_exact_mut(PIECE_ACC)) {
                        let rows = row..rows.end.min(row + ROWS);
                        unpack_piece(kernels, w, rows.clone(), columns.clone(), piece);
                        let at = out_at(w.rows(), tokens, row, some.start);
                        let block = PieceProduct {
                            w: piece,
                            rows: rows.len(),
                            depth: columns.len().next_multiple_of(BLOCK),
                            x: &x[column * all + some.start * BLOCK..],
                            x_stride: all * BLOCK,
                            tokens: some.len(),
                            acc,
                            first: column == 0,
                            last: columns.end == w.cols(),
                            out: &mut out[at.start..],
                            out_stride: at.stride,
                        };
                        block.check(kernels.floats.lanes);
                        // SAFETY: `Kernels::for_isa` detected the tier's instructions; `check` passed.
                        unsafe { (kernels.floats.block)(block) };
                    }
                }
            }
        }
    });
}

/// Decodes a range of rows and columns into `piece`, `[ROWS, DEPTH]`, and prefetches the next columns of
/// these rows, or the start of the rows after them.
fn unpack_piece(
    kernels: &Kernels,
    w: QMatrix<'_>,
    rows: Range<usize>,
    columns: Range<usize>,
    piece: &mut [f32],
) {
    let bytes_of = |columns: usize| columns / w.format().block_len() * w.format().block_bytes();
    for (row, piece) in rows.zip(piece.chunks_exact_mut(DEPTH)) {
        let start = row * w.row_bytes();
        let bytes = &w.data()[start + bytes_of(columns.start)..start + bytes_of(columns.end)];
        let next = if columns.end < w.cols() { bytes_of(columns.end) } else { ROWS * w.row_bytes() };
        prefetch(w.data().as_ptr().wrapping_add(start + next), bytes.len());
        // SAFETY: `Kernels::for_isa` detected the tier's instructions; the lengths agree.
        unsafe { (kernels.floats.unpack)(w.format(), bytes, &mut piece[..columns.len()]) };
        piece[columns.len()..columns.len().next_multiple_of(BLOCK)].fill(0.0);
    }
}
