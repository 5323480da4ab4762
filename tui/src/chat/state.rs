//! The state of a conversation, and the questions that other files may ask about it. The transitions are in
//! the files beside this one. It must not know how the conversation is shown.

use std::time::Duration;

use moelten_engine::api::{GenerateParams, GenerateStats};
use moelten_loader::text::chat::{Message, Speaker};

use super::backend::Request;
use super::event::ChatEffect;
use super::facts::Facts;
use super::session_entry::SessionEntry;
use super::thinking;
use super::tone::Tone;
use super::transcript::Transcript;
use super::turn::{Attachment, Turn};
use crate::input::settings::Setting;

/// A conversation and everything around it.
#[derive(Debug, Clone)]
pub struct Chat {
    pub(super) facts: Facts,
    pub(super) params: GenerateParams,
    /// Whether reasoning is shown in full.
    pub(super) reasoning_shown: bool,
    /// Whether the model may reason.
    pub(super) thinks: bool,
    pub(super) system: Option<String>,
    /// Questions and answers in turn. A question is last while it has no answer.
    pub(super) turns: Vec<Turn>,
    /// How many of the oldest turns the model no longer sees.
    pub(super) hidden: usize,
    /// What the model sees in place of the hidden turns.
    pub(super) summary: Option<String>,
    /// While the last question is being edited: the attachments from before. `attached` holds the question's
    /// own then.
    pub(super) editing: Option<Vec<Attachment>>,
    /// Files for the next question.
    pub(super) attached: Vec<Attachment>,
    /// How many files for the next question are still being read.
    pub(super) reading: usize,
    pub(super) busy: Option<Busy>,
    /// The context overflow that the user has to decide about.
    pub(super) overflow: Option<Overflow>,
    /// Whether the conversation is saved for `--continue`.
    pub(super) keeps: bool,
    /// Whether the last attempt to save it succeeded.
    pub(super) kept_last: bool,
    /// Answers so far: each one is sampled with a seed of its own.
    pub(super) answers: u64,
    pub(super) last: Option<GenerateStats>,
    pub(super) meter: Meter,
    /// Number of the last request to count the conversation.
    pub(super) counts: u64,
    /// Whether the user was warned that the context is nearly full.
    pub(super) warned: bool,
    /// Bytes that the expert cache had given back to the system when the user was last told.
    pub(super) given_back: u64,
    /// Whether the loss of a GPU has been said.
    pub(super) gpu_lost: bool,
    /// The conversations of the last list, for `/sessions N`.
    pub(super) sessions: Vec<SessionEntry>,
    /// A conversation that is opened when its model is.
    pub(super) resuming: Option<Box<Transcript>>,
    /// Settings that were given at the start.
    pub(super) fixed: Vec<Setting>,
    /// The last Ctrl-C, if nothing has happened since.
    pub(super) interrupted: Option<Interrupt>,
}

/// What is being computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Busy {
    /// Files for this question are being read; it is sent when they are there.
    Reading { question: String },
    /// An answer that begins with `begun` and takes the place of `replaced`.
    Answering { begun: String, replaced: Replaced },
    /// A summary of the turns before `upto`; then `pending` is done.
    Summarising { upto: usize, pending: Pending },
    /// A switch to another model.
    Switching,
}

/// Turns that an answer will replace. They come back, from turn `from` on, if there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Replaced {
    pub(super) from: usize,
    pub(super) turns: Vec<Turn>,
}

/// How much of the context the conversation takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meter {
    /// The conversation has changed since it was counted.
    Unknown,
    /// It is being counted, by the number of the request.
    Requested(u64),
    /// Its tokens.
    Known(usize),
    /// The chat template rejects it.
    Uncountable,
}

/// A context that is full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Overflow {
    /// Tokens of the conversation.
    pub tokens: usize,
    /// Tokens that the context holds.
    pub context: usize,
    /// Whether an answer was cut; otherwise nothing was computed.
    pub cut: bool,
    /// What is done once there is room.
    pub pending: Pending,
}

/// A request that did not fit into the context and is repeated once there is room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pending {
    /// A new answer to the last question.
    NewAnswer,
    /// More of the last answer.
    Continue,
    /// An answer to this question, which replaces the last one.
    ReplaceQuestion(Turn),
}

/// The last Ctrl-C.
#[derive(Debug, Clone, Copy)]
pub(super) enum Interrupt {
    /// At the prompt, at this time.
    Idle(Duration),
    /// It stopped an answer, at this time.
    Stopped(Duration),
}

/// A single note.
pub(super) fn note(tone: Tone, text: impl Into<String>) -> Vec<ChatEffect> {
    vec![ChatEffect::Note(tone, text.into())]
}

