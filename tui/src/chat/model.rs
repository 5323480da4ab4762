//! What is asked of the model beside questions: a system prompt, not to think, and that another one takes its place.

use std::path::PathBuf;

use super::{Busy, Chat, Effect, Room, note};
use crate::backend::{NotSwitched, Switched};
use crate::command::Think;
use crate::terminal::Tone;

impl Chat {
    pub(super) fn set_system(&mut self, text: Option<String>) -> Vec<Effect> {
        match text {
            None => note(Tone::Plain, format!("system prompt: {}", self.system_text())),
            Some(text) if text.is_empty() => {
                self.system = None;
                self.room = Room::Unknown;
                note(Tone::Dim, "There is no system prompt now.")
            }
            Some(_) if !self.facts.supports_system => {
                note(Tone::Error, "This model's chat template takes no system prompt; say it in a question.")
            }
            Some(text) => {
                self.system = Some(text);
                self.room = Room::Unknown;
                note(Tone::Dim, "The system prompt counts from the next answer on.")
            }
        }
    }

    pub(super) fn set_think(&mut self, think: Option<Think>) -> Vec<Effect> {
        let skips = self.facts.can_skip_thinking;
        let think = think.unwrap_or(if self.think == Think::Show { Think::Hide } else { Think::Show });
        if think == Think::Off && !skips {
            let text =
                "This model's chat template cannot ask it not to think; /think hide folds thoughts away.";
            return note(Tone::Error, text);
        }
        self.think = think;
        note(
            Tone::Dim,
            match think {
                Think::Show => "Thoughts are shown.",
                Think::Hide => "Thoughts are folded to a line.",
                Think::Off => "From the next answer on the model is asked not to think.",
            },
        )
    }

    pub(super) fn switch(&mut self, model: Option<PathBuf>) -> Vec<Effect> {
        self.busy = Some(Busy::Switch);
        // It was about the model from before.
        self.asking = None;
        vec![Effect::Switch(model)]
    }

    pub(super) fn switched(&mut self, result: Result<Box<Switched>, NotSwitched>) -> Vec<Effect> {
        self.busy = None;
        let before = &self.facts.model;
        match result {
            Err(NotSwitched::Stopped) => {
                note(Tone::Dim, format!("The other model was given up. {before} is open as before."))
            }
            Err(NotSwitched::Refused(why)) => {
                note(Tone::Error, format!("{why}. {before} is open as before."))
            }
            Err(NotSwitched::NothingOpen(why)) => {
                note(Tone::Error, format!("{why}. No model is open now; /model FILE opens one."))
            }
            Ok(switched) => {
                let Switched { facts, params } = *switched;
                let mut effects = note(
                    Tone::Dim,
                    format!("{} answers from now on, with the settings it recommends.", facts.model),
                );
                if self.system.is_some() && !facts.supports_system {
                    self.system = None;
                    let text = "The system prompt is left out: this model's chat template takes none.";
                    effects.extend(note(Tone::Warning, text));
                }
                if self.think == Think::Off && !facts.can_skip_thinking {
                    self.think = Think::Hide;
                    let text = "This model cannot be asked not to think; thoughts are folded.";
                    effects.extend(note(Tone::Warning, text));
                }
                self.facts = facts;
                self.params = params;
                self.last = None;
                self.room = Room::Unknown;
                self.warned = false;
                // The other model's cache has given nothing back yet.
                self.given_back = 0;
                effects
            }
        }
    }
}
