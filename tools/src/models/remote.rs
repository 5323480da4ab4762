//! The headers of a model on the hub, without its weights: files of the right length on this machine whose
//! headers are those of the hub and whose other bytes are holes. It must not know what is judged by them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use moelten_hub::{Choice, Hub, ModelName, RemoteFile, Repository};
use moelten_loader::container::gguf::Header;
use moelten_loader::error::{Fault, LoadError};
use moelten_tui::terminal::{Notes, Tone};

use crate::names;
use crate::report::progress::bytes;

/// Bytes of the first request of a file. Each further one asks for `FURTHER` times what is there, because
/// headers with large vocabularies have several megabytes and each request costs the time to the server.
const FIRST: u64 = 1 << 20;
const FURTHER: u64 = 7;
/// The most of a header.
const HEADER_MAX: u64 = 128 << 20;
/// Largest small file of a folder, such as a tokenizer.
const SMALL_MAX: u64 = 64 << 20;

/// A model whose headers alone are on this machine; they are deleted when it is dropped.
pub struct RemoteModel {
    folder: tempfile::TempDir,
    name: String,
    /// What the hub has.
    pub repository: Repository,
    /// The files that the name stands for.
    pub choice: Choice,
    /// Bytes that were fetched.
    pub fetched: u64,
}

impl RemoteModel {
    /// Asks the hub for a name and fetches the headers of its files.
    ///
    /// # Errors
    /// [`moelten_hub::HubError`]; files that are no models; no room for them.
    pub fn fetch(hub: &Hub, name: &ModelName) -> anyhow::Result<Self> {
        let host = hub.settings().endpoint.split("//").nth(1).unwrap_or_default().to_owned();
        let notes = Notes::detect();
        notes.line(Tone::Dim, &format!("{name} is not on this machine; asking {host} for its headers"));
        let repository = names::look(hub, name)?;
        let choice = repository.choice()?;
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let name = match (&choice.quant, choice.by_default) {
            (Some(quant), true) => format!("{name}:{quant}"),
            _ => name.to_string(),
        };
        let mut remote = Self { folder, name, repository, choice, fetched: 0 };
        for file in remote.choice.files.clone() {
            let head = remote.head(hub, &file)?;
            remote.fetched += head.len() as u64;
            let path = remote.folder.path().join(&file.path);
            write(&path, &head, file.bytes).with_context(|| path.display().to_string())?;
        }
        notes.line(Tone::Dim, &format!("{} of headers were read", bytes(remote.fetched)));
        Ok(remote)
    }

    /// The name on the hub, with the quantisation that was chosen.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What to open in place of the model.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join(&self.choice.open)
    }

    /// The bytes of a file that are needed to know its tensors.
    fn head(&self, hub: &Hub, file: &RemoteFile) -> anyhow::Result<Vec<u8>> {
        let more = |from: u64, length: u64| -> anyhow::Result<Vec<u8>> {
            names::read(hub, &self.repository, file, from, length)
        };
        if file.path.ends_with(".gguf") {
            let mut head = more(0, FIRST)?;
            while (head.len() as u64) < file.bytes.min(HEADER_MAX)
                && ends_early(&file.path, &head, file.bytes)
            {
                let next = more(head.len() as u64, FURTHER * head.len() as u64)?;
                head.extend(next);
            }
            return Ok(head);
        }
        if file.path.ends_with(".safetensors") {
            let mut head = more(0, FIRST)?;
            let length = head.first_chunk().map_or(0, |length: &[u8; 8]| u64::from_le_bytes(*length));
            let end = length.saturating_add(8).min(file.bytes).min(HEADER_MAX);
            if end > head.len() as u64 {
                let next = more(head.len() as u64, end - head.len() as u64)?;
                head.extend(next);
            }
            return Ok(head);
        }
        more(0, file.bytes.min(SMALL_MAX))
    }
}

/// Whether a header goes on behind these bytes.
fn ends_early(path: &str, head: &[u8], file_len: u64) -> bool {
    let parsed = Header::parse_prefix(Path::new(path), head, file_len);
    matches!(
        parsed,
        Err(LoadError::Malformed { fault: Fault::Truncated { .. } | Fault::BeyondEnd { .. }, .. })
    )
}

/// Writes the first bytes of a file and gives it its length; the rest takes no room.
fn write(path: &Path, head: &[u8], length: u64) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = fs::File::create(path)?;
    file.write_all(head)?;
    file.set_len(length)
}
