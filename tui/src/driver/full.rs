//! The full screen: waits for keys and for the model, lets the state machine decide, carries out what it wants, draws at
//! most thirty times a second and only what has changed.

use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossterm::clipboard::CopyToClipboard;
use crossterm::event::{self, Event as TerminalEvent, KeyCode, KeyEvent, KeyModifiers};

use super::desk::Desk;
use super::editor::{self, Edited, Meanwhile};
use super::terminal::FullScreen;
use super::worker::{Job, Told, Worker};
use crate::backend::{Backend, Beside, Finder};
use crate::chat;
use crate::files::{Kept, KeptHistory};
use crate::screen::{Change, Effect, Event, Screen};
use crate::terminal::{self, Notes, Tone, Waited};

/// Time between two drawings when the person did something.
const FRAME: Duration = Duration::from_millis(33);
/// The same when the model did: all cores compute, and eyes read slowly.
const FRAME_SOON: Duration = Duration::from_millis(66);
/// How long to wait for a key before looking at signals, while nothing moves.
const IDLE: Duration = Duration::from_millis(100);
/// Time between two steps of what moves by itself.
const TICK: Duration = Duration::from_millis(250);
/// Time between two pictures of the experts, for the figures below the conversation.
const PICTURE: Duration = Duration::from_millis(1000);
/// The same while they are watched.
const PICTURE_OPEN: Duration = Duration::from_millis(200);
/// Largest text for the clipboard, in bytes: terminals ignore longer ones.
const COPY_BYTES_MAX: usize = 1 << 20;
/// How long to wait for what is here already: with no time at all nothing is looked for.
const AT_ONCE: Duration = Duration::from_millis(1);
/// After this time keys are those that were pressed on the screen.
const EARLY: Duration = Duration::from_millis(100);
const LINE_FEED: KeyEvent = KeyEvent::new(KeyCode::Char('j'), KeyModifiers::CONTROL);

/// What somebody outside wants of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Ctrl-C.
    Interrupt,
    /// To be stopped for a while.
    Suspend,
    /// To go on, perhaps after somebody else had the terminal.
    Resume,
    /// To end.
    End,
}

/// What the driver needs of the program around it.
pub struct Controls {
    /// Asks the model to stop.
    pub stop: fn(),
    /// What somebody asked for since the last call.
    pub asked: fn() -> Option<Asked>,
    /// Looks for models.
    pub finder: Finder,
    /// Stops this process until it is continued; an explanation if that makes no sense here.
    pub suspend: fn() -> Result<(), &'static str>,
}

struct Driver {
    screen: Screen,
    terminal: FullScreen,
    worker: Worker,
    desk: Desk,
    told: Receiver<Told>,
    tell: Sender<Told>,
    beside: Beside,
    history: Option<KeptHistory>,
    controls: Controls,
    started: Instant,
    /// The search for models whose finds are wanted.
    wanted: Arc<()>,
    /// Jobs at the desk that have not come back.
    pending: usize,
    /// Whether the terminal shows something else by now.
    stale: bool,
    /// Whether to go on.
    goes_on: bool,
}

/// Runs a chat on the full screen until someone leaves; `first` is done before anything else.
///
/// # Errors
/// A terminal or threads that cannot be used, write errors of the terminal.
///
/// # Panics
/// With what the model's thread panicked with.
pub fn run(
    screen: Screen,
    backend: Box<dyn Backend + Send>,
    kept: Kept,
    history: Option<KeptHistory>,
    controls: Controls,
    first: Vec<Effect>,
) -> io::Result<()> {
    let started = Instant::now();
    let (tell, told) = channel();
    let beside = backend.beside();
    let desk = Desk::start(&kept, &tell)?;
    let worker = Worker::start(backend, tell.clone(), started)?;
    let terminal = FullScreen::take()?;
    let mut driver = Driver {
        screen,
        terminal,
        worker,
        desk,
        told,
        tell,
        beside,
        history,
        controls,
        started,
        wanted: Arc::default(),
        pending: 0,
        stale: true,
        goes_on: true,
    };
    let result = driver.carry_out(first).and_then(|()| driver.serve());
    let Driver { screen, terminal, worker, desk, .. } = driver;
    drop(terminal);
    say_farewell(&screen);
    desk.close();
    if worker.ended()
        && let Some(panic) = worker.end()
    {
        std::panic::resume_unwind(panic);
    }
    result
}

