//! What was said once more: another answer, more of one, the last question anew, turns taken back. Nothing that is replaced
//! is gone before there is something in its place.

use std::borrow::Cow;

use moelten_loader::text::chat::Role;

use super::{Before, Busy, Chat, Effect, Room, Turn, note};
use crate::terminal::Tone;

impl Chat {
    pub(super) fn retry(&mut self) -> Vec<Effect> {
        if self.turns.is_empty() {
            return note(Tone::Error, "There is no question yet.");
        }
        let mut effects = Vec::new();
        if !self.waiting() && self.params.sampler.temperature == 0.0 {
            effects.extend(note(
                Tone::Warning,
                "The temperature is 0, so the answer will be the same; /set temp 0.8 changes that.",
            ));
        }
        effects.push(self.anew());
        effects
    }

    /// Asks the last question again; its answer, if there is one, is replaced.
    pub(super) fn anew(&mut self) -> Effect {
        let replaced = self.turns.pop_if(|turn| turn.role == Role::Assistant);
        self.request(String::new(), Vec::from_iter(replaced))
    }

    pub(super) fn more(&mut self) -> Vec<Effect> {
        match self.turns.pop_if(|turn| turn.role == Role::Assistant) {
            Some(answer) => vec![self.request(answer.content.clone(), vec![answer])],
            None => note(Tone::Error, "There is no answer to go on with."),
        }
    }

    /// Asks a question in the place of the last one and its answer.
    pub(super) fn ask_instead(&mut self, question: Turn) -> Effect {
        let from = self.last_question().unwrap_or(self.turns.len());
        let replaced = self.turns.split_off(from);
        self.turns.push(question);
        // A question without an answer is no loss.
        let before = match replaced.len() {
            0 | 1 => Before { from: self.turns.len(), turns: Vec::new() },
            _ => Before { from, turns: replaced },
        };
        self.request_or(String::new(), before)
    }

    fn last_question(&self) -> Option<usize> {
        self.turns.iter().rposition(|turn| turn.role == Role::User)
    }

    /// The conversation without the answer that is being written: what that replaces is still part of it.
    pub(super) fn standing(&self) -> Cow<'_, [Turn]> {
        match &self.busy {
            Some(Busy::Answer { before: Before { from, turns }, .. }) if !turns.is_empty() => {
                Cow::Owned([&self.turns[..*from], turns].concat())
            }
            _ => Cow::Borrowed(&self.turns),
        }
    }

    pub(super) fn edit(&mut self) -> Vec<Effect> {
        if self.reading > 0 {
            // It would come to lie beside the other question.
            return note(Tone::Error, "That has to wait: a file for the next question is still being read.");
        }
        let Some(question) = self.last_question() else {
            return note(Tone::Error, "There is no question yet.");
        };
        let Turn { content, files, .. } = self.turns[question].clone();
        self.editing = Some(std::mem::replace(&mut self.attached, files));
        vec![Effect::Compose(content)]
    }

    /// The person does not want to change the last question after all.
    pub fn stop_editing(&mut self) {
        if let Some(before) = self.editing.take() {
            self.attached = before;
        }
    }

    pub(super) fn leave_as_it_was(&mut self) -> Vec<Effect> {
        self.stop_editing();
        note(Tone::Dim, "The last question stays as it was.")
    }

    pub(super) fn undo(&mut self, turns: usize) -> Vec<Effect> {
        if self.turns.is_empty() {
            return note(Tone::Error, "There is nothing to take back.");
        }
        let questions = self.turns.iter().filter(|turn| turn.role == Role::User).count();
        let left = questions.saturating_sub(turns);
        self.turns.truncate(2 * left);
        self.warned = false;
        self.asking = None;
        self.room = Room::Unknown;
        // The model sees again what it did not, if nothing else is left.
        if self.turns.len() <= self.forgotten {
            self.forgotten = 0;
            self.summary = None;
        }
        let plural = |count: usize| if count == 1 { "turn" } else { "turns" };
        let taken = questions - left;
        let mut effects =
            note(Tone::Dim, format!("Took back {taken} {}; {left} {} left.", plural(taken), plural(left)));
        effects.extend(self.kept());
        effects
    }
}
