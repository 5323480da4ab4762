//! The folders that hold models on this machine. The search is bounded, and folders that cannot be searched
//! are noted. It must not read a model.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config;
use crate::open::builtin;

/// Folder entries and models after which the search ends with a note.
const ENTRIES_MAX: usize = 20_000;
const MODELS_MAX: usize = 500;
/// Levels of folders below a folder for models: publisher, model, variant.
const DEPTH: usize = 3;
/// Levels of folders below a snapshot of the Hugging Face cache: one for variants.
const SNAPSHOT_DEPTH: usize = 1;

/// Folders that are searched for models.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The current folder; its subfolders are not searched.
    here: Option<PathBuf>,
    /// Folders for models, with their names for people.
    folders: Vec<(PathBuf, String)>,
    /// The Hugging Face cache.
    hub: Option<PathBuf>,
    /// The folder of the current model, and the levels below it that are searched.
    beside: Option<(PathBuf, usize)>,
}

/// A file or folder that looks like a model; nothing of it has been read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Its file or folder; `None` is the built-in one.
    pub path: Option<PathBuf>,
    /// Its name for people.
    pub name: String,
    /// Its place in words.
    pub place: String,
}

impl Places {
    /// Those of this process and its user: the folders of `MOELTEN_MODELS` or of the configuration, the
    /// current folder, `models` in it and in the home folder, the folders of llama.cpp and LM Studio, and the
    /// Hugging Face cache (`HF_HUB_CACHE`, `HF_HOME`).
    pub fn here() -> Self {
        let home = etcetera::home_dir().ok();
        let chosen = config::here().folders();
        Self::of(env::current_dir().ok(), home, chosen, |name| env::var_os(name).map(PathBuf::from))
    }

    /// All folders that are searched, for people.
    pub fn folders(&self) -> Vec<String> {
        let here = self.here.iter().chain(self.folders.iter().map(|(folder, _)| folder)).chain(&self.hub);
        here.map(|folder| folder.display().to_string()).collect()
    }

    /// These folders and those below them alone.
    pub fn only(folders: &[PathBuf]) -> Self {
        let named = |folder: &PathBuf| (folder.clone(), folder.display().to_string());
        Self { folders: folders.iter().map(named).collect(), ..Self::default() }
    }

    pub(super) fn of(
        here: Option<PathBuf>,
        home: Option<PathBuf>,
        chosen: Option<&str>,
        value: impl Fn(&str) -> Option<PathBuf>,
    ) -> Self {
        let value = |name: &str| value(name).filter(|value| !value.as_os_str().is_empty());
        let at_home = |path: &str| home.as_ref().map(|home| home.join(path));
        let cache = value("XDG_CACHE_HOME").or_else(|| at_home(".cache"));
        let named = value("MOELTEN_MODELS").map(|folders| (folders, "MOELTEN_MODELS"));
        let named = named.or_else(|| Some((PathBuf::from(chosen?), "the configuration")));
        let (named, whose) = named.unwrap_or_default();
        let named = env::split_paths(&named).filter(|path| !path.as_os_str().is_empty());
        let named: Vec<_> = named.map(|path| (path, whose.to_owned())).collect();
        let folders = [
            (here.as_ref().map(|here| here.join("models")), "models"),
            (at_home("models"), "~/models"),
            (
                value("LLAMA_CACHE").or_else(|| cache.as_ref().map(|cache| cache.join("llama.cpp"))),
                "llama.cpp's cache",
            ),
            (at_home(".lmstudio/models"), "LM Studio's models"),
        ];
        let hub = value("HF_HUB_CACHE")
            .or_else(|| value("HF_HOME").map(|home| home.join("hub")))
            .or_else(|| cache.map(|cache| cache.join("huggingface/hub")));
        let folders = folders.into_iter().filter_map(|(path, name)| Some((path?, name.to_owned())));
        Self { here, folders: named.into_iter().chain(folders).collect(), hub, beside: None }
    }

    /// Adds the folder that contains `model`, by the path it was opened with.
    pub fn and_beside(mut self, model: Option<&Path>) -> Self {
        let full = model.and_then(|model| std::path::absolute(model).ok());
        // A model folder has other model folders beside it.
        let depth = full.as_ref().map_or(0, |full| usize::from(full.is_dir()));
        self.beside = full.as_deref().and_then(Path::parent).map(|folder| (folder.to_owned(), depth));
        self
    }

