//! Two threads for file work, so that a slow disk does not stop the screen: one reads and writes
//! conversations, the other reads texts, counts tokens and completes names, so that saving never waits for
//! counting. It must not decide anything.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use moelten_engine::runtime::cancel::Cancel;

use super::file_jobs::{self, StatePaths};
use super::file_names;
use super::message::WorkerMessage;
use crate::chat::{ChatEffect, ChatEvent, Counters};
use crate::screen::{CompletionRequest, ScreenEvent};
use moelten_loader::supervise::supervised;

/// How long the end of the program waits for files that are being written.
pub const SAVE_WAIT_MAX: Duration = Duration::from_secs(1);

/// The two threads.
pub struct FileWorker {
    /// Jobs of the thread that reads and writes conversations, in order.
    conversations: Sender<FileJob>,
    /// Jobs of the thread that reads texts, counts and completes.
    texts: Sender<FileJob>,
    /// The last count that was requested; earlier ones are skipped.
    counted: Arc<AtomicU64>,
    /// Whether counting is to stop, because the chat has ended.
    stop: Cancel,
    /// The thread that writes conversations. Its result is `None` after a panic.
    writer: JoinHandle<Option<()>>,
}

/// A job of a file thread.
enum FileJob {
    Chat(ChatEffect, Counters),
    Complete(CompletionRequest),
}

impl FileWorker {
    /// Starts the threads. The results of jobs go to `tell`.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(state: &StatePaths, tell: &Sender<WorkerMessage>) -> io::Result<Self> {
        let (counted, stop) = (Arc::<AtomicU64>::default(), Cancel::new());
        let begin = |name: &str| {
            let (jobs, todo) = channel();
            let (state, tell) = (state.clone(), tell.clone());
            let (counted, stop) = (Arc::clone(&counted), stop.clone());
            let panicked = tell.clone();
            let work = move || work(todo, &state, &tell, &counted, &stop);
            let on_panic = move |message| drop(panicked.send(WorkerMessage::Panicked(message)));
            io::Result::Ok((jobs, supervised(name, on_panic, work)?))
        };
        let (conversations, writer) = begin("files")?;
        let (texts, _) = begin("texts")?;
        Ok(Self { conversations, texts, counted, stop, writer })
    }

    /// Hands over an effect of the conversation. If the thread has panicked the job is lost;
    /// [`WorkerMessage::Panicked`] says so.
    pub fn perform(&self, effect: ChatEffect, counters: Counters) {
        let to = match &effect {
            ChatEffect::Count { number, .. } => {
                self.counted.store(*number, Ordering::Relaxed);
                &self.texts
            }
            ChatEffect::Attach { .. } => &self.texts,
            _ => &self.conversations,
        };
        let _ = to.send(FileJob::Chat(effect, counters));
    }

    /// Requests file names; as for [`Self::perform`].
    pub fn complete(&self, request: CompletionRequest) {
        let _ = self.texts.send(FileJob::Complete(request));
    }

    /// Waits until all conversations are written, at most for [`SAVE_WAIT_MAX`]. A warning if the last
    /// changes may be lost.
    pub fn close(self) -> Option<&'static str> {
        self.stop.cancel();
        drop(self.conversations);
        let asked = Instant::now();
        while !self.writer.is_finished() {
            if asked.elapsed() > SAVE_WAIT_MAX {
                return Some(
                    "The disk is too slow: the last changes of the conversation may not have been saved.",
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        match self.writer.join() {
            Ok(Some(())) => None,
            Ok(None) | Err(_) => Some("The last changes of the conversation may not have been saved."),
        }
    }
}

fn work(
    todo: Receiver<FileJob>,
    state: &StatePaths,
    tell: &Sender<WorkerMessage>,
    counted: &AtomicU64,
    stop: &Cancel,
) {
    for job in todo {
        let event = match job {
            FileJob::Complete(request) => {
                Some(ScreenEvent::Files { found: file_names::matching(&request.name()), request })
            }
            FileJob::Chat(ChatEffect::Count { number, .. }, _)
                if number != counted.load(Ordering::Relaxed) =>
            {
                Some(ScreenEvent::Chat(ChatEvent::Counted { number, tokens: None }))
            }
            FileJob::Chat(effect, counters) => {
                file_jobs::perform(effect, state, &counters, stop).map(ScreenEvent::Chat)
            }
        };
        if let Some(event) = event {
            // The channel closes when the chat has ended.
            let _ = tell.send(WorkerMessage::Event(event));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use moelten_engine::api::ExpertMap;

    use super::*;
    use crate::chat::transcript::Transcript;
    use crate::chat::{FileEvent, TokenCount};
    use crate::driver::Conversations;

    #[test]
    fn saving_does_not_wait_for_counting() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Arc::new(Conversations::below(folder.path()));
        let text = folder.path().join("long.txt");
        std::fs::write(&text, "a long text").unwrap();
        // Counting takes as long as `hold` lives.
        let (hold, held) = channel::<()>();
        let held = Mutex::new(held);
        let counters = Counters {
            text: Arc::new(move |_, _, _| {
                let _ = held.lock().unwrap().recv();
                Ok(TokenCount::Exactly(1))
            }),
            conversation: Arc::new(|_, _, _| None),
            experts: Arc::new(ExpertMap::default),
        };
        let (tell, told) = channel();
        let state = StatePaths { history: None, conversations: Some(Arc::clone(&kept)) };
        let worker = FileWorker::start(&state, &tell).unwrap();
        worker.perform(ChatEffect::Attach { path: text, limit: 9, mention: false }, counters.clone());
        let last = Transcript::new("m", None, vec![]).to_json();
        worker.perform(ChatEffect::Keep(last.clone()), counters);
        assert_eq!(worker.close(), None);
        assert_eq!(kept.list().len(), 1);
        let kept = told.try_recv();
        let saved = ScreenEvent::Chat(ChatEvent::File(FileEvent::Kept(Ok(()))));
        assert!(matches!(kept, Ok(WorkerMessage::Event(event)) if event == saved));
        assert!(told.try_recv().is_err(), "it still counts");
        drop(hold);
        let attached = told.recv();
        assert!(matches!(attached, Ok(WorkerMessage::Event(ScreenEvent::Chat(ChatEvent::File(_))))));
    }
    #[test]
    fn a_panic_of_either_thread_is_reported() {
        let counters = Counters {
            text: Arc::new(|_, _, _| panic!("no tokenizer")),
            conversation: Arc::new(|_, _, _| panic!("no template")),
            experts: Arc::new(ExpertMap::default),
        };
        let (tell, told) = channel();
        let worker = FileWorker::start(&StatePaths::default(), &tell).unwrap();
        worker.perform(ChatEffect::Count { number: 1, messages: Vec::new(), limit: 9 }, counters.clone());
        let Ok(WorkerMessage::Panicked(message)) = told.recv() else { panic!("no report of the panic") };
        assert_eq!(message, "texts: no template");
        worker.perform(ChatEffect::Count { number: 2, messages: Vec::new(), limit: 9 }, counters);
        assert_eq!(worker.close(), None, "the other thread is well");
    }
}
