//! What a chat needs of an engine: an answer to a conversation, and another model when someone asks for one. The program
//! connects it with a session, tests with a script. It must not know how the conversation is shown.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use moelten_engine::api::{Answer, Event, ExpertMap, GenerateParams};
use moelten_loader::text::chat::Message;

use crate::chat::Facts;
use crate::picker::Entry;
use crate::terminal::Tone;

/// A conversation that waits for an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// All turns, the system prompt first if there is one.
    pub messages: Vec<Message>,
    /// What there is of the answer already, to be continued; empty for a new one.
    pub begun: String,
    /// Whether the model may think before it speaks, if its template leaves that open.
    pub think: bool,
    /// How to answer.
    pub params: GenerateParams,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The conversation is longer than the context; nothing was computed.
    ContextFull {
        /// Tokens of the conversation.
        tokens: usize,
        /// Tokens the context holds.
        context: usize,
    },
    /// Anything else, in words for people.
    Other(String),
}

/// Another model, ready to answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Switched {
    /// What it is.
    pub facts: Facts,
    /// How it likes to answer.
    pub params: GenerateParams,
}

/// Why no other model is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotSwitched {
    /// Somebody stopped it.
    Stopped(Before),
    /// It cannot be opened, in words.
    Refused(String, Before),
    /// It cannot be opened, nor can the one from before again, in words.
    NothingOpen(String),
}

/// What became of the model that was open before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// It was not touched.
    Open,
    /// It was closed, and opened again: caches and counters begin anew.
    OpenedAgain,
}

impl NotSwitched {
    /// Whether the model from before was closed.
    pub fn closed(&self) -> bool {
        !matches!(self, Self::Stopped(Before::Open) | Self::Refused(_, Before::Open))
    }
}

/// Says something to the person while a model is opened.
pub type Tell<'a> = &'a mut dyn FnMut(Tone, String);

/// Counts the tokens of a text, or says why that cannot be done.
pub type Count = Arc<dyn Fn(&str) -> Result<usize, String> + Send + Sync>;

/// Counts the tokens of a conversation; `None` if the model takes no such conversation.
pub type Conversation = Arc<dyn Fn(&[Message]) -> Option<usize> + Send + Sync>;

/// What can be asked about a model while it computes, on any thread.
#[derive(Clone)]
pub struct Beside {
    /// Counts the tokens of a text.
    pub count: Count,
    /// Counts the tokens of a conversation as it stands.
    pub conversation: Conversation,
    /// Takes a picture of its experts.
    pub experts: Arc<dyn Fn() -> ExpertMap + Send + Sync>,
}

/// A step of a search for models.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// A model.
    Model(Entry),
    /// Something could not be searched.
    Note(String),
    /// That was all.
    All,
}

/// Looks for models on this machine, on any thread, and hands out what it finds until it is told to break off.
pub type Finder = Arc<dyn Fn(&mut dyn FnMut(Found) -> ControlFlow<()>) + Send + Sync>;

/// Answers conversations.
pub trait Backend {
    /// Answers a conversation. `on_event` gets the answer as it comes and may break it off; that, and Ctrl-C, end the
    /// answer with [`moelten_engine::api::StopReason::Cancelled`]. It counts no token of the prompt if that was so early
    /// that nothing was computed.
    ///
    /// # Errors
    /// See [`Failure`]. What was sent to `on_event` before stays valid.
    fn answer(
        &mut self,
        request: &Request,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Answer, Failure>;

    /// Opens another model in the place of this one, which is closed unless the other is refused at once; `None` is the one
    /// that the program carries. Ctrl-C gives it up.
    ///
    /// # Errors
    /// See [`NotSwitched`].
    fn switch(&mut self, model: Option<&Path>, tell: Tell<'_>) -> Result<Switched, NotSwitched>;

    /// What can be asked about the model that is open now, or was last.
    fn beside(&self) -> Beside;
}
