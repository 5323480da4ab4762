//! What a chat needs of an engine: an answer to a conversation. The program connects it with a session, tests with a
//! script. It must not know how the conversation is shown.

use std::ops::ControlFlow;

use moelten_engine::api::{Answer, Event, GenerateParams};
use moelten_loader::chat::Message;

/// A conversation that waits for an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// All turns, the system prompt first if there is one.
    pub messages: Vec<Message>,
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

/// Answers conversations.
pub trait Backend {
    /// Answers a conversation. `on_event` gets the answer as it comes and may break it off; that, and Ctrl-C, end the
    /// answer with [`moelten_engine::api::StopReason::Cancelled`].
    ///
    /// # Errors
    /// See [`Failure`]. What was sent to `on_event` before stays valid.
    fn answer(
        &mut self,
        request: &Request,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Answer, Failure>;
}
