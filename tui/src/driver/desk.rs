//! Threads for files and for counting: a slow disk stops nothing, and what is to be kept never waits for what is only
//! looked at. It must not decide anything.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SendError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::worker::Told;
use crate::backend::Beside;
use crate::chat;
use crate::complete;
use crate::files::{self, Kept};
use crate::screen::{Event, Start};
use crate::terminal::{Notes, Tone};

/// How long the end waits for files that are being written, whoever asked for it.
pub const LAST_WAIT: Duration = Duration::from_secs(1);

/// Where jobs go.
pub struct Desk {
    /// Conversations are read and written here, in turn.
    conversations: Sender<Job>,
    /// Texts are read and tokens counted here.
    texts: Sender<Job>,
    /// The last count that was asked for: those before it are of no use.
    counted: Arc<AtomicU64>,
    /// Who writes conversations.
    clerk: JoinHandle<()>,
}

/// Something that may take its time.
enum Job {
    Chat(chat::Effect, Beside),
    Complete(Start),
}

impl Desk {
    /// Starts the threads; what comes of the jobs goes to `tell`.
    ///
    /// # Errors
    /// Threads that cannot be started.
    pub fn start(kept: &Kept, tell: &Sender<Told>) -> io::Result<Self> {
        let counted = Arc::<AtomicU64>::default();
        let begin = |name: &str| {
            let (jobs, todo) = channel();
            let (kept, tell, counted) = (kept.clone(), tell.clone(), Arc::clone(&counted));
            let work = move || work(todo, &kept, &tell, &counted);
            let thread = std::thread::Builder::new().name(name.into()).spawn(work)?;
            io::Result::Ok((jobs, thread))
        };
        let (conversations, clerk) = begin("files")?;
        let (texts, _) = begin("texts")?;
        Ok(Self { conversations, texts, counted, clerk })
    }

    /// Has something done that the conversation wants; false if nobody is there any more.
    pub fn take(&self, effect: chat::Effect, beside: Beside) -> bool {
        let to = match &effect {
            chat::Effect::Count { number, .. } => {
                self.counted.store(*number, Ordering::Relaxed);
                &self.texts
            }
            chat::Effect::Attach { .. } => &self.texts,
            _ => &self.conversations,
        };
        to.send(Job::Chat(effect, beside)).is_ok()
    }

    /// Has names of files found; false if nobody is there any more.
    pub fn complete(&self, start: Start) -> bool {
        self.texts.send(Job::Complete(start)).map_err(|SendError(_)| ()).is_ok()
    }

    /// Waits until everything that is to be kept is kept; says so if that takes too long.
    pub fn close(self) {
        drop(self.conversations);
        let asked = Instant::now();
        while !self.clerk.is_finished() {
            if asked.elapsed() > LAST_WAIT {
                let text =
                    "The disk takes too long: the last changes of the conversation may not have been kept.";
                return Notes::detect().line(Tone::Warning, text);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn work(todo: Receiver<Job>, kept: &Kept, tell: &Sender<Told>, counted: &AtomicU64) {
    for job in todo {
        let event = match job {
            Job::Complete(asked) => Some(Event::Files { found: complete::files(asked.name()), asked }),
            Job::Chat(chat::Effect::Count { number, .. }, _) if number != counted.load(Ordering::Relaxed) => {
                Some(Event::Chat(chat::Event::Counted { number, tokens: None }))
            }
            Job::Chat(effect, beside) => files::perform(effect, kept, &beside).map(Event::Chat),
        };
        if let Some(event) = event {
            // After the end nobody wants to know.
            let _ = tell.send(Told::Event(event));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use moelten_engine::api::ExpertMap;

    use super::*;
    use crate::transcript::Transcript;

    #[test]
    fn what_is_to_be_kept_does_not_wait_for_what_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let conversation = folder.path().join("last.json");
        let text = folder.path().join("long.txt");
        std::fs::write(&text, "a long text").unwrap();
        // Counts as long as somebody holds the other end.
        let (hold, held) = channel::<()>();
        let held = Mutex::new(held);
        let beside = Beside {
            count: Arc::new(move |_| {
                let _ = held.lock().unwrap().recv();
                Ok(1)
            }),
            conversation: Arc::new(|_| None),
            experts: Arc::new(ExpertMap::default),
        };
        let (tell, told) = channel();
        let kept = Kept { history: None, conversation: Some(conversation.clone()) };
        let desk = Desk::start(&kept, &tell).unwrap();
        assert!(desk.take(chat::Effect::Attach { path: text }, beside.clone()));
        let last = Transcript::new("m", None, vec![]).to_json();
        assert!(desk.take(chat::Effect::Keep(last.clone()), beside));
        desk.close();
        assert_eq!(std::fs::read_to_string(&conversation).unwrap(), last);
        let kept = told.try_recv();
        let fine = chat::FileEvent::Kept(Ok(()));
        assert!(matches!(kept, Ok(Told::Event(Event::Chat(chat::Event::File(found)))) if found == fine));
        assert!(told.try_recv().is_err(), "it still counts");
        drop(hold);
        assert!(matches!(told.recv(), Ok(Told::Event(Event::Chat(chat::Event::File(_))))));
    }
}
