//! Files that only the user may read: the history and conversations. It must not know what is in them.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::path::Path;

use moelten_loader::error::LoadError;
use moelten_loader::io::output::PartialFile;

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

/// Replaces a file, durably and at once: readers see the old content or the new one. If that fails, the old
/// file stays. Where `path` is a link, the file that it leads to is replaced.
///
/// # Errors
/// Writing failed, or another process is replacing the same file.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let write = || {
        let mut file = PartialFile::create_private(path)?;
        file.write(text.as_bytes())?;
        file.commit()
    };
    write().map_err(|error| match error {
        LoadError::Io { source, .. } => source,
        other => io::Error::other(other),
    })
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_replaced_file_is_private_whatever_was_there_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.json");
        for name in ["last.json", "last.json.partial"] {
            let file = folder.path().join(name);
            std::fs::write(&file, "an old text that is longer").unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        }
        replace(&path, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file stays");
    }

    #[test]
    fn a_file_that_another_process_replaces_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.json");
        replace(&path, "old").unwrap();
        let other = PartialFile::create_private(&path).unwrap();
        let error = replace(&path, "new").unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
        drop(other);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link] = ["file", "link"].map(|name| folder.path().join(name));
        std::fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace(&link, "new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
    }
}
