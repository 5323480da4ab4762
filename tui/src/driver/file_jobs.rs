//! What the conversation wants with files: saving, loading, exporting, attaching; and counting tokens. It
//! must not decide anything.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moelten_engine::runtime::cancel::Cancel;

use super::conversations::Conversations;
use super::file_names::expand;
use super::private_file;
use super::text_file;
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
    /// The folder of saved conversations.
    pub conversations: Option<Arc<Conversations>>,
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
        ChatEffect::Attach { path, limit, mention } => {
            let result = match std::fs::metadata(expand(&path)) {
                // What a question mentions need not be a file.
                Err(error) if mention && error.kind() == io::ErrorKind::NotFound => Err(AttachError::Missing),
                Ok(found) if mention && !found.is_file() => Err(AttachError::Missing),
                _ => attach(&path, limit, counters, stop),
            };
            FileEvent::Attached { path, result }
        }
        ChatEffect::Keep(text) => {
            let kept = state.conversations.as_ref()?;
            FileEvent::Kept(match can_be_opened_again(&text) {
                Ok(()) => kept.keep(&text),
                Err(error) => Err(error.to_string()),
            })
        }
        ChatEffect::NewFile => {
            state.conversations.as_ref()?.begin_new();
            return None;
        }
        ChatEffect::Sessions => {
            FileEvent::Sessions(state.conversations.as_ref().map_or_else(Vec::new, |kept| kept.list()))
        }
        ChatEffect::Resume { path } => {
            let resumed = state.conversations.as_ref()?.resume(&path);
            FileEvent::Resumed { path, result: resumed.map(|resumed| (resumed.text, resumed.shared)) }
        }
        ChatEffect::Delete { path } => {
            let result = state.conversations.as_ref()?.delete(&path);
            FileEvent::Deleted { path, result }
        }
        ChatEffect::Count { number, messages, limit } => {
            let tokens = (counters.conversation)(&messages, limit, stop).map(TokenCount::at_least);
            return Some(ChatEvent::Counted { number, tokens });
        }
        _ => return None,
    };
    Some(ChatEvent::File(event))
}

/// A conversation that could not be opened again is not saved.
fn can_be_opened_again(text: &str) -> io::Result<()> {
    if text.len() as u64 <= FILE_BYTES_MAX {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "it has more than {} MiB, and could not be opened again; /export FILE.md writes it, /clear begins a new one",
        FILE_BYTES_MAX >> 20
    )))
}

/// Writes a private file, which appears complete or not at all.
fn write(path: &Path, text: &str, overwrite: Overwrite) -> io::Result<()> {
    if overwrite != Overwrite::Never {
        can_be_opened_again(text)?;
    }
    if path.exists() && overwrite != Overwrite::Any {
        if overwrite == Overwrite::Never {
            return Err(io::Error::other("the file exists; choose another name"));
        }
        let old = text_file::read(path, FILE_BYTES_MAX).ok();
        if old.is_none_or(|old| Transcript::from_json(&old).is_err()) {
            return Err(io::Error::other(
                "the file exists and is not a saved conversation; choose another name, or replace it with /save! FILE",
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

#[cfg(test)]
mod tests {
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
        write(&folder.path().join("new.json"), "{}", Overwrite::SavedConversation).unwrap();
        std::fs::remove_file(folder.path().join("new.json")).unwrap();
        assert!(write(&folder.path().join("missing/x.json"), "{}", Overwrite::Never).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file stays");
        write(&file, "{}", Overwrite::Any).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "{}");
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
    fn conversations_are_kept_listed_and_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Arc::new(Conversations::below(folder.path()));
        let state = StatePaths { history: None, conversations: Some(kept) };
        let run = |effect| match perform(effect, &state, &counters(), &Cancel::new()) {
            Some(ChatEvent::File(event)) => Some(event),
            None => None,
            other => panic!("{other:?}"),
        };
        let text = Transcript::new("m", None, vec![Turn::new(Speaker::User, "Why?")]).to_json();
        assert_eq!(run(ChatEffect::Keep(text.clone())), Some(FileEvent::Kept(Ok(()))));
        let long = Transcript::new("m", None, vec![Turn::new(Speaker::User, "x".repeat(17 << 20))]).to_json();
        let Some(FileEvent::Kept(Err(why))) = run(ChatEffect::Keep(long)) else { panic!("it is too long") };
        assert!(why.contains("more than 16 MiB"), "{why}");
        assert_eq!(run(ChatEffect::NewFile), None);
        let Some(FileEvent::Sessions(list)) = run(ChatEffect::Sessions) else { panic!("no list") };
        let path = list[0].path.clone();
        assert_eq!((list.len(), list[0].title.as_str(), list[0].open), (1, "Why?", false));
        let resumed = run(ChatEffect::Resume { path: path.clone() });
        assert_eq!(resumed, Some(FileEvent::Resumed { path: path.clone(), result: Ok((text, false)) }));
        run(ChatEffect::NewFile);
        let deleted = run(ChatEffect::Delete { path: path.clone() });
        assert_eq!(deleted, Some(FileEvent::Deleted { path, result: Ok(()) }));
        assert_eq!(run(ChatEffect::Sessions), Some(FileEvent::Sessions(Vec::new())));
    }
}
