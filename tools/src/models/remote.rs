//! The headers of a model on the hub, without its weights and without a large vocabulary: files of the right
//! length on this machine whose headers are those of the hub and whose other bytes are holes. It must not
//! know what is judged by them.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use moelten_hub::{Choice, Hub, ModelName, Part, Parts, RemoteFile, Repository};
use moelten_loader::container::gguf::Header;
use moelten_loader::container::gguf::gap::Beginning;
use moelten_loader::error::{Fault, LoadError};
use moelten_loader::io::FileBytes;
use moelten_loader::text::vocabulary_lists;
use moelten_tui::terminal::{Notes, Tone};

use crate::names;
use crate::report::progress::bytes;

/// Bytes of the first request of a file that may have a vocabulary: the keys of the architecture are before
/// it. Other files, such as further parts of a split one, have smaller headers.
const FIRST: u64 = 256 << 10;
const FIRST_OF_OTHERS: u64 = 64 << 10;
/// Each further request asks for this many times what is there, because each costs the time to the server.
const FURTHER: u64 = 5;
/// The most of a header.
const HEADER_MAX: u64 = 128 << 20;
/// Largest small file of a folder.
const SMALL_MAX: u64 = 64 << 20;
/// Files of a folder that hold nothing but the vocabulary, or end so, and are left out from this size on.
const VOCABULARIES: [&str; 6] =
    ["tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", ".tiktoken"];
const VOCABULARY_LEAST: u64 = 256 << 10;
/// Memory for each byte of a vocabulary in a file, once it turns texts into tokens. Measured: 12 to 14
/// for those of Qwen2, Llama 3 and DeepSeek.
const VOCABULARY_MEMORY: u64 = 14;

/// A model whose headers alone are on this machine; they are deleted when it is dropped.
pub struct RemoteModel {
    folder: tempfile::TempDir,
    name: String,
    /// What the hub has.
    pub repository: Repository,
    /// The files that the name stands for.
    pub choice: Choice,
    /// Bytes of the vocabulary that were not.
    pub skipped: u64,
}

/// Reads headers and counts.
struct Reading<'a> {
    parts: Parts<'a>,
    fetched: u64,
    skipped: u64,
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
        let mut reading = Reading { parts: hub.parts(&repository)?, fetched: 0, skipped: 0 };
        reading.all(&choice.files, folder.path())?;
        let Reading { fetched, skipped, .. } = reading;
        let unread = match skipped {
            0 => String::new(),
            some => format!("; {} of the vocabulary were not, and are not checked", bytes(some)),
        };
        notes.line(Tone::Dim, &format!("{} of headers were read{unread}", bytes(fetched)));
        Ok(Self { folder, name, repository, choice, skipped })
    }

    /// The name on the hub, with the quantisation that was chosen.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Memory that a vocabulary will take which was not read, or only to its beginning; 0 if all of it was.
    pub fn vocabulary_bytes(&self) -> u64 {
        if self.skipped == 0 { 0 } else { (self.skipped + FIRST) * VOCABULARY_MEMORY }
    }

    /// What to open in place of the model.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join(&self.choice.open)
    }
}

