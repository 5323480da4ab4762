//! The full screen as a pure state machine around the conversation: keys, pastes, pieces of answers and the passing of
//! time go in, what to do comes out, and [`Screen::draw`] shows what is. No input, no output, no clock, no thread; those
//! are the driver's.

use std::time::Duration;

use crossterm::event::KeyEvent;
use moelten_engine::api::{Event as EngineEvent, ExpertMap};

use crate::backend::Found;
use crate::chat::{self, Chat};
use crate::command::{self, Command};
use crate::complete;
use crate::composer::{Composer, Place};
use crate::experts::ExpertView;
use crate::figures;
use crate::filter;
use crate::picker::Picker;
use crate::terminal::Tone;
use crate::theme::Theme;

mod draw;
mod help;
mod key_table;
mod keys;
mod live;
mod log;
mod recall;
mod status;

use live::Live;
use log::Log;
use recall::{Recall, Recalled};

/// How long a passing remark stays.
const REMARK: Duration = Duration::from_secs(5);

/// Something happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A key was pressed.
    Key(KeyEvent),
    /// A text was pasted.
    Paste(String),
    /// The terminal has another size.
    Resized,
    /// Time passed.
    Tick,
    /// A piece of an answer, or of the way to it.
    Engine(EngineEvent),
    /// Something that the conversation waits for.
    Chat(chat::Event),
    /// To be said.
    Note(Tone, String),
    /// What the experts and the memory are like now.
    Experts(Box<ExpertMap>),
    /// Of the models on this machine.
    Found(Found),
    /// The external editor is done, or did not work, in words.
    Edited(Result<String, String>),
    /// Names of files that complete what was asked for.
    Files {
        /// What was asked for.
        asked: Start,
        /// What its name may become.
        found: Vec<String>,
    },
    /// Ctrl-C from outside, as a signal.
    Interrupt,
    /// Somebody wants the program to end.
    End,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// What the conversation wants; never a note, a question, a text to compose or the end.
    Chat(chat::Effect),
    /// Stop the answer.
    Stop,
    /// Keep what was entered in the history.
    Remember(String),
    /// Let the person change this text in an editor of theirs; then comes [`Event::Edited`].
    Editor(String),
    /// Find files that begin so; then comes [`Event::Files`].
    Complete(Start),
    /// Look for models; then comes [`Event::Found`], several times.
    Find,
    /// They are not wanted any more.
    StopFinding,
    /// Give the terminal back until the person comes again.
    Suspend,
    /// Draw everything anew.
    Redraw,
    /// Leave.
    Quit,
}

/// The beginning of a file's name, and the text that it stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// All before the cursor.
    pub text: String,
    /// The byte from which on it is a name.
    pub from: usize,
}

impl Start {
    /// The beginning of the name.
    pub fn name(&self) -> &str {
        &self.text[self.from..]
    }
}

/// How soon a change is to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// A few times a second is enough: the cores have more to do.
    Soon,
    /// The person waits for it.
    Now,
}

/// What lies over the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overlay {
    /// Keys and commands, scrolled so far.
    Help(usize),
}

/// A passing remark beside the composer.
#[derive(Debug, Clone)]
struct Remark {
    tone: Tone,
    words: Words,
    until: Duration,
}

/// What a remark says.
#[derive(Debug, Clone)]
enum Words {
    /// A line, filtered.
    Line(String),
    /// As many of these as there is room for.
    List(Vec<String>),
}

/// What was being written when the last question came into its place.
#[derive(Debug)]
struct Draft {
    written: (String, Place),
    recalled: Recalled,
}

/// Everything on the screen.
pub struct Screen {
    chat: Chat,
    theme: Theme,
    composer: Composer,
    recall: Recall,
    /// Comes back when the last question is no longer written anew.
    draft: Option<Draft>,
    log: Log,
    live: Option<Live>,
    overlay: Option<Overlay>,
    /// The list of models, while it is open.
    picker: Option<Picker>,
    remark: Option<Remark>,
    /// Whether what is being computed is to be stopped.
    stopping: bool,
    experts: ExpertView,
    /// Whether the experts are watched beside the conversation.
    watched: bool,
    /// The first line of the conversation that is shown; `None` keeps its end in sight.
    top: Option<usize>,
    /// Lines of the conversation, and how many are in sight, when it was last drawn.
    seen: (usize, usize),
    /// Whether Ctrl-X was pressed, which begins some keys.
    prefix: bool,
    now: Duration,
    changed: Option<Change>,
}

