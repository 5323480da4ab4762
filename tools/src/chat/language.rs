//! Tokenizer and chat template of a model, shared by answering and counting. It must not know the engine.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moelten_engine::runtime::cancel::Cancel;
use moelten_loader::supervise::supervised;
use moelten_loader::text::chat::{ChatTemplate, Message, RenderOptions, Speaker};
use moelten_loader::text::tokenizer::{Ended, Markup, Tokenizer};
use moelten_tui::chat::{Request, TokenCount};
use moelten_tui::thinking;
use serde_json::Value;

use crate::exit::CommandError;

/// Tokens by which a message may count more alone than inside the rendered conversation: tokens that span the
/// template's text and the message, and the space that some tokenizers add before a text.
const COUNTED_MORE_MAX: usize = 4;
/// Time between two polls of the stop flag while a prompt is made.
const LOOK: Duration = Duration::from_millis(10);

/// Tokenizer and chat template of one model.
pub struct Language {
    pub tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// For error messages.
    model: String,
    /// Held while a prompt is made: a cancelled one ends before the next begins.
    working: Mutex<()>,
}

/// The tokens of a prompt.
#[derive(Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether the template has opened the model's reasoning, which belongs to the answer.
    pub opened: bool,
}

impl Language {
    /// Combines them; `model` is the name in error messages.
    pub fn new(model: String, tokenizer: Tokenizer, template: Option<ChatTemplate>) -> Self {
        Self { tokenizer, template, model, working: Mutex::default() }
    }

    /// Whether there is a chat template.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// Whether a system prompt reaches the model.
    pub fn supports_system(&self) -> bool {
        self.template.as_ref().is_some_and(ChatTemplate::supports_system)
    }

    /// The tokens of a conversation up to the beginning of the answer.
    ///
    /// # Errors
    /// No template, or one that refuses the conversation.
    pub fn conversation(&self, messages: &[Message]) -> anyhow::Result<Vec<u32>> {
        Ok(self.tokenizer.encode_markup(&self.render(messages, true, true)?)?)
    }

    /// The text of a conversation; with `asked`, up to the beginning of the answer.
    fn render(&self, messages: &[Message], asked: bool, think: bool) -> anyhow::Result<Markup> {
        let Some(template) = &self.template else {
            return Err(CommandError::NoTemplate { model: self.model.clone() }.into());
        };
        let mut options = RenderOptions { add_generation_prompt: asked, ..Default::default() };
        if !think {
            options.variables.insert("enable_thinking".to_owned(), Value::Bool(false));
        }
        Ok(template.render(&self.tokenizer, messages, &options)?)
    }

    /// Whether the template can turn reasoning off.
    pub fn can_skip_thinking(&self) -> bool {
        let question = [Message::new(Speaker::User, "Hello")];
        let with = |think| self.render(&question, true, think).map(|markup| markup.text().into_owned()).ok();
        with(true) != with(false)
    }

    /// Counts the tokens of a text. Encoding ends once there are more than `limit`. If `stop` is cancelled, the
    /// result is arbitrary.
    ///
    /// # Errors
    /// The tokenizer cannot encode the text.
    pub fn count_text(&self, text: &str, limit: usize, stop: &Cancel) -> anyhow::Result<TokenCount> {
        let encoded = self.tokenizer.encode_text_up_to(text, limit, stop.flag())?;
        Ok(match encoded.ended {
            Ended::Text => TokenCount::Exactly(encoded.ids.len()),
            Ended::Limit | Ended::Stopped => TokenCount::MoreThan(limit),
        })
    }

