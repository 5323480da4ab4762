//! Files of the conversation: saved, kept, exported, laid beside a question, and what goes to the clipboard.

use std::path::{Path, PathBuf};

use moelten_loader::text::chat::Role;

use super::{Attachment, Busy, Chat, Effect, Room, note};
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
    /// The conversation of the last time was read; a system prompt that was given since counts.
    Last {
        /// The file.
        path: PathBuf,
        /// Its content.
        text: String,
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
    /// Whether the conversation is now kept for the next start, or why not.
    Kept(Result<(), String>),
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
        Transcript::new(&self.facts.model, self.system.clone(), self.standing().into_owned()).to_json()
    }

    pub(super) fn save(&self, path: PathBuf) -> Vec<Effect> {
        if self.turns.is_empty() {
            return note(Tone::Error, "There is nothing to save yet.");
        }
        let (text, messages) = (self.transcript(), self.standing().len());
        vec![Effect::Write { path, text, messages, replace: Replace::Conversation }]
    }

    pub(super) fn export(&self, format: Export, path: PathBuf) -> Vec<Effect> {
        if self.turns.is_empty() {
            return note(Tone::Error, "There is nothing to export yet.");
        }
        let (system, turns) = (self.system.as_deref(), self.standing());
        let text = match format {
            Export::Markdown => transcript::to_markdown(&self.facts.model, system, &turns),
            Export::Json => transcript::to_messages(system, &turns),
        };
        vec![Effect::Write { path, text, messages: turns.len(), replace: Replace::Nothing }]
    }

    pub(super) fn attach(&mut self, what: FileUse) -> Vec<Effect> {
        match what {
            FileUse::Put(path) => {
                self.reading += 1;
                vec![Effect::Attach { path }]
            }
            FileUse::Show => note(Tone::Dim, self.beside_words()),
            FileUse::Off(name) => {
                if !self.take_off(name.as_deref()) {
                    let name = name.unwrap_or_default();
                    return note(Tone::Error, format!("There is no {name:?}. {}", self.beside_words()));
                }
                let taken = name.map_or_else(String::new, |name| format!("{name} was taken away. "));
                note(Tone::Dim, format!("{taken}{}", self.beside_words()))
            }
        }
    }

    /// Files that go with the next question: those beside one that has no answer, and those laid beside it since.
    pub fn beside(&self) -> impl Iterator<Item = &Attachment> {
        let unanswered = self.turns.last().filter(|_| self.has_unanswered());
        unanswered.into_iter().flat_map(|turn| &turn.files).chain(&self.attached)
    }

    /// Whether the last question has no answer, none is being written, and it is not being written anew.
    fn has_unanswered(&self) -> bool {
        self.waiting() && !self.editing() && !matches!(self.busy, Some(Busy::Answer { .. }))
    }

    /// Takes a file away, or all; false if there is none of that name.
    fn take_off(&mut self, name: Option<&str>) -> bool {
        let Some(name) = name else {
            self.attached.clear();
            if self.has_unanswered() {
                self.turns.last_mut().into_iter().for_each(|turn| turn.files.clear());
                self.room = Room::Unknown;
            }
            return true;
        };
        let last = |files: &[Attachment]| files.iter().rposition(|file| file.name == name);
        if let Some(place) = last(&self.attached) {
            self.attached.remove(place);
            return true;
        }
        let unanswered = if self.has_unanswered() { self.turns.last_mut() } else { None };
        match unanswered.and_then(|turn| last(&turn.files).map(|place| turn.files.remove(place))) {
            Some(_) => {
                self.room = Room::Unknown;
                true
            }
            None => false,
        }
    }

    /// Puts the files of a question that was given up beside the next one, but for those that the last one has.
    pub(super) fn lie_beside(&mut self, files: &[Attachment]) {
        let last = self.turns.iter().rfind(|turn| turn.role == Role::User);
        let theirs: &[Attachment] = last.map_or(&[], |turn| &turn.files);
        let new = files.iter().filter(|file| !theirs.contains(file) && !self.attached.contains(file));
        let new: Vec<_> = new.cloned().collect();
        self.attached.extend(new);
    }

    fn beside_words(&self) -> String {
        let words: Vec<_> = self.beside().map(Attachment::words).collect();
        if words.is_empty() {
            return "No file lies beside the next question; /file FILE puts one there.".to_owned();
        }
        format!("Beside the next question: {}.", words.join(", "))
    }

    /// A file was read; one that no context holds is refused before the question is.
    fn put_beside(&mut self, file: Attachment, replaced: bool) -> Vec<Effect> {
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
        if self.reading == 0
            && let Some(question) = self.take_back()
        {
            effects.extend(self.ask(question));
        }
        effects
    }

    fn not_beside(&mut self, problem: String) -> Vec<Effect> {
        let mut effects = note(Tone::Error, problem);
        if self.take_back().is_some() {
            effects.extend(note(Tone::Error, "The question was not sent; Up brings it back."));
        }
        effects
    }

    /// The person does not want to send the question that waits for its files: here it is.
    pub fn take_back(&mut self) -> Option<String> {
        match self.busy.take_if(|busy| matches!(busy, Busy::Reading { .. })) {
            Some(Busy::Reading { question }) => Some(question),
            _ => None,
        }
    }

    pub(super) fn copy(&self, what: Copied) -> Vec<Effect> {
        let turns = self.standing();
        let answer = turns.iter().rfind(|turn| turn.role == Role::Assistant);
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
            FileEvent::Read { path, result: Ok(text) } => self.load(&path, &text, false),
            FileEvent::Last { path, text } => self.load(&path, &text, true),
            FileEvent::Attached { path, result, replaced } => {
                self.reading = self.reading.saturating_sub(1);
                match result {
                    Ok(file) => self.put_beside(file, replaced),
                    Err(problem) => self.not_beside(format!("{} cannot be read: {problem}", path.display())),
                }
            }
            FileEvent::Kept(result) => self.kept_or_not(result),
        }
    }

    /// Every answer is another try; only what changes is said.
    fn kept_or_not(&mut self, result: Result<(), String>) -> Vec<Effect> {
        let before = std::mem::replace(&mut self.kept_last, result.is_ok());
        match result {
            Ok(()) if !before => note(Tone::Dim, "The conversation is kept for the next start again."),
            Err(problem) if before => {
                note(Tone::Warning, format!("The conversation is not kept for the next start: {problem}"))
            }
            _ => Vec::new(),
        }
    }

    /// Goes on with the conversation in a file. If a system prompt is there before, either that one counts or its own.
    fn load(&mut self, path: &Path, text: &str, before_counts: bool) -> Vec<Effect> {
        let transcript = match Transcript::from_json(text) {
            Ok(transcript) => transcript,
            Err(problem) => {
                return note(Tone::Error, format!("{} was not loaded: {problem}", path.display()));
            }
        };
        let Transcript { model, system, messages, .. } = transcript;
        let mut effects = Vec::new();
        if model != self.facts.model {
            effects.extend(note(Tone::Dim, format!("This conversation was with {model}.")));
        }
        self.system = match (self.system.take(), system) {
            (Some(given), saved) if before_counts => {
                if saved.as_ref() != Some(&given) {
                    let text = "The system prompt is the one you gave now, not the conversation's own.";
                    effects.extend(note(Tone::Warning, text));
                }
                Some(given)
            }
            (_, Some(_)) if !self.facts.supports_system => {
                let text = "Its system prompt is left out: this model's chat template takes none.";
                effects.extend(note(Tone::Warning, text));
                None
            }
            (before, saved) => {
                if before.is_some() && before != saved {
                    let own = if saved.is_some() {
                        "Its own system prompt counts"
                    } else {
                        "It has no system prompt"
                    };
                    effects.extend(note(Tone::Warning, format!("{own}, not the one from before.")));
                }
                saved
            }
        };
        effects.extend(note(Tone::Dim, format!("Loaded {}.", count_words(messages.len()))));
        self.forget(messages);
        effects
    }
}

/// Questions and answers, as every remark counts them.
pub(super) fn count_words(messages: usize) -> String {
    if messages == 1 { "1 message".to_owned() } else { format!("{messages} messages") }
}
