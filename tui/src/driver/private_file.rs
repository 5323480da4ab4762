//! Files that only the user may read: the history and conversations. It must not know what is in them.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Creates the folder of a file, if it does not exist; only the user may enter it then.
///
/// # Errors
/// The folder cannot be created.
pub fn create_folder_of(path: &Path) -> io::Result<()> {
    let mut folder = DirBuilder::new();
    folder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut folder, 0o700);
    path.parent().map_or(Ok(()), |parent| folder.create(parent))
}

/// Creates a file, if it does not exist; only the user may read it then.
///
/// # Errors
/// The file cannot be opened for writing.
pub fn create(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Replaces a file. If that fails, the old one stays.
///
/// # Errors
/// Writing failed.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let result = write_new(Path::new(&partial), text).and_then(|()| std::fs::rename(&partial, path));
    if result.is_err() {
        // The first error is the one that matters.
        let _ = std::fs::remove_file(&partial);
    }
    result
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
