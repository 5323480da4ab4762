//! Files and the clipboard: what the conversation saves, loads, exports, attaches and copies. It must not
//! read or write anything; drivers do.

use std::path::{Path, PathBuf};

use moelten_loader::text::chat::Speaker;

use super::event::{AttachError, ChatEffect, FileEvent, Overwrite};
use super::figures;
use super::reports::count_text;
use super::state::{Busy, Chat, Meter, note};
use super::thinking;
use super::tone::Tone;
use super::transcript::{self, BUILT_IN, Transcript};
use super::turn::Attachment;
use crate::input::command::{CopyTarget, ExportFormat, FileCommand};

impl Chat {
    /// The conversation as a saved file.
    pub(super) fn transcript(&self) -> String {
        let (system, turns) = (self.system.clone(), self.settled_turns().into_owned());
        let mut transcript = Transcript::new(&self.facts.model, system, turns);
        // A path that is no text cannot be saved; then the conversation opens with the model that is named.
        let path = self.facts.path.as_ref().map_or(Some(BUILT_IN), |path| path.to_str());
        transcript.file = path.map(str::to_owned);
        transcript.settings = Some(self.saved_settings());
        transcript.unseen = self.unseen();
        transcript.to_json()
    }

    pub(super) fn save(&self, path: PathBuf, overwrite: Overwrite) -> Vec<ChatEffect> {
        if self.turns.is_empty() {
            return note(Tone::Error, "There is nothing to save yet.");
        }
        let turns = self.settled_turns().into_owned();
        let messages = turns.len();
        let transcript = Transcript::new(&self.facts.model, self.system.clone(), turns);
        let text = transcript.stripped().to_json();
        vec![ChatEffect::Write { path, text, messages, overwrite }]
    }

    pub(super) fn export(&self, format: ExportFormat, path: PathBuf) -> Vec<ChatEffect> {
        if self.turns.is_empty() {
            return note(Tone::Error, "There is nothing to export yet.");
        }
        let (system, turns) = (self.system.as_deref(), self.settled_turns());
        let text = match format {
            ExportFormat::Markdown => transcript::to_markdown(&self.facts.model, system, &turns),
            ExportFormat::Json => transcript::to_messages(system, &turns),
        };
        vec![ChatEffect::Write { path, text, messages: turns.len(), overwrite: Overwrite::Never }]
    }

    pub(super) fn attach(&mut self, what: FileCommand) -> Vec<ChatEffect> {
        match what {
            FileCommand::Attach(path) => {
                self.reading += 1;
                vec![ChatEffect::Attach { path, limit: self.context_limit(), mention: false }]
            }
            FileCommand::List => note(Tone::Dim, self.attachments_text()),
            FileCommand::Detach(name) => {
                if !self.detach(name.as_deref()) {
                    let name = name.unwrap_or_default();
                    return note(
                        Tone::Error,
                        format!("No file {name:?} is attached. {}", self.attachments_text()),
                    );
                }
                let detached =
                    name.map_or("Detached all files. ".to_owned(), |name| format!("Detached {name}. "));
                note(Tone::Dim, format!("{detached}{}", self.attachments_text()))
            }
        }
    }

    /// The files of the next question: those of a question without an answer, and those attached since.
    pub fn next_attachments(&self) -> impl Iterator<Item = &Attachment> {
        let unanswered = self.turns.last().filter(|_| self.has_unanswered());
        unanswered.into_iter().flat_map(|turn| &turn.files).chain(&self.attached)
    }

    /// Whether the last question has no answer, none is being computed, and it is not being edited.
    fn has_unanswered(&self) -> bool {
        self.question_is_last() && !self.editing() && !matches!(self.busy, Some(Busy::Answering { .. }))
    }

    /// Detaches a file, or all; false if there is none of that name.
    fn detach(&mut self, name: Option<&str>) -> bool {
        let Some(name) = name else {
            self.attached.clear();
            if self.has_unanswered() {
                self.turns.last_mut().into_iter().for_each(|turn| turn.files.clear());
                self.meter = Meter::Unknown;
            }
            return true;
        };
        let last = |files: &[Attachment]| files.iter().rposition(|file| file.name == name);
        if let Some(at) = last(&self.attached) {
            self.attached.remove(at);
            return true;
        }
        let unanswered = if self.has_unanswered() { self.turns.last_mut() } else { None };
        match unanswered.and_then(|turn| last(&turn.files).map(|at| turn.files.remove(at))) {
            Some(_) => {
                self.meter = Meter::Unknown;
                true
            }
            None => false,
        }
    }

    /// Attaches the files of a withdrawn question to the next one, except those that the last question
    /// already has.
    pub(super) fn reattach(&mut self, files: &[Attachment]) {
        let last = self.turns.iter().rfind(|turn| turn.role == Speaker::User);
        let present: &[Attachment] = last.map_or(&[], |turn| &turn.files);
        let new = files.iter().filter(|file| !present.contains(file) && !self.attached.contains(file));
        let new: Vec<_> = new.cloned().collect();
        self.attached.extend(new);
    }