impl Driver {
    fn serve(&mut self) -> io::Result<()> {
        let mut drawn: Option<Instant> = None;
        let mut changed = None;
        let (mut ticked, mut looked) = (Instant::now(), None::<Instant>);
        while self.goes_on {
            let stale = std::mem::take(&mut self.stale).then_some(Change::Now);
            changed = changed.max(self.screen.take_changed()).max(stale);
            let frame = if changed == Some(Change::Soon) { FRAME_SOON } else { FRAME };
            let since = drawn.map_or(frame, |drawn| drawn.elapsed());
            if changed.is_some() && since >= frame {
                self.terminal.draw(&mut self.screen)?;
                drawn = Some(Instant::now());
                changed = None;
            }
            let wait = match drawn {
                Some(drawn) if changed.is_some() => frame.saturating_sub(drawn.elapsed()),
                _ if self.screen.moves() || self.pending > 0 => FRAME,
                _ => IDLE,
            };
            self.listen(wait)?;
            if self.screen.moves() && ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.happened(Event::Tick)?;
            }
            let every = if self.screen.watches_experts() { PICTURE_OPEN } else { PICTURE };
            if looked.is_none_or(|looked| looked.elapsed() >= every) {
                looked = Some(Instant::now());
                let map = (self.beside.experts)();
                self.happened(Event::Experts(Box::new(map)))?;
            }
            // A request to stop may come before the model has begun: it is repeated until the answer has ended.
            if self.screen.stopping() {
                (self.controls.stop)();
            }
        }
        Ok(())
    }

    /// Waits for a key, at most so long, and takes everything that has come.
    fn listen(&mut self, wait: Duration) -> io::Result<()> {
        let waited = terminal::wait_for_input(wait)?;
        if waited == Waited::Gone {
            // Nobody is there any more; asking for keys would never end.
            return self.happened(Event::End);
        }
        let mut here = waited == Waited::Ours && event::poll(AT_ONCE)?;
        while here && self.goes_on {
            if let Some(event) = terminal_event(event::read()?, self.started.elapsed() < EARLY) {
                self.happened(event)?;
            }
            here = event::poll(AT_ONCE)?;
        }
        while self.goes_on {
            match self.told.try_recv() {
                Ok(Told::Event(event)) => self.happened(event)?,
                Ok(Told::Found(search, found)) if search.strong_count() > 0 => {
                    self.happened(Event::Found(found))?;
                }
                Ok(Told::Found(..)) => {}
                Ok(Told::Beside(beside)) => self.beside = beside,
                Err(_) => break,
            }
        }
        match (self.controls.asked)() {
            Some(Asked::Interrupt) => self.happened(Event::Interrupt)?,
            Some(Asked::End) => self.happened(Event::End)?,
            Some(Asked::Suspend) => self.suspend()?,
            Some(Asked::Resume) => {
                self.terminal.take_again()?;
                self.stale = true;
            }
            None => {}
        }
        if self.worker.ended() {
            self.goes_on = false;
        }
        Ok(())
    }

    fn happened(&mut self, event: Event) -> io::Result<()> {
        if matches!(
            event,
            Event::Chat(chat::Event::File(_) | chat::Event::Counted { .. }) | Event::Files { .. }
        ) {
            self.pending = self.pending.saturating_sub(1);
        }
        let effects = self.screen.handle(event, self.started.elapsed());
        self.carry_out(effects)
    }

    fn carry_out(&mut self, effects: Vec<Effect>) -> io::Result<()> {
        for effect in effects {
            match effect {
                Effect::Chat(chat::Effect::Answer(request)) => {
                    self.goes_on &= self.worker.begin(Job::Answer(request))
                }
                Effect::Chat(chat::Effect::Switch(model)) => {
                    self.goes_on &= self.worker.begin(Job::Switch(model))
                }
                Effect::Chat(chat::Effect::Copy(text)) => self.copy(&text)?,
                Effect::Chat(file) => {
                    self.pending += 1;
                    self.goes_on &= self.desk.take(file, self.beside.clone());
                }
                Effect::Complete(start) => {
                    self.pending += 1;
                    self.goes_on &= self.desk.complete(start);
                }
                Effect::Find => self.find()?,
                Effect::StopFinding => self.wanted = Arc::default(),
                Effect::Stop => (self.controls.stop)(),
                Effect::Remember(text) => self.remember(&text)?,
                Effect::Editor(text) => {
                    let Controls { asked, suspend, .. } = self.controls;
                    let edited = self.terminal.lend(|| editor::edit(&text, Meanwhile { asked, suspend }))?;
                    self.stale = true;
                    self.happened(match edited {
                        Edited::Text(text) => Event::Edited(text),
                        Edited::End => Event::End,
                    })?;
                }
                Effect::Suspend => self.suspend()?,
                Effect::Redraw => {
                    self.terminal.redraw()?;
                    self.stale = true;
                }
                Effect::Quit => self.goes_on = false,
            }
        }
        Ok(())
    }

    /// Looks for models on a thread of its own, until they are not wanted any more.
    fn find(&mut self) -> io::Result<()> {
        // The driver holds a search as long as it is wanted.
        self.wanted = Arc::new(());
        let search = Arc::downgrade(&self.wanted);
        let (finder, tell) = (Arc::clone(&self.controls.finder), self.tell.clone());
        let work = move || {
            finder(&mut |found| match tell.send(Told::Found(Weak::clone(&search), found)) {
                Ok(()) if search.strong_count() > 0 => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            });
        };
        std::thread::Builder::new().name("models".into()).spawn(work).map(drop)
    }

    fn suspend(&mut self) -> io::Result<()> {
        self.stale = true;
        match self.terminal.lend(self.controls.suspend)? {
            Ok(()) => Ok(()),
            Err(problem) => self.happened(Event::Note(Tone::Error, problem.to_owned())),
        }
    }

    fn copy(&mut self, text: &str) -> io::Result<()> {
        let (tone, words) = if text.len() > COPY_BYTES_MAX {
            (Tone::Error, "That is too long for the clipboard of a terminal; /export writes a file.")
        } else {
            terminal::while_taken(|| {
                crossterm::execute!(io::stdout(), CopyToClipboard::to_clipboard_from(text))
            })?;
            (Tone::Dim, terminal::COPIED)
        };
        self.happened(Event::Note(tone, words.to_owned()))
    }

    fn remember(&mut self, text: &str) -> io::Result<()> {
        let Some(history) = &mut self.history else { return Ok(()) };
        if let Err(error) = history.add(text) {
            self.history = None;
            self.happened(Event::Note(Tone::Warning, format!("The history is not kept: {error}")))?;
        }
        Ok(())
    }
}

/// What came from the terminal. Keys that were pressed before the screen was there are `early`: to them the terminal has
/// applied its own rules, by which Enter is a line feed.
fn terminal_event(event: TerminalEvent, early: bool) -> Option<Event> {
    match event {
        TerminalEvent::Key(key) if early && key == LINE_FEED => Some(Event::Key(KeyCode::Enter.into())),
        TerminalEvent::Key(key) => Some(Event::Key(key)),
        TerminalEvent::Paste(text) => Some(Event::Paste(text)),
        TerminalEvent::Resize(..) => Some(Event::Resized),
        TerminalEvent::FocusGained | TerminalEvent::FocusLost | TerminalEvent::Mouse(_) => None,
    }
}

/// Leaves the conversation on the ordinary screen.
fn say_farewell(screen: &Screen) {
    use std::io::Write;
    let notes = Notes { terminal: true, styled: terminal::stdout_styled() };
    let mut out = io::stdout().lock();
    for (tone, text) in screen.farewell() {
        // A terminal that is gone is no problem any more.
        if writeln!(out, "{}", notes.dress(tone, &text)).is_err() {
            return;
        }
    }
}
