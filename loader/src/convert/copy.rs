//! The copying of a conversion: decodes and encodes rows, or takes them as they are, and puts the records of experts
//! together. It holds no more than some rows and one record. It must not know what a file's header says.

use std::borrow::Cow;
use std::path::Path;

use moelten_quant::{EncodeError, Format, Layout, QMatrix, deinterleave, interleave};

use super::{Output, Progress, RowPairs, Values, experts_role};
use crate::error::{Fault, LoadError, Result};
use crate::gguf_write::GgufWriter;
use crate::packed::{self, PackedIndex, PackedMatrix};
use crate::roles::Part;
use crate::store::{MatrixRef, RecordRef, TensorStore};

/// Weights that are converted at once.
const WEIGHTS_AT_ONCE: usize = 1 << 20;
/// Bytes that are copied at once.
const BYTES_AT_ONCE: usize = 1 << 20;

/// Takes bytes as they come; `false` ends the work.
type Sink<'s> = &'s mut dyn FnMut(&[u8]) -> Result<bool>;

/// Copies tensors, one after the other.
pub(super) struct Copy<'a> {
    tensors: &'a TensorStore,
    packed: Option<&'a PackedIndex>,
    written: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress) -> bool,
    /// Of the records that are written.
    checksums: Vec<u64>,
    /// The record in the making.
    record: Vec<u8>,
}

impl<'a> Copy<'a> {
    /// Copies `total` bytes out of `tensors`, in records as `packed` says.
    pub fn new(
        tensors: &'a TensorStore,
        packed: Option<&'a PackedIndex>,
        total: u64,
        progress: &'a mut dyn FnMut(Progress) -> bool,
    ) -> Self {
        Self { tensors, packed, written: 0, total, progress, checksums: Vec::new(), record: Vec::new() }
    }

    /// The checksums of all records, in the order in which they were written.
    pub fn into_checksums(self) -> Vec<u64> {
        self.checksums
    }

    /// Writes one tensor; `false` when the caller wants an end.
    pub fn tensor(&mut self, output: &Output, writer: &mut GgufWriter) -> Result<bool> {
        let (tensors, name) = (self.tensors, &output.plan.name);
        let mut write = |bytes: &[u8]| {
            writer.write_tensor(name, bytes)?;
            self.written += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            Ok((self.progress)(Progress { written: self.written, total: self.total }))
        };
        match &output.values {
            Values::Numbers(numbers) => {
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                write(&bytes)
            }
            Values::Tensor(tensor) => in_pieces(tensors.catalog().bytes(tensor), &mut write),
            Values::Matrix { matrix, format, pairs } => {
                encoded(tensors, name, matrix, *format, *pairs, &mut write)
            }
            Values::Bank { layer, part, encode } => {
                for (expert, matrices) in tensors.experts(*layer).iter().enumerate() {
                    // Once for each record: the first bank that takes something from it.
                    if *part == Part::Gate {
                        verify(tensors, *layer, expert)?;
                    }
                    let matrix = matrices.part(*part);
                    let go_on = match encode {
                        Some(format) => encoded(tensors, name, matrix, *format, None, &mut write)?,
                        None => stored_rows(&tensors.view(matrix), &mut write)?,
                    };
                    if !go_on {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Values::Record { layer, expert, encode } => {
                fill_record(tensors, self.packed, *layer, *expert, *encode, &mut self.record)?;
                self.checksums.push(packed::checksum(&self.record));
                write(&self.record)
            }
        }
    }
}

/// Puts the record of an expert together.
fn fill_record(
    tensors: &TensorStore,
    packed: Option<&PackedIndex>,
    layer: usize,
    expert: usize,
    encode: bool,
    record: &mut Vec<u8>,
) -> Result<()> {
    verify(tensors, layer, expert)?;
    let matrices = tensors.experts(layer).get(expert).expect("the plan has the experts of the store");
    let shape =
        packed.and_then(|packed| packed.layer(layer)).expect("the plan has a shape for its records").shape;
    record.clear();
    record.resize(usize::try_from(shape.bytes).expect("the weights of an expert fit in memory"), 0);
    for part in Part::ALL {
        let (place, matrix) = (shape.part(part), matrices.part(part));
        let view = tensors.view(matrix);
        let out = window(place, record);
        if encode {
            let mut rows = Vec::with_capacity(out.len());
            let name = experts_role(layer, part).to_string();
            encoded(tensors, &name, matrix, place.format, None, &mut |bytes| {
                rows.extend_from_slice(bytes);
                Ok(true)
            })?;
            put_rows(place, &rows, out);
        } else if view.layout() == place.layout {
            out.copy_from_slice(view.data());
        } else {
            put_rows(place, &whole_rows(&view), out);
        }
    }
    Ok(())
}

/// The bytes of a matrix in its record.
fn window<'r>(place: &PackedMatrix, record: &'r mut [u8]) -> &'r mut [u8] {
    let fits = "a record in memory has all of its matrices";
    let (offset, bytes) =
        (usize::try_from(place.offset).expect(fits), usize::try_from(place.bytes).expect(fits));
    &mut record[offset..][..bytes]
}

/// Rows, one after the other, in the order that the record has them.
fn put_rows(place: &PackedMatrix, rows: &[u8], out: &mut [u8]) {
    match place.layout {
        Layout::Rows => out.copy_from_slice(rows),
        Layout::Interleaved => interleave(place.format, rows.len() / place.rows, rows, out),
    }
}

/// All rows of a matrix, one after the other.
fn whole_rows<'a>(view: &QMatrix<'a>) -> Cow<'a, [u8]> {
    match view.layout() {
        Layout::Rows => Cow::Borrowed(view.data()),
        Layout::Interleaved => {
            let mut rows = vec![0; view.data().len()];
            deinterleave(view.format(), view.row_bytes(), view.data(), &mut rows);
            Cow::Owned(rows)
        }
    }
}

