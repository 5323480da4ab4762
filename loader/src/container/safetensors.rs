//! The safetensors container: reads the header of one file into validated tensor ranges, gives typed access
//! to small files, and writes small files. Source: the format's specification (huggingface/safetensors
//! README). Stricter than it where parsers disagree: no duplicate keys, no holes, no byte in two tensors.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use std::fmt;
use std::path::Path;

use moelten_quant::Format;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::container::catalog::{Catalog, Storage, TensorInfo};
use crate::container::sniff;
use crate::error::{Fault, LoadError, Result};
use crate::io::FileBytes;
use crate::io::json::{self, MAX_DEPTH};
use crate::io::output::PartialFile;
use crate::io::reader::{Reader, Scalar, len_u64, name_fault, printable};

/// Bytes of a header, from the reference implementation.
const MAX_HEADER: u64 = 100_000_000;
/// Tensors of one file. The largest models keep fewer than 150,000 in all their files.
const MAX_TENSORS: u64 = 1 << 18;
/// Bytes of a tensor name.
const MAX_NAME: u64 = 512;
/// Dimensions of a tensor.
const MAX_DIMS: usize = 8;
/// Bytes of a header that are read and checked at a time.
const TEXT_PIECE: u64 = 1 << 20;
/// Bytes before the header: its length.
const LENGTH_BYTES: u64 = 8;

/// `(name, what it is for us, bits per value)`: the table of value types.
const DTYPES: [(&str, Storage, u64); 22] = [
    ("F32", Storage::Known(Format::F32), 32),
    ("F16", Storage::Known(Format::F16), 16),
    ("BF16", Storage::Known(Format::BF16), 16),
    ("F64", Storage::Other("F64"), 64),
    ("C64", Storage::Other("C64"), 64),
    ("I64", Storage::Other("I64"), 64),
    ("I32", Storage::Other("I32"), 32),
    ("I16", Storage::Other("I16"), 16),
    ("I8", Storage::Other("I8"), 8),
    ("U64", Storage::Other("U64"), 64),
    ("U32", Storage::Other("U32"), 32),
    ("U16", Storage::Other("U16"), 16),
    ("U8", Storage::Other("U8"), 8),
    ("BOOL", Storage::Other("BOOL"), 8),
    ("F8_E5M2", Storage::Other("F8_E5M2"), 8),
    ("F8_E4M3", Storage::Other("F8_E4M3"), 8),
    ("F8_E5M2FNUZ", Storage::Other("F8_E5M2FNUZ"), 8),
    ("F8_E4M3FNUZ", Storage::Other("F8_E4M3FNUZ"), 8),
    ("F8_E8M0", Storage::Other("F8_E8M0"), 8),
    ("F6_E2M3", Storage::Other("F6_E2M3"), 6),
    ("F6_E3M2", Storage::Other("F6_E3M2"), 6),
    ("F4", Storage::Other("F4"), 4),
];

/// Parses the header of the file `bytes` into its tensors, in the order of their data; `path` is for
/// messages. [`TensorInfo::file`] is 0.
///
/// # Errors
/// [`LoadError::Malformed`].
pub fn parse_header(path: &Path, bytes: &[u8]) -> Result<Vec<TensorInfo>> {
    parse_with(Reader::new(path, bytes))
}

/// Parses the header of a file that the reader is at the start of.
fn parse_with(mut reader: Reader<'_>) -> Result<Vec<TensorInfo>> {
    let file_len = reader.remaining();
    let header_len = reader.scalar::<u64>("header length")?;
    if header_len > MAX_HEADER {
        let fault = Fault::OutOfRange { found: header_len.to_string(), low: 2, high: MAX_HEADER };
        return Err(reader.fault_at(0, "header length", fault));
    }
    let text = read_text(&mut reader, header_len)?;
    let entries = parse_entries(&reader, &text)?;
    drop(text);
    let data_start = LENGTH_BYTES + header_len;
    let mut tensors = entries
        .into_iter()
        .map(|(name, entry)| entry.into_tensor(&reader, name, data_start))
        .collect::<Result<Vec<_>>>()?;
    check_tiling(&reader, &mut tensors, data_start, file_len)?;
    Ok(tensors)
}

