//! Parses everything of a GGUF file but the tensors' values: bytes in, metadata and validated tensor ranges out.
//! Source: the GGUF specification (ggml, `docs/gguf.md`). Opens no file.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use std::path::Path;

use super::metadata::{Array, Metadata, Value};
use super::types::GgmlType;
use crate::catalog::{TensorInfo, find_duplicate};
use crate::error::{Fault, LoadError, Result};
use crate::reader::{Reader, Scalar, align_up, len_u64, printable};

/// Metadata entries of one file.
const MAX_ENTRIES: u64 = 1 << 16;
/// Tensors of one file. The largest models keep fewer than 100,000 in all their files.
const MAX_TENSORS: u64 = 1 << 18;
/// Elements of one array: twice the largest vocabulary's merges.
const MAX_ARRAY: u64 = 1 << 21;
/// Bytes of one text value; some files carry a whole `tokenizer.json`.
const MAX_TEXT: u64 = 64 << 20;
/// Bytes of all metadata of a file.
const MAX_METADATA: u64 = 128 << 20;
/// Bytes of a key, from the specification.
const MAX_KEY: u64 = 65_535;
/// Bytes of a tensor name, from the specification.
const MAX_NAME: u64 = 64;
/// Largest alignment; the packed layout uses it.
const MAX_ALIGNMENT: u32 = 65_536;
/// Alignment where the file names none.
pub(crate) const DEFAULT_ALIGNMENT: u32 = 32;
/// The key that sets the alignment of the tensor data.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
/// A key-value pair takes at least this: key length, type, a one-byte value.
const ENTRY_BYTES: u64 = 8 + 4 + 1;
/// A tensor record takes at least this: name length, dimensions, one dimension, type, offset.
const TENSOR_BYTES: u64 = 8 + 4 + 8 + 4 + 8;
/// Never reserve more than this ahead of reading.
const RESERVE: usize = 4096;

/// What a GGUF file says before its tensors' values begin.
#[derive(Debug, Clone)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// The metadata.
    pub metadata: Metadata,
    /// The tensors in file order, with ranges inside the file; [`TensorInfo::file`] is 0.
    pub tensors: Vec<TensorInfo>,
    /// Tensors begin at multiples of this many bytes after the header.
    pub alignment: u64,
    /// Oddities that do no harm, for people.
    pub notices: Vec<String>,
}

impl Header {
    /// Parses the header at the start of `bytes`, the whole file; `path` is for messages.
    ///
    /// # Errors
    /// [`LoadError::Malformed`] with the field and its offset.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        Self::parse_prefix(path, bytes, len_u64(bytes.len()))
    }

    /// Parses `bytes`, the header and perhaps more of a file of `file_len` bytes.
    pub(crate) fn parse_prefix(path: &Path, bytes: &[u8], file_len: u64) -> Result<Self> {
        let mut reader = Reader::new(path, bytes);
        let version = read_version(&mut reader)?;
        let counts_at = reader.offset();
        let n_tensors = reader.count(MAX_TENSORS, TENSOR_BYTES, "n_tensors")?;
        let n_entries = reader.count(MAX_ENTRIES, ENTRY_BYTES, "n_kv")?;

        let mut notices = Vec::new();
        let metadata = read_metadata(&mut reader, n_entries, &mut notices)?;
        // The first check of the count saw the metadata as room for tensors.
        let need = n_tensors.saturating_mul(TENSOR_BYTES);
        if need > reader.remaining() {
            let fault = Fault::Truncated { need, have: reader.remaining() };
            return Err(reader.fault_at(counts_at, "n_tensors", fault));
        }
        let alignment = alignment(&metadata)?;
        let mut records = Vec::with_capacity(usize::try_from(n_tensors).map_or(RESERVE, |n| n.min(RESERVE)));
        for i in 0..n_tensors {
            records.push(read_tensor(&mut reader, i)?);
        }
        let tensors = place(&reader, file_len, alignment, records, &mut notices)?;
        if let Some(twice) = find_duplicate(&tensors) {
            let field = format!("tensor {}", printable(&twice.name));
            return Err(LoadError::malformed(path, field, Fault::Duplicate));
        }
        Ok(Self { version, metadata, tensors, alignment, notices })
    }
}

fn read_version(reader: &mut Reader<'_>) -> Result<u32> {
    let magic = reader.take(4, "magic")?;
    if magic != b"GGUF" {
        return Err(reader.fault_at(0, "magic", Fault::BadMagic { found: magic.to_vec() }));
    }
    let at = reader.offset();
    let version = reader.scalar::<u32>("version")?;
    let hint = match version {
        2 | 3 => return Ok(version),
        1 => ": convert the model again with a current converter",
        _ if matches!(version.swap_bytes(), 1..=3) => ": the file is big-endian",
        _ => "",
    };
    let known = "2 and 3, little-endian, are";
    Err(reader.fault_at(at, "version", Fault::Version { found: version.into(), known, hint }))
}

