//! A conversation that is longer than the context: the user decides what the model stops seeing. Nothing is
//! cut without asking.

use moelten_engine::api::StopReason;
use moelten_loader::text::chat::{Message, Speaker};

use super::backend::{Failure, Request};
use super::event::{ChatEffect, OverflowChoice};
use super::state::{Busy, Chat, Meter, Overflow, Pending, note};
use super::thinking;
use super::tone::Tone;
use super::transcript::Unseen;
use super::turn::Turn;

/// Share of the context, in percent, that the conversation should take after turns were dropped.
const TARGET_PERCENT: usize = 60;
/// Longest summary, in tokens.
const SUMMARY_TOKENS_MAX: usize = 300;
/// The question that asks the model for a summary.
const SUMMARY_QUESTION: &str = "Summarise our conversation so far in at most 150 words: what was asked, what was found, what \
                                is still open. Write the summary only.";

impl Chat {
    /// The question about a full context, for the user; `None` if there is nothing to decide now.
    pub fn overflow_question(&self) -> Option<String> {
        let hint = "What should the model stop seeing? All turns stay on the screen and in saved files. /undo, /clear or a \
                    larger --ctx at the start also make room. Type a letter and press Enter:";
        self.overflow.as_ref().filter(|_| !self.busy()).map(|overflow| format!("{} {hint}", overflow.text()))
    }

    /// Asks the user what to do, if there are older turns to drop.
    pub(super) fn ask_about_overflow(&mut self, overflow: Overflow) -> Vec<ChatEffect> {
        let text = overflow.text();
        if self.older().is_empty() {
            let with_files =
                matches!(&overflow.pending, Pending::NewAnswer) && self.next_attachments().next().is_some();
            let continues = matches!(&overflow.pending, Pending::Continue);
            let hint = match overflow.cut || continues {
                true => {
                    "There are no older turns to drop. /undo removes the turn, /clear starts a new conversation"
                }
                false if with_files => {
                    "This message alone is too long: send a shorter one, or detach files with /file off"
                }
                false => "This message alone is too long: send a shorter one",
            };
            return note(Tone::Error, format!("{text} {hint}, or use a larger --ctx at the start."));
        }
        self.overflow = Some(overflow);
        vec![ChatEffect::Ask]
    }

    /// What an entry chooses, while there is a question about a full context.
    pub(super) fn choice(&self, entry: &str) -> Option<OverflowChoice> {
        OverflowChoice::named(entry.trim()).filter(|_| self.overflow.is_some() && !self.busy())
    }

    /// Whether an entry answers the question about a full context.
    pub fn is_choice(&self, entry: &str) -> bool {
        self.choice(entry).is_some()
    }

    pub(super) fn chosen(&mut self, choice: OverflowChoice) -> Vec<ChatEffect> {
        if self.busy() {
            return note(Tone::Error, self.busy_text());
        }
        let Some(overflow) = self.overflow.take() else { return Vec::new() };
        match choice {
            OverflowChoice::Stop => {
                let next = match overflow.pending {
                    Pending::NewAnswer => "/edit changes the message, /retry sends it again",
                    Pending::Continue => "the answer is as it was",
                    Pending::ReplaceQuestion(_) => "Up recalls the edited message",
                };
                note(Tone::Dim, format!("Nothing was changed; {next}."))
            }
            OverflowChoice::Drop => {
                let upto = self.hidden + self.turns_to_drop(&overflow);
                let count = upto - self.hidden;
                self.hidden = upto;
                self.summary = None;
                self.meter = Meter::Unknown;
                let text = format!("The model no longer sees the {count} oldest messages.");
                let mut effects = note(Tone::Dim, text);
                effects.extend(self.resume(overflow.pending));
                effects
            }
            OverflowChoice::Summarise => {
                let upto = self.hidden + self.turns_to_summarise(&overflow);
                let mut messages = self.messages(upto);
                messages.push(Message::new(Speaker::User, SUMMARY_QUESTION));
                let mut params = self.params.clone();
                params.max_tokens = Some(SUMMARY_TOKENS_MAX.min(overflow.context / 8).max(1));
                self.busy = Some(Busy::Summarising { upto, pending: overflow.pending });
                vec![ChatEffect::Answer(Request { messages, begun: String::new(), think: false, params })]
            }
        }
    }

