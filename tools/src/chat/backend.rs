//! The model of a chat, which can be replaced by another one. It must not know how answers are shown.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use moelten_engine::EngineError;
use moelten_engine::api::{Answer, Event, ExpertMap, GenerateParams, GenerateStats, StopReason};
use moelten_engine::runtime::Runtime;
use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::runtime::memory;
use moelten_loader::io::give_back;
use moelten_tui::chat::{
    Backend, Counters, Facts, Failure, NotSwitched, PreviousModel, Request, Switched, Tell, TellProgress,
};
use moelten_tui::screen::{ModelSearch, SearchStep};
use moelten_tui::terminal::Tone;
use moelten_tui::thinking;

use crate::bench::limits;
use crate::chat::answerer::Answerer;
use crate::chat::headers::Headers;
use crate::chat::language::{Language, NoPrompt, Prompt};
use crate::chat::sampling::SamplingArgs;
use crate::exit::{self, CommandError};
use crate::models::{ModelInspector, Places};
use crate::open::{self, SessionArgs, TriedGpu};
use crate::report::{forecast, memory_words, waiting};
use crate::signals::Polling;

/// A conversation is counted to its end up to this many times the context.
const COUNTED: usize = 4;
/// Texts of more bytes leave memory that is worth giving back.
const LARGE: usize = 1 << 20;
/// Models whose tokens read fewer bytes than this are not limited by memory alone.
const SMALL: f64 = 64e6;
/// Memory in which the speed of RAM is measured, in bytes.
const MEASURED: u64 = 64 << 20;

/// The model of a chat.
pub struct ChatBackend {
    /// `None` while models are switched, and if the previous one could not be reopened.
    answerer: Option<Answerer>,
    /// Of the current model, or of the last one.
    language: Arc<Language>,
    /// Its file or folder, shared with the search for other models.
    model: Arc<Mutex<Option<PathBuf>>>,
    session: SessionArgs,
    sampling: SamplingArgs,
    /// The threads and the budget, which all models of the chat share.
    runtime: Arc<Runtime>,
    gpu: Arc<GpuOfOthers>,
}

/// The GPU as models find it that replace the current one.
#[derive(Default)]
struct GpuOfOthers {
    /// Tried when models are searched for the first time.
    tried: OnceLock<Result<Option<Arc<TriedGpu>>, String>>,
    /// Bytes of its memory that the current model has, and will give back.
    held: AtomicU64,
}

impl GpuOfOthers {
    fn held_by(&self, answerer: &Answerer) {
        let stats = answerer.session.model().experts().device_stats();
        // What a device has that was given up is not given back.
        let held = stats.filter(|gpu| gpu.dropped.is_none()).map_or(0, |gpu| gpu.all_bytes());
        self.held.store(held, Ordering::Relaxed);
    }

    /// What it gives, without a device that stays open: the current model has one.
    fn tried(&self, session: &SessionArgs) -> Result<Option<Arc<TriedGpu>>, String> {
        let try_it = || {
            let tried = session.compute().tried_gpu(self.held.load(Ordering::Relaxed));
            let closed = |mut gpu: TriedGpu| {
                gpu.close();
                Arc::new(gpu)
            };
            tried.map(|gpu| gpu.map(closed)).map_err(|error| error.to_string())
        };
        self.tried.get_or_init(try_it).clone()
    }
}

