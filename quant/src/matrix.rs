//! A weight matrix as a checked view of block bytes. Its one constructor checks everything, so kernels
//! check nothing. It must not own memory or know where the bytes come from.

use std::ops::Range;

use crate::decode::decode;
use crate::format::Format;

/// A `[rows, cols]` matrix, its rows one after the other, each a whole number of blocks. The bytes may have
/// any alignment.
#[derive(Debug, Clone, Copy)]
pub struct QMatrix<'a> {
    format: Format,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    data: &'a [u8],
}

/// Why bytes are not a matrix of the given shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShapeError {
    /// A row is not a whole number of blocks.
    PartialBlock {
        /// Weights per row.
        cols: usize,
        /// Weights per block.
        block_len: usize,
    },
    /// The size of the matrix does not fit in `usize`.
    Overflow {
        /// Rows asked for.
        rows: usize,
        /// Weights per row.
        cols: usize,
    },
    /// The data is shorter or longer than the shape.
    Length {
        /// Bytes the shape takes.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
}

impl std::fmt::Display for ShapeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PartialBlock { cols, block_len } => {
                write!(f, "rows of {cols} weights are not a whole number of blocks of {block_len}")
            }
            Self::Overflow { rows, cols } => write!(f, "a {rows} x {cols} matrix is too large"),
            Self::Length { expected, got } => {
                write!(f, "the shape takes {expected} bytes, the data has {got}")
            }
        }
    }
}

impl std::error::Error for ShapeError {}

impl<'a> QMatrix<'a> {
    /// Views `data` as `[rows, cols]` weights of `format`. Zero rows or columns are allowed.
    ///
    /// # Errors
    /// See [`ShapeError`].
    pub fn new(format: Format, rows: usize, cols: usize, data: &'a [u8]) -> Result<Self, ShapeError> {
        let overflow = ShapeError::Overflow { rows, cols };
        if !cols.is_multiple_of(format.block_len()) {
            return Err(ShapeError::PartialBlock { cols, block_len: format.block_len() });
        }
        let row_bytes = format.row_bytes(cols).ok_or(overflow)?;
        // Output and activation sizes are products of these, so they must fit as well.
        rows.checked_mul(cols).ok_or(overflow)?;
        let expected = rows.checked_mul(row_bytes).ok_or(overflow)?;
        if data.len() != expected {
            return Err(ShapeError::Length { expected, got: data.len() });
        }
        Ok(Self { format, rows, cols, row_bytes, data })
    }

    /// How a row is stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Rows: the outputs of a product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: the inputs of a product.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All the bytes.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The matrix made of some consecutive rows.
    ///
    /// # Panics
    /// If the range is not within `0..rows`.
    pub fn slice_rows(&self, rows: Range<usize>) -> QMatrix<'a> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        let data = &self.data[rows.start * self.row_bytes..rows.end * self.row_bytes];
        QMatrix { rows: rows.len(), data, ..*self }
    }

    /// Decodes one row into `out`, `[cols]`.
    ///
    /// # Panics
    /// If there is no such row or `out` is not `cols` long.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        decode(self.format, self.row(row), out);
    }

    /// The bytes of one row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &'a [u8] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        &self.data[row * self.row_bytes..(row + 1) * self.row_bytes]
    }
}
