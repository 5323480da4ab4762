//! What chats do with files: conversations, exports, texts beside a question, the history. It must not know what is in
//! them, nor decide anything.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustyline::history::{FileHistory, History, SearchDirection};

use crate::backend::Beside;
use crate::chat::{self, Attachment, FileEvent, Replace};
use crate::input;
use crate::transcript::{FILE_BYTES_MAX, Transcript};

/// Longest text beside a question, in bytes.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// Where a chat keeps what it keeps between two starts; `None` where nothing is to be kept.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// What was entered.
    pub history: Option<PathBuf>,
    /// The last conversation.
    pub conversation: Option<PathBuf>,
}

/// Does what the conversation wants with a file, if it wants that, or counts it; then something to tell it, or nothing.
pub fn perform(effect: chat::Effect, kept: &Kept, beside: &Beside) -> Option<chat::Event> {
    let words = |error: io::Error| error.to_string();
    let event = match effect {
        chat::Effect::Write { path, text, messages, replace } => {
            let result = write(&expand(&path), &text, replace).map_err(words);
            FileEvent::Written { path, messages, result }
        }
        chat::Effect::Read { path } => {
            let result = read(&expand(&path), FILE_BYTES_MAX).and_then(text).map_err(words);
            FileEvent::Read { path, result }
        }
        chat::Effect::Attach { path } => {
            let read = attach(&path, beside);
            let replaced = read.as_ref().is_ok_and(|(_, replaced)| *replaced);
            FileEvent::Attached { path, result: read.map(|(file, _)| file), replaced }
        }
        chat::Effect::Keep(text) => {
            let path = kept.conversation.as_deref()?;
            let result = private_folder_of(path).and_then(|()| write(path, &text, Replace::Conversation));
            FileEvent::Kept(result.map_err(|error| format!("{}: {error}", path.display())))
        }
        chat::Effect::Count { number, messages } => {
            let tokens = (beside.conversation)(&messages);
            return Some(chat::Event::Counted { number, tokens });
        }
        _ => return None,
    };
    Some(chat::Event::File(event))
}

/// `~/x` is a file in the person's home.
pub fn expand(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// Writes a private file that appears under its name complete or not at all.
fn write(path: &Path, text: &str, replace: Replace) -> io::Result<()> {
    if path.exists() {
        if replace == Replace::Nothing {
            return Err(io::Error::other("a file of this name exists; give another name"));
        }
        let old = read(path, FILE_BYTES_MAX).and_then(self::text).ok();
        if old.is_none_or(|old| Transcript::from_json(&old).is_err()) {
            return Err(io::Error::other(
                "a file of this name exists and is not a saved conversation; move it away, or give another name",
            ));
        }
    }
    self::replace(path, text)
}

/// Puts a private file in the place of another, which stays if that fails.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let result = write_new(Path::new(&partial), text).and_then(|()| std::fs::rename(&partial, path));
    if result.is_err() {
        // The first error is the one that matters.
        let _ = std::fs::remove_file(&partial);
    }
    result
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Reads a regular file of at most so many bytes.
fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("it is longer than {} MiB", bytes_max >> 20)));
    }
    Ok(bytes)
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not text (UTF-8)"))
}

/// A text for a question, and whether bytes of it that are no text were replaced.
fn attach(path: &Path, beside: &Beside) -> Result<(Attachment, bool), String> {
    let place = expand(path);
    let (text, replaced) = input::lossy(read(&place, TEXT_BYTES_MAX).map_err(|error| error.to_string())?);
    let name = place.file_name().unwrap_or(place.as_os_str()).to_string_lossy().into_owned();
    let tokens = (beside.count)(&text)?;
    Ok((Attachment { name, text: text.into(), tokens }, replaced))
}