fn read_metadata(reader: &mut Reader<'_>, count: u64, notices: &mut Vec<String>) -> Result<Metadata> {
    let mut entries = Vec::new();
    let mut lossy = Lossy::default();
    for i in 0..count {
        let key = reader.name(MAX_KEY, format_args!("key {i}"))?.to_owned();
        let value = read_value(reader, &key, &mut lossy)?;
        if reader.offset() > MAX_METADATA {
            let fault = Fault::TooLong { found: reader.offset(), limit: MAX_METADATA };
            return Err(reader.fault("metadata", fault));
        }
        entries.push((key, value));
    }
    if let Some(first) = lossy.first_key {
        let count = lossy.count;
        notices.push(format!(
            "{count} metadata texts are not valid UTF-8, first in {first}; bad bytes replaced"
        ));
    }
    Metadata::new(reader.path(), entries)
}

/// Counts the texts that were not UTF-8.
#[derive(Default)]
struct Lossy {
    count: u64,
    first_key: Option<String>,
}

impl Lossy {
    fn text(&mut self, bytes: &[u8], key: &str) -> String {
        match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => {
                self.count += 1;
                self.first_key.get_or_insert_with(|| printable(key));
                String::from_utf8_lossy(bytes).into_owned()
            }
        }
    }
}

fn read_value(reader: &mut Reader<'_>, key: &str, lossy: &mut Lossy) -> Result<Value> {
    let shown = printable(key);
    let at = reader.offset();
    let kind = reader.scalar::<u32>(&shown)?;
    Ok(match kind {
        0 => Value::U8(reader.scalar(shown)?),
        1 => Value::I8(reader.scalar(shown)?),
        2 => Value::U16(reader.scalar(shown)?),
        3 => Value::I16(reader.scalar(shown)?),
        4 => Value::U32(reader.scalar(shown)?),
        5 => Value::I32(reader.scalar(shown)?),
        6 => Value::F32(reader.scalar(shown)?),
        7 => Value::Bool(read_bool(reader, &shown)?),
        8 => Value::Str(lossy.text(reader.byte_string(MAX_TEXT, &shown)?, key)),
        9 => Value::Array(read_array(reader, key, &shown, lossy)?),
        10 => Value::U64(reader.scalar(shown)?),
        11 => Value::I64(reader.scalar(shown)?),
        12 => Value::F64(reader.scalar(shown)?),
        found => return Err(reader.fault_at(at, shown, Fault::UnknownType { found: found.into() })),
    })
}

fn read_array(reader: &mut Reader<'_>, key: &str, shown: &str, lossy: &mut Lossy) -> Result<Array> {
    fn numbers<T: Scalar>(reader: &mut Reader<'_>, field: &str) -> Result<Vec<T>> {
        let count = reader.count(MAX_ARRAY, len_u64(T::BYTES), field)?;
        reader.scalars(count, field)
    }
    let at = reader.offset();
    let kind = reader.scalar::<u32>(shown)?;
    Ok(match kind {
        0 => Array::U8(numbers(reader, shown)?),
        1 => Array::I8(numbers(reader, shown)?),
        2 => Array::U16(numbers(reader, shown)?),
        3 => Array::I16(numbers(reader, shown)?),
        4 => Array::U32(numbers(reader, shown)?),
        5 => Array::I32(numbers(reader, shown)?),
        6 => Array::F32(numbers(reader, shown)?),
        7 => {
            let count = reader.count(MAX_ARRAY, 1, shown)?;
            Array::Bool((0..count).map(|_| read_bool(reader, shown)).collect::<Result<_>>()?)
        }
        8 => {
            let count = reader.count(MAX_ARRAY, 8, shown)?;
            let mut texts = Vec::with_capacity(usize::try_from(count).map_or(RESERVE, |n| n.min(RESERVE)));
            for _ in 0..count {
                texts.push(lossy.text(reader.byte_string(MAX_TEXT, shown)?, key));
            }
            Array::Str(texts)
        }
        9 => return Err(reader.fault_at(at, shown, Fault::TooDeep { limit: 1 })),
        10 => Array::U64(numbers(reader, shown)?),
        11 => Array::I64(numbers(reader, shown)?),
        12 => Array::F64(numbers(reader, shown)?),
        found => return Err(reader.fault_at(at, shown, Fault::UnknownType { found: found.into() })),
    })
}

fn read_bool(reader: &mut Reader<'_>, field: &str) -> Result<bool> {
    let at = reader.offset();
    match reader.scalar::<u8>(field)? {
        0 => Ok(false),
        1 => Ok(true),
        found => {
            let fault = Fault::OutOfRange { found: found.to_string(), low: 0, high: 1 };
            Err(reader.fault_at(at, field, fault))
        }
    }
}