    pub(super) fn summarised(
        &mut self,
        upto: usize,
        pending: Pending,
        text: String,
        reason: &StopReason,
    ) -> Vec<ChatEffect> {
        let text = thinking::answer(&text).trim().to_owned();
        if *reason == StopReason::Cancelled || text.is_empty() {
            let again = match pending {
                Pending::NewAnswer => "/retry tries again",
                Pending::Continue => "/more tries again",
                Pending::ReplaceQuestion(_) => "Up recalls the edited message",
            };
            return note(Tone::Error, format!("There is no summary. Nothing was changed; {again}."));
        }
        let count = upto - self.hidden;
        self.hidden = upto;
        let mut effects = note(
            Tone::Dim,
            format!("Instead of the {count} oldest messages the model sees this summary: {text}"),
        );
        self.summary = Some(text);
        effects.extend(self.resume(pending));
        effects
    }

    /// What the model no longer sees, as a saved conversation has it.
    pub(super) fn unseen(&self) -> Option<Unseen> {
        (self.hidden > 0).then(|| Unseen { messages: self.hidden, summary: self.summary.clone() })
    }

    /// The model goes on without what a saved conversation had dropped or summarised.
    pub(super) fn hide_again(&mut self, unseen: Unseen) -> Vec<ChatEffect> {
        let Unseen { messages: count, summary } = unseen;
        // Pairs were hidden, and a question is left. Another number was not written by this program.
        if count == 0 || count % 2 != 0 || count >= self.turns.len() {
            return Vec::new();
        }
        let text = match summary {
            Some(_) => format!("As before, the model sees a summary of the {count} oldest messages."),
            None => format!("As before, the model does not see the {count} oldest messages."),
        };
        (self.hidden, self.summary) = (count, summary);
        note(Tone::Dim, text)
    }

    /// The summary failed; if the oldest turns do not even fit for a summary, the user decides again.
    pub(super) fn summary_failed(&mut self, failure: Failure, pending: Pending) -> Vec<ChatEffect> {
        match failure {
            Failure::ContextFull { tokens, context } => {
                let mut effects = note(Tone::Error, "The oldest turns are too long for one summary.");
                effects.extend(self.ask_about_overflow(Overflow { tokens, context, cut: false, pending }));
                effects
            }
            Failure::Other(text) => note(Tone::Error, text),
        }
    }

    /// Repeats the request that did not fit.
    fn resume(&mut self, pending: Pending) -> Vec<ChatEffect> {
        match pending {
            Pending::Continue => self.more(),
            Pending::NewAnswer => vec![self.answer_again()],
            Pending::ReplaceQuestion(question) => {
                // Its new files were attached to the next question meanwhile.
                self.attached.retain(|file| !question.files.contains(file));
                vec![self.replace_question(question)]
            }
        }
    }

    /// Turns that the model sees, before the last question.
    fn older(&self) -> &[Turn] {
        let question = self.turns.iter().rposition(|turn| turn.role == Speaker::User).unwrap_or(0);
        &self.turns[self.hidden.min(question)..question]
    }

    /// How many of the older turns to drop so that the rest takes [`TARGET_PERCENT`] of the context; at least
    /// one pair.
    fn turns_to_drop(&self, overflow: &Overflow) -> usize {
        let all = self.overflow_bytes(overflow);
        let target = overflow.context * TARGET_PERCENT / 100;
        let mut left = all;
        let mut count = 0;
        for pair in self.older().chunks(2) {
            if count > 0 && left * overflow.tokens <= target * all {
                break;
            }
            left -= bytes(pair);
            count += pair.len();
        }
        count
    }

    /// How many of the older turns fit into the context together with their summary; at least one pair.
    fn turns_to_summarise(&self, overflow: &Overflow) -> usize {
        let all = self.overflow_bytes(overflow);
        let room = overflow.context * 3 / 4;
        let (mut count, mut taken) = (0, 0);
        for pair in self.older().chunks(2) {
            taken += bytes(pair);
            if count > 0 && taken * overflow.tokens > room * all {
                break;
            }
            count += pair.len();
        }
        count
    }

    /// Bytes of the request that did not fit. Its tokens are shared out by bytes.
    fn overflow_bytes(&self, overflow: &Overflow) -> usize {
        let older = self.older();
        let rest = &self.turns[self.hidden + older.len()..];
        bytes(older)
            + match &overflow.pending {
                Pending::NewAnswer => bytes(&rest[..rest.len().min(1)]),
                Pending::Continue => bytes(rest),
                Pending::ReplaceQuestion(question) => bytes(std::slice::from_ref(question)),
            }
    }
}

impl Overflow {
    fn text(&self) -> String {
        let Self { tokens, context, cut, .. } = self;
        if *cut {
            format!("The answer was cut: the context of {context} tokens is full.")
        } else {
            format!("The conversation has {tokens} tokens; the context holds {context}. Nothing was cut.")
        }
    }
}

/// Bytes of some turns; an empty turn counts as one.
fn bytes(turns: &[Turn]) -> usize {
    turns.iter().map(|turn| turn.bytes() + 1).sum()
}
