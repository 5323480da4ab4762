//! The thread on which the model computes, so that the screen never waits for it.

use std::any::Any;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Weak;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use moelten_engine::api::Event as EngineEvent;

use crate::backend::{Backend, Beside, Found, Request};
use crate::chat;
use crate::files;
use crate::screen::Event;

/// Something to compute.
pub enum Job {
    /// An answer.
    Answer(Request),
    /// Another model.
    Switch(Option<PathBuf>),
}

/// What a worker tells.
pub enum Told {
    /// For the screen.
    Event(Event),
    /// Of a search for models, as long as somebody holds it.
    Found(Weak<()>, Found),
    /// The model is another now: this is what can be asked about it.
    Beside(Beside),
}

/// The thread.
pub struct Worker {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts it. What happens goes to `tell`, with times since `started`.
    ///
    /// # Errors
    /// A thread that cannot be started.
    pub fn start(
        mut backend: Box<dyn Backend + Send>,
        tell: Sender<Told>,
        started: Instant,
    ) -> std::io::Result<Self> {
        let (jobs, todo) = channel();
        let work = move || {
            for job in todo {
                let event = match job {
                    Job::Answer(request) => answer(&mut *backend, &request, &tell, started),
                    Job::Switch(model) => {
                        let mut say = |tone, text| drop(tell.send(Told::Event(Event::Note(tone, text))));
                        let model = model.map(|path| files::expand(&path));
                        let switched = backend.switch(model.as_deref(), &mut say).map(Box::new);
                        let _ = tell.send(Told::Beside(backend.beside()));
                        chat::Event::Switched(switched)
                    }
                };
                // Nobody listens any more: the screen is gone.
                if tell.send(Told::Event(Event::Chat(event))).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("model".into()).spawn(work)?;
        Ok(Self { jobs, thread })
    }

    /// Has something computed; false if the thread has come to a bad end.
    pub fn begin(&self, job: Job) -> bool {
        self.jobs.send(job).is_ok()
    }

    /// Whether it has ended, which it does by itself only when something is wrong.
    pub fn ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// What it panicked with, once it has ended.
    pub fn end(self) -> Option<Box<dyn Any + Send>> {
        drop(self.jobs);
        self.thread.join().err()
    }
}

fn answer(
    backend: &mut dyn Backend,
    request: &Request,
    tell: &Sender<Told>,
    started: Instant,
) -> chat::Event {
    let mut shown = String::new();
    let result = backend.answer(request, &mut |event| {
        if let EngineEvent::Text(text) = &event {
            shown.push_str(text);
        }
        match tell.send(Told::Event(Event::Engine(event))) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    match result {
        Ok(answer) => chat::Event::Answered(Box::new(answer), started.elapsed()),
        Err(failure) => chat::Event::Failed { shown, failure },
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
    use crate::backend::{Failure, NotSwitched, Switched, Tell};
    use crate::chat::Facts;
    use crate::terminal::Tone;

    /// Says the question back, breaks off in the middle of "half", panics at "bug".
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

        fn beside(&self) -> Beside {
            Beside {
                count: Arc::new(|text| Ok(text.len())),
                conversation: Arc::new(|messages| Some(messages.len())),
                experts: Arc::new(ExpertMap::default),
            }
        }
    }

    fn start() -> (Worker, Receiver<Told>) {
        let (tell, told) = channel();
        (Worker::start(Box::new(Echo), tell, Instant::now()).unwrap(), told)
    }

    fn ask(text: &str) -> Job {
        let messages = vec![Message::new(Role::User, text)];
        let params = GenerateParams::default();
        Job::Answer(Request { messages, begun: String::new(), think: true, params })
    }

    fn next(told: &Receiver<Told>) -> Option<Event> {
        match told.recv_timeout(Duration::from_secs(10)).unwrap() {
            Told::Event(event) => Some(event),
            Told::Beside(_) | Told::Found(..) => None,
        }
    }

    #[test]
    fn what_happens_is_told_in_its_order() {
        let (worker, told) = start();
        assert!(worker.begin(ask("whole")) && worker.begin(ask("half")) && worker.begin(Job::Switch(None)));
        assert_eq!(next(&told), Some(Event::Engine(EngineEvent::Text("whole".into()))));
        assert!(matches!(next(&told), Some(Event::Chat(chat::Event::Answered(..)))));
        next(&told);
        let failure = Failure::Other("broken".into());
        assert_eq!(
            next(&told),
            Some(Event::Chat(chat::Event::Failed { shown: "half".into(), failure })),
            "what was shown is not lost"
        );
        assert_eq!(next(&told), Some(Event::Note(Tone::Dim, "opening".into())));
        assert_eq!(next(&told), None, "the other model's tools come before the news");
        assert!(matches!(next(&told), Some(Event::Chat(chat::Event::Switched(Ok(_))))));
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
