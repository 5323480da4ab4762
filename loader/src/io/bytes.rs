//! The bytes of a file: mapped, embedded in the program, generated in memory, or made from other files when
//! they are read. It must not know what they mean.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use super::made::{self, MakeBuffers, Recipe, Sources};
use super::memory::Memory;
use super::read_at::{Access, CachedFile, DirectFile, ReadAt};
use super::reader::{Reader, len_u64};
use super::{pieces, regular::RegularFile};
use crate::error::{LoadError, Result};

/// The bytes of one file, read-only. A mapping is shared with the page cache: another process that writes the
/// file changes it. So text, counts and offsets are copied with [`Self::cursor`] and checked in the copy.
/// Only numbers for which any bit pattern is valid are used in place.
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
    Made(Arc<Made>),
}

/// Made bytes and the files that they are made from.
#[derive(Debug)]
struct Made {
    recipe: Arc<dyn Recipe>,
    sources: Vec<FileBytes>,
}

impl Made {
    /// Opens the sources for reads beside their mappings.
    fn reader(&self) -> io::Result<(Box<dyn ReadAt>, Access)> {
        let mut access = Access::Direct;
        let mut files = Vec::with_capacity(self.sources.len());
        for file in &self.sources {
            let (file, how) = file.reader()?;
            if how == Access::Buffered {
                access = how;
            }
            files.push(file);
        }
        Ok((made::reader(Arc::clone(&self.recipe), files), access))
    }

    /// Makes rows through the page cache.
    fn rows(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.recipe.make(&self.sources, &mut MakeBuffers::default(), offset, out)
    }
}

impl Sources for Vec<FileBytes> {
    fn file(&self, index: usize) -> io::Result<&dyn ReadAt> {
        self.get(index).map(|file| file as &dyn ReadAt).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl FileBytes {
    /// Opens and maps a regular file. Pipes and devices are refused before they are opened, because opening
    /// one may block or have effects.
    ///
    /// # Errors
    /// [`LoadError::Io`], or [`LoadError::NotAModel`] for what is not a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let RegularFile { file, .. } = RegularFile::open(path)?;
        Self::map(path, file).map_err(|source| LoadError::io(path, "map the file", source))
    }

    /// Maps an open regular file. An empty file gives no bytes.
    ///
    /// # Errors
    /// The system cannot map the file.
    pub fn map(path: &Path, file: File) -> io::Result<Self> {
        if file.metadata()?.len() == 0 {
            return Ok(Self::carried(path, &[]));
        }
        // SAFETY: the mapping is read-only and shared with the file, which others may write or cut meanwhile.
        // Slices of it are only read as bytes and as numbers, for which any bit pattern is valid; nothing is
        // checked there and relied on afterwards. Beyond the new end of a file that was cut, a read raises
        // SIGBUS, which ends the program: see `fault`. No slice reaches beyond the mapped length.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { path: path.to_owned(), data: Data::Mapped(Arc::new(map), Arc::new(file)) })
    }

    /// Bytes that are embedded in the program (the built-in model).
    pub fn carried(path: &Path, bytes: &'static [u8]) -> Self {
        Self { path: path.to_owned(), data: Data::Carried(bytes) }
    }

    /// Bytes that were generated in memory. Messages show `path`.
    ///
    /// # Errors
    /// When the system refuses to make the memory read-only.
    pub fn generated(path: &Path, memory: Memory) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), data: Data::Own(Arc::new(memory.make_read_only()?)) })
    }

    /// Bytes that are made when they are read. They have no [`Self::range`]: [`Self::read_rows`] and
    /// [`Self::reader`] read them. Messages show `path`.
    pub(crate) fn made(path: &Path, recipe: Arc<dyn Recipe>, sources: Vec<Self>) -> Self {
        Self { path: path.to_owned(), data: Data::Made(Arc::new(Made { recipe, sources })) }
    }

    /// Whether they are in memory of the process.
    pub fn is_owned(&self) -> bool {
        matches!(self.data, Data::Own(_))
    }

    /// Whether they are in a file, or made from files, and can be read again.
    pub fn is_file(&self) -> bool {
        match &self.data {
            Data::Mapped(..) => true,
            Data::Made(made) => made.sources.iter().all(Self::is_file),
            Data::Own(_) | Data::Carried(_) => false,
        }
    }

    /// Whether they are made when they are read.
    pub fn is_made(&self) -> bool {
        matches!(self.data, Data::Made(_))
    }

    /// Start and length of what has to be read at once to get the byte at `offset`; `None` where any bytes
    /// can be.
    pub fn unit(&self, offset: u64) -> Option<(u64, u64)> {
        match &self.data {
            Data::Made(made) => made.recipe.unit(offset),
            _ => None,
        }
    }

    /// Bytes that are whole rows of a matrix: in place, or made.
    ///
    /// # Errors
    /// Those of reading what they are made from.
    pub fn read_rows(&self, offset: u64, len: u64) -> io::Result<Cow<'_, [u8]>> {
        if let Data::Made(made) = &self.data {
            let mut out = vec![0; usize::try_from(len).map_err(io::Error::other)?];
            made.rows(offset, &mut out)?;
            return Ok(Cow::Owned(out));
        }
        self.range(offset, len).map(Cow::Borrowed).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// As [`Self::read_rows`], into memory.
    ///
    /// # Errors
    /// As [`Self::read_rows`].
    pub(crate) fn read_rows_to(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if let Data::Made(made) = &self.data {
            return made.rows(offset, out);
        }
        let from = self.range(offset, len_u64(out.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(from);
        Ok(())
    }

    /// The path that messages show.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        match &self.data {
            Data::Made(made) => made.recipe.size(),
            _ => len_u64(self.all().len()),
        }
    }

    /// A checked reader at the start. It reads copies.
    pub fn cursor(&self) -> Reader<'_> {
        Reader::of_file(&self.path, self, self.size())
    }

    /// A copy of at most the first `len` bytes.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    pub(crate) fn head(&self, len: usize) -> Result<Vec<u8>> {
        self.cursor().bytes(len_u64(len).min(self.size()), "the file")
    }

    fn all(&self) -> &[u8] {
        match &self.data {
            Data::Mapped(map, _) | Data::Own(map) => map,
            Data::Carried(bytes) => bytes,
            Data::Made(_) => &[],
        }
    }

    /// Opens the same file for reads beside the mapping, direct ones if possible. A file that has since
    /// replaced it at the path is not opened.
    ///
    /// # Errors
    /// Errors of the system; [`io::ErrorKind::Unsupported`] for bytes that are in no file.
    pub fn reader(&self) -> io::Result<(Box<dyn ReadAt>, Access)> {
        let file = match &self.data {
            Data::Mapped(_, file) => file,
            Data::Made(made) => return made.reader(),
            Data::Own(_) | Data::Carried(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        let file = match DirectFile::open(&self.path) {
            Ok(found) if found.is(file)? => found,
            _ => DirectFile::buffered(file.try_clone()?),
        };
        let access = file.access();
        Ok((Box::new(file), access))
    }

    /// Asks for huge pages for the mapping, which file systems with large folios provide. For files that are
    /// read repeatedly as a whole.
    pub fn prefer_huge_pages(&self) {
        // A failure costs speed, not correctness.
        #[cfg(target_os = "linux")]
        if let Data::Mapped(map, _) = &self.data {
            let _ = map.advise(memmap2::Advice::HugePage);
        }
    }

    /// Reads a part of a mapped file into the page cache, and waits for it.
    ///
    /// # Errors
    /// The file cannot be read or has become shorter.
    pub fn populate(&self, offset: u64, len: u64) -> io::Result<()> {
        let Some((map, _, start, len)) = self.mapped(offset, len) else { return Ok(()) };
        #[cfg(target_os = "linux")]
        match map.advise_range(memmap2::Advice::PopulateRead, start, len) {
            // Linux before 5.14 does not have it.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            done => return done,
        }
        let touched = map.get(start..start + len).unwrap_or_default();
        std::hint::black_box(touched.iter().step_by(pieces::PAGE).fold(0_u8, |sum, byte| sum ^ byte));
        Ok(())
    }

    /// Does nothing: Windows has no way to release pages of a mapping.
    #[cfg(not(unix))]
    pub fn forget(&self, _offset: u64, _len: u64) {}

    /// Releases the memory of a part of a mapped file. A later read brings it back.
    #[cfg(unix)]
    pub fn forget(&self, offset: u64, len: u64) {
        let Some((map, file, start, len)) = self.mapped(offset, len) else { return };
        // Only whole pages: the bytes beside may be in use.
        let (first, end) =
            (start.next_multiple_of(pieces::PAGE), (start + len) / pieces::PAGE * pieces::PAGE);
        if first >= end {
            return;
        }
        // SAFETY: the mapping is shared with the file and never written, so dropped pages come back as they
        // were.
        let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, first, end - first) };
        super::read_at::drop_cached(file, first as u64, end - first);
    }

    /// Mapping, file and range, if the bytes are mapped and the range is inside.
    fn mapped(&self, offset: u64, len: u64) -> Option<(&Mmap, &File, usize, usize)> {
        let Data::Mapped(map, file) = &self.data else { return None };
        self.range(offset, len)?;
        Some((map, file, usize::try_from(offset).ok()?, usize::try_from(len).ok()?))
    }

    /// `len` bytes at `offset` in place, or `None` if the file is shorter. They are for numbers alone, such
    /// as weights: another process may change them at any time, so a check of them means nothing later.
    pub fn range(&self, offset: u64, len: u64) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        self.all().get(start..end)
    }
}