    /// The models found, the built-in one last, and notes on folders that could not be searched, a line each.
    /// Folders that do not exist are skipped.
    pub fn candidates(&self) -> (Vec<Candidate>, Vec<String>) {
        let mut search = Search::default();
        if let Some(here) = &self.here {
            search.folder(here, 0, "the current folder", None);
        }
        for (folder, name) in &self.folders {
            search.folder(folder, DEPTH, name, None);
        }
        if let Some(hub) = &self.hub {
            search.hub(hub);
        }
        if let Some((folder, depth)) = &self.beside {
            search.folder(folder, *depth, "the folder of the current model", None);
        }
        if search.entries >= ENTRIES_MAX || search.found.len() >= MODELS_MAX {
            let note = format!(
                "there are more than {MODELS_MAX} models or {ENTRIES_MAX} files; the rest was not searched, open a \
                 model by its path"
            );
            search.notes.push(note);
        }
        let (name, place) = (builtin::NAME.to_owned(), "built in".to_owned());
        search.found.push(Candidate { path: None, name, place });
        (search.found, search.notes)
    }
}

/// The state of a search through folders.
#[derive(Debug, Default)]
struct Search {
    found: Vec<Candidate>,
    notes: Vec<String>,
    /// Canonical paths found so far, so that links to one file count once.
    seen: BTreeSet<PathBuf>,
    /// Folder entries read so far.
    entries: usize,
}

impl Search {
    /// Finds GGUF files and model folders in a folder and `depth` levels below it. `name` is the model's
    /// name, if all of them belong to one.
    fn folder(&mut self, folder: &Path, depth: usize, place: &str, name: Option<&str>) {
        let Some(names) = self.list(folder) else { return };
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        let safetensors =
            names.iter().any(|name| name.ends_with(".safetensors") || name == "model.safetensors.index.json");
        if has("config.json") && safetensors {
            let own = || folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
            self.add(folder, name.map_or_else(own, str::to_owned), place);
        }
        for entry in &names {
            let path = folder.join(entry);
            if is_gguf(entry) {
                self.add(&path, entry.clone(), place);
            } else if depth > 0 && path.is_dir() && !entry.starts_with('.') {
                self.folder(&path, depth - 1, place, name);
            }
        }
    }

    /// Searches the Hugging Face cache: `models--USER--NAME/snapshots/REVISION`, whose files are links to
    /// `blobs`. Takes the revision named by `main`, or all revisions without one.
    fn hub(&mut self, hub: &Path) {
        for entry in self.list(hub).unwrap_or_default() {
            let Some(name) = entry.strip_prefix("models--") else { continue };
            let (name, model) = (name.replace("--", "/"), hub.join(&entry));
            let place = format!("{name} in the Hugging Face cache");
            let main = fs::read_to_string(model.join("refs/main")).ok();
            let main = main.map(|revision| model.join("snapshots").join(revision.trim()));
            match main.filter(|snapshot| snapshot.starts_with(model.join("snapshots")) && snapshot.is_dir()) {
                Some(snapshot) => self.folder(&snapshot, SNAPSHOT_DEPTH, &place, Some(&name)),
                None => self.folder(&model.join("snapshots"), SNAPSHOT_DEPTH + 1, &place, Some(&name)),
            }
        }
    }

    /// Names in a folder, sorted. `None` for a folder that does not exist or cannot be read; the latter is
    /// noted.
    fn list(&mut self, folder: &Path) -> Option<Vec<String>> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                if !matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) {
                    self.notes.push(format!("{}: {error}", folder.display()));
                }
                return None;
            }
        };
        let room = ENTRIES_MAX.saturating_sub(self.entries);
        let names = entries.take(room).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<_> = names.collect();
        self.entries += names.len();
        names.sort_unstable();
        Some(names)
    }

    fn add(&mut self, path: &Path, name: String, place: &str) {
        // A dangling link is listed too: opening it reports the problem.
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if self.found.len() < MODELS_MAX && self.seen.insert(whole) {
            self.found.push(Candidate { path: Some(path.to_owned()), name, place: place.to_owned() });
        }
    }
}

/// Whether it is a GGUF file to open: of a split one, the first part.
fn is_gguf(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".gguf") else { return false };
    let part = stem.rsplit_once("-of-").and_then(|(before, count)| {
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        let (_, part) = before.rsplit_once('-')?;
        (digits(part) && digits(count)).then(|| part.to_owned())
    });
    part.is_none_or(|part| part == "00001")
}
