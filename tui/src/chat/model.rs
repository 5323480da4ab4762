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
        let thought = self.thinks;
        match think {
            None => self.thoughts_shown = !self.thoughts_shown,
            Some(Think::Off) if !self.facts.can_skip_thinking => {
                let text =
                    "This model's chat template cannot ask it not to think; /think hide folds thoughts away.";
                return note(Tone::Error, text);
            }
            Some(Think::Off) => {
                self.thinks = false;
                return note(Tone::Dim, "From the next answer on the model is asked not to think.");
            }
            Some(shown) => {
                self.thoughts_shown = shown == Think::Show;
                self.thinks = true;
            }
        }
        let shown =
            if self.thoughts_shown { "Thoughts are shown." } else { "Thoughts are folded to a line." };
        let asked = match (thought, self.thinks) {
            (true, _) => "",
            (false, true) => " From the next answer on the model may think again.",
            (false, false) => " The model is asked not to think, as before.",
        };
        note(Tone::Dim, format!("{shown}{asked}"))
    }

    pub(super) fn switch(&mut self, model: Option<PathBuf>) -> Vec<Effect> {
        self.busy = Some(Busy::Switch);
        vec![Effect::Switch(model)]
    }

    pub(super) fn switched(&mut self, result: Result<Box<Switched>, NotSwitched>) -> Vec<Effect> {
        self.busy = None;
        if result.as_ref().err().is_none_or(NotSwitched::closed) {
            // The cache of whatever is open now has given nothing back yet.
            self.given_back = 0;
        }
        let before = &self.facts.model;
        match result {
            Err(why) => {
                let mut effects = match why {
                    NotSwitched::Stopped(_) => {
                        note(Tone::Dim, format!("The other model was given up. {before} is open as before."))
                    }
                    NotSwitched::Refused(why, _) => {
                        note(Tone::Error, format!("{why}. {before} is open as before."))
                    }
                    NotSwitched::NothingOpen(why) => {
                        note(Tone::Error, format!("{why}. No model is open now; /model FILE opens one."))
                    }
                };
                if self.asking.is_some() {
                    effects.push(Effect::Ask);
                }
                effects
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
                if !self.thinks && !facts.can_skip_thinking {
                    (self.thinks, self.thoughts_shown) = (true, false);
                    let text = "This model cannot be asked not to think; thoughts are folded.";
                    effects.extend(note(Tone::Warning, text));
                }
                self.facts = facts;
                self.params = params;
                self.last = None;
                self.room = Room::Unknown;
                self.warned = false;
                // It was about the model from before.
                self.asking = None;
                effects
            }
        }
    }
}