/// The file's alignment: a u32, a power of two.
fn alignment(metadata: &Metadata) -> Result<u64> {
    let found = match metadata.get(ALIGNMENT_KEY) {
        None => DEFAULT_ALIGNMENT,
        Some(Value::U32(n)) => *n,
        Some(other) => {
            let fault = Fault::WrongType { found: other.type_name().to_owned(), expected: "u32" };
            return Err(metadata.fault(ALIGNMENT_KEY, fault));
        }
    };
    check_alignment(found).map_err(|fault| metadata.fault(ALIGNMENT_KEY, fault))?;
    Ok(found.into())
}

/// Whether tensors can be aligned so.
fn check_alignment(alignment: u32) -> Result<(), Fault> {
    if !(1..=MAX_ALIGNMENT).contains(&alignment) {
        return Err(Fault::OutOfRange { found: alignment.to_string(), low: 1, high: MAX_ALIGNMENT.into() });
    }
    if !alignment.is_power_of_two() {
        return Err(Fault::BadNumber { found: alignment.to_string(), must: "a power of two" });
    }
    Ok(())
}

/// A tensor whose offset still counts from the start of the data section, and the place of its record.
struct Record {
    at: u64,
    tensor: TensorInfo,
}

fn read_tensor(reader: &mut Reader<'_>, index: u64) -> Result<Record> {
    let at = reader.offset();
    let name = reader.name(MAX_NAME, format_args!("name of tensor {index}"))?.to_owned();
    let shown = format!("tensor {}", printable(&name));

    let dims_at = reader.offset();
    let n_dims = reader.scalar::<u32>(&shown)?;
    if !(1..=4).contains(&n_dims) {
        let fault = Fault::OutOfRange { found: n_dims.to_string(), low: 1, high: 4 };
        return Err(reader.fault_at(dims_at, format_args!("{shown} n_dims"), fault));
    }
    let mut shape = reader.scalars::<u64>(n_dims.into(), &shown)?;
    shape.reverse();

    let type_at = reader.offset();
    let id = reader.scalar::<u32>(&shown)?;
    let Some(ggml_type) = GgmlType::from_id(id) else {
        return Err(reader.fault_at(type_at, shown, Fault::UnknownType { found: id.into() }));
    };
    let bytes = ggml_type.tensor_bytes(&shape).map_err(|fault| reader.fault_at(dims_at, &shown, fault))?;
    let offset = reader.scalar::<u64>(&shown)?;
    Ok(Record { at, tensor: TensorInfo { name, storage: ggml_type.storage, shape, file: 0, offset, bytes } })
}

/// Turns offsets into places in the file and checks that the tensors lie in it, aligned and apart.
fn place(
    reader: &Reader<'_>,
    file_len: u64,
    alignment: u64,
    mut records: Vec<Record>,
    notices: &mut Vec<String>,
) -> Result<Vec<TensorInfo>> {
    let data_start = align_up(reader.offset(), alignment).expect("a position in a file is far from 2^64");
    for Record { at, tensor } in &mut records {
        let fault = |fault| reader.fault_at(*at, format_args!("tensor {}", printable(&tensor.name)), fault);
        if tensor.offset % alignment != 0 {
            return Err(fault(Fault::Unaligned { offset: tensor.offset, alignment }));
        }
        let start = tensor.offset.checked_add(data_start).ok_or_else(|| fault(Fault::Overflow))?;
        let end = start.checked_add(tensor.bytes).ok_or_else(|| fault(Fault::Overflow))?;
        if end > file_len {
            return Err(fault(Fault::BeyondEnd { end, file_len }));
        }
        tensor.offset = start;
    }

    let mut in_order: Vec<&Record> = records.iter().filter(|r| r.tensor.bytes > 0).collect();
    in_order.sort_by_key(|r| r.tensor.offset);
    let mut gap_bytes = 0_u64;
    let mut data_end = data_start;
    let mut before: Option<&TensorInfo> = None;
    for Record { at, tensor } in in_order {
        let (start, end) = (tensor.offset, tensor.offset + tensor.bytes);
        if let Some(other) = before.filter(|other| other.offset + other.bytes > start) {
            let fault = Fault::Overlap { other: format!("tensor {}", printable(&other.name)) };
            return Err(reader.fault_at(*at, format_args!("tensor {}", printable(&tensor.name)), fault));
        }
        gap_bytes += start.saturating_sub(data_end);
        data_end =
            align_up(end, alignment).ok_or_else(|| reader.fault_at(*at, "tensor data", Fault::Overflow))?;
        before = Some(tensor);
    }
    if gap_bytes > 0 {
        notices.push(format!("{gap_bytes} bytes between the tensors belong to none; ignored"));
    }
    if file_len > data_end {
        notices.push(format!("{} bytes after the last tensor; ignored", file_len - data_end));
    }
    Ok(records.into_iter().map(|record| record.tensor).collect())
}
