//! The transitions of the conversation: from an event to the file that handles it. It must not know how the
//! conversation is shown.

use std::time::Duration;

use moelten_loader::text::chat::Speaker;

use super::event::{ChatEffect, ChatEvent, Overwrite};
use super::reports;
use super::state::{Busy, Chat, Interrupt, note};
use super::tone::Tone;
use super::turn::Turn;
use crate::input::command::{self, Command};
use crate::input::completion::mentions;
use crate::input::settings::Setting;

/// A second Ctrl-C within this time after one that stopped an answer ends the program.
pub const FORCE_QUIT_WITHIN: Duration = Duration::from_secs(1);
/// A second Ctrl-C at the prompt ends the program within this time: as long as the hint is on the screen.
const QUIT_WITHIN: Duration = Duration::from_secs(5);

impl Chat {
    /// Handles an event; returns what the driver has to do.
    pub fn handle(&mut self, event: ChatEvent) -> Vec<ChatEffect> {
        let mut effects = self.dispatch(event);
        effects.extend(self.count_request());
        effects
    }

    fn dispatch(&mut self, event: ChatEvent) -> Vec<ChatEffect> {
        let interrupted = self.interrupted.take();
        match event {
            ChatEvent::Entered(text) => self.entered(text),
            ChatEvent::Interrupted(_) if self.editing() => self.cancel_edit(),
            ChatEvent::Interrupted(now) => {
                let again = match interrupted {
                    Some(Interrupt::Idle(then)) => now.saturating_sub(then) <= QUIT_WITHIN,
                    Some(Interrupt::Stopped(then)) => now.saturating_sub(then) <= FORCE_QUIT_WITHIN,
                    None => false,
                };
                if again {
                    return vec![ChatEffect::Quit];
                }
                self.interrupted = Some(Interrupt::Idle(now));
                note(Tone::Dim, "Press Ctrl-C again to quit (or Ctrl-D, or /quit).")
            }
            ChatEvent::EndOfInput => vec![ChatEffect::Quit],
            ChatEvent::Answered(answer, now) => self.answered(*answer, now),
            ChatEvent::Failed { shown, failure } => self.failed(shown, failure),
            ChatEvent::File(event) => self.file(event),
            ChatEvent::Picked(_) if self.busy() => note(Tone::Error, self.busy_text()),
            ChatEvent::Picked(model) => self.switch(model),
            ChatEvent::Chosen(choice) => self.chosen(choice),
            ChatEvent::Switched(result) => self.switched(result),
            ChatEvent::Counted { number, tokens } => self.counted(number, tokens),
        }
    }

    fn entered(&mut self, text: String) -> Vec<ChatEffect> {
        if let Some(choice) = self.choice(&text) {
            return self.chosen(choice);
        }
        match command::parse(&text) {
            _ if text.trim().is_empty() && self.editing() => self.cancel_edit(),
            _ if text.trim().is_empty() => Vec::new(),
            None => self.ask(text),
            Some(Ok(command)) => self.command(command),
            Some(Err(problem)) => note(Tone::Error, problem),
        }
    }

    fn command(&mut self, command: Command) -> Vec<ChatEffect> {
        if self.busy() && command.changes_turns() {
            return note(Tone::Error, self.busy_text());
        }
        if command.changes_turns() {
            self.stop_editing();
        }
        match command {
            Command::Help => note(Tone::Plain, reports::help()),
            Command::Set(None) => note(Tone::Plain, self.settings_text()),
            Command::Set(Some((setting, value))) => self.set(setting, &value),
            Command::Show => note(Tone::Plain, self.show_text()),
            Command::System(text) => self.set_system(text),
            Command::Retry => self.retry(),
            Command::Undo(turns) => self.undo(turns),
            Command::Edit => self.edit(),
            Command::More => self.more(),
            Command::File(what) => self.attach(what),
            Command::Clear => self.clear(),
            Command::Save(path) => self.save(path, Overwrite::SavedConversation),
            Command::SaveOver(path) => self.save(path, Overwrite::Any),
            Command::Sessions(None) => vec![ChatEffect::Sessions],
            Command::Sessions(Some(number)) => self.open_session(number),
            Command::Fork => self.fork(),
            Command::Load(path) => vec![ChatEffect::Read { path }],
            Command::Export(format, path) => self.export(format, path),
            Command::Think(reasoning) => self.set_reasoning(reasoning),
            Command::Stats => note(Tone::Plain, self.stats_text()),
            Command::Model(Some(path)) => self.switch(Some(path)),
            Command::Model(None) => {
                let text = format!("The model is {}. /model FILE switches to another one.", self.facts.model);
                note(Tone::Plain, text)
            }
            Command::Copy(what) => self.copy(what),
            Command::Mouse(_) | Command::Markdown(_) => {
                note(Tone::Error, "This needs the full screen; line mode prints answers as they are written.")
            }
            Command::Experts => note(Tone::Error, "The expert view needs the full screen."),
            Command::Quit => vec![ChatEffect::Quit],
        }
    }

