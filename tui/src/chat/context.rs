//! What becomes of a conversation that is longer than the context: a question to the person, never a decision of ours.

use moelten_engine::api::StopReason;
use moelten_loader::chat::{Message, Role};

use super::{Busy, Chat, Effect, Room, Turn, note};
use crate::backend::{Failure, Request};
use crate::terminal::Tone;

/// After turns were dropped the conversation should take at most this part of the context, in percent.
const TARGET_PERCENT: usize = 60;
/// Longest summary, in tokens.
const SUMMARY_TOKENS_MAX: usize = 300;
/// What the model is asked to get one.
const SUMMARY_QUESTION: &str = "Summarise our conversation so far in at most 150 words: what was asked, what was found, what \
                                is still open. Write the summary only.";

/// How the context came to be full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The conversation is longer; nothing was computed.
    Prompt { tokens: usize, context: usize, then: Then },
    /// An answer was cut.
    Answer { size: usize },
}

/// What was wanted when there was no room, and is done once there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// An answer to the last question, perhaps in the place of one.
    Anew,
    /// More of the last answer.
    GoOn,
}

/// What the person may choose then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The model no longer sees the oldest turns.
    Drop,
    /// It sees a summary in their place.
    Summarise,
    /// Nothing is done.
    Stop,
}

impl Choice {
    /// All, with the key that chooses each and what it does.
    pub const ALL: [(char, Self, &'static str); 3] = [
        ('d', Self::Drop, "drop the oldest turns: the model no longer sees them"),
        ('s', Self::Summarise, "summarise them: the model writes a summary and goes on from there"),
        ('n', Self::Stop, "stop here: nothing is changed"),
    ];

    /// The choice that a letter or a word stands for.
    pub(super) fn named(text: &str) -> Option<Self> {
        let named = |(letter, choice, help): (char, Self, &str)| {
            let word = help.split(' ').next().unwrap_or_default();
            (text.eq_ignore_ascii_case(&letter.to_string()) || text.eq_ignore_ascii_case(word))
                .then_some(choice)
        };
        Self::ALL.into_iter().find_map(named)
    }
}

impl Chat {
    /// What to tell a person who is to choose; `None` if there is nothing to choose.
    pub fn asking(&self) -> Option<String> {
        let hint = "What becomes of the older turns? They stay on the screen and in saved files. /undo, /clear or a \
                    larger --ctx at the start make room too. A letter and Enter:";
        self.asking.map(|full| format!("{} {hint}", full_words(full)))
    }

    /// Asks, if there is something to choose.
    pub(super) fn ask_what_to_drop(&mut self, full: Full) -> Vec<Effect> {
        let words = full_words(full);
        if self.older().is_empty() {
            let hint = match full {
                Full::Prompt { .. } => "This one question is too long: send a shorter one",
                Full::Answer { .. } => {
                    "There are no older turns to drop: /undo takes the turn back, /clear begins anew"
                }
            };
            let text = format!("{words} {hint}; a larger --ctx at the start holds more.");
            return note(Tone::Error, text);
        }
        self.asking = Some(full);
        vec![Effect::Ask]
    }

    pub(super) fn chosen(&mut self, choice: Choice) -> Vec<Effect> {
        if self.busy() {
            return note(Tone::Error, self.has_to_wait());
        }
        let Some(full) = self.asking.take() else { return Vec::new() };
        match choice {
            Choice::Stop => note(Tone::Dim, "Nothing was changed."),
            Choice::Drop => {
                let upto = self.forgotten + self.dropped(full);
                let count = upto - self.forgotten;
                self.forgotten = upto;
                self.summary = None;
                self.room = Room::Unknown;
                let text = format!("The model no longer sees the {count} oldest messages.");
                let mut effects = note(Tone::Dim, text);
                effects.extend(self.go_on(then(full)));
                effects
            }
            Choice::Summarise => {
                let upto = self.forgotten + self.summarised_at_once(full);
                let mut messages = self.messages(upto);
                messages.push(Message::new(Role::User, SUMMARY_QUESTION));
                let mut params = self.params.clone();
                params.max_tokens = Some(SUMMARY_TOKENS_MAX.min(size(full) / 8).max(1));
                self.busy = Some(Busy::Summary { upto, then: then(full) });
                vec![Effect::Answer(Request { messages, begun: String::new(), think: false, params })]
            }
        }
    }