impl Chat {
    /// An empty conversation.
    pub fn new(facts: Facts, params: GenerateParams, system: Option<String>) -> Self {
        Self {
            facts,
            params,
            reasoning_shown: false,
            thinks: true,
            system,
            turns: Vec::new(),
            hidden: 0,
            summary: None,
            editing: None,
            attached: Vec::new(),
            reading: 0,
            busy: None,
            overflow: None,
            keeps: false,
            kept_last: true,
            answers: 0,
            last: None,
            meter: Meter::Unknown,
            counts: 0,
            warned: false,
            given_back: 0,
            gpu_lost: false,
            sessions: Vec::new(),
            resuming: None,
            fixed: Vec::new(),
            interrupted: None,
        }
    }

    /// Saves the conversation for `--continue` whenever it changes, by [`ChatEffect::Keep`].
    pub fn keep_conversations(&mut self) {
        self.keeps = true;
    }

    /// Whether the conversation is saved for `--continue`.
    pub fn keeps(&self) -> bool {
        self.keeps
    }

    /// The open model.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The settings of the next answer.
    pub fn params(&self) -> &GenerateParams {
        &self.params
    }

    /// Questions and answers so far, the oldest first.
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// Whether reasoning is shown in full.
    pub fn reasoning_shown(&self) -> bool {
        self.reasoning_shown
    }

    /// Whether a question, an answer, a summary or a switch is in progress.
    pub fn busy(&self) -> bool {
        self.busy.is_some()
    }

    /// The activity in progress, unless it is an answer, which is shown by itself.
    pub fn activity(&self) -> Option<&'static str> {
        match self.busy {
            Some(Busy::Reading { .. }) => Some("reading the attached file"),
            Some(Busy::Summarising { .. }) => Some("summarising"),
            Some(Busy::Switching) => Some("loading the model"),
            None if self.reading > 0 => Some("reading the attached file"),
            Some(Busy::Answering { .. }) | None => None,
        }
    }

    /// Whether the next entry replaces the last question.
    pub fn editing(&self) -> bool {
        self.editing.is_some()
    }

    /// Statistics of the last answer.
    pub fn last(&self) -> Option<&GenerateStats> {
        self.last.as_ref()
    }

    /// Whether the last turn is a question, so that it has no answer (yet).
    pub(super) fn question_is_last(&self) -> bool {
        self.turns.last().is_some_and(|turn| turn.role == Speaker::User)
    }

    /// Requests an answer to the last question. The answer begins with `begun`; if there is none, `replaced`
    /// comes back.
    pub(super) fn request(&mut self, begun: String, replaced: Vec<Turn>) -> ChatEffect {
        self.request_replacing(begun, Replaced { from: self.turns.len(), turns: replaced })
    }

    /// As [`Self::request`], for replaced turns that do not belong at the end.
    pub(super) fn request_replacing(&mut self, begun: String, replaced: Replaced) -> ChatEffect {
        self.overflow = None;
        if self.meter == Meter::Unknown {
            // The model counts when it answers. What changes from here on is counted afterwards.
            self.counts += 1;
            self.meter = Meter::Requested(self.counts);
        }
        let messages = self.messages(self.turns.len());
        let mut params = self.params.clone();
        params.sampler.seed = params.sampler.seed.wrapping_add(self.answers);
        self.answers += 1;
        self.busy = Some(Busy::Answering { begun: begun.clone(), replaced });
        ChatEffect::Answer(Request { messages, begun, think: self.thinks, params })
    }

    /// What the model sees of the turns before `upto`. Earlier reasoning is left out: models are trained that
    /// way.
    pub(super) fn messages(&self, upto: usize) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new(Speaker::System, text.as_str()));
        let mut messages: Vec<_> = system.collect();
        let first = messages.len();
        messages.extend(self.turns[self.hidden..upto].iter().map(|turn| match turn.role {
            Speaker::Assistant => Message::new(Speaker::Assistant, thinking::answer(&turn.content)),
            _ => turn.message(),
        }));
        if let (Some(summary), Some(question)) = (&self.summary, messages.get_mut(first)) {
            question.content =
                format!("(Summary of the earlier conversation: {summary})\n\n{}", question.content);
        }
        messages
    }

    /// Replaces the whole conversation.
    pub(super) fn replace_turns(&mut self, turns: Vec<Turn>) {
        self.stop_editing();
        self.turns = turns;
        self.meter = Meter::Unknown;
        self.hidden = 0;
        self.summary = None;
        self.overflow = None;
        self.last = None;
        self.warned = false;
    }

    /// Ends editing: the last question stays as it is, and the attachments from before come back.
    pub fn stop_editing(&mut self) {
        if let Some(before) = self.editing.take() {
            self.attached = before;
        }
    }
}
