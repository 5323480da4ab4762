//! What `moelten tune` has found out about models, in a file of the state folder: by place and size of the
//! model. It must not measure anything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use moelten_loader::io::output::PartialFile;
use serde::{Deserialize, Serialize};

use super::compute::PrefetchArg;
use super::kept;

/// Most models that are remembered.
const MODELS_MAX: usize = 200;

/// The fastest setting of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuned {
    /// Worker threads.
    pub threads: u16,
    /// When experts are prefetched.
    pub prefetch: PrefetchArg,
}

type All = BTreeMap<String, Tuned>;

/// What was found out about a model; `None` is the built-in one. Nothing if its files have changed since.
pub fn of(model: Option<&Path>) -> Option<Tuned> {
    read(&file()?)?.get(&key(model)?).copied()
}

/// Remembers a setting.
///
/// # Errors
/// The state folder cannot be written.
pub fn remember(model: Option<&Path>, tuned: &Tuned) -> anyhow::Result<()> {
    let (Some(file), Some(key)) = (file(), key(model)) else { return Ok(()) };
    let mut all = read(&file).unwrap_or_default();
    if all.len() >= MODELS_MAX {
        all.clear();
    }
    all.insert(key, *tuned);
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut partial = PartialFile::create_private(&file)?;
    partial.write(serde_json::to_string_pretty(&all)?.as_bytes())?;
    Ok(partial.commit()?)
}

fn file() -> Option<PathBuf> {
    Some(kept::state()?.join("tuned.json"))
}

/// Damaged files are as good as none: they are written anew.
fn read(file: &Path) -> Option<All> {
    serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()
}

/// The place and the size of a model.
fn key(model: Option<&Path>) -> Option<String> {
    let Some(path) = model else { return Some("built-in".to_owned()) };
    let place = path.canonicalize().ok()?;
    let bytes = std::fs::metadata(&place).ok()?.len();
    Some(format!("{} {bytes}", place.to_str()?))
}
