//! The values of output tensors, in pieces. Any thread can make a piece, in any order, with the same bytes.
//! It must not know the file that is written, nor threads.

use std::borrow::Cow;
use std::hash::Hasher;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use moelten_quant::{EncodeError, Format, encode_weighted};
use twox_hash::XxHash3_64;

use super::ahead::Window;
use super::order::Order;
use super::output::{Output, Values};
use crate::container::packed::{self, PackedIndex, PackedMatrix};
use crate::error::{Fault, LoadError, Result};
use crate::io::reader::len_u64;
use crate::spec::{BankKey, Part};
use crate::tensors::bank::{ExpertBank, MatrixRef, RecordRef};
use crate::tensors::roles::Role;
use crate::tensors::store::TensorStore;

/// Weights of a piece. The definition of source checksums depends on it; see [`Made::source`].
const WEIGHTS_AT_ONCE: usize = 1 << 18;
/// Bytes of a copied piece.
const BYTES_AT_ONCE: u64 = 1 << 20;
/// The rows of a piece are a multiple of this. The definition of source checksums depends on it too.
const ROWS_AT_ONCE: usize = 16;

/// Most rows of a source that are read at once for rows of the output that need some of them.
const MOST_NEAR: usize = 4096;

/// How much errors in the columns of matrices matter.
pub trait Importance: Sync {
    /// The weight of an error in each column of a matrix, `[cols]`, or of one expert's matrix; `None` if not
    /// known.
    ///
    /// # Errors
    /// If the data belong to another model.
    fn columns(&self, role: Role, expert: Option<usize>, cols: usize) -> Result<Option<Vec<f32>>>;

    /// A hash of all data.
    fn fingerprint(&self) -> u64;
}

/// A byte range of a file of the source.
#[derive(Debug, Clone, Copy)]
struct Span {
    file: usize,
    offset: u64,
    bytes: u64,
}

/// A run of bytes of an output tensor.
#[derive(Debug, Clone)]
pub(super) struct OutputPiece {
    /// Index of the output.
    pub output: usize,
    make: Make,
}

#[derive(Debug, Clone)]
enum Make {
    /// Padding.
    Zeros(usize),
    /// Numbers of the spec.
    Numbers(Arc<[u8]>),
    /// A copy of bytes of the source.
    Bytes(Span),
    /// No bytes: the checksum of a record of the source is verified before its matrices are used.
    Record { bank: BankKey, expert: usize },
    /// Rows of a matrix.
    Rows(Rows),
}

/// Rows of a matrix of the source, in another format or order.
#[derive(Debug, Clone)]
struct Rows {
    matrix: MatrixRef,
    rows: Range<usize>,
    format: Format,
    order: Order,
    /// Of the columns, `[cols]`.
    importance: Option<Arc<[f32]>>,
}

/// Format before and after, and whether columns are weighted. Pieces of one kind take the same time for each
/// byte of the source.
pub(super) type Kind = (Format, Option<Format>, bool);

/// A finished piece.
pub(super) struct Made {
    pub bytes: Vec<u8>,
    /// XXH3 of the source bytes, row by row in the order of the output; `None` without source bytes.
    pub source: Option<u64>,
}

/// Splits outputs into pieces and makes them.
pub(super) struct Maker<'a> {
    pub tensors: &'a TensorStore,
    pub packed: Option<&'a PackedIndex>,
    pub importance: Option<&'a dyn Importance>,
}

