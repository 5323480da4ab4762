//! Regular files that are read into memory. What is checked in the copy cannot change afterwards. It must not
//! know what the bytes mean.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use std::fs::{File, FileType};
use std::io;
use std::path::Path;

use super::read_at::{CachedFile, read_fully};
use crate::error::{Fault, LoadError, Result};
use crate::io::reader::len_u64;

/// An open regular file.
#[derive(Debug)]
pub(crate) struct RegularFile<'p> {
    path: &'p Path,
    pub file: File,
}

impl<'p> RegularFile<'p> {
    /// Opens a regular file. Pipes and devices are refused before they are opened, because opening one may
    /// block or have effects.
    ///
    /// # Errors
    /// [`LoadError::Io`], or [`LoadError::NotAModel`] for what is not a regular file.
    pub fn open(path: &'p Path) -> Result<Self> {
        let failed = |source| LoadError::io(path, "open the file", source);
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        if !kind.is_file() {
            let (found, hint) = (kind_name(kind).to_owned(), "give a regular file or a model folder");
            return Err(LoadError::NotAModel { path: path.to_owned(), found, hint });
        }
        Ok(Self { path, file: File::open(path).map_err(failed)? })
    }

    /// A copy of the whole file.
    ///
    /// # Errors
    /// [`Fault::TooLong`] beyond `max_bytes`, before any memory is taken; [`LoadError::Io`], also for a file
    /// that became shorter while it was read.
    pub fn read(&self, max_bytes: u64) -> Result<Vec<u8>> {
        let failed = |source| LoadError::io(self.path, "read the file", source);
        let found = self.file.metadata().map_err(failed)?.len();
        if found > max_bytes {
            return Err(LoadError::malformed(
                self.path,
                "the file",
                Fault::TooLong { found, limit: max_bytes },
            ));
        }
        let mut bytes = vec![0; usize::try_from(found).unwrap_or(usize::MAX)];
        self.fill(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        let need = bytes.len();
        read_fully(&CachedFile(&self.file), bytes, 0, need)
    }

    /// A copy of at most the first `len` bytes; empty if they cannot be read.
    pub fn head(&self, len: usize) -> Vec<u8> {
        let size = self.file.metadata().map_or(0, |found| found.len()).min(len_u64(len));
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(len)];
        match self.fill(&mut bytes) {
            Ok(()) => bytes,
            Err(_) => Vec::new(),
        }
    }
}

/// The kind of a file for messages.
#[cfg(unix)]
fn kind_name(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        _ if kind.is_dir() => "a folder",
        _ if kind.is_fifo() => "a pipe",
        _ if kind.is_socket() => "a socket",
        _ if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "a file",
    }
}

/// The kind of a file for messages.
#[cfg(not(unix))]
fn kind_name(kind: FileType) -> &'static str {
    match kind {
        _ if kind.is_dir() => "a folder",
        _ if kind.is_file() => "a file",
        _ => "a device",
    }
}
