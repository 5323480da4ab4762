//! A model that answers: session, tokenizer and chat template behind one door, for the chat and for single questions.
//! It must not know how answers are shown.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use moelten_engine::api::{Answer, Event, GenerateParams};
use moelten_engine::error::EngineError;
use moelten_engine::memory;
use moelten_engine::session::Session;
use moelten_loader::chat::{ChatTemplate, Message, RenderOptions, Role};
use moelten_loader::text::SamplingHints;
use moelten_loader::tokenizer::{Markup, Tokenizer};
use moelten_tui::backend::{Backend, Beside, Failure, Finder, Found, Request, Switched, Tell};
use moelten_tui::chat::Facts;
use moelten_tui::experts::Limits;
use moelten_tui::terminal::Tone;
use moelten_tui::thinking;
use serde_json::Value;

use crate::exit::{self, CommandError};
use crate::memory_words;
use crate::models::{self, Looker, Places};
use crate::open::{self, SessionArgs};
use crate::sampling::SamplingArgs;
use crate::signals::Polling;

/// A model that answers.
pub struct Responder {
    session: Session,
    tokenizer: Arc<Tokenizer>,
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
    /// Type of most of its weights.
    pub format: String,
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
    /// What the machine allows it, as far as that was measured.
    pub limits: Limits,
}

impl Responder {
    /// Opens a model and gets it ready; `None` is the built-in one. Its chat template is left aside unless
    /// `with_template`. What people should know about its memory before and after goes to `tell`, if there is one.
    ///
    /// # Errors
    /// Whatever is wrong with its files, or does not fit into memory.
    pub fn open(
        model: Option<&Path>,
        options: &SessionArgs,
        with_template: bool,
        tell: Option<Tell<'_>>,
    ) -> anyhow::Result<Self> {
        let loaded = open::load(model)?;
        let text = loaded.text()?;
        let template = if with_template { loaded.chat_template()? } else { None };
        let hints = loaded.sampling_hints()?;
        let family = loaded.spec.family;
        let model_name = open::name(model);
        let mut tell = tell;
        let mut limits = Limits::default();
        if let Some(tell) = &mut tell {
            let plan = options.plan(&loaded)?;
            let before = memory_words::before_start(options, &loaded, &plan)?;
            limits = before.limits;
            before.lines.into_iter().for_each(|(tone, line)| tell(tone, line));
        }
        let format = models::weight_type(&loaded);
        let mut notices = loaded.notices;
        notices.extend(text.notices);
        let model = options.model(loaded.spec, loaded.tensors)?;
        if let (Some(tell), Some(line)) = (tell, memory_words::after_start(&model)) {
            tell(Tone::Warning, line);
        }
        let threads = model.pool().threads();
        let compute_text = format!("{threads} threads, {}", model.isa().name());
        let (session, why) = options.session(&Arc::clone(&model))?;
        let about = About {
            name: model_name,
            family,
            format,
            hints,
            notices,
            context: format!("{} tokens ({why})", open::count(session.context())),
            made_for: model.spec().max_context,
            compute: compute_text,
            limits,
        };
        Ok(Self { session, tokenizer: Arc::new(text.tokenizer), template, about })
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
        Ok(self.tokenizer.encode_markup(&self.render(messages, true)?)?)
    }

    /// The text of a conversation up to where the answer begins.
    fn render(&self, messages: &[Message], think: bool) -> anyhow::Result<Markup> {
        let Some(template) = &self.template else {
            return Err(CommandError::NoTemplate { model: self.about.name.clone() }.into());
        };
        let mut options = RenderOptions { add_generation_prompt: true, ..Default::default() };
        if !think {
            options.variables.insert("enable_thinking".to_owned(), Value::Bool(false));
        }
        Ok(template.render(&self.tokenizer, messages, &options)?)
    }

    /// Whether its template can ask the model not to think.
    fn can_skip_thinking(&self) -> bool {
        let question = [Message::new(Role::User, "Hello")];
        let with = |think| self.render(&question, think).map(|markup| markup.text().into_owned()).ok();
        with(true) != with(false)
    }

