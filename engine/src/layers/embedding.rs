//! Rows of the embedding: out of memory, or, where memory is better used for experts, out of the file, a direct read for each
//! token. It must not know what a token means.

use std::io;
use std::sync::{Mutex, PoisonError};

use moelten_loader::io::pieces::{PAGE, Piece};
use moelten_loader::io::read_at::{ReadAt, read_fully};
use moelten_loader::tensors::roles::Role;
use moelten_loader::tensors::store::{MatrixRef, TensorStore};
use moelten_quant::QMatrix;

use crate::error::{EngineError, Result};

/// Where the embedding is, `[vocab, d_model]`.
pub enum Embedding {
    /// In memory or a mapped file.
    InMemory(MatrixRef),
    /// In a file.
    InFile {
        /// Read past the system's cache.
        file: Box<dyn ReadAt>,
        /// Its place there.
        matrix: MatrixRef,
        /// Where a row is read to.
        row: Mutex<Piece>,
    },
}

impl Embedding {
    /// The embedding of `tensors`, in its file.
    ///
    /// # Errors
    /// What the system says.
    pub fn in_file(tensors: &TensorStore) -> io::Result<Self> {
        let matrix = tensors.get(Role::Embed);
        let (file, _) = tensors.file(matrix.file).reader()?;
        let bytes = usize::try_from(matrix.bytes).map_err(io::Error::other)? / matrix.rows.max(1);
        let row = Piece::reserve([bytes + 2 * PAGE].into_iter())?.pop().unwrap_or_default();
        Ok(Self::InFile { file, matrix, row: Mutex::new(row) })
    }

    /// The row of `token`, `[d_model]`.
    ///
    /// # Errors
    /// [`EngineError::Embedding`] when it could not be read.
    pub fn row(&self, tensors: &TensorStore, token: u32, out: &mut [f32]) -> Result<()> {
        match self {
            Self::InMemory(matrix) => tensors.view(matrix).decode_row(token as usize, out),
            Self::InFile { file, matrix, row } => {
                let bytes = matrix.bytes / matrix.rows as u64;
                let offset = matrix.offset + u64::from(token) * bytes;
                let lead = offset % PAGE as u64;
                let range = lead as usize..(lead + bytes) as usize;
                let mut row = row.lock().unwrap_or_else(PoisonError::into_inner);
                // As a whole it may be larger than what is left of the file.
                let end = range.end.next_multiple_of(PAGE);
                let read = read_fully(&**file, &mut row.bytes_mut()[..end], offset - lead, range.end);
                read.map_err(|source| EngineError::Embedding { token, source })?;
                let view = QMatrix::new(matrix.format, 1, matrix.cols, &row.bytes()[range]);
                view.expect("references carry consistent sizes").decode_row(0, out);
            }
        }
        Ok(())
    }
}