impl Screen {
    /// A screen over a conversation. `history` are texts entered before, the oldest first.
    pub fn new(chat: Chat, theme: Theme, history: Vec<String>) -> Self {
        let experts = ExpertView::new(chat.facts().limits);
        Self {
            chat,
            theme,
            composer: Composer::default(),
            recall: Recall::new(history),
            draft: None,
            log: Log::default(),
            live: None,
            overlay: None,
            picker: None,
            remark: None,
            stopping: false,
            experts,
            watched: false,
            top: None,
            seen: (0, 0),
            prefix: false,
            now: Duration::ZERO,
            changed: Some(Change::Now),
        }
    }

    /// Whether something would look different; asking resets it.
    pub fn take_changed(&mut self) -> Option<Change> {
        self.changed.take()
    }

    /// Whether something moves by itself.
    pub fn moves(&self) -> bool {
        self.chat.busy() || self.remark.is_some()
    }

    /// Whether the experts are on the screen and at work: then pictures of them are wanted often.
    pub fn watches_experts(&self) -> bool {
        self.watched && self.chat.busy()
    }

    /// Whether what is being computed is to be stopped and has not yet been.
    pub fn stopping(&self) -> bool {
        self.stopping
    }

    /// What to do when this happens, this long after the start.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Effect> {
        self.now = now;
        let change = match event {
            Event::Tick | Event::Experts(_) | Event::Engine(EngineEvent::Prompt { .. }) => None,
            Event::Engine(EngineEvent::Text(_)) => Some(Change::Soon),
            _ => Some(Change::Now),
        };
        self.changed = self.changed.max(change);
        match event {
            Event::Key(key) => self.key(key),
            Event::Paste(text) => self.paste(&text),
            // Terminals break lines that were too long in ways of their own: what they hold is not known any more.
            Event::Resized => vec![Effect::Redraw],
            Event::Tick => self.tick(),
            Event::Engine(event) => {
                if let Some(live) = &mut self.live {
                    live.event(event, now);
                }
                Vec::new()
            }
            Event::Chat(event) => self.tell(event),
            Event::Note(tone, text) => {
                self.note(tone, &text);
                Vec::new()
            }
            Event::Experts(map) => {
                let before = self.experts.map();
                let owned = |map: &ExpertMap| map.memory.owned_bytes.map(figures::bytes);
                if owned(before) != owned(&map) || (self.watched && *before != *map) {
                    self.changed = self.changed.max(Some(Change::Soon));
                }
                self.experts.update(*map, now);
                Vec::new()
            }
            Event::Found(found) => {
                if let Some(picker) = &mut self.picker {
                    match found {
                        Found::Model(entry) => picker.add(entry),
                        Found::Note(note) => picker.note(&note),
                        Found::All => picker.complete(),
                    }
                }
                Vec::new()
            }
            Event::Edited(Ok(text)) => {
                self.composer.set(filter::clean(&text).trim_end_matches('\n'));
                Vec::new()
            }
            Event::Edited(Err(problem)) => {
                self.remark(Tone::Error, problem);
                Vec::new()
            }
            Event::Files { asked, found } => {
                // The answer is for the text that asked; typing may have gone on.
                if self.composer.before_cursor() == asked.text {
                    self.completed(asked.from, found);
                }
                Vec::new()
            }
            Event::Interrupt => self.interrupt(),
            Event::End => self.leave(),
        }
    }

    fn tick(&mut self) -> Vec<Effect> {
        if self.chat.busy() {
            self.changed = self.changed.max(Some(Change::Soon));
        }
        if self.remark.as_ref().is_some_and(|remark| remark.until <= self.now) {
            self.remark = None;
            self.changed = Some(Change::Now);
        }
        Vec::new()
    }

    /// Hands something to the conversation and shows what it says.
    fn tell(&mut self, event: chat::Event) -> Vec<Effect> {
        if let chat::Event::Switched(switched) = &event {
            match switched {
                Ok(switched) => self.experts = ExpertView::new(switched.facts.limits),
                Err(not) if not.closed() => self.experts = ExpertView::new(self.chat.facts().limits),
                Err(_) => {}
            }
        }
        let waited = self.chat.busy();
        let effects = self.chat.handle(event);
        let answers = effects.iter().any(|effect| matches!(effect, chat::Effect::Answer(_)));
        if !self.chat.busy()
            || answers
            || effects.iter().any(|effect| matches!(effect, chat::Effect::Switch(_)))
        {
            self.stopping = false;
        }
        if !self.chat.busy() || answers {
            let written = self.live.take();
            self.log.sync(self.chat.turns(), written);
        }
        let mut todo = Vec::new();
        for effect in effects {
            match effect {
                chat::Effect::Note(tone, text) => self.note(tone, &text),
                // The question lies over the conversation as long as it is open.
                chat::Effect::Ask => self.top = None,
                chat::Effect::Compose(text) => {
                    let put_aside =
                        || Draft { written: self.composer.written(), recalled: self.recall.put_aside() };
                    self.draft.get_or_insert_with(put_aside);
                    self.composer.set(&filter::clean(&text));
                    self.remark(
                        Tone::Dim,
                        "Enter sends it in place of your last question, Esc leaves that as it was.",
                    );
                }
                chat::Effect::Quit => todo.extend(self.leave()),
                other => {
                    if let chat::Effect::Answer(request) = &other {
                        self.live = Some(Live::new(&request.begun, self.now));
                        self.top = None;
                    }
                    todo.push(Effect::Chat(other));
                }
            }
        }
        self.bring_back_draft(waited);
        todo
    }

    /// Once the last question is no longer written anew, what was there before is there again. It may have waited for a
    /// file, and something else been begun.
    fn bring_back_draft(&mut self, waited: bool) {
        if self.chat.editing() {
            return;
        }
        let Some(Draft { written: (text, place), recalled }) = self.draft.take() else { return };
        if waited && !self.composer.is_empty() {
            if !text.is_empty() {
                self.recall.add(&text);
                self.remark(Tone::Dim, "What you were writing before is one Up away.");
            }
            return;
        }
        self.composer.put_back(text, place);
        self.recall.put_back(recalled);
    }

    /// Adds a note to the conversation.
    fn note(&mut self, tone: Tone, text: &str) {
        self.log.note(self.chat.turns().len(), tone, text);
    }

    /// Says something beside the composer, for a while.
    fn remark(&mut self, tone: Tone, text: impl Into<String>) {
        let words = Words::Line(filter::clean_line(&text.into()));
        self.remark = Some(Remark { tone, words, until: self.now + REMARK });
    }

    fn paste(&mut self, text: &str) -> Vec<Effect> {
        if self.picker.is_some() {
            return Vec::new();
        }
        self.overlay = None;
        self.recall.search_ends(false);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let clean = filter::clean(&text);
        let lost = text.chars().count().saturating_sub(clean.chars().count());
        if lost > 0 {
            self.remark(Tone::Warning, format!("{lost} control characters of the paste were left out."));
        }
        self.composer.insert(&clean);
        Vec::new()
    }

    /// What is entered goes to the conversation, but for what only a screen can do.
    fn enter(&mut self) -> Vec<Effect> {
        let text = self.composer.text().to_owned();
        if text.trim().is_empty() {
            return Vec::new();
        }
        let command = command::parse(&text);
        if command.is_none() && self.chat.busy() {
            self.remark(Tone::Warning, self.chat.has_to_wait());
            return Vec::new();
        }
        self.composer.take();
        // It was about what was being written.
        self.remark = None;
        let mut effects = vec![Effect::Remember(text.clone())];
        self.recall.add(&text);
        self.top = None;
        match command {
            Some(Ok(Command::Model(None))) => effects.extend(self.pick()),
            Some(Ok(Command::Experts)) => self.watched = !self.watched,
            Some(Ok(Command::Help)) => self.overlay = Some(Overlay::Help(0)),
            _ => effects.extend(self.command(&text)),
        }
        effects
    }

    /// What was entered, or a command that a key stands for.
    fn command(&mut self, line: &str) -> Vec<Effect> {
        let effects = self.tell(chat::Event::Entered(line.to_owned()));
        self.log.set_thoughts_shown(self.chat.thoughts_shown());
        effects
    }

    /// Opens the list of models.
    fn pick(&mut self) -> Vec<Effect> {
        if self.chat.busy() {
            self.remark(Tone::Warning, self.chat.has_to_wait());
            return Vec::new();
        }
        self.picker = Some(Picker::new());
        vec![Effect::Find]
    }

    /// Ctrl-C: stops what is computed, takes back a question that waits, empties the composer, or is about leaving.
    fn interrupt(&mut self) -> Vec<Effect> {
        if let Some(question) = self.chat.take_back() {
            if self.composer.is_empty() {
                self.composer.set(&question);
            }
            self.remark(Tone::Dim, "The question was not sent; Up brings it back too.");
            return Vec::new();
        }
        if self.chat.busy() {
            if std::mem::replace(&mut self.stopping, true) {
                return self.leave();
            }
            return vec![Effect::Stop];
        }
        if !self.composer.is_empty() && !self.chat.editing() {
            self.composer.take();
            self.recall.rest();
            return Vec::new();
        }
        let effects = self.chat.handle(chat::Event::Interrupted(self.now));
        let mut todo = Vec::new();
        for effect in effects {
            match effect {
                chat::Effect::Note(tone, text) => self.remark(tone, text),
                chat::Effect::Quit => todo.extend(self.leave()),
                other => todo.push(Effect::Chat(other)),
            }
        }
        self.bring_back_draft(false);
        todo
    }

    /// Leaves; what there is of an answer is kept.
    fn leave(&mut self) -> Vec<Effect> {
        let written = self.live.as_ref().map(|live| live.raw().to_owned());
        let mut effects = Vec::new();
        if let Some(written) = written {
            effects.push(Effect::Stop);
            effects.extend(self.chat.leave(&written).map(Effect::Chat));
            let live = self.live.take();
            self.log.sync(self.chat.turns(), live);
        }
        effects.push(Effect::Quit);
        effects
    }

    /// Tab.
    fn complete(&mut self) -> Vec<Effect> {
        match complete::of(self.composer.before_cursor()) {
            complete::Of::Nothing => {}
            complete::Of::Words { start, words } => {
                let asked = self.composer.before_cursor()[start..].to_owned();
                let found: Vec<_> = words.into_iter().filter(|word| word.starts_with(&asked)).collect();
                self.completed(start, found);
            }
            complete::Of::Path { start: from } => {
                let text = self.composer.before_cursor().to_owned();
                return vec![Effect::Complete(Start { text, from })];
            }
        }
        Vec::new()
    }

    /// Writes what all of `found` begin with in the place of what stands from a byte on, and says what there is to choose
    /// from.
    fn completed(&mut self, from: usize, found: Vec<String>) {
        let common = complete::common_start(&found);
        let asked = self.composer.before_cursor().len() - from;
        match &found[..] {
            [] => self.remark(Tone::Dim, "Nothing fits."),
            [one] => {
                let end = if one.ends_with('/') { "" } else { " " };
                self.composer.replace_from(from, &format!("{one}{end}"));
            }
            _ if common.len() > asked => self.composer.replace_from(from, common),
            _ => {
                let (words, until) = (Words::List(found), self.now + REMARK);
                self.remark = Some(Remark { tone: Tone::Dim, words, until });
            }
        }
    }

    /// Scrolls the conversation by lines, up if negative.
    fn scroll(&mut self, lines: isize) {
        let (total, height) = self.seen;
        let end = total.saturating_sub(height);
        let top = self.top.unwrap_or(end).saturating_add_signed(lines);
        self.top = (top < end).then_some(top);
    }

    /// What the chat would print: the conversation for the ordinary screen, on which it stays after the end.
    pub fn farewell(&self) -> Vec<(Tone, String)> {
        self.log.farewell()
    }

    /// Opens with these notes.
    pub fn greet(&mut self, notes: Vec<(Tone, String)>) {
        notes.iter().for_each(|(tone, text)| self.note(*tone, text));
    }

    /// Opens, perhaps with a conversation that was read before; what to do first.
    pub fn open(&mut self, file: Option<chat::FileEvent>) -> Vec<Effect> {
        match file {
            Some(file) => self.tell(chat::Event::File(file)),
            None => self.chat.count().map(Effect::Chat).into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests;
