//! What the model is told besides questions: a system prompt and whether to reason. And the switch to another
//! model.

use std::path::PathBuf;

use super::backend::{NotSwitched, Switched};
use super::event::ChatEffect;
use super::state::{Busy, Chat, Meter, note};
use super::tone::Tone;
use crate::input::command::Reasoning;

impl Chat {
    pub(super) fn set_system(&mut self, text: Option<String>) -> Vec<ChatEffect> {
        match text {
            None => note(Tone::Plain, format!("system prompt: {}", self.system_text())),
            Some(text) if text.is_empty() => {
                self.system = None;
                self.meter = Meter::Unknown;
                note(Tone::Dim, "System prompt removed.")
            }
            Some(_) if !self.facts.supports_system => {
                let text = "This model's chat template takes no system prompt; put it into a message.";
                note(Tone::Error, text)
            }
            Some(text) => {
                self.system = Some(text);
                self.meter = Meter::Unknown;
                note(Tone::Dim, "System prompt set; it applies to the next answer.")
            }
        }
    }

    pub(super) fn set_reasoning(&mut self, reasoning: Option<Reasoning>) -> Vec<ChatEffect> {
        let before = self.thinks;
        match reasoning {
            None => self.reasoning_shown = !self.reasoning_shown,
            Some(Reasoning::Off) if !self.facts.can_skip_thinking => {
                let text = "This model's chat template cannot switch reasoning off; /think hide hides it.";
                return note(Tone::Error, text);
            }
            Some(Reasoning::Off) => {
                self.thinks = false;
                return note(Tone::Dim, "Reasoning is off from the next answer on.");
            }
            Some(shown) => {
                self.reasoning_shown = shown == Reasoning::Show;
                self.thinks = true;
            }
        }
        let shown = if self.reasoning_shown { "Reasoning is shown." } else { "Reasoning is hidden." };
        let allowed = match (before, self.thinks) {
            (true, _) => "",
            (false, true) => " It is on again from the next answer on.",
            (false, false) => " It is still off.",
        };
        note(Tone::Dim, format!("{shown}{allowed}"))
    }

    pub(super) fn switch(&mut self, model: Option<PathBuf>) -> Vec<ChatEffect> {
        self.busy = Some(Busy::Switching);
        vec![ChatEffect::Switch(model)]
    }

    pub(super) fn switched(&mut self, result: Result<Box<Switched>, NotSwitched>) -> Vec<ChatEffect> {
        self.busy = None;
        if result.as_ref().err().is_none_or(NotSwitched::closed) {
            // A model that was just opened has given nothing back yet.
            self.given_back = 0;
            self.gpu_lost = false;
        }
        let mut effects = match result {
            Err(why) => self.not_switched(why),
            Ok(switched) => self.switched_to(*switched),
        };
        // Without its model a conversation is opened all the same; a note says with which it was.
        if let Some(transcript) = self.resuming.take() {
            effects.extend(self.take_over(*transcript, false));
        }
        effects
    }

    fn not_switched(&self, why: NotSwitched) -> Vec<ChatEffect> {
        let previous = &self.facts.model;
        let mut effects = match why {
            NotSwitched::Stopped(_) => note(Tone::Dim, format!("Cancelled. {previous} is still open.")),
            NotSwitched::Refused(why, _) => note(Tone::Error, format!("{why}. {previous} is still open.")),
            NotSwitched::NothingOpen(why) => {
                note(Tone::Error, format!("{why}. No model is open now; /model FILE opens one."))
            }
        };
        if self.overflow.is_some() {
            effects.push(ChatEffect::Ask);
        }
        effects
    }

    fn switched_to(&mut self, switched: Switched) -> Vec<ChatEffect> {
        let Switched { facts, params } = switched;
        let text = format!("Switched to {}, with its recommended settings.", facts.model);
        let mut effects = note(Tone::Dim, text);
        if self.system.is_some() && !facts.supports_system {
            self.system = None;
            let text = "The system prompt was removed: this model's chat template takes none.";
            effects.extend(note(Tone::Warning, text));
        }
        if !self.thinks && !facts.can_skip_thinking {
            (self.thinks, self.reasoning_shown) = (true, false);
            let text = "This model's chat template cannot switch reasoning off; it is hidden instead.";
            effects.extend(note(Tone::Warning, text));
        }
        self.facts = facts;
        self.params = params;
        self.last = None;
        self.meter = Meter::Unknown;
        self.warned = false;
        // It was about the previous model's context.
        self.overflow = None;
        effects
    }
}
