//! What the conversation wants with files: saving, loading, exporting, attaching; and counting tokens. It
//! must not decide anything.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::file_names::expand;
use super::line_input::lossy;
use super::private_file;
use crate::chat::transcript::{FILE_BYTES_MAX, Transcript};
use crate::chat::{Attachment, ChatEffect, ChatEvent, Counters, FileEvent, Overwrite};

/// Largest text that can be attached, in bytes.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// The files that a chat keeps from one start to the next; `None` where nothing is kept.
#[derive(Debug, Clone, Default)]
pub struct StatePaths {
    /// The history of entries.
    pub history: Option<PathBuf>,
    /// The last conversation.
    pub conversation: Option<PathBuf>,
}

/// Carries out an effect of the conversation that concerns files or counting; returns the event that answers
/// it. Other effects are ignored.
pub fn perform(effect: ChatEffect, state: &StatePaths, counters: &Counters) -> Option<ChatEvent> {
    let message = |error: io::Error| error.to_string();
    let event = match effect {
        ChatEffect::Write { path, text, messages, overwrite } => {
            let result = write(&expand(&path), &text, overwrite).map_err(message);
            FileEvent::Written { path, messages, result }
        }
        ChatEffect::Read { path } => {
            let result = read(&expand(&path), FILE_BYTES_MAX).and_then(text).map_err(message);
            FileEvent::Read { path, result }
        }
        ChatEffect::Attach { path } => {
            let read = attach(&path, counters);
            let replaced = read.as_ref().is_ok_and(|(_, replaced)| *replaced);
            FileEvent::Attached { path, result: read.map(|(file, _)| file), replaced }
        }
        ChatEffect::Keep(text) => {
            let path = state.conversation.as_deref()?;
            let saved = private_file::create_folder_of(path)
                .and_then(|()| write(path, &text, Overwrite::SavedConversation));
            FileEvent::Kept(saved.map_err(|error| format!("{}: {error}", path.display())))
        }
        ChatEffect::Count { number, messages } => {
            let tokens = (counters.conversation)(&messages);
            return Some(ChatEvent::Counted { number, tokens });
        }
        _ => return None,
    };
    Some(ChatEvent::File(event))
}

/// Writes a private file, which appears complete or not at all.
fn write(path: &Path, text: &str, overwrite: Overwrite) -> io::Result<()> {
    if path.exists() {
        if overwrite == Overwrite::Never {
            return Err(io::Error::other("the file exists; choose another name"));
        }
        let old = read(path, FILE_BYTES_MAX).and_then(self::text).ok();
        if old.is_none_or(|old| Transcript::from_json(&old).is_err()) {
            return Err(io::Error::other(
                "the file exists and is not a saved conversation; move it away, or choose another name",
            ));
        }
    }
    private_file::replace(path, text)
}

/// Reads a regular file of at most `bytes_max` bytes.
fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("the file is larger than {} MiB", bytes_max >> 20)));
    }
    Ok(bytes)
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| io::Error::other("not a text file (invalid UTF-8)"))
}

/// Reads a text for a question; also whether invalid UTF-8 was replaced.
fn attach(path: &Path, counters: &Counters) -> Result<(Attachment, bool), String> {
    let place = expand(path);
    let (text, replaced) = lossy(read(&place, TEXT_BYTES_MAX).map_err(|error| error.to_string())?);
    let name = place.file_name().unwrap_or(place.as_os_str()).to_string_lossy().into_owned();
    let tokens = (counters.text)(&text)?;
    Ok((Attachment { name, text: text.into(), tokens }, replaced))
}

/// Reads the last conversation.
///
/// # Errors
/// A message that says why there is none.
pub fn last_conversation(path: &Path) -> Result<String, String> {
    match read(path, FILE_BYTES_MAX).and_then(text) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err("no conversation was saved yet".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use moelten_engine::api::ExpertMap;

    use super::*;

    fn counters(count: fn(&str) -> Result<usize, String>) -> Counters {
        Counters {
            text: Arc::new(count),
            conversation: Arc::new(|_| None),
            experts: Arc::new(ExpertMap::default),
        }
    }

    #[test]
    fn other_files_are_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("notes.txt");
        std::fs::write(&file, "precious").unwrap();
        for overwrite in [Overwrite::SavedConversation, Overwrite::Never] {
            assert!(write(&file, "{}", overwrite).is_err());
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
        assert!(read(folder.path(), 10).is_err(), "a folder is no conversation");
        assert!(write(&folder.path().join("missing/x.json"), "{}", Overwrite::Never).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file stays");
    }

    #[test]
    fn texts_are_attached_with_their_length() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.txt");
        std::fs::write(&file, b"one two\xff").unwrap();
        let words = counters(|text| Ok(text.split(' ').count()));
        let (attached, replaced) = attach(&file, &words).unwrap();
        assert_eq!((attached.name.as_str(), attached.tokens, replaced), ("a.txt", 2, true));
        assert!(attach(folder.path(), &words).is_err());
        let unknown = attach(&file, &counters(|_| Err("no token for it".into())));
        assert_eq!(unknown.unwrap_err(), "no token for it", "it is not taken for empty");
    }

    #[test]
    fn the_last_conversation_is_private_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let conversation = folder.path().join("state/moelten/last.json");
        let state = StatePaths { history: None, conversation: Some(conversation.clone()) };
        let counters = counters(|_| Ok(0));
        assert!(last_conversation(&conversation).unwrap_err().contains("saved yet"));
        let text = Transcript::new("m", None, vec![]).to_json();
        for _ in 0..2 {
            let done = perform(ChatEffect::Keep(text.clone()), &state, &counters);
            assert_eq!(done, Some(ChatEvent::File(FileEvent::Kept(Ok(())))));
        }
        assert_eq!(last_conversation(&conversation).unwrap(), text);
        #[cfg(unix)]
        for (path, mode) in [(conversation.as_path(), 0o600), (conversation.parent().unwrap(), 0o700)] {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
        }
        std::fs::write(&conversation, "mine").unwrap();
        let done = perform(ChatEffect::Keep(text.clone()), &state, &counters);
        let Some(ChatEvent::File(FileEvent::Kept(Err(why)))) = done else { panic!("{done:?}") };
        assert!(why.contains("last.json: ") && why.contains("move it away"), "{why}");
        assert_eq!(std::fs::read_to_string(&conversation).unwrap(), "mine");
    }
}
