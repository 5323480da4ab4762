//! The full screen: waits for keys and for the worker threads, hands events to the state machine, carries out
//! its effects, and draws at most sixty times a second, only when something has changed. It must not decide
//! anything.

use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossterm::event::{Event as TerminalEvent, KeyCode, KeyEvent, KeyModifiers, MouseEventKind};

use super::ansi;
use super::clipboard;
use super::editor::{self, Edited, JobControl};
use super::file_jobs::StatePaths;
use super::file_worker::FileWorker;
use super::full_screen::{Display, FullScreen};
use super::history_file::HistoryFile;
use super::message::WorkerMessage;
use super::model_worker::{ModelJob, ModelWorker};
use super::notes::{Notes, stdout_styled};
use super::pacing::Pacing;
use super::signal::SignalRequest;
use super::terminal::{self, KeyWait};
use crate::chat::{Backend, ChatEffect, ChatEvent, Counters, FileEvent, Tone};
use crate::screen::{ModelSearch, Screen, ScreenEffect, ScreenEvent, SearchStep, Urgency};
use moelten_loader::supervise::supervised;

/// Longest wait for a key while the model or a file worker computes: what they send is taken after it.
const BUSY: Duration = Duration::from_millis(33);
/// Longest wait for a key, while nothing moves; signals are checked after it.
const IDLE: Duration = Duration::from_millis(100);
/// Time between two ticks of the screen.
const TICK: Duration = Duration::from_millis(250);
/// Time between two snapshots of the experts, for the status line.
const SNAPSHOT: Duration = Duration::from_millis(1000);
/// Time between two snapshots while the expert view is open.
const SNAPSHOT_OPEN: Duration = Duration::from_millis(200);
/// Largest text for the clipboard, in bytes: terminals ignore larger ones.
const COPY_BYTES_MAX: usize = 1 << 20;
/// Keys that arrive in this time after the start may have been pressed before it.
const EARLY: Duration = Duration::from_millis(100);
/// What Enter is before raw mode is on.
const LINE_FEED: KeyEvent = KeyEvent::new(KeyCode::Char('j'), KeyModifiers::CONTROL);

/// What the driver needs of the program around it.
pub struct Controls {
    /// Asks the model to stop.
    pub stop: fn(),
    /// The request of the last signal since the last call.
    pub requested: fn() -> Option<SignalRequest>,
    /// Searches this machine for models.
    pub search: ModelSearch,
    /// Suspends this process until it is continued; a message if that is not possible here.
    pub suspend: fn() -> Result<(), &'static str>,
}

/// Why the full screen has failed.
#[derive(Debug, thiserror::Error)]
pub enum ScreenError {
    /// The terminal or a thread cannot be used, or writing to the terminal failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A worker thread has panicked: its name and the message of the panic.
    #[error("the chat was ended by an internal error in thread {0}")]
    Panicked(String),
}

/// Everything that a running full screen holds.
struct Driver<D> {
    screen: Screen,
    display: D,
    model: ModelWorker,
    files: FileWorker,
    messages: Receiver<WorkerMessage>,
    tell: Sender<WorkerMessage>,
    counters: Counters,
    history: Option<HistoryFile>,
    controls: Controls,
    started: Instant,
    /// The current search for models; results of earlier ones are ignored.
    search: Arc<()>,
    /// File jobs whose results have not arrived yet.
    pending: usize,
    /// Whether the terminal may show something else than the last frame.
    stale: bool,
    running: bool,
    /// The message of a worker thread that has panicked.
    panicked: Option<String>,
}

