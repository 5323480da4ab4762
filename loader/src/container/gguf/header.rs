//! Parses the header of a GGUF file: metadata and validated tensor ranges.
//! Source: the GGUF specification (ggml, `docs/gguf.md`). It opens no file.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use std::path::Path;

use super::metadata::{Array, Metadata, Value};
use super::types::GgmlType;
use crate::container::catalog::{TensorInfo, find_duplicate};
use crate::error::{Fault, LoadError, Result};
use crate::io::FileBytes;
use crate::io::reader::{Reader, Scalar, align_up, len_u64, printable};

/// Most metadata entries of one file.
pub(super) const MAX_ENTRIES: u64 = 1 << 16;
/// Most tensors of one file. The largest models have fewer than 100,000 in all their files.
pub(super) const MAX_TENSORS: u64 = 1 << 18;
/// Most elements of all arrays of a file together. An empty text takes 8 bytes of the file and 24 bytes of
/// memory. The largest vocabularies have a quarter as many tokens, scores, types and merges.
pub(super) const MAX_ELEMENTS: u64 = 1 << 22;
/// Most bytes of all metadata of a file; some have a whole `tokenizer.json` in it.
const MAX_METADATA: u64 = 64 << 20;
/// Longest key in bytes, from the specification.
pub(super) const MAX_KEY: u64 = 65_535;
/// Longest tensor name in bytes, from the specification.
const MAX_NAME: u64 = 64;
/// Largest alignment; the packed layout uses it.
const MAX_ALIGNMENT: u32 = 65_536;
/// Alignment where the file names none.
pub(crate) const DEFAULT_ALIGNMENT: u32 = 32;
/// The key that sets the alignment of the tensor data.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
/// Numbers of types in front of values, from the specification: a text, an array.
pub(super) const TEXT: u32 = 8;
pub(super) const ARRAY: u32 = 9;
/// A key-value pair takes at least this: key length, type, a one-byte value.
const ENTRY_BYTES: u64 = 8 + 4 + 1;
/// A tensor record takes at least this: name length, dimensions, one dimension, type, offset.
const TENSOR_BYTES: u64 = 8 + 4 + 8 + 4 + 8;

/// Everything in a GGUF file before the values of its tensors.
#[derive(Debug, Clone)]
pub struct Header {
    /// Version of the format, 2 or 3.
    pub version: u32,
    /// Keys and values in file order.
    pub metadata: Metadata,
    /// The tensors in file order, with ranges inside the file; [`TensorInfo::file`] is 0.
    pub tensors: Vec<TensorInfo>,
    /// Tensors begin at multiples of this many bytes.
    pub alignment: u64,
    /// Harmless oddities of the files, to be shown to the user.
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

    /// Parses the header of an open file, of which each byte is read once.
    ///
    /// # Errors
    /// As [`Self::parse`]; [`LoadError::Io`].
    pub fn read(file: &FileBytes) -> Result<Self> {
        Self::parse_with(file.cursor(), file.size())
    }

    /// Parses `bytes`, the header and perhaps more of a file of `file_len` bytes.
    ///
    /// # Errors
    /// As [`Self::parse`]; [`Fault::Truncated`] if the header is longer than `bytes`.
    pub fn parse_prefix(path: &Path, bytes: &[u8], file_len: u64) -> Result<Self> {
        Self::parse_with(Reader::new(path, bytes), file_len)
    }