    /// What a chat should know about it.
    pub fn facts(&self) -> Facts {
        let about = &self.about;
        Facts {
            model: about.name.clone(),
            format: about.format.clone(),
            context: self.context(),
            supports_system: self.supports_system(),
            can_skip_thinking: self.can_skip_thinking(),
            limits: about.limits,
            rows: vec![
                ("family", about.family.to_owned()),
                ("weights", about.format.clone()),
                ("context", about.context.clone()),
                ("compute", about.compute.clone()),
            ],
        }
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

/// A model for a chat, which may ask for another one.
pub struct Chatter {
    /// `None` only while models are changed.
    responder: Option<Responder>,
    model: Option<PathBuf>,
    session: SessionArgs,
    sampling: SamplingArgs,
}

impl Chatter {
    /// Opens a model for conversations.
    ///
    /// # Errors
    /// As [`Responder::open`] and [`Responder::check`].
    pub fn open(
        model: Option<&Path>,
        system: Option<&str>,
        session: &SessionArgs,
        sampling: &SamplingArgs,
        tell: Tell<'_>,
    ) -> anyhow::Result<Self> {
        let responder = Responder::open(model, session, true, Some(tell))?;
        responder.check(system)?;
        Ok(Self {
            responder: Some(responder),
            model: model.map(Path::to_owned),
            session: session.clone(),
            sampling: sampling.clone(),
        })
    }

    /// The model that is open.
    pub fn responder(&self) -> &Responder {
        self.responder.as_ref().expect("a model is open but while another is opened")
    }

    /// How it likes to answer, and what the options say.
    ///
    /// # Errors
    /// Values out of range.
    pub fn params(&self) -> anyhow::Result<GenerateParams> {
        self.sampling.resolve(&self.responder().about().hints)
    }

    /// Looks for models that could take its place.
    pub fn finder(&self) -> Finder {
        let session = self.session.clone();
        let base = self.responder().session.model().plan().base;
        Arc::new(move |each| {
            // What the model owns is free before another is opened.
            let released = memory::owned_bytes().unwrap_or(0).saturating_sub(base);
            let (candidates, problems) = Places::here().candidates();
            let mut looker = Looker::new(&session, released);
            let notes = problems.into_iter().map(Found::Note);
            let models = candidates.iter().map(|candidate| Found::Model(looker.look(candidate)));
            let _ = notes.chain(models).chain([Found::All]).try_for_each(each);
        })
    }

    fn open_another(&mut self, model: Option<&Path>, tell: Tell<'_>) -> anyhow::Result<Switched> {
        let responder = Responder::open(model, &self.session, true, Some(tell))?;
        responder.check(None)?;
        responder.about().notices.iter().for_each(|notice| tell(Tone::Dim, format!("note: {notice}")));
        let switched =
            Switched { facts: responder.facts(), params: self.sampling.resolve(&responder.about().hints)? };
        self.responder = Some(responder);
        self.model = model.map(Path::to_owned);
        Ok(switched)
    }
}

impl Backend for Chatter {
    fn answer(
        &mut self,
        request: &Request,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Answer, Failure> {
        let responder = self.responder.as_mut().expect("a model is open but while another is opened");
        let markup = responder.render(&request.messages, request.think).map_err(failure)?;
        let mut prompt = responder.tokenizer.encode_markup(&markup).map_err(|error| failure(error.into()))?;
        // A thought that the template opens belongs to the answer, or nobody would see that it is one.
        let opened = thinking::opened_by(&markup.text());
        let adds = opened && request.begun.is_empty();
        let mut first = adds;
        let mut on_event = |event| match event {
            Event::Text(text) if std::mem::take(&mut first) => {
                on_event(Event::Text(thinking::OPENING.to_owned() + &text))
            }
            other => on_event(other),
        };
        let begun =
            request.begun.strip_prefix(thinking::OPENING).filter(|_| opened).unwrap_or(&request.begun);
        if !begun.is_empty() {
            prompt.extend(responder.tokenizer.encode_text(begun).map_err(|error| failure(error.into()))?);
        }
        let mut answer =
            responder.answer(&prompt, &request.params, &mut on_event).map_err(|error| match error {
                EngineError::ContextFull { tokens, context } => Failure::ContextFull { tokens, context },
                other => failure(other.into()),
            })?;
        if adds && !answer.text.is_empty() {
            answer.text.insert_str(0, thinking::OPENING);
        }
        Ok(answer)
    }

    fn switch(&mut self, model: Option<&Path>, tell: Tell<'_>) -> Result<Switched, String> {
        // Both at once might not fit into memory.
        self.responder = None;
        let problem = match self.open_another(model, tell) {
            Ok(switched) => return Ok(switched),
            Err(problem) => words(&problem),
        };
        match Responder::open(self.model.as_deref(), &self.session, true, None) {
            Ok(responder) => self.responder = Some(responder),
            Err(error) => panic!("the model that was open cannot be opened again: {}", words(&error)),
        }
        Err(problem)
    }

    fn beside(&self) -> Beside {
        let responder = self.responder();
        let tokenizer = Arc::clone(&responder.tokenizer);
        let live = responder.session.model().live();
        Beside {
            count: Arc::new(move |text| tokenizer.encode_text(text).map_or(0, |ids| ids.len())),
            experts: Arc::new(move || live.map()),
        }
    }
}

fn words(error: &anyhow::Error) -> String {
    let report = exit::report(error);
    format!("error[{}]: {}", report.code, report.text)
}

fn failure(error: anyhow::Error) -> Failure {
    Failure::Other(words(&error))
}
