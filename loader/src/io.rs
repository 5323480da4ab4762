//! Bytes of files: mapping with memmap2, memory that the program carries, or memory that it filled itself. With what is below
//! it the one place of this crate with `unsafe`. Knows nothing of formats.
#![allow(
    unsafe_code,
    reason = "mapping a file is unsafe by nature; it happens here and nowhere else in the crate"
)]

pub mod fault;
#[cfg(unix)]
pub mod foreground;
pub mod json;
mod memory;
pub mod output;
pub mod pieces;
pub mod probe;
pub mod read_at;
pub mod reader;

use std::fs::{File, FileType};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::{LoadError, Result};
pub use memory::{HUGE_PAGE, Memory, Number, give_back};
use read_at::{Access, DirectFile, ReadAt};

/// The bytes of one file, shared and read-only.
#[derive(Clone, Debug)]
pub struct FileBytes {
    path: PathBuf,
    data: Data,
}

#[derive(Clone, Debug)]
enum Data {
    Mapped(Arc<Mmap>, Arc<File>),
    Own(Arc<Mmap>),
    Carried(&'static [u8]),
}

impl FileBytes {
    /// Opens and maps a regular file. Pipes and devices are refused before they are opened, because opening one
    /// may block or have effects.
    ///
    /// # Errors
    /// [`LoadError::Io`], or [`LoadError::NotAModel`] for what is not a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |action| move |source| LoadError::io(path, action, source);
        let kind = std::fs::metadata(path).map_err(failed("open the file"))?.file_type();
        if !kind.is_file() {
            let (found, hint) = (kind_name(kind).to_owned(), "give a regular file or a model folder");
            return Err(LoadError::NotAModel { path: path.to_owned(), found, hint });
        }
        let file = File::open(path).map_err(failed("open the file"))?;
        Self::map(path, file).map_err(failed("map the file"))
    }

    /// Maps an open regular file. An empty file gives no bytes.
    ///
    /// # Errors
    /// What the system says when it cannot map.
    pub fn map(path: &Path, file: File) -> io::Result<Self> {
        if file.metadata()?.len() == 0 {
            return Ok(Self::carried(path, &[]));
        }
        // SAFETY: the mapping is private to this process and never written. Another process that truncates the
        // file turns reads into SIGBUS; weights are read-only data and that case is documented, not undefined
        // behaviour of ours: no reference is handed out beyond the mapped length.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { path: path.to_owned(), data: Data::Mapped(Arc::new(map), Arc::new(file)) })
    }

    /// Bytes that are part of the program (the built-in model).
    pub fn carried(path: &Path, bytes: &'static [u8]) -> Self {
        Self { path: path.to_owned(), data: Data::Carried(bytes) }
    }

