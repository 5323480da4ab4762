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
