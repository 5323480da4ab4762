//! The chat as a pure state machine: what happened goes in, what to do comes out. No input, no output, no clock; the
//! driver does those. It never sees a tensor, nor the text of an answer before it is complete.

use std::time::Duration;

use moelten_engine::api::{Answer, GenerateParams, GenerateStats, StopReason};
use moelten_loader::chat::{Message, Role};

use crate::backend::{Failure, Request};
use crate::command::{self, Command, TABLE};
use crate::figures;
use crate::settings::Setting;
use crate::terminal::Tone;

mod files;

pub use files::FileEvent;

/// A second Ctrl-C within this time after one that stopped an answer leaves the program.
const IMPATIENCE: Duration = Duration::from_secs(1);
/// Share of the context, in percent, above which a chat warns.
const CONTEXT_WARNING_PERCENT: usize = 80;

/// What the chat knows about its model and never changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Name of the model, unfiltered.
    pub model: String,
    /// Whether a system prompt reaches it.
    pub supports_system: bool,
    /// Lines for `/show`: what is fixed while the chat lasts.
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
}

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Say this.
    Note(Tone, String),
    /// Compute and show an answer; then comes [`Event::Answered`] or [`Event::Failed`].
    Answer(Request),
    /// Write a file; then comes [`FileEvent::Written`].
    Write {
        /// As the person gave it.
        path: std::path::PathBuf,
        /// Its new content.
        text: String,
    },
    /// Read a file; then comes [`FileEvent::Read`].
    Read {
        /// As the person gave it.
        path: std::path::PathBuf,
    },
    /// Leave.
    Quit,
}

/// A conversation and everything around it.
#[derive(Debug, Clone)]
pub struct Chat {
    facts: Facts,
    params: GenerateParams,
    system: Option<String>,
    /// Questions and answers in turn; ends with a question while and after it went unanswered.
    turns: Vec<Message>,
    /// The answer that `/retry` took away, until there is another.
    replaced: Option<Message>,
    /// Answers so far: each is drawn with a seed of its own.
    answers: u64,
    last: Option<GenerateStats>,
    warned: bool,
    /// Bytes that the expert cache has given back, as far as the person knows.
    given_back: u64,
    /// When the last Ctrl-C was, if nothing happened since.
    interrupted: Option<Interrupt>,
}

