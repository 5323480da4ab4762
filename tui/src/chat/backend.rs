//! What a chat needs of an engine: an answer to a conversation, and a switch to another model. The program
//! implements [`Backend`] with a session, tests implement it with a script. It must not know how a
//! conversation is shown.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use moelten_engine::api::{Answer, Event, ExpertMap, GenerateParams};
use moelten_engine::runtime::cancel::Cancel;
use moelten_loader::text::chat::Message;

use super::facts::Facts;
use super::tone::Tone;

/// A conversation to be answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// All messages, the system prompt first if there is one.
    pub messages: Vec<Message>,
    /// The beginning of the answer, to be continued; empty for a new answer.
    pub begun: String,
    /// Whether the model may reason before it answers. Ignored where the chat template has no such switch.
    pub think: bool,
    /// Sampling parameters.
    pub params: GenerateParams,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The conversation is longer than the context; nothing was computed.
    ContextFull {
        /// Tokens of the conversation.
        tokens: usize,
        /// Tokens that the context holds.
        context: usize,
    },
    /// Any other error, as a message.
    Other(String),
}

/// Another model is open.
#[derive(Debug, Clone, PartialEq)]
pub struct Switched {
    /// What the chat should know about it.
    pub facts: Facts,
    /// The sampling parameters that it recommends.
    pub params: GenerateParams,
}

/// Why the other model is not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotSwitched {
    /// The user cancelled the switch.
    Stopped(PreviousModel),
    /// The other model cannot be opened; a message.
    Refused(String, PreviousModel),
    /// Neither the other model nor the previous one can be opened; a message.
    NothingOpen(String),
}

/// What a failed switch did to the previous model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreviousModel {
    /// It stayed open.
    Untouched,
    /// It was closed and opened again: its caches and counters start from zero.
    Reopened,
}

impl NotSwitched {
    /// Whether the previous model was closed.
    pub fn closed(&self) -> bool {
        !matches!(self, Self::Stopped(PreviousModel::Untouched) | Self::Refused(_, PreviousModel::Untouched))
    }
}

/// Prints a note for the user while a model is being opened.
pub type Tell<'a> = &'a mut dyn FnMut(Tone, String);

/// Takes how far the loading of a model has come, in words.
pub type TellProgress = Box<dyn Fn(String) + Send + Sync>;

/// The length of a text or a conversation in tokens, counted up to a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenCount {
    /// Exactly this many tokens; may exceed the limit.
    Exactly(usize),
    /// More tokens than this limit; counting stopped there.
    MoreThan(usize),
}

impl TokenCount {
    /// The smallest number of tokens that this count allows.
    pub fn at_least(self) -> usize {
        match self {
            Self::Exactly(tokens) => tokens,
            Self::MoreThan(limit) => limit.saturating_add(1),
        }
    }
}

/// Counts the tokens of a text: `(text, limit, stop)`. Counting must stop, in time and in memory, once it is
/// clear that there are more than `limit` tokens, and soon after `stop` is cancelled; the result is not used
/// then. The error is a message: the tokenizer cannot encode the text.
pub type CountText = Arc<dyn Fn(&str, usize, &Cancel) -> Result<TokenCount, String> + Send + Sync>;

/// Counts the tokens of a conversation: `(messages, limit, stop)`, with the rules of [`CountText`]. `None` if
/// the chat template rejects the conversation.
pub type CountConversation = Arc<dyn Fn(&[Message], usize, &Cancel) -> Option<TokenCount> + Send + Sync>;

/// Questions about the open model that any thread may ask while it computes.
#[derive(Clone)]
pub struct Counters {
    /// Counts the tokens of a text.
    pub text: CountText,
    /// Counts the tokens of a conversation.
    pub conversation: CountConversation,
    /// Takes a snapshot of the expert cache.
    pub experts: Arc<dyn Fn() -> ExpertMap + Send + Sync>,
}

/// Answers conversations.
pub trait Backend {
    /// Answers a conversation. `on_event` receives the answer as it is generated; if it breaks, or the user
    /// presses Ctrl-C, the answer ends with [`moelten_engine::api::StopReason::Cancelled`]. An answer that
    /// was cancelled before anything was computed has `prompt_tokens` 0.
    ///
    /// # Errors
    /// See [`Failure`]. Text that `on_event` received before stays valid.
    fn answer(
        &mut self,
        request: &Request,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Answer, Failure>;

    /// Opens another model; `None` is the built-in one. The headers are checked first; then the previous
    /// model is closed. Ctrl-C cancels the switch.
    ///
    /// # Errors
    /// See [`NotSwitched`].
    fn switch(&mut self, model: Option<&Path>, tell: Tell<'_>) -> Result<Switched, NotSwitched>;

    /// Has the backend tell, from any thread and a few times a second, how far a switch has come. Without a
    /// screen nothing asks for it.
    fn tell_progress(&mut self, _tell: TellProgress) {}

    /// The counters of the open model, or of the last one that was open.
    fn counters(&self) -> Counters;
}
