//! The conversations that chats keep: a file each in one folder, the last fifty. A chat locks its file, so
//! that two chats never write the same one. It must not know what is said in them.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::private_file;
use super::text_file;
use crate::chat::SessionEntry;
use crate::chat::transcript::{FILE_BYTES_MAX, outline};

/// Most conversations that are kept.
pub const KEPT_MAX: usize = 50;

/// The folder of conversations, and the one that this chat writes.
#[derive(Debug)]
pub struct Conversations {
    folder: PathBuf,
    /// The single file of earlier versions of the program. It is read and never written.
    earlier: PathBuf,
    current: Mutex<Option<OpenConversation>>,
}

/// The conversation that this chat writes.
#[derive(Debug)]
struct OpenConversation {
    path: PathBuf,
    /// Held as long as the chat writes the file. `None` where files cannot be locked.
    lock: Option<File>,
}

/// A conversation that was read to be continued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumed {
    /// Its file.
    pub path: PathBuf,
    /// Its content.
    pub text: String,
    /// Whether another chat has it open. Then this chat goes on in a file of its own.
    pub shared: bool,
}

impl Conversations {
    /// The conversations below the state folder of the program.
    pub fn below(state: &Path) -> Self {
        Self {
            folder: state.join("conversations"),
            earlier: state.join("last-conversation.json"),
            current: Mutex::new(None),
        }
    }

    /// Writes the conversation of this chat; the first time, into a new file.
    ///
    /// # Errors
    /// Writing failed, with the name of the file.
    pub fn keep(&self, text: &str) -> Result<(), String> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let named = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
        let new = current.is_none();
        if new {
            private_file::create_folder_of(&self.folder.join("x"))
                .map_err(|error| named(&self.folder, error))?;
            *current = Some(self.new_file().map_err(|error| named(&self.folder, error))?);
        }
        let path = current.as_ref().map(|open| open.path.clone()).unwrap_or_default();
        let written = private_file::replace(&path, text).map_err(|error| named(&path, error));
        if new && written.is_ok() {
            self.forget_the_oldest(&path);
        }
        written
    }

    /// What is kept from here on goes into a new file.
    pub fn begin_new(&self) {
        self.set_current(None);
    }

    /// Reads a conversation, to continue it in its file, or in a new one if another chat has it open.
    ///
    /// # Errors
    /// A message: it cannot be read.
    pub fn resume(&self, path: &Path) -> Result<Resumed, String> {
        let text = text_file::read(path, FILE_BYTES_MAX).map_err(|error| error.to_string())?;
        let ours = self.current_path().as_deref() == Some(path);
        let mut shared = false;
        if !ours {
            let lock = if path == self.earlier { Err(()) } else { lock(path) };
            shared = lock.is_err() && path != self.earlier;
            self.set_current(lock.ok().map(|lock| OpenConversation { path: path.to_owned(), lock }));
        }
        Ok(Resumed { path: path.to_owned(), text, shared })
    }

    /// As [`Self::resume`], for the conversation that was written last.
    ///
    /// # Errors
    /// A message that says why there is none.
    pub fn resume_last(&self) -> Result<Resumed, String> {
        let Some((_, path)) = self.files().into_iter().next() else {
            return Err(format!("{}: no conversation was saved yet", self.folder.display()));
        };
        self.resume(&path).map_err(|problem| format!("{}: {problem}", path.display()))
    }

    /// All conversations, the one that was written last first. Files that are none are left out.
    pub fn list(&self) -> Vec<SessionEntry> {
        let current = self.current_path();
        let entry = |(changed, path): (SystemTime, PathBuf)| {
            let text = text_file::read(&path, FILE_BYTES_MAX).ok()?;
            let about = outline(&text)?;
            let age = SystemTime::now().duration_since(changed).unwrap_or_default();
            let open = current.as_deref() == Some(path.as_path());
            Some(SessionEntry {
                path,
                title: about.title,
                model: about.model,
                messages: about.messages,
                age,
                open,
            })
        };
        self.files().into_iter().filter_map(entry).collect()
    }

    /// Deletes a conversation that no chat has open.
    ///
    /// # Errors
    /// A message: it is open, or the file cannot be deleted.
    pub fn delete(&self, path: &Path) -> Result<(), String> {
        if self.current_path().as_deref() == Some(path) {
            return Err("it is the conversation on the screen; /clear leaves it".to_owned());
        }
        let held = lock(path).map_err(|()| "another chat has it open".to_owned())?;
        let result = std::fs::remove_file(path).map_err(|error| error.to_string());
        drop(held);
        remove_lock(path);
        result
    }

    fn set_current(&self, next: Option<OpenConversation>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = std::mem::replace(&mut *current, next) {
            open.release();
        }
    }

    fn current_path(&self) -> Option<PathBuf> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|open| open.path.clone())
    }

    /// A name that no file has, locked.
    fn new_file(&self) -> io::Result<OpenConversation> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        for number in 0..1000 {
            let path = self.folder.join(format!("{seconds}-{}-{number}.json", std::process::id()));
            if !path.exists()
                && let Ok(lock) = lock(&path)
            {
                return Ok(OpenConversation { path, lock });
            }
        }
        Err(io::Error::other("no free name for a conversation"))
    }

    /// The files, the newest first.
    fn files(&self) -> Vec<(SystemTime, PathBuf)> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path()).chain([self.earlier.clone()]);
        let is_json = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
        let mut files: Vec<_> = paths
            .filter(is_json)
            .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
            .collect();
        files.sort_by(|a, b| b.cmp(a));
        files
    }

    /// Deletes the oldest conversations beyond [`KEPT_MAX`], except those that are open. What cannot be
    /// deleted stays until the next time.
    fn forget_the_oldest(&self, current: &Path) {
        let files = self.files().into_iter().map(|(_, path)| path);
        for path in files.filter(|path| *path != self.earlier && path != current).skip(KEPT_MAX - 1) {
            if let Ok(held) = lock(&path) {
                let _ = std::fs::remove_file(&path);
                drop(held);
                remove_lock(&path);
            }
        }
    }
}