    fn attachments_text(&self) -> String {
        let files: Vec<_> = self.next_attachments().map(Attachment::description).collect();
        if files.is_empty() {
            return "No file attached. /file FILE attaches one to the next message.".to_owned();
        }
        format!("Attached to the next message: {}.", files.join(", "))
    }

    /// A file was read. One that no context holds is refused at once, before the question is sent.
    fn attach_read(&mut self, file: Attachment) -> Vec<ChatEffect> {
        let context = self.facts.context;
        if context > 0 && file.tokens >= context {
            let text = self.too_long_text(&file.description());
            return self.attach_failed(text);
        }
        if self.next_attachments().any(|present| *present == file) {
            return self.send_waiting();
        }
        let whose = if matches!(self.busy, Some(Busy::Reading { .. })) { "" } else { " to the next message" };
        let mut effects = note(Tone::Dim, format!("Attached{whose}: {}.", file.description()));
        self.attached.push(file);
        effects.extend(self.send_waiting());
        effects
    }

    /// Requests the files that a question mentions; the question waits for them.
    pub(super) fn attach_mentioned(&mut self, names: Vec<String>, question: String) -> Vec<ChatEffect> {
        self.reading += names.len();
        self.busy = Some(Busy::Reading { question });
        let limit = self.context_limit();
        names.into_iter().map(|name| ChatEffect::Attach { path: name.into(), limit, mention: true }).collect()
    }

    /// Sends the question that waits, if all its files are read.
    fn send_waiting(&mut self) -> Vec<ChatEffect> {
        let question = if self.reading == 0 { self.take_waiting_question() } else { None };
        question.map_or_else(Vec::new, |question| self.send(question))
    }

    fn too_long_text(&self, file: &str) -> String {
        let context = self.facts.context;
        format!(
            "{file} does not fit into the context of {context} tokens. Nothing was cut: attach a shorter file, or use a \
             larger --ctx at the start."
        )
    }

    fn attach_failed(&mut self, problem: String) -> Vec<ChatEffect> {
        let mut effects = note(Tone::Error, problem);
        if self.take_waiting_question().is_some() {
            effects.extend(note(Tone::Error, "The message was not sent; Up recalls it."));
        }
        effects
    }

    /// Takes back the question that waits for its files, if there is one.
    pub fn take_waiting_question(&mut self) -> Option<String> {
        match self.busy.take_if(|busy| matches!(busy, Busy::Reading { .. })) {
            Some(Busy::Reading { question }) => Some(question),
            _ => None,
        }
    }

    pub(super) fn copy(&self, what: CopyTarget) -> Vec<ChatEffect> {
        let turns = self.settled_turns();
        let answer = turns.iter().rfind(|turn| turn.role == Speaker::Assistant);
        let Some(answer) = answer.map(|turn| thinking::answer(&turn.content)) else {
            return note(Tone::Error, "There is no answer yet.");
        };
        match what {
            CopyTarget::Answer => vec![ChatEffect::Copy(answer.to_owned())],
            CopyTarget::Code(number) => {
                let blocks = transcript::code_blocks(answer);
                match blocks.get(number - 1) {
                    Some(code) => vec![ChatEffect::Copy(code.clone())],
                    None => {
                        let (count, plural) = (blocks.len(), if blocks.len() == 1 { "" } else { "s" });
                        note(Tone::Error, format!("The last answer has {count} code block{plural}."))
                    }
                }
            }
        }
    }

    pub(super) fn file(&mut self, event: FileEvent) -> Vec<ChatEffect> {
        match event {
            FileEvent::Written { path, messages, result: Ok(()) } => {
                note(Tone::Dim, format!("Saved {} to {}.", count_text(messages), path.display()))
            }
            FileEvent::Written { path, result: Err(problem), .. } => {
                note(Tone::Error, format!("{} was not saved: {problem}", path.display()))
            }
            FileEvent::Read { path, result: Err(problem) } => {
                note(Tone::Error, format!("{} was not loaded: {problem}", path.display()))
            }
            FileEvent::Read { .. } if self.busy() => {
                note(Tone::Error, format!("The conversation was not loaded. {}", self.busy_text()))
            }
            FileEvent::Read { path, result: Ok(text) } => self.load(&path, &text),
            FileEvent::Last { path, text, shared } => self.load_last(&path, &text, shared),
            FileEvent::Sessions(found) => self.list_sessions(found),
            FileEvent::Resumed { .. } if self.busy() => {
                note(Tone::Error, format!("The conversation was not opened. {}", self.busy_text()))
            }
            FileEvent::Resumed { path, result: Ok((text, shared)) } => self.resumed(&path, &text, shared),
            FileEvent::Resumed { path, result: Err(problem) } => {
                note(Tone::Error, format!("{} was not opened: {problem}", path.display()))
            }
            FileEvent::Deleted { result: Ok(()), .. } => note(Tone::Dim, "The conversation was deleted."),
            FileEvent::Deleted { result: Err(problem), .. } => {
                note(Tone::Error, format!("The conversation was not deleted: {problem}."))
            }
            FileEvent::Attached { path, result } => {
                self.reading = self.reading.saturating_sub(1);
                match result {
                    Ok(file) => self.attach_read(file),
                    Err(AttachError::TooLong { bytes, more_than }) => {
                        let size = figures::bytes(bytes);
                        let file = format!("{} ({size}, more than {more_than} tokens)", path.display());
                        let text = self.too_long_text(&file);
                        self.attach_failed(text)
                    }
                    Err(AttachError::Missing) => {
                        let name = path.display().to_string();
                        // `@property` in code, or a name of a person, was not meant to be a file.
                        let meant = name.contains(['.', '/']) && !name.contains('(');
                        let text = format!("There is no file {name}, so @{name} is only text.");
                        let mut effects = if meant { note(Tone::Dim, text) } else { Vec::new() };
                        effects.extend(self.send_waiting());
                        effects
                    }
                    Err(AttachError::Unreadable(problem)) => {
                        self.attach_failed(format!("{} cannot be attached: {problem}", path.display()))
                    }
                }
            }
            FileEvent::Kept(result) => self.kept(result),
        }
    }

