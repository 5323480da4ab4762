//! What the conversation wants with files: saving, loading, exporting, attaching; and counting tokens. It
//! must not decide anything.

use std::io;
use std::path::{Path, PathBuf};

use moelten_engine::runtime::cancel::Cancel;

use super::file_names::expand;
use super::private_file;
use super::text_file::{self, TextError};
use crate::chat::transcript::{FILE_BYTES_MAX, Transcript};
use crate::chat::{
    AttachError, Attachment, ChatEffect, ChatEvent, Counters, FileEvent, Overwrite, TokenCount,
};

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
pub fn perform(
    effect: ChatEffect,
    state: &StatePaths,
    counters: &Counters,
    stop: &Cancel,
) -> Option<ChatEvent> {
    let message = |error: io::Error| error.to_string();
    let event = match effect {
        ChatEffect::Write { path, text, messages, overwrite } => {
            let result = write(&expand(&path), &text, overwrite).map_err(message);
            FileEvent::Written { path, messages, result }
        }
        ChatEffect::Read { path } => {
            let result = text_file::read(&expand(&path), FILE_BYTES_MAX).map_err(|error| error.to_string());
            FileEvent::Read { path, result }
        }
        ChatEffect::Attach { path, limit } => {
            let result = attach(&path, limit, counters, stop);
            FileEvent::Attached { path, result }
        }
        ChatEffect::Keep(text) => {
            let path = state.conversation.as_deref()?;
            let saved = private_file::create_folder_of(path)
                .and_then(|()| write(path, &text, Overwrite::SavedConversation));
            FileEvent::Kept(saved.map_err(|error| format!("{}: {error}", path.display())))
        }
        ChatEffect::Count { number, messages, limit } => {
            let tokens = (counters.conversation)(&messages, limit, stop).map(TokenCount::at_least);
            return Some(ChatEvent::Counted { number, tokens });
        }
        _ => return None,
    };
    Some(ChatEvent::File(event))
}

/// Writes a private file, which appears complete or not at all.
fn write(path: &Path, text: &str, overwrite: Overwrite) -> io::Result<()> {
    if overwrite == Overwrite::SavedConversation && text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!(
            "it has more than {} MiB, and could not be opened again; /export FILE.md writes it, /clear begins a new one",
            FILE_BYTES_MAX >> 20
        )));
    }
    if path.exists() {
        if overwrite == Overwrite::Never {
            return Err(io::Error::other("the file exists; choose another name"));
        }
        let old = text_file::read(path, FILE_BYTES_MAX).ok();
        if old.is_none_or(|old| Transcript::from_json(&old).is_err()) {
            return Err(io::Error::other(
                "the file exists and is not a saved conversation; move it away, or choose another name",
            ));
        }
    }
    private_file::replace(path, text)
}

/// Reads a text file for a question and counts its tokens, up to `limit`.
fn attach(path: &Path, limit: usize, counters: &Counters, stop: &Cancel) -> Result<Attachment, AttachError> {
    let place = expand(path);
    let text = text_file::read(&place, TEXT_BYTES_MAX)
        .map_err(|error| AttachError::Unreadable(error.to_string()))?;
    match (counters.text)(&text, limit, stop).map_err(AttachError::Unreadable)? {
        TokenCount::Exactly(tokens) => {
            let name = place.file_name().unwrap_or(place.as_os_str()).to_string_lossy().into_owned();
            Ok(Attachment { name, text: text.into(), tokens })
        }
        TokenCount::MoreThan(more_than) => Err(AttachError::TooLong { bytes: text.len() as u64, more_than }),
    }
}

