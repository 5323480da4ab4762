//! A model that answers: session, tokenizer and chat template behind one door, for the chat and for single questions.
//! It must not know how answers are shown.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use moelten_engine::api::{Answer, Event, GenerateParams};
use moelten_engine::error::EngineError;
use moelten_engine::session::Session;
use moelten_loader::chat::{ChatTemplate, Message, RenderOptions};
use moelten_loader::text::SamplingHints;
use moelten_loader::tokenizer::Tokenizer;
use moelten_tui::backend::{Backend, Failure, Request};
use moelten_tui::terminal::{Notes, Tone};

use crate::exit::{self, CommandError};
use crate::memory_words;
use crate::open::{self, SessionArgs};
use crate::signals::Polling;

/// A model that answers.
pub struct Responder {
    session: Session,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    about: About,
}

/// What people may want to know about it. Texts are unfiltered.
#[derive(Debug, Clone)]
pub struct About {
    /// Name for people.
    pub name: String,
    /// Family label.
    pub family: &'static str,
    /// What the model's files recommend.
    pub hints: SamplingHints,
    /// Oddities of its files that do no harm.
    pub notices: Vec<String>,
    /// The context and why it is that.
    pub context: String,
    /// Tokens the model was made for.
    pub made_for: usize,
    /// Threads and instruction set.
    pub compute: String,
}

impl Responder {
    /// Opens a model and gets it ready; `None` is the built-in one. Its chat template is left aside unless
    /// `with_template`. What people should know about its memory before and after goes to `notes`, if there are any.
    ///
    /// # Errors
    /// Whatever is wrong with its files, or does not fit into memory.
    pub fn open(
        model: Option<&Path>,
        options: &SessionArgs,
        with_template: bool,
        notes: Option<Notes>,
    ) -> anyhow::Result<Self> {
        let loaded = open::load(model)?;
        let text = loaded.text()?;
        let template = if with_template { loaded.chat_template()? } else { None };
        let hints = loaded.sampling_hints()?;
        let family = loaded.spec.family;
        let model_name = open::name(model);
        if let Some(notes) = notes {
            let plan = options.plan(&loaded)?;
            let lines = memory_words::before_start(options, &loaded, &plan)?;
            lines.iter().for_each(|(tone, line)| notes.line(*tone, line));
        }
        let mut notices = loaded.notices;
        notices.extend(text.notices);
        let model = options.model(loaded.spec, loaded.tensors)?;
        if let (Some(notes), Some(line)) = (notes, memory_words::after_start(&model)) {
            notes.line(Tone::Warning, &line);
        }
        let threads = model.pool().threads();
        let compute_text = format!("{threads} threads, {}", model.isa().name());
        let (session, why) = options.session(&Arc::clone(&model))?;
        let about = About {
            name: model_name,
            family,
            hints,
            notices,
            context: format!("{} tokens ({why})", open::count(session.context())),
            made_for: model.spec().max_context,
            compute: compute_text,
        };
        Ok(Self { session, tokenizer: text.tokenizer, template, about })
    }

    /// What to tell people.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Tokens the context holds.
    pub fn context(&self) -> usize {
        self.session.context()
    }

    /// Bytes of the KV cache for a context of so many tokens.
    pub fn kv_bytes(&self, context: usize) -> u64 {
        // The cache is one row per token in every layer: linear.
        let (bytes, _) = self.session.bytes();
        bytes / self.session.context() as u64 * context as u64
    }

    /// Whether a system prompt reaches the model.
    pub fn supports_system(&self) -> bool {
        self.template.as_ref().is_some_and(ChatTemplate::supports_system)
    }

    /// Refuses what would otherwise go wrong silently: a missing template, a system prompt that the template drops.
    ///
    /// # Errors
    /// [`CommandError::NoTemplate`], [`CommandError::Unsupported`].
    pub fn check(&self, system: Option<&str>) -> Result<(), CommandError> {
        if self.template.is_none() {
            return Err(CommandError::NoTemplate { model: self.about.name.clone() });
        }
        if system.is_some() && !self.supports_system() {
            let problem = "this model's chat template takes no system prompt; leave --system away and say it in the \
                           question";
            return Err(CommandError::Unsupported(problem.to_owned()));
        }
        Ok(())
    }

    /// The tokens of a conversation.
    ///
    /// # Errors
    /// A template that refuses it; no template.
    pub fn conversation(&self, messages: &[Message]) -> anyhow::Result<Vec<u32>> {
        let Some(template) = &self.template else {
            return Err(CommandError::NoTemplate { model: self.about.name.clone() }.into());
        };
        let options = RenderOptions { add_generation_prompt: true, ..Default::default() };
        let markup = template.render(&self.tokenizer, messages, &options)?;
        Ok(self.tokenizer.encode_markup(&markup)?)
    }

    /// The tokens of a text that the model is to continue. Nothing in it becomes a control token.
    ///
    /// # Errors
    /// A text without a token.
    pub fn plain(&self, text: &str) -> anyhow::Result<Vec<u32>> {
        let bos = self.tokenizer.bos().filter(|_| self.tokenizer.adds_bos());
        let ids: Vec<u32> = bos.into_iter().chain(self.tokenizer.encode_text(text)?).collect();
        if ids.is_empty() {
            return Err(CommandError::Usage(
                "the prompt is empty; this model needs a word to begin with".into(),
            )
            .into());
        }
        Ok(ids)
    }

    /// Answers a prompt. Ctrl-C, a signal or `on_event` may break it off.
    ///
    /// # Errors
    /// As [`Session::generate`].
    pub fn answer(
        &mut self,
        prompt: &[u32],
        params: &GenerateParams,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Answer, EngineError> {
        let polling = Polling::begin();
        let stop = polling.stop();
        self.session.generate(&self.tokenizer, prompt, params, stop, &mut |event| {
            if on_event(event).is_break() {
                stop.store(true, Ordering::SeqCst);
            }
        })
    }
}

impl Backend for Responder {
    fn answer(
        &mut self,
        request: &Request,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Answer, Failure> {
        let prompt = self.conversation(&request.messages).map_err(failure)?;
        Self::answer(self, &prompt, &request.params, on_event).map_err(|error| match error {
            EngineError::ContextFull { tokens, context } => Failure::ContextFull { tokens, context },
            other => failure(other.into()),
        })
    }
}

fn failure(error: anyhow::Error) -> Failure {
    let report = exit::report(&error);
    Failure::Other(format!("error[{}]: {}", report.code, report.text))
}
