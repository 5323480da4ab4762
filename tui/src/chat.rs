//! The conversation as a pure state machine: what happened goes in, what to do comes out. No input, no output, no clock;
//! drivers do those, and the full screen builds on it. It never sees a tensor, nor the text of an answer before it is
//! complete.

use std::path::PathBuf;
use std::time::Duration;

use moelten_engine::api::{Answer, GenerateParams, GenerateStats};
use moelten_loader::text::chat::{Message, Role};

use crate::backend::{Failure, NotSwitched, Request, Switched};
use crate::command::{self, Command};
use crate::experts::Limits;
use crate::settings::Setting;
use crate::terminal::Tone;
use crate::thinking;

mod again;
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
    /// Files for this question, which waits for them.
    Reading { question: String },
    /// An answer, of which there was `begun` before.
    Answer { begun: String, before: Before },
    /// A summary of the turns before this one, so that there is room for what comes then.
    Summary { upto: usize, then: context::Then },
    /// Another model.
    Switch,
}

/// What comes back if there is no answer: these turns, from that one on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Before {
    from: usize,
    turns: Vec<Turn>,
}

/// A conversation and everything around it.
#[derive(Debug, Clone)]
pub struct Chat {
    facts: Facts,
    params: GenerateParams,
    /// Whether thoughts are shown or folded.
    thoughts_shown: bool,
    /// Whether the model may think.
    thinks: bool,
    system: Option<String>,
    /// Questions and answers in turn; ends with a question while and after it went unanswered.
    turns: Vec<Turn>,
    /// So many of them the model does not see any more.
    forgotten: usize,
    /// What the model sees in their place.
    summary: Option<String>,
    /// What is entered next replaces the last question, whose files lie beside it meanwhile; these lay there before.
    editing: Option<Vec<Attachment>>,
    attached: Vec<Attachment>,
    /// Files that are still being read for the next question.
    reading: usize,
    busy: Option<Busy>,
    /// Whether the person is to say what becomes of a conversation that is too long.
    asking: Option<context::Full>,
    /// Whether conversations are kept for the next start.
    keeps: bool,
    /// Whether the last try went well.
    kept_last: bool,
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
            thoughts_shown: false,
            thinks: true,
            system,
            turns: Vec::new(),
            forgotten: 0,
            summary: None,
            editing: None,
            attached: Vec::new(),
            reading: 0,
            busy: None,
            asking: None,
            keeps: false,
            kept_last: true,
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

    /// Whether thoughts are shown or folded.
    pub fn thoughts_shown(&self) -> bool {
        self.thoughts_shown
    }

    /// Whether something is being computed.
    pub fn busy(&self) -> bool {
        self.busy.is_some()
    }

    /// What is being done, if it is nothing that is shown as an answer.
    pub fn busy_aside(&self) -> Option<&'static str> {
        match self.busy {
            Some(Busy::Reading { .. }) => Some("reading the file beside the question"),
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
            Event::Interrupted(_) if self.editing() => self.leave_as_it_was(),
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
            && !self.busy()
            && let Some(choice) = Choice::named(text.trim())
        {
            return self.chosen(choice);
        }
        match command::parse(&text) {
            _ if text.trim().is_empty() && self.editing() => self.leave_as_it_was(),
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
                let kept = self.keeps && !self.turns.is_empty();
                self.forget(Vec::new());
                let still =
                    if kept { " Until the next answer --continue finds the one from before." } else { "" };
                let text = "The conversation is empty; settings and system prompt are as they were.";
                note(Tone::Dim, format!("{text}{still}"))
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
            self.busy = Some(Busy::Reading { question: text });
            return note(Tone::Dim, "The question waits for the file beside it.");
        }
        if let Some(before) = self.editing.take() {
            let files = std::mem::replace(&mut self.attached, before);
            return vec![self.ask_instead(Turn { role: Role::User, content: text, files })];
        }
        let mut effects = Vec::new();
        let mut files = Vec::new();
        if let Some(unanswered) = self.turns.pop_if(|turn| turn.role == Role::User) {
            effects.extend(note(Tone::Dim, left_out(&unanswered)));
            files = unanswered.files;
        }
        files.append(&mut self.attached);
        self.turns.push(Turn { role: Role::User, content: text, files });
        effects.push(self.request(String::new(), Vec::new()));
        effects
    }

    /// Whether the last question has no answer.
    fn waiting(&self) -> bool {
        self.turns.last().is_some_and(|turn| turn.role == Role::User)
    }

    /// Asks for an answer to the last question, of which there is `begun` already. If none comes, `replaced` comes back.
    fn request(&mut self, begun: String, replaced: Vec<Turn>) -> Effect {
        self.request_or(begun, Before { from: self.turns.len(), turns: replaced })
    }

    fn request_or(&mut self, begun: String, before: Before) -> Effect {
        self.asking = None;
        self.counted_by_the_model();
        let messages = self.messages(self.turns.len());
        let mut params = self.params.clone();
        params.sampler.seed = params.sampler.seed.wrapping_add(self.answers);
        self.answers += 1;
        self.busy = Some(Busy::Answer { begun: begun.clone(), before });
        Effect::Answer(Request { messages, begun, think: self.thinks, params })
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

    /// The program ends while there is this of an answer: it is kept, if conversations are, and so is what could not be
    /// before.
    pub fn leave(&mut self, written: &str) -> Option<Effect> {
        match self.busy.take() {
            Some(Busy::Answer { begun, before }) => drop(self.settle(begun, before, written.to_owned())),
            _ if self.kept_last => return None,
            _ => {}
        }
        self.kept()
    }

    /// Replaces the conversation.
    fn forget(&mut self, turns: Vec<Turn>) {
        self.stop_editing();
        self.turns = turns;
        self.room = Room::Unknown;
        self.forgotten = 0;
        self.summary = None;
        self.asking = None;
        self.last = None;
        self.warned = false;
    }
}

/// What to say of a question in whose place there is another.
fn left_out(question: &Turn) -> String {
    let names: Vec<_> = question.files.iter().map(|file| file.name.as_str()).collect();
    let beside = if names.is_empty() {
        String::new()
    } else {
        format!("; what lay beside it lies beside this one ({})", names.join(", "))
    };
    format!("The question before, which has no answer, was left out{beside}.")
}

#[cfg(test)]
mod tests;
