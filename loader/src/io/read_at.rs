//! Reading a file at an offset without the page cache: weights that are read into the expert cache need no
//! second copy, and large direct reads are the fastest way to read from a drive. It must not know what is
//! read.

use std::fs::File;
use std::io;
use std::path::Path;

/// A source that can be read at an offset: a file, or a test double.
pub trait ReadAt: Send + Sync {
    /// Offsets, lengths and memory must be multiples of this power of two, at most [`super::pieces::PAGE`].
    fn align(&self) -> usize;

    /// Reads into the start of `buffer` and returns the number of bytes; 0 at the end of the file.
    ///
    /// # Errors
    /// Errors of the system.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Without the page cache.
    Direct,
    /// Through the page cache, because the file system has no direct reads. What was read is dropped from it
    /// at once.
    Buffered,
}

/// A file that is read without the page cache if possible.
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    access: Access,
}

impl DirectFile {
    /// Opens a regular file.
    ///
    /// # Errors
    /// Errors of the system.
    pub fn open(path: &Path) -> io::Result<Self> {
        match open_direct(path) {
            Ok(file) => Ok(Self { file, access: Access::Direct }),
            Err(_) => Ok(Self { file: File::open(path)?, access: Access::Buffered }),
        }
    }

    /// Reads an open file through the page cache.
    pub(super) fn buffered(file: File) -> Self {
        Self { file, access: Access::Buffered }
    }

    /// Whether it is the same file, not another one at the same path.
    pub(super) fn is(&self, file: &File) -> io::Result<bool> {
        let (a, b) = (self.file.metadata()?, file.metadata()?);
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
        }
        #[cfg(not(unix))]
        Ok(a.len() == b.len() && a.modified()? == b.modified()?)
    }

    /// How it is read.
    pub fn access(&self) -> Access {
        self.access
    }
}

impl ReadAt for DirectFile {
    fn align(&self) -> usize {
        match self.access {
            // The block size of every drive divides a page.
            Access::Direct => super::pieces::PAGE,
            Access::Buffered => 1,
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = read_file(&self.file, buffer, offset)?;
        if self.access == Access::Buffered {
            drop_cached(&self.file, offset, read);
        }
        Ok(read)
    }
}

/// An open file that is read through the page cache. What is read stays there.
pub(super) struct CachedFile<'f>(pub &'f File);

impl ReadAt for CachedFile<'_> {
    fn align(&self) -> usize {
        1
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        read_file(self.0, buffer, offset)
    }
}

/// Reads the `need` bytes at `offset` to the start of `buffer`; bytes behind them may be read as well.
/// Continues after short reads and interrupts; a partial block is read again from its start.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] if the file ends before, and errors of the system.
pub fn read_fully(from: &dyn ReadAt, buffer: &mut [u8], offset: u64, need: usize) -> io::Result<()> {
    let (align, mut done, mut idle) = (from.align(), 0, 0);
    while done < need {
        // Reads begin at whole blocks.
        let whole = done - done % align;
        let read = match from.read_at(&mut buffer[whole..], offset + whole as u64) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        // At the end of a file, its last partial block is returned repeatedly.
        idle = if whole + read > done { 0 } else { idle + 1 };
        if read == 0 || idle > 2 {
            let problem = format!("the file ends {} bytes too early; was it cut meanwhile?", need - done);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, problem));
        }
        done = done.max(whole + read);
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    use rustix::fs::{OFlags, fstatfs};

    /// `f_type` of file systems in memory: tmpfs and ramfs, from `linux/magic.h`. Direct reads have no
    /// meaning there.
    const IN_MEMORY: [i128; 2] = [0x0102_1994, 0x8584_58f6];

    let flags = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let system = fstatfs(&file)?;
    if IN_MEMORY.contains(&i128::from(system.f_type)) {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    Ok(file)
}

/// `F_NOCACHE`: what is read does not stay in the cache, but cached pages are used. Compiled, not run.
#[cfg(target_os = "macos")]
fn open_direct(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    rustix::fs::fcntl_nocache(&file, true)?;
    Ok(file)
}

/// `FILE_FLAG_NO_BUFFERING`, from the Windows documentation of `CreateFileW`: whole sectors into aligned
/// memory. Compiled, not run.
#[cfg(windows)]
fn open_direct(path: &Path) -> io::Result<File> {
    use std::os::windows::fs::OpenOptionsExt;

    const FILE_FLAG_NO_BUFFERING: u32 = 0x2000_0000;
    std::fs::OpenOptions::new().read(true).custom_flags(FILE_FLAG_NO_BUFFERING).open(path)
}

#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
fn open_direct(_path: &Path) -> io::Result<File> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

#[cfg(unix)]
fn read_file(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_file(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

/// Keeps the page cache small while a model streams through it.
#[cfg(target_os = "linux")]
pub(super) fn drop_cached(file: &File, offset: u64, len: usize) {
    let len = std::num::NonZeroU64::new(len as u64);
    // A failure costs only page cache, which the system reclaims when it needs memory.
    let _ = rustix::fs::fadvise(file, offset, len, rustix::fs::Advice::DontNeed);
}

#[cfg(not(target_os = "linux"))]
pub(super) fn drop_cached(_file: &File, _offset: u64, _len: usize) {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::pieces::{PAGE, Piece};

    #[test]
    fn reads_what_the_file_has_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..3 * PAGE + 100).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = DirectFile::open(&path).unwrap();
        let mut piece = Piece::reserve([4 * PAGE].into_iter()).unwrap().remove(0);
        read_fully(&file, piece.bytes_mut(), PAGE as u64, 2 * PAGE + 100).unwrap();
        assert_eq!(piece.bytes()[..2 * PAGE + 100], bytes[PAGE..]);
        let error = read_fully(&file, piece.bytes_mut(), PAGE as u64, 2 * PAGE + 101).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(error.to_string().contains("1 bytes too early"), "{error}");
        assert!(DirectFile::open(&folder.path().join("none")).is_err());
    }

    /// Returns bytes in odd portions, with interrupts between.
    struct Slow(Vec<u8>, std::sync::atomic::AtomicUsize);

    impl ReadAt for Slow {
        fn align(&self) -> usize {
            1
        }

        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let call = self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if call.is_multiple_of(3) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let rest = self.0.get(offset as usize..).unwrap_or_default();
            let len = rest.len().min(buffer.len()).min(1 + call % 7);
            buffer[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        }
    }

    #[test]
    fn short_reads_and_interrupts_go_on() {
        let bytes: Vec<u8> = (0..1000).map(|i| (i % 241) as u8).collect();
        let slow = Slow(bytes.clone(), 0.into());
        let mut buffer = vec![0; 600];
        read_fully(&slow, &mut buffer, 300, 555).unwrap();
        assert_eq!(buffer[..555], bytes[300..855]);
        assert!(read_fully(&slow, &mut buffer, 990, 11).is_err());
    }
}