/// A copy of the header's JSON. Reading stops as soon as a limit is exceeded.
fn read_text(reader: &mut Reader<'_>, header_len: u64) -> Result<Vec<u8>> {
    if header_len > reader.remaining() {
        let fault = Fault::Truncated { need: header_len, have: reader.remaining() };
        return Err(reader.fault("header", fault));
    }
    let (mut text, mut scan) = (Vec::new(), json::Scan::default());
    while len_u64(text.len()) < header_len {
        let piece = reader.bytes((header_len - len_u64(text.len())).min(TEXT_PIECE), "header")?;
        if text.is_empty() && piece.first() != Some(&b'{') {
            let found = piece.get(..piece.len().min(8)).unwrap_or_default().to_vec();
            return Err(reader.fault_at(LENGTH_BYTES, "header", Fault::BadMagic { found }));
        }
        scan.feed(&piece);
        text.extend(piece);
        if scan.outline.depth > MAX_DEPTH {
            return Err(reader.fault_at(LENGTH_BYTES, "header", Fault::TooDeep { limit: MAX_DEPTH }));
        }
        // One more than tensors for `__metadata__`.
        if scan.outline.members > MAX_TENSORS + 1 {
            let found = scan.outline.members.to_string();
            let fault = Fault::OutOfRange { found, low: 0, high: MAX_TENSORS };
            return Err(reader.fault_at(LENGTH_BYTES, "number of tensors", fault));
        }
    }
    Ok(text)
}

/// The header's JSON as names and entries.
fn parse_entries(reader: &Reader<'_>, text: &[u8]) -> Result<Vec<(String, Entry)>> {
    let fail = |fault| Err(reader.fault_at(LENGTH_BYTES, "header", fault));
    if text.is_empty() {
        return fail(Fault::BadMagic { found: Vec::new() });
    }
    if let Err(error) = std::str::from_utf8(text) {
        let at = LENGTH_BYTES + len_u64(error.valid_up_to());
        return Err(reader.fault_at(at, "header", Fault::NotUtf8));
    }
    match serde_json::from_slice::<Entries>(text) {
        Ok(Entries { tensors, metadata }) => {
            check_names(reader, tensors.iter().map(|(name, _)| name.as_str()), "tensor")?;
            check_names(reader, metadata.iter().map(|(key, _)| key.as_str()), "__metadata__")?;
            Ok(tensors)
        }
        Err(error) => fail(json::fault(&error)),
    }
}

/// Refuses names that occur twice (parsers disagree on which one counts), and empty, long and unprintable
/// names.
fn check_names<'a>(reader: &Reader<'_>, names: impl Iterator<Item = &'a str>, what: &str) -> Result<()> {
    let mut sorted: Vec<&str> = names.collect();
    sorted.sort_unstable();
    let twice = sorted.array_windows().find_map(|[a, b]| (a == b).then_some(*a));
    let bad = sorted.iter().find_map(|name| {
        let too_long = Fault::TooLong { found: len_u64(name.len()), limit: MAX_NAME };
        let fault = name_fault(name).or((len_u64(name.len()) > MAX_NAME).then_some(too_long))?;
        Some((*name, fault))
    });
    match twice.map(|name| (name, Fault::Duplicate)).or(bad) {
        None => Ok(()),
        Some((name, fault)) => {
            Err(reader.fault_at(LENGTH_BYTES, format_args!("{what} {}", printable(name)), fault))
        }
    }
}

/// Sorts the tensors by offset and checks that they cover each byte of the data section exactly once.
fn check_tiling(
    reader: &Reader<'_>,
    tensors: &mut [TensorInfo],
    data_start: u64,
    file_len: u64,
) -> Result<()> {
    tensors.sort_by_key(|t| (t.offset, t.bytes));
    let mut end = data_start;
    let mut before: Option<&TensorInfo> = None;
    for tensor in tensors.iter() {
        let fail = |fault| {
            Err(reader.fault_at(tensor.offset, format_args!("tensor {}", printable(&tensor.name)), fault))
        };
        if tensor.offset > end {
            return fail(Fault::Hole { bytes: tensor.offset - end });
        }
        if let Some(other) = before
            && tensor.offset < end
        {
            return fail(Fault::Overlap { other: format!("tensor {}", printable(&other.name)) });
        }
        end = tensor.offset + tensor.bytes;
        if end > file_len {
            return fail(Fault::BeyondEnd { end, file_len });
        }
        before = Some(tensor);
    }
    if end < file_len {
        return Err(reader.fault_at(end, "end of the file", Fault::Hole { bytes: file_len - end }));
    }
    Ok(())
}

/// The entries of a header, duplicates included.
struct Entries {
    tensors: Vec<(String, Entry)>,
    metadata: Vec<(String, String)>,
}

#[derive(serde::Deserialize)]
struct Entry {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

/// At most [`MAX_DIMS`] dimensions, so that a long list takes no memory.
struct Shape(Vec<u64>);

/// A JSON object as a list, which keeps duplicates.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Entries { tensors: Vec::new(), metadata: Vec::new() };
                let mut has_metadata = false;
                while let Some(name) = map.next_key::<String>()? {
                    if name != "__metadata__" {
                        entries.tensors.push((name, map.next_value()?));
                    } else if has_metadata {
                        return Err(A::Error::duplicate_field("__metadata__"));
                    } else {
                        entries.metadata = map.next_value::<Pairs>()?.0;
                        has_metadata = true;
                    }
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ShapeVisitor;
        impl<'de> Visitor<'de> for ShapeVisitor {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX_DIMS} dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut dims = Vec::new();
                while let Some(dim) = seq.next_element()? {
                    if dims.len() == MAX_DIMS {
                        return Err(A::Error::invalid_length(dims.len() + 1, &self));
                    }
                    dims.push(dim);
                }
                Ok(Shape(dims))
            }
        }
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

