//! Tokenizer and chat template of a model, shared by answering and counting. It must not know the engine.

use moelten_engine::runtime::cancel::Cancel;
use moelten_loader::text::chat::{ChatTemplate, Message, RenderOptions, Speaker};
use moelten_loader::text::tokenizer::{Encoded, Ended, Markup, Tokenizer};
use moelten_tui::chat::{Request, TokenCount};
use moelten_tui::thinking;
use serde_json::Value;

use crate::exit::CommandError;

/// Texts of more bytes are measured before a template copies them.
const LONG: usize = 64 << 10;

/// Tokenizer and chat template of one model.
pub struct Language {
    pub tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// For error messages.
    model: String,
}

/// The tokens of a prompt.
#[derive(Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether the template has opened the model's reasoning, which belongs to the answer.
    pub opened: bool,
}

/// Why there is no prompt.
#[derive(Debug)]
pub enum NoPrompt {
    /// It has more tokens than the limit.
    TooLong(TooLong),
    /// It was cancelled.
    Cancelled,
    /// The template refuses the conversation, or the tokenizer the text.
    Failed(anyhow::Error),
}

/// The size of a prompt beyond its limit, which was tokenised up to the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong {
    /// Its tokens: all of them if `exact`, and extrapolated otherwise.
    pub tokens: usize,
    /// Whether all of it was tokenised.
    pub exact: bool,
    /// Bytes of its text.
    pub bytes: usize,
}

impl TooLong {
    /// From the encoding of `bytes` bytes that stopped at its limit.
    fn of(encoded: &Encoded, bytes: usize) -> Self {
        let read = encoded.read.max(1);
        let tokens = (encoded.ids.len() as f64 * bytes as f64 / read as f64) as usize;
        Self { tokens: tokens.max(encoded.at_least), exact: encoded.read == bytes, bytes }
    }
}

impl From<anyhow::Error> for NoPrompt {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<moelten_loader::error::LoadError> for NoPrompt {
    fn from(error: moelten_loader::error::LoadError) -> Self {
        Self::Failed(error.into())
    }
}

/// The ids of a whole text of `bytes` bytes.
fn whole(encoded: Encoded, bytes: usize) -> Result<Vec<u32>, NoPrompt> {
    match encoded.ended {
        Ended::Text => Ok(encoded.ids),
        Ended::Limit => Err(NoPrompt::TooLong(TooLong::of(&encoded, bytes))),
        Ended::Stopped => Err(NoPrompt::Cancelled),
    }
}

impl Language {
    /// Combines them; `model` is the name in error messages.
    pub fn new(model: String, tokenizer: Tokenizer, template: Option<ChatTemplate>) -> Self {
        Self { tokenizer, template, model }
    }

    /// Whether there is a chat template.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// Whether a system prompt reaches the model.
    pub fn supports_system(&self) -> bool {
        self.template.as_ref().is_some_and(ChatTemplate::supports_system)
    }

    /// The tokens of a conversation up to the beginning of the answer, at most `limit`.
    ///
    /// # Errors
    /// See [`NoPrompt`].
    pub fn conversation(
        &self,
        messages: &[Message],
        limit: usize,
        cancel: &Cancel,
    ) -> Result<Vec<u32>, NoPrompt> {
        self.fits(messages, limit, cancel)?;
        let markup = self.render(messages, true, true)?;
        self.encode(&markup, limit, cancel)
    }

    /// Tokenises a first question, so that a vocabulary or a template that cannot is known when the model is
    /// opened.
    ///
    /// # Errors
    /// The error that an answer would give.
    pub fn probe(&self) -> anyhow::Result<()> {
        const QUESTION: &str = "Hello";
        let asked = match self.has_template() {
            true => self.conversation(&[Message::new(Speaker::User, QUESTION)], usize::MAX, &Cancel::new()),
            false => self.plain(QUESTION, usize::MAX, &Cancel::new()),
        };
        match asked {
            Err(NoPrompt::Failed(error)) => Err(error),
            _ => Ok(()),
        }
    }