/// The last conversation.
///
/// # Errors
/// Why there is none, in words.
pub fn last_conversation(path: &Path) -> Result<String, String> {
    match read(path, FILE_BYTES_MAX).and_then(text) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err("there is none yet".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Makes sure that the folder of a file exists; one that is made can be read by its owner only.
fn private_folder_of(path: &Path) -> io::Result<()> {
    let mut folder = DirBuilder::new();
    folder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut folder, 0o700);
    path.parent().map_or(Ok(()), |parent| folder.create(parent))
}

/// Makes sure that a file of what was entered exists, is text, and that only its owner can read it. Where a full disk cut a
/// character, the rest of it is replaced.
///
/// # Errors
/// Folders that cannot be made, files that cannot be opened.
pub fn history_file(path: &Path) -> io::Result<()> {
    private_folder_of(path)?;
    let mut file = OpenOptions::new();
    file.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut file, 0o600);
    drop(file.open(path)?);
    let (mut text, damaged) = input::lossy(std::fs::read(path)?);
    if !damaged {
        return Ok(());
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    replace(path, &text)
}

/// What was entered before, in a file that line mode uses too.
pub struct KeptHistory {
    history: FileHistory,
    path: PathBuf,
}

impl KeptHistory {
    /// Opens the file, or begins it.
    ///
    /// # Errors
    /// A file that cannot be made, read or understood.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        history_file(&path)?;
        let mut history = FileHistory::new();
        history.load(&path).map_err(io::Error::other)?;
        Ok(Self { history, path })
    }

    /// The texts, the oldest first.
    pub fn texts(&self) -> Vec<String> {
        let text = |index| {
            let entry = self.history.get(index, SearchDirection::Forward).ok().flatten();
            entry.map(|entry| entry.entry.into_owned())
        };
        (0..self.history.len()).filter_map(text).collect()
    }

    /// Adds a text.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn add(&mut self, text: &str) -> io::Result<()> {
        if self.history.add(text).map_err(io::Error::other)? {
            self.history.append(&self.path).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use moelten_engine::api::ExpertMap;

    use super::*;

    fn beside(count: fn(&str) -> Result<usize, String>) -> Beside {
        Beside {
            count: Arc::new(count),
            conversation: Arc::new(|_| None),
            experts: Arc::new(ExpertMap::default),
        }
    }

    #[test]
    fn other_files_are_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("notes.txt");
        std::fs::write(&file, "precious").unwrap();
        for replace in [Replace::Conversation, Replace::Nothing] {
            assert!(write(&file, "{}", replace).is_err());
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
        assert!(read(folder.path(), 10).is_err(), "a folder is no conversation");
        assert!(write(&folder.path().join("missing/x.json"), "{}", Replace::Nothing).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file stays");
    }

    #[test]
    fn texts_are_attached_with_their_length() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.txt");
        std::fs::write(&file, b"one two\xff").unwrap();
        let beside_it = beside(|text| Ok(text.split(' ').count()));
        let (attached, replaced) = attach(&file, &beside_it).unwrap();
        assert_eq!((attached.name.as_str(), attached.tokens, replaced), ("a.txt", 2, true));
        assert!(attach(folder.path(), &beside_it).is_err());
        let unknown = attach(&file, &beside(|_| Err("no token for it".into())));
        assert_eq!(unknown.unwrap_err(), "no token for it", "it is not taken for empty");
    }

    /// A full disk may cut a character.
    #[test]
    fn a_history_that_was_cut_is_read_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        let mut history = KeptHistory::open(path.clone()).unwrap();
        history.add("one").unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend(b"two \xf0\x9f\x8c");
        std::fs::write(&path, bytes).unwrap();
        let mut history = KeptHistory::open(path.clone()).unwrap();
        assert_eq!(history.texts(), ["one", "two \u{fffd}"]);
        history.add("three").unwrap();
        assert_eq!(KeptHistory::open(path).unwrap().texts(), ["one", "two \u{fffd}", "three"]);
    }

    #[test]
    fn what_is_kept_is_private_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/moelten/history");
        let mut history = KeptHistory::open(path.clone()).unwrap();
        history.add("one").unwrap();
        history.add("two\nlines \\ and").unwrap();
        assert_eq!(KeptHistory::open(path.clone()).unwrap().texts(), ["one", "two\nlines \\ and"]);
        let conversation = folder.path().join("state/moelten/last.json");
        let kept = Kept { history: None, conversation: Some(conversation.clone()) };
        let beside = beside(|_| Ok(0));
        assert!(last_conversation(&conversation).unwrap_err().contains("none yet"));
        let text = Transcript::new("m", None, vec![]).to_json();
        for _ in 0..2 {
            let done = perform(chat::Effect::Keep(text.clone()), &kept, &beside);
            assert_eq!(done, Some(chat::Event::File(FileEvent::Kept(Ok(())))));
        }
        assert_eq!(last_conversation(&conversation).unwrap(), text);
        std::fs::write(&conversation, "mine").unwrap();
        let done = perform(chat::Effect::Keep(text.clone()), &kept, &beside);
        let Some(chat::Event::File(FileEvent::Kept(Err(why)))) = done else { panic!("{done:?}") };
        assert!(why.contains("last.json: ") && why.contains("move it away"), "{why}");
        assert_eq!(std::fs::read_to_string(&conversation).unwrap(), "mine");
        #[cfg(unix)]
        for (path, mode) in [(path.as_path(), 0o600), (&conversation, 0o600), (path.parent().unwrap(), 0o700)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
        }
    }
}
