//! The thread on which the model computes, so that the screen never waits for it. It must not know what is on
//! the screen.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use moelten_engine::api::Event as EngineEvent;

use super::file_names::expand;
use super::message::WorkerMessage;
use crate::chat::{Backend, ChatEvent, Request};
use crate::screen::ScreenEvent;
use moelten_loader::supervise::supervised;

/// What the thread does next; jobs are done in order.
pub enum ModelJob {
    /// Compute an answer.
    Answer(Request),
    /// Switch to another model; `None` is the built-in one.
    Switch(Option<PathBuf>),
}

/// The thread.
pub struct ModelWorker {
    jobs: Sender<ModelJob>,
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
    ) -> io::Result<Self> {
        let (jobs, todo) = channel();
        let panicked = tell.clone();
        let on_panic = move |message| drop(panicked.send(WorkerMessage::Panicked(message)));
        let progress = tell.clone();
        backend.tell_progress(Box::new(move |words| {
            drop(progress.send(WorkerMessage::Event(ScreenEvent::Loading(words))));
        }));
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
        supervised("model", on_panic, work)?;
        Ok(Self { jobs })
    }

    /// Hands over a job. If the thread has panicked the job is lost; [`WorkerMessage::Panicked`] says so.
    pub fn begin(&self, job: ModelJob) {
        let _ = self.jobs.send(job);
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
    use moelten_loader::text::chat::{Message, Speaker};

    use super::*;
    use crate::chat::{Counters, Facts, Failure, NotSwitched, Switched, Tell, TokenCount, Tone};

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
                text: Arc::new(|text, _, _| Ok(TokenCount::Exactly(text.len()))),
                conversation: Arc::new(|messages, _, _| Some(TokenCount::Exactly(messages.len()))),
                experts: Arc::new(ExpertMap::default),
            }
        }
    }

    fn start() -> (ModelWorker, Receiver<WorkerMessage>) {
        let (tell, told) = channel();
        (ModelWorker::start(Box::new(Echo), tell, Instant::now()).unwrap(), told)
    }

    fn ask(text: &str) -> ModelJob {
        let messages = vec![Message::new(Speaker::User, text)];
        let params = GenerateParams::default();
        ModelJob::Answer(Request { messages, begun: String::new(), think: true, params })
    }

    fn next(told: &Receiver<WorkerMessage>) -> Option<ScreenEvent> {
        match told.recv_timeout(Duration::from_secs(10)).unwrap() {
            WorkerMessage::Event(event) => Some(event),
            WorkerMessage::Counters(_) => None,
            WorkerMessage::Panicked(message) => panic!("{message}"),
            WorkerMessage::Search(..) => unreachable!("nothing is searched"),
        }
    }

    #[test]
    fn events_arrive_in_order() {
        let (worker, told) = start();
        for job in [ask("whole"), ask("half"), ModelJob::Switch(None)] {
            worker.begin(job);
        }
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
        drop(worker);
        assert!(told.recv().is_err(), "the thread ends without a panic");
    }

    #[test]
    fn a_panic_is_reported() {
        let (worker, told) = start();
        worker.begin(ask("bug"));
        let message = told.recv_timeout(Duration::from_secs(10));
        let Ok(WorkerMessage::Panicked(message)) = message else { panic!("no report of the panic") };
        assert!(message.starts_with("model: ") && message.contains("as asked"), "{message}");
        worker.begin(ask("later"));
        assert!(told.recv_timeout(Duration::from_secs(10)).is_err(), "the channel closes");
    }
}
