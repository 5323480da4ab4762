//! Rows of the token embedding: from memory, or from its file where experts need the memory more. The tokens
//! of a prompt are sorted, so that each row is read once and neighbours share a read. It must not know what a
//! token means.

use std::io;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use moelten_loader::io::pieces::{PAGE, Piece};
use moelten_loader::io::read_at::{ReadAt, read_fully};
use moelten_loader::tensors::bank::MatrixRef;
use moelten_loader::tensors::roles::Role;
use moelten_loader::tensors::store::TensorStore;
use moelten_quant::QMatrix;

use crate::error::{EngineError, Result};
use crate::runtime::pool::Pool;

/// Rows that begin within this many bytes of the first share a read.
const SHARED_READ: u64 = 64 << 10;

/// The token embedding, `[vocab, d_model]`.
pub enum Embedding {
    /// In memory or a mapped file.
    InMemory(MatrixRef),
    /// In a file, from which rows are read past the system's page cache.
    InFile(InFile),
}

/// An embedding that stays in its file.
pub struct InFile {
    file: Box<dyn ReadAt>,
    matrix: MatrixRef,
    buffers: Mutex<Buffers>,
}

/// Buffers for reading, kept so that decode never allocates.
struct Buffers {
    /// Memory that rows are read to.
    piece: Piece,
    /// Token ids and their indices in the text, sorted by id.
    order: Vec<(u32, usize)>,
}

impl Embedding {
    /// The embedding of `tensors` that has this role, left in its file.
    ///
    /// # Errors
    /// The system's error when the file cannot be opened or there is no memory for the buffers.
    pub fn in_file(tensors: &TensorStore, role: Role) -> io::Result<Self> {
        let matrix = tensors.get(role);
        let (file, _) = tensors.file(matrix.file).reader()?;
        InFile::new(file, matrix).map(Self::InFile)
    }

    /// A part of a table, left in its file.
    ///
    /// # Errors
    /// As [`Self::in_file`].
    pub fn part_in_file(tensors: &TensorStore, matrix: MatrixRef) -> io::Result<Self> {
        let (file, _) = tensors.file(matrix.file).reader()?;
        InFile::new(file, matrix).map(Self::InFile)
    }

    /// Decodes the rows of `tokens` into `out`, `[tokens, d_model]`. The workers of `pool`, of which this
    /// thread is one, park while rows are read; between two reads `stop` is asked whether to give up.
    ///
    /// # Errors
    /// [`EngineError::Embedding`] when a row could not be read, [`EngineError::Cancelled`] after `stop`.
    pub fn rows(
        &self,
        (tensors, pool): (&TensorStore, &Pool),
        tokens: impl Iterator<Item = u32>,
        stop: &dyn Fn() -> bool,
        out: &mut [f32],
    ) -> Result<()> {
        match self {
            Self::InMemory(matrix) => {
                let view = tensors.view(matrix);
                for (token, out) in tokens.zip(out.chunks_exact_mut(matrix.cols)) {
                    view.decode_row(token as usize, out);
                }
                Ok(())
            }
            Self::InFile(embedding) => pool.rest_during(|| embedding.rows(tokens, stop, out)),
        }
    }
}

impl InFile {
    fn new(file: Box<dyn ReadAt>, matrix: MatrixRef) -> io::Result<Self> {
        let row = usize::try_from(matrix.bytes).map_err(io::Error::other)? / matrix.rows.max(1);
        let bytes = SHARED_READ as usize + row + 2 * PAGE;
        let piece = Piece::reserve([bytes].into_iter())?.pop().unwrap_or_default();
        let buffers = Mutex::new(Buffers { piece, order: Vec::new() });
        Ok(Self { file, matrix, buffers })
    }

    fn row_bytes(&self) -> u64 {
        self.matrix.bytes / self.matrix.rows as u64
    }

    fn rows(
        &self,
        tokens: impl Iterator<Item = u32>,
        stop: &dyn Fn() -> bool,
        out: &mut [f32],
    ) -> Result<()> {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let Buffers { piece, order } = &mut *buffers;
        order.clear();
        order.extend(tokens.zip(0..));
        order.sort_unstable();
        let mut next = 0;
        while next < order.len() {
            if stop() {
                return Err(EngineError::Cancelled);
            }
            let (first, row_bytes) = (order[next].0, self.row_bytes());
            let near = |&(token, _): &(u32, usize)| u64::from(token - first) * row_bytes <= SHARED_READ;
            let some = next..next + order[next..].iter().take_while(|&row| near(row)).count();
            self.read(&order[some.clone()], piece, out)?;
            next = some.end;
        }
        Ok(())
    }

    /// Reads neighbouring rows with one read and decodes them. `rows` is sorted by token id.
    fn read(&self, rows: &[(u32, usize)], piece: &mut Piece, out: &mut [f32]) -> Result<()> {
        let (row_bytes, cols) = (self.row_bytes(), self.matrix.cols);
        let (first, last) = (rows[0].0, rows[rows.len() - 1].0);
        let offset = self.matrix.offset + u64::from(first) * row_bytes;
        let lead = offset % PAGE as u64;
        let need = (lead + u64::from(last - first + 1) * row_bytes) as usize;
        // The last page of the buffer may reach beyond the end of the file.
        let buffer = &mut piece.bytes_mut()[..need.next_multiple_of(PAGE)];
        let mut read = || read_fully(&*self.file, buffer, offset - lead, need);
        // A second attempt may succeed after an error of the drive or the network.
        let result = read().or_else(|_| read());
        result.map_err(|source| EngineError::Embedding { token: first, source })?;
        let place = |token: u32| -> Range<usize> {
            let start = (lead + u64::from(token - first) * row_bytes) as usize;
            start..start + row_bytes as usize
        };
        for (index, &(token, at)) in rows.iter().enumerate() {
            if index > 0 && rows[index - 1].0 == token {
                let before = rows[index - 1].1;
                out.copy_within(before * cols..(before + 1) * cols, at * cols);
                continue;
            }
            let view = QMatrix::new(self.matrix.format, 1, cols, &piece.bytes()[place(token)]);
            let out = &mut out[at * cols..(at + 1) * cols];
            view.expect("references carry consistent sizes").decode_row(0, out);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
