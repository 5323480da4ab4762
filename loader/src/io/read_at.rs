//! Reading a file at a place, past the system's cache: what is read once into memory of our own need not lie in the cache
//! as well, and large direct reads are what drives are fast at. It must not know what is read, nor who waits.

use std::fs::File;
use std::io;
use std::path::Path;

/// Something that can be read at a place: a file, or what stands for one in tests.
pub trait ReadAt: Send + Sync {
    /// Offsets, lengths and memory must be multiples of this power of two, at most [`super::pieces::PAGE`].
    fn align(&self) -> usize;

    /// Reads into the start of `buffer` and says how much; 0 at the end of the file.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Past the system's cache.
    Direct,
    /// Through it, because the file system refuses anything else; what was read is dropped from it at once.
    Buffered,
}

/// A file, read past the system's cache if possible.
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    access: Access,
}

impl DirectFile {
    /// Opens a regular file.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        match open_direct(path) {
            Ok(file) => Ok(Self { file, access: Access::Direct }),
            Err(_) => Ok(Self { file: File::open(path)?, access: Access::Buffered }),
        }
    }

    /// Reads an open file through the system's cache.
    pub(super) fn buffered(file: File) -> Self {
        Self { file, access: Access::Buffered }
    }

    /// Whether it is this open file, not only one of the same path.
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
            // Every drive's block divides a page.
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

/// An open file, read through the system's cache, where what is read stays.
pub(super) struct CachedFile<'f>(pub &'f File);

impl ReadAt for CachedFile<'_> {
    fn align(&self) -> usize {
        1
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        read_file(self.0, buffer, offset)
    }
}

/// Reads what lies from `offset` to `offset + need` to the start of `buffer`, and beyond it whatever comes along. Short
/// reads and interrupts go on; a part of a block is read again from the block's start.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] where the file ends before, and what the system says.
pub fn read_fully(from: &dyn ReadAt, buffer: &mut [u8], offset: u64, need: usize) -> io::Result<()> {
    let (align, mut done, mut idle) = (from.align(), 0, 0);
    while done < need {
        // Reads begin at whole blocks.
        let whole = done - done % align;
        let read = match from.read_at(&mut buffer[whole..], offset + whole as u64) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        // At the end of a file its last part of a block comes again and again.
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

    /// `f_type` of file systems that lie in memory: tmpfs and ramfs, from `linux/magic.h`. Direct reads mean nothing there.
    const IN_MEMORY: [i128; 2] = [0x0102_1994, 0x8584_58f6];

    let flags = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let system = fstatfs(&file)?;
    if IN_MEMORY.contains(&i128::from(system.f_type)) {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    Ok(file)
}

/// What is read does not stay in the cache, and what is there already is used: near enough. Compiled, not yet run.
#[cfg(target_os = "macos")]
fn open_direct(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    rustix::fs::fcntl_nocache(&file, true)?;
    Ok(file)
}

/// `FILE_FLAG_NO_BUFFERING`, from the Windows documentation of `CreateFileW`: whole sectors, memory of their alignment. Compiled, not
/// yet run.
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

/// Our share of the system's cache stays small while a model streams through it.
#[cfg(target_os = "linux")]
pub(super) fn drop_cached(file: &File, offset: u64, len: usize) {
    let len = std::num::NonZeroU64::new(len as u64);
    // A refusal costs memory of the cache, which the system takes back when it needs it.
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

    /// Gives bytes in odd portions, with interrupts between.
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