impl Drop for Conversations {
    fn drop(&mut self) {
        self.set_current(None);
    }
}

impl OpenConversation {
    fn release(self) {
        drop(self.lock);
        remove_lock(&self.path);
    }
}

/// The file whose lock stands for a conversation. The conversation itself is replaced when it is written, so
/// a lock on it would not last.
fn lock_path(path: &Path) -> PathBuf {
    path.with_extension("lock")
}

/// Locks a conversation. `Ok(None)` where files cannot be locked; an error if another chat has locked it.
fn lock(path: &Path) -> Result<Option<File>, ()> {
    let place = lock_path(path);
    if private_file::create(&place).is_err() {
        return Ok(None);
    }
    let Ok(file) = File::open(&place) else { return Ok(None) };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(()),
        // Some network file systems have no locks.
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// Removes the file of a lock. If that fails an empty file stays, which does no harm.
fn remove_lock(path: &Path) {
    let _ = std::fs::remove_file(lock_path(path));
}

#[cfg(test)]
mod tests {
    use moelten_loader::text::chat::Speaker;

    use super::*;
    use crate::chat::Turn;
    use crate::chat::transcript::Transcript;

    fn json(question: &str) -> String {
        Transcript::new("m", None, vec![Turn::new(Speaker::User, question)]).to_json()
    }

    fn titles(kept: &Conversations) -> Vec<String> {
        kept.list().into_iter().map(|entry| entry.title).collect()
    }

    #[test]
    fn a_chat_writes_one_file_until_it_begins_another() {
        let state = tempfile::tempdir().unwrap();
        let kept = Conversations::below(state.path());
        assert!(kept.resume_last().unwrap_err().contains("no conversation was saved yet"));
        kept.keep(&json("one")).unwrap();
        kept.keep(&json("one, changed")).unwrap();
        assert_eq!(titles(&kept), ["one, changed"]);
        assert!(kept.list()[0].open);
        kept.begin_new();
        kept.keep(&json("two")).unwrap();
        assert_eq!(kept.list().len(), 2);
        let file = kept.current_path().unwrap();
        #[cfg(unix)]
        for (path, mode) in [(file.as_path(), 0o600), (file.parent().unwrap(), 0o700)] {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
        }
        drop(kept);
        assert!(!lock_path(&file).exists(), "no lock stays");
        let again = Conversations::below(state.path());
        let last = again.resume_last().unwrap();
        assert_eq!((last.path, last.shared), (file, false));
        again.keep(&json("two, continued")).unwrap();
        assert_eq!(again.list().len(), 2, "it goes on in its file");
    }

    #[test]
    fn two_chats_do_not_write_one_file() {
        let state = tempfile::tempdir().unwrap();
        let [first, second] = [(); 2].map(|()| Conversations::below(state.path()));
        first.keep(&json("mine")).unwrap();
        let resumed = second.resume_last().unwrap();
        assert!(resumed.shared && resumed.text.contains("mine"));
        assert_eq!(second.delete(&resumed.path).unwrap_err(), "another chat has it open");
        second.keep(&json("a copy")).unwrap();
        first.keep(&json("mine, too")).unwrap();
        let mut all = titles(&first);
        all.sort();
        assert_eq!(all, ["a copy", "mine, too"]);
        assert!(first.delete(&resumed.path).unwrap_err().contains("on the screen"));
        first.begin_new();
        second.delete(&resumed.path).unwrap();
        assert_eq!(titles(&first), ["a copy"]);
    }

    #[test]
    fn the_last_fifty_are_kept_and_the_file_of_earlier_versions_is_found() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("last-conversation.json"), json("from before")).unwrap();
        let kept = Conversations::below(state.path());
        assert_eq!(kept.resume_last().unwrap().text, json("from before"));
        for number in 0..KEPT_MAX + 5 {
            kept.begin_new();
            kept.keep(&json(&format!("{number}"))).unwrap();
            let file = File::options().write(true).open(kept.current_path().unwrap()).unwrap();
            file.set_modified(UNIX_EPOCH + std::time::Duration::from_secs(2_000_000_000 + number as u64))
                .unwrap();
        }
        let titles = titles(&kept);
        assert_eq!(titles.len(), KEPT_MAX + 1);
        assert_eq!((titles[0].as_str(), titles[KEPT_MAX - 1].as_str()), ("54", "5"));
        assert_eq!(titles.last().unwrap(), "from before");
        assert_eq!(
            std::fs::read_to_string(state.path().join("last-conversation.json")).unwrap(),
            json("from before")
        );
    }

    #[test]
    fn other_files_are_neither_listed_nor_changed() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("conversations");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("notes.json"), "mine").unwrap();
        let kept = Conversations::below(state.path());
        assert!(kept.list().is_empty());
        kept.keep(&json("one")).unwrap();
        assert_eq!(titles(&kept), ["one"]);
        assert_eq!(std::fs::read_to_string(folder.join("notes.json")).unwrap(), "mine");
    }
}
