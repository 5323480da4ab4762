//! What becomes of an answer: complete, cut, stopped, or none at all. It must not know how it is shown.

use std::time::Duration;

use moelten_engine::api::{Answer, GenerateStats, StopReason};
use moelten_loader::text::chat::Speaker;

use super::backend::Failure;
use super::event::ChatEffect;
use super::meter::CONTEXT_WARNING_PERCENT;
use super::reports::summary;
use super::state::{Busy, Chat, Interrupt, Meter, Overflow, Pending, Replaced, note};
use super::tone::Tone;
use super::turn::Turn;
use super::{figures, thinking};

/// The state of the conversation after an answer was computed or failed.
pub(super) enum AnswerOutcome {
    /// There is an answer, or more of it.
    Answered,
    /// The question has no answer.
    Unanswered,
    /// The answer was not continued; it is as before.
    NotContinued,
    /// There is no new answer; the previous one is back.
    AnswerRestored,
    /// This edited question has no answer; the previous question and its answer are back.
    TurnRestored(Turn),
}

impl AnswerOutcome {
    /// What the user can do without an answer.
    fn hint(&self) -> &'static str {
        match self {
            Self::Answered | Self::Unanswered => "/retry tries again",
            Self::NotContinued => "the answer is unchanged, and /more continues it",
            Self::AnswerRestored => "the previous answer is unchanged",
            Self::TurnRestored(_) => "the previous message is unchanged, and Up recalls the edited one",
        }
    }

    /// What was asked for, to be repeated when the context has room.
    fn pending(self) -> Pending {
        match self {
            Self::Answered | Self::NotContinued => Pending::Continue,
            Self::Unanswered | Self::AnswerRestored => Pending::NewAnswer,
            Self::TurnRestored(question) => Pending::ReplaceQuestion(question),
        }
    }
}

impl Chat {
    pub(super) fn answered(&mut self, answer: Answer, now: Duration) -> Vec<ChatEffect> {
        let Answer { text, reason, stats, .. } = answer;
        // With 0 prompt tokens nothing was computed.
        if stats.prompt_tokens > 0 {
            self.last = Some(stats);
        }
        // The statistics give the length of the conversation, unless it has changed since the request.
        let unchanged = self.meter != Meter::Unknown;
        self.meter = Meter::Unknown;
        let mut effects = match self.busy.take() {
            Some(Busy::Answering { begun, replaced }) => {
                // The model does not see its reasoning again, so an answer with reasoning has to be counted
                // without it.
                let whole =
                    [&begun, &text].into_iter().all(|part| thinking::answer(part).len() == part.len());
                if unchanged && whole && !text.is_empty() {
                    self.meter = Meter::Known(stats.context_used);
                }
                self.end_answer(begun, replaced, text, reason, &stats, now)
            }
            Some(Busy::Summarising { upto, pending }) => self.summarised(upto, pending, text, &reason),
            // An answer that was not requested.
            other => {
                self.busy = other;
                Vec::new()
            }
        };
        // The cache may have grown again since.
        let known = if stats.prompt_tokens > 0 { stats.memory.released_bytes } else { self.given_back };
        let before = std::mem::replace(&mut self.given_back, known);
        if self.given_back > before {
            effects.extend(note(Tone::Warning, figures::given_back(self.given_back)));
        }
        let lost = stats.gpu.is_some_and(|gpu| gpu.lost);
        if lost && !std::mem::replace(&mut self.gpu_lost, lost) {
            effects.extend(note(Tone::Warning, figures::GPU_LOST.to_owned()));
        }
        effects
    }