impl Entry {
    fn into_tensor(self, reader: &Reader<'_>, name: String, data_start: u64) -> Result<TensorInfo> {
        let fail =
            |fault| Err(reader.fault_at(LENGTH_BYTES, format_args!("tensor {}", printable(&name)), fault));
        let Some((_, storage, bits)) = DTYPES.into_iter().find(|(dtype, ..)| *dtype == self.dtype) else {
            let found = format!("of the type {}", printable(&self.dtype));
            return fail(Fault::WrongType { found, expected: "of a type of the safetensors format" });
        };
        let Shape(shape) = self.shape;
        let values = shape.iter().try_fold(1_u64, |n, &dim| n.checked_mul(dim));
        let Some(total_bits) = values.and_then(|n| n.checked_mul(bits)) else {
            return fail(Fault::Overflow);
        };
        let (start, end) = self.data_offsets;
        if end.checked_sub(start).and_then(|bytes| bytes.checked_mul(8)) != Some(total_bits) {
            let found = format!("at data_offsets {start} to {end}");
            let other =
                format!("its shape {shape:?} of {} ({} bytes)", storage.name(), total_bits.div_ceil(8));
            return fail(Fault::Contradiction { found, other });
        }
        let Some(offset) = start.checked_add(data_start) else {
            return fail(Fault::Overflow);
        };
        Ok(TensorInfo { name, storage, shape, file: 0, offset, bytes: end - start })
    }
}

/// Maps and parses one file.
pub(crate) fn open_file(path: &Path) -> Result<(FileBytes, Vec<TensorInfo>)> {
    let file = FileBytes::open(path)?;
    let tensors = parse_with(file.cursor()).map_err(|error| sniff::explain_file(&file, error))?;
    Ok((file, tensors))
}

/// One safetensors file with typed access to its values, for files small enough to copy.
#[derive(Debug)]
pub struct SafeTensors {
    path: std::path::PathBuf,
    catalog: Catalog,
}

impl SafeTensors {
    /// Opens a file.
    ///
    /// # Errors
    /// [`LoadError::Io`], [`LoadError::NotAModel`], [`LoadError::Malformed`].
    pub fn open(path: &Path) -> Result<Self> {
        let (file, tensors) = open_file(path)?;
        Ok(Self { path: path.to_owned(), catalog: Catalog::new(vec![file], tensors)? })
    }

    /// The tensors.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Shape and values of an F32 tensor.
    ///
    /// # Errors
    /// [`Fault::Missing`], [`Fault::WrongType`].
    pub fn f32s(&self, name: &str) -> Result<(Vec<u64>, Vec<f32>)> {
        let tensor = self.require(name)?;
        match tensor.storage {
            Storage::Known(Format::F32) => Ok((tensor.shape.clone(), self.values(tensor))),
            other => Err(self.wrong_type(tensor, other, "F32")),
        }
    }

    /// Shape and values of an I32 or I64 tensor whose values fit 32 bits.
    ///
    /// # Errors
    /// [`Fault::Missing`], [`Fault::WrongType`], [`Fault::OutOfRange`].
    pub fn i32s(&self, name: &str) -> Result<(Vec<u64>, Vec<i32>)> {
        let tensor = self.require(name)?;
        let values = match tensor.storage {
            Storage::Other("I32") => self.values(tensor),
            Storage::Other("I64") => {
                let narrow = |wide: i64| {
                    i32::try_from(wide).map_err(|_| {
                        let high = i32::MAX.unsigned_abs().into();
                        self.fault(tensor, Fault::OutOfRange { found: wide.to_string(), low: 0, high })
                    })
                };
                self.values(tensor).into_iter().map(narrow).collect::<Result<_>>()?
            }
            other => return Err(self.wrong_type(tensor, other, "I32 or I64")),
        };
        Ok((tensor.shape.clone(), values))
    }

    fn require(&self, name: &str) -> Result<&TensorInfo> {
        self.catalog.get(name).ok_or_else(|| {
            LoadError::malformed(
                &self.path,
                format!("tensor {}", printable(name)),
                Fault::Missing { hint: "" },
            )
        })
    }

    fn values<T: Scalar>(&self, tensor: &TensorInfo) -> Vec<T> {
        self.catalog.bytes(tensor).chunks_exact(T::BYTES).filter_map(T::from_le).collect()
    }

