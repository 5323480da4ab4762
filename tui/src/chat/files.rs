//! `/save` and `/load` of the state machine.

use std::path::PathBuf;

use super::{Chat, Effect, note};
use crate::terminal::Tone;
use crate::transcript::Transcript;

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
}

impl Chat {
    pub(super) fn save(&self, path: PathBuf) -> Vec<Effect> {
        if self.turns.is_empty() {
            return note(Tone::Error, "There is nothing to save yet.");
        }
        let transcript = Transcript::new(&self.facts.model, self.system.clone(), self.turns.clone());
        vec![Effect::Write { path, text: transcript.to_json() }]
    }

    pub(super) fn file(&mut self, event: FileEvent) -> Vec<Effect> {
        match event {
            FileEvent::Written { path, result: Ok(()) } => {
                note(Tone::Dim, format!("Saved {} messages to {}.", self.turns.len(), path.display()))
            }
            FileEvent::Written { path, result: Err(problem) } => {
                note(Tone::Error, format!("{} was not saved: {problem}", path.display()))
            }
            FileEvent::Read { path, result } => match result.and_then(|text| Transcript::from_json(&text)) {
                Ok(transcript) => self.resume(transcript),
                Err(problem) => note(Tone::Error, format!("{} was not loaded: {problem}", path.display())),
            },
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
