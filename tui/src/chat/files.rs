//! Files of the conversation: saved, kept, exported, laid beside a question, and what goes to the clipboard.

use std::path::PathBuf;

use super::{Chat, Effect, note};
use crate::command::{Copied, Export};
use crate::figures;
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

/// A text beside a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Name for people, unfiltered.
    pub name: String,
    /// Its content.
    pub text: String,
    /// Length in tokens.
    pub tokens: usize,
    /// Whether bytes that are no text were replaced.
    pub replaced: bool,
}

/// The question with the texts that lie beside it, which come first.
pub(super) fn with_attachments(attached: Vec<Attachment>, question: String) -> String {
    let mut whole = String::new();
    for Attachment { name, text, .. } in attached {
        // A fence longer than any in the text.
        let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
        let fence = "`".repeat(longest.max(2) + 1);
        let end = if text.ends_with('\n') { "" } else { "\n" };
        whole.push_str(&format!("File {name}:\n{fence}\n{text}{end}{fence}\n\n"));
    }
    whole + &question
}

impl Chat {
    pub(super) fn transcript(&self) -> String {
        Transcript::new(&self.facts.model, self.system.clone(), self.turns.clone()).to_json()
    }

    pub(super) fn save(&self, path: PathBuf) -> Vec<Effect> {
        if self.turns.is_empty() {
            return note(Tone::Error, "There is nothing to save yet.");
        }
        vec![Effect::Write { path, text: self.transcript(), replace: Replace::Conversation }]
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
        vec![Effect::Write { path, text, replace: Replace::Nothing }]
    }

    pub(super) fn attach(&mut self, path: Option<PathBuf>) -> Vec<Effect> {
        match path {
            Some(path) if path.as_os_str() == "off" => {
                self.attached.clear();
                note(Tone::Dim, "No file lies beside the next question now.")
            }
            Some(path) => {
                self.reading += 1;
                vec![Effect::Attach { path }]
            }
            None if self.attached.is_empty() => {
                note(Tone::Dim, "No file lies beside the next question; /file FILE puts one there.")
            }
            None => {
                let words: Vec<_> = self.attached.iter().map(attachment_words).collect();
                note(Tone::Dim, format!("Beside the next question: {}.", words.join(", ")))
            }
        }
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
            FileEvent::Written { path, result: Ok(()) } => {
                note(Tone::Dim, format!("Saved {} messages to {}.", self.turns.len(), path.display()))
            }
            FileEvent::Written { path, result: Err(problem) } => {
                note(Tone::Error, format!("{} was not saved: {problem}", path.display()))
            }
            FileEvent::Read { path, result: Err(problem) } => {
                note(Tone::Error, format!("{} was not loaded: {problem}", path.display()))
            }
            FileEvent::Read { .. } if self.busy() => {
                note(Tone::Error, "The conversation was not loaded: an answer is being written.")
            }
            FileEvent::Read { path, result: Ok(text) } => match Transcript::from_json(&text) {
                Ok(transcript) => self.resume(transcript),
                Err(problem) => note(Tone::Error, format!("{} was not loaded: {problem}", path.display())),
            },
            FileEvent::Attached { path, result: Err(problem) } => {
                self.reading = self.reading.saturating_sub(1);
                let mut effects = note(Tone::Error, format!("{} cannot be read: {problem}", path.display()));
                if self.held.take().is_some() {
                    effects.extend(note(Tone::Error, "The question was not sent; Up brings it back."));
                }
                effects
            }
            FileEvent::Attached { result: Ok(attachment), .. } => {
                self.reading = self.reading.saturating_sub(1);
                let words = attachment_words(&attachment);
                let mut effects = note(Tone::Dim, format!("Beside the next question: {words}."));
                if attachment.replaced {
                    let text = "Some of it is not valid UTF-8; the wrong bytes were replaced by U+FFFD.";
                    effects.extend(note(Tone::Warning, text));
                }
                self.attached.push(attachment);
                if let Some(question) = self.held.take_if(|_| self.reading == 0) {
                    effects.extend(self.ask(question));
                }
                effects
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
        effects.extend(note(Tone::Dim, format!("Loaded {} messages.", messages.len())));
        self.forget(messages);
        effects
    }
}

/// `notes.txt (12.4 kB, 3100 tokens)`.
pub(super) fn attachment_words(attachment: &Attachment) -> String {
    let Attachment { name, text, tokens, .. } = attachment;
    format!("{name} ({}, {tokens} tokens)", figures::bytes(text.len() as u64))
}