    fn parse_with(mut reader: Reader<'_>, file_len: u64) -> Result<Self> {
        let path = reader.path();
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
        let mut records = Vec::with_capacity(reserve(n_tensors));
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

/// How many of `count` records to reserve memory for. A large count alone must not take memory.
fn reserve(count: u64) -> usize {
    usize::try_from(count.min(4096)).expect("4096 fits")
}

pub(super) fn read_version(reader: &mut Reader<'_>) -> Result<u32> {
    let found = reader.bytes(4, "magic")?;
    if found != b"GGUF" {
        return Err(reader.fault_at(0, "magic", Fault::BadMagic { found }));
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
    let mut values = EntryReader::new(reader);
    let mut entries = Vec::new();
    for i in 0..count {
        let key = values.reader.name(MAX_KEY, format_args!("key {i}"))?;
        let value = values.value(&printable(&key))?;
        values.within_limit(0)?;
        entries.push((key, value));
    }
    if let EntryReader { lossy, first_lossy: Some(first), .. } = values {
        let what = "metadata texts are not valid UTF-8, first in";
        notices.push(format!("{lossy} {what} {first}; bad bytes replaced"));
    }
    Metadata::new(reader.path(), entries)
}

/// Reads values within the limits of one file. Messages show the key as `field`.
pub(super) struct EntryReader<'r, 'a> {
    pub(super) reader: &'r mut Reader<'a>,
    /// Array elements that are still allowed.
    elements_left: u64,
    /// Texts that were not UTF-8.
    lossy: u64,
    /// The first key with such a text.
    first_lossy: Option<String>,
}

impl<'r, 'a> EntryReader<'r, 'a> {
    pub(super) fn new(reader: &'r mut Reader<'a>) -> Self {
        Self { reader, elements_left: MAX_ELEMENTS, lossy: 0, first_lossy: None }
    }

    pub(super) fn value(&mut self, field: &str) -> Result<Value> {
        let at = self.reader.offset();
        Ok(match self.reader.scalar::<u32>(field)? {
            0 => Value::U8(self.reader.scalar(field)?),
            1 => Value::I8(self.reader.scalar(field)?),
            2 => Value::U16(self.reader.scalar(field)?),
            3 => Value::I16(self.reader.scalar(field)?),
            4 => Value::U32(self.reader.scalar(field)?),
            5 => Value::I32(self.reader.scalar(field)?),
            6 => Value::F32(self.reader.scalar(field)?),
            7 => Value::Bool(read_bool(self.reader, field)?),
            TEXT => Value::Str(self.text(field)?),
            ARRAY => Value::Array(self.array(field)?),
            10 => Value::U64(self.reader.scalar(field)?),
            11 => Value::I64(self.reader.scalar(field)?),
            12 => Value::F64(self.reader.scalar(field)?),
            found => return Err(self.reader.fault_at(at, field, Fault::UnknownType { found: found.into() })),
        })
    }

    fn array(&mut self, field: &str) -> Result<Array> {
        let at = self.reader.offset();
        Ok(match self.reader.scalar::<u32>(field)? {
            0 => Array::U8(self.numbers(field)?),
            1 => Array::I8(self.numbers(field)?),
            2 => Array::U16(self.numbers(field)?),
            3 => Array::I16(self.numbers(field)?),
            4 => Array::U32(self.numbers(field)?),
            5 => Array::I32(self.numbers(field)?),
            6 => Array::F32(self.numbers(field)?),
            7 => {
                let count = self.count(1, field)?;
                Array::Bool((0..count).map(|_| read_bool(self.reader, field)).collect::<Result<_>>()?)
            }
            8 => {
                let count = self.count(8, field)?;
                let mut texts = Vec::with_capacity(reserve(count));
                for _ in 0..count {
                    texts.push(self.text(field)?);
                }
                Array::Str(texts)
            }
            9 => return Err(self.reader.fault_at(at, field, Fault::TooDeep { limit: 1 })),
            10 => Array::U64(self.numbers(field)?),
            11 => Array::I64(self.numbers(field)?),
            12 => Array::F64(self.numbers(field)?),
            found => return Err(self.reader.fault_at(at, field, Fault::UnknownType { found: found.into() })),
        })
    }

    /// Refuses metadata beyond the limit before memory is taken for the next `bytes` bytes.
    fn within_limit(&self, bytes: u64) -> Result<()> {
        let end = self.reader.offset().saturating_add(bytes);
        if end > MAX_METADATA {
            return Err(self.reader.fault("metadata", Fault::TooLong { found: end, limit: MAX_METADATA }));
        }
        Ok(())
    }

    /// The length of an array whose elements take at least `element_bytes` each.
    fn count(&mut self, element_bytes: u64, field: &str) -> Result<u64> {
        let count = self.reader.count(self.elements_left, element_bytes, field)?;
        self.elements_left -= count;
        self.within_limit(count.saturating_mul(element_bytes))?;
        Ok(count)
    }

    fn numbers<T: Scalar>(&mut self, field: &str) -> Result<Vec<T>> {
        let count = self.count(len_u64(T::BYTES), field)?;
        self.reader.scalars(count, field)
    }

    fn text(&mut self, field: &str) -> Result<String> {
        let len = self.reader.count(u64::MAX, 1, field)?;
        self.within_limit(len)?;
        let bytes = self.reader.bytes(len, field)?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| {
            self.lossy += 1;
            self.first_lossy.get_or_insert_with(|| field.to_owned());
            String::from_utf8_lossy(error.as_bytes()).into_owned()
        }))
    }
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

/// Refuses an alignment that is out of range or no power of two.
fn check_alignment(alignment: u32) -> Result<(), Fault> {
    if !(1..=MAX_ALIGNMENT).contains(&alignment) {
        return Err(Fault::OutOfRange { found: alignment.to_string(), low: 1, high: MAX_ALIGNMENT.into() });
    }
    if !alignment.is_power_of_two() {
        return Err(Fault::BadNumber { found: alignment.to_string(), must: "a power of two" });
    }
    Ok(())
}

/// The alignment that a value gives, if it is one.
pub(super) fn sound_alignment(value: &Value) -> Option<u64> {
    let Value::U32(number) = value else { return None };
    check_alignment(*number).ok()?;
    Some((*number).into())
}

/// A tensor whose offset still counts from the start of the data section, and the offset of its record.
pub(super) struct Record {
    at: u64,
    pub(super) tensor: TensorInfo,
}

pub(super) fn read_tensor(reader: &mut Reader<'_>, index: u64) -> Result<Record> {
    let at = reader.offset();
    let name = reader.name(MAX_NAME, format_args!("name of tensor {index}"))?;
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

/// Makes offsets relative to the file and checks that the tensors are inside it, aligned and disjoint.
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
        notices.push(format!("{gap_bytes} unused bytes between tensors; ignored"));
    }
    if file_len > data_end {
        notices.push(format!("{} unused bytes after the last tensor; ignored", file_len - data_end));
    }
    Ok(records.into_iter().map(|record| record.tensor).collect())
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test fails where it stands")]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;
    use crate::io::read_at::ReadAt;

    /// A file that another process fills with 0xff behind each read.
    struct Overwritten(Mutex<Vec<u8>>);

    impl ReadAt for Overwritten {
        fn align(&self) -> usize {
            1
        }

        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let mut bytes = self.0.lock().unwrap();
            let rest = bytes.get_mut(usize::try_from(offset).unwrap()..).unwrap_or_default();
            let len = rest.len().min(buffer.len());
            buffer[..len].copy_from_slice(&rest[..len]);
            rest[..len].fill(0xff);
            Ok(len)
        }
    }

