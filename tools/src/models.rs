//! Models on this machine: where they may lie, and for each what it is and whether it runs. Listing is bounded, a header is
//! read for each file, and what cannot be read is shown as such. It must not know how they are shown, nor load one.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use moelten_engine::error::EngineError;
use moelten_engine::plan::Plan;
use moelten_loader::load::LoadedModel;
use moelten_tui::picker::{Entry, Verdict};

use crate::builtin;
use crate::exit;
use crate::forecast::{Forecast, Speeds};
use crate::memory_words;
use crate::open::{self, SessionArgs};
use crate::progress::bytes;

/// Entries of folders that are looked at, and models that are listed, before the search ends with a note.
const ENTRIES_MAX: usize = 20_000;
const MODELS_MAX: usize = 500;
/// Folders below a place for models: publisher, model, variant.
const DEPTH: usize = 3;
/// Folders below a snapshot of the Hugging Face cache: variants have folders of their own.
const SNAPSHOT_DEPTH: usize = 1;
/// How long RAM and disk are measured, once for all models.
const PROBE: Duration = Duration::from_millis(300);
const PROBE_BYTES: u64 = 256 << 20;

/// Where models may lie.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The current folder: only what lies in it directly.
    here: Option<PathBuf>,
    /// Folders for models, and what they are called.
    folders: Vec<(PathBuf, String)>,
    /// The Hugging Face cache.
    hub: Option<PathBuf>,
    /// The folder that the open model lies in, and how many levels below it models may lie.
    beside: Option<(PathBuf, usize)>,
}

/// A model that may be one: nothing of it has been read yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Its file or folder; `None` is the built-in one.
    pub path: Option<PathBuf>,
    /// What to call it.
    pub name: String,
    /// Where it is, in words.
    pub place: String,
}

impl Places {
    /// Of this process and its user: the current folder, `models` in it and at home, what other programs downloaded, and the
    /// Hugging Face cache (`HF_HUB_CACHE`, `HF_HOME`).
    pub fn here() -> Self {
        let home = etcetera::home_dir().ok();
        Self::of(env::current_dir().ok(), home, |name| env::var_os(name).map(PathBuf::from))
    }

    fn of(here: Option<PathBuf>, home: Option<PathBuf>, value: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let value = |name: &str| value(name).filter(|value| !value.as_os_str().is_empty());
        let at_home = |path: &str| home.as_ref().map(|home| home.join(path));
        let cache = value("XDG_CACHE_HOME").or_else(|| at_home(".cache"));
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
        Self { here, folders: folders.collect(), hub, beside: None }
    }

    /// And the folder that this model lies in, by the name it was opened with.
    pub fn and_beside(mut self, model: Option<&Path>) -> Self {
        let full = model.and_then(|model| std::path::absolute(model).ok());
        // A model that is a folder has such beside it.
        let depth = full.as_ref().map_or(0, |full| usize::from(full.is_dir()));
        self.beside = full.as_deref().and_then(Path::parent).map(|folder| (folder.to_owned(), depth));
        self
    }

    /// Models that may lie there, the built-in one last, and what could not be searched, a line each. Places that do not
    /// exist have none.
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
            search.folder(folder, *depth, "beside the model that is open", None);
        }
        if search.entries >= ENTRIES_MAX || search.found.len() >= MODELS_MAX {
            let note = format!(
                "there are more than {MODELS_MAX} models or {ENTRIES_MAX} files; the rest was not looked at, name a \
                 model by its path"
            );
            search.notes.push(note);
        }
        let (name, place) = (builtin::NAME.to_owned(), "part of this program".to_owned());
        search.found.push(Candidate { path: None, name, place });
        (search.found, search.notes)
    }
}

/// A walk through folders.
#[derive(Debug, Default)]
struct Search {
    found: Vec<Candidate>,
    notes: Vec<String>,
    /// Files and folders that were found before, under whatever name.
    seen: BTreeSet<PathBuf>,
    /// Entries of folders that were looked at.
    entries: usize,
}

impl Search {
    /// GGUF files and model folders in a folder and so many levels below it. `name` is that of the model whose files these
    /// are, if they are of one.
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

    /// The Hugging Face cache: `models--USER--NAME/snapshots/REVISION`, whose files are links to `blobs`. Of each model the
    /// revision that `main` names, or all where it names none.
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

