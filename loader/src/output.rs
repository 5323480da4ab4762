//! Files that appear complete or not at all: written next to their final name, synced, then renamed. What is there of an
//! unfinished one can be kept, and gone on with. Knows no format.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{LoadError, Result};

/// A file in the making. Dropped without [`Self::commit`] or [`Self::keep`], it leaves nothing behind.
#[derive(Debug)]
pub struct PartialFile {
    /// `None` once committed.
    file: Option<BufWriter<File>>,
    partial: PathBuf,
    target: PathBuf,
}

const OPEN: &str = "only commit and keep take the file, and consume self";

impl PartialFile {
    /// Begins `target`, writing to `target` with `.partial` appended. A leftover of that name is overwritten,
    /// unless another process is writing it.
    ///
    /// # Errors
    /// [`LoadError::Io`]; in particular when `target` is a folder or one of `sources`, which are being read.
    pub fn create(target: &Path, sources: &[&Path]) -> Result<Self> {
        let mut file = Self::resume(target, sources)?;
        file.truncate(0)?;
        Ok(file)
    }

    /// As [`Self::create`], but a leftover keeps its bytes: the caller reads them and decides where to go on.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn resume(target: &Path, sources: &[&Path]) -> Result<Self> {
        let refuse = |kind, message: &'static str| {
            Err(LoadError::io(target, "write the file", io::Error::new(kind, message)))
        };
        if let Ok(existing) = std::fs::metadata(target) {
            if existing.is_dir() {
                return refuse(io::ErrorKind::IsADirectory, "it is a folder; give a file name");
            }
            if !existing.is_file() {
                return refuse(io::ErrorKind::InvalidInput, "it is a device or a pipe; give a file name");
            }
            if sources.iter().any(|source| same_file(target, source)) {
                return refuse(io::ErrorKind::InvalidInput, "it is the input; give another name");
            }
        }
        let Some(name) = target.file_name() else {
            return refuse(io::ErrorKind::InvalidInput, "it has no file name");
        };
        let mut partial_name = name.to_owned();
        partial_name.push(".partial");
        let partial = target.with_file_name(partial_name);

        let failed = |source| LoadError::io(&partial, "create the file", source);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&partial);
        let file = file.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = "another process is writing it";
                return refuse(io::ErrorKind::ResourceBusy, message);
            }
            // Some file systems have no locks; then the rename still keeps the result whole.
            Err(TryLockError::Error(_)) => {}
        }
        let file = Some(BufWriter::with_capacity(1 << 20, file));
        Ok(Self { file, partial, target: target.to_owned() })
    }

    /// Where the bytes are until they are complete.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Cuts off everything from `len` on; what is written next comes there.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    pub fn truncate(&mut self, len: u64) -> Result<()> {
        let failed = |source| LoadError::io(&self.partial, "write to the file", source);
        let file = self.file.as_mut().expect(OPEN);
        // The seek empties the buffer first.
        file.seek(SeekFrom::Start(len)).map_err(failed)?;
        file.get_ref().set_len(len).map_err(failed)
    }

    /// Calls `look` with the `len` bytes at `offset`, in pieces; `false` if the file is not that long.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    pub fn read_back(&mut self, offset: u64, len: u64, look: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let failed = |source| LoadError::io(&self.partial, "read the file back", source);
        let file = self.file.as_mut().expect(OPEN);
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        let mut piece = vec![0; 1 << 20];
        let mut left = len;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            let piece = piece.get_mut(..most).expect("no more than the piece has");
            let read = file.get_mut().read(piece).map_err(failed)?;
            if read == 0 {
                return Ok(false);
            }
            look(piece.get(..read).expect("a read fills no more than it was given"));
            left -= u64::try_from(read).expect("less than what was left");
        }
        Ok(true)
    }

    /// Hands everything written so far to the system, from where it outlives this process.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    pub fn flush(&mut self) -> Result<()> {
        let failed = |source| LoadError::io(&self.partial, "write to the file", source);
        self.file.as_mut().expect(OPEN).flush().map_err(failed)
    }

    /// Leaves what was written under the name of the unfinished file.
    pub fn keep(mut self) {
        // What is still in the buffer was never promised to anyone.
        drop(self.file.take().map(BufWriter::into_parts));
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let file = self.file.as_mut().expect(OPEN);
        file.write_all(bytes).map_err(|source| LoadError::io(&self.partial, "write to the file", source))
    }

    /// Writes over bytes at `offset`, all of which are there already, and goes back to the end.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    pub fn write_over(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let failed = |source| LoadError::io(&self.partial, "write to the file", source);
        let file = self.file.as_mut().expect(OPEN);
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        file.write_all(bytes).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(())
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// [`LoadError::Io`]; then the target is as it was.
    pub fn commit(mut self) -> Result<()> {
        let failed = |source| LoadError::io(&self.target, "finish the file", source);
        let file = self.file.as_mut().expect(OPEN);
        file.flush().map_err(failed)?;
        file.get_ref().sync_all().map_err(failed)?;
        // Windows renames no open file; the lock goes with it.
        let renamed = {
            drop(self.file.take().map(BufWriter::into_parts));
            std::fs::rename(&self.partial, &self.target)
        };
        if let Err(source) = renamed {
            let _best_effort = std::fs::remove_file(&self.partial);
            return Err(LoadError::io(&self.target, "rename the finished file", source));
        }
        sync_folder(&self.target).map_err(|source| LoadError::io(&self.target, "sync the folder", source))
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // The buffered rest is not wanted either.
            drop(file.into_parts());
            let _best_effort = std::fs::remove_file(&self.partial);
        }
    }
}

/// Bytes that this process may still write to the disk of `folder`; `None` where the system does not say.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let found = rustix::fs::statvfs(folder).ok()?;
        found.f_bavail.checked_mul(found.f_frsize)
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}

/// Whether two names are one file, through links of either kind.
fn same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let identity = |path| std::fs::metadata(path).map(|m: std::fs::Metadata| (m.dev(), m.ino())).ok();
        identity(a).is_some_and(|a| identity(b) == Some(a))
    }
    #[cfg(not(unix))]
    {
        std::fs::canonicalize(a).is_ok_and(|a| std::fs::canonicalize(b).is_ok_and(|b| a == b))
    }
}

/// Makes a rename durable. Only Unix can open folders for this.
fn sync_folder(file: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