    fn encode(&self, markup: &Markup, limit: usize, cancel: &Cancel) -> Result<Vec<u32>, NoPrompt> {
        let encoded = self.tokenizer.encode_markup_up_to(markup, limit, cancel.flag())?;
        // After `fits` little is left beyond the limit: it counts as tokenised.
        let bytes = encoded.read;
        whole(encoded, bytes)
    }

    /// Refuses long messages that have more than `limit` tokens by themselves, before a template copies them.
    fn fits(&self, messages: &[Message], limit: usize, cancel: &Cancel) -> Result<(), NoPrompt> {
        let bytes = messages.iter().map(|message| message.content.len()).sum();
        if bytes <= LONG {
            return Ok(());
        }
        let mut all = Encoded { ids: Vec::new(), read: 0, at_least: 0, ended: Ended::Text };
        for message in messages {
            let left = limit.saturating_sub(all.ids.len());
            let encoded = self.tokenizer.encode_text_up_to(&message.content, left, cancel.flag())?;
            all.at_least = all.ids.len().saturating_add(encoded.at_least);
            all.ids.extend(encoded.ids);
            all.read += encoded.read;
            all.ended = encoded.ended;
            if all.ended != Ended::Text {
                break;
            }
        }
        whole(all, bytes).map(drop)
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

    /// Counts the tokens of a text, up to `limit`. If `stop` is cancelled, the result is arbitrary.
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

    /// Counts the tokens of a conversation without the answer, as [`Self::count_text`]; `None` if the
    /// template refuses it.
    pub fn count(&self, messages: &[Message], limit: usize, stop: &Cancel) -> Option<TokenCount> {
        match self.fits(messages, limit, stop).and_then(|()| self.length(messages, limit, stop)) {
            Ok(tokens) => Some(TokenCount::Exactly(tokens)),
            Err(NoPrompt::TooLong(_) | NoPrompt::Cancelled) => Some(TokenCount::MoreThan(limit)),
            // Some templates refuse a system prompt alone: take the difference that it makes to a question.
            Err(NoPrompt::Failed(_)) if messages.iter().all(|message| message.role == Speaker::System) => {
                let question = [Message::new(Speaker::User, "Hello")];
                let both = self.length(&[messages, &question].concat(), usize::MAX, stop).ok()?;
                let tokens = both.checked_sub(self.length(&question, usize::MAX, stop).ok()?)?;
                Some(TokenCount::Exactly(tokens))
            }
            Err(NoPrompt::Failed(_)) => None,
        }
    }

    fn length(&self, messages: &[Message], limit: usize, stop: &Cancel) -> Result<usize, NoPrompt> {
        Ok(self.encode(&self.render(messages, false, true)?, limit, stop)?.len())
    }

    /// The tokens of a text to be continued, at most `limit`. Nothing in it becomes a control token.
    ///
    /// # Errors
    /// See [`NoPrompt`]; a text without tokens.
    pub fn plain(&self, text: &str, limit: usize, cancel: &Cancel) -> Result<Vec<u32>, NoPrompt> {
        let bos = self.tokenizer.bos().filter(|_| self.tokenizer.adds_bos());
        let left = limit.saturating_sub(usize::from(bos.is_some()));
        let encoded = self.tokenizer.encode_text_up_to(text, left, cancel.flag())?;
        let ids: Vec<u32> = bos.into_iter().chain(whole(encoded, text.len())?).collect();
        if ids.is_empty() {
            let problem = "the prompt is empty; this model needs at least one token";
            return Err(NoPrompt::Failed(CommandError::Usage(problem.into()).into()));
        }
        Ok(ids)
    }

    /// The prompt for a request, of at most `limit` tokens.
    ///
    /// # Errors
    /// See [`NoPrompt`].
    pub fn prompt(&self, request: &Request, limit: usize, cancel: &Cancel) -> Result<Prompt, NoPrompt> {
        self.fits(&request.messages, limit, cancel)?;
        let markup = self.render(&request.messages, true, request.think)?;
        let mut ids = self.encode(&markup, limit, cancel)?;
        let opened = thinking::opened_by(&markup.text());
        // The template has already written the opening of the reasoning.
        let begun =
            request.begun.strip_prefix(thinking::OPENING).filter(|_| opened).unwrap_or(&request.begun);
        if !begun.is_empty() {
            let left = limit.saturating_sub(ids.len());
            let encoded = self.tokenizer.encode_text_up_to(begun, left, cancel.flag())?;
            ids.extend(whole(encoded, begun.len())?);
        }
        Ok(Prompt { ids, opened })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// The built-in model's tokenizer with its own template, or with another one.
    fn language(source: Option<&str>) -> Language {
        let loaded = crate::open::builtin::load().unwrap();
        let template = match source {
            None => loaded.chat_template().unwrap(),
            Some(source) => Some(ChatTemplate::new("test", source).unwrap()),
        };
        Language::new("m".into(), loaded.text().unwrap().tokenizer, template)
    }

    #[test]
    fn a_system_prompt_is_counted_even_if_the_template_refuses_it_alone() {
        let each = "{% for message in messages %}{{ message.content }} {% endfor %}";
        let refuses = "{% if messages[-1].role == 'system' %}{{ raise_exception('no question') }}{% endif %}";
        let system = [Message::new(Speaker::System, "You are a kind dog.")];
        let go_on = Cancel::new();
        let count = |language: Language| language.count(&system, 1000, &go_on);
        let tokens = count(language(Some(each)));
        assert!(matches!(tokens, Some(TokenCount::Exactly(4..))), "{tokens:?}");
        assert_eq!(count(language(Some(&format!("{refuses}{each}")))), tokens);
    }

    #[test]
    fn a_text_is_counted_up_to_a_limit() {
        let language = language(None);
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
    fn a_prompt_longer_than_the_limit_is_measured_and_not_made() {
        let (language, go_on) = (language(None), Cancel::new());
        let text = "Once upon a time there was a dog. ".repeat(200_000);
        let tokens = language.tokenizer.encode_text(&text[..text.len() / 50]).unwrap().len() * 50;
        let messages =
            [Message::new(Speaker::System, "Be kind."), Message::new(Speaker::User, text.as_str())];
        let started = Instant::now();
        for made in [language.conversation(&messages, 500, &go_on), language.plain(&text, 500, &go_on)] {
            let Err(NoPrompt::TooLong(found)) = made else { panic!("{made:?}") };
            assert!(!found.exact && found.tokens.abs_diff(tokens) < tokens / 20, "{found:?} of {tokens}");
        }
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        // A text of a few pages is counted to its end.
        let Err(NoPrompt::TooLong(found)) = language.plain(&text[..4000], 500, &go_on) else { panic!() };
        let tokens = language.tokenizer.encode_text(&text[..4000]).unwrap().len();
        assert_eq!((found.tokens, found.exact), (tokens, true));
    }

    #[test]
    fn a_prompt_can_be_cancelled_while_it_is_made() {
        let language = language(None);
        let request = |content: &str| Request {
            messages: vec![Message::new(Speaker::User, content)],
            begun: String::new(),
            think: true,
            params: Default::default(),
        };
        let cancel = Cancel::new();
        let prompt = language.prompt(&request("Hello"), 100, &cancel).unwrap();
        let messages = request("Hello").messages;
        assert_eq!(prompt.ids, language.conversation(&messages, 100, &cancel).unwrap());
        let counted = language.count(&messages, 100, &cancel).unwrap();
        assert!(counted.at_least() <= prompt.ids.len());
        let long = request(&"All the dogs and cats of the village. ".repeat(1 << 20));
        let started = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(30));
                cancel.cancel();
            });
            let made = language.prompt(&long, usize::MAX, &cancel);
            assert!(matches!(made, Err(NoPrompt::Cancelled)), "{made:?}");
        });
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
}
