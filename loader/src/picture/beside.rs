//! What a model of images has beside its weights: what is done to images before it reads them, and the names
//! of classes. Folders have files for it, GGUF files have keys. It must not know pixels.

use std::path::Path;

use super::prepare::{FILE, FILE_BYTES_MAX, Preparation};
use crate::config::find::family_of;
use crate::config::ignored::{CLASS_NAMES_KEY, PREPARATION_KEY};
use crate::container::gguf::{Array, Value};
use crate::error::{Fault, LoadError, Result};
use crate::io::json::read_text;
use crate::load::{LoadedModel, Source};
use crate::spec::{ImageSpec, ModelSpec};

impl LoadedModel {
    /// What is done to images before the model reads them.
    ///
    /// # Errors
    /// A model whose files do not say it, or say what cannot be done.
    pub fn preparation(&self, image: &ImageSpec) -> Result<Preparation> {
        match &self.source {
            Source::Hf { path, .. } => Preparation::of_text(&path.join(FILE), &text_of_folder(path)?, image),
            Source::Gguf { metadata, .. } => {
                let text = metadata.require_str(&key(&self.spec, PREPARATION_KEY))?;
                Preparation::of_text(metadata.path(), text, image)
            }
        }
    }

    /// The names of classes by row of the head, those of all tasks; empty for a class without one.
    ///
    /// # Errors
    /// A key of a GGUF file of another type.
    pub fn class_names(&self) -> Result<Vec<String>> {
        Ok(match &self.source {
            Source::Hf { config, .. } => names_of_config(&self.spec, config),
            Source::Gguf { metadata, .. } => {
                let names = metadata.strings(&key(&self.spec, CLASS_NAMES_KEY))?;
                names.map(<[String]>::to_vec).unwrap_or_default()
            }
        })
    }
}

/// The same of a folder as keys of a GGUF file.
pub(crate) fn keys(
    spec: &ModelSpec,
    folder: &Path,
    config: &serde_json::Value,
) -> Result<Vec<(String, Value)>> {
    let text = text_of_folder(folder)?;
    if let Some(image) = &spec.image {
        // A file that says what cannot be done is found here, and not when the output is run.
        Preparation::of_text(&folder.join(FILE), &text, image)?;
    }
    let mut out = vec![(key(spec, PREPARATION_KEY), Value::Str(text))];
    let names = names_of_config(spec, config);
    if names.iter().any(|name| !name.is_empty()) {
        out.push((key(spec, CLASS_NAMES_KEY), Value::Array(Array::Str(names))));
    }
    Ok(out)
}

fn key(spec: &ModelSpec, pattern: &str) -> String {
    pattern.replace("{arch}", family_of(spec).gguf_arch)
}

fn text_of_folder(folder: &Path) -> Result<String> {
    let hint = ": it says how images are resized and normalised; take it from where the model is from";
    let text = read_text(&folder.join(FILE), FILE_BYTES_MAX)?;
    text.ok_or_else(|| LoadError::malformed(folder, FILE, Fault::Missing { hint }))
}

fn names_of_config(spec: &ModelSpec, config: &serde_json::Value) -> Vec<String> {
    let Some(listed) = config.get("id2label").and_then(serde_json::Value::as_object) else {
        return Vec::new();
    };
    let name = |class: usize| listed.get(&class.to_string()).and_then(serde_json::Value::as_str);
    (0..spec.head_rows()).map(|class| name(class).unwrap_or_default().to_owned()).collect()
}
