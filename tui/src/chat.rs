//! The conversation as a pure state machine: what happened goes in, what to do comes out. No input, no output, no clock;
//! drivers do those, and the full screen builds on it. It never sees a tensor, nor the text of an answer before it is
//! complete.

use std::path::PathBuf;
use std::time::Duration;

use moelten_engine::api::{Answer, GenerateParams, GenerateStats};
use moelten_loader::chat::{Message, Role};

use crate::backend::{Failure, NotSwitched, Request, Switched};
use crate::command::{self, Command, Think};
use crate::experts::Limits;
use crate::settings::Setting;
use crate::terminal::Tone;
use crate::thinking;

mod answers;
mod context;
mod files;
mod model;
mod room;
mod turn;
mod words;

use room::Room;

pub use context::Choice;
pub use files::{FileEvent, Replace};
pub use turn::{Attachment, Turn};
pub use words::{help, summary};

/// A second Ctrl-C within this time after one that stopped something leaves the program.
pub const IMPATIENCE: Duration = Duration::from_secs(1);
/// A second Ctrl-C at the prompt leaves while people may still see that it would.
const REMEMBERED: Duration = Duration::from_secs(5);
/// Share of the context, in percent, above which a chat warns.
pub const CONTEXT_WARNING_PERCENT: usize = 80;

/// What the chat knows about its model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Name of the model, unfiltered.
    pub model: String,
    /// Type of most of its weights.
    pub format: String,
    /// Tokens that the context holds.
    pub context: usize,
    /// Whether a system prompt reaches it.
    pub supports_system: bool,
    /// Whether its template can ask it not to think.
    pub can_skip_thinking: bool,
    /// What the machine allows it.
    pub limits: Limits,
    /// Lines for `/show`: what is fixed while the model is open.
    pub rows: Vec<(&'static str, String)>,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The person entered something: a question or a command, line ends included.
    Entered(String),
    /// Ctrl-C while nothing was being computed, this long after the start.
    Interrupted(Duration),
    /// Ctrl-D, or the end of a pipe.
    EndOfInput,
    /// The answer is complete, this long after the start.
    Answered(Box<Answer>, Duration),
    /// There is no complete answer.
    Failed {
        /// What was shown of it.
        shown: String,
        /// Why.
        failure: Failure,
    },
    /// A file was written or read.
    File(FileEvent),
    /// The person picked this model; `None` is the one that the program carries.
    Picked(Option<PathBuf>),
    /// The person decided what becomes of a conversation that is too long.
    Chosen(Choice),
    /// Another model is open, or not.
    Switched(Result<Box<Switched>, NotSwitched>),
    /// The conversation was counted.
    Counted {
        /// Which request that answers.
        number: u64,
        /// Its length in tokens, if the model takes it.
        tokens: Option<usize>,
    },
}

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Say this.
    Note(Tone, String),
    /// Compute and show an answer; then comes [`Event::Answered`] or [`Event::Failed`].
    Answer(Request),
    /// Ask what [`Chat::asking`] says; then comes [`Event::Chosen`], or its letter is entered.
    Ask,
    /// Let the person change this text and enter it.
    Compose(String),
    /// Write a file; then comes [`FileEvent::Written`].
    Write {
        /// As the person gave it.
        path: PathBuf,
        /// Its new content.
        text: String,
        /// Questions and answers in it.
        messages: usize,
        /// Which file it may replace.
        replace: Replace,
    },
    /// Keep the conversation for the next start; then comes [`FileEvent::Written`] if that fails.
    Keep(String),
    /// Read a conversation; then comes [`FileEvent::Read`].
    Read {
        /// As the person gave it.
        path: PathBuf,
    },
    /// Read a text and count its tokens; then comes [`FileEvent::Attached`].
    Attach {
        /// As the person gave it.
        path: PathBuf,
    },
    /// Count the tokens of a conversation; then comes [`Event::Counted`]. Who shows no meter may leave it.
    Count {
        /// Of this request; later ones make it useless.
        number: u64,
        /// What the model sees.
        messages: Vec<Message>,
    },
    /// Take this to the clipboard.
    Copy(String),
    /// Open another model, or the one that the program carries; then comes [`Event::Switched`].
    Switch(Option<PathBuf>),
    /// Leave.
    Quit,
}