impl ChatBackend {
    /// Opens a model for conversations.
    ///
    /// # Errors
    /// As [`Answerer::open`] and [`Answerer::check`].
    pub fn open(
        model: Option<&Path>,
        system: Option<&str>,
        session: &SessionArgs,
        sampling: &SamplingArgs,
        tell: Tell<'_>,
    ) -> anyhow::Result<Self> {
        let headers = Headers::read(model, true)?;
        headers.check_chat()?;
        let (session, tuned) = session.tuned_for(model);
        tuned.into_iter().for_each(|words| tell(Tone::Dim, words));
        let runtime = session.compute().runtime()?;
        let answerer = Answerer::of(headers, &session, &runtime, Some(tell), &Cancel::new())?;
        answerer.check(system)?;
        let gpu = Arc::<GpuOfOthers>::default();
        gpu.held_by(&answerer);
        Ok(Self {
            language: Arc::clone(answerer.language()),
            answerer: Some(answerer),
            model: Arc::new(Mutex::new(model.map(Path::to_owned))),
            session,
            sampling: sampling.clone(),
            runtime,
            gpu,
        })
    }

    /// The current model.
    pub fn answerer(&self) -> &Answerer {
        self.answerer.as_ref().expect("a model is open until another is asked for")
    }

    /// Facts for the chat screen.
    pub fn facts(&self) -> Facts {
        let model = self.model.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.facts_of(self.answerer(), model.as_deref())
    }

    /// Facts with the place of the model, which stays true in another folder, and with its expected speed.
    fn facts_of(&self, answerer: &Answerer, model: Option<&Path>) -> Facts {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut facts = Facts { path: model.map(absolute), ..answerer.facts() };
        facts.card.speed = facts.card.speed.or_else(|| self.speed_in_memory(answerer));
        facts
    }

    /// The expected speed of a model that is wholly in RAM; `None` if it is so small that other things than
    /// memory decide, or if there is no room to measure.
    fn speed_in_memory(&self, answerer: &Answerer) -> Option<String> {
        let plan = answerer.session.model().plan();
        let token_bytes = answerer.about().token_bytes;
        let free = plan.budget.saturating_sub(memory::owned_bytes()?);
        if memory_words::streams(plan) || token_bytes < SMALL || free < 2 * MEASURED {
            return None;
        }
        let ram = limits::ram_within(self.runtime.pool(), self.runtime.kernels(), MEASURED).ok()?;
        give_back();
        Some(memory_words::likely(forecast::in_memory(token_bytes, ram)))
    }

    /// Sampling parameters: the options', then those that the model recommends.
    ///
    /// # Errors
    /// Values out of range.
    pub fn params(&self) -> anyhow::Result<GenerateParams> {
        self.sampling.resolve(&self.answerer().about().hints)
    }

    /// Searches for models to switch to.
    pub fn finder(&self) -> ModelSearch {
        let (session, open, gpu) = (self.session.clone(), Arc::clone(&self.model), Arc::clone(&self.gpu));
        let base = self.answerer().session.model().plan().base;
        Arc::new(move |each| {
            // The memory of the current model is free before another one is opened.
            let released = memory::owned_bytes().unwrap_or(0).saturating_sub(base);
            let open = open.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let (candidates, mut problems) = Places::here().and_beside(open.as_deref()).candidates();
            let tried = gpu.tried(&session).unwrap_or_else(|problem| {
                problems.push(problem);
                None
            });
            let mut inspector = ModelInspector::new(&session, released).with_tried(tried);
            let notes = problems.into_iter().map(SearchStep::Problem);
            let models = candidates.iter().map(|candidate| SearchStep::Model(inspector.look(candidate)));
            let _ = notes.chain(models).chain([SearchStep::Done]).try_for_each(each);
        })
    }

    fn open_another(
        &mut self,
        model: Option<&Path>,
        headers: Headers,
        tell: Tell<'_>,
        polling: &Polling,
    ) -> anyhow::Result<Switched> {
        let answerer = Answerer::of(headers, &self.session, &self.runtime, Some(tell), polling.stop())?;
        answerer.about().notices.iter().for_each(|notice| tell(Tone::Dim, format!("note: {notice}")));
        let switched = Switched {
            facts: self.facts_of(&answerer, model),
            params: self.sampling.resolve(&answerer.about().hints)?,
        };
        self.takes_over(answerer);
        *self.model.lock().unwrap_or_else(PoisonError::into_inner) = model.map(Path::to_owned);
        Ok(switched)
    }

