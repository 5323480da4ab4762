//! Small files of the program in the user's folder for caches: what was measured on this machine. Losing them
//! costs a measurement and nothing else. It must not know what is in them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use etcetera::BaseStrategy;
use serde_json::{Map, Value, json};

/// Whether the user wants nothing to be kept of this run.
static NOTHING: AtomicBool = AtomicBool::new(false);

/// Keeps nothing of this run from now on: neither its speed nor that it was there. What was measured of the
/// machine alone is kept all the same.
pub fn keep_nothing() {
    NOTHING.store(true, Ordering::Relaxed);
}

/// Whether something may be kept of this run.
pub fn keeps() -> bool {
    !NOTHING.load(Ordering::Relaxed)
}

/// The folder for them.
///
/// # Errors
/// No home folder.
pub fn folder() -> Result<PathBuf, etcetera::HomeDirError> {
    Ok(etcetera::choose_base_strategy()?.cache_dir().join("moelten"))
}

/// The folder for what goes on from one run to the next, such as conversations; `None` without a home folder.
/// Windows has one folder for this and for what [`folder`] is for.
pub fn state() -> Option<PathBuf> {
    let user = etcetera::choose_base_strategy().ok()?;
    Some(user.state_dir().unwrap_or_else(|| user.cache_dir()).join("moelten"))
}

/// The entries of a file: none if it is missing, damaged, or of another `version`. The next write replaces
/// such a file.
pub fn read(path: &Path, version: &str) -> Map<String, Value> {
    let value = fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    match value {
        Some(Value::Object(mut file)) if file.get("program").and_then(Value::as_str) == Some(version) => {
            match file.remove("entries") {
                Some(Value::Object(entries)) => entries,
                _ => Map::new(),
            }
        }
        _ => Map::new(),
    }
}

/// Replaces a file. Other processes see the old one or the new one.
///
/// # Errors
/// The folder cannot be written.
pub fn write(path: &Path, version: &str, entries: &Map<String, Value>) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    let new: PathBuf = path.with_extension(format!("{}.new", std::process::id()));
    fs::write(&new, json!({ "program": version, "entries": entries }).to_string())?;
    fs::rename(&new, path)
}
