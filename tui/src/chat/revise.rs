//! Changes to the end of the conversation: another answer, more of an answer, an edited question, turns
//! removed. What is replaced stays until its replacement is there.

use std::borrow::Cow;

use moelten_loader::text::chat::Speaker;

use super::event::ChatEffect;
use super::state::{Busy, Chat, Meter, Replaced, note};
use super::tone::Tone;
use super::turn::Turn;

impl Chat {
    pub(super) fn retry(&mut self) -> Vec<ChatEffect> {
        if self.turns.is_empty() {
            return note(Tone::Error, "There is no message yet.");
        }
        let mut effects = Vec::new();
        if !self.question_is_last() && self.params.sampler.temperature == 0.0 {
            let text = "The temperature is 0, so the answer will be the same. /set temp 0.8 changes that.";
            effects.extend(note(Tone::Warning, text));
        }
        effects.push(self.answer_again());
        effects
    }

    /// Requests a new answer to the last question, in place of the present one.
    pub(super) fn answer_again(&mut self) -> ChatEffect {
        let replaced = self.turns.pop_if(|turn| turn.role == Speaker::Assistant);
        self.request(String::new(), Vec::from_iter(replaced))
    }

    pub(super) fn more(&mut self) -> Vec<ChatEffect> {
        match self.turns.pop_if(|turn| turn.role == Speaker::Assistant) {
            Some(answer) => vec![self.request(answer.content.clone(), vec![answer])],
            None => note(Tone::Error, "There is no answer to continue."),
        }
    }

    /// Requests an answer to a question that takes the place of the last one and its answer.
    pub(super) fn replace_question(&mut self, question: Turn) -> ChatEffect {
        let from = self.last_question().unwrap_or(self.turns.len());
        let turns = self.turns.split_off(from);
        self.turns.push(question);
        // A question without an answer does not come back.
        let replaced = match turns.len() {
            0 | 1 => Replaced { from: self.turns.len(), turns: Vec::new() },
            _ => Replaced { from, turns },
        };
        self.request_replacing(String::new(), replaced)
    }

    fn last_question(&self) -> Option<usize> {
        self.turns.iter().rposition(|turn| turn.role == Speaker::User)
    }

    /// The conversation without the answer in progress: the turns that it replaces are still part of it.
    pub(super) fn settled_turns(&self) -> Cow<'_, [Turn]> {
        match &self.busy {
            Some(Busy::Answering { replaced: Replaced { from, turns }, .. }) if !turns.is_empty() => {
                Cow::Owned([&self.turns[..*from], turns].concat())
            }
            _ => Cow::Borrowed(&self.turns),
        }
    }

    pub(super) fn edit(&mut self) -> Vec<ChatEffect> {
        if self.reading > 0 {
            // The file would be attached to the edited question instead of the next one.
            return note(
                Tone::Error,
                "A file for the next message is still being read. Try again in a moment.",
            );
        }
        let Some(question) = self.last_question() else {
            return note(Tone::Error, "There is no message yet.");
        };
        let Turn { content, files, .. } = self.turns[question].clone();
        self.editing = Some(std::mem::replace(&mut self.attached, files));
        vec![ChatEffect::Compose(content)]
    }

    pub(super) fn cancel_edit(&mut self) -> Vec<ChatEffect> {
        self.stop_editing();
        note(Tone::Dim, "Edit cancelled; the last message is unchanged.")
    }

    pub(super) fn undo(&mut self, turns: usize) -> Vec<ChatEffect> {
        if self.turns.is_empty() {
            return note(Tone::Error, "There is no turn to remove.");
        }
        let questions = self.turns.iter().filter(|turn| turn.role == Speaker::User).count();
        let left = questions.saturating_sub(turns);
        self.turns.truncate(2 * left);
        self.warned = false;
        self.overflow = None;
        self.meter = Meter::Unknown;
        // If only hidden turns are left, the model sees them again.
        if self.turns.len() <= self.hidden {
            self.hidden = 0;
            self.summary = None;
        }
        let removed = questions - left;
        let plural = if removed == 1 { "turn" } else { "turns" };
        let mut effects = note(Tone::Dim, format!("Removed {removed} {plural} ({left} left)."));
        effects.extend(self.keep());
        effects
    }
}
