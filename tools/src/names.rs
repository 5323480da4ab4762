//! From what stands in the place of a model on the command line to its file: a path, a name that `moelten
//! models` prints, or a name on the hub, downloaded if it is not on this machine. It must not know what a
//! model is used for.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use moelten_hub::{Choice, Found, Hub, HubError, ModelName, Part, Parts, Repository, Settings, Watch};
use moelten_tui::terminal::{Notes, Tone};

use crate::exit::CommandError;
use crate::models::Places;
use crate::report::progress::{Progress, Unit, bytes};
use crate::report::waiting;
use crate::signals::Polling;

/// The hub with the settings of this user.
///
/// # Errors
/// Without a home folder.
pub fn hub() -> anyhow::Result<Hub> {
    let missing = || CommandError::Usage("there is no home folder for downloads; set HF_HOME".to_owned());
    Ok(Hub::new(Settings::here().ok_or_else(missing)?))
}

/// The file or folder for what was given in the place of a model. What exists is a path; a name of the hub
/// that is not on this machine is downloaded, after saying so. Anything else comes back as it is.
///
/// # Errors
/// [`HubError`], Ctrl-C.
pub fn resolve(given: PathBuf) -> anyhow::Result<PathBuf> {
    if given.exists() {
        return Ok(given);
    }
    let Some(text) = given.to_str() else { return Ok(given) };
    let Some(name) = ModelName::parse(text)? else { return Ok(listed(text).unwrap_or(given)) };
    let hub = hub()?;
    if let Some(found) = hub.find(&name) {
        say_choice(&name, found.quant.as_ref());
        return Ok(found.path);
    }
    if let Some(path) = listed(text) {
        return Ok(path);
    }
    let fetched = fetch(&hub, &name).map_err(|error| match error.downcast_ref() {
        // It may have been meant as a path.
        Some(HubError::NoRepository { .. }) if name.to_string() == text => {
            error.context(format!("there is no file or folder {text}"))
        }
        _ => error,
    })?;
    Ok(fetched.path)
}

/// The name on the hub that was given in the place of a model, if it is neither a path nor on this machine.
///
/// # Errors
/// [`HubError::Name`].
pub fn remote(given: &Path) -> anyhow::Result<Option<ModelName>> {
    let Some(text) = given.to_str().filter(|_| !given.exists()) else { return Ok(None) };
    let Some(name) = ModelName::parse(text)? else { return Ok(None) };
    let known = hub()?.find(&name).is_some() || listed(text).is_some();
    Ok((!known).then_some(name))
}

/// The model that `moelten models` lists under this name, if there is one.
fn listed(name: &str) -> Option<PathBuf> {
    let (candidates, _) = Places::here().candidates();
    candidates.into_iter().find(|candidate| candidate.name == name)?.path
}

/// The file or folder of a model that is on this machine; the network is not used.
///
/// # Errors
/// [`HubError::Name`]; a name on the hub that was not downloaded.
pub fn on_this_machine(given: PathBuf) -> anyhow::Result<PathBuf> {
    match remote(&given)? {
        Some(name) => {
            Err(CommandError::Usage(format!("{name} is not on this machine: moelten pull {name}")).into())
        }
        None => resolve(given),
    }
}

/// Says which of several quantisations was chosen.
fn say_choice(name: &ModelName, quant: Option<&(String, bool)>) {
    if let Some((quant, true)) = quant {
        let line = format!("{name} has several quantisations; {quant} is used ({}:QUANT chooses)", name.repo);
        Notes::detect().line(Tone::Dim, &line);
    }
}

/// Asks the hub for a name's files; Ctrl-C stops it.
///
/// # Errors
/// [`HubError`], Ctrl-C.
pub fn look(hub: &Hub, name: &ModelName) -> anyhow::Result<Repository> {
    let polling = Polling::begin();
    let stopped = || polling.stop().is_cancelled();
    waiting::during("waiting for the hub", None, || hub.look(name, &stopped)).map_err(ended)
}

/// Downloads a name's files with a bar; what is there already counts.
///
/// # Errors
/// [`HubError`], Ctrl-C.
pub fn fetch(hub: &Hub, name: &ModelName) -> anyhow::Result<Found> {
    let notes = Notes::detect();
    let host = hub.settings().endpoint.split("//").nth(1).unwrap_or_default().to_owned();
    if !hub.settings().offline {
        notes.line(Tone::Plain, &format!("{name} is not on this machine; asking {host}"));
    }
    let repository = look(hub, name)?;
    let choice = repository.choice()?;
    say_choice(name, choice.quant.clone().map(|quant| (quant, choice.by_default)).as_ref());
    let (total, missing) = (size(&choice), hub.missing(&repository, &choice));
    let files = choice.files.len();
    let already = if missing < total { format!(", {} of them to go", bytes(missing)) } else { String::new() };
    let plural = if files == 1 { "" } else { "s" };
    notes.line(Tone::Plain, &format!("downloading {files} file{plural}, {}{already}", bytes(total)));
    pull(hub, &repository, &choice)
}

/// Reads parts of files on the hub; Ctrl-C stops it.
///
/// # Errors
/// [`HubError`], Ctrl-C.
pub fn read(from: &Parts, parts: &[Part]) -> anyhow::Result<Vec<Vec<u8>>> {
    let polling = Polling::begin();
    let stopped = || polling.stop().is_cancelled();
    waiting::during("reading headers from the hub", None, || from.read(parts, &stopped)).map_err(ended)
}

/// Downloads a choice with a bar.
///
/// # Errors
/// As [`fetch`].
pub fn pull(hub: &Hub, repository: &Repository, choice: &Choice) -> anyhow::Result<Found> {
    let (total, missing) = (size(choice), hub.missing(repository, choice));
    let mut progress = Progress::new("downloading", Unit::Bytes, total);
    progress.begin_at(total - missing);
    let polling = Polling::begin();
    let bar = Bar { progress: Mutex::new(progress), polling };
    hub.pull(repository, choice, &bar).map_err(ended)
}

fn size(choice: &Choice) -> u64 {
    choice.files.iter().map(|file| file.bytes).sum()
}

/// A stop asked for by the user has the exit code of its signal; what was kept is said.
fn ended(error: HubError) -> anyhow::Error {
    match error {
        HubError::Stopped => {
            Notes::detect().line(Tone::Plain, &error.to_string());
            CommandError::Stopped.into()
        }
        error => error.into(),
    }
}

struct Bar {
    progress: Mutex<Progress>,
    polling: Polling,
}

impl Watch for Bar {
    fn progress(&self, done: u64) {
        if let Ok(mut progress) = self.progress.lock() {
            progress.set(done);
        }
    }

    fn note(&self, line: &str) {
        if let Ok(progress) = self.progress.lock() {
            progress.say(&format!("note: {line}"));
        }
    }

    fn stopped(&self) -> bool {
        self.polling.stop().is_cancelled()
    }
}

/// Whether a first argument is a model rather than a command: `moelten FILE` opens a chat.
pub fn is_model(text: &Path) -> bool {
    let name = || text.to_str().and_then(|text| ModelName::parse(text).ok().flatten()).is_some();
    text.exists() || text.extension().is_some_and(|end| end == "gguf") || name()
}