/// What is being computed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Busy {
    /// An answer, of which there was this before.
    Answer { begun: String },
    /// A summary of the turns before this one, so that there is room for what comes then.
    Summary { upto: usize, then: context::Then },
    /// Another model.
    Switch,
}

/// A conversation and everything around it.
#[derive(Debug, Clone)]
pub struct Chat {
    facts: Facts,
    params: GenerateParams,
    think: Think,
    system: Option<String>,
    /// Questions and answers in turn; ends with a question while and after it went unanswered.
    turns: Vec<Turn>,
    /// So many of them the model does not see any more.
    forgotten: usize,
    /// What the model sees in their place.
    summary: Option<String>,
    /// The answer that `/retry` took away, until there is another.
    replaced: Option<Turn>,
    /// What is entered next replaces the last question, whose files lie beside it meanwhile; these lay there before.
    editing: Option<Vec<Attachment>>,
    attached: Vec<Attachment>,
    /// Files that are still being read for the next question...
    reading: usize,
    /// ... and the question, if it waits for them.
    held: Option<String>,
    busy: Option<Busy>,
    /// Whether the person is to say what becomes of a conversation that is too long.
    asking: Option<context::Full>,
    /// Whether conversations are kept for the next start.
    keeps: bool,
    /// Answers so far: each is drawn with a seed of its own.
    answers: u64,
    last: Option<GenerateStats>,
    room: Room,
    /// How often the conversation was to be counted.
    counts: u64,
    warned: bool,
    /// Bytes that the expert cache has given back, as far as the person knows.
    given_back: u64,
    /// When the last Ctrl-C was, if nothing happened since.
    interrupted: Option<Interrupt>,
}

#[derive(Debug, Clone, Copy)]
enum Interrupt {
    /// At the prompt, then.
    Idle(Duration),
    /// It stopped an answer, then.
    Stopped(Duration),
}

fn note(tone: Tone, text: impl Into<String>) -> Vec<Effect> {
    vec![Effect::Note(tone, text.into())]
}

impl Chat {
    /// An empty conversation.
    pub fn new(facts: Facts, params: GenerateParams, system: Option<String>) -> Self {
        Self {
            facts,
            params,
            think: Think::default(),
            system,
            turns: Vec::new(),
            forgotten: 0,
            summary: None,
            replaced: None,
            editing: None,
            attached: Vec::new(),
            reading: 0,
            held: None,
            busy: None,
            asking: None,
            keeps: false,
            answers: 0,
            last: None,
            room: Room::Unknown,
            counts: 0,
            warned: false,
            given_back: 0,
            interrupted: None,
        }
    }

    /// From now on the conversation is kept for the next start whenever it changes ([`Effect::Keep`]).
    pub fn keep_conversations(&mut self) {
        self.keeps = true;
    }

    /// What it knows about the model.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Questions and answers so far.
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// What becomes of thoughts.
    pub fn think(&self) -> Think {
        self.think
    }

    /// Files beside the next question.
    pub fn attached(&self) -> &[Attachment] {
        &self.attached
    }

    /// Whether something is being computed.
    pub fn busy(&self) -> bool {
        self.busy.is_some()
    }

