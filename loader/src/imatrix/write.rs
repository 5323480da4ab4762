//! Writes importance files of the GGUF kind, which llama.cpp's `llama-quantize` reads as well.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use std::path::Path;

use moelten_quant::Format;

use super::entry::{CHUNK_SIZE_KEY, CHUNKS_KEY, COUNTS, DATASETS_KEY, Provenance, SUMS, TYPE, TYPE_KEY};
use crate::container::catalog::Storage;
use crate::container::gguf::write::{GgufWriter, TensorPlan};
use crate::container::gguf::{Array, Value};
use crate::error::{Fault, LoadError, Result};
use crate::io::reader::{Scalar, len_u64};
use crate::tensors::roles::{Role, gguf_name};

/// Values that are turned into bytes at once.
const PIECE: usize = 1 << 14;

/// The sums of one matrix, or of one bank of experts.
#[derive(Debug, Clone, Copy)]
pub struct ImportanceEntry<'a> {
    /// The matrix.
    pub role: Role,
    /// Its columns.
    pub cols: usize,
    /// Sums of the squares of its inputs, `[rows, cols]`: one row, or one for each expert.
    pub sums: &'a [f32],
    /// Number of inputs in the sums, `[rows]`.
    pub counts: &'a [u64],
}

/// Writes the file `target`, which appears complete or not at all. `sources` are files that it must not
/// replace.
///
/// # Errors
/// As [`GgufWriter::create`], and [`Fault::OutOfRange`] for more chunks than the format can store.
pub fn write(
    target: &Path,
    provenance: &Provenance,
    entries: &[ImportanceEntry<'_>],
    sources: &[&Path],
) -> Result<()> {
    let small = |key: &str, number: u64| {
        let high = u64::from(u32::MAX);
        let fault = Fault::OutOfRange { found: number.to_string(), low: 0, high };
        u32::try_from(number).map(Value::U32).map_err(|_| LoadError::malformed(target, key, fault))
    };
    let metadata = [
        (TYPE_KEY.to_owned(), Value::Str(TYPE.to_owned())),
        (DATASETS_KEY.to_owned(), Value::Array(Array::Str(provenance.datasets.clone()))),
        (CHUNKS_KEY.to_owned(), small(CHUNKS_KEY, provenance.chunks)?),
        (CHUNK_SIZE_KEY.to_owned(), small(CHUNK_SIZE_KEY, provenance.chunk_size)?),
    ];
    let mut named: Vec<_> = entries.iter().map(|entry| (gguf_name(entry.role), entry)).collect();
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    let plan: Vec<TensorPlan> = named.iter().flat_map(|(name, entry)| plan(name, entry)).collect();
    let mut writer = GgufWriter::create(target, &metadata, &plan, sources)?;
    for (name, entry) in named {
        let sums = format!("{name}{SUMS}");
        for sums_piece in entry.sums.chunks(PIECE) {
            writer.write_tensor(&sums, &bytes(sums_piece.iter().copied()))?;
        }
        writer.write_tensor(
            &format!("{name}{COUNTS}"),
            &bytes(entry.counts.iter().map(|&count| float(count))),
        )?;
    }
    writer.finish()
}

fn plan(name: &str, entry: &ImportanceEntry<'_>) -> [TensorPlan; 2] {
    let rows = len_u64(entry.counts.len());
    [(SUMS, len_u64(entry.cols)), (COUNTS, 1)].map(|(suffix, cols)| TensorPlan {
        name: format!("{name}{suffix}"),
        storage: Storage::Known(Format::F32),
        shape: vec![rows, cols],
    })
}

fn bytes(values: impl Iterator<Item = f32>) -> Vec<u8> {
    let mut bytes = Vec::new();
    values.for_each(|value| value.put_le(&mut bytes));
    bytes
}

/// A count as the format stores it.
#[expect(clippy::as_conversions, reason = "rounding a count of millions changes nothing")]
fn float(count: u64) -> f32 {
    count as f32
}
