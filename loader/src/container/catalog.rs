//! The tensors of a model as its files list them, for every container: names, types, shapes and byte
//! ranges. It must not know what a tensor is for; see `roles`.

use std::path::Path;

use moelten_quant::Format;

use crate::error::{Fault, LoadError, Result};
use crate::io::FileBytes;
use crate::io::reader::printable;

/// How a tensor's values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    /// In a format that the kernels read.
    Known(Format),
    /// In a type whose size is known, but which no kernel reads (`Q8_1`, `I32`, `F8_E5M2`). A file with
    /// such a tensor opens; [`TensorInfo::known_format`] is an error.
    Other(&'static str),
}

impl Storage {
    /// The usual name, e.g. `Q4_K`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Known(format) => format.name(),
            Self::Other(name) => name,
        }
    }

    /// The format, if the kernels read it.
    pub const fn format(self) -> Option<Format> {
        match self {
            Self::Known(format) => Some(format),
            Self::Other(_) => None,
        }
    }
}

impl std::fmt::Display for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// One tensor in one of the model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The file's own name for it.
    pub name: String,
    /// Type of its values.
    pub storage: Storage,
    /// Shape, outermost dimension first: `[rows, cols]`, `[experts, rows, cols]`, `[n]`.
    pub shape: Vec<u64>,
    /// Index into [`Catalog::files`].
    pub file: usize,
    /// Byte offset of the first value in that file; validated against its length.
    pub offset: u64,
    /// Length in bytes, validated.
    pub bytes: u64,
}

impl TensorInfo {
    /// The format that the values are decoded with. The error message shows `path`.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`] when no kernel reads this type.
    pub fn known_format(&self, path: &Path) -> Result<Format> {
        self.storage.format().ok_or_else(|| LoadError::Unsupported {
            path: path.to_owned(),
            feature: format!("type {} of tensor {}", self.storage, printable(&self.name)),
            hint: format!("supported are {}", Format::ALL.map(Format::name).join(", ")),
        })
    }
}

/// All tensors of a model and the mapped files that hold them.
#[derive(Debug)]
pub struct Catalog {
    files: Vec<FileBytes>,
    tensors: Vec<TensorInfo>,
    /// Indices into `tensors`, sorted by name.
    by_name: Vec<usize>,
}

impl Catalog {
    /// A catalog of tensors. The caller has checked their ranges.
    ///
    /// # Errors
    /// [`Fault::Duplicate`] when two tensors have one name.
    pub fn new(files: Vec<FileBytes>, tensors: Vec<TensorInfo>) -> Result<Self> {
        let by_name = sorted_by_name(&tensors);
        let catalog = Self { files, tensors, by_name };
        if let Some(twice) = find_duplicate_in(&catalog.tensors, &catalog.by_name) {
            let field = format!("tensor {}", printable(&twice.name));
            return Err(LoadError::malformed(catalog.path(twice), field, Fault::Duplicate));
        }
        Ok(catalog)
    }

    /// The tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The mapped files, in shard order.
    pub fn files(&self) -> &[FileBytes] {
        &self.files
    }

    /// A tensor by the file's name for it.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        let at = |i: &usize| self.tensors.get(*i);
        let found =
            self.by_name.binary_search_by(|i| at(i).map(|t| t.name.as_str()).cmp(&Some(name))).ok()?;
        self.by_name.get(found).and_then(at)
    }

    /// The bytes of a tensor where they are mapped; see [`FileBytes::range`].
    ///
    /// # Panics
    /// If `tensor` does not come from this catalog.
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        let file = self.files.get(tensor.file).expect("a tensor of this catalogue names one of its files");
        file.range(tensor.offset, tensor.bytes).expect("the container reader checked every range")
    }

    /// Path of the file that holds a tensor, for messages.
    pub fn path(&self, tensor: &TensorInfo) -> &Path {
        self.files.get(tensor.file).map_or(Path::new("?"), FileBytes::path)
    }
}

/// Indices of `tensors` in the order of their names, then of the file.
fn sorted_by_name(tensors: &[TensorInfo]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| tensors.get(i).map(|t| t.name.as_str()));
    order
}

/// The second tensor of a name that occurs twice.
pub(crate) fn find_duplicate(tensors: &[TensorInfo]) -> Option<&TensorInfo> {
    find_duplicate_in(tensors, &sorted_by_name(tensors))
}

/// [`find_duplicate`] when `order` sorts the tensors by name.
fn find_duplicate_in<'a>(tensors: &'a [TensorInfo], order: &[usize]) -> Option<&'a TensorInfo> {
    order.array_windows().find_map(|&[a, b]| match (tensors.get(a)?, tensors.get(b)?) {
        (first, second) if first.name == second.name => Some(second),
        _ => None,
    })
}