    /// The conversation was saved for `--continue`, or not. Only a change from success to failure or back is
    /// reported.
    fn kept(&mut self, result: Result<(), String>) -> Vec<ChatEffect> {
        let before = std::mem::replace(&mut self.kept_last, result.is_ok());
        match result {
            Ok(()) if !before => note(Tone::Dim, "The conversation is saved for --continue again."),
            Err(problem) if before => {
                note(Tone::Warning, format!("The conversation is not saved for --continue: {problem}"))
            }
            _ => Vec::new(),
        }
    }

    /// Replaces the conversation by the one in a file of `/save`. The file stays as it is.
    fn load(&mut self, path: &Path, text: &str) -> Vec<ChatEffect> {
        match Transcript::from_json(text) {
            Ok(mut transcript) => {
                let mut effects = if self.keeps { vec![ChatEffect::NewFile] } else { Vec::new() };
                (transcript.settings, transcript.unseen) = (None, None);
                effects.extend(self.take_over(transcript, false));
                effects
            }
            Err(problem) => note(Tone::Error, format!("{} was not loaded: {problem}", path.display())),
        }
    }

    /// Replaces the conversation by that of `--continue`. A system prompt and settings that were given at the
    /// start stay.
    fn load_last(&mut self, path: &Path, text: &str, shared: bool) -> Vec<ChatEffect> {
        match Transcript::from_json(text) {
            Ok(transcript) => {
                let mut effects = Vec::new();
                if shared {
                    let text = "Another chat has this conversation open; this one goes on with a copy.";
                    effects.extend(note(Tone::Warning, text));
                }
                effects.extend(self.take_over(transcript, true));
                effects
            }
            Err(problem) => note(Tone::Error, format!("{} was not loaded: {problem}", path.display())),
        }
    }

    /// Replaces the conversation and its settings by saved ones. With `keep` a system prompt that is set and
    /// settings given at the start stay.
    pub(super) fn take_over(&mut self, transcript: Transcript, keep: bool) -> Vec<ChatEffect> {
        let Transcript { model, system, messages, settings, unseen, .. } = transcript;
        let mut effects = Vec::new();
        if model != self.facts.model {
            effects.extend(note(Tone::Dim, format!("This conversation was with {model}.")));
        }
        if let Some(settings) = settings {
            effects.extend(self.restore_settings(&settings, keep));
        }
        effects.extend(self.load_system(system, keep));
        effects.extend(note(Tone::Dim, format!("Loaded {}.", count_text(messages.len()))));
        self.replace_turns(messages);
        effects.extend(unseen.map_or_else(Vec::new, |unseen| self.hide_again(unseen)));
        effects
    }

    /// Chooses between the current system prompt and that of a loaded conversation, and says so if they
    /// differ.
    fn load_system(&mut self, saved: Option<String>, keep: bool) -> Vec<ChatEffect> {
        let current = match self.system.take() {
            Some(given) if keep => {
                let differs = saved.as_ref() != Some(&given);
                self.system = Some(given);
                let text = "The system prompt is the one given now, not the conversation's own.";
                return if differs { note(Tone::Warning, text) } else { Vec::new() };
            }
            current => current,
        };
        if saved.is_some() && !self.facts.supports_system {
            let text = "The conversation's system prompt is ignored: this model's chat template takes none.";
            return note(Tone::Warning, text);
        }
        let replaced = current.is_some() && current != saved;
        let text = match &saved {
            Some(_) => "The conversation's own system prompt replaces the previous one.",
            None => "The conversation has no system prompt; the previous one was removed.",
        };
        self.system = saved;
        if replaced { note(Tone::Warning, text) } else { Vec::new() }
    }
}
