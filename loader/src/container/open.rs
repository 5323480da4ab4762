//! From a path as a user gives it to an open model: a file or a folder, recognised by content, not by
//! extension. It must not know architectures.

use std::path::{Path, PathBuf};

use crate::container::gguf::Gguf;
use crate::container::hf_folder::{CONFIG, HfFolder, INDEX, SINGLE};
use crate::container::sniff::{self, FileKind};
use crate::error::{Fault, LoadError, Result};
use crate::io::RegularFile;

/// The open files of a model.
#[derive(Debug)]
pub enum ModelFiles {
    /// One GGUF file, or all parts of a split one.
    Gguf(Gguf),
    /// A Hugging Face folder.
    Hf(HfFolder),
}

/// Opens a GGUF file, a Hugging Face folder, a file of such a folder, or a folder with exactly one GGUF
/// model.
///
/// # Errors
/// [`LoadError::Io`]; [`LoadError::NotAModel`] with the kind of file that it is; [`LoadError::Malformed`].
pub fn open_model(path: &Path) -> Result<ModelFiles> {
    if std::fs::metadata(path).map_err(|source| LoadError::io(path, "open the model", source))?.is_dir() {
        return open_folder(path);
    }
    let head = RegularFile::open(path)?.head(sniff::HEAD);
    sniff::not_foreign(path, &head)?;
    match sniff::kind(&head) {
        FileKind::Safetensors | FileKind::Json => open_folder_of(path),
        FileKind::Unknown if sniff::is_text(&head) => Err(not_a_model(
            path,
            "plain text".to_owned(),
            "give a .gguf file, or a folder with config.json and safetensors files",
        )),
        // For a file of no known kind, the GGUF reader's error is the most helpful one.
        _ => Gguf::open(path).map(ModelFiles::Gguf),
    }
}

/// Opens the folder that `file` is a part of.
fn open_folder_of(file: &Path) -> Result<ModelFiles> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = file.file_name().unwrap_or_default();
    let weights =
        name.to_str().is_some_and(|name| name.starts_with("model") && name.ends_with(".safetensors"));
    let found = if name != CONFIG && name != INDEX && !weights {
        "a file with a name that models do not use".to_owned()
    } else if !folder.join(CONFIG).exists() {
        format!("a part of a model without {CONFIG} in its folder")
    } else {
        return open_folder(folder);
    };
    Err(not_a_model(file, found, "give the folder of the whole model"))
}

fn open_folder(path: &Path) -> Result<ModelFiles> {
    let has = |name| path.join(name).exists();
    let has_weights = has(SINGLE) || has(INDEX);
    if has(CONFIG) && has_weights {
        return HfFolder::open(path).map(ModelFiles::Hf);
    }
    let names = file_names(path)?;
    let ends_with = |suffix: &str| names.iter().any(|name| name.ends_with(suffix));
    match gguf_models(&names).as_slice() {
        [only] => return Gguf::open(&path.join(only)).map(ModelFiles::Gguf),
        [] => {}
        several => {
            let found = format!("a folder with {} GGUF models", several.len());
            return Err(not_a_model(path, found, "name one of its files"));
        }
    }
    if has_weights || ends_with(".safetensors") {
        let field = if has(CONFIG) { SINGLE } else { CONFIG };
        let hint = ": a model folder holds config.json and model.safetensors (or its shards and index)";
        return Err(LoadError::malformed(&path.join(field), field, Fault::Missing { hint }));
    }
    if ends_with(".bin") || ends_with(".pth") || ends_with(".pt") {
        let hint = "convert the checkpoint to safetensors or GGUF first";
        return Err(not_a_model(path, "a folder with a PyTorch checkpoint".to_owned(), hint));
    }
    if has(CONFIG) {
        let hint = ": the folder has a configuration, but no weights";
        return Err(LoadError::malformed(&path.join(SINGLE), SINGLE, Fault::Missing { hint }));
    }
    let hint = "a model is a GGUF file, or a folder with config.json and safetensors files";
    Err(not_a_model(path, "a folder without a model".to_owned(), hint))
}

/// Names of a folder's files, sorted. Models have no names that are not UTF-8.
fn file_names(folder: &Path) -> Result<Vec<String>> {
    let failed = |source| LoadError::io(folder, "list the folder", source);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

/// One name for each GGUF model among `names`: of a split one, its first part.
fn gguf_models(names: &[String]) -> Vec<PathBuf> {
    let is_later_part = |stem: &str| {
        let mut fields = stem.rsplit('-');
        let count = fields.next().is_some_and(|count| count.len() == 5);
        let of = fields.next() == Some("of");
        count && of && fields.next().is_some_and(|number| number.len() == 5 && number != "00001")
    };
    let models =
        names.iter().filter(|name| name.strip_suffix(".gguf").is_some_and(|stem| !is_later_part(stem)));
    models.map(PathBuf::from).collect()
}

fn not_a_model(path: &Path, found: String, hint: &'static str) -> LoadError {
    LoadError::NotAModel { path: path.to_owned(), found, hint }
}