/// Gives the rows of a matrix as they are stored, one after the other.
fn stored_rows(view: &QMatrix<'_>, sink: Sink<'_>) -> Result<bool> {
    if view.layout() == Layout::Rows {
        return in_pieces(view.data(), sink);
    }
    let sixteens = (BYTES_AT_ONCE / view.row_bytes()).max(1).next_multiple_of(16);
    for first in (0..view.rows()).step_by(sixteens) {
        let last = view.rows().min(first + sixteens);
        if !sink(&whole_rows(&view.slice_rows(first..last)))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives bytes in pieces, so that the work can end between them.
fn in_pieces(bytes: &[u8], sink: Sink<'_>) -> Result<bool> {
    for piece in bytes.chunks(BYTES_AT_ONCE) {
        if !sink(piece)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives the rows of a matrix in another format, reordered as `pairs` say.
fn encoded(
    tensors: &TensorStore,
    name: &str,
    matrix: &MatrixRef,
    format: Format,
    pairs: Option<RowPairs>,
    sink: Sink<'_>,
) -> Result<bool> {
    let view = tensors.view(matrix);
    // A vector of pairs (a bias) is permuted by value, a matrix by row.
    let (rows, cols) = if matrix.rows == 1 { (matrix.cols, 1) } else { (matrix.rows, matrix.cols) };
    let mut vector = vec![0.0; if matrix.rows == 1 { rows } else { 0 }];
    if matrix.rows == 1 {
        view.decode_row(0, &mut vector);
    }
    let step = (WEIGHTS_AT_ONCE / cols).clamp(1, rows);
    let step = if matrix.rows == 1 { rows } else { step };
    let mut values = vec![0.0; step * cols];
    for first in (0..rows).step_by(step) {
        let count = step.min(rows - first);
        let values = &mut values[..count * cols];
        for (row, out) in (first..first + count).zip(values.chunks_exact_mut(cols)) {
            let source = pairs.map_or(row, |pairs| pairs.source(row));
            match vector.get(source) {
                Some(&value) => out.fill(value),
                None => view.decode_row(source, out),
            }
        }
        if !sink(&encode(tensors, name, format, values)?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn encode(tensors: &TensorStore, name: &str, format: Format, values: &[f32]) -> Result<Vec<u8>> {
    let fail = |fault| {
        let path = tensors.catalog().files().first().map_or(Path::new("?"), |file| file.path());
        Err(LoadError::malformed(path, format!("tensor {name}"), fault))
    };
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        let found = if values.get(index).is_some_and(|v| v.is_nan()) { "NaN" } else { "infinity" };
        return fail(Fault::NotFinite { found, index: u64::try_from(index).unwrap_or(u64::MAX) });
    }
    let blocks = values.len() / format.block_len();
    let mut bytes = vec![0; blocks * format.block_bytes()];
    match moelten_quant::encode(format, values, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(EncodeError::Unsupported(format)) => Err(LoadError::Unsupported {
            path: name.into(),
            feature: format!("writing {format}"),
            hint: "every format but Q2_K and Q3_K can be written".into(),
        }),
        Err(other) => fail(Fault::Vocabulary { problem: other.to_string() }),
    }
}

/// Holds the record of an expert against its checksum, if the source has records.
fn verify(tensors: &TensorStore, layer: usize, expert: usize) -> Result<()> {
    let Some(record) = tensors.record(layer, expert) else { return Ok(()) };
    let &RecordRef { file, offset, checksum: expected, .. } = record;
    let found = packed::checksum(tensors.record_bytes(record));
    if found == expected {
        return Ok(());
    }
    let path = tensors.catalog().files().get(file).map_or(Path::new("?"), |file| file.path());
    let field = format!("tensor {}", packed::record_name(layer, expert));
    Err(LoadError::Malformed {
        path: path.to_owned(),
        field,
        offset: Some(offset),
        fault: Fault::Checksum { found, expected },
    })
}