/// Runs a chat on the full screen until the user quits; `first` is done before anything else.
///
/// # Errors
/// See [`ScreenError`]. The terminal is given back and the conversation is printed before it returns.
pub fn run(
    screen: Screen,
    backend: Box<dyn Backend + Send>,
    state: StatePaths,
    history: Option<HistoryFile>,
    controls: Controls,
    first: Vec<ScreenEffect>,
) -> Result<(), ScreenError> {
    let mut driver = Driver::start(screen, backend, &state, history, controls, FullScreen::take)?;
    let result = driver.serve(first);
    let Driver { mut screen, display, files, messages, panicked, .. } = driver;
    drop(display);
    print_conversation(&mut screen);
    let (warnings, late) = close(files, &messages);
    if let Some(kept) = state.conversations.filter(|_| warnings.is_empty()) {
        kept.begin_new();
    }
    warnings.iter().for_each(|warning| Notes::detect().line(Tone::Warning, warning));
    match panicked.or(late) {
        Some(message) => Err(ScreenError::Panicked(message)),
        None => Ok(result?),
    }
}

/// Waits for the files that are being written. Returns warnings about what was not saved, and the message of
/// a worker thread that has panicked.
fn close(files: FileWorker, messages: &Receiver<WorkerMessage>) -> (Vec<String>, Option<String>) {
    let mut warnings: Vec<_> = files.close().into_iter().map(str::to_owned).collect();
    let mut panicked = None;
    for message in messages.try_iter() {
        match message {
            WorkerMessage::Panicked(message) => panicked = panicked.or(Some(message)),
            WorkerMessage::Event(ScreenEvent::Chat(ChatEvent::File(event))) => match event {
                FileEvent::Kept(Err(problem)) => {
                    warnings.push(format!("The conversation was not saved for --continue: {problem}"));
                }
                FileEvent::Written { path, result: Err(problem), .. } => {
                    warnings.push(format!("{} was not saved: {problem}", path.display()));
                }
                _ => {}
            },
            _ => {}
        }
    }
    (warnings, panicked)
}

impl<D: Display> Driver<D> {
    fn start(
        screen: Screen,
        backend: Box<dyn Backend + Send>,
        state: &StatePaths,
        history: Option<HistoryFile>,
        controls: Controls,
        take_display: impl FnOnce() -> io::Result<D>,
    ) -> io::Result<Self> {
        let started = Instant::now();
        let (tell, messages) = channel();
        let counters = backend.counters();
        let files = FileWorker::start(state, &tell)?;
        let model = ModelWorker::start(backend, tell.clone(), started)?;
        let display = take_display()?;
        Ok(Self {
            screen,
            display,
            model,
            files,
            messages,
            tell,
            counters,
            history,
            controls,
            started,
            search: Arc::default(),
            pending: 0,
            stale: true,
            running: true,
            panicked: None,
        })
    }