    /// Names in a folder, sorted. A folder that does not exist is empty; other problems are noted.
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
        // A link without its file is shown: opening it says what is wrong.
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if self.found.len() < MODELS_MAX && self.seen.insert(whole) {
            self.found.push(Candidate { path: Some(path.to_owned()), name, place: place.to_owned() });
        }
    }
}

/// A GGUF file that can be opened by its name: of a split one the first part.
fn is_gguf(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".gguf") else { return false };
    let part = stem.rsplit_once("-of-").and_then(|(before, count)| {
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        let (_, part) = before.rsplit_once('-')?;
        (digits(part) && digits(count)).then(|| part.to_owned())
    });
    part.is_none_or(|part| part == "00001")
}

/// Looks at models, one after the other: a header each, and one measurement of the machine for all.
pub struct Looker<'a> {
    session: &'a SessionArgs,
    /// Bytes that this process will have given back before another model is opened.
    released: u64,
    speeds: Option<Speeds>,
}

impl<'a> Looker<'a> {
    /// For sessions like this one; `released` bytes of what this process owns will be free by then.
    pub fn new(session: &'a SessionArgs, released: u64) -> Self {
        Self { session, released, speeds: None }
    }

    /// What a model is and whether it runs. Never fails: what is wrong is part of the answer.
    pub fn look(&mut self, candidate: &Candidate) -> Entry {
        let Candidate { path, name, place } = candidate.clone();
        let entry = |bytes, kind, verdict| Entry { name, place, path: path.clone(), bytes, kind, verdict };
        let loaded = match open::load(path.as_deref()) {
            Ok(loaded) => loaded,
            Err(error) => {
                return entry(None, String::new(), Verdict::Unreadable(exit::report(&error).text));
            }
        };
        let files = loaded.tensors.catalog().files();
        let bytes = files.iter().map(|file| file.size()).sum();
        let kind = format!("{} {}", loaded.spec.family, weight_type(&loaded));
        let verdict = self.verdict(&loaded);
        entry(Some(bytes), kind, verdict)
    }

    fn verdict(&mut self, loaded: &LoadedModel) -> Verdict {
        let plan = match self.session.plan_after(loaded, self.released) {
            Ok(plan) => plan,
            Err(EngineError::Memory { need_bytes, .. } | EngineError::Budget { need_bytes, .. }) => {
                return Verdict::No(format!("it needs {}, `moelten fit` says more", bytes(need_bytes)));
            }
            Err(error) => return Verdict::No(error.to_string()),
        };
        let words = self.speed(loaded, &plan).unwrap_or_else(|| "speed unknown".to_owned());
        if memory_words::streams(&plan) { Verdict::Stream(words) } else { Verdict::Ram(words) }
    }

    /// The drive of the first model that lies in a file stands for all: this is a first impression.
    fn speed(&mut self, loaded: &LoadedModel, plan: &Plan) -> Option<String> {
        let compute = self.session.compute();
        if self
            .speeds
            .as_ref()
            .is_none_or(|speeds| speeds.disk_gb_per_s.is_err() && loaded.tensors.in_files())
        {
            self.speeds =
                Speeds::probe(compute, &loaded.tensors, PROBE, PROBE_BYTES.min(plan.budget / 2)).ok();
        }
        let forecast = Forecast::new(loaded, plan, compute.kv(), self.speeds.as_ref()?, None);
        Some(format!("{} tok/s", memory_words::speed(forecast.warm?)))
    }
}

/// The type of most weights.
pub fn weight_type(loaded: &LoadedModel) -> String {
    let expert = (0..loaded.tensors.layers()).find_map(|layer| loaded.tensors.experts(layer).first());
    // Of a packed file the tensors are records; its experts know better.
    if let Some(expert) = expert {
        return expert.gate.format.name().to_owned();
    }
    let mut all = BTreeMap::new();
    for tensor in loaded.tensors.catalog().tensors() {
        *all.entry(tensor.storage.name()).or_insert(0) += tensor.bytes;
    }
    all.into_iter().max_by_key(|&(_, bytes)| bytes).map_or_else(String::new, |(name, _)| name.to_owned())
}

#[cfg(test)]
mod tests;
