//! What becomes of an answer: kept, cut, stopped, or none at all. It must not know how it is shown.

use std::time::Duration;

use moelten_engine::api::{Answer, GenerateStats, StopReason};
use moelten_loader::chat::Role;

use super::context::{Full, Then};
use super::{Busy, CONTEXT_WARNING_PERCENT, Chat, Effect, Interrupt, Room, Turn, note, summary};
use crate::backend::Failure;
use crate::figures;
use crate::terminal::Tone;

impl Chat {
    pub(super) fn answered(&mut self, answer: Answer, now: Duration) -> Vec<Effect> {
        let Answer { text, reason, stats, .. } = answer;
        self.last = Some(stats);
        // The model tells how long the conversation is, unless that was changed meanwhile.
        let unchanged = self.room != Room::Unknown;
        self.room = Room::Unknown;
        let mut effects = match self.busy.take() {
            Some(Busy::Summary { upto, then }) => self.summarised(upto, then, text, &reason),
            other => {
                let begun = match other {
                    Some(Busy::Answer { begun }) => begun,
                    _ => String::new(),
                };
                if unchanged && !text.is_empty() {
                    self.room = Room::Known(stats.context_used);
                }
                self.answer_is_there(begun, text, reason, &stats, now)
            }
        };
        let given_back = stats.cache.map_or(0, |cache| cache.given_back_bytes);
        // It may have taken some of it again meanwhile.
        let before = std::mem::replace(&mut self.given_back, given_back);
        if given_back > before {
            effects.extend(note(Tone::Warning, figures::given_back(given_back)));
        }
        effects
    }

    fn answer_is_there(
        &mut self,
        begun: String,
        text: String,
        reason: StopReason,
        stats: &GenerateStats,
        now: Duration,
    ) -> Vec<Effect> {
        let went_on = !begun.is_empty();
        let kept = self.keep(begun, text);
        if reason == StopReason::Cancelled {
            self.interrupted = Some(Interrupt::Stopped(now));
            if !kept {
                let text = if went_on {
                    "Stopped before there was more; the answer is as it was, and /more goes on with it."
                } else {
                    "Stopped before the answer began; /retry asks again."
                };
                return note(Tone::Dim, text);
            }
        }
        let mut effects = note(Tone::Dim, summary(&reason, stats));
        effects.extend(match reason {
            StopReason::ContextFull => self.ask_what_to_drop(Full::Answer { size: stats.context_size }),
            _ => self.warn_of_the_end(stats),
        });
        effects.extend(self.kept());
        effects
    }

    /// Appends an answer to the conversation. One without a single word is none: then the answer that it should have
    /// replaced comes back, or the question stays open.
    pub(super) fn keep(&mut self, begun: String, text: String) -> bool {
        let kept = !text.is_empty();
        let whole = begun + &text;
        let answer =
            if whole.is_empty() { self.replaced.take() } else { Some(Turn::new(Role::Assistant, whole)) };
        self.turns.extend(answer);
        self.replaced = None;
        kept
    }

    /// The conversation is worth keeping as it is now.
    pub(super) fn kept(&self) -> Option<Effect> {
        self.keeps.then(|| Effect::Keep(self.transcript()))
    }

    fn warn_of_the_end(&mut self, stats: &GenerateStats) -> Vec<Effect> {
        let GenerateStats { context_used: used, context_size: size, .. } = *stats;
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
        let begun = match self.busy.take() {
            Some(Busy::Answer { begun }) => begun,
            Some(Busy::Summary { then, .. }) => return self.ask_again_after(failure, then),
            Some(Busy::Switch) | None => String::new(),
        };
        let then = if begun.is_empty() { Then::Anew } else { Then::GoOn };
        let kept = self.keep(begun, shown);
        match failure {
            Failure::ContextFull { tokens, context } => {
                self.ask_what_to_drop(Full::Prompt { tokens, context, then })
            }
            Failure::Other(text) if kept => {
                let mut effects = note(Tone::Error, format!("{text}. The answer so far is kept."));
                effects.extend(self.kept());
                effects
            }
            Failure::Other(text) => note(Tone::Error, text),
        }
    }
}
