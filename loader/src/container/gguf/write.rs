//! Writes GGUF files, version 3: the header is laid out from a plan, then the values follow in the plan's
//! order as they are produced, so that a model larger than memory can be written. The file appears under its
//! name complete or not at all. Encodes no values and knows no architecture.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use std::ops::Range;
use std::path::Path;

use crate::container::catalog::Storage;
use crate::container::gguf::{ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, GgmlType, Header, Value};
use crate::error::{Fault, LoadError, Result};
use crate::io::output::PartialFile;
use crate::io::reader::{Scalar, align_up, len_u64, printable};

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlan {
    /// As other files call it, e.g. `blk.0.attn_q.weight`.
    pub name: String,
    /// Type of its values.
    pub storage: Storage,
    /// Shape, outermost dimension first.
    pub shape: Vec<u64>,
}

/// The header of a GGUF file that will be written, and the byte ranges of its tensors.
#[derive(Debug, Clone)]
pub struct GgufPlan {
    header: Vec<u8>,
    alignment: u64,
    /// Keys of the metadata and the offsets of their values in the header, in order.
    values: Vec<(String, Range<usize>)>,
    /// The tensors, in order.
    tensors: Vec<Planned>,
    /// Length of the whole file.
    file_len: u64,
}

/// Byte range of the values of a tensor.
#[derive(Debug, Clone)]
struct Planned {
    name: String,
    /// Counted from the beginning of the file.
    offset: u64,
    bytes: u64,
}

impl GgufPlan {
    /// Lays out a file that will be `target`. Tensors are aligned to `general.alignment` if the metadata has
    /// it, to 32 bytes otherwise.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`] for types that GGUF does not have; [`LoadError::Malformed`] if the file
    /// would break a rule of the format that [`Header::parse`] checks.
    pub fn new(target: &Path, metadata: &[(String, Value)], tensors: &[TensorPlan]) -> Result<Self> {
        let alignment = match metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
            Some((_, Value::U32(given))) if *given > 0 => u64::from(*given),
            // The check below refuses what is neither absent nor a number.
            _ => DEFAULT_ALIGNMENT.into(),
        };
        let mut header = b"GGUF".to_vec();
        3_u32.put_le(&mut header);
        len_u64(tensors.len()).put_le(&mut header);
        len_u64(metadata.len()).put_le(&mut header);
        let mut values = Vec::with_capacity(metadata.len());
        for (key, value) in metadata {
            put_bytes(key.as_bytes(), &mut header);
            let start = header.len();
            put_value(value, &mut header);
            values.push((key.clone(), start..header.len()));
        }
        let mut planned = Vec::with_capacity(tensors.len());
        let mut data_len = 0_u64;
        for tensor in tensors {
            let (ggml_type, bytes) = size_of_tensor(target, tensor)?;
            put_bytes(tensor.name.as_bytes(), &mut header);
            u32::try_from(tensor.shape.len()).unwrap_or(u32::MAX).put_le(&mut header);
            tensor.shape.iter().rev().for_each(|dim| dim.put_le(&mut header));
            ggml_type.id.put_le(&mut header);
            data_len.put_le(&mut header);
            planned.push(Planned { name: tensor.name.clone(), offset: data_len, bytes });
            let end = data_len.checked_add(bytes).and_then(|end| align_up(end, alignment));
            data_len = end.ok_or_else(|| plan_fault(target, tensor, Fault::Overflow))?;
        }
        let data_start =
            align_up(len_u64(header.len()), alignment).expect("a header in memory is far from 2^64");
        let file_len = data_start
            .checked_add(data_len)
            .ok_or_else(|| LoadError::malformed(target, "the file", Fault::Overflow))?;
        // What is written must pass the reader's checks.
        Header::parse_prefix(target, &header, file_len)?;
        planned.iter_mut().for_each(|tensor| tensor.offset += data_start);
        Ok(Self { header, alignment, values, tensors: planned, file_len })
    }

    /// The header, with the zeros that align the first tensor.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Length of the whole file in bytes.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Offset and length of the values of tensor `index`, in bytes of the file.
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn place(&self, index: usize) -> (u64, u64) {
        let tensor = self.tensors.get(index).expect("a tensor of the plan");
        (tensor.offset, tensor.bytes)
    }
}

