//! Hugging Face model folders: `config.json` and one or many safetensors files, joined into one catalog.
//! It must not know what the configuration means.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::container::catalog::{Catalog, TensorInfo};
use crate::container::safetensors;
use crate::container::sniff;
use crate::error::{Fault, LoadError, Result};
use crate::io::RegularFile;
use crate::io::json;
use crate::io::reader::printable;

/// The configuration file.
pub const CONFIG: &str = "config.json";
/// The weights of a model in one file.
pub const SINGLE: &str = "model.safetensors";
/// The list of a sharded model's files.
pub const INDEX: &str = "model.safetensors.index.json";

/// Largest configuration file, in bytes.
const MAX_CONFIG: u64 = 4 << 20;
/// Largest shard index, in bytes.
const MAX_INDEX: u64 = 64 << 20;

/// An open Hugging Face folder.
#[derive(Debug)]
pub struct HfFolder {
    /// The folder.
    pub path: PathBuf,
    /// `config.json`, not yet interpreted.
    pub config: Value,
    /// `generation_config.json`, if there is one.
    pub generation_config: Option<Value>,
    /// The tensors of all shards.
    pub catalog: Catalog,
    /// Harmless oddities of the files, to be shown to the user.
    pub notices: Vec<String>,
}

impl HfFolder {
    /// Opens a folder.
    ///
    /// # Errors
    /// [`LoadError::Io`], [`LoadError::NotAModel`], [`LoadError::Malformed`].
    pub fn open(path: &Path) -> Result<Self> {
        let config = json::read(&path.join(CONFIG), MAX_CONFIG)?;
        let generation = path.join("generation_config.json");
        let generation_config =
            if generation.is_file() { Some(json::read(&generation, MAX_CONFIG)?) } else { None };
        let (single, index) = (path.join(SINGLE), path.join(INDEX));
        let mut notices = Vec::new();
        let catalog = if !single.exists() && index.exists() {
            open_shards(path, &read_index(&index)?, &mut notices)?
        } else {
            let (file, tensors) = safetensors::open_file(&single)?;
            Catalog::new(vec![file], tensors)?
        };
        Ok(Self { path: path.to_owned(), config, generation_config, catalog, notices })
    }
}

/// A shard index: which file holds which tensor.
#[derive(Debug)]
pub struct ShardIndex {
    path: PathBuf,
    /// File names by tensor name.
    weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// Parses the text of an index file; `path` is for messages.
    ///
    /// # Errors
    /// [`LoadError::Malformed`], with [`Fault::BadFileName`] for a shard that is not a plain file name.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Raw {
            weight_map: BTreeMap<String, String>,
        }
        let Raw { weight_map } = json::parse(path, text, MAX_INDEX)?;
        for (tensor, shard) in &weight_map {
            if !is_shard_name(shard) {
                let (field, name) = (format!("weight_map {}", printable(tensor)), printable(shard));
                return Err(LoadError::malformed(path, field, Fault::BadFileName { name }));
            }
        }
        if weight_map.is_empty() {
            return Err(LoadError::malformed(path, "weight_map", Fault::Empty));
        }
        Ok(Self { path: path.to_owned(), weight_map })
    }

    /// The shards, each once, sorted by name.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

fn read_index(path: &Path) -> Result<ShardIndex> {
    let file = RegularFile::open(path)?;
    let parsed = file.read(MAX_INDEX).and_then(|text| ShardIndex::parse(path, &text));
    parsed.map_err(|error| sniff::explain(path, &file.head(sniff::HEAD), error))
}

/// Whether a name is a plain file name, which cannot lead out of the folder.
fn is_shard_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.strip_suffix(".safetensors").is_some_and(|stem| !stem.is_empty() && stem.chars().all(plain))
}

/// Opens all shards and compares them with the index.
fn open_shards(folder: &Path, index: &ShardIndex, notices: &mut Vec<String>) -> Result<Catalog> {
    let (mut files, mut tensors) = (Vec::new(), Vec::new());
    for (file_index, shard) in index.shards().into_iter().enumerate() {
        let (file, in_shard) = safetensors::open_file(&folder.join(shard)).map_err(missing_shard)?;
        let unlisted =
            in_shard.iter().filter(|t| index.weight_map.get(&t.name).is_none_or(|s| s != shard)).count();
        if unlisted > 0 {
            notices.push(format!("{shard}: {unlisted} tensors that the index lists elsewhere or not at all"));
        }
        files.push(file);
        tensors.extend(in_shard.into_iter().map(|tensor| TensorInfo { file: file_index, ..tensor }));
    }
    let catalog = Catalog::new(files, tensors)?;
    for (tensor, shard) in &index.weight_map {
        let found = catalog.get(tensor).map(|t| catalog.path(t));
        if found.and_then(Path::file_name).is_none_or(|name| name != shard.as_str()) {
            let field = format!("tensor {} of {shard}", printable(tensor));
            return Err(LoadError::malformed(&index.path, field, Fault::Missing { hint: " from that file" }));
        }
    }
    Ok(catalog)
}

/// A missing shard means that the model is incomplete, not that the path was mistyped.
fn missing_shard(error: LoadError) -> LoadError {
    match error {
        LoadError::Io { path, source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            let hint = ": the index names it; download the model completely";
            LoadError::malformed(&path, "shard", Fault::Missing { hint })
        }
        other => other,
    }
}
