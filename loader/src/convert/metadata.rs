//! Metadata of an output: that of its source, what its layout needs, and its provenance. It must not know how
//! values are made.

use std::path::Path;

use crate::config::find::family_of;
use crate::config::write as gguf_keys;
use crate::config::write_ngram::hash_keys;
use crate::container::gguf::{ALIGNMENT_KEY, Array, Value};
use crate::container::packed;
use crate::error::{LoadError, Result};
use crate::load::{LoadedModel, Source};
use crate::picture::beside;
use crate::spec::NgramHash;
use crate::tensors::roles::{LayerTensor, Role};
use crate::text::hints::{BEAMS_KEY, EARLY_KEY};
use crate::text::tokenizer::{Tokenizer, gguf_metadata};
use crate::text::{self, TEMPLATE_KEY};

/// Keys and values of an output.
pub(super) type Entries = Vec<(String, Value)>;

/// Metadata of the output without the keys of its types and layout, and notices.
pub(super) fn metadata(model: &LoadedModel) -> Result<(Entries, Vec<String>)> {
    let mut notices = Vec::new();
    let entries = match &model.source {
        // Other readers may know keys that this one does not: all are kept but those of the file's own
        // layout.
        Source::Gguf { metadata, .. } => metadata
            .iter()
            .filter(|(key, _)| {
                *key != ALIGNMENT_KEY && !key.starts_with("split.") && !key.starts_with(packed::KEYS)
            })
            .map(|(key, value)| (key.to_owned(), value.clone()))
            .collect(),
        Source::Hf { path, config, .. } => {
            let mut entries = gguf_keys::metadata(&model.spec)?;
            entries.extend(hash_of_runs(model)?);
            entries.extend(rope_sections(model, config));
            let (sampling, unusable) = sampling(model);
            entries.extend(sampling);
            notices = unusable;
            if model.spec.image.is_some() {
                entries.extend(beside::keys(&model.spec, path, config)?);
            } else if path.join("tokenizer.json").exists() {
                match gguf_metadata(path, Some(model.spec.vocab)) {
                    Ok(export) => {
                        entries.extend(text::vocab_keys(export.vocab));
                        let template = export.chat_template;
                        entries.extend(template.map(|source| (TEMPLATE_KEY.into(), Value::Str(source))));
                        notices.extend(export.notices);
                    }
                    // No other program reads files of these models, so nothing is lost.
                    Err(LoadError::Unsupported { feature, .. }) if model.spec.encoder.is_some() => {
                        entries.extend(embedded(path)?);
                        notices.push(format!(
                            "GGUF has no keys for {feature}: the file holds tokenizer.json as it is"
                        ));
                    }
                    Err(error) => return Err(error),
                }
            } else {
                notices.push("the folder has no tokenizer.json, so the file has no tokenizer".into());
            }
            entries
        }
    };
    Ok((entries, notices))
}

/// The vocabulary of a folder as the text of its `tokenizer.json`.
fn embedded(folder: &Path) -> Result<Entries> {
    let (tokenizer, _) = Tokenizer::from_hf_folder(folder)?;
    let id = |key: &str, id: Option<u32>| id.map(|id| (key.to_owned(), Value::U32(id)));
    let text = Tokenizer::source_of_folder(folder)?.unwrap_or_default();
    let entries = [
        Some((text::EMBEDDED_KEY.to_owned(), Value::Str(text))),
        id(text::BOS_KEY, tokenizer.bos()),
        id(text::EOS_KEY, tokenizer.eos()),
    ];
    Ok(entries.into_iter().flatten().collect())
}

/// The numbers of a hash of runs of tokens, which are tensors in folders.
fn hash_of_runs(model: &LoadedModel) -> Result<Entries> {
    let factors = model.tensors.large_roles().find_map(|role| match role {
        Role::Layer(layer, LayerTensor::NgramFactors) => Some(layer),
        _ => None,
    });
    let Some(layer) = factors else { return Ok(Entries::new()) };
    let numbers = |tensor| model.tensors.large_numbers(Role::Layer(layer, tensor));
    let hash = NgramHash {
        factors: numbers(LayerTensor::NgramFactors)?,
        first: numbers(LayerTensor::NgramFirst)?,
        rows: numbers(LayerTensor::NgramRows)?,
    };
    Ok(hash_keys(&model.spec, &hash))
}

/// How many frequencies of a rope turn with each coordinate of an image. A text has the same in all of them,
/// so that nothing here depends on it, but other readers ask for the key.
fn rope_sections(model: &LoadedModel, config: &serde_json::Value) -> Option<(String, Value)> {
    let objects = [config.get("text_config"), Some(config)].into_iter().flatten();
    let ropes = objects.flat_map(|object| ["rope_parameters", "rope_scaling"].map(|rope| object.get(rope)));
    let list = ropes.flatten().find_map(|rope| rope.get("mrope_section")?.as_array())?;
    let mut sections: Vec<i32> =
        list.iter().filter_map(|n| n.as_i64().and_then(|n| i32::try_from(n).ok())).collect();
    sections.resize(4, 0);
    let key = format!("{}.rope.dimension_sections", family_of(&model.spec).gguf_arch);
    Some((key, Value::Array(Array::I32(sections))))
}

/// Replaces the value of `key`, or removes the key.
pub(super) fn set(metadata: &mut Entries, key: &str, value: Option<Value>) {
    metadata.retain(|(found, _)| found != key);
    metadata.extend(value.map(|value| (key.to_owned(), value)));
}

/// The recommended sampling values as keys, and notices about those that no sampler can follow.
fn sampling(model: &LoadedModel) -> (Entries, Vec<String>) {
    let (hints, notices) = model.sampling_hints();
    let float =
        |key: &str, value: Option<f32>| value.map(|v| (format!("general.sampling.{key}"), Value::F32(v)));
    let top_k = hints.top_k.and_then(|k| i32::try_from(k).ok());
    let temperature = if hints.greedy { Some(0.0) } else { hints.temperature };
    let entries = [
        float("temp", temperature),
        top_k.map(|k| ("general.sampling.top_k".to_owned(), Value::I32(k))),
        float("top_p", hints.top_p),
        float("min_p", hints.min_p),
        float("penalty_repeat", hints.repetition_penalty),
        hints.beams.and_then(|n| u32::try_from(n).ok()).map(|n| (BEAMS_KEY.to_owned(), Value::U32(n))),
        float("length_penalty", hints.length_penalty),
        hints.early_stopping.then(|| (EARLY_KEY.to_owned(), Value::Bool(true))),
    ];
    (entries.into_iter().flatten().collect(), notices)
}