    /// Runs until the user quits, or a worker thread panics.
    fn serve(&mut self, first: Vec<ScreenEffect>) -> io::Result<()> {
        self.carry_out(first)?;
        let mut pacing = Pacing::default();
        let mut changed = None;
        let (mut ticked, mut snapshot) = (Instant::now(), None::<Instant>);
        while self.running {
            let stale = std::mem::take(&mut self.stale).then_some(Urgency::Now);
            changed = changed.max(self.screen.take_changed()).max(stale);
            let now = Instant::now();
            if changed.is_some_and(|urgency| pacing.due_in(urgency, now).is_zero()) {
                let laid_out = pacing.lays_out(now);
                self.screen.hold_text(!laid_out);
                self.display.draw(&mut self.screen)?;
                pacing.drew(now, Instant::now(), laid_out);
                changed = Some(Urgency::Soon).filter(|_| !laid_out && self.screen.is_answering());
            }
            let wait = match changed {
                Some(urgency) => pacing.due_in(urgency, Instant::now()),
                None if self.screen.moves() || self.pending > 0 => BUSY,
                None => IDLE,
            };
            self.listen(wait)?;
            if self.screen.moves() && ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.handle(ScreenEvent::Tick)?;
            }
            let every = if self.screen.watches_experts() { SNAPSHOT_OPEN } else { SNAPSHOT };
            if snapshot.is_none_or(|snapshot| snapshot.elapsed() >= every) {
                snapshot = Some(Instant::now());
                let map = (self.counters.experts)();
                self.handle(ScreenEvent::Experts(Box::new(map)))?;
            }
            // The model may not have begun when it is first asked to stop, so this repeats until it has
            // stopped.
            if self.screen.stopping() {
                (self.controls.stop)();
            }
        }
        Ok(())
    }

    /// Waits for a key, at most for `wait`, and handles everything that has arrived.
    fn listen(&mut self, wait: Duration) -> io::Result<()> {
        let waited = self.display.wait(wait)?;
        if waited == KeyWait::Closed {
            // Without this, polling a closed terminal would never end.
            return self.handle(ScreenEvent::End);
        }
        while waited == KeyWait::Ready && self.running {
            let Some(event) = self.display.next_event()? else { break };
            if let Some(event) = terminal_event(event, self.started.elapsed() < EARLY) {
                self.handle(event)?;
            }
        }
        while self.running {
            match self.messages.try_recv() {
                Ok(WorkerMessage::Event(event)) => self.handle(event)?,
                Ok(WorkerMessage::Search(search, step)) if search.strong_count() > 0 => {
                    self.handle(ScreenEvent::Search(step))?;
                }
                Ok(WorkerMessage::Search(..)) => {}
                Ok(WorkerMessage::Counters(counters)) => self.counters = counters,
                Ok(WorkerMessage::Panicked(message)) => {
                    // The thread answers nothing any more, so nothing may wait for it. What there is of an
                    // answer is kept.
                    self.panicked.get_or_insert(message);
                    self.handle(ScreenEvent::End)?;
                }
                Err(_) => break,
            }
        }
        match (self.controls.requested)() {
            Some(SignalRequest::Interrupt) => self.handle(ScreenEvent::Interrupt)?,
            Some(SignalRequest::End) => self.handle(ScreenEvent::End)?,
            Some(SignalRequest::Suspend) => self.suspend()?,
            Some(SignalRequest::Resume) => {
                self.display.take_again()?;
                self.stale = true;
            }
            None => {}
        }
        Ok(())
    }

    fn handle(&mut self, event: ScreenEvent) -> io::Result<()> {
        let file = matches!(event, ScreenEvent::Chat(ChatEvent::File(_) | ChatEvent::Counted { .. }));
        if file || matches!(event, ScreenEvent::Files { .. }) {
            self.pending = self.pending.saturating_sub(1);
        }
        let effects = self.screen.handle(event, self.started.elapsed());
        self.carry_out(effects)
    }

    fn carry_out(&mut self, effects: Vec<ScreenEffect>) -> io::Result<()> {
        for effect in effects {
            match effect {
                ScreenEffect::Chat(effect) => self.chat_effect(effect)?,
                ScreenEffect::Complete(request) => {
                    self.pending += 1;
                    self.files.complete(request);
                }
                ScreenEffect::StartSearch => self.start_search()?,
                ScreenEffect::StopSearch => self.search = Arc::default(),
                ScreenEffect::Stop => (self.controls.stop)(),
                ScreenEffect::Remember(text) => self.remember(&text)?,
                ScreenEffect::Editor(text) => self.edit(&text)?,
                ScreenEffect::Mouse(on) => terminal::set_mouse(on)?,
                ScreenEffect::Suspend => self.suspend()?,
                ScreenEffect::Redraw => {
                    self.display.redraw()?;
                    self.stale = true;
                }
                ScreenEffect::Quit => self.running = false,
            }
        }
        Ok(())
    }

    fn chat_effect(&mut self, effect: ChatEffect) -> io::Result<()> {
        match effect {
            ChatEffect::Answer(request) => self.model.begin(ModelJob::Answer(request)),
            ChatEffect::Switch(model) => self.model.begin(ModelJob::Switch(model)),
            ChatEffect::Copy(text) => self.copy(&text)?,
            file => {
                // Nothing follows a change of the file.
                self.pending += usize::from(file != ChatEffect::NewFile);
                self.files.perform(file, self.counters.clone());
            }
        }
        Ok(())
    }

    /// Searches for models on a thread of its own, until the search is replaced.
    fn start_search(&mut self) -> io::Result<()> {
        self.search = Arc::new(());
        let current = Arc::downgrade(&self.search);
        let (search, tell) = (Arc::clone(&self.controls.search), self.tell.clone());
        let (failed, of) = (self.tell.clone(), Weak::clone(&current));
        let on_panic = move |message| {
            let problem =
                SearchStep::Problem(format!("The search ended with an internal error in thread {message}"));
            for step in [problem, SearchStep::Done] {
                let _ = failed.send(WorkerMessage::Search(Weak::clone(&of), step));
            }
        };
        let work = move || {
            search(&mut |step| match tell.send(WorkerMessage::Search(Weak::clone(&current), step)) {
                Ok(()) if current.strong_count() > 0 => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            });
        };
        supervised("models", on_panic, work).map(drop)
    }

    fn edit(&mut self, text: &str) -> io::Result<()> {
        let Controls { requested, suspend, .. } = self.controls;
        let edited = self.display.lend(|| editor::edit(text, JobControl { requested, suspend }))?;
        self.stale = true;
        self.handle(match edited {
            Edited::Text(text) => ScreenEvent::Edited(text),
            Edited::End => ScreenEvent::End,
        })
    }

    fn suspend(&mut self) -> io::Result<()> {
        self.stale = true;
        match self.display.lend(self.controls.suspend)? {
            Ok(()) => Ok(()),
            Err(problem) => self.handle(ScreenEvent::Note(Tone::Error, problem.to_owned())),
        }
    }

    fn copy(&mut self, text: &str) -> io::Result<()> {
        let (tone, message) = if text.len() > COPY_BYTES_MAX {
            (Tone::Error, "The text is too long for a terminal's clipboard. /export writes a file.")
        } else {
            terminal::while_taken(|| clipboard::copy(io::stdout(), text))?;
            (Tone::Dim, clipboard::COPIED)
        };
        self.handle(ScreenEvent::Note(tone, message.to_owned()))
    }

    fn remember(&mut self, text: &str) -> io::Result<()> {
        let Some(history) = &mut self.history else { return Ok(()) };
        if let Err(error) = history.add(text) {
            self.history = None;
            let text = format!("The history is not saved: {error}");
            self.handle(ScreenEvent::Note(Tone::Warning, text))?;
        }
        Ok(())
    }
}

