//! The tensors of a model as its files name them, whatever the container: names, types, shapes and where
//! the bytes are. Knows nothing of what a tensor is for; that is `roles`.

use std::collections::HashMap;
use std::path::Path;

use moelten_quant::Format;

use crate::io::FileBytes;

/// One tensor in one of the model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The file's own name for it.
    pub name: String,
    /// Block format of its values.
    pub format: Format,
    /// Shape, outermost dimension first: `[rows, cols]`, `[experts, rows, cols]`, `[n]`.
    pub shape: Vec<u64>,
    /// Index into [`Catalog::files`].
    pub file: usize,
    /// Byte offset of the first value in that file; validated against its length.
    pub offset: u64,
    /// Length in bytes, validated.
    pub bytes: u64,
}

/// All tensors of a model and the mapped files that hold them.
#[derive(Debug)]
pub struct Catalog {
    files: Vec<FileBytes>,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

impl Catalog {
    /// A catalogue of validated tensors. The caller has checked ranges and unique names.
    pub fn new(files: Vec<FileBytes>, tensors: Vec<TensorInfo>) -> Self {
        let by_name = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Self { files, tensors, by_name }
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
        self.by_name.get(name).and_then(|&i| self.tensors.get(i))
    }

    /// The bytes of a tensor of this catalogue.
    ///
    /// # Panics
    /// If `tensor` does not come from this catalogue.
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        let file = self.files.get(tensor.file).expect("a tensor of this catalogue names one of its files");
        file.range(tensor.offset, tensor.bytes).expect("the container reader checked every range")
    }

    /// Path of the file that holds a tensor, for messages.
    pub fn path(&self, tensor: &TensorInfo) -> &Path {
        self.files.get(tensor.file).map_or(Path::new("?"), FileBytes::path)
    }
}