    /// Bytes that were never in a file; `path` stands for one in messages.
    ///
    /// # Errors
    /// When the system refuses to make the memory read-only.
    pub fn generated(path: &Path, memory: Memory) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), data: Data::Own(Arc::new(memory.make_read_only()?)) })
    }

    /// Whether they lie in a file, from which they can be read again.
    pub fn is_file(&self) -> bool {
        matches!(self.data, Data::Mapped(..))
    }

    /// Where they come from, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of them.
    pub fn all(&self) -> &[u8] {
        match &self.data {
            Data::Mapped(map, _) | Data::Own(map) => map,
            Data::Carried(bytes) => bytes,
        }
    }

    /// Reads the same bytes past the mapping, direct if possible. Meanwhile another file may have come to the path: it is
    /// left alone.
    ///
    /// # Errors
    /// What the system says; bytes that are in no file have no reader.
    pub fn reader(&self) -> io::Result<(Box<dyn ReadAt>, Access)> {
        let Data::Mapped(_, file) = &self.data else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let file = match DirectFile::open(&self.path) {
            Ok(found) if found.is(file)? => found,
            _ => DirectFile::buffered(file.try_clone()?),
        };
        let access = file.access();
        Ok((Box::new(file), access))
    }

    /// Asks the system for huge pages where it brings a mapped file into memory, which file systems with large folios give:
    /// for files that are read again and again as a whole.
    pub fn prefer_huge_pages(&self) {
        // A refusal costs speed, not correctness.
        #[cfg(target_os = "linux")]
        if let Data::Mapped(map, _) = &self.data {
            let _ = map.advise(memmap2::Advice::HugePage);
        }
    }

    /// Has the system bring a part of a mapped file into memory, and waits for it.
    ///
    /// # Errors
    /// When the file is damaged or has become shorter.
    pub fn populate(&self, offset: u64, len: u64) -> io::Result<()> {
        let Some((map, _, start, len)) = self.mapped(offset, len) else { return Ok(()) };
        #[cfg(target_os = "linux")]
        match map.advise_range(memmap2::Advice::PopulateRead, start, len) {
            // Systems before Linux 5.14 do not know it.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            done => return done,
        }
        let touched = map.get(start..start + len).unwrap_or_default();
        std::hint::black_box(touched.iter().step_by(pieces::PAGE).fold(0_u8, |sum, byte| sum ^ byte));
        Ok(())
    }

    /// Does nothing: Windows decides alone what it keeps of a mapped file.
    #[cfg(not(unix))]
    pub fn forget(&self, _offset: u64, _len: u64) {}

    /// Lets the system take back the memory that holds a part of a mapped file; whoever reads there again brings it back.
    #[cfg(unix)]
    pub fn forget(&self, offset: u64, len: u64) {
        let Some((map, file, start, len)) = self.mapped(offset, len) else { return };
        // Only whole pages: what lies beside may be in use.
        let (first, end) =
            (start.next_multiple_of(pieces::PAGE), (start + len) / pieces::PAGE * pieces::PAGE);
        if first >= end {
            return;
        }
        // SAFETY: the mapping is shared with the file and never written, so dropped pages come back as they were.
        let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, first, end - first) };
        read_at::drop_cached(file, first as u64, end - first);
    }

    /// A part of the file if it is mapped and has it.
    fn mapped(&self, offset: u64, len: u64) -> Option<(&Mmap, &File, usize, usize)> {
        let Data::Mapped(map, file) = &self.data else { return None };
        self.range(offset, len)?;
        Some((map, file, usize::try_from(offset).ok()?, usize::try_from(len).ok()?))
    }

    /// `len` bytes at `offset`, or `None` when the file does not reach that far.
    pub fn range(&self, offset: u64, len: u64) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        self.all().get(start..end)
    }
}

/// What a file is, for messages.
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

/// What a file is, for messages.
#[cfg(not(unix))]
fn kind_name(kind: FileType) -> &'static str {
    match kind {
        _ if kind.is_dir() => "a folder",
        _ if kind.is_file() => "a file",
        _ => "a device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What lies at the path later is another file.
    #[test]
    fn reads_past_the_mapping_come_from_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("file"), folder.path().join("other"));
        std::fs::write(&path, [7; 3 * pieces::PAGE]).unwrap();
        std::fs::write(&other, [9; 3 * pieces::PAGE]).unwrap();
        let bytes = FileBytes::open(&path).unwrap();
        let first = |bytes: &FileBytes| {
            let mut page = pieces::Piece::reserve([pieces::PAGE].into_iter()).unwrap().remove(0);
            read_at::read_fully(&*bytes.reader().unwrap().0, page.bytes_mut(), 4096, pieces::PAGE).unwrap();
            page.bytes().to_vec()
        };
        assert_eq!(first(&bytes), [7; pieces::PAGE]);
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(first(&bytes), [7; pieces::PAGE]);
        assert_eq!(first(&FileBytes::open(&path).unwrap()), [9; pieces::PAGE]);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(first(&bytes), [7; pieces::PAGE]);
        assert!(FileBytes::carried(&path, &[5]).reader().is_err());
    }
}