    fn set(&mut self, setting: Setting, value: &str) -> Vec<ChatEffect> {
        match setting.set(&mut self.params, value) {
            Ok(()) => {
                if setting == Setting::Seed {
                    // The next answers depend on this seed alone, not on how many came before.
                    self.answers = 0;
                }
                note(Tone::Dim, format!("{} is {}", setting.name(), setting.get(&self.params)))
            }
            Err(problem) => note(Tone::Error, problem),
        }
    }

    fn clear(&mut self) -> Vec<ChatEffect> {
        let kept = self.keeps && !self.turns.is_empty();
        self.replace_turns(Vec::new());
        let text = "New conversation. Settings and system prompt are unchanged.";
        let old = if kept { " /sessions has the old one." } else { "" };
        let mut effects = if self.keeps { vec![ChatEffect::NewFile] } else { Vec::new() };
        effects.extend(note(Tone::Dim, format!("{text}{old}")));
        effects
    }

    /// Sends a question, or holds it until its files are read: those of `/file` and those that it mentions.
    fn ask(&mut self, text: String) -> Vec<ChatEffect> {
        if self.busy() {
            return note(Tone::Error, self.busy_text());
        }
        let mentioned = mentions(&text);
        if !mentioned.is_empty() {
            return self.attach_mentioned(mentioned, text);
        }
        if self.reading > 0 {
            self.busy = Some(Busy::Reading { question: text });
            return note(Tone::Dim, "The message will be sent when the attached file is read.");
        }
        self.send(text)
    }

    /// Sends a question with the files that are attached.
    pub(super) fn send(&mut self, text: String) -> Vec<ChatEffect> {
        if let Some(before) = self.editing.take() {
            let files = std::mem::replace(&mut self.attached, before);
            return vec![self.replace_question(Turn { role: Speaker::User, content: text, files })];
        }
        let mut effects = Vec::new();
        let mut files = Vec::new();
        if let Some(unanswered) = self.turns.pop_if(|turn| turn.role == Speaker::User) {
            effects.extend(note(Tone::Dim, dropped_text(&unanswered)));
            files = unanswered.files;
        }
        files.append(&mut self.attached);
        let turn = Turn { role: Speaker::User, content: text, files };
        effects.extend(self.warn_of_lost_characters(&turn));
        self.turns.push(turn);
        effects.push(self.request(String::new(), Vec::new()));
        effects
    }

    /// Says which characters of a message the model will not see.
    fn warn_of_lost_characters(&self, turn: &Turn) -> Vec<ChatEffect> {
        let missing = &self.facts.unspellable;
        if missing.is_empty() {
            return Vec::new();
        }
        let texts = turn.files.iter().map(|file| &*file.text).chain([turn.content.as_str()]);
        let is_lost = |c: &char| c.encode_utf8(&mut [0; 4]).bytes().any(|byte| missing.contains(&byte));
        let mut lost = texts.flat_map(str::chars).filter(is_lost);
        let Some(first) = lost.next() else { return Vec::new() };
        let count = 1 + lost.count();
        let plural = if count == 1 { "character has" } else { "characters have" };
        let text = format!(
            "{count} {plural} no token in this model's vocabulary, the first is {first:?}. The model does not see \
             them."
        );
        note(Tone::Warning, text)
    }

    /// The program ends while `written` is there of an answer. Returns the conversation to save, if it has
    /// not been saved.
    pub fn leave(&mut self, written: &str) -> Option<ChatEffect> {
        match self.busy.take() {
            Some(Busy::Answering { begun, replaced }) => {
                drop(self.settle(begun, replaced, written.to_owned()))
            }
            _ if self.kept_last => return None,
            _ => {}
        }
        self.keep()
    }
}

/// What to say when a question without an answer is replaced by another one.
fn dropped_text(question: &Turn) -> String {
    let names: Vec<_> = question.files.iter().map(|file| file.name.as_str()).collect();
    let files = if names.is_empty() {
        String::new()
    } else {
        format!("; its attached files go with this one ({})", names.join(", "))
    };
    format!("The previous message has no answer and was dropped{files}.")
}
