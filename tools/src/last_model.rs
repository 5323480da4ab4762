//! The model of the last chat, for `moelten` alone: one line in the folder for state. It is written only if
//! the user chose so in the configuration. It must not know what a model is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::open::kept;

/// Longest path that is read, in bytes.
const MOST: u64 = 64 << 10;

fn place() -> Option<PathBuf> {
    Some(kept::state()?.join("last-model"))
}

/// Keeps the path of a model.
///
/// # Errors
/// No folder for state, a path that is not UTF-8, errors of the file system.
pub fn remember(model: &Path) -> io::Result<()> {
    let file = place().ok_or_else(|| io::Error::other("there is no folder for state"))?;
    let full = std::path::absolute(model)?;
    let text = full.to_str().ok_or_else(|| io::Error::other("the path of the model is not UTF-8"))?;
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    io::Write::write_all(&mut new, text.as_bytes())?;
    new.persist(&file).map_err(|error| error.error)?;
    Ok(())
}

/// The model of the last chat, whether it still exists or not.
pub fn recall() -> Option<PathBuf> {
    let file = place()?;
    let known = fs::metadata(&file).is_ok_and(|found| found.len() <= MOST);
    let text = if known { fs::read_to_string(&file).ok()? } else { return None };
    Some(PathBuf::from(text)).filter(|path| path.is_absolute())
}
