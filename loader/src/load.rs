//! From a path to everything the engine needs: the lowered spec, the tensors by role, and notices. It
//! must not know how a layer computes.

use std::path::Path;

use crate::config;
use crate::config::fields::RawConfig;
use crate::config::find::family_of;
use crate::config::limits::Container;
use crate::config::lower;
use crate::container::gguf::{Gguf, Metadata};
use crate::container::hf_folder::{CONFIG, HfFolder};
use crate::container::open::{ModelFiles, open_model};
use crate::container::packed::PackedIndex;
use crate::error::Result;
use crate::families::FAMILIES;
use crate::io::reader::printable;
use crate::spec::ModelSpec;
use crate::tensors::roles::{GGUF_NAMES, HF_NAMES, Names};
use crate::tensors::store::TensorStore;

/// A model whose files have been opened and checked.
#[derive(Debug)]
pub struct LoadedModel {
    /// Layers, sizes and operations of the model.
    pub spec: ModelSpec,
    /// Its tensors by role.
    pub tensors: TensorStore,
    /// The part of the files that tokenizer, template and metadata are read from.
    pub source: Source,
    /// Harmless oddities of the files, one line each, to be shown to the user.
    pub notices: Vec<String>,
}

/// What a model was read from, beside its tensors.
#[derive(Debug)]
pub enum Source {
    /// A GGUF file.
    Gguf {
        /// All keys of the file, those of the tokenizer among them.
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
/// Any [`crate::error::LoadError`]: the files cannot be read, are damaged or are not supported.
pub fn load(path: &Path) -> Result<LoadedModel> {
    match open_model(path)? {
        ModelFiles::Gguf(gguf) => load_gguf(gguf),
        ModelFiles::Hf(folder) => load_hf(folder),
    }
}

/// Opens a GGUF model that is embedded in the program; messages show `name` in place of a path.
///
/// # Errors
/// As [`load`].
pub fn load_static(name: &str, bytes: &'static [u8]) -> Result<LoadedModel> {
    load_gguf(Gguf::from_static(name, bytes)?)
}

/// The spec of a `config.json` alone, without weights. Messages show `path`.
///
/// # Errors
/// As [`load`], for faults of the configuration.
pub fn spec_of_config(path: &Path, config: &serde_json::Value) -> Result<ModelSpec> {
    lower::lower(&config::hf::read(path, config)?, Container::HfFolder)
}

/// Whether GGUF files with this `general.architecture` are of a family that loads.
pub fn reads_gguf(architecture: &str) -> bool {
    FAMILIES.iter().any(|family| family.gguf_arch == architecture)
}

/// The names of tensors in GGUF files of the family of `spec`; those of all families if it has none.
pub fn gguf_names(spec: &ModelSpec) -> Names {
    let family = FAMILIES.iter().find(|family| family.label == spec.family);
    let own = family.map_or(&[][..], |family| family.gguf_names);
    Names { own, common: GGUF_NAMES, encoder: spec.encoder.map(|encoder| encoder.layers) }
}

/// The names of tensors in folders of the family of `spec`.
pub fn folder_names(spec: &ModelSpec) -> Names {
    let encoder = spec.encoder.map(|encoder| encoder.layers);
    Names { own: family_of(spec).folder_names, common: HF_NAMES, encoder }
}

fn load_gguf(gguf: Gguf) -> Result<LoadedModel> {
    let packed = PackedIndex::read(&gguf.metadata)?;
    let raw = config::gguf::read(&gguf.metadata, &gguf.catalog, packed.as_ref())?;
    let spec = lower::lower(&raw, Container::Gguf)?;
    let names = gguf_names(&spec);
    let tensors = match &packed {
        Some(packed) => TensorStore::resolve_packed(&spec, gguf.catalog, names, packed)?,
        None => TensorStore::resolve(&spec, gguf.catalog, names)?,
    };
    let source = Source::Gguf { metadata: gguf.metadata, version: gguf.version };
    Ok(finish(&raw, "metadata keys", spec, tensors, source, gguf.notices))
}

fn load_hf(folder: HfFolder) -> Result<LoadedModel> {
    let raw = config::hf::read(&folder.path.join(CONFIG), &folder.config)?;
    let source =
        Source::Hf { path: folder.path, config: folder.config, generation_config: folder.generation_config };
    let spec = lower::lower(&raw, Container::HfFolder)?;
    let names = folder_names(&spec);
    let mut tensors = TensorStore::resolve(&spec, folder.catalog, names)?;
    if family_of(&spec).folder_norms_centred {
        tensors = tensors.with_centred_norms();
    }
    Ok(finish(&raw, "config.json fields", spec, tensors, source, folder.notices))
}

/// Collects the notices of a model. `fields` is the container's word for the fields of a configuration.
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
        notices.push(format!("unknown {fields}, ignored: {}", unknown.join(", ")));
    }
    let (unused, skipped) = skipped_parts(raw, &spec, tensors.unused());
    notices.extend(skipped);
    if let Some(first) = unused.first() {
        let count = unused.len();
        notices.push(format!("{count} unused tensors, the first is {}", printable(first)));
    }
    LoadedModel { spec, tensors, source, notices }
}

/// What names of tensors for images and sound begin with, perhaps behind `model.`.
const SEEN_OR_HEARD: &[&str] = &[
    "visual.",
    "vision_tower.",
    "vision_model.",
    "vision_encoder.",
    "audio_tower.",
    "audio_model.",
    "multi_modal_projector.",
    "mm_projector.",
    "embed_vision.",
    "embed_audio.",
    "resampler_model.",
    "vit_large_projector.",
    // In GGUF files.
    "v.",
    "a.",
    "mm.",
];
/// The same of tensors that predict several tokens at once. Others lie in layers behind the model's own.
const PREDICTING: &[&str] = &["mtp.", "mtp_"];

/// Tensors that no known part has, and a notice for each part that is not run.
fn skipped_parts<'a>(
    raw: &RawConfig,
    spec: &ModelSpec,
    unused: &'a [String],
) -> (Vec<&'a String>, Vec<String>) {
    let mut rest: Vec<&String> = unused.iter().collect();
    let mut notices = Vec::new();
    let mut skip = |part: &str, belongs: &dyn Fn(&str) -> bool| {
        let before = rest.len();
        rest.retain(|name| !belongs(name));
        if rest.len() < before {
            notices.push(format!("{part} is not run: {} tensors are skipped", before - rest.len()));
        }
    };
    let begins = |name: &str, prefixes: &[&str]| {
        let name = name.strip_prefix("model.").unwrap_or(name);
        prefixes.iter().any(|prefix| name.starts_with(prefix))
    };
    skip("the part for images or sound", &|name| begins(name, SEEN_OR_HEARD));
    let predicting = raw.predicting_layers.value.and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
    let own = spec.layers.len();
    let behind = own..own.saturating_add(predicting);
    skip("the part that predicts several tokens at once", &|name| {
        begins(name, PREDICTING) || layer_of(name).is_some_and(|layer| behind.contains(&layer))
    });
    (rest, notices)
}

/// The layer that a tensor's name says it belongs to.
fn layer_of(name: &str) -> Option<usize> {
    let layers = ["blk.", "model.layers.", "model.language_model.layers.", "language_model.model.layers."];
    let rest = layers.iter().find_map(|layers| name.strip_prefix(layers))?;
    rest.split('.').next()?.parse().ok()
}