impl Reading<'_> {
    /// Fetches the headers of files and writes them below `folder`.
    fn all(&mut self, files: &[RemoteFile], folder: &Path) -> anyhow::Result<()> {
        let (unread, files): (Vec<_>, Vec<_>) = files.iter().partition(|file| is_vocabulary(file));
        self.skipped += unread.iter().map(|file| file.bytes).sum::<u64>();
        let first = |(index, file): (usize, &&RemoteFile)| match kind(&file.path) {
            "gguf" if index == 0 => FIRST,
            "gguf" | "safetensors" => FIRST_OF_OTHERS,
            _ => file.bytes.min(SMALL_MAX),
        };
        let wanted: Vec<_> = files.iter().enumerate().map(first).collect();
        let firsts: Vec<_> =
            files.iter().zip(wanted).map(|(file, bytes)| Part { file, from: 0, bytes }).collect();
        let mut heads = self.read(&firsts)?;
        // The first eight bytes of a file of safetensors say how long its header is.
        let rest: Vec<_> =
            files.iter().zip(&heads).filter_map(|(file, head)| rest_of_safetensors(file, head)).collect();
        let further = self.read(&rest)?;
        for (part, more) in rest.iter().zip(further) {
            let index = files.iter().position(|file| file.path == part.file.path);
            index.and_then(|index| heads.get_mut(index)).into_iter().for_each(|head| head.extend(&more));
        }
        for (file, head) in files.into_iter().zip(heads) {
            let path = folder.join(&file.path);
            let named = || path.display().to_string();
            let head = match kind(&file.path) {
                "gguf" if self.gapped(file, &head, &path).with_context(named)? => continue,
                "gguf" => self.whole(file, head)?,
                _ => head,
            };
            write(&path, 0, &head, file.bytes).with_context(named)?;
        }
        Ok(())
    }

    /// Writes the header without the middle of its vocabulary. Whether that was possible: it has a large one,
    /// and what was found behind it is as sound as any header.
    fn gapped(&mut self, file: &RemoteFile, head: &[u8], path: &Path) -> anyhow::Result<bool> {
        let Some(beginning) = Beginning::of(Path::new(&file.path), head, file.bytes) else {
            return Ok(false);
        };
        let found = beginning.find(|places| {
            let parts: Vec<_> = places.iter().map(|&(from, bytes)| Part { file, from, bytes }).collect();
            self.read(&parts)
        })?;
        if let Some(gapped) = found {
            write(path, 0, &gapped.head, file.bytes)?;
            write(path, gapped.tail_at, &gapped.tail, file.bytes)?;
            let header = FileBytes::open(path).and_then(|file| Header::read(&file));
            let lists = header.ok().and_then(|header| vocabulary_lists(&header.metadata));
            if lists.is_some_and(|lists| gapped.hides(lists)) {
                self.skipped += gapped.skipped;
                return Ok(true);
            }
        }
        let why = "the tensors were not found behind the vocabulary, so all before them is read";
        Notes::detect().line(Tone::Dim, &format!("{}: {why}", file.path));
        Ok(false)
    }

    /// The header of a GGUF file from its start to its end, of which `head` is there.
    fn whole(&mut self, file: &RemoteFile, mut head: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        while (head.len() as u64) < file.bytes.min(HEADER_MAX) && ends_early(&file.path, &head, file.bytes) {
            let from = head.len() as u64;
            let next = self.read(&[Part { file, from, bytes: FURTHER * from }])?;
            head.extend(next.into_iter().flatten());
        }
        Ok(head)
    }

    fn read(&mut self, parts: &[Part]) -> anyhow::Result<Vec<Vec<u8>>> {
        let read = names::read(&self.parts, parts)?;
        self.fetched += read.iter().map(|part| part.len() as u64).sum::<u64>();
        Ok(read)
    }
}

/// The end of a file's name.
fn kind(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or_default()
}

fn is_vocabulary(file: &RemoteFile) -> bool {
    file.bytes >= VOCABULARY_LEAST && VOCABULARIES.iter().any(|end| file.path.ends_with(end))
}

/// What is missing of the header of a file of safetensors.
fn rest_of_safetensors<'a>(file: &'a RemoteFile, head: &[u8]) -> Option<Part<'a>> {
    let length = head.first_chunk().filter(|_| kind(&file.path) == "safetensors")?;
    let end = u64::from_le_bytes(*length).saturating_add(8).min(file.bytes).min(HEADER_MAX);
    let from = head.len() as u64;
    (end > from).then(|| Part { file, from, bytes: end - from })
}

/// Whether a header goes on behind these bytes.
fn ends_early(path: &str, head: &[u8], file_len: u64) -> bool {
    let parsed = Header::parse_prefix(Path::new(path), head, file_len);
    matches!(parsed, Err(LoadError::Malformed { fault: Fault::Truncated { .. }, .. }))
}

/// Writes bytes of a file and gives it its length; the rest takes no room.
fn write(path: &Path, at: u64, bytes: &[u8], length: u64) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = fs::File::options().create(true).truncate(at == 0).write(true).open(path)?;
    file.seek(SeekFrom::Start(at))?;
    file.write_all(bytes)?;
    file.set_len(length)
}
