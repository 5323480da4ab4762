//! A model that answers: session and language behind one door, for the chat and for single questions.
//! It must not know how answers are shown.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use moelten_engine::api::{Answer, Event, GenerateParams};
use moelten_engine::error::EngineError;
use moelten_engine::session::Session;
use moelten_loader::load::LoadedModel;
use moelten_loader::text::SamplingHints;
use moelten_loader::text::chat::ChatTemplate;
use moelten_tui::backend::Tell;
use moelten_tui::chat::Facts;
use moelten_tui::experts::Limits;
use moelten_tui::terminal::Tone;

use crate::chat::language::Language;
use crate::exit::CommandError;
use crate::models;
use crate::open::{self, SessionArgs};
use crate::report::memory_words;
use crate::signals::Polling;

/// A model whose headers were read, and not one weight.
pub struct Headers {
    loaded: LoadedModel,
    template: Option<ChatTemplate>,
    name: String,
}

impl Headers {
    /// Reads them; `None` is the built-in model. Its chat template is left aside unless `with_template`.
    ///
    /// # Errors
    /// Whatever is wrong with its files.
    pub fn read(model: Option<&Path>, with_template: bool) -> anyhow::Result<Self> {
        let loaded = open::load(model)?;
        let template = if with_template { loaded.chat_template()? } else { None };
        Ok(Self { loaded, template, name: open::name(model) })
    }

    /// Refuses a model that does not say how it wants to be asked.
    ///
    /// # Errors
    /// [`CommandError::NoTemplate`].
    pub fn check_template(&self) -> Result<(), CommandError> {
        let name = || CommandError::NoTemplate { model: self.name.clone() };
        self.template.as_ref().map(drop).ok_or_else(name)
    }
}

/// A model that answers.
pub struct Answerer {
    pub(crate) session: Session,
    language: Arc<Language>,
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

impl Answerer {
    /// Opens a model and gets it ready; `None` is the built-in one. Its chat template is left aside unless
    /// `with_template`. What people should know about its memory before and after goes to `tell`, if there is
    /// one.
    ///
    /// # Errors
    /// As [`Headers::read`] and [`Self::of`].
    pub fn open(
        model: Option<&Path>,
        options: &SessionArgs,
        with_template: bool,
        tell: Option<Tell<'_>>,
    ) -> anyhow::Result<Self> {
        Self::of(Headers::read(model, with_template)?, options, tell, None)
    }

    /// Gets a model ready whose headers were read. `stop` is looked at meanwhile; what was taken for the
    /// model is given back then.
    ///
    /// # Errors
    /// Whatever is wrong with its files, or does not fit into memory; [`CommandError::Stopped`],
    /// [`EngineError::Cancelled`].
    pub fn of(
        headers: Headers,
        options: &SessionArgs,
        tell: Option<Tell<'_>>,
        stop: Option<&'static AtomicBool>,
    ) -> anyhow::Result<Self> {
        let unless_stopped = || match stop {
            Some(stop) if stop.load(Ordering::SeqCst) => Err(CommandError::Stopped),
            _ => Ok(()),
        };
        let Headers { loaded, template, name } = headers;
        unless_stopped()?;
        let text = loaded.text()?;
        let hints = loaded.sampling_hints()?;
        let family = loaded.spec.family;
        let mut tell = tell;
        let mut limits = Limits::default();
        if let Some(tell) = &mut tell {
            let plan = options.plan(&loaded)?;
            let before = memory_words::before_start(options, &loaded, &plan)?;
            limits = before.limits;
            before.lines.into_iter().for_each(|(tone, line)| tell(tone, line));
        }
        unless_stopped()?;
        let format = models::weight_type(&loaded);
        let mut notices = loaded.notices;
        notices.extend(text.notices);
        let model = options.model(loaded.spec, loaded.tensors, stop)?;
        unless_stopped()?;
        if let (Some(tell), Some(line)) = (tell, memory_words::after_start(&model)) {
            tell(Tone::Warning, line);
        }
        let threads = model.pool().threads();
        let compute_text = format!("{threads} threads, {}", model.isa().name());
        let (session, why) = options.session(&Arc::clone(&model))?;
        let about = About {
            name,
            family,
            format,
            hints,
            notices,
            context: format!("{} tokens ({why})", open::count(session.context())),
            made_for: model.spec().max_context,
            compute: compute_text,
            limits,
        };
        let language = Arc::new(Language::new(about.name.clone(), text.tokenizer, template));
        Ok(Self { session, language, about })
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

    /// What it reads.
    pub fn language(&self) -> &Arc<Language> {
        &self.language
    }

    /// Refuses what would otherwise go wrong silently: a missing template, a system prompt that the template
    /// drops.
    ///
    /// # Errors
    /// [`CommandError::NoTemplate`], [`CommandError::Unsupported`].
    pub fn check(&self, system: Option<&str>) -> Result<(), CommandError> {
        if !self.language.has_template() {
            return Err(CommandError::NoTemplate { model: self.about.name.clone() });
        }
        if system.is_some() && !self.language.supports_system() {
            let problem = "this model's chat template takes no system prompt; leave --system away and say it in the \
                           question";
            return Err(CommandError::Unsupported(problem.to_owned()));
        }
        Ok(())
    }

    /// What a chat should know about it.
    pub fn facts(&self) -> Facts {
        let about = &self.about;
        Facts {
            model: about.name.clone(),
            format: about.format.clone(),
            context: self.context(),
            supports_system: self.language.supports_system(),
            can_skip_thinking: self.language.can_skip_thinking(),
            limits: about.limits,
            rows: vec![
                ("family", about.family.to_owned()),
                ("weights", about.format.clone()),
                ("context", about.context.clone()),
                ("compute", about.compute.clone()),
            ],
        }
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
        self.answer_unless(polling.stop(), prompt, params, on_event)
    }

    /// As [`Self::answer`], for somebody who polls already.
    pub(crate) fn answer_unless(
        &mut self,
        stop: &AtomicBool,
        prompt: &[u32],
        params: &GenerateParams,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Answer, EngineError> {
        self.session.generate(&self.language.tokenizer, prompt, params, stop, &mut |event| {
            if on_event(event).is_break() {
                stop.store(true, Ordering::SeqCst);
            }
        })
    }
}
