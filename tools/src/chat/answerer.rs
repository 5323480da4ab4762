//! A model that answers prompts: a session with its tokenizer and chat template, for `chat` and `run`. It
//! must not know how answers are shown.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use moelten_engine::EngineError;
use moelten_engine::Sequence;
use moelten_engine::api::{Answer, Event, GenerateParams};
use moelten_engine::plan::context::state_bytes;
use moelten_engine::runtime::Runtime;
use moelten_engine::runtime::cancel::Cancel;
use moelten_loader::text::SamplingHints;
use moelten_tui::chat::Facts;
use moelten_tui::chat::Limits;
use moelten_tui::chat::ModelCard;
use moelten_tui::chat::Tell;
use moelten_tui::terminal::Tone;

use crate::bench::traffic::Traffic;
use crate::chat::headers::Headers;
use crate::chat::language::Language;
use crate::exit::CommandError;
use crate::health::running::{self, Running};
use crate::models;
use crate::open::{self, SessionArgs, kept};
use crate::report::earlier::{self, Machine, ModelKey, Pace};
use crate::report::memory_words;
use crate::signals::Polling;

/// A model ready to answer.
pub struct Answerer {
    pub(crate) session: Sequence,
    language: Arc<Language>,
    about: About,
    /// For the record of speeds.
    key: ModelKey,
    machine: Machine,
    /// Bytes of weights that a token reads.
    token_bytes: f64,
    running: Option<Running>,
}

/// Facts about a model for people. Texts are unfiltered.
#[derive(Debug, Clone)]
pub struct About {
    /// File or folder name.
    pub name: String,
    /// Family label.
    pub family: &'static str,
    /// Type of most of its weights.
    pub format: String,
    /// What the model's files recommend.
    pub hints: SamplingHints,
    /// Harmless oddities of its files.
    pub notices: Vec<String>,
    /// Those that matter only to a text that has what they are about; then it is said again.
    pub conditional: Vec<String>,
    /// What the card of a chat says.
    pub card: ModelCard,
    /// Size of the context and the reason for it.
    pub context: String,
    /// The model's maximum context in tokens.
    pub made_for: usize,
    /// Threads and instruction set.
    pub compute: String,
    /// Bytes of weights that a token reads.
    pub token_bytes: f64,
    /// Measured limits of the machine; empty if nothing was measured.
    pub limits: Limits,
}

impl Answerer {
    /// Opens a model and makes it ready; `None` is the built-in one. The chat template is used only
    /// `with_template`. Messages about its memory go to `tell`.
    ///
    /// # Errors
    /// As [`Headers::read`] and [`Self::of`].
    pub fn open(
        model: Option<&Path>,
        options: &SessionArgs,
        with_template: bool,
        tell: Option<Tell<'_>>,
    ) -> anyhow::Result<Self> {
        let headers = Headers::read(model, with_template)?;
        Self::of(headers, options, &options.compute().runtime()?, tell, &Cancel::new())
    }