/// A GGUF file that is being written. Dropped without [`Self::finish`], it removes what was written, unless
/// it is resumable.
#[derive(Debug)]
pub struct GgufWriter {
    file: PartialFile,
    plan: GgufPlan,
    /// Index of the tensor whose values come next.
    current: usize,
    /// Bytes of it that are written.
    written: u64,
}

impl GgufWriter {
    /// Begins the file `target`: writes the header for `metadata` and `tensors`. `sources` are files that are
    /// being read and that `target` must not replace.
    ///
    /// # Errors
    /// As [`GgufPlan::new`], and [`LoadError::Io`], also when `target` is a folder or a source.
    pub fn create(
        target: &Path,
        metadata: &[(String, Value)],
        tensors: &[TensorPlan],
        sources: &[&Path],
    ) -> Result<Self> {
        let plan = GgufPlan::new(target, metadata, tensors)?;
        Self::resume(plan, PartialFile::create(target, sources)?, 0)
    }

    /// Resumes a file whose first `done` tensors are complete.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    pub fn resume(plan: GgufPlan, file: PartialFile, done: usize) -> Result<Self> {
        let mut writer = Self::around(plan, file);
        writer.begin(done)?;
        Ok(writer)
    }

    /// A writer that has not begun. It holds the lock of the file, also if [`Self::begin`] fails.
    pub(crate) fn around(plan: GgufPlan, file: PartialFile) -> Self {
        Self { file, plan, current: 0, written: 0 }
    }

    /// Writes the header before the first `done` tensors, which are complete; what comes after them is cut
    /// off.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    pub(crate) fn begin(&mut self, done: usize) -> Result<()> {
        let at = self.plan.tensors.get(done).map_or(self.plan.file_len, |next| next.offset);
        if done == 0 {
            self.file.truncate(0)?;
            self.file.write(&self.plan.header)?;
            self.pad(len_u64(self.plan.header.len()))?;
        } else {
            self.file.write_over(0, &self.plan.header)?;
            self.file.truncate(at)?;
        }
        self.current = done;
        self.skip_complete()
    }

    /// Appends values of the tensor `name`, whole or in pieces. Tensors come in the order of the plan.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    ///
    /// # Panics
    /// If another tensor comes next, or `bytes` go beyond the tensor's size.
    pub fn write_tensor(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let next = self.plan.tensors.get(self.current);
        let left = next.filter(|next| next.name == name).map(|next| next.bytes - self.written);
        let Some(left) = left else {
            // A tensor without values may be written at any time.
            assert!(bytes.is_empty(), "{name} is written when {:?} comes next", next.map(|next| &next.name));
            return Ok(());
        };
        assert!(len_u64(bytes.len()) <= left, "{name} gets {} bytes, {left} are left", bytes.len());
        self.file.write(bytes)?;
        self.written += len_u64(bytes.len());
        self.skip_complete()
    }

    /// Replaces a metadata value by one of the same type and size, for values that are known only when the
    /// tensors are written.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    ///
    /// # Panics
    /// If the metadata has no such key, or the values are not of one size.
    pub fn replace(&mut self, key: &str, value: &Value) -> Result<()> {
        let mut bytes = Vec::new();
        put_value(value, &mut bytes);
        let (_, place) =
            self.plan.values.iter().find(|(found, _)| found == key).expect("a key of the metadata");
        assert_eq!(bytes.len(), place.len(), "the new value of {key} has another size");
        self.file.write_over(len_u64(place.start), &bytes)
    }

    /// Waits until everything written so far is on the disk.
    ///
    /// # Errors
    /// [`LoadError::Io`]; then the file is not kept for [`Self::resume`].
    pub fn secure(&mut self) -> Result<()> {
        self.file.secure()
    }

    /// Syncs the file to disk and renames it to its final name.
    ///
    /// # Errors
    /// [`LoadError::Io`]; then a file of that name is unchanged.
    ///
    /// # Panics
    /// If a tensor is missing or incomplete.
    pub fn finish(self) -> Result<()> {
        if let Some(Planned { name, bytes, .. }) = self.plan.tensors.get(self.current) {
            panic!("{name} has {} of {bytes} bytes", self.written);
        }
        self.file.commit()
    }

    /// Passes everything written so far to the system, so that it survives the end of this process.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush()
    }

    /// Sets whether an incomplete file is kept for [`Self::resume`].
    pub fn set_resumable(&mut self, resumable: bool) {
        self.file.set_resumable(resumable);
    }

    /// Advances to the next tensor that is not complete.
    fn skip_complete(&mut self) -> Result<()> {
        while let Some(&Planned { bytes, .. }) = self.plan.tensors.get(self.current)
            && bytes == self.written
        {
            self.pad(bytes)?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Zeros from `len`, counted from an aligned place, to the next aligned place.
    fn pad(&mut self, len: u64) -> Result<()> {
        let end = align_up(len, self.plan.alignment).expect("the plan has the same place");
        let zeros = vec![0; usize::try_from(end - len).expect("alignments are small")];
        self.file.write(&zeros)
    }
}

fn size_of_tensor(target: &Path, tensor: &TensorPlan) -> Result<(GgmlType, u64)> {
    let Some(ggml_type) = GgmlType::from_storage(tensor.storage) else {
        return Err(LoadError::Unsupported {
            path: target.to_owned(),
            feature: format!("a tensor of type {} in GGUF", tensor.storage),
            hint: "convert it to F32".to_owned(),
        });
    };
    let bytes = ggml_type.tensor_bytes(&tensor.shape).map_err(|fault| plan_fault(target, tensor, fault))?;
    Ok((ggml_type, bytes))
}

fn plan_fault(target: &Path, tensor: &TensorPlan, fault: Fault) -> LoadError {
    LoadError::malformed(target, format!("tensor {}", printable(&tensor.name)), fault)
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    len_u64(bytes.len()).put_le(out);
    out.extend_from_slice(bytes);
}

fn put_value(value: &Value, out: &mut Vec<u8>) {
    value.type_id().put_le(out);
    match value {
        Value::U8(n) => n.put_le(out),
        Value::I8(n) => n.put_le(out),
        Value::U16(n) => n.put_le(out),
        Value::I16(n) => n.put_le(out),
        Value::U32(n) => n.put_le(out),
        Value::I32(n) => n.put_le(out),
        Value::F32(x) => x.put_le(out),
        Value::Bool(b) => u8::from(*b).put_le(out),
        Value::Str(text) => put_bytes(text.as_bytes(), out),
        Value::Array(array) => put_array(array, out),
        Value::U64(n) => n.put_le(out),
        Value::I64(n) => n.put_le(out),
        Value::F64(x) => x.put_le(out),
    }
}

fn put_array(array: &Array, out: &mut Vec<u8>) {
    fn numbers<T: Scalar>(values: &[T], out: &mut Vec<u8>) {
        values.iter().for_each(|value| value.put_le(out));
    }
    array.type_id().put_le(out);
    len_u64(array.len()).put_le(out);
    match array {
        Array::U8(v) => numbers(v, out),
        Array::I8(v) => numbers(v, out),
        Array::U16(v) => numbers(v, out),
        Array::I16(v) => numbers(v, out),
        Array::U32(v) => numbers(v, out),
        Array::I32(v) => numbers(v, out),
        Array::F32(v) => numbers(v, out),
        Array::Bool(v) => v.iter().for_each(|&b| u8::from(b).put_le(out)),
        Array::Str(v) => v.iter().for_each(|text| put_bytes(text.as_bytes(), out)),
        Array::U64(v) => numbers(v, out),
        Array::I64(v) => numbers(v, out),
        Array::F64(v) => numbers(v, out),
    }
}