impl Maker<'_> {
    /// The pieces of an output, in order.
    pub fn pieces(&self, index: usize, output: &Output) -> Result<Vec<OutputPiece>> {
        let mut out = Vec::new();
        match &output.values {
            Values::Numbers(numbers) => {
                out.push(Make::Numbers(numbers.iter().flat_map(|number| number.to_le_bytes()).collect()));
            }
            Values::Integers(numbers) => {
                out.push(Make::Numbers(numbers.iter().flat_map(|number| number.to_le_bytes()).collect()));
            }
            Values::Tensor(tensor) => {
                as_they_are(Span { file: tensor.file, offset: tensor.offset, bytes: tensor.bytes }, &mut out)
            }
            Values::Matrix { role, matrix, format, order } => {
                // Importance is known for columns in the order of the source alone.
                let known = !order.moves_columns();
                let importance = if known { self.columns(*role, None, matrix)? } else { None };
                rows(self.source_of(matrix), Some(*format), order.clone(), importance, &mut out);
            }
            Values::Stack { parts, format } => {
                for (role, matrix, order) in parts {
                    let importance = self.columns(*role, None, matrix)?;
                    rows(self.source_of(matrix), Some(*format), order.clone(), importance, &mut out);
                }
            }
            Values::Bank { bank, part, encode } => {
                let bank = at(self.tensors, *bank);
                for expert in 0..bank.experts() {
                    // Once for each record: before the first bank that reads from it.
                    if bank.parts().first() == Some(part) && bank.record(expert).is_some() {
                        out.push(Make::Record { bank: bank.key, expert });
                    }
                    let matrix = part_of(bank, expert, *part);
                    let importance = match encode {
                        Some(_) => self.columns(bank.role(*part), Some(expert), matrix)?,
                        None => None,
                    };
                    rows(self.source_of(matrix), *encode, Order::Same, importance, &mut out);
                }
            }
            Values::Record { bank, expert, encode } => {
                self.record(at(self.tensors, *bank), *expert, *encode, &mut out)?;
            }
        }
        Ok(out.into_iter().map(|make| OutputPiece { output: index, make }).collect())
    }

    /// The pieces of a record.
    fn record(&self, bank: &ExpertBank, expert: usize, encode: bool, out: &mut Vec<Make>) -> Result<()> {
        let index = self.packed.and_then(|packed| packed.bank(bank.key.layer, bank.kind));
        let shape = index.expect("the plan has a shape for its records").shape;
        if bank.record(expert).is_some() {
            out.push(Make::Record { bank: bank.key, expert });
        }
        let mut end = 0;
        for (part, matrix) in shape.parts() {
            let &PackedMatrix { format, offset, bytes, .. } = matrix;
            let matrix = part_of(bank, expert, part);
            let importance = match encode {
                true => self.columns(bank.role(part), Some(expert), matrix)?,
                false => None,
            };
            zeros(offset - end, out);
            rows(self.source_of(matrix), encode.then_some(format), Order::Same, importance, out);
            end = offset + bytes;
        }
        zeros(shape.bytes - end, out);
        Ok(())
    }

    /// A matrix, and whether it can be read by whole rows alone.
    fn source_of(&self, matrix: &MatrixRef) -> (MatrixRef, bool) {
        (*matrix, self.tensors.is_arranged(matrix))
    }

    /// The importance of a matrix's columns, if it is known.
    fn columns(&self, role: Role, expert: Option<usize>, matrix: &MatrixRef) -> Result<Option<Arc<[f32]>>> {
        let Some(importance) = self.importance.filter(|_| matrix.rows > 1) else { return Ok(None) };
        Ok(importance.columns(role, expert, matrix.cols)?.map(Arc::from))
    }

    /// The byte range of the source that a piece reads.
    pub fn window(&self, piece: &OutputPiece) -> Option<Window<'_>> {
        let Span { file, offset, bytes } = match &piece.make {
            Make::Zeros(_) | Make::Numbers(_) => return None,
            Make::Bytes(span) => *span,
            Make::Record { bank, expert } => {
                let &RecordRef { file, offset, bytes, .. } = at(self.tensors, *bank).record(*expert)?;
                Span { file, offset, bytes }
            }
            Make::Rows(rows @ Rows { matrix, .. }) => {
                let (offset, bytes) = matrix.place_of(rows.order.within(&rows.rows, matrix.rows));
                Span { file: matrix.file, offset, bytes }
            }
        };
        Some(Window { file: self.tensors.file(file), offset, bytes })
    }

    /// About the bytes of memory that a piece takes: its source or its output, whichever is larger.
    pub fn weight(&self, piece: &OutputPiece) -> u64 {
        let made = match &piece.make {
            Make::Zeros(len) => len_u64(*len),
            Make::Numbers(bytes) => len_u64(bytes.len()),
            Make::Record { .. } | Make::Bytes(_) => 0,
            Make::Rows(Rows { matrix, rows, format, order, .. }) => {
                let cols = order.columns(matrix.cols);
                len_u64(rows.len() * format.row_bytes(cols).unwrap_or(4 * cols))
            }
        };
        made.max(self.window(piece).map_or(0, |window| window.bytes))
    }

    /// Its kind; `None` for pieces without source bytes.
    pub fn kind(&self, piece: &OutputPiece) -> Option<Kind> {
        match &piece.make {
            Make::Zeros(_) | Make::Numbers(_) | Make::Record { .. } => None,
            Make::Bytes(_) => Some((Format::F32, None, false)),
            Make::Rows(rows) => Some((rows.matrix.format, Some(rows.format), rows.importance.is_some())),
        }
    }

    /// The checksum of what a piece is made from.
    pub fn source(&self, piece: &OutputPiece) -> Result<Option<u64>> {
        Ok(match &piece.make {
            Make::Zeros(_) | Make::Numbers(_) | Make::Record { .. } => None,
            Make::Bytes(span) => Some(XxHash3_64::oneshot(&self.bytes(*span)?)),
            Make::Rows(rows) => Some(self.values(rows)?.1),
        })
    }

    fn bytes(&self, span: Span) -> Result<Cow<'_, [u8]>> {
        let file = self.tensors.file(span.file);
        let bytes = file.read_rows(span.offset, span.bytes);
        bytes.map_err(|error| LoadError::io(file.path(), "read weights of", error))
    }

    /// Makes a piece. Messages show the tensor as `name`.
    pub fn make(&self, piece: &OutputPiece, name: &str) -> Result<Made> {
        Ok(match &piece.make {
            Make::Zeros(len) => Made { bytes: vec![0; *len], source: None },
            Make::Numbers(bytes) => Made { bytes: bytes.to_vec(), source: None },
            Make::Bytes(span) => {
                let bytes = self.bytes(*span)?;
                Made { source: Some(XxHash3_64::oneshot(&bytes)), bytes: bytes.into_owned() }
            }
            Make::Record { bank, expert } => {
                verify(self.tensors, *bank, *expert)?;
                Made { bytes: Vec::new(), source: None }
            }
            Make::Rows(rows) => {
                let (values, source) = self.values(rows)?;
                Made { bytes: self.encoded(rows, &values, name)?, source: Some(source) }
            }
        })
    }

    /// The values of rows, `[rows, cols]`, and the checksum of their bytes in the source.
    fn values(&self, of: &Rows) -> Result<(Vec<f32>, u64)> {
        let mut hash = XxHash3_64::with_seed(0);
        let (matrix, cols) = (&of.matrix, of.matrix.cols);
        // The source is hashed while it is read for the values, so that it is read once.
        if matrix.rows == 1 {
            // Values of a vector are reordered like rows of a matrix.
            let bytes = self.tensors.rows(matrix, 0..1)?;
            let mut vector = vec![0.0; cols];
            moelten_quant::decode(matrix.format, &bytes, &mut vector);
            hash.write(&bytes);
            return Ok((of.order.of_vector(&vector), hash.finish()));
        }
        if let Order::Across(across) = &of.order {
            let values = across.values(&of.rows, |rows| {
                let bytes = self.tensors.rows(matrix, rows.clone())?;
                hash.write(&bytes);
                let mut values = vec![0.0; rows.len() * cols];
                moelten_quant::decode(matrix.format, &bytes, &mut values);
                Ok(values)
            })?;
            return Ok((values, hash.finish()));
        }
        let read = of.order.within(&of.rows, matrix.rows);
        // Rows from all over a matrix are read one by one.
        let near = match read.len() <= of.rows.len().max(MOST_NEAR) {
            true => Some(self.tensors.rows(matrix, read.clone())?),
            false => None,
        };
        let of_row = near.as_ref().map_or(0, |bytes| bytes.len() / read.len().max(1));
        let mut values = vec![0.0; of.rows.len() * cols];
        for (row, out) in of.rows.clone().zip(values.chunks_exact_mut(cols)) {
            let row = of.order.source(row);
            let bytes = match &near {
                Some(near) => Cow::Borrowed(&near[(row - read.start) * of_row..][..of_row]),
                None => self.tensors.rows(matrix, row..row + 1)?,
            };
            hash.write(&bytes);
            moelten_quant::decode(matrix.format, &bytes, out);
            of.order.arrange(out);
        }
        Ok((values, hash.finish()))
    }

    /// Rows in the format of the output.
    fn encoded(&self, of: &Rows, values: &[f32], name: &str) -> Result<Vec<u8>> {
        let format = of.format;
        let fail = |fault| {
            let path =
                self.tensors.catalog().files().get(of.matrix.file).map_or(Path::new("?"), |f| f.path());
            Err(LoadError::malformed(path, format!("tensor {name}"), fault))
        };
        let first = if of.matrix.rows == 1 { 0 } else { of.rows.start * of.order.columns(of.matrix.cols) };
        let at = |index: usize| len_u64(first + index);
        let mut bytes = vec![0; values.len() / format.block_len() * format.block_bytes()];
        match encode_weighted(format, values, of.importance.as_deref(), &mut bytes) {
            Ok(()) => Ok(bytes),
            Err(EncodeError::NotFinite { index }) => {
                let found = if values.get(index).is_some_and(|v| v.is_nan()) { "NaN" } else { "infinity" };
                fail(Fault::NotFinite { found, index: at(index) })
            }
            Err(EncodeError::Unsupported(format)) => Err(LoadError::Unsupported {
                path: name.into(),
                feature: format!("writing {format}"),
                hint: "files in this format can be read alone".into(),
            }),
            Err(EncodeError::OutOfRange { index }) => {
                let value = values.get(index).copied().unwrap_or_default();
                fail(Fault::BadNumber {
                    found: format!("{value} at place {}", at(index)),
                    must: "within the range of the type it is to be stored in",
                })
            }
            Err(other) => fail(Fault::Vocabulary { problem: other.to_string() }),
        }
    }
}

