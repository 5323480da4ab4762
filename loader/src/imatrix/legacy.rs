//! The older binary kind of importance files. It has no magic bytes and no column counts: a count of entries,
//! and for each its name, the number of chunks, and the mean squares times that number. All experts of a bank
//! have one count; an expert that no token was routed to has the same number in all columns.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use super::entry::{MatrixSums, Provenance};
use crate::error::{Fault, Result};
use crate::io::FileBytes;
use crate::io::reader::{Reader, name_fault, printable};

/// Most entries: far more than any model has matrices, those of experts included.
const MAX_ENTRIES: i32 = 1 << 20;
/// Longest name in bytes.
const MAX_NAME: i32 = 1 << 12;

/// Entries and provenance of a file.
pub(super) fn read(file: &FileBytes) -> Result<(Vec<MatrixSums>, Provenance)> {
    let mut reader = file.cursor();
    let number = number(&mut reader, "number of entries of an importance file", 1, MAX_ENTRIES)?;
    let mut entries = Vec::new();
    for index in 0..number {
        let field = format!("entry {index}");
        let len = self::number(&mut reader, &format!("{field}: length of its name"), 1, MAX_NAME)?;
        let at = reader.offset();
        let name = text(&mut reader, len, &field)?;
        if let Some(fault) = name_fault(&name) {
            return Err(reader.fault_at(at, field, fault));
        }
        let field = printable(&name);
        let pieces = self::number(&mut reader, &format!("{field}: its count"), 1, i32::MAX)?;
        let len = self::number(&mut reader, &format!("{field}: number of its sums"), 1, i32::MAX)?;
        let offset = reader.offset();
        reader.skip(len.saturating_mul(4), &field)?;
        entries.push(MatrixSums {
            name,
            expert: None,
            offset,
            len: usize::try_from(len).map_err(|_| reader.fault(&field, Fault::Overflow))?,
            cols: None,
            counts: vec![count(pieces)],
            equal_is_unseen: true,
        });
    }
    let mut provenance = Provenance::default();
    // Older files end here.
    if reader.remaining() > 0 {
        provenance.chunks = self::number(&mut reader, "number of pieces", 0, i32::MAX)?;
    }
    if reader.remaining() > 0 {
        let len = self::number(&mut reader, "length of the text's name", 0, MAX_NAME)?;
        provenance.datasets.push(text(&mut reader, len, "name of the text")?);
    }
    match reader.remaining() {
        0 => Ok((entries, provenance)),
        rest => {
            let found = format!("followed by {rest} bytes");
            let other = "an importance file, which ends there".to_owned();
            Err(reader.fault("name of the text", Fault::Contradiction { found, other }))
        }
    }
}

/// A 32-bit number within bounds, none of them negative.
fn number(reader: &mut Reader<'_>, field: &str, low: i32, high: i32) -> Result<u64> {
    let at = reader.offset();
    let number = reader.scalar::<i32>(field)?;
    let wide = |number: i32| u64::try_from(number).unwrap_or(0);
    if !(low..=high).contains(&number) {
        let fault = Fault::OutOfRange { found: number.to_string(), low: wide(low), high: wide(high) };
        return Err(reader.fault_at(at, field, fault));
    }
    Ok(wide(number))
}

fn text(reader: &mut Reader<'_>, len: u64, field: &str) -> Result<String> {
    let at = reader.offset();
    let bytes = reader.bytes(len, field)?;
    String::from_utf8(bytes).map_err(|_| reader.fault_at(at, field, Fault::NotUtf8))
}

/// A count as the GGUF kind stores it.
#[expect(clippy::as_conversions, reason = "rounding a count of millions changes nothing")]
fn count(pieces: u64) -> f32 {
    pieces as f32
}