/// Reads the last conversation.
///
/// # Errors
/// A message that says why there is none.
pub fn last_conversation(path: &Path) -> Result<String, String> {
    match text_file::read(path, FILE_BYTES_MAX) {
        Ok(text) => Ok(text),
        Err(TextError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            Err("no conversation was saved yet".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use moelten_engine::api::ExpertMap;
    use moelten_loader::text::chat::{Message, Speaker};

    use super::*;
    use crate::chat::Turn;

    /// A file that could not be opened again would also keep the next one from being saved.
    #[test]
    fn only_what_can_be_opened_again_is_saved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.json");
        let json = |text: String| Transcript::new("m", None, vec![Turn::new(Speaker::User, text)]).to_json();
        let (short, long) = (json("hello".into()), json("x".repeat(17 << 20)));
        write(&path, &short, Overwrite::SavedConversation).unwrap();
        let error = write(&path, &long, Overwrite::SavedConversation).unwrap_err().to_string();
        assert!(error.contains("more than 16 MiB") && error.contains("/export"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), short);
        write(&folder.path().join("talk.md"), &long, Overwrite::Never).unwrap();
        write(&path, &short, Overwrite::SavedConversation).unwrap();
    }

    /// Counts words, up to the limit.
    fn counters() -> Counters {
        Counters {
            text: Arc::new(|text, limit, _| match text.split(' ').take(limit.saturating_add(1)).count() {
                _ if text == "secret" => Err("no token for it".into()),
                words if words > limit => Ok(TokenCount::MoreThan(limit)),
                words => Ok(TokenCount::Exactly(words)),
            }),
            conversation: Arc::new(|messages, limit, _| {
                let long = messages.len() > limit;
                Some(if long { TokenCount::MoreThan(limit) } else { TokenCount::Exactly(messages.len()) })
            }),
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
        assert!(last_conversation(folder.path()).is_err(), "a folder is no conversation");
        assert!(write(&folder.path().join("missing/x.json"), "{}", Overwrite::Never).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file stays");
    }

    #[test]
    fn texts_are_attached_with_their_length() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.txt");
        let attach = |limit| attach(&file, limit, &counters(), &Cancel::new());
        std::fs::write(&file, b"one two three").unwrap();
        assert_eq!(
            attach(3),
            Ok(Attachment { name: "a.txt".into(), text: "one two three".into(), tokens: 3 })
        );
        assert_eq!(attach(2), Err(AttachError::TooLong { bytes: 13, more_than: 2 }));
        std::fs::write(&file, "secret").unwrap();
        assert_eq!(
            attach(3),
            Err(AttachError::Unreadable("no token for it".into())),
            "it is not taken for empty"
        );
        std::fs::write(&file, b"one two\xff").unwrap();
        let Err(AttachError::Unreadable(why)) = attach(3) else { panic!("not a text") };
        assert!(why.contains("not a text file"), "{why}");
    }

    #[test]
    fn a_conversation_is_counted_up_to_the_limit() {
        let messages = vec![Message::new(Speaker::User, "one"); 3];
        for (limit, tokens) in [(5, 3), (2, 3), (1, 2)] {
            let count = ChatEffect::Count { number: 7, messages: messages.clone(), limit };
            let counted = perform(count, &StatePaths::default(), &counters(), &Cancel::new());
            assert_eq!(counted, Some(ChatEvent::Counted { number: 7, tokens: Some(tokens) }), "{limit}");
        }
    }

    #[test]
    fn the_last_conversation_is_private_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let conversation = folder.path().join("state/moelten/last.json");
        let state = StatePaths { history: None, conversation: Some(conversation.clone()) };
        let counters = counters();
        assert!(last_conversation(&conversation).unwrap_err().contains("saved yet"));
        let text = Transcript::new("m", None, vec![]).to_json();
        for _ in 0..2 {
            let done = perform(ChatEffect::Keep(text.clone()), &state, &counters, &Cancel::new());
            assert_eq!(done, Some(ChatEvent::File(FileEvent::Kept(Ok(())))));
        }
        assert_eq!(last_conversation(&conversation).unwrap(), text);
        #[cfg(unix)]
        for (path, mode) in [(conversation.as_path(), 0o600), (conversation.parent().unwrap(), 0o700)] {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
        }
        std::fs::write(&conversation, "mine").unwrap();
        let done = perform(ChatEffect::Keep(text.clone()), &state, &counters, &Cancel::new());
        let Some(ChatEvent::File(FileEvent::Kept(Err(why)))) = done else { panic!("{done:?}") };
        assert!(why.contains("last.json: ") && why.contains("move it away"), "{why}");
        assert_eq!(std::fs::read_to_string(&conversation).unwrap(), "mine");
    }
}
