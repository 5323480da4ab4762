//! GGUF files: metadata and a catalog of tensors, from one file, from all parts of a split model, or from
//! memory. It must not know architectures.

pub mod gap;
mod header;
mod metadata;
mod types;
pub mod write;

use std::path::{Path, PathBuf};

pub use header::Header;
pub(crate) use header::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT};
pub use metadata::{Array, Metadata, Value};
pub(crate) use types::GgmlType;

use crate::container::catalog::Catalog;
use crate::container::sniff;
use crate::error::{Fault, LoadError, Result};
use crate::io::FileBytes;

/// Keys that every part of a split model carries.
const SPLIT_NO: &str = "split.no";
const SPLIT_COUNT: &str = "split.count";
const SPLIT_TENSORS: &str = "split.tensors.count";
/// Parts of a split model, from its file name pattern.
const MAX_PARTS: u64 = 99_999;

/// An open GGUF model.
#[derive(Debug)]
pub struct Gguf {
    /// The metadata; of a split model, that of its first part.
    pub metadata: Metadata,
    /// The tensors of all parts.
    pub catalog: Catalog,
    /// Alignment of the tensor data in bytes, a power of two; of a split model, that of its first part.
    pub alignment: u64,
    /// Version of the format, 2 or 3.
    pub version: u32,
    /// Harmless oddities of the files, to be shown to the user.
    pub notices: Vec<String>,
}

impl Gguf {
    /// Opens a GGUF file; any part of a split model opens the whole.
    ///
    /// # Errors
    /// [`LoadError::Io`]; [`LoadError::NotAModel`] for files of other known kinds; [`LoadError::Malformed`].
    pub fn open(path: &Path) -> Result<Self> {
        let (file, header) = open_part(path)?;
        match split_count(&header.metadata)? {
            0 | 1 => Self::assemble(vec![(file, header)]),
            count => Self::open_split(path, (file, header), count),
        }
    }

    /// A model that is embedded in the program. Messages show `name` in place of a path.
    ///
    /// # Errors
    /// [`LoadError::Malformed`].
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self> {
        let path = Path::new(name);
        let header = Header::parse(path, bytes)?;
        Self::assemble(vec![(FileBytes::carried(path, bytes), header)])
    }

    /// Opens the other parts of the model; the part at `path` is open already.
    fn open_split(path: &Path, opened: (FileBytes, Header), count: u64) -> Result<Self> {
        let own_index = opened.1.metadata.require_u64(SPLIT_NO)?;
        if own_index >= count {
            let fault = Fault::OutOfRange { found: own_index.to_string(), low: 0, high: count - 1 };
            return Err(opened.1.metadata.fault(SPLIT_NO, fault));
        }
        let Some(stem) = split_stem(path, own_index, count) else {
            let suffix = part_suffix(own_index, count);
            return Err(opened
                .1
                .metadata
                .fault(SPLIT_COUNT, Fault::SplitName { part: own_index + 1, count, suffix }));
        };
        let mut opened = Some(opened);
        let mut parts = Vec::new();
        for index in 0..count {
            let part = match opened.take_if(|_| index == own_index) {
                Some(part) => part,
                None => open_part(&part_path(path, &stem, index, count)).map_err(missing_part)?,
            };
            check_part(&parts, &part, index, count)?;
            parts.push(part);
        }
        let tensors: usize = parts.iter().map(|(_, header)| header.tensors.len()).sum();
        let (_, first) = parts.first().expect("a split model has parts");
        if let Some(expected) = first.metadata.u64(SPLIT_TENSORS)?
            && u64::try_from(tensors) != Ok(expected)
        {
            let (found, expected) = (format!("{expected} tensors"), format!("{tensors}"));
            return Err(first.metadata.fault(SPLIT_TENSORS, Fault::PartMismatch { found, expected }));
        }
        Self::assemble(parts)
    }

    /// Joins the parts, the first of which gives the metadata.
    fn assemble(parts: Vec<(FileBytes, Header)>) -> Result<Self> {
        let (mut files, mut tensors, mut notices, mut first) = (Vec::new(), Vec::new(), Vec::new(), None);
        for (index, (file, header)) in parts.into_iter().enumerate() {
            files.push(file);
            tensors.extend(header.tensors.into_iter().map(|mut tensor| {
                tensor.file = index;
                tensor
            }));
            notices.extend(header.notices);
            first.get_or_insert((header.metadata, header.alignment, header.version));
        }
        let (metadata, alignment, version) = first.expect("there is at least one part");
        Ok(Self { metadata, catalog: Catalog::new(files, tensors)?, alignment, version, notices })
    }
}

/// Maps and parses one file.
fn open_part(path: &Path) -> Result<(FileBytes, Header)> {
    let file = FileBytes::open(path)?;
    let header = Header::read(&file).map_err(|error| sniff::explain_file(&file, error))?;
    Ok((file, header))
}

/// Parts of the model that a file belongs to; 0 when it is not split.
fn split_count(metadata: &Metadata) -> Result<u64> {
    let count = metadata.u64(SPLIT_COUNT)?.unwrap_or(0);
    if count > MAX_PARTS {
        let fault = Fault::OutOfRange { found: count.to_string(), low: 0, high: MAX_PARTS };
        return Err(metadata.fault(SPLIT_COUNT, fault));
    }
    Ok(count)
}

/// The part of a split file's name before `-00001-of-00003.gguf`; `None` if it is named otherwise.
fn split_stem(path: &Path, index: u64, count: u64) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(&part_suffix(index, count)).map(str::to_owned)
}

fn part_suffix(index: u64, count: u64) -> String {
    format!("-{:05}-of-{count:05}.gguf", index + 1)
}

fn part_path(any_part: &Path, stem: &str, index: u64, count: u64) -> PathBuf {
    any_part.with_file_name(format!("{stem}{}", part_suffix(index, count)))
}

/// A missing part means that the model is incomplete, not that the path was mistyped.
fn missing_part(error: LoadError) -> LoadError {
    match error {
        LoadError::Io { path, source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            let hint = ": all parts of a split model must be in one folder; download those that are missing";
            LoadError::malformed(&path, "split part", Fault::Missing { hint })
        }
        other => other,
    }
}

/// Whether `part` is part `index` of `count` of the same model as the parts before it.
fn check_part(
    before: &[(FileBytes, Header)],
    (_, Header { metadata, .. }): &(FileBytes, Header),
    index: u64,
    count: u64,
) -> Result<()> {
    let mismatch = |key, found: String, expected: String| {
        Err(metadata.fault(key, Fault::PartMismatch { found, expected }))
    };
    let (own_index, own_count) = (metadata.require_u64(SPLIT_NO)?, split_count(metadata)?);
    if own_index != index {
        return mismatch(SPLIT_NO, own_index.to_string(), index.to_string());
    }
    if own_count != count {
        return mismatch(SPLIT_COUNT, own_count.to_string(), count.to_string());
    }
    let Some((_, first)) = before.first() else { return Ok(()) };
    if let (Some(own), Some(total)) = (metadata.u64(SPLIT_TENSORS)?, first.metadata.u64(SPLIT_TENSORS)?)
        && own != total
    {
        return mismatch(SPLIT_TENSORS, own.to_string(), total.to_string());
    }
    for key in ["general.architecture", "general.name"] {
        if let (Some(own), Some(of_first)) = (metadata.str(key)?, first.metadata.str(key)?)
            && own != of_first
        {
            return mismatch(key, format!("{own:?}"), format!("{of_first:?}"));
        }
    }
    Ok(())
}
