//! From a path to everything the engine needs: the lowered spec, the tensors by role, and notices for people. It
//! must not know how a layer computes.

use std::path::Path;

use crate::config;
use crate::config::fields::RawConfig;
use crate::config::lower::{self, Container};
use crate::container::gguf::{Gguf, Metadata};
use crate::container::hf_folder::{CONFIG, HfFolder};
use crate::container::open::{ModelFiles, open_model};
use crate::container::packed::PackedIndex;
use crate::error::Result;
use crate::io::reader::printable;
use crate::spec::ModelSpec;
use crate::tensors::roles::{GGUF_NAMES, HF_NAMES};
use crate::tensors::store::TensorStore;

/// A model's files, understood.
#[derive(Debug)]
pub struct LoadedModel {
    /// What the model is.
    pub spec: ModelSpec,
    /// Its tensors by role.
    pub tensors: TensorStore,
    /// Where the rest (tokenizer, template, metadata) is read from.
    pub source: Source,
    /// Oddities that do no harm, one line each, for people.
    pub notices: Vec<String>,
}

/// What a model was read from, beside its tensors.
#[derive(Debug)]
pub enum Source {
    /// A GGUF file.
    Gguf {
        /// Its metadata.
        metadata: Metadata,
        /// Format version.
        version: u32,
    },
    /// A Hugging Face folder.
    Hf {
        /// The folder.
        path: std::path::PathBuf,
        /// `config.json`.
        config: serde_json::Value,
        /// `generation_config.json`.
        generation_config: Option<serde_json::Value>,
    },
}

/// Opens a path of any supported kind.
///
/// # Errors
/// Whatever is wrong with the files; see [`crate::error::LoadError`].
pub fn load(path: &Path) -> Result<LoadedModel> {
    match open_model(path)? {
        ModelFiles::Gguf(gguf) => load_gguf(gguf),
        ModelFiles::Hf(folder) => load_hf(folder),
    }
}

/// Opens a GGUF model that the program carries; `name` stands for the path in messages.
///
/// # Errors
/// As [`load`].
pub fn load_static(name: &str, bytes: &'static [u8]) -> Result<LoadedModel> {
    load_gguf(Gguf::from_static(name, bytes)?)
}

/// The spec of a `config.json` alone, before any weights are there; `path` is for messages.
///
/// # Errors
/// What is wrong with the configuration.
pub fn spec_of_config(path: &Path, config: &serde_json::Value) -> Result<ModelSpec> {
    lower::lower(&config::hf::read(path, config)?, Container::HfFolder)
}

fn load_gguf(gguf: Gguf) -> Result<LoadedModel> {
    let packed = PackedIndex::read(&gguf.metadata)?;
    let raw = config::gguf::read(&gguf.metadata, &gguf.catalog, packed.as_ref())?;
    let spec = lower::lower(&raw, Container::Gguf)?;
    let tensors = match &packed {
        Some(packed) => TensorStore::resolve_packed(&spec, gguf.catalog, GGUF_NAMES, packed)?,
        None => TensorStore::resolve(&spec, gguf.catalog, GGUF_NAMES)?,
    };
    let source = Source::Gguf { metadata: gguf.metadata, version: gguf.version };
    Ok(finish(&raw, "metadata keys", spec, tensors, source, gguf.notices))
}

fn load_hf(folder: HfFolder) -> Result<LoadedModel> {
    let raw = config::hf::read(&folder.path.join(CONFIG), &folder.config)?;
    let source =
        Source::Hf { path: folder.path, config: folder.config, generation_config: folder.generation_config };
    let spec = lower::lower(&raw, Container::HfFolder)?;
    let tensors = TensorStore::resolve(&spec, folder.catalog, HF_NAMES)?;
    Ok(finish(&raw, "config.json fields", spec, tensors, source, folder.notices))
}

/// Puts a model together. `fields` is what its container calls the fields of a configuration.
fn finish(
    raw: &RawConfig,
    fields: &str,
    spec: ModelSpec,
    tensors: TensorStore,
    source: Source,
    mut notices: Vec<String>,
) -> LoadedModel {
    if !raw.unknown.is_empty() {
        let unknown: Vec<_> = raw.unknown.iter().map(|field| printable(field)).collect();
        notices.push(format!("{fields} not understood and not used: {}", unknown.join(", ")));
    }
    if let Some(first) = tensors.unused().first() {
        let count = tensors.unused().len();
        notices.push(format!("{count} tensor(s) not used by this model, the first is {}", printable(first)));
    }
    LoadedModel { spec, tensors, source, notices }
}