impl ReadAt for FileBytes {
    fn align(&self) -> usize {
        1
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Data::Mapped(_, file) = &self.data {
            return CachedFile(file).read_at(buffer, offset);
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self.all().get(start..).unwrap_or_default();
        let len = bytes.len().min(buffer.len());
        buffer[..len].copy_from_slice(&bytes[..len]);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that replaces it at the path later is another file.
    #[test]
    fn reads_past_the_mapping_come_from_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("file"), folder.path().join("other"));
        std::fs::write(&path, [7; 3 * pieces::PAGE]).unwrap();
        std::fs::write(&other, [9; 3 * pieces::PAGE]).unwrap();
        let bytes = FileBytes::open(&path).unwrap();
        let first = |bytes: &FileBytes| {
            let mut page = pieces::Piece::reserve([pieces::PAGE].into_iter()).unwrap().remove(0);
            crate::io::read_at::read_fully(&*bytes.reader().unwrap().0, page.bytes_mut(), 4096, pieces::PAGE)
                .unwrap();
            page.bytes().to_vec()
        };
        assert_eq!(first(&bytes), [7; pieces::PAGE]);
        // Windows refuses it while the file is mapped.
        let replaced = std::fs::rename(&other, &path);
        assert!(replaced.is_ok() || cfg!(windows), "{replaced:?}");
        assert_eq!(first(&bytes), [7; pieces::PAGE]);
        let now = if replaced.is_ok() { 9 } else { 7 };
        assert_eq!(first(&FileBytes::open(&path).unwrap()), [now; pieces::PAGE]);
        let removed = std::fs::remove_file(&path);
        assert!(removed.is_ok() || cfg!(windows), "{removed:?}");
        assert_eq!(first(&bytes), [7; pieces::PAGE]);
        assert!(FileBytes::carried(&path, &[5]).reader().is_err());
    }
}
