//! Opens the files of a model by path, or the built-in model. It must not know what the model is used for.

use std::path::{Path, PathBuf};

use moelten_loader::load::{self, LoadedModel};
use moelten_tui::terminal::{Notes, Tone};

use super::builtin;
use crate::exit::CommandError;

/// Opens a model; `None` is the built-in one.
///
/// # Errors
/// As [`load::load`].
pub fn load(model: Option<&Path>) -> anyhow::Result<LoadedModel> {
    Ok(match model {
        Some(path) => load::load(path)?,
        None => builtin::load()?,
    })
}

/// Refuses a model of images for what only models of texts can do. `name` is the model's.
///
/// # Errors
/// [`CommandError::Unsupported`], with what the model is for.
pub fn has_text(loaded: &LoadedModel, name: &str) -> Result<(), CommandError> {
    if loaded.spec.image.is_none() {
        return Ok(());
    }
    Err(CommandError::Unsupported(format!(
        "{name} tells what is on an image and has no text: moelten run MODEL --image cat.png"
    )))
}

/// Refuses a model with an encoder for a command that reads one text.
///
/// # Errors
/// [`CommandError::Unsupported`].
pub fn decoder_alone(model: &LoadedModel, command: &str) -> Result<(), CommandError> {
    if model.spec.encoder.is_none() {
        return Ok(());
    }
    let name = &model.spec.name;
    has_text(model, name)?;
    Err(CommandError::Unsupported(format!(
        "{command} reads one text, but {name} has an encoder, which answers one text with another: use moelten run"
    )))
}

/// Prints notices about a model's files, a line each.
pub fn mention(notices: &[String]) {
    let notes = Notes::detect();
    notices.iter().for_each(|notice| notes.line(Tone::Dim, &format!("note: {notice}")));
}

/// The name of the file or folder, without its path; of a folder in the hub's cache, its repository.
/// Unfiltered.
pub fn name(model: Option<&Path>) -> String {
    let Some(path) = model else { return builtin::NAME.to_owned() };
    // In the hub's cache the names of files are those of links, and folders are named by commits.
    if let Some(repo) = moelten_hub::repository_of(path) {
        let file = path.file_name().filter(|_| !path.is_dir());
        return file.map_or_else(|| repo.to_string(), |file| file.to_string_lossy().into_owned());
    }
    let full = path.canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    full.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