    /// Whether it is a summary, or the opening of a model: nothing that is shown as an answer.
    pub fn busy_aside(&self) -> Option<&'static str> {
        match self.busy {
            Some(Busy::Summary { .. }) => Some("summarising"),
            Some(Busy::Switch) => Some("opening the model"),
            Some(Busy::Answer { .. }) | None => None,
        }
    }

    /// Whether the next thing entered replaces the last question.
    pub fn editing(&self) -> bool {
        self.editing.is_some()
    }

    /// Numbers of the last answer.
    pub fn last(&self) -> Option<&GenerateStats> {
        self.last.as_ref()
    }

    /// What to do when this happens.
    pub fn handle(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = self.happened(event);
        effects.extend(self.count());
        effects
    }

    fn happened(&mut self, event: Event) -> Vec<Effect> {
        let interrupted = self.interrupted.take();
        match event {
            Event::Entered(text) => self.entered(text),
            Event::Interrupted(now) => {
                let again = match interrupted {
                    Some(Interrupt::Idle(then)) => now.saturating_sub(then) <= REMEMBERED,
                    Some(Interrupt::Stopped(then)) => now.saturating_sub(then) <= IMPATIENCE,
                    None => false,
                };
                if again {
                    return vec![Effect::Quit];
                }
                self.interrupted = Some(Interrupt::Idle(now));
                note(Tone::Dim, "Ctrl-C again, Ctrl-D or /quit leaves.")
            }
            Event::EndOfInput => vec![Effect::Quit],
            Event::Answered(answer, now) => self.answered(*answer, now),
            Event::Failed { shown, failure } => self.failed(shown, failure),
            Event::File(event) => self.file(event),
            Event::Picked(_) if self.busy() => note(Tone::Error, self.has_to_wait()),
            Event::Picked(model) => self.switch(model),
            Event::Chosen(choice) => self.chosen(choice),
            Event::Switched(result) => self.switched(result),
            Event::Counted { number, tokens } => self.counted(number, tokens),
        }
    }

    fn entered(&mut self, text: String) -> Vec<Effect> {
        if self.asking.is_some()
            && let Some(choice) = Choice::named(text.trim())
        {
            return self.chosen(choice);
        }
        match command::parse(&text) {
            _ if text.trim().is_empty() => Vec::new(),
            None => self.ask(text),
            Some(Ok(command)) => self.command(command),
            Some(Err(problem)) => note(Tone::Error, problem),
        }
    }

    fn command(&mut self, command: Command) -> Vec<Effect> {
        if self.busy() && command.changes_turns() {
            return note(Tone::Error, self.has_to_wait());
        }
        if command.changes_turns() {
            self.stop_editing();
        }
        match command {
            Command::Help => note(Tone::Plain, help()),
            Command::Set(None) => note(Tone::Plain, self.settings()),
            Command::Set(Some((setting, value))) => match setting.set(&mut self.params, &value) {
                Ok(()) => {
                    if setting == Setting::Seed {
                        // What is drawn from here on depends on this seed alone, not on what was asked before.
                        self.answers = 0;
                    }
                    note(Tone::Dim, format!("{} is {}", setting.name(), setting.get(&self.params)))
                }
                Err(problem) => note(Tone::Error, problem),
            },
            Command::Show => note(Tone::Plain, self.show()),
            Command::System(text) => self.set_system(text),
            Command::Retry => self.retry(),
            Command::Undo(turns) => self.undo(turns),
            Command::Edit => self.edit(),
            Command::More => self.more(),
            Command::File(what) => self.attach(what),
            Command::Clear => {
                self.forget(Vec::new());
                let text = "The conversation is empty; settings and system prompt are as they were.";
                let mut effects = note(Tone::Dim, text);
                effects.extend(self.kept());
                effects
            }
            Command::Save(path) => self.save(path),
            Command::Load(path) => vec![Effect::Read { path }],
            Command::Export(format, path) => self.export(format, path),
            Command::Think(think) => self.set_think(think),
            Command::Stats => note(Tone::Plain, self.stats()),
            Command::Model(Some(path)) => self.switch(Some(path)),
            Command::Model(None) => {
                let text = format!("This is {}; /model FILE opens another.", self.facts.model);
                note(Tone::Plain, text)
            }
            Command::Copy(what) => self.copy(what),
            Command::Experts => note(Tone::Error, "The experts can be watched in the full screen only."),
            Command::Quit => vec![Effect::Quit],
        }
    }

    fn ask(&mut self, text: String) -> Vec<Effect> {
        if self.busy() {
            return note(Tone::Error, self.has_to_wait());
        }
        if self.reading > 0 {
            self.held = Some(text);
            return note(Tone::Dim, "The question waits for the file beside it.");
        }
        let mut effects = Vec::new();
        let files = std::mem::take(&mut self.attached);
        if let Some(before) = self.editing.take() {
            self.attached = before;
            let question = self.turns.iter().rposition(|turn| turn.role == Role::User);
            self.turns.truncate(question.unwrap_or(self.turns.len()));
            self.see_what_is_left();
        } else if self.waiting() {
            self.turns.pop();
            effects.extend(note(Tone::Dim, "The question before, which has no answer, was left out."));
        }
        self.turns.push(Turn { role: Role::User, content: text, files });
        self.replaced = None;
        effects.push(self.request(String::new()));
        effects
    }

    /// Whether the last question has no answer.
    fn waiting(&self) -> bool {
        self.turns.last().is_some_and(|turn| turn.role == Role::User)
    }

    /// Asks for an answer to the last question, of which there is `begun` already.
    fn request(&mut self, begun: String) -> Effect {
        self.asking = None;
        self.counted_by_the_model();
        let messages = self.messages(self.turns.len());
        let mut params = self.params.clone();
        params.sampler.seed = params.sampler.seed.wrapping_add(self.answers);
        self.answers += 1;
        self.busy = Some(Busy::Answer { begun: begun.clone() });
        Effect::Answer(Request { messages, begun, think: self.think != Think::Off, params })
    }

    /// What the model sees of the turns before `upto`. Earlier thoughts are no part of it: models are trained so.
    fn messages(&self, upto: usize) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new(Role::System, text.as_str()));
        let mut messages: Vec<_> = system.collect();
        let first = messages.len();
        messages.extend(self.turns[self.forgotten..upto].iter().map(|turn| match turn.role {
            Role::Assistant => Message::new(Role::Assistant, thinking::said(&turn.content)),
            _ => turn.message(),
        }));
        if let (Some(summary), Some(question)) = (&self.summary, messages.get_mut(first)) {
            question.content = format!("(What was said before, in short: {summary})\n\n{}", question.content);
        }
        messages
    }

    fn retry(&mut self) -> Vec<Effect> {
        if self.turns.is_empty() {
            return note(Tone::Error, "There is no question yet.");
        }
        let mut effects = Vec::new();
        if !self.waiting() {
            self.replaced = self.turns.pop();
            if self.params.sampler.temperature == 0.0 {
                effects.extend(note(
                    Tone::Warning,
                    "The temperature is 0, so the answer will be the same; /set temp 0.8 changes that.",
                ));
            }
        }
        effects.push(self.request(String::new()));
        effects
    }

    fn more(&mut self) -> Vec<Effect> {
        match self.turns.pop_if(|turn| turn.role == Role::Assistant) {
            Some(answer) => vec![self.request(answer.content)],
            None => note(Tone::Error, "There is no answer to go on with."),
        }
    }

    fn edit(&mut self) -> Vec<Effect> {
        let question = self.turns.iter().rfind(|turn| turn.role == Role::User);
        let Some(question) = question else { return note(Tone::Error, "There is no question yet.") };
        let Turn { content, files, .. } = question.clone();
        self.editing = Some(std::mem::replace(&mut self.attached, files));
        vec![Effect::Compose(content)]
    }

    /// The person does not want to change the last question after all.
    pub fn stop_editing(&mut self) {
        if let Some(before) = self.editing.take() {
            self.attached = before;
        }
    }

    /// The person does not want to send the question that waits for its files: here it is.
    pub fn take_back(&mut self) -> Option<String> {
        self.held.take()
    }

    fn undo(&mut self, turns: usize) -> Vec<Effect> {
        if self.turns.is_empty() {
            return note(Tone::Error, "There is nothing to take back.");
        }
        let questions = self.turns.iter().filter(|turn| turn.role == Role::User).count();
        let left = questions.saturating_sub(turns);
        self.turns.truncate(2 * left);
        self.replaced = None;
        self.warned = false;
        self.asking = None;
        self.room = Room::Unknown;
        self.see_what_is_left();
        let plural = |count: usize| if count == 1 { "turn" } else { "turns" };
        let taken = questions - left;
        let mut effects =
            note(Tone::Dim, format!("Took back {taken} {}; {left} {} left.", plural(taken), plural(left)));
        effects.extend(self.kept());
        effects
    }

    /// The program ends while there is this of an answer: it is kept, if conversations are.
    pub fn leave(&mut self, written: &str) -> Option<Effect> {
        let Some(Busy::Answer { begun }) = self.busy.take() else { return None };
        self.keep(begun, written.to_owned());
        self.kept()
    }

    /// After turns were taken back: the model sees again what it did not, if nothing else is left.
    fn see_what_is_left(&mut self) {
        if self.turns.len() <= self.forgotten {
            self.forgotten = 0;
            self.summary = None;
        }
    }

    /// Replaces the conversation.
    fn forget(&mut self, turns: Vec<Turn>) {
        self.stop_editing();
        self.turns = turns;
        self.room = Room::Unknown;
        self.forgotten = 0;
        self.summary = None;
        self.replaced = None;
        self.asking = None;
        self.last = None;
        self.warned = false;
    }
}

#[cfg(test)]
mod tests;