    /// Two arrays that reach over several windows, and one text larger than a window.
    fn large() -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        let text = |out: &mut Vec<u8>, text: &str| {
            len_u64(text.len()).put_le(out);
            out.extend_from_slice(text.as_bytes());
        };
        0_u64.put_le(&mut out);
        3_u64.put_le(&mut out);
        text(&mut out, "tokens");
        [9_u32, 8].into_iter().for_each(|kind| kind.put_le(&mut out));
        50_000_u64.put_le(&mut out);
        (0..50_000).for_each(|i| text(&mut out, &format!("token {i} é")));
        text(&mut out, "scores");
        [9_u32, 6].into_iter().for_each(|kind| kind.put_le(&mut out));
        50_000_u64.put_le(&mut out);
        (0_u16..50_000).for_each(|i| f32::from(i).put_le(&mut out));
        text(&mut out, "long");
        8_u32.put_le(&mut out);
        text(&mut out, &"é".repeat(100_000));
        out
    }

    /// No byte is read twice. What is checked is a copy, so a file that changes meanwhile cannot change it.
    #[test]
    fn each_byte_is_read_once() {
        let (path, bytes) = (Path::new("f"), large());
        let file = Overwritten(Mutex::new(bytes.clone()));
        let len = len_u64(bytes.len());
        let read = Header::parse_with(Reader::of_file(path, &file, len), len).unwrap();
        let plain = Header::parse(path, &bytes).unwrap();
        assert!(read.metadata.iter().eq(plain.metadata.iter()));
        assert_eq!(read.metadata.strings("tokens").unwrap().unwrap()[49_999], "token 49999 é");
        assert!(file.0.lock().unwrap().iter().all(|&byte| byte == 0xff), "all of it was read");
    }

    /// A file that another process cuts while it is read.
    #[test]
    fn a_shrinking_file_is_an_error_of_the_system() {
        let (path, bytes) = (Path::new("f"), large());
        let file = Overwritten(Mutex::new(bytes[..200_000].to_vec()));
        let len = len_u64(bytes.len());
        let error = Header::parse_with(Reader::of_file(path, &file, len), len).unwrap_err();
        assert!(
            matches!(&error, LoadError::Io { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof),
            "{error}"
        );
    }
}