    /// Makes a model ready whose headers are read. `cancel` gives that up and frees what was allocated.
    ///
    /// # Errors
    /// Invalid files, too little memory; [`CommandError::Stopped`], [`EngineError::Cancelled`].
    pub fn of(
        headers: Headers,
        options: &SessionArgs,
        runtime: &Arc<Runtime>,
        tell: Option<Tell<'_>>,
        cancel: &Cancel,
    ) -> anyhow::Result<Self> {
        let check_stop = || if cancel.is_cancelled() { Err(CommandError::Stopped) } else { Ok(()) };
        let Headers { loaded, language, hints, notices, name } = headers;
        check_stop()?;
        let family = loaded.spec.family;
        let of_bytes = language.tokenizer.unspellable_notice();
        let (conditional, notices): (Vec<_>, Vec<_>) =
            notices.into_iter().partition(|notice| Some(notice) == of_bytes.as_ref());
        let mut tell = tell;
        let (mut limits, mut speed) = (Limits::default(), None);
        let files = loaded.tensors.catalog().files();
        let file_bytes = files.iter().map(|file| file.size()).sum();
        let traffic = Traffic::weigh(&loaded.spec, &loaded.tensors, options.compute().kv());
        let token_bytes = traffic.token_bytes(&loaded.spec);
        if let Some(tell) = &mut tell {
            let ended = running::ended_by_force(true);
            ended.into_iter().for_each(|line| tell(Tone::Warning, format!("warning: {line}")));
            let plan = options.plan(&loaded)?;
            let before = memory_words::before_start(options, &loaded, &plan)?;
            (limits, speed) = (before.limits, before.speed);
            before.lines.into_iter().for_each(|(tone, line)| tell(tone, line));
        }
        check_stop()?;
        let format = models::weight_type(&loaded);
        let key = ModelKey::of(&loaded.tensors);
        let mut running = Running::begin(&name);
        let model = options.model(runtime, loaded.spec, loaded.tensors, cancel)?;
        check_stop()?;
        if let (Some(tell), Some(line)) = (tell, memory_words::after_start(&model)) {
            tell(Tone::Warning, line);
        }
        let threads = runtime.pool().threads();
        let compute_text = format!("{threads} threads, {}", runtime.isa().name());
        let (session, why) = options.session(&Arc::clone(&model))?;
        let plan = model.plan();
        running.iter_mut().for_each(|running| running.opened(plan.budget));
        let card = ModelCard {
            kind: format!("{family} {format}"),
            bytes: file_bytes,
            budget_bytes: plan.budget,
            cached: memory_words::cached_share(plan),
            speed,
        };
        let about = About {
            name,
            family,
            format,
            hints,
            notices,
            conditional,
            card,
            token_bytes,
            context: format!("{} tokens ({why})", open::count(session.context())),
            made_for: model.spec().max_context,
            compute: compute_text,
            limits,
        };
        let traffic = Traffic::of(&model, session.kv_format());
        let routed: f64 = traffic.routed_bytes(model.spec()).iter().sum();
        let token_bytes = (traffic.dense.bytes + traffic.head.bytes) as f64 + routed;
        let machine = Machine::of(runtime);
        Ok(Self { session, language: Arc::new(language), about, key, machine, token_bytes, running })
    }

    /// Facts for people.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Size of the context in tokens.
    pub fn context(&self) -> usize {
        self.session.context()
    }

    /// Bytes of the KV cache of a context of this many tokens.
    pub fn kv_bytes(&self, context: usize) -> u64 {
        state_bytes(self.session.model().spec(), context, self.session.kv_format())
    }

    /// Tokenizer and chat template.
    pub fn language(&self) -> &Arc<Language> {
        &self.language
    }

    /// Refuses a missing template and a system prompt that the template drops.
    ///
    /// # Errors
    /// [`CommandError::NoTemplate`], [`CommandError::Unsupported`].
    pub fn check(&self, system: Option<&str>) -> Result<(), CommandError> {
        if !self.language.has_template() {
            return Err(CommandError::NoTemplate { model: self.about.name.clone() });
        }
        if system.is_some() && !self.language.supports_system() {
            let problem =
                "this model's chat template takes no system prompt; omit --system and put it into the prompt";
            return Err(CommandError::Unsupported(problem.to_owned()));
        }
        Ok(())
    }

    /// Facts for the chat screen.
    pub fn facts(&self) -> Facts {
        let about = &self.about;
        Facts {
            model: about.name.clone(),
            path: None,
            format: about.format.clone(),
            context: self.context(),
            supports_system: self.language.supports_system(),
            can_skip_thinking: self.language.can_skip_thinking(),
            limits: about.limits,
            card: about.card.clone(),
            unspellable: self.language.tokenizer.unspellable().to_vec(),
            rows: vec![
                ("family", about.family.to_owned()),
                ("weights", about.format.clone()),
                ("context", about.context.clone()),
                ("compute", about.compute.clone()),
            ],
        }
    }

    /// Answers a prompt. Ctrl-C, a signal or `on_event` can cancel it.
    ///
    /// # Errors
    /// As [`Sequence::generate`].
    pub fn answer(
        &mut self,
        prompt: &[u32],
        params: &GenerateParams,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Answer, EngineError> {
        let polling = Polling::begin();
        self.answer_until(polling.stop(), prompt, params, on_event)
    }

    /// As [`Self::answer`], cancelled by `cancel`.
    pub(crate) fn answer_until(
        &mut self,
        cancel: &Cancel,
        prompt: &[u32],
        params: &GenerateParams,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Answer, EngineError> {
        let running = &mut self.running;
        let answer =
            self.session.generate(&self.language.tokenizer, prompt, params, cancel, &mut |event| {
                running.iter_mut().for_each(Running::look);
                if on_event(event).is_break() {
                    cancel.cancel();
                }
            })?;
        if let Some(pace) = Pace::of(&answer.stats, self.token_bytes).filter(|_| kept::keeps()) {
            let plan = self.session.model().plan();
            // Without a record the next forecast is an estimate, which it says.
            let _ = earlier::keep(&self.key, &self.machine, plan, &pace);
        }
        Ok(answer)
    }
}
