//! Products with several tokens: the loops around a tier's `unpack` and `block`. Plain Rust, shared by all tiers; it
//! must not know formats or instructions.
//!
//! Rows are taken 16 at a time, columns 512 at a time: that piece of the matrix is unpacked once into a scratch that
//! stays in the first-level cache, and multiplied with up to 128 tokens.
//!
//! **Why the bits do not depend on the tiling.** An output `(r, t)` has one accumulator of `lanes` floats. Lane `j` adds
//! the products of the columns `k` with `k % lanes == j`, in ascending order, and at the end the lanes are added in a fixed
//! order. Between pieces of columns the accumulator rests in the scratch, which does not round; pieces start at multiples of
//! every lane count. So an output's value is a function of its row and its token alone. Fused products with one
//! token keep the same accumulator and are equal to the last bit.

use std::cell::RefCell;

use super::Kernels;
use crate::{Format, QMatrix};

/// Rows of a piece.
pub(super) const ROWS: usize = 16;
/// Columns of a piece: a multiple of every block length and every lane count.
pub(super) const DEPTH: usize = 512;
/// Tokens that a piece is multiplied with before the next is unpacked.
pub(super) const TOKENS: usize = 128;
/// The widest accumulator of any tier.
const MAX_LANES: usize = 16;
/// Floats in a cache line, to which the scratch is aligned.
const LINE: usize = 16;

/// Floats of scratch: a piece of the matrix, and the accumulators of its outputs.
pub(super) const SCRATCH: usize = ROWS * DEPTH + ROWS * TOKENS * MAX_LANES + LINE;

/// One piece of the matrix against up to [`TOKENS`] tokens.
pub(super) struct Block<'a> {
    /// Unpacked weights, `[rows, DEPTH]`, of which the first `depth` columns count.
    pub w: &'a [f32],
    /// At most [`ROWS`].
    pub rows: usize,
    /// Columns in this piece, at most [`DEPTH`].
    pub depth: usize,
    /// Activations from the first token's first column of this piece; the next token is `x_stride` further.
    pub x: &'a [f32],
    /// Columns of the whole matrix.
    pub x_stride: usize,
    /// At most [`TOKENS`].
    pub tokens: usize,
    /// Accumulators, `[rows, TOKENS, lanes]`.
    pub acc: &'a mut [f32],
    /// Start from zero and not from `acc`.
    pub first: bool,
    /// Add the lanes and write to `out`, not to `acc`.
    pub last: bool,
    /// Outputs from the first row and token of this piece; the next row is `out_stride` further.
    pub out: &'a mut [f32],
    /// Tokens of the whole product.
    pub out_stride: usize,
}

impl Block<'_> {
    /// Asserts that every index that the fields imply is within its slice: all that a tier's `block` relies on.
    #[inline]
    pub(super) fn check(&self, lanes: usize) {
        assert!(0 < self.rows && self.rows <= ROWS && 0 < self.tokens && self.tokens <= TOKENS);
        assert!(self.depth <= DEPTH && self.w.len() >= self.rows * DEPTH);
        assert!(self.x.len() >= (self.tokens - 1) * self.x_stride + self.depth);
        assert!(self.out.len() >= (self.rows - 1) * self.out_stride + self.tokens);
        assert!(self.acc.len() >= self.rows * TOKENS * lanes);
    }
}

thread_local! {
    static SCRATCH_OF_THREAD: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// [`Kernels::matmul`] for any number of tokens. The caller has checked all lengths.
pub(super) fn matmul(kernels: &Kernels, w: QMatrix<'_>, x: &[f32], tokens: usize, out: &mut [f32]) {
    SCRATCH_OF_THREAD.with_borrow_mut(|scratch| {
        scratch.resize(SCRATCH, 0.0);
        let aligned = scratch.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let (piece, acc) = scratch[aligned..].split_at_mut(ROWS * DEPTH);
        for token in (0..tokens).step_by(TOKENS) {
            for row in (0..w.rows()).step_by(ROWS) {
                for column in (0..w.cols()).step_by(DEPTH) {
                    let rows = ROWS.min(w.rows() - row);
                    let depth = DEPTH.min(w.cols() - column);
                    unpack_piece(kernels, w, row..row + rows, column..column + depth, piece);
                    let block = Block {
                        w: piece,
                        rows,
                        depth,
                        x: &x[token * w.cols() + column..],
                        x_stride: w.cols(),
                        tokens: TOKENS.min(tokens - token),
                        acc,
                        first: column == 0,
                        last: column + depth == w.cols(),
                        out: &mut out[row * tokens + token..],
                        out_stride: tokens,
                    };
                    block.check(kernels.lanes);
                    // SAFETY: `Kernels::for_isa` detected the tier's instructions; `check` passed.
                    unsafe { (kernels.block)(block) };
                }
            }
        }
    });
}

/// Decodes a range of rows and columns into `piece`, `[ROWS, DEPTH]`.
fn unpack_piece(
    kernels: &Kernels,
    w: QMatrix<'_>,
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
    piece: &mut [f32],
) {
    let format: Format = w.format();
    let bytes_of = |columns: usize| columns / format.block_len() * format.block_bytes();
    for (row, piece) in rows.zip(piece.chunks_exact_mut(DEPTH)) {
        let start = row * w.row_bytes();
        let bytes = &w.data()[start + bytes_of(columns.start)..start + bytes_of(columns.end)];
        kernels.decode(format, bytes, &mut piece[..columns.len()]);
    }
}
