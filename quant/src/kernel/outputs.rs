//! The layout of a product's outputs: groups of 32 rows, `[rows / 32, tokens, 32]`. It must not know what
//! is computed.

/// Rows of an output group: as many as an activation block has columns.
pub const GROUP_ROWS: usize = 32;

/// Place of the outputs of a row; the rows after it in the same group follow directly.
#[derive(Clone, Copy)]
pub(super) struct OutAt {
    /// Index of the output of the row and the first token.
    pub start: usize,
    /// Distance from token to token.
    pub stride: usize,
}

/// The place of `row` and `token` in a product of `rows` and `tokens`; see [`crate::Kernels::matmul`].
pub(super) fn out_at(rows: usize, tokens: usize, row: usize, token: usize) -> OutAt {
    let group = row / GROUP_ROWS * GROUP_ROWS;
    let stride = GROUP_ROWS.min(rows - group);
    OutAt { start: group * tokens + token * stride + (row - group), stride }
}