    /// Whether the texts of messages have more than `limit` tokens together, whatever the template adds. Also
    /// true if `stop` is cancelled.
    fn exceeds(&self, messages: &[Message], limit: usize, stop: &Cancel) -> anyhow::Result<bool> {
        let mut tokens = 0_usize;
        for message in messages {
            let most = (limit - tokens).saturating_add(COUNTED_MORE_MAX);
            match self.count_text(&message.content, most, stop)? {
                TokenCount::Exactly(more) => tokens += more.saturating_sub(COUNTED_MORE_MAX),
                TokenCount::MoreThan(_) => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Counts the tokens of a conversation without the answer, as [`Self::count_text`]; `None` if the
    /// template refuses it.
    pub fn count(&self, messages: &[Message], limit: usize, stop: &Cancel) -> Option<TokenCount> {
        // Too long texts are not rendered.
        if self.exceeds(messages, limit, stop).ok()? {
            return Some(TokenCount::MoreThan(limit));
        }
        self.count_whole(messages).map(TokenCount::Exactly)
    }

    fn count_whole(&self, messages: &[Message]) -> Option<usize> {
        if messages.iter().any(|message| message.role != Speaker::System) {
            return self.length(messages);
        }
        // Some templates refuse a system prompt alone: take the difference that it makes to a question.
        self.length(messages).or_else(|| {
            let question = [Message::new(Speaker::User, "Hello")];
            self.length(&[messages, &question].concat())?.checked_sub(self.length(&question)?)
        })
    }

    fn length(&self, messages: &[Message]) -> Option<usize> {
        let markup = self.render(messages, false, true).ok()?;
        Some(self.tokenizer.encode_markup(&markup).ok()?.len())
    }

    /// The tokens of a text to be continued. Nothing in it becomes a control token.
    ///
    /// # Errors
    /// A text without tokens.
    pub fn plain(&self, text: &str) -> anyhow::Result<Vec<u32>> {
        let bos = self.tokenizer.bos().filter(|_| self.tokenizer.adds_bos());
        let ids: Vec<u32> = bos.into_iter().chain(self.tokenizer.encode_text(text)?).collect();
        if ids.is_empty() {
            let problem = "the prompt is empty; this model needs at least one token";
            return Err(CommandError::Usage(problem.into()).into());
        }
        Ok(ids)
    }

    /// The prompt for a request. Megabytes of text take seconds, so it is made on a thread of its own; `None`
    /// if `cancel` came first.
    ///
    /// # Errors
    /// As [`Self::conversation`]; a thread that cannot be started, or panics.
    pub fn prompt(self: &Arc<Self>, request: &Request, cancel: &Cancel) -> anyhow::Result<Option<Prompt>> {
        let (language, request) = (Arc::clone(self), request.clone());
        run_cancellable(cancel, move || {
            let _alone = language.working.lock().unwrap_or_else(PoisonError::into_inner);
            language.prompt_now(&request)
        })
        .transpose()
    }

    fn prompt_now(&self, request: &Request) -> anyhow::Result<Prompt> {
        let markup = self.render(&request.messages, true, request.think)?;
        let mut ids = self.tokenizer.encode_markup(&markup)?;
        let opened = thinking::opened_by(&markup.text());
        // The template has already written the opening of the reasoning.
        let begun =
            request.begun.strip_prefix(thinking::OPENING).filter(|_| opened).unwrap_or(&request.begun);
        if !begun.is_empty() {
            ids.extend(self.tokenizer.encode_text(begun)?);
        }
        Ok(Prompt { ids, opened })
    }
}

/// Runs `work` on a thread of its own; `None` if `cancel` comes first: then its result is dropped.
fn run_cancellable<T: Send + 'static>(
    cancel: &Cancel,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Option<anyhow::Result<T>> {
    let (done, result) = channel();
    let failed = done.clone();
    // The receiver is gone after a stop.
    let work = move || drop(done.send(work()));
    let on_panic = move |message| drop(failed.send(Err(anyhow::Error::msg(message))));
    if let Err(error) = supervised("prompt", on_panic, work) {
        return Some(Err(error.into()));
    }
    loop {
        match result.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Timeout) if cancel.is_cancelled() => return None,
            Err(RecvTimeoutError::Timeout) => {}
            received => return Some(received.expect("the thread sends its result or its panic")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn stopped_work_is_not_waited_for() {
        let cancel = Cancel::new();
        assert_eq!(run_cancellable(&cancel, || Ok(5)).unwrap().unwrap(), 5);
        let panicked = run_cancellable::<u8>(&cancel, || panic!("no such token")).unwrap();
        assert_eq!(panicked.unwrap_err().to_string(), "prompt: no such token");
        let started = Instant::now();
        let (go, wait) = channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(30));
                cancel.cancel();
            });
            assert!(run_cancellable(&cancel, move || Ok(wait.recv()?)).is_none());
        });
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        drop(go);
    }

    #[test]
    fn a_system_prompt_is_counted_even_if_the_template_refuses_it_alone() {
        let loaded = crate::open::builtin::load().unwrap();
        let language = |source: &str| {
            let template = ChatTemplate::new("test", source).unwrap();
            Language::new("m".into(), loaded.text().unwrap().tokenizer, Some(template))
        };
        let each = "{% for message in messages %}{{ message.content }} {% endfor %}";
        let refuses = "{% if messages[-1].role == 'system' %}{{ raise_exception('no question') }}{% endif %}";
        let system = [Message::new(Speaker::System, "You are a kind dog.")];
        let tokens = language(each).count_whole(&system);
        assert!(tokens.is_some_and(|tokens| tokens > 3), "{tokens:?}");
        assert_eq!(language(&format!("{refuses}{each}")).count_whole(&system), tokens);
    }

    #[test]
    fn a_text_is_counted_up_to_a_limit() {
        let loaded = crate::open::builtin::load().unwrap();
        let template = loaded.chat_template().unwrap();
        let language = Language::new("m".into(), loaded.text().unwrap().tokenizer, template);
        let (go_on, cancelled) = (Cancel::new(), Cancel::new());
        cancelled.cancel();
        // Lines, and a single one; both of several pieces.
        for text in ["The dog sat on the mat.\n".repeat(20_000), "The dog sat on the mat. ".repeat(20_000)] {
            let tokens = language.tokenizer.encode_text(&text).unwrap().len();
            let count = |limit, stop: &Cancel| language.count_text(&text, limit, stop).unwrap();
            assert_eq!(count(tokens, &go_on), TokenCount::Exactly(tokens));
            assert_eq!(count(1000, &go_on), TokenCount::MoreThan(1000));
            assert_eq!(count(tokens / 2, &go_on), TokenCount::MoreThan(tokens / 2));
            assert_eq!(count(tokens, &cancelled), TokenCount::MoreThan(tokens), "stopped");
            let messages =
                [Message::new(Speaker::User, "Hello"), Message::new(Speaker::Assistant, text.as_str())];
            assert_eq!(language.count(&messages, 1000, &go_on), Some(TokenCount::MoreThan(1000)));
        }
        assert_eq!(language.count_text("", 0, &go_on).unwrap(), TokenCount::Exactly(0));
        // Megabytes are not encoded to learn that they are too long.
        let long = "dog ".repeat(8 << 20);
        let started = Instant::now();
        assert_eq!(language.count_text(&long, 1000, &go_on).unwrap(), TokenCount::MoreThan(1000));
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }

    #[test]
    fn a_stopped_prompt_ends_before_the_next_begins() {
        let loaded = crate::open::builtin::load().unwrap();
        let template = loaded.chat_template().unwrap();
        let language = Arc::new(Language::new("m".into(), loaded.text().unwrap().tokenizer, template));
        let request = Request {
            messages: vec![Message::new(Speaker::User, "Hello")],
            begun: String::new(),
            think: true,
            params: Default::default(),
        };
        let go_on = Cancel::new();
        let prompt = language.prompt(&request, &go_on).unwrap().unwrap();
        assert_eq!(prompt.ids, language.conversation(&request.messages).unwrap());
        assert!(language.count_whole(&request.messages).is_some_and(|tokens| tokens <= prompt.ids.len()));
        let working = language.working.lock().unwrap();
        let cancelled = Cancel::new();
        cancelled.cancel();
        assert_eq!(language.prompt(&request, &cancelled).unwrap(), None);
        drop(working);
        assert_eq!(language.prompt(&request, &go_on).unwrap(), Some(prompt));
    }
}