    pub(super) fn summarised(
        &mut self,
        upto: usize,
        then: Then,
        text: String,
        reason: &StopReason,
    ) -> Vec<Effect> {
        let text = crate::thinking::said(&text).trim().to_owned();
        if *reason == StopReason::Cancelled || text.is_empty() {
            let again = if then == Then::Anew { "/retry" } else { "/more" };
            return note(
                Tone::Error,
                format!("There is no summary, and nothing was changed; {again} asks again."),
            );
        }
        let count = upto - self.forgotten;
        self.forgotten = upto;
        let mut effects =
            note(Tone::Dim, format!("In place of the {count} oldest messages the model sees: {text}"));
        self.summary = Some(text);
        effects.extend(self.go_on(then));
        effects
    }

    /// The older turns are too long even to be summarised.
    pub(super) fn ask_again_after(&mut self, failure: Failure, then: Then) -> Vec<Effect> {
        match failure {
            Failure::ContextFull { tokens, context } => {
                let mut effects =
                    note(Tone::Error, "The oldest turns are too long to be summarised at once.");
                effects.extend(self.ask_what_to_drop(Full::Prompt { tokens, context, then }));
                effects
            }
            Failure::Other(text) => note(Tone::Error, text),
        }
    }

    /// Does what was wanted when there was no room.
    fn go_on(&mut self, then: Then) -> Vec<Effect> {
        match then {
            Then::GoOn => self.more(),
            Then::Anew => {
                if !self.waiting() {
                    self.replaced = self.turns.pop();
                }
                vec![self.request(String::new())]
            }
        }
    }

    /// Turns that the model sees and that come before the last question.
    fn older(&self) -> &[Turn] {
        let question = self.turns.iter().rposition(|turn| turn.role == Role::User).unwrap_or(0);
        &self.turns[self.forgotten.min(question)..question]
    }

    /// How many of the older turns to drop so that the rest takes its target. Tokens are shared out by length.
    fn dropped(&self, full: Full) -> usize {
        let tokens = match full {
            Full::Prompt { tokens, .. } => tokens,
            Full::Answer { size } => size,
        };
        let seen = &self.turns[self.forgotten..];
        let all: usize = seen.iter().map(|turn| turn.bytes() + 1).sum();
        let target = size(full) * TARGET_PERCENT / 100;
        let mut left = all;
        let mut count = 0;
        for pair in self.older().chunks(2) {
            if count > 0 && left * tokens <= target * all {
                break;
            }
            left -= pair.iter().map(|turn| turn.bytes() + 1).sum::<usize>();
            count += pair.len();
        }
        count
    }

    /// How many of the older turns fit into the context together with a summary of them: at least a pair.
    fn summarised_at_once(&self, full: Full) -> usize {
        let tokens = match full {
            Full::Prompt { tokens, .. } => tokens,
            Full::Answer { size } => size,
        };
        let all: usize = self.turns[self.forgotten..].iter().map(|turn| turn.bytes() + 1).sum();
        let room = size(full) * 3 / 4;
        let (mut count, mut taken) = (0, 0);
        for pair in self.older().chunks(2) {
            taken += pair.iter().map(|turn| turn.bytes() + 1).sum::<usize>();
            if count > 0 && taken * tokens > room * all {
                break;
            }
            count += pair.len();
        }
        count
    }
}

fn then(full: Full) -> Then {
    match full {
        Full::Prompt { then, .. } => then,
        Full::Answer { .. } => Then::GoOn,
    }
}

fn size(full: Full) -> usize {
    match full {
        Full::Prompt { context, .. } => context,
        Full::Answer { size } => size,
    }
}

fn full_words(full: Full) -> String {
    match full {
        Full::Prompt { tokens, context, .. } => format!(
            "The conversation is {tokens} tokens long, but the context holds {context}. Nothing was cut."
        ),
        Full::Answer { size } => format!("The answer was cut: the context of {size} tokens is full."),
    }
}