    fn fault(&self, tensor: &TensorInfo, fault: Fault) -> LoadError {
        LoadError::malformed(&self.path, format!("tensor {}", printable(&tensor.name)), fault)
    }

    fn wrong_type(&self, tensor: &TensorInfo, found: Storage, expected: &'static str) -> LoadError {
        self.fault(tensor, Fault::WrongType { found: found.name().to_owned(), expected })
    }
}

/// A tensor to write.
#[derive(Debug, Clone, Copy)]
pub struct SafeTensor<'a> {
    /// Its shape, outermost dimension first.
    pub shape: &'a [u64],
    /// The values, row by row, as many as the shape has.
    pub values: SafeValues<'a>,
}

/// Values to write.
#[derive(Debug, Clone, Copy)]
pub enum SafeValues<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// 32-bit integers.
    I32(&'a [i32]),
}

impl SafeValues<'_> {
    fn dtype(self) -> &'static str {
        match self {
            Self::F32(_) => "F32",
            Self::I32(_) => "I32",
        }
    }

    fn len(self) -> u64 {
        match self {
            Self::F32(values) => len_u64(values.len()),
            Self::I32(values) => len_u64(values.len()),
        }
    }
}

/// Writes a safetensors file of the given tensors, complete or not at all (temporary file, then rename).
///
/// # Errors
/// [`LoadError::Io`]; in particular when `path` is one of `sources`, the files that the tensors were computed
/// from.
///
/// # Panics
/// If the number of values differs from the shape, or a name occurs twice.
pub fn write_safetensors(path: &Path, tensors: &[(&str, SafeTensor<'_>)], sources: &[&Path]) -> Result<()> {
    let header: Vec<SafeHeader<'_>> = tensors
        .iter()
        .map(|&(name, tensor)| {
            let values: u64 = tensor.shape.iter().product();
            assert_eq!(values, tensor.values.len(), "{name}: shape and values disagree");
            SafeHeader { name, dtype: tensor.values.dtype(), shape: tensor.shape, bytes: 4 * values }
        })
        .collect();
    let mut file = SafeWriter::create(path, &header, sources)?;
    for (_, tensor) in tensors {
        match tensor.values {
            SafeValues::F32(values) => write_values(&mut file, values)?,
            SafeValues::I32(values) => write_values(&mut file, values)?,
        }
    }
    file.finish()
}

/// What the header of a file says of a tensor.
#[derive(Debug, Clone, Copy)]
pub struct SafeHeader<'a> {
    /// As readers look it up.
    pub name: &'a str,
    /// The type of its values, as the format calls it: `F32`, `BF16`.
    pub dtype: &'static str,
    /// Its shape, outermost dimension first.
    pub shape: &'a [u64],
    /// Its size.
    pub bytes: u64,
}

/// A safetensors file that is being written, tensor after tensor. It appears complete or not at all.
#[derive(Debug)]
pub struct SafeWriter {
    file: PartialFile,
    /// Bytes of tensors that are not written yet.
    left: u64,
}

impl SafeWriter {
    /// Begins the file with its header.
    ///
    /// # Errors
    /// As [`write_safetensors`].
    ///
    /// # Panics
    /// If a name occurs twice.
    pub fn create(path: &Path, tensors: &[SafeHeader<'_>], sources: &[&Path]) -> Result<Self> {
        let mut header = serde_json::Map::new();
        let mut end = 0_u64;
        for SafeHeader { name, dtype, shape, bytes } in tensors {
            let start = end;
            end += bytes;
            let entry = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
            assert!(header.insert((*name).to_owned(), entry).is_none(), "{name} occurs twice");
        }
        let mut text = serde_json::Value::Object(header).to_string();
        // Spaces after the header keep the values aligned for readers that map the file.
        while !text.len().is_multiple_of(8) {
            text.push(' ');
        }
        let mut file = PartialFile::create(path, sources)?;
        file.write(&len_u64(text.len()).to_le_bytes())?;
        file.write(text.as_bytes())?;
        Ok(Self { file, left: end })
    }

    /// Appends bytes of the tensors, which come in the order of the header.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    ///
    /// # Panics
    /// If there are more bytes than the header says.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let left = self.left.checked_sub(len_u64(bytes.len()));
        self.left = left.expect("no tensor is longer than the header says");
        self.file.write(bytes)
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    ///
    /// # Panics
    /// If tensors are missing.
    pub fn finish(self) -> Result<()> {
        assert_eq!(self.left, 0, "every tensor of the header is written");
        self.file.commit()
    }
}

fn write_values<T: Scalar>(file: &mut SafeWriter, values: &[T]) -> Result<()> {
    let mut bytes = Vec::new();
    for chunk in values.chunks(16 << 10) {
        bytes.clear();
        chunk.iter().for_each(|value| value.put_le(&mut bytes));
        file.write(&bytes)?;
    }
    Ok(())
}
