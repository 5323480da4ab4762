//! The history of entries, in a file that line mode and the full screen share. It must not know what an entry
//! means.

use std::io;
use std::path::{Path, PathBuf};

use rustyline::history::{FileHistory, History, SearchDirection};

use super::line_input::lossy;
use super::private_file;

/// Creates the history file if it does not exist, and repairs it if it is not valid UTF-8: a full disk may
/// have cut a character.
///
/// # Errors
/// The folder or the file cannot be created, read or written.
pub fn prepare(path: &Path) -> io::Result<()> {
    private_file::create_folder_of(path)?;
    private_file::create(path)?;
    let (mut text, damaged) = lossy(std::fs::read(path)?);
    if !damaged {
        return Ok(());
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    private_file::replace(path, &text)
}

/// The history of entries with its file.
pub struct HistoryFile {
    history: FileHistory,
    path: PathBuf,
}

impl HistoryFile {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// The file cannot be created, read or parsed.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        prepare(&path)?;
        let mut history = FileHistory::new();
        history.load(&path).map_err(io::Error::other)?;
        Ok(Self { history, path })
    }

    /// The entries, the oldest first.
    pub fn texts(&self) -> Vec<String> {
        let text = |index| {
            let entry = self.history.get(index, SearchDirection::Forward).ok().flatten();
            entry.map(|entry| entry.entry.into_owned())
        };
        (0..self.history.len()).filter_map(text).collect()
    }

    /// Appends an entry, unless it equals the last one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, text: &str) -> io::Result<()> {
        if self.history.add(text).map_err(io::Error::other)? {
            self.history.append(&self.path).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full disk may cut a character.
    #[test]
    fn a_damaged_history_is_repaired() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        let mut history = HistoryFile::open(path.clone()).unwrap();
        history.add("one").unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend(b"two \xf0\x9f\x8c");
        std::fs::write(&path, bytes).unwrap();
        let mut history = HistoryFile::open(path.clone()).unwrap();
        assert_eq!(history.texts(), ["one", "two \u{fffd}"]);
        history.add("three").unwrap();
        assert_eq!(HistoryFile::open(path).unwrap().texts(), ["one", "two \u{fffd}", "three"]);
    }

    #[test]
    fn the_history_is_private_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/moelten/history");
        let mut history = HistoryFile::open(path.clone()).unwrap();
        history.add("one").unwrap();
        history.add("two\nlines \\ and").unwrap();
        assert_eq!(HistoryFile::open(path.clone()).unwrap().texts(), ["one", "two\nlines \\ and"]);
        #[cfg(unix)]
        for (path, mode) in [(path.as_path(), 0o600), (path.parent().unwrap(), 0o700)] {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
        }
    }
}
