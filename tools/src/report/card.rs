//! A model card in Markdown, for a README beside a file that others get: what the model is, what types its
//! weights have, what it was made from, and how to run it. Everything comes from the file. It must not know
//! how a file is made.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use moelten_loader::container::gguf::Metadata;
use moelten_loader::load::{LoadedModel, Source};

use crate::report::progress::bytes;

/// Where a file says what it was made from, if it came from the Hugging Face hub.
const REPOSITORY: &str = "general.source.huggingface.repository";

/// The card of a model.
///
/// # Errors
/// Never: text is written to memory.
pub fn card(model: &LoadedModel) -> Result<String, fmt::Error> {
    let mut out = String::new();
    let metadata = match &model.source {
        Source::Gguf { metadata, .. } => Some(metadata),
        Source::Hf { .. } => None,
    };
    front_matter(metadata, &mut out)?;
    about(model, &mut out)?;
    types(model, &mut out)?;
    if let Some(metadata) = metadata {
        origin(metadata, &mut out)?;
    }
    usage(model, &mut out)?;
    Ok(out)
}

/// What the hub reads of a card.
fn front_matter(metadata: Option<&Metadata>, out: &mut String) -> fmt::Result {
    let text = |key| metadata.and_then(|metadata| metadata.str(key).ok().flatten());
    writeln!(out, "---")?;
    if let Some(repository) = text(REPOSITORY) {
        writeln!(out, "base_model: {}", quoted(repository))?;
    }
    if let Some(license) = text("general.license") {
        writeln!(out, "license: {}", quoted(license))?;
    }
    let library = if metadata.is_some() { "gguf" } else { "safetensors" };
    writeln!(out, "library_name: {library}\ntags:\n- {library}\n---\n")
}

fn about(model: &LoadedModel, out: &mut String) -> fmt::Result {
    let (spec, tensors) = (&model.spec, &model.tensors);
    writeln!(out, "# {}\n\n| | |\n|---|---|", cell(&spec.name))?;
    writeln!(out, "| architecture | {} |", cell(spec.family))?;
    writeln!(out, "| layers | {} of width {} |", spec.layers.len(), spec.d_model)?;
    if let Some((bank, (_, first))) = tensors.banks().iter().zip(spec.banks()).next() {
        writeln!(
            out,
            "| experts | {} in a layer, at most {} for a token |",
            bank.experts(),
            first.most_per_token
        )?;
    }
    writeln!(out, "| context | {} tokens |", spec.max_context)?;
    let (dense, experts) = (tensors.dense_bytes(), tensors.expert_bytes());
    writeln!(out, "| weights | {} |", bytes(dense + experts))?;
    if experts > 0 {
        writeln!(out, "| of them in experts | {} |", bytes(experts))?;
    }
    writeln!(out)
}

/// The types of tensors, the most bytes first.
fn types(model: &LoadedModel, out: &mut String) -> fmt::Result {
    let mut found: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for tensor in model.tensors.catalog().tensors() {
        let (size, count) = found.entry(tensor.storage.name()).or_default();
        (*size, *count) = (*size + tensor.bytes, *count + 1);
    }
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by_key(|&(_, (size, _))| std::cmp::Reverse(size));
    writeln!(out, "## Types of the weights\n\n| type | tensors | size |\n|---|---:|---:|")?;
    for (name, (size, count)) in found {
        writeln!(out, "| {} | {count} | {} |", cell(name), bytes(size))?;
    }
    writeln!(out)
}

/// What a file that `moelten quantize` has written says about its source.
fn origin(metadata: &Metadata, out: &mut String) -> fmt::Result {
    let text = |key| metadata.str(key).ok().flatten();
    let Some(version) = text("moelten.version") else { return Ok(()) };
    writeln!(out, "## What it was made from\n\n| | |\n|---|---|")?;
    let rows = [
        ("repository", REPOSITORY),
        ("revision", "moelten.source.revision"),
        ("name", "moelten.source.name"),
        ("options", "moelten.options"),
        ("importance", "quantize.imatrix.file"),
        ("text of the importance", "quantize.imatrix.dataset"),
    ];
    for (what, key) in rows {
        if let Some(value) = text(key) {
            writeln!(out, "| {what} | {} |", cell(value))?;
        }
    }
    writeln!(out, "| made by | moelten {} |\n", cell(version))?;
    let list = |key| metadata.strings(key).ok().flatten().unwrap_or_default();
    let sizes = metadata.u64s("moelten.source.sizes").ok().flatten().unwrap_or_default();
    let sums = list("moelten.source.sha256");
    writeln!(out, "| file of the source | bytes | SHA-256 |\n|---|---:|---|")?;
    for (at, file) in list("moelten.source.files").iter().enumerate() {
        let size = sizes.get(at).map_or_else(String::new, u64::to_string);
        writeln!(
            out,
            "| {} | {size} | {} |",
            cell(file),
            sums.get(at).map_or_else(String::new, |sum| cell(sum))
        )?;
    }
    writeln!(out)
}

fn usage(model: &LoadedModel, out: &mut String) -> fmt::Result {
    let path = model.tensors.paths().next().filter(|_| matches!(model.source, Source::Gguf { .. }));
    let name =
        path.and_then(|path| path.file_name()).map_or_else(|| "FOLDER".into(), |name| name.to_string_lossy());
    writeln!(out, "## Use\n\n    moelten fit {0}\n    moelten {0}", one_line(&name))
}

/// Text of a file within a table: one line, whose characters mean nothing to Markdown.
fn cell(text: &str) -> String {
    let mut out = String::new();
    for c in one_line(text).chars() {
        if matches!(c, '\\' | '|' | '`' | '*' | '_' | '<' | '[' | ']' | '#') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Text of a file as a string of YAML, which JSON is too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(one_line(text)).to_string()
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_file_means_nothing_to_markdown() {
        assert_eq!(cell("a|b\n# [x](y) `z`"), "a\\|b \\# \\[x\\](y) \\`z\\`");
        assert_eq!(quoted("apache-2.0\n---"), "\"apache-2.0 ---\"");
    }
}