#[derive(Debug, Clone, Copy)]
enum Interrupt {
    /// At the prompt.
    Idle,
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
            system,
            turns: Vec::new(),
            replaced: None,
            answers: 0,
            last: None,
            warned: false,
            given_back: 0,
            interrupted: None,
        }
    }

    /// Questions and answers so far.
    pub fn turns(&self) -> &[Message] {
        &self.turns
    }

    /// What to do when this happens.
    pub fn handle(&mut self, event: Event) -> Vec<Effect> {
        let interrupted = self.interrupted.take();
        match event {
            Event::Entered(text) => self.entered(text),
            Event::Interrupted(now) => {
                let again = match interrupted {
                    Some(Interrupt::Idle) => true,
                    Some(Interrupt::Stopped(then)) => now.saturating_sub(then) <= IMPATIENCE,
                    None => false,
                };
                if again {
                    return vec![Effect::Quit];
                }
                self.interrupted = Some(Interrupt::Idle);
                note(Tone::Dim, "Ctrl-C again, Ctrl-D or /quit leaves.")
            }
            Event::EndOfInput => vec![Effect::Quit],
            Event::Answered(answer, now) => self.answered(*answer, now),
            Event::Failed { shown, failure } => self.failed(shown, failure),
            Event::File(event) => self.file(event),
        }
    }

    fn entered(&mut self, text: String) -> Vec<Effect> {
        match command::parse(&text) {
            _ if text.trim().is_empty() => Vec::new(),
            None => self.ask(text),
            Some(Ok(command)) => self.command(command),
            Some(Err(problem)) => note(Tone::Error, problem),
        }
    }

    fn command(&mut self, command: Command) -> Vec<Effect> {
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
            Command::Clear => {
                self.forget(Vec::new());
                note(Tone::Dim, "The conversation is empty; settings and system prompt are as they were.")
            }
            Command::Save(path) => self.save(path),
            Command::Load(path) => vec![Effect::Read { path }],
            Command::Stats => note(Tone::Plain, self.stats()),
            Command::Quit => vec![Effect::Quit],
        }
    }

    fn ask(&mut self, text: String) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.waiting() {
            self.turns.pop();
            effects.extend(note(Tone::Dim, "The question before, which has no answer, was left out."));
        }
        self.turns.push(Message::new(Role::User, text));
        self.replaced = None;
        effects.push(self.request());
        effects
    }

    /// Whether the last question has no answer.
    fn waiting(&self) -> bool {
        self.turns.last().is_some_and(|turn| turn.role == Role::User)
    }

    fn request(&mut self) -> Effect {
        let system = self.system.iter().map(|text| Message::new(Role::System, text.as_str()));
        let messages = system.chain(self.turns.iter().cloned()).collect();
        let mut params = self.params.clone();
        params.sampler.seed = params.sampler.seed.wrapping_add(self.answers);
        self.answers += 1;
        Effect::Answer(Request { messages, params })
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
        effects.push(self.request());
        effects
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
        let plural = |count: usize| if count == 1 { "turn" } else { "turns" };
        let taken = questions - left;
        note(Tone::Dim, format!("Took back {taken} {}; {left} {} left.", plural(taken), plural(left)))
    }

    /// Replaces the conversation.
    fn forget(&mut self, turns: Vec<Message>) {
        self.turns = turns;
        self.replaced = None;
        self.last = None;
        self.warned = false;
    }

    fn set_system(&mut self, text: Option<String>) -> Vec<Effect> {
        match text {
            None => note(Tone::Plain, format!("system prompt: {}", self.system_text())),
            Some(text) if text.is_empty() => {
                self.system = None;
                note(Tone::Dim, "There is no system prompt now.")
            }
            Some(_) if !self.facts.supports_system => {
                note(Tone::Error, "This model's chat template takes no system prompt; say it in a question.")
            }
            Some(text) => {
                self.system = Some(text);
                note(Tone::Dim, "The system prompt counts from the next answer on.")
            }
        }
    }

    fn answered(&mut self, answer: Answer, now: Duration) -> Vec<Effect> {
        let Answer { text, reason, stats, .. } = answer;
        self.last = Some(stats);
        let kept = self.keep(text);
        if reason == StopReason::Cancelled {
            self.interrupted = Some(Interrupt::Stopped(now));
            if !kept {
                return note(Tone::Dim, "Stopped before the answer began; /retry asks again.");
            }
        }
        let mut effects = note(Tone::Dim, summary(&reason, &stats));
        effects.extend(match reason {
            StopReason::ContextFull => note(Tone::Warning, context_full(stats.context_size)),
            _ => self.warn_of_the_end(&stats),
        });
        let given_back = stats.cache.map_or(0, |cache| cache.given_back_bytes);
        if given_back > self.given_back {
            self.given_back = given_back;
            effects.extend(note(Tone::Warning, figures::given_back(given_back)));
        }
        effects
    }

    /// Appends an answer to the conversation. One without a single word is none: then the answer that it should have
    /// replaced comes back, or the question stays open.
    fn keep(&mut self, text: String) -> bool {
        let kept = !text.is_empty();
        let answer = if kept { Some(Message::new(Role::Assistant, text)) } else { self.replaced.take() };
        self.turns.extend(answer);
        self.replaced = None;
        kept
    }

    fn warn_of_the_end(&mut self, stats: &GenerateStats) -> Vec<Effect> {
        let GenerateStats { context_used: used, context_size: size, .. } = *stats;
        if self.warned || used * 100 < size * CONTEXT_WARNING_PERCENT {
            return Vec::new();
        }
        self.warned = true;
        let left = size - used.min(size);
        note(
            Tone::Warning,
            format!(
                "{left} tokens of the context are left. /undo or /clear make room; --ctx at the start gives more."
            ),
        )
    }

    fn failed(&mut self, shown: String, failure: Failure) -> Vec<Effect> {
        let kept = self.keep(shown);
        let text = match failure {
            Failure::ContextFull { tokens, context } => format!(
                "The conversation is {tokens} tokens long, but the context holds {context}. Nothing was cut. Your \
                 choices: /undo 2 takes turns back, /clear begins anew, a larger --ctx at the start holds more."
            ),
            Failure::Other(text) if kept => format!("{text}. The answer so far is kept."),
            Failure::Other(text) => text,
        };
        note(Tone::Error, text)
    }

    fn settings(&self) -> String {
        let row = |setting: Setting| {
            format!("  {:<15} {:<10} {}", setting.name(), setting.get(&self.params), setting.help())
        };
        Setting::ALL.map(row).join("\n")
    }

    fn system_text(&self) -> &str {
        self.system.as_deref().unwrap_or("none")
    }

    fn show(&self) -> String {
        let mut text = format!("  {:<15} {}\n", "model", self.facts.model);
        for (name, value) in &self.facts.rows {
            text.push_str(&format!("  {name:<15} {value}\n"));
        }
        text.push_str(&format!("  {:<15} {}\n", "messages", self.turns.len()));
        text.push_str(&format!("  {:<15} {}\n", "system prompt", self.system_text()));
        text + &self.settings()
    }

    fn stats(&self) -> String {
        let Some(stats) = self.last else { return "There is no answer yet.".to_owned() };
        let rows = figures::rows(&stats);
        rows.iter().map(|(name, value)| format!("  {name:<15} {value}")).collect::<Vec<_>>().join("\n")
    }
}

fn help() -> String {
    let row = |entry: &command::Entry| {
        format!("  {:<22} {}", format!("{} {}", entry.name, entry.arguments), entry.help)
    };
    let commands: Vec<_> = TABLE.iter().map(row).collect();
    format!(
        "{}\n\nSeveral lines: begin and end with \"\"\", or end a line with \\, or paste them.\n\
         Ctrl-C stops an answer, Ctrl-D leaves, Tab completes commands and file names.",
        commands.join("\n")
    )
}

fn context_full(size: usize) -> String {
    format!(
        "The answer was cut: the context of {size} tokens is full. Your choices: /undo takes the last turn back, \
         /clear begins anew, a larger --ctx at the start holds more."
    )
}

/// The line after an answer.
pub fn summary(reason: &StopReason, stats: &GenerateStats) -> String {
    let end = match reason {
        StopReason::EndOfTurn | StopReason::ContextFull => "",
        StopReason::StopText(_) => ", ended by a stop text",
        StopReason::MaxTokens => ", cut at max-tokens",
        StopReason::Cancelled => ", stopped",
    };
    let GenerateStats { context_used: used, context_size: size, .. } = *stats;
    format!(
        "[{} tokens, {:.1} tok/s, context {used}/{size} ({}%){end}]",
        stats.generated_tokens,
        stats.generated_tokens_per_s(),
        used * 100 / size.max(1)
    )
}

#[cfg(test)]
mod tests;