fn zeros(len: u64, out: &mut Vec<Make>) {
    if len > 0 {
        out.push(Make::Zeros(usize::try_from(len).expect("gaps are shorter than an alignment")));
    }
}

/// Bytes of a file in pieces.
fn as_they_are(span: Span, out: &mut Vec<Make>) {
    let Span { file, offset, bytes } = span;
    for start in (0..bytes).step_by(usize::try_from(BYTES_AT_ONCE).expect("a small number")) {
        let bytes = BYTES_AT_ONCE.min(bytes - start);
        out.push(Make::Bytes(Span { file, offset: offset + start, bytes }));
    }
}

/// A matrix in pieces of whole rows.
fn as_they_are_rows(matrix: &MatrixRef, out: &mut Vec<Make>) {
    let of_row = (matrix.bytes / len_u64(matrix.rows.max(1))).max(1);
    let step = usize::try_from((BYTES_AT_ONCE / of_row).max(1)).unwrap_or(usize::MAX);
    for first in (0..matrix.rows).step_by(step) {
        let (offset, bytes) = matrix.place_of(first..matrix.rows.min(first.saturating_add(step)));
        out.push(Make::Bytes(Span { file: matrix.file, offset, bytes }));
    }
}

/// A matrix in pieces of some rows. With `whole_rows` no piece begins or ends within a row.
fn rows(
    (matrix, whole_rows): (MatrixRef, bool),
    format: Option<Format>,
    order: Order,
    importance: Option<Arc<[f32]>>,
    out: &mut Vec<Make>,
) {
    // Blocks of the right format are not rounded again. Floats are unchanged, but checked for NaN and
    // infinity.
    let blocks = !matrix.format.is_float();
    let format = format.filter(|&format| format != matrix.format || !order.is_same() || !blocks);
    let Some(format) = format else {
        if whole_rows {
            return as_they_are_rows(&matrix, out);
        }
        let MatrixRef { file, offset, bytes, .. } = matrix;
        return as_they_are(Span { file, offset, bytes }, out);
    };
    let cols = order.columns(matrix.cols);
    let step = (WEIGHTS_AT_ONCE / cols.max(1)).max(1).next_multiple_of(ROWS_AT_ONCE);
    let all = order.count(matrix.rows);
    for first in (0..all).step_by(step) {
        let rows = first..all.min(first + step);
        let (importance, order) = (importance.clone(), order.clone());
        out.push(Make::Rows(Rows { matrix, rows, format, order, importance }));
    }
}

/// A bank of the plan.
fn at(tensors: &TensorStore, key: BankKey) -> &ExpertBank {
    tensors.bank_at(key).expect("the plan has the banks of the store")
}

fn part_of(bank: &ExpertBank, expert: usize, part: Part) -> &MatrixRef {
    bank.part(expert, part).expect("the plan has the parts of the store")
}

/// Verifies the checksum of an expert's record.
fn verify(tensors: &TensorStore, bank: BankKey, expert: usize) -> Result<()> {
    let bank = at(tensors, bank);
    let record = bank.record(expert).expect("such a piece is made for records only");
    let &RecordRef { file, offset, checksum: expected, .. } = record;
    let found = packed::checksum(tensors.record_bytes(record));
    if found == expected {
        return Ok(());
    }
    let path = tensors.catalog().files().get(file).map_or(Path::new("?"), |file| file.path());
    let field = format!("tensor {}", packed::record_name(bank.kind, bank.key.layer, expert));
    Err(LoadError::Malformed {
        path: path.to_owned(),
        field,
        offset: Some(offset),
        fault: Fault::Checksum { found, expected },
    })
}