/// An event of the terminal as an event of the screen. `early` if it may have happened before raw mode was
/// on: then the terminal has turned Enter into a line feed.
fn terminal_event(event: TerminalEvent, early: bool) -> Option<ScreenEvent> {
    match event {
        TerminalEvent::Key(key) if early && key == LINE_FEED => Some(ScreenEvent::Key(KeyCode::Enter.into())),
        TerminalEvent::Key(key) => Some(ScreenEvent::Key(key)),
        TerminalEvent::Paste(text) => Some(ScreenEvent::Paste(text)),
        TerminalEvent::Resize(..) => Some(ScreenEvent::Resized),
        TerminalEvent::Mouse(mouse) => match mouse.kind {
            MouseEventKind::ScrollUp => Some(ScreenEvent::Wheel(-1)),
            MouseEventKind::ScrollDown => Some(ScreenEvent::Wheel(1)),
            _ => None,
        },
        TerminalEvent::FocusGained | TerminalEvent::FocusLost => None,
    }
}

/// Prints the conversation to the ordinary screen, where it stays.
fn print_conversation(screen: &mut Screen) {
    use std::io::Write;
    let styled = stdout_styled();
    let columns = u16::try_from(Notes::detect().columns()).unwrap_or(u16::MAX);
    let mut out = io::stdout().lock();
    for line in screen.farewell(columns, styled) {
        // The terminal may be closed.
        if writeln!(out, "{}", ansi::line(&line, styled)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