    fn takes_over(&mut self, answerer: Answerer) {
        self.gpu.held_by(&answerer);
        self.language = Arc::clone(answerer.language());
        self.answerer = Some(answerer);
    }
}

impl Backend for ChatBackend {
    fn answer(
        &mut self,
        request: &Request,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Answer, Failure> {
        let Some(answerer) = &mut self.answerer else {
            return Err(Failure::Other("No model is loaded; /model FILE loads one".to_owned()));
        };
        let polling = Polling::begin();
        let context = answerer.context();
        // Beyond the context a few more tokens are counted, so that the chat knows how many there are too
        // many.
        let prompt = self.language.prompt(request, context.saturating_mul(COUNTED), polling.stop());
        let Prompt { ids, opened } = match prompt {
            Ok(prompt) => prompt,
            Err(NoPrompt::TooLong(found)) => {
                give_back();
                return Err(Failure::ContextFull { tokens: found.tokens, context });
            }
            Err(NoPrompt::Cancelled) => {
                let stats = GenerateStats { context_size: context, ..GenerateStats::default() };
                let reason = StopReason::Cancelled;
                return Ok(Answer { text: String::new(), ids: Vec::new(), reason, stats });
            }
            Err(NoPrompt::Failed(error)) => return Err(failure(error)),
        };
        // Reasoning that the template opens is part of the answer, so that the screen recognises it.
        let adds = opened && request.begun.is_empty();
        let mut first = adds;
        let mut on_event = |event| match event {
            Event::Text(text) if std::mem::take(&mut first) => {
                on_event(Event::Text(thinking::OPENING.to_owned() + &text))
            }
            other => on_event(other),
        };
        let answer = answerer.answer_until(polling.stop(), &ids, &request.params, &mut on_event);
        let mut answer = answer.map_err(|error| match error {
            EngineError::ContextFull { tokens, context } => Failure::ContextFull { tokens, context },
            other => failure(other.into()),
        })?;
        if adds && !answer.text.is_empty() {
            answer.text.insert_str(0, thinking::OPENING);
        }
        Ok(answer)
    }

    fn switch(&mut self, model: Option<&Path>, tell: Tell<'_>) -> Result<Switched, NotSwitched> {
        let polling = Polling::begin();
        // Headers are checked first: an invalid model leaves the current one open.
        let read = Headers::read(model, true).and_then(|headers| {
            headers.check_template()?;
            Ok(headers)
        });
        let headers = read.map_err(|error| not_switched(&error, PreviousModel::Untouched))?;
        if polling.stop().is_cancelled() {
            return Err(NotSwitched::Stopped(PreviousModel::Untouched));
        }
        // Both at once might not fit into memory, so each is dropped before the other is opened.
        self.answerer = None;
        give_back();
        tell(Tone::Dim, format!("Loading {}... (Ctrl-C cancels)", open::name(model)));
        let error = match self.open_another(model, headers, tell, &polling) {
            Ok(switched) => return Ok(switched),
            Err(error) => error,
        };
        give_back();
        let before = self.model.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match Answerer::open(before.as_deref(), &self.session, true, None) {
            Ok(answerer) => self.takes_over(answerer),
            Err(again) => {
                let why = format!(
                    "{}. The previous model cannot be reloaded: {}",
                    message(&error),
                    message(&again)
                );
                return Err(NotSwitched::NothingOpen(why));
            }
        }
        Err(not_switched(&error, PreviousModel::Reopened))
    }

    fn tell_progress(&mut self, tell: TellProgress) {
        waiting::show_on_screen(tell);
    }

    fn counters(&self) -> Counters {
        let (counter, conversations) = (Arc::clone(&self.language), Arc::clone(&self.language));
        let live = self.answerer.as_ref().map(|answerer| answerer.session.model().live());
        Counters {
            text: Arc::new(move |text, limit, stop| {
                let count = counter.count_text(text, limit, stop).map_err(|error| message(&error));
                if text.len() > LARGE {
                    give_back();
                }
                count
            }),
            conversation: Arc::new(move |messages, limit, stop| conversations.count(messages, limit, stop)),
            experts: Arc::new(move || live.as_ref().map_or_else(ExpertMap::default, |live| live.map())),
        }
    }
}

fn not_switched(error: &anyhow::Error, before: PreviousModel) -> NotSwitched {
    let stopped = matches!(error.downcast_ref(), Some(CommandError::Stopped))
        || matches!(error.downcast_ref(), Some(EngineError::Cancelled));
    if stopped { NotSwitched::Stopped(before) } else { NotSwitched::Refused(message(error), before) }
}

fn message(error: &anyhow::Error) -> String {
    let report = exit::report(error);
    format!("error[{}]: {}", report.code, report.text)
}

fn failure(error: anyhow::Error) -> Failure {
    Failure::Other(message(&error))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use moelten_loader::text::chat::{Message, Speaker};

    use super::*;
    use crate::signals;

    /// The options of a chat.
    #[derive(Parser)]
    struct Options {
        #[command(flatten)]
        session: SessionArgs,
        #[command(flatten)]
        sampling: SamplingArgs,
    }

    #[test]
    fn cancelling_a_switch_keeps_the_previous_model() {
        let options = Options::parse_from(["test", "--threads", "1", "--max-tokens", "2", "--seed", "1"]);
        let (session, sampling) = (&options.session, &options.sampling);
        let mut backend = ChatBackend::open(None, None, session, sampling, &mut |_, _| ()).unwrap();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-tales.gguf");
        // Ctrl-C as soon as the name is shown.
        let mut stops = |_, _| signals::stop();
        assert_eq!(
            backend.switch(Some(&file), &mut stops),
            Err(NotSwitched::Stopped(PreviousModel::Reopened))
        );
        // An invalid model is refused before anything is closed.
        let language = Arc::clone(&backend.language);
        let folder = tempfile::tempdir().unwrap();
        let broken = folder.path().join("broken.gguf");
        std::fs::write(&broken, "GGUF and no more").unwrap();
        for file in [Path::new("/no/such.gguf"), &broken] {
            let refused = backend.switch(Some(file), &mut |_, text| panic!("{text}"));
            let name = file.display().to_string();
            let Err(NotSwitched::Refused(why, PreviousModel::Untouched)) = refused else {
                panic!("{refused:?}")
            };
            assert!(why.contains(&name), "{why}");
            assert!(Arc::ptr_eq(&language, &backend.language), "the model is unchanged");
        }
        let request = Request {
            messages: vec![Message::new(Speaker::User, "Hello")],
            begun: String::new(),
            think: true,
            params: backend.params().unwrap(),
        };
        let answer = |backend: &mut ChatBackend| backend.answer(&request, &mut |_| ControlFlow::Continue(()));
        assert!(!answer(&mut backend).unwrap().text.is_empty());
        let go_on = Cancel::new();
        assert!((backend.counters().conversation)(&request.messages, 1000, &go_on).is_some());
        // The previous model's file is gone.
        *backend.model.lock().unwrap() = Some("/gone.gguf".into());
        let nothing = backend.switch(Some(&file), &mut stops);
        assert!(matches!(nothing, Err(NotSwitched::NothingOpen(why)) if why.contains("/gone.gguf")));
        assert!(matches!(answer(&mut backend), Err(Failure::Other(why)) if why.contains("/model FILE")));
        let count = (backend.counters().text)("Hello", 1000, &go_on).unwrap();
        assert!(count.at_least() > 0, "the tokenizer stays usable");
        backend.switch(Some(&file), &mut |_, _| ()).unwrap();
        assert!(!answer(&mut backend).unwrap().text.is_empty());
    }
}
