//! Earlier conversations: listing them, going back to one with its model and settings, and copying the
//! present one. It must not know where they are stored.

use std::path::{Path, PathBuf};

use super::event::ChatEffect;
use super::reports::count_text;
use super::session_entry::SessionEntry;
use super::state::{Chat, note};
use super::tone::Tone;
use super::transcript::{BUILT_IN, SavedSettings, Transcript};
use crate::input::settings::Setting;
use crate::markdown::filter;

/// The model of a saved conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SavedModel {
    /// The file does not say where the model is; its name.
    Unknown(String),
    /// The built-in one.
    BuiltIn,
    /// This file or folder.
    At(PathBuf),
}

/// The model of a saved conversation; `None` if the text is none.
pub fn saved_model(text: &str) -> Option<SavedModel> {
    Transcript::from_json(text).ok().map(|transcript| transcript.saved_model())
}

impl Transcript {
    fn saved_model(&self) -> SavedModel {
        match self.file.as_deref() {
            None => SavedModel::Unknown(self.model.clone()),
            Some(BUILT_IN) => SavedModel::BuiltIn,
            Some(path) => SavedModel::At(PathBuf::from(path)),
        }
    }
}

impl Chat {
    /// These settings were given at the start; `--continue` does not change them.
    pub fn fix_settings(&mut self, names: &[&str]) {
        self.fixed = names.iter().filter_map(|name| Setting::named(name)).collect();
    }

    /// The settings as a saved conversation has them.
    pub(super) fn saved_settings(&self) -> SavedSettings {
        let value = |setting: Setting| (setting.name().to_owned(), setting.get(&self.params));
        let values = Setting::ALL.into_iter().filter(|setting| *setting != Setting::Stop).map(value);
        SavedSettings { values: values.collect(), stop: self.params.stop.clone(), think: self.thinks }
    }

    /// Takes the settings of a saved conversation; with `keep_fixed` except those given at the start.
    pub(super) fn restore_settings(&mut self, saved: &SavedSettings, keep_fixed: bool) -> Vec<ChatEffect> {
        let free = |fixed: &[Setting], setting| !(keep_fixed && fixed.contains(&setting));
        let mut effects = Vec::new();
        for (name, value) in &saved.values {
            // Another version of the program may have other settings.
            let Some(setting) = Setting::named(name).filter(|it| free(&self.fixed, *it)) else { continue };
            if let Err(problem) = setting.set(&mut self.params, value) {
                effects.extend(note(Tone::Warning, format!("A saved setting was ignored: {problem}.")));
            }
        }
        if free(&self.fixed, Setting::Stop) {
            self.params.stop = saved.stop.clone();
        }
        self.thinks = saved.think || !self.facts.can_skip_thinking;
        effects
    }

    pub(super) fn open_session(&mut self, number: usize) -> Vec<ChatEffect> {
        match self.sessions.get(number.wrapping_sub(1)) {
            Some(entry) => vec![ChatEffect::Resume { path: entry.path.clone() }],
            None if self.sessions.is_empty() => note(Tone::Error, "/sessions lists the conversations first."),
            None => note(
                Tone::Error,
                format!("There is no conversation {number}; /sessions lists {}.", self.sessions.len()),
            ),
        }
    }

    /// The list for `/sessions` in line mode.
    pub(super) fn list_sessions(&mut self, found: Vec<SessionEntry>) -> Vec<ChatEffect> {
        self.sessions = found;
        if self.sessions.is_empty() {
            return note(Tone::Plain, "No conversation is saved yet.");
        }
        let row = |(index, entry): (usize, &SessionEntry)| {
            let (title, when) = (&entry.title, entry.when());
            let (model, open) = (filter::clean_line(&entry.model), if entry.open { ", open" } else { "" });
            let count = count_text(entry.messages);
            format!("  {:>2}  {title}\n      {when}, {count}, {model}{open}", index + 1)
        };
        let rows: Vec<_> = self.sessions.iter().enumerate().map(row).collect();
        note(Tone::Plain, format!("{}\n/sessions N opens the Nth.", rows.join("\n")))
    }

    /// Copies the conversation: the copy is on the screen from here on, the original stays in the list.
    pub(super) fn fork(&mut self) -> Vec<ChatEffect> {
        if self.turns.is_empty() {
            return note(Tone::Error, "There is nothing to copy yet.");
        }
        if !self.keeps {
            return note(Tone::Error, "This chat is not saved, so there is nothing to copy from later.");
        }
        let mut effects = vec![ChatEffect::NewFile];
        effects.extend(self.keep());
        let text = "This is a copy from here on. /sessions has the original as it was.";
        effects.extend(note(Tone::Dim, text));
        effects
    }

    /// A conversation of the list was read: opens its model, if that is another one, and then the
    /// conversation.
    pub(super) fn resumed(&mut self, path: &Path, text: &str, shared: bool) -> Vec<ChatEffect> {
        let transcript = match Transcript::from_json(text) {
            Ok(transcript) => transcript,
            Err(problem) => {
                return note(Tone::Error, format!("{} was not opened: {problem}", path.display()));
            }
        };
        let mut effects = Vec::new();
        if shared {
            let text = "Another chat has this conversation open; this one goes on with a copy.";
            effects.extend(note(Tone::Warning, text));
        }
        let model = match transcript.saved_model() {
            SavedModel::Unknown(_) => None,
            SavedModel::BuiltIn => Some(None),
            SavedModel::At(path) => Some(Some(path)),
        };
        match model.filter(|model| *model != self.facts.path) {
            Some(model) => {
                self.resuming = Some(Box::new(transcript));
                effects.extend(self.switch(model));
            }
            None => effects.extend(self.take_over(transcript, false)),
        }
        effects
    }
}
