//! One piece of a product of float weights, the unit that `tiled` gives to a tier. It must not know the
//! order of pieces.

use crate::activations::BLOCK;

/// Rows of a piece.
pub(super) const ROWS: usize = 16;
/// Columns of a piece: a multiple of every block length and every lane count.
pub(super) const DEPTH: usize = 512;
/// Tokens that a piece is multiplied with before the next is unpacked.
pub(super) const TOKENS: usize = 64;
/// One piece of the matrix against up to [`TOKENS`] tokens.
pub(super) struct PieceProduct<'a> {
    /// Unpacked weights, `[rows, DEPTH]`, of which the first `depth` columns count.
    pub w: &'a [f32],
    /// At most [`ROWS`].
    pub rows: usize,
    /// Columns in this piece, at most [`DEPTH`], padded with zeros to whole blocks of activations.
    pub depth: usize,
    /// Activations from the first token's first column of this piece; the next token is [`BLOCK`] further,
    /// the next block of columns `x_stride`.
    pub x: &'a [f32],
    /// Floats of a block of activations of all tokens.
    pub x_stride: usize,
    /// At most [`TOKENS`].
    pub tokens: usize,
    /// Accumulators, `[rows, TOKENS, lanes]`.
    pub acc: &'a mut [f32],
    /// Start from zero and not from `acc`.
    pub first: bool,
    /// Add the lanes and write to `out`, not to `acc`.
    pub last: bool,
    /// Outputs from the first row and token of this piece; the next token is `out_stride` further.
    pub out: &'a mut [f32],
    /// Rows of the group of outputs.
    pub out_stride: usize,
}

impl PieceProduct<'_> {
    /// Asserts that every index that the fields imply is within its slice: a tier's `block` relies on
    /// nothing else.
    pub(super) fn check(&self, lanes: usize) {
        assert!(0 < self.rows && self.rows <= ROWS && 0 < self.tokens && self.tokens <= TOKENS);
        assert!(0 < self.depth && self.depth <= DEPTH && self.depth.is_multiple_of(BLOCK));
        assert!(self.w.len() >= self.rows * DEPTH && self.rows <= self.out_stride);
        assert!(self.x.len() >= (self.depth / BLOCK - 1) * self.x_stride + self.tokens * BLOCK);
        assert!(self.out.len() >= (self.tokens - 1) * self.out_stride + self.rows);
        assert!(self.acc.len() >= self.rows * TOKENS * lanes);
    }
}
