//! What the program uses: look up a name in the cache or on the hub, download its files, read parts of them.
//! It must not know what a model is used for.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use moelten_loader::io::output::free_bytes;

use crate::api;
use crate::cache::{Cache, Removed};
use crate::download::Download;
use crate::error::HubError;
use crate::http::{Http, host};
use crate::name::{ModelName, RepoId};
use crate::parts::Parts;
use crate::select::{Choice, RemoteFile, choose};
use crate::settings::Settings;
use crate::watch::Watch;

/// Bytes that stay free on the disk beside a download.
const RESERVE: u64 = 64 << 20;

/// Bytes of the file that the disk is measured with.
pub const TRIAL: u64 = 128 << 20;

/// The hub and its cache on this machine.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    cache: Cache,
}

/// A model in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The file or folder to open.
    pub path: PathBuf,
    /// The quantisation that was chosen, and whether the name left the choice open.
    pub quant: Option<(String, bool)>,
}

/// A revision of a repository on the hub.
#[derive(Debug)]
pub struct Repository {
    name: ModelName,
    commit: String,
    /// All its files.
    pub files: Vec<RemoteFile>,
}

impl Repository {
    /// The commit that the revision points to: 40 hexadecimal digits.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// The files of the name that was looked up.
    ///
    /// # Errors
    /// [`HubError::NoVariant`], [`HubError::NoModel`].
    pub fn choice(&self) -> Result<Choice, HubError> {
        choose(&self.name.repo, &self.files, self.name.quant.as_deref(), self.name.file.as_deref())
    }
}

impl Hub {
    /// With these settings.
    pub fn new(settings: Settings) -> Self {
        let cache = Cache::new(&settings.cache);
        Self { settings, cache }
    }

    /// How the hub is reached.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Looks for a name in the cache, without the network. A model of which parts are missing is not found.
    pub fn find(&self, name: &ModelName) -> Option<Found> {
        let revision = name.revision.as_deref().unwrap_or("main");
        let commit = self.cache.commit(&name.repo, revision)?;
        let files = self.cache.files(&name.repo, &commit);
        let choice = choose(&name.repo, &files, name.quant.as_deref(), name.file.as_deref()).ok()?;
        if !choice.complete {
            return None;
        }
        let path = self.cache.snapshot(&name.repo, &commit).join(&choice.open);
        Some(Found { path, quant: choice.quant.map(|quant| (quant, choice.by_default)) })
    }

    /// Asks the hub for a name's files.
    ///
    /// # Errors
    /// [`HubError`]: no such repository or revision, gated, offline, the network.
    pub fn look(&self, name: &ModelName, stopped: &dyn Fn() -> bool) -> Result<Repository, HubError> {
        let listing = api::list(&self.http(&name.to_string())?, name, stopped)?;
        Ok(Repository { name: name.clone(), commit: listing.commit, files: listing.files })
    }

    /// Bytes of a choice that are not yet in the cache.
    pub fn missing(&self, repository: &Repository, choice: &Choice) -> u64 {
        let missing = |file: &RemoteFile| {
            let repo = &repository.name.repo;
            let length = |path: PathBuf| fs::metadata(path).map_or(0, |found| found.len());
            let whole = length(self.cache.blob(repo, &file.checksum));
            let part = length(self.cache.incomplete(repo, &file.checksum));
            if whole == file.bytes { 0 } else { file.bytes.saturating_sub(part) }
        };
        choice.files.iter().map(missing).sum()
    }

    /// Downloads the files of a choice, and makes them a snapshot when all are complete.
    ///
    /// # Errors
    /// [`HubError`]; what has arrived is kept.
    pub fn pull(
        &self,
        repository: &Repository,
        choice: &Choice,
        watch: &dyn Watch,
    ) -> Result<Found, HubError> {
        let Repository { name, commit, .. } = repository;
        let http = self.http(&name.to_string())?;
        let root = self.cache.root();
        fs::create_dir_all(root).map_err(HubError::io(root))?;
        let need = self.missing(repository, choice);
        if let Some(free) = free_bytes(root)
            && need.saturating_add(if need > 0 { RESERVE } else { 0 }) > free
        {
            return Err(HubError::Disk { folder: root.to_owned(), need, free });
        }
        let mut before = 0;
        for file in &choice.files {
            Download { http: &http, cache: &self.cache, name, commit, file, watch, before }.run()?;
            before += file.bytes;
            watch.progress(before);
        }
        for file in &choice.files {
            self.cache.link(&name.repo, commit, file)?;
        }
        let revision = name.revision.as_deref().unwrap_or("main");
        self.cache.set_commit(&name.repo, revision, commit)?;
        let path = self.cache.snapshot(&name.repo, commit).join(&choice.open);
        Ok(Found { path, quant: choice.quant.clone().map(|quant| (quant, choice.by_default)) })
    }

    /// Reads parts of a repository's files into memory.
    ///
    /// # Errors
    /// [`HubError::Offline`], [`HubError::Processor`], a wrong `HF_ENDPOINT`.
    pub fn parts<'a>(&self, repository: &'a Repository) -> Result<Parts<'a>, HubError> {
        let name = &repository.name;
        Ok(Parts::new(self.http(&name.to_string())?, name, &repository.commit))
    }

    /// Free bytes on the disk of the cache; `None` where the system does not say.
    pub fn free_bytes(&self) -> Option<u64> {
        free_bytes(self.folder())
    }

    /// The cache's folder; before the first download, which makes it, the folder above it that exists.
    fn folder(&self) -> &Path {
        let root = self.cache.root();
        root.ancestors().find(|folder| folder.is_dir()).unwrap_or(root)
    }

    /// A file of [`TRIAL`] bytes in the cache's folder, to measure its disk with; deleted when it is dropped.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn trial_file(&self) -> io::Result<tempfile::NamedTempFile> {
        let mut file = tempfile::Builder::new().prefix(".moelten-trial-").tempfile_in(self.folder())?;
        let part: Vec<u8> = (0..1u32 << 18).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
        for _ in 0..TRIAL / part.len() as u64 {
            file.write_all(&part)?;
        }
        file.as_file().sync_all()?;
        Ok(file)
    }

    /// Deletes a repository from the cache, or counts what that would free.
    ///
    /// # Errors
    /// [`HubError::Io`].
    pub fn remove(&self, repo: &RepoId, really: bool) -> Result<Option<Removed>, HubError> {
        self.cache.remove(repo, really)
    }

    fn http(&self, what: &str) -> Result<Http, HubError> {
        if self.settings.offline {
            return Err(HubError::Offline { what: what.to_owned() });
        }
        let endpoint = &self.settings.endpoint;
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            let what = "HF_ENDPOINT, which begins with neither https:// nor http://".to_owned();
            return Err(HubError::Answer { host: host(endpoint), what });
        }
        Http::new(&self.settings)
    }
}
