//! Files that appear complete or not at all: written beside their final name, synced, then renamed. An
//! unfinished file can be kept and resumed. It must not know formats.

use std::fs::TryLockError;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::disk::{Disk, DiskFile};
use crate::error::{LoadError, Result};

/// A file that is being written. Dropped without [`Self::commit`], it is removed, unless it is resumable.
#[derive(Debug)]
pub struct PartialFile {
    /// `None` once committed.
    file: Option<BufWriter<DiskFile>>,
    disk: Disk,
    partial: PathBuf,
    target: PathBuf,
    /// Whether it is kept when it is dropped unfinished.
    resumable: bool,
    /// Whether everything written so far is on the disk.
    secured: bool,
}

const OPEN: &str = "only commit takes the file, and consumes self";

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

    /// As [`Self::create`], for a file that only its owner may read and write (mode 600), whatever the
    /// process's umask and the mode of a leftover.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_private(target: &Path) -> Result<Self> {
        let mut file = Self::open(target, &[], true)?;
        file.truncate(0)?;
        Ok(file)
    }

    /// As [`Self::create`], but a leftover keeps its bytes: the caller reads them and decides where to
    /// continue.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn resume(target: &Path, sources: &[&Path]) -> Result<Self> {
        Self::open(target, sources, false)
    }

    fn open(target: &Path, sources: &[&Path], private: bool) -> Result<Self> {
        let (target, partial) = Self::places(target, sources)?;
        let failed = |source| LoadError::io(&partial, "create the file", source);
        let disk = Disk::here();
        let file = disk.open(&partial, private).map_err(failed)?;
        let busy = || refusal(&target, io::ErrorKind::ResourceBusy, "another process is writing it");
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy()),
            // Some file systems have no locks; the rename still makes the result complete.
            Err(TryLockError::Error(_)) => {}
        }
        // If the process that held the lock has just finished, this is its finished file, not the one at the
        // path.
        if !file.is_at(&partial) {
            return Err(busy());
        }
        let file = Some(BufWriter::with_capacity(1 << 20, file));
        Ok(Self { file, disk, partial, target, resumable: false, secured: false })
    }

    /// The paths of the finished file, links resolved, and of the partial one.
    ///
    /// # Errors
    /// [`LoadError::Io`] for a target that cannot be a file of its own: a folder, a device, or one of
    /// `sources`.
    pub fn places(target: &Path, sources: &[&Path]) -> Result<(PathBuf, PathBuf)> {
        let refuse = |kind, message: &'static str| Err(refusal(target, kind, message));
        let last = target.as_os_str().as_encoded_bytes().last();
        if last.is_some_and(|&last| std::path::is_separator(last.into())) {
            return refuse(io::ErrorKind::IsADirectory, "it is a folder; give a file name");
        }
        if let Ok(existing) = std::fs::metadata(target) {
            if existing.is_dir() {
                return refuse(io::ErrorKind::IsADirectory, "it is a folder; give a file name");
            }
            if !existing.is_file() {
                return refuse(io::ErrorKind::InvalidInput, "it is a device or a pipe; give a file name");
            }
        }
        // A link is kept; the file that it points to is replaced.
        let linked = std::fs::symlink_metadata(target).is_ok_and(|found| found.is_symlink());
        let target = if linked {
            target.canonicalize().map_err(|source| LoadError::io(target, "follow the link", source))?
        } else {
            target.to_owned()
        };
        let Some(name) = target.file_name() else {
            return refuse(io::ErrorKind::InvalidInput, "it has no file name");
        };
        let mut partial = name.to_owned();
        partial.push(".partial");
        let partial = target.with_file_name(partial);
        for path in [&target, &partial] {
            apart(path, sources)?;
        }
        Ok((target, partial))
    }

    /// Sets whether the file is kept when it is dropped unfinished.
    pub fn set_resumable(&mut self, resumable: bool) {
        self.resumable = resumable;
    }

    /// Path of the partial file.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Truncates to `len` bytes; writing continues there.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    pub fn truncate(&mut self, len: u64) -> Result<()> {
        let failed = |source| LoadError::io(&self.partial, "write to the file", source);
        let file = self.file.as_mut().expect(OPEN);
        self.secured = false;
        // The seek empties the buffer first.
        file.seek(SeekFrom::Start(len)).map_err(failed)?;
        file.get_ref().set_len(len).map_err(failed)
    }

    /// Calls `look` with the `len` bytes at `offset`, in pieces; `false` if the file is shorter.
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

    /// Passes everything written so far to the system, so that it survives the end of this process.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    pub fn flush(&mut self) -> Result<()> {
        let failed = |source| LoadError::io(&self.partial, "write to the file", source);
        self.file.as_mut().expect(OPEN).flush().map_err(failed)
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let file = self.file.as_mut().expect(OPEN);
        self.secured = false;
        file.write_all(bytes).map_err(|source| LoadError::io(&self.partial, "write to the file", source))
    }

    /// Overwrites bytes at `offset` that were written before; writing continues at the end.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    pub fn write_over(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let failed = |source| LoadError::io(&self.partial, "write to the file", source);
        let file = self.file.as_mut().expect(OPEN);
        self.secured = false;
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        file.write_all(bytes).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(())
    }

    /// Waits until everything written so far is on the disk.
    ///
    /// # Errors
    /// [`LoadError::Io`]. The file is not resumable then: what the system reads back of it may not be what
    /// the disk holds, and the next sync would not tell.
    pub fn secure(&mut self) -> Result<()> {
        if self.secured {
            return Ok(());
        }
        let file = self.file.as_mut().expect(OPEN);
        let failed = |action| move |source| (action, source);
        let done = (file.flush().map_err(failed("finish the file")))
            .and_then(|()| file.get_ref().sync().map_err(failed("sync the file to the disk")))
            .and_then(|()| file.get_ref().check_close().map_err(failed("close the finished file")));
        self.secured = done.is_ok();
        done.map_err(|(action, source)| {
            self.resumable = false;
            LoadError::io(&self.target, action, source)
        })
    }

    /// Syncs the file to disk and renames it to its final name.
    ///
    /// # Errors
    /// [`LoadError::Io`]; then the target is unchanged, unless it is the folder that cannot be synced, and
    /// the text of the error says so: the new file is complete then.
    pub fn commit(mut self) -> Result<()> {
        self.secure()?;
        if cfg!(windows) {
            // Windows cannot rename an open file. Elsewhere the lock is held until after the rename.
            drop(self.file.take().map(BufWriter::into_parts));
        }
        let failed = |source| LoadError::io(&self.target, "rename the finished file", source);
        let renamed = self.disk.rename(&self.partial, &self.target);
        if renamed.is_err() && cfg!(windows) && !self.resumable {
            // There a file that is mapped cannot be replaced. The drop removes only an open file.
            let _best_effort = std::fs::remove_file(&self.partial);
        }
        renamed.map_err(|error| failed(in_use(error)))?;
        drop(self.file.take().map(BufWriter::into_parts));
        let action = "sync the folder (the file is complete, but a power failure now could undo it)";
        self.disk.sync_folder(&self.target).map_err(|source| LoadError::io(&self.target, action, source))
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            if !self.resumable && !cfg!(windows) {
                // While the lock is held: afterwards the name may belong to another process.
                let _best_effort = self.disk.remove(&self.partial);
            }
            // The rest of the buffer is discarded, not written.
            drop(file.into_parts());
            if !self.resumable && cfg!(windows) {
                let _best_effort = self.disk.remove(&self.partial);
            }
        }
    }
}

fn refusal(target: &Path, kind: io::ErrorKind, message: &'static str) -> LoadError {
    LoadError::io(target, "write the file", io::Error::new(kind, message))
}

/// The error of a rename. Windows says "access denied" of a file that a program has open.
fn in_use(error: io::Error) -> io::Error {
    if !cfg!(windows) || error.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    io::Error::other(format!("{error}; a program has the file open: close it and try again"))
}

/// Refuses a path that is one of `sources`, or a link.
pub(crate) fn apart(path: &Path, sources: &[&Path]) -> Result<()> {
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !found.is_file() {
        return Err(refusal(path, io::ErrorKind::InvalidInput, "it is a link or no file; remove it"));
    }
    if sources.iter().any(|source| same_file(path, source)) {
        return Err(refusal(path, io::ErrorKind::InvalidInput, "it is the input; give another name"));
    }
    Ok(())
}

/// Free bytes for this process on the disk of `folder`; `None` if unknown.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let found = rustix::fs::statvfs(folder).ok()?;
        found.f_bavail.checked_mul(found.f_frsize)
    }
    #[cfg(windows)]
    return super::machine::free_bytes(folder);
    #[cfg(not(any(unix, windows)))]
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
