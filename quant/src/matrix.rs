//! A weight matrix as a checked view of block bytes. Its one constructor checks everything, so kernels check nothing. It
//! must not own memory or know where the bytes come from.

use std::borrow::Cow;
use std::ops::Range;

use crate::{Format, decode};

/// How the rows of a matrix lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// One after the other.
    #[default]
    Rows,
    /// Sixteen at a time, interleaved: see [`crate::interleave`].
    Interleaved,
}

/// A `[rows, cols]` matrix, each row a whole number of blocks. The bytes may have any alignment.
#[derive(Debug, Clone, Copy)]
pub struct QMatrix<'a> {
    format: Format,
    layout: Layout,
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
        Ok(Self { format, layout: Layout::Rows, rows, cols, row_bytes, data })
    }

    /// As [`Self::new`], for bytes that [`crate::interleave`] wrote.
    ///
    /// # Errors
    /// See [`ShapeError`].
    ///
    /// # Panics
    /// If such a matrix cannot be interleaved: [`crate::can_interleave`].
    pub fn interleaved(format: Format, rows: usize, cols: usize, data: &'a [u8]) -> Result<Self, ShapeError> {
        assert!(crate::can_interleave(format, rows), "{rows} rows of {format} are not interleaved");
        Ok(Self { layout: Layout::Interleaved, ..Self::new(format, rows, cols, data)? })
    }

    /// How the rows lie.
    pub fn layout(&self) -> Layout {
        self.layout
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
    /// If the range is not within `0..rows`, or not of whole sixteens of interleaved rows.
    pub fn slice_rows(&self, rows: Range<usize>) -> QMatrix<'a> {
        let sixteens = rows.start.is_multiple_of(16) && rows.end.is_multiple_of(16);
        assert!(self.layout == Layout::Rows || sixteens, "rows {rows:?} of an interleaved matrix");
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        let data = &self.data[rows.start * self.row_bytes..rows.end * self.row_bytes];
        QMatrix { rows: rows.len(), data, ..*self }
    }

    /// Decodes one row into `out`, `[cols]`.
    ///
    /// # Panics
    /// If there is no such row or `out` is not `cols` long.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        match self.row(row) {
            Cow::Borrowed(bytes) => decode(self.format, bytes, out),
            Cow::Owned(bytes) => decode(self.format, &bytes, out),
        }
    }

    /// The bytes of one row, put together if the rows are interleaved.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> Cow<'a, [u8]> {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        match self.layout {
            Layout::Rows => Cow::Borrowed(&self.data[row * self.row_bytes..(row + 1) * self.row_bytes]),
            Layout::Interleaved => {
                let group = &self.data[row / 16 * 16 * self.row_bytes..][..16 * self.row_bytes];
                let mut bytes = vec![0; self.row_bytes];
                crate::interleave::one_row(self.format, group, row % 16, &mut bytes);
                Cow::Owned(bytes)
            }
        }
    }
}
