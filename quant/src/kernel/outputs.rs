//! Where the outputs of a product stand: in groups of 32 rows, each with all tokens. It must not know what is computed.

/// Rows whose outputs stand together: as many as an activation block has columns.
pub const GROUP_ROWS: usize = 32;

/// Where the outputs of a row and its followers in the same group of 32 rows stand.
#[derive(Clone, Copy)]
pub(super) struct OutAt {
    /// Output of the row and the first token.
    pub start: usize,
    /// From token to token.
    pub stride: usize,
}

/// The place of `row` and `token` in a product of `rows` and `tokens`; see [`crate::Kernels::matmul`].
pub(super) fn out_at(rows: usize, tokens: usize, row: usize, token: usize) -> OutAt {
    let group = row / GROUP_ROWS * GROUP_ROWS;
    let stride = GROUP_ROWS.min(rows - group);
    OutAt { start: group * tokens + token * stride + (row - group), stride }
}
