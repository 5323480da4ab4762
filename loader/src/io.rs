//! Bytes of files: mapping with memmap2, or memory that the program carries. The one place of this crate
//! with `unsafe`. Knows nothing of formats.
#![allow(
    unsafe_code,
    reason = "mapping a file is unsafe by nature; it happens here and nowhere else in the crate"
)]

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

/// The bytes of one file, shared and read-only.
#[derive(Clone, Debug)]
pub struct FileBytes {
    path: PathBuf,
    data: Data,
}

#[derive(Clone, Debug)]
enum Data {
    Mapped(Arc<Mmap>),
    Carried(&'static [u8]),
}

impl FileBytes {
    /// Maps an open regular file. An empty file gives no bytes.
    ///
    /// # Errors
    /// What the system says when it cannot map.
    pub fn map(path: &Path, file: &File) -> io::Result<Self> {
        if file.metadata()?.len() == 0 {
            return Ok(Self::carried(path, &[]));
        }
        // SAFETY: the mapping is private to this process and never written. Another process that truncates the
        // file turns reads into SIGBUS; weights are read-only data and that case is documented, not undefined
        // behaviour of ours: no reference is handed out beyond the mapped length.
        let map = unsafe { Mmap::map(file)? };
        Ok(Self { path: path.to_owned(), data: Data::Mapped(Arc::new(map)) })
    }

    /// Bytes that are part of the program (the built-in model).
    pub fn carried(path: &Path, bytes: &'static [u8]) -> Self {
        Self { path: path.to_owned(), data: Data::Carried(bytes) }
    }

    /// Where they come from, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of them.
    pub fn all(&self) -> &[u8] {
        match &self.data {
            Data::Mapped(map) => map,
            Data::Carried(bytes) => bytes,
        }
    }

    /// `len` bytes at `offset`, or `None` when the file does not reach that far.
    pub fn range(&self, offset: u64, len: u64) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        self.all().get(start..end)
    }
}
