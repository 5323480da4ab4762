//! Files of the conversation: saved, kept, exported, laid beside a question, and what goes to the clipboard.

use std::path::PathBuf;

use super::{Attachment, Chat, Effect, note};
use crate::command::{Copied, Export, FileUse};
use crate::terminal::Tone;
use crate::thinking;
use crate::transcript::{self, Transcript};

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileEvent {
    /// It was written, or not, in words.
    Written {
        /// The file.
        path: PathBuf,
        /// Questions and answers in it.
        messages: usize,
        /// Whether it worked.
        result: Result<(), String>,
    },
    /// It was read, or not, in words.
    Read {
        /// The file.
        path: PathBuf,
        /// Its content.
        result: Result<String, String>,
    },
    /// It was read to lie beside a question, or not, in words.
    Attached {
        /// The file.
        path: PathBuf,
        /// Its content.
        result: Result<Attachment, String>,
        /// Whether bytes that are no text were replaced.
        replaced: bool,
    },
    /// The conversation could not be kept for the next start; said once.
    NotKept(String),
}

/// Which file a new one may replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// A saved conversation.
    Conversation,
    /// None.
    Nothing,
}

impl Chat {
    pub(super) fn transcript(&self) -> String {
        Transcript::new(&self.facts.model, self.system.clone(), self.turns.clone()).to_json()
    }

    pub(super) fn save(&self, path: PathBuf) -> Vec<Effect> {
        if self.turns.is_empty() {
            return note(Tone::Error, "There is nothing to save yet.");
        }
        let (text, messages) = (self.transcript(), self.turns.len());
        vec![Effect::Write { path, text, messages, replace: Replace::Conversation }]
    }

    pub(super) fn export(&self, format: Export, path: PathBuf) -> Vec<Effect> {
        if self.turns.is_empty() {
            return note(Tone::Error, "There is nothing to export yet.");
        }
        let system = self.system.as_deref();
        let text = match format {
            Export::Markdown => transcript::to_markdown(&self.facts.model, system, &self.turns),
            Export::Json => transcript::to_messages(system, &self.turns),
        };
        vec![Effect::Write { path, text, messages: self.turns.len(), replace: Replace::Nothing }]
    }

    pub(super) fn attach(&mut self, what: FileUse) -> Vec<Effect> {
        match what {
            FileUse::Put(path) => {
                self.reading += 1;
                vec![Effect::Attach { path }]
            }
            FileUse::Show => note(Tone::Dim, self.beside_words()),
            FileUse::Off(None) => {
                self.attached.clear();
                note(Tone::Dim, self.beside_words())
            }
            FileUse::Off(Some(name)) => {
                let Some(place) = self.attached.iter().rposition(|file| file.name == name) else {
                    return note(Tone::Error, format!("There is no {name:?}. {}", self.beside_words()));
                };
                self.attached.remove(place);
                note(Tone::Dim, format!("{name} was taken away. {}", self.beside_words()))
            }
        }
    }

    fn beside_words(&self) -> String {
        if self.attached.is_empty() {
            return "No file lies beside the next question; /file FILE puts one there.".to_owned();
        }
        let words: Vec<_> = self.attached.iter().map(Attachment::words).collect();
        format!("Beside the next question: {}.", words.join(", "))
    }

    /// A file was read; one that no context holds is refused before the question is.
    fn beside(&mut self, file: Attachment, replaced: bool) -> Vec<Effect> {
        let context = self.facts.context;
        if context > 0 && file.tokens >= context {
            let text = format!(
                "{} is too long, the context holds {context} tokens. Nothing was cut: a shorter file or a larger --ctx \
                 at the start is needed.",
                file.words()
            );
            return self.not_beside(text);
        }
        let mut effects = note(Tone::Dim, format!("Beside the next question: {}.", file.words()));
        if replaced {
            let text = "Some of it is not valid UTF-8; the wrong bytes were replaced by U+FFFD.";
            effects.extend(note(Tone::Warning, text));
        }
        self.attached.push(file);
        if let Some(question) = self.held.take_if(|_| self.reading == 0) {
            effects.extend(self.ask(question));
        }
        effects
    }

    fn not_beside(&mut self, problem: String) -> Vec<Effect> {
        let mut effects = note(Tone::Error, problem);
        if self.held.take().is_some() {
            effects.extend(note(Tone::Error, "The question was not sent; Up brings it back."));
        }
        effects
    }

    pub(super) fn copy(&self, what: Copied) -> Vec<Effect> {
        let answer = self.turns.iter().rfind(|turn| turn.role == moelten_loader::chat::Role::Assistant);
        let Some(answer) = answer.map(|turn| thinking::said(&turn.content)) else {
            return note(Tone::Error, "There is no answer yet.");
        };
        match what {
            Copied::Answer => vec![Effect::Copy(answer.to_owned())],
            Copied::Code(number) => {
                let blocks = transcript::code_blocks(answer);
                match blocks.get(number - 1) {
                    Some(code) => vec![Effect::Copy(code.clone())],
                    None => {
                        let (count, plural) = (blocks.len(), if blocks.len() == 1 { "" } else { "s" });
                        note(Tone::Error, format!("The last answer has {count} block{plural} of code."))
                    }
                }
            }
        }
    }

    pub(super) fn file(&mut self, event: FileEvent) -> Vec<Effect> {
        match event {
            FileEvent::Written { path, messages, result: Ok(()) } => {
                note(Tone::Dim, format!("Saved {} to {}.", count_words(messages), path.display()))
            }
            FileEvent::Written { path, result: Err(problem), .. } => {
                note(Tone::Error, format!("{} was not saved: {problem}", path.display()))
            }
            FileEvent::Read { path, result: Err(problem) } => {
                note(Tone::Error, format!("{} was not loaded: {problem}", path.display()))
            }
            FileEvent::Read { .. } if self.busy() => {
                note(Tone::Error, format!("The conversation was not loaded. {}", self.has_to_wait()))
            }
            FileEvent::Read { path, result: Ok(text) } => match Transcript::from_json(&text) {
                Ok(transcript) => self.resume(transcript),
                Err(problem) => note(Tone::Error, format!("{} was not loaded: {problem}", path.display())),
            },
            FileEvent::Attached { path, result, replaced } => {
                self.reading = self.reading.saturating_sub(1);
                match result {
                    Ok(file) => self.beside(file, replaced),
                    Err(problem) => self.not_beside(format!("{} cannot be read: {problem}", path.display())),
                }
            }
            FileEvent::NotKept(problem) => {
                self.keeps = false;
                note(Tone::Warning, format!("The conversation is not kept for the next start: {problem}"))
            }
        }
    }

    fn resume(&mut self, transcript: Transcript) -> Vec<Effect> {
        let Transcript { model, system, messages, .. } = transcript;
        let mut effects = Vec::new();
        if model != self.facts.model {
            effects.extend(note(Tone::Dim, format!("This conversation was with {model}.")));
        }
        if system.is_some() && !self.facts.supports_system {
            effects.extend(note(
                Tone::Warning,
                "Its system prompt is left out: this model's chat template takes none.",
            ));
            self.system = None;
        } else {
            self.system = system;
        }
        effects.extend(note(Tone::Dim, format!("Loaded {}.", count_words(messages.len()))));
        self.forget(messages);
        effects
    }
}

/// Questions and answers, as every remark counts them.
pub(super) fn count_words(messages: usize) -> String {
    if messages == 1 { "1 message".to_owned() } else { format!("{messages} messages") }
}
