//! What becomes of an answer: kept, cut, stopped, or none at all. It must not know how it is shown.

use std::time::Duration;

use moelten_engine::api::{Answer, GenerateStats, StopReason};
use moelten_loader::text::chat::Role;

use super::context::{Full, Then};
use super::{Before, Busy, CONTEXT_WARNING_PERCENT, Chat, Effect, Interrupt, Room, Turn, note, summary};
use crate::backend::Failure;
use crate::terminal::Tone;
use crate::{figures, thinking};

/// What the conversation is like after an answer was computed, or not.
pub(super) enum Settled {
    /// There is an answer, or more of one.
    Answered,
    /// The question has none.
    Open,
    /// There is no more of the answer than before.
    NoMore,
    /// There is no other answer: the one from before is there again.
    NoOther,
    /// This question has no answer: the one from before is there again, with its own.
    NotInstead(Turn),
}

impl Settled {
    /// What can be done where there is no answer.
    fn words(&self) -> &'static str {
        match self {
            Self::Answered | Self::Open => "/retry asks again",
            Self::NoMore => "the answer is as it was, and /more goes on with it",
            Self::NoOther => "the answer is as it was",
            Self::NotInstead(_) => "the last question is as it was, and Up brings back what you wrote",
        }
    }

    /// What was wanted.
    fn then(self) -> Then {
        match self {
            Self::Answered | Self::NoMore => Then::GoOn,
            Self::Open | Self::NoOther => Then::Anew,
            Self::NotInstead(question) => Then::Instead(question),
        }
    }
}

impl Chat {
    pub(super) fn answered(&mut self, answer: Answer, now: Duration) -> Vec<Effect> {
        let Answer { text, reason, stats, .. } = answer;
        // Where the prompt was not even known nothing was computed.
        if stats.prompt_tokens > 0 {
            self.last = Some(stats);
        }
        // The model tells how long the conversation is, unless that was changed meanwhile.
        let unchanged = self.room != Room::Unknown;
        self.room = Room::Unknown;
        let mut effects = match self.busy.take() {
            Some(Busy::Answer { begun, before }) => {
                // What it thought it does not see again: that is to be counted without.
                let whole =
                    thinking::said(&begun).len() == begun.len() && thinking::said(&text).len() == text.len();
                if unchanged && whole && !text.is_empty() {
                    self.room = Room::Known(stats.context_used);
                }
                self.answer_is_there(begun, before, text, reason, &stats, now)
            }
            Some(Busy::Summary { upto, then }) => self.summarised(upto, then, text, &reason),
            // Nobody has asked.
            other => {
                self.busy = other;
                Vec::new()
            }
        };
        if let Some(cache) = stats.cache {
            // It may have taken some of it again meanwhile.
            let before = std::mem::replace(&mut self.given_back, cache.given_back_bytes);
            if self.given_back > before {
                effects.extend(note(Tone::Warning, figures::given_back(self.given_back)));
            }
        }
        effects
    }

    fn answer_is_there(
        &mut self,
        begun: String,
        before: Before,
        text: String,
        reason: StopReason,
        stats: &GenerateStats,
        now: Duration,
    ) -> Vec<Effect> {
        let settled = self.settle(begun, before, text);
        if reason == StopReason::Cancelled {
            self.interrupted = Some(Interrupt::Stopped(now));
        }
        let mut effects = match (&settled, &reason) {
            (Settled::Answered, _) | (_, StopReason::ContextFull) => note(Tone::Dim, summary(&reason, stats)),
            (_, StopReason::Cancelled) => {
                let what =
                    if matches!(settled, Settled::NoMore) { "there was more" } else { "the answer began" };
                return note(Tone::Dim, format!("Stopped before {what}; {}.", settled.words()));
            }
            _ => {
                let mut effects = note(Tone::Dim, summary(&reason, stats));
                effects.extend(note(Tone::Warning, format!("The model said nothing; {}.", settled.words())));
                effects
            }
        };
        if reason == StopReason::ContextFull {
            let size = stats.context_size;
            let full = Full { tokens: size, context: size, cut: true, then: settled.then() };
            effects.extend(self.ask_what_to_drop(full));
        } else if let Room::Known(used) = self.room {
            effects.extend(self.warn_of_the_end(used, stats.context_size));
        }
        effects.extend(self.kept());
        effects
    }

    /// Appends an answer to the conversation. One without a single word is none: then what it should have replaced comes
    /// back, or the question stays open.
    pub(super) fn settle(&mut self, begun: String, before: Before, text: String) -> Settled {
        if !text.is_empty() {
            self.turns.push(Turn::new(Role::Assistant, begun + &text));
            return Settled::Answered;
        }
        let Before { from, turns } = before;
        if turns.is_empty() {
            return Settled::Open;
        }
        let question = self.turns.split_off(from).pop();
        self.turns.extend(turns);
        match question {
            Some(question) => {
                self.lie_beside(&question.files);
                Settled::NotInstead(question)
            }
            None if begun.is_empty() => Settled::NoOther,
            None => Settled::NoMore,
        }
    }

    /// The conversation is worth keeping as it is now: an empty one is not, and does not replace another.
    pub(super) fn kept(&self) -> Option<Effect> {
        (self.keeps && !self.turns.is_empty()).then(|| Effect::Keep(self.transcript()))
    }

    pub(super) fn warn_of_the_end(&mut self, used: usize, size: usize) -> Vec<Effect> {
        if self.warned || used * 100 < size * CONTEXT_WARNING_PERCENT {
            return Vec::new();
        }
        self.warned = true;
        let left = size - used.min(size);
        note(
            Tone::Warning,
            format!(
                "{left} tokens of the context are left. /undo or /clear make room; --ctx at the start gives more."
            ),
        )
    }

    pub(super) fn failed(&mut self, shown: String, failure: Failure) -> Vec<Effect> {
        self.room = Room::Unknown;
        let settled = match self.busy.take() {
            Some(Busy::Answer { begun, before }) => self.settle(begun, before, shown),
            Some(Busy::Summary { then, .. }) => return self.ask_again_after(failure, then),
            // Nobody has asked.
            other => {
                self.busy = other;
                return Vec::new();
            }
        };
        match (failure, settled) {
            (Failure::ContextFull { tokens, context }, settled) => {
                self.ask_what_to_drop(Full { tokens, context, cut: false, then: settled.then() })
            }
            (Failure::Other(text), Settled::Answered) => {
                let mut effects = note(Tone::Error, format!("{text}. The answer so far is kept."));
                effects.extend(self.kept());
                effects
            }
            (Failure::Other(text), settled @ Settled::NotInstead(_)) => {
                note(Tone::Error, format!("{text}. Nothing was replaced: {}.", settled.words()))
            }
            (Failure::Other(text), _) => note(Tone::Error, text),
        }
    }
}
