//! The operations on the disk by which files are written. Each of them may fail, and a loss of power may come
//! between any two; so that both can be tested, the operations of a thread can be watched and refused. It
//! must not know what is written, nor in which order.

use std::cell::RefCell;
use std::fmt::Debug;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::reader::len_u64;

/// An operation on the disk. The path that goes with it names the file at the time it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// A file is opened, and created if it does not exist. Its bytes stay.
    Open,
    /// Bytes are written at an offset.
    Write {
        /// Where the first of them goes, in bytes from the beginning of the file.
        offset: u64,
        /// What is written.
        bytes: &'a [u8],
    },
    /// The file is cut, or extended by zeros, to this many bytes.
    SetLen(u64),
    /// All writes to the file have to be on the disk before the operation ends.
    Sync,
    /// The system is asked for errors that it reports only when a file is closed.
    Close,
    /// The file gets another name, and replaces a file that has it.
    Rename(&'a Path),
    /// The file loses its name.
    Remove,
    /// All names in the folder of the file have to be on the disk before the operation ends.
    SyncFolder,
}

/// Is told of each operation before it is done.
pub trait Watch: Debug + Send + Sync {
    /// Allows the operation on the file at `path`, or refuses it with the error that its caller then gets.
    ///
    /// # Errors
    /// The error of the simulated disk.
    fn step(&self, path: &Path, step: Step<'_>) -> io::Result<()>;
}

thread_local! {
    static WATCH: RefCell<Option<Arc<dyn Watch>>> = const { RefCell::new(None) };
}

/// The result of `work`. Meanwhile `watch` is told of every operation on files that this thread opens for
/// writing, also if they are written by other threads.
pub fn watched<T>(watch: Arc<dyn Watch>, work: impl FnOnce() -> T) -> T {
    /// Puts the former watch back, also after a panic.
    struct Former(Option<Arc<dyn Watch>>);
    impl Drop for Former {
        fn drop(&mut self) {
            WATCH.replace(self.0.take());
        }
    }
    let _former = Former(WATCH.replace(Some(watch)));
    work()
}

/// The system's files, as far as they are written. Operations are told to the watch of the thread that made
/// the value.
#[derive(Debug, Clone)]
pub(crate) struct Disk(Option<Arc<dyn Watch>>);

impl Disk {
    /// With the watch of this thread, if it has one.
    pub fn here() -> Self {
        Self(WATCH.with_borrow(Clone::clone))
    }

    fn tell(&self, path: &Path, step: Step<'_>) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |watch| watch.step(path, step))
    }

    /// Opens or creates a file to read and write. Links are not followed. If it is `private`, only its owner
    /// may read and write it, whatever the process's umask and its mode before.
    pub fn open(&self, path: &Path, private: bool) -> io::Result<DiskFile> {
        self.tell(path, Step::Open)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).map_err(io::Error::other)?;
            options.custom_flags(flags);
            if private {
                options.mode(0o600);
            }
        }
        #[cfg(not(unix))]
        let _ = private;
        let file = options.open(path)?;
        #[cfg(unix)]
        if private {
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        }
        Ok(DiskFile { file, path: path.to_owned(), at: 0, disk: self.clone() })
    }

    /// Renames a file; one of the new name is replaced.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.tell(from, Step::Rename(to))?;
        std::fs::rename(from, to)
    }

    /// Removes a file.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        self.tell(path, Step::Remove)?;
        std::fs::remove_file(path)
    }

    /// Waits until the names in the folder of `file` are on the disk. Only Unix can open folders, and not
    /// every file system can sync them; then nothing more can be done.
    pub fn sync_folder(&self, file: &Path) -> io::Result<()> {
        self.tell(file, Step::SyncFolder)?;
        if cfg!(unix) {
            let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            return match File::open(folder)?.sync_all() {
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) =>
                {
                    Ok(())
                }
                other => other,
            };
        }
        Ok(())
    }
}

/// An open file.
#[derive(Debug)]
pub(crate) struct DiskFile {
    file: File,
    path: PathBuf,
    /// Offset of the next byte that is read or written.
    at: u64,
    disk: Disk,
}

impl DiskFile {
    fn tell(&self, step: Step<'_>) -> io::Result<()> {
        self.disk.tell(&self.path, step)
    }

    /// Cuts or extends the file.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        self.tell(Step::SetLen(len))?;
        self.file.set_len(len)
    }

    /// Waits until everything that was written is on the disk.
    pub fn sync(&self) -> io::Result<()> {
        self.tell(Step::Sync)?;
        self.file.sync_all()
    }

    /// The error that the system reports when the file is closed: some network file systems find out only
    /// then that they could not store it. The file stays open and locked.
    pub fn check_close(&self) -> io::Result<()> {
        self.tell(Step::Close)?;
        #[cfg(unix)]
        {
            use std::os::fd::{IntoRawFd, OwnedFd};
            let copy = OwnedFd::from(self.file.try_clone()?).into_raw_fd();
            // SAFETY: the descriptor was made in the line before, and nothing else knows or closes it.
            if unsafe { libc::close(copy) } != 0 {
                let error = io::Error::last_os_error();
                // An interrupted close has closed the descriptor, and says nothing about the data.
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Locks the file against other processes that lock it.
    pub fn try_lock(&self) -> Result<(), TryLockError> {
        self.file.try_lock()
    }

    /// Whether it is the file at `path`, and not one that had the name before.
    pub fn is_at(&self, path: &Path) -> bool {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let identity = |found: std::fs::Metadata| (found.dev(), found.ino());
            let there = std::fs::symlink_metadata(path).map(identity).ok();
            there.is_some() && self.file.metadata().map(identity).ok() == there
        }
        #[cfg(not(unix))]
        path.exists()
    }
}

impl Read for DiskFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.at += len_u64(read);
        Ok(read)
    }
}

impl Write for DiskFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tell(Step::Write { offset: self.at, bytes })?;
        let written = self.file.write(bytes)?;
        self.at += len_u64(written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for DiskFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = self.file.seek(to)?;
        Ok(self.at)
    }
}
