//! Byte ranges of matrices, one by one and in banks of experts. It must not know names, nor how the ranges
//! were found.

use std::ops::Range;

use moelten_quant::Format;

use crate::spec::{BankKey, BankKind, Part};
use crate::tensors::role::{LayerTensor, Role};

/// The byte range of a matrix in a file or in memory, already validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixRef {
    /// Block format.
    pub format: Format,
    /// Rows (outputs).
    pub rows: usize,
    /// Columns (inputs).
    pub cols: usize,
    /// Index of the file.
    pub file: usize,
    /// Byte offset in it.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

impl MatrixRef {
    /// Some of its rows as a matrix.
    ///
    /// # Panics
    /// If it has no such rows.
    #[must_use]
    pub fn some_rows(&self, rows: Range<usize>) -> Self {
        assert!(rows.end <= self.rows && rows.start <= rows.end, "{rows:?} of {} rows", self.rows);
        let (offset, bytes) = self.place_of(rows.clone());
        Self { rows: rows.len(), offset, bytes, ..*self }
    }

    /// Offset and length in bytes of some of its rows.
    pub(crate) fn place_of(&self, rows: Range<usize>) -> (u64, u64) {
        let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let of_row = self.bytes / wide(self.rows.max(1));
        (self.offset + wide(rows.start) * of_row, wide(rows.len()) * of_row)
    }
}

/// All experts of a bank: the matrices of each, and its record in a packed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpertBank {
    /// Where the bank is in the model.
    pub key: BankKey,
    /// What its experts are for.
    pub kind: BankKind,
    pub(super) parts: Vec<Part>,
    /// `[experts, parts]`.
    pub(super) matrices: Vec<MatrixRef>,
    /// `[experts]`; empty in files that are not packed.
    pub(super) records: Vec<RecordRef>,
}

impl ExpertBank {
    /// Number of experts.
    pub fn experts(&self) -> usize {
        self.matrices.len() / self.parts.len()
    }

    /// The role of one of the matrices.
    pub fn role(&self, part: Part) -> Role {
        Role::Layer(self.key.layer, LayerTensor::of_bank(self.kind, part))
    }

    /// What each expert's matrices are for, in the order of [`Self::expert`].
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The matrices of an expert.
    ///
    /// # Panics
    /// If the bank has no such expert.
    pub fn expert(&self, expert: usize) -> &[MatrixRef] {
        let parts = self.parts.len();
        self.matrices.get(expert * parts..(expert + 1) * parts).expect("the bank has this expert")
    }

    /// One matrix of an expert; `None` if experts of this bank have no such part.
    ///
    /// # Panics
    /// If the bank has no such expert.
    pub fn part(&self, expert: usize, part: Part) -> Option<&MatrixRef> {
        let index = self.parts.iter().position(|&known| known == part)?;
        self.expert(expert).get(index)
    }

    /// The matrices of every expert, in ascending id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[MatrixRef]> {
        self.matrices.chunks_exact(self.parts.len())
    }

    /// Bytes of the matrices of an expert.
    ///
    /// # Panics
    /// If the bank has no such expert.
    pub fn expert_bytes(&self, expert: usize) -> u64 {
        self.expert(expert).iter().map(|matrix| matrix.bytes).sum()
    }

    /// The record that holds an expert, in a packed file.
    pub fn record(&self, expert: usize) -> Option<&RecordRef> {
        self.records.get(expert)
    }
}

/// The record of one expert in a packed file: its matrices and the padding between them, loaded by one
/// read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef {
    /// Index of the file.
    pub file: usize,
    /// Byte offset in it, a multiple of [`crate::container::packed::RECORD_ALIGN`].
    pub offset: u64,
    /// Length in bytes, a multiple of it as well.
    pub bytes: u64,
    /// Checksum for [`crate::container::packed::verify_record`].
    pub checksum: u64,
}
