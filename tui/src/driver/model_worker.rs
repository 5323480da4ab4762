//! The thread on which the model computes, so that the screen never waits for it. It must not know what is on
//! the screen.

use std::any::Any;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use moelten_engine::api::Event as EngineEvent;

use super::file_names::expand;
use super::message::WorkerMessage;
use crate::chat::{Backend, ChatEvent, Request};
use crate::screen::ScreenEvent;

/// A job for the model.
pub enum ModelJob {
    /// Compute an answer.
    Answer(Request),
    /// Switch to another model; `None` is the built-in one.
    Switch(Option<PathBuf>),
}

/// The thread.
pub struct ModelWorker {
    jobs: Sender<ModelJob>,
    thread: JoinHandle<()>,
}

impl ModelWorker {
    /// Starts the thread. Progress and results go to `tell`, with times since `started`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        mut backend: Box<dyn Backend + Send>,
        tell: Sender<WorkerMessage>,
        started: Instant,
    ) -> std::io::Result<Self> {
        let (jobs, todo) = channel();
        let work = move || {
            for job in todo {
                let event = match job {
                    ModelJob::Answer(request) => answer(&mut *backend, &request, &tell, started),
                    ModelJob::Switch(model) => {
                        let mut say = |tone, text| {
                            drop(tell.send(WorkerMessage::Event(ScreenEvent::Note(tone, text))));
                        };
                        let model = model.map(|path| expand(&path));
                        let switched = backend.switch(model.as_deref(), &mut say).map(Box::new);
                        let _ = tell.send(WorkerMessage::Counters(backend.counters()));
                        ChatEvent::Switched(switched)
                    }
                };
                // The channel closes when the chat has ended.
                if tell.send(WorkerMessage::Event(ScreenEvent::Chat(event))).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("model".into()).spawn(work)?;
        Ok(Self { jobs, thread })
    }

    /// Hands over a job; false if the thread has ended.
    pub fn begin(&self, job: ModelJob) -> bool {
        self.jobs.send(job).is_ok()
    }

    /// Whether the thread has ended, which happens before [`Self::end`] only by a panic.
    pub fn ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends the thread; its panic, if it panicked.
    pub fn end(self) -> Option<Box<dyn Any + Send>> {
        drop(self.jobs);
        self.thread.join().err()
    }
}

fn answer(
    backend: &mut dyn Backend,
    request: &Request,
    tell: &Sender<WorkerMessage>,
    started: Instant,
) -> ChatEvent {
    let mut shown = String::new();
    let result = backend.answer(request, &mut |event| {
        if let EngineEvent::Text(text) = &event {
            shown.push_str(text);
        }
        match tell.send(WorkerMessage::Event(ScreenEvent::Engine(event))) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    match result {
        Ok(answer) => ChatEvent::Answered(Box::new(answer), started.elapsed()),
        Err(failure) => ChatEvent::Failed { shown, failure },
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::{Duration, Instant};

    use moelten_engine::api::{Answer, ExpertMap, GenerateParams, GenerateStats, StopReason};
    use moelten_loader::text::chat::{Message, Role};

    use super::*;
    use crate::chat::{Counters, Facts, Failure, NotSwitched, Switched, Tell, Tone};

    /// Repeats the question; fails after "half", panics at "bug".
    struct Echo;

    impl Backend for Echo {
        fn answer(
            &mut self,
            request: &Request,
            on_event: &mut dyn FnMut(EngineEvent) -> ControlFlow<()>,
        ) -> Result<Answer, Failure> {
            let text = request.messages[0].content.clone();
            assert!(text != "bug", "as asked");
            let _ = on_event(EngineEvent::Text(text.clone()));
            if text == "half" {
                return Err(Failure::Other("broken".into()));
            }
            Ok(Answer { text, ids: vec![], reason: StopReason::EndOfTurn, stats: GenerateStats::default() })
        }

        fn switch(&mut self, _: Option<&Path>, tell: Tell<'_>) -> Result<Switched, NotSwitched> {
            tell(Tone::Dim, "opening".into());
            Ok(Switched { facts: Facts::default(), params: GenerateParams::default() })
        }

        fn counters(&self) -> Counters {
            Counters {
                text: Arc::new(|text| Ok(text.len())),
                conversation: Arc::new(|messages| Some(messages.len())),
                experts: Arc::new(ExpertMap::default),
            }
        }
    }

    fn start() -> (ModelWorker, Receiver<WorkerMessage>) {
        let (tell, told) = channel();
        (ModelWorker::start(Box::new(Echo), tell, Instant::now()).unwrap(), told)
    }

    fn ask(text: &str) -> ModelJob {
        let messages = vec![Message::new(Role::User, text)];
        let params = GenerateParams::default();
        ModelJob::Answer(Request { messages, begun: String::new(), think: true, params })
    }

    fn next(told: &Receiver<WorkerMessage>) -> Option<ScreenEvent> {
        match told.recv_timeout(Duration::from_secs(10)).unwrap() {
            WorkerMessage::Event(event) => Some(event),
            WorkerMessage::Counters(_) | WorkerMessage::Search(..) => None,
        }
    }

    #[test]
    fn events_arrive_in_order() {
        let (worker, told) = start();
        assert!(
            worker.begin(ask("whole")) && worker.begin(ask("half")) && worker.begin(ModelJob::Switch(None))
        );
        assert_eq!(next(&told), Some(ScreenEvent::Engine(EngineEvent::Text("whole".into()))));
        assert!(matches!(next(&told), Some(ScreenEvent::Chat(ChatEvent::Answered(..)))));
        next(&told);
        let failure = Failure::Other("broken".into());
        assert_eq!(
            next(&told),
            Some(ScreenEvent::Chat(ChatEvent::Failed { shown: "half".into(), failure })),
            "the shown text is part of the failure"
        );
        assert_eq!(next(&told), Some(ScreenEvent::Note(Tone::Dim, "opening".into())));
        assert_eq!(next(&told), None, "the new counters come before the event");
        assert!(matches!(next(&told), Some(ScreenEvent::Chat(ChatEvent::Switched(Ok(_))))));
        assert!(!worker.ended() && worker.end().is_none());
    }

    #[test]
    fn a_panic_is_handed_on() {
        let (worker, told) = start();
        worker.begin(ask("bug"));
        assert!(told.recv_timeout(Duration::from_secs(10)).is_err(), "the channel closes");
        let started = Instant::now();
        while !worker.ended() {
            assert!(started.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(worker.end().unwrap().downcast_ref::<&str>().is_some_and(|text| text.contains("as asked")));
    }
}
