//! What becomes of a conversation that is longer than the context: a question to the person, never a decision of ours.

use moelten_engine::api::StopReason;
use moelten_loader::text::chat::{Message, Role};

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

/// A context that is full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Full {
    /// Tokens of the conversation.
    pub tokens: usize,
    /// Tokens that the context holds.
    pub context: usize,
    /// Whether that cut an answer; otherwise nothing was computed.
    pub cut: bool,
    /// What is done once there is room.
    pub then: Then,
}

/// What was wanted when there was no room, and is done once there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Then {
    /// An answer to the last question, perhaps in the place of one.
    Anew,
    /// More of the last answer.
    GoOn,
    /// An answer to this question, in the place of the last one.
    Instead(Turn),
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
    /// What to tell a person who is to choose; `None` if there is nothing to choose, or not now.
    pub fn asking(&self) -> Option<String> {
        let hint = "What becomes of the older turns? They stay on the screen and in saved files. /undo, /clear or a \
                    larger --ctx at the start make room too. A letter and Enter:";
        self.asking.as_ref().filter(|_| !self.busy()).map(|full| format!("{} {hint}", full.words()))
    }

    /// Asks, if there is something to choose.
    pub(super) fn ask_what_to_drop(&mut self, full: Full) -> Vec<Effect> {
        let words = full.words();
        if self.older().is_empty() {
            let beside = matches!(&full.then, Then::Anew) && self.beside().next().is_some();
            let hint = match full.cut {
                true => "There are no older turns to drop: /undo takes the turn back, /clear begins anew",
                false if beside => {
                    "This one question is too long: send a shorter one, or take off what lies beside it with /file off"
                }
                false => "This one question is too long: send a shorter one",
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
                let upto = self.forgotten + self.dropped(&full);
                let count = upto - self.forgotten;
                self.forgotten = upto;
                self.summary = None;
                self.room = Room::Unknown;
                let text = format!("The model no longer sees the {count} oldest messages.");
                let mut effects = note(Tone::Dim, text);
                effects.extend(self.go_on(full.then));
                effects
            }
            Choice::Summarise => {
                let upto = self.forgotten + self.summarised_at_once(&full);
                let mut messages = self.messages(upto);
                messages.push(Message::new(Role::User, SUMMARY_QUESTION));
                let mut params = self.params.clone();
                params.max_tokens = Some(SUMMARY_TOKENS_MAX.min(full.context / 8).max(1));
                self.busy = Some(Busy::Summary { upto, then: full.then });
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
            let again = match then {
                Then::Anew => "/retry asks again",
                Then::GoOn => "/more asks again",
                Then::Instead(_) => "Up brings back what you wrote",
            };
            return note(Tone::Error, format!("There is no summary, and nothing was changed; {again}."));
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
                effects.extend(self.ask_what_to_drop(Full { tokens, context, cut: false, then }));
                effects
            }
            Failure::Other(text) => note(Tone::Error, text),
        }
    }

    /// Does what was wanted when there was no room.
    fn go_on(&mut self, then: Then) -> Vec<Effect> {
        match then {
            Then::GoOn => self.more(),
            Then::Anew => vec![self.anew()],
            Then::Instead(question) => {
                // Of its files those that the last question does not have were put beside the next one.
                self.attached.retain(|file| !question.files.contains(file));
                vec![self.ask_instead(question)]
            }
        }
    }

    /// Turns that the model sees and that come before the last question.
    fn older(&self) -> &[Turn] {
        let question = self.turns.iter().rposition(|turn| turn.role == Role::User).unwrap_or(0);
        &self.turns[self.forgotten.min(question)..question]
    }

    /// How many of the older turns to drop so that the rest takes its target.
    fn dropped(&self, full: &Full) -> usize {
        let all = self.bytes(full);
        let target = full.context * TARGET_PERCENT / 100;
        let mut left = all;
        let mut count = 0;
        for pair in self.older().chunks(2) {
            if count > 0 && left * full.tokens <= target * all {
                break;
            }
            left -= bytes(pair);
            count += pair.len();
        }
        count
    }

    /// How many of the older turns fit into the context together with a summary of them: at least a pair.
    fn summarised_at_once(&self, full: &Full) -> usize {
        let all = self.bytes(full);
        let room = full.context * 3 / 4;
        let (mut count, mut taken) = (0, 0);
        for pair in self.older().chunks(2) {
            taken += bytes(pair);
            if count > 0 && taken * full.tokens > room * all {
                break;
            }
            count += pair.len();
        }
        count
    }

    /// Bytes of what was too long: tokens are shared out by them.
    fn bytes(&self, full: &Full) -> usize {
        let older = self.older();
        let rest = &self.turns[self.forgotten + older.len()..];
        bytes(older)
            + match &full.then {
                Then::Anew => bytes(&rest[..rest.len().min(1)]),
                Then::GoOn => bytes(rest),
                Then::Instead(question) => bytes(std::slice::from_ref(question)),
            }
    }
}

impl Full {
    fn words(&self) -> String {
        let Self { tokens, context, cut, .. } = self;
        if *cut {
            format!("The answer was cut: the context of {context} tokens is full.")
        } else {
            format!(
                "The conversation is {tokens} tokens long, but the context holds {context}. Nothing was cut."
            )
        }
    }
}

/// Bytes of turns; none is empty.
fn bytes(turns: &[Turn]) -> usize {
    turns.iter().map(|turn| turn.bytes() + 1).sum()
}