    fn end_answer(
        &mut self,
        begun: String,
        replaced: Replaced,
        text: String,
        reason: StopReason,
        stats: &GenerateStats,
        now: Duration,
    ) -> Vec<ChatEffect> {
        let outcome = self.settle(begun, replaced, text);
        if reason == StopReason::Cancelled {
            self.interrupted = Some(Interrupt::Stopped(now));
        }
        let mut effects = match (&outcome, &reason) {
            (AnswerOutcome::Answered, _) | (_, StopReason::ContextFull) => {
                note(Tone::Dim, summary(&reason, stats))
            }
            (_, StopReason::Cancelled) => {
                let what = match outcome {
                    AnswerOutcome::NotContinued => "it continued",
                    _ => "the answer began",
                };
                return note(Tone::Dim, format!("Stopped before {what}; {}.", outcome.hint()));
            }
            _ => {
                let mut effects = note(Tone::Dim, summary(&reason, stats));
                let text = match outcome {
                    AnswerOutcome::NotContinued => {
                        "The model added nothing: the answer was complete.".to_owned()
                    }
                    _ => format!("The answer is empty; {}.", outcome.hint()),
                };
                effects.extend(note(Tone::Warning, text));
                effects
            }
        };
        if reason == StopReason::ContextFull {
            let size = stats.context_size;
            let overflow = Overflow { tokens: size, context: size, cut: true, pending: outcome.pending() };
            effects.extend(self.ask_about_overflow(overflow));
        } else if let Meter::Known(used) = self.meter {
            effects.extend(self.warn_of_the_end(used, stats.context_size));
        }
        effects.extend(self.keep());
        effects
    }

    /// Appends an answer to the conversation. An empty text is no answer: then the replaced turns come back,
    /// or the question stays unanswered.
    pub(super) fn settle(&mut self, begun: String, replaced: Replaced, text: String) -> AnswerOutcome {
        if !text.is_empty() {
            self.turns.push(Turn::new(Speaker::Assistant, begun + &text));
            return AnswerOutcome::Answered;
        }
        let Replaced { from, turns } = replaced;
        if turns.is_empty() {
            return AnswerOutcome::Unanswered;
        }
        let question = self.turns.split_off(from).pop();
        self.turns.extend(turns);
        match question {
            Some(question) => {
                self.reattach(&question.files);
                AnswerOutcome::TurnRestored(question)
            }
            None if begun.is_empty() => AnswerOutcome::AnswerRestored,
            None => AnswerOutcome::NotContinued,
        }
    }

    /// Saves the conversation for `--continue`, if that is on. An empty conversation does not replace a saved
    /// one.
    pub(super) fn keep(&self) -> Option<ChatEffect> {
        (self.keeps && !self.turns.is_empty()).then(|| ChatEffect::Keep(self.transcript()))
    }

    /// Warns once that the context is nearly full.
    pub(super) fn warn_of_the_end(&mut self, used: usize, size: usize) -> Vec<ChatEffect> {
        if self.warned || used * 100 < size * CONTEXT_WARNING_PERCENT {
            return Vec::new();
        }
        self.warned = true;
        let left = size - used.min(size);
        let text = format!(
            "{left} tokens of the context are left. /undo and /clear make room; a larger --ctx at the start holds more."
        );
        note(Tone::Warning, text)
    }

    pub(super) fn failed(&mut self, shown: String, failure: Failure) -> Vec<ChatEffect> {
        self.meter = Meter::Unknown;
        let outcome = match self.busy.take() {
            Some(Busy::Answering { begun, replaced }) => self.settle(begun, replaced, shown),
            Some(Busy::Summarising { pending, .. }) => return self.summary_failed(failure, pending),
            // A failure of something that was not requested.
            other => {
                self.busy = other;
                return Vec::new();
            }
        };
        match (failure, outcome) {
            (Failure::ContextFull { tokens, context }, outcome) => {
                self.ask_about_overflow(Overflow { tokens, context, cut: false, pending: outcome.pending() })
            }
            (Failure::Other(text), AnswerOutcome::Answered) => {
                let mut effects = note(Tone::Error, format!("{text}. The answer so far is kept."));
                effects.extend(self.keep());
                effects
            }
            (Failure::Other(text), outcome @ AnswerOutcome::TurnRestored(_)) => {
                note(Tone::Error, format!("{text}. Nothing was replaced: {}.", outcome.hint()))
            }
            (Failure::Other(text), _) => note(Tone::Error, text),
        }
    }
}
