//! `moelten run`: one prompt, one answer. The answer goes to stdout, everything else to stderr.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use moelten_engine::EngineError;
use moelten_engine::Restored;
use moelten_engine::api::{
    Answer, CacheStats, CacheUse, Event, GenerateParams, GenerateStats, GpuUse, MemoryUse, StopReason,
};
use moelten_engine::runtime::cancel::Cancel;
use moelten_loader::text::SamplingHints;
use moelten_loader::text::chat::{Message, Speaker};
use moelten_tui::chat::Tell;
use moelten_tui::chat::summary;
use moelten_tui::driver::{AnswerStream, PromptProgress};
use moelten_tui::figures;
use moelten_tui::terminal::{Notes, Tone};
use serde_json::{Value, json};

use crate::chat::answerer::Answerer;
use crate::chat::headers::Headers;
use crate::chat::language::{NoPrompt, TooLong};
use crate::chat::prompt;
use crate::chat::sampling::SamplingArgs;
use crate::encdec::{self, Asked, EncoderArgs};
use crate::exit::CommandError;
use crate::images::{self, ImageArgs};
use crate::names;
use crate::open::{self, SessionArgs, kept};
use crate::output;
use crate::report::waiting;
use crate::signals::Polling;

/// Answer one prompt and exit
///
/// The prompt comes from --prompt, --file or a pipe. With an option and a pipe, the piped text follows the
/// prompt.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// GGUF file, model folder, or name such as user/repo:Q4_K_M [default: `model` of `moelten config`, or
    /// the built-in model]
    pub model: Option<PathBuf>,
    /// Text to answer
    #[arg(value_name = "QUESTION", conflicts_with_all = ["prompt", "file"])]
    question: Option<String>,
    /// Text to answer, in place of QUESTION
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
    prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// System prompt; @FILE reads it from a file
    #[arg(short, long, value_name = "TEXT|@FILE", conflicts_with = "no_template")]
    system: Option<String>,
    /// Continue the text as it is, without the chat template (for base models)
    #[arg(long, visible_alias = "raw-prompt")]
    no_template: bool,
    /// Save what was computed of the prompt in FILE; later prompts that begin with the same text reuse it
    #[arg(long, value_name = "FILE")]
    prompt_cache: Option<PathBuf>,
    /// Save nothing of this run, such as its speed for forecasts
    #[arg(long)]
    no_history: bool,
    /// Print one JSON object: answer, reason, ids, stats, model, context, seed, notices
    #[arg(long)]
    pub json: bool,
    /// Print more: context, seed, speed, cache statistics
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    // Last: what follows a heading of the help stands below it.
    #[command(flatten)]
    encoder: EncoderArgs,
    #[command(flatten)]
    images: ImageArgs,
}

impl RunArgs {
    /// A single argument that is no model is the question: `moelten run "Why?"` asks the chosen model.
    pub fn settle(&mut self) {
        let free = self.question.is_none() && self.prompt.is_none() && self.file.is_none();
        let is_text = |model: &PathBuf| {
            model.to_str().is_some_and(|text| text.contains(char::is_whitespace)) && !names::is_model(model)
        };
        if free {
            self.question = self
                .model
                .take_if(|model| is_text(model))
                .and_then(|text| text.into_os_string().into_string().ok());
        }
    }

    /// The models that are named, for names that are not paths.
    pub fn models(&mut self) -> Vec<&mut PathBuf> {
        self.model.iter_mut().collect()
    }
}

/// Runs the command.
pub fn run(args: RunArgs) -> anyhow::Result<()> {
    let notes = Notes::detect();
    if args.no_history {
        kept::keep_nothing();
    }
    if args.images.given() {
        return classify(&args);
    }
    let text = prompt_text(&args, notes).or_else(|error| no_text(&args, error))?;
    let system = args.system.as_deref().map(prompt::text_or_file).transpose()?;
    let mut say = |tone, line: String| notes.line(tone, &line);
    let told: Option<Tell<'_>> = if args.json { None } else { Some(&mut say) };
    let (session, _) = args.session.tuned_for(args.model.as_deref());
    let mut headers = Headers::read(args.model.as_deref(), !args.no_template)?;
    let capacity = for_encoder(&args, &mut headers)?;
    let (encoder, runtime) = (headers.loaded.spec.encoder, session.compute().runtime()?);
    let mut answerer = Answerer::of(headers, &session, &runtime, told, &Cancel::new())?;
    if encoder.is_some() {
        return encode(&args, &mut answerer, &text, capacity, notes);
    }
    let about = answerer.about().clone();
    let params = args.sampling.resolve(&about.hints)?;
    if !args.no_template {
        answerer.check(system.as_deref())?;
    }
    let missing = answerer.language().tokenizer.unspellable();
    let asked_bytes_are_lost = text.bytes().any(|byte| missing.contains(&byte));
    let ids = tokens(&answerer, args.no_template, system, text)?;
    let chatty = args.verbose || (notes.terminal && !args.json);
    if chatty {
        let name = &about.name;
        notes.line(Tone::Dim, &format!("{name}: context {}; {}", about.context, about.compute));
    }
    if args.verbose {
        notes.line(Tone::Dim, &format!("seed {}", params.sampler.seed));
    }
    // The JSON object has them too.
    if !args.json {
        open::mention(&about.notices);
        if args.verbose || asked_bytes_are_lost {
            open::mention(&about.conditional);
        }
    }
    if let Some(path) = &args.prompt_cache {
        restore(&mut answerer, path, notes)?;
    }
    let answered = if args.json {
        collect(&mut answerer, &ids, &params, notes)
    } else {
        stream(&mut answerer, &ids, &params, notes)?
    };
    let answer = answered?;
    if let Some(path) = &args.prompt_cache {
        answerer.session.save_to(path)?;
    }
    if args.json {
        let object = object(&answer, &answerer, params.sampler.seed);
        output::answer(&object)?;
    }
    if args.verbose {
        figures_of(&answer, notes);
    }
    if !args.json {
        warn_of_losses(&answer.stats, notes);
    }
    ended(&answer, notes)
}

/// Classifies images.
fn classify(args: &RunArgs) -> anyhow::Result<()> {
    let given = [
        ("a prompt", args.question.is_some() || args.prompt.is_some() || args.file.is_some()),
        ("--system", args.system.is_some()),
        ("--prompt-cache", args.prompt_cache.is_some()),
    ];
    if let Some((option, _)) = given.into_iter().find(|(_, given)| *given) {
        let problem = format!("{option} does not fit --image: a model of images has no text");
        return Err(CommandError::Usage(problem).into());
    }
    let (model, compute) = (args.model.as_deref(), args.session.compute());
    let asked = images::Classification { model, compute, json: args.json, verbose: args.verbose };
    args.images.run(&asked, |loaded| args.encoder.apply(&mut loaded.spec))
}

/// The error of a missing prompt; of a model of images, that there is no image.
fn no_text(args: &RunArgs, error: anyhow::Error) -> anyhow::Result<String> {
    if let Some(path) = args.model.as_deref().filter(|path| path.exists()) {
        open::has_text(&open::load(Some(path))?, &open::name(Some(path)))?;
    }
    Err(error)
}

/// The figures of an answer, for --verbose.
fn figures_of(answer: &Answer, notes: Notes) {
    notes.line(Tone::Dim, &summary(&answer.reason, &answer.stats));
    for (name, value) in figures::cache_rows(&answer.stats) {
        notes.line(Tone::Dim, &format!("  {name:<15} {value}"));
    }
}

/// What is said of an answer's end.
fn ended(answer: &Answer, notes: Notes) -> anyhow::Result<()> {
    match answer.reason {
        StopReason::Cancelled => Err(CommandError::Stopped.into()),
        StopReason::ContextFull => {
            let size = answer.stats.context_size;
            let text = format!(
                "warning: answer truncated: the context of {size} tokens is full; --ctx sets its size"
            );
            notes.line(Tone::Warning, &text);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Checks the options that are for models with an encoder, or are not. What is said of its capacity.
fn for_encoder(args: &RunArgs, headers: &mut Headers) -> Result<Option<String>, CommandError> {
    if headers.loaded.spec.encoder.is_none() {
        return args.encoder.refuse().map(|()| None);
    }
    let given = [("--system", args.system.is_some()), ("--prompt-cache", args.prompt_cache.is_some())];
    if let Some((option, _)) = given.into_iter().find(|(_, given)| *given) {
        let problem =
            format!("{option} is for conversations; a model with an encoder reads one text at a time");
        return Err(CommandError::Usage(problem));
    }
    args.encoder.apply(&mut headers.loaded.spec)
}

/// Answers with a model that has an encoder.
fn encode(
    args: &RunArgs,
    answerer: &mut Answerer,
    text: &str,
    capacity: Option<String>,
    notes: Notes,
) -> anyhow::Result<()> {
    let about = answerer.about().clone();
    // These models are run with the most likely token, unless their files say otherwise.
    let greedy = about.hints.greedy || about.hints.temperature.is_none();
    let mut params = args.sampling.resolve(&SamplingHints { greedy, ..about.hints })?;
    let beams = args.encoder.search(&about.hints, &mut params)?;
    let seed = params.sampler.seed;
    if args.verbose || notes.terminal && !args.json {
        notes.line(Tone::Dim, &format!("{}: context {}; {}", about.name, about.context, about.compute));
    }
    for line in capacity.into_iter().chain(beams).filter(|_| !args.json) {
        notes.line(Tone::Dim, &line);
    }
    if !args.json {
        open::mention(&about.notices);
    }
    let asked = Asked { text, params, json: args.json };
    let shown = |answer: &Answer, answerer: &Answerer| object(answer, answerer, seed);
    let last = encdec::run(answerer, &args.encoder, &asked, notes, &shown)?;
    let Some(answer) = last else { return Ok(()) };
    if args.verbose {
        figures_of(&answer, notes);
    }
    ended(&answer, notes)
}

/// Says what of RAM or of a GPU was lost to the answer.
fn warn_of_losses(stats: &GenerateStats, notes: Notes) {
    let given_back = stats.memory.released_bytes;
    if given_back > 0 {
        notes.line(Tone::Warning, &figures::given_back(given_back));
    }
    if stats.gpu.is_some_and(|gpu| gpu.lost) {
        notes.line(Tone::Warning, figures::GPU_LOST);
    }
}

/// The tokens of the prompt.
fn tokens(
    answerer: &Answerer,
    plain: bool,
    system: Option<String>,
    text: String,
) -> anyhow::Result<Vec<u32>> {
    let (language, context, polling) = (answerer.language(), answerer.context(), Polling::begin());
    let read = || {
        if plain {
            return language.plain(&text, context, polling.stop());
        }
        let system = system.into_iter().map(|system| Message::new(Speaker::System, system));
        // A pipe usually adds a line end, which is not part of the prompt.
        let user = Message::new(Speaker::User, text.trim_end_matches(['\n', '\r']));
        language.conversation(&system.chain([user]).collect::<Vec<_>>(), context, polling.stop())
    };
    waiting::during("tokenising the prompt", None, read).map_err(|error| match error {
        NoPrompt::TooLong(found) => too_long(found, answerer).into(),
        NoPrompt::Cancelled => CommandError::Stopped.into(),
        NoPrompt::Failed(error) => error,
    })
}

/// Starts from a prompt cache, if there is one that this model can use.
fn restore(answerer: &mut Answerer, path: &Path, notes: Notes) -> anyhow::Result<()> {
    let unused = match answerer.session.load_from(path)? {
        Restored::Absent | Restored::Tokens(_) => return Ok(()),
        Restored::OtherModel => "it was made with another model, processor or setting".to_owned(),
        Restored::TooLong(tokens) => format!(
            "it has {} tokens, the context holds {}",
            open::count(tokens),
            open::count(answerer.context())
        ),
    };
    let line = format!("{}: the prompt cache cannot be used and is replaced: {unused}", path.display());
    notes.line(Tone::Warning, &line);
    Ok(())
}

/// The prompt: from an option, a pipe, or both, the pipe last.
fn prompt_text(args: &RunArgs, notes: Notes) -> anyhow::Result<String> {
    let asked = match (args.question.as_ref().or(args.prompt.as_ref()), &args.file) {
        (Some(text), _) => Some(text.clone()),
        (None, Some(path)) => Some(prompt::file(path)?),
        (None, None) => None,
    };
    let piped = prompt::piped(notes)?.filter(|text| !text.is_empty());
    let text = match (asked, piped) {
        (Some(asked), Some(piped)) => prompt::joined(asked, &piped)?,
        (Some(text), None) | (None, Some(text)) => text,
        (None, None) => String::new(),
    };
    if text.trim().is_empty() {
        let mut problem = "no prompt; give one with --prompt TEXT, --file FILE or a pipe".to_owned();
        if let Some(model) = args.model.as_ref().filter(|model| !model.exists()) {
            problem.push_str(&format!("; `{}` was taken as the model", model.display()));
        }
        return Err(CommandError::Usage(problem).into());
    }
    Ok(text)
}

type Answered = Result<Answer, EngineError>;

/// Prints the answer while it is generated.
fn stream(
    answerer: &mut Answerer,
    ids: &[u32],
    params: &GenerateParams,
    notes: Notes,
) -> anyhow::Result<Answered> {
    let mut shown = AnswerStream::new(notes);
    let answered = answerer.answer(ids, params, &mut |event| shown.event(event));
    shown.finish()?;
    Ok(answered)
}

/// Waits for the whole answer.
fn collect(answerer: &mut Answerer, ids: &[u32], params: &GenerateParams, notes: Notes) -> Answered {
    let mut progress = PromptProgress::new(notes);
    let answered = answerer.answer(ids, params, &mut |event| {
        if let Event::Prompt { done, total } = event {
            progress.update(done, total);
        }
        ControlFlow::Continue(())
    });
    progress.clear();
    answered
}

/// The error for a prompt longer than the context, with the context that would be enough and its memory.
fn too_long(found: TooLong, answerer: &Answerer) -> CommandError {
    let (context, made_for) = (answerer.context(), answerer.about().made_for);
    let enough = (found.tokens + found.tokens / 4).next_multiple_of(1024);
    let more = answerer.kv_bytes(enough).saturating_sub(answerer.kv_bytes(context));
    let tokens = open::count(found.tokens);
    let has = match found.exact {
        true => format!("{tokens} tokens"),
        false => {
            let (context, text) = (open::count(context), figures::bytes(found.bytes as u64));
            format!("more than {context} tokens ({text} of text, about {tokens} tokens)")
        }
    };
    let beyond = match made_for < enough {
        true => format!("; the model's maximum is {}, answers beyond it get worse", open::count(made_for)),
        false => String::new(),
    };
    CommandError::Context(format!(
        "the prompt has {has}, the context holds {}. Nothing was cut and nothing computed. Use --ctx {enough} (+{} of \
         memory) or a shorter prompt{beyond}",
        open::count(context),
        figures::bytes(more)
    ))
}

fn object(answer: &Answer, answerer: &Answerer, seed: u64) -> Value {
    let Answer { text, ids, reason, stats } = answer;
    let (reason, stop) = match reason {
        StopReason::EndOfTurn => ("end", None),
        StopReason::StopText(text) => ("stop", Some(text)),
        StopReason::MaxTokens => ("max_tokens", None),
        StopReason::ContextFull => ("context_full", None),
        StopReason::Cancelled => ("cancelled", None),
    };
    let about = answerer.about();
    json!({
        "answer": text,
        "reason": reason,
        "stop": stop,
        "ids": ids,
        "stats": numbers(stats),
        "model": about.name,
        "context": answerer.context(),
        "seed": seed,
        "notices": about.notices.iter().chain(&about.conditional).collect::<Vec<_>>(),
    })
}

fn numbers(stats: &GenerateStats) -> Value {
    json!({
        "prompt_tokens": stats.prompt_tokens,
        "cached_tokens": stats.cached_tokens,
        "prompt_s": stats.prompt_time.as_secs_f64(),
        "prompt_tokens_per_s": stats.prompt_tokens_per_s(),
        "generated_tokens": stats.generated_tokens,
        "generate_s": stats.generate_time.as_secs_f64(),
        "generated_tokens_per_s": stats.generated_tokens_per_s(),
        "context_used": stats.context_used,
        "experts_used": stats.experts_used,
        "expert_bytes": stats.expert_bytes,
        "cache": stats.cache.as_ref().map(|cache| cache_numbers(cache, &stats.memory)),
        "gpu": stats.gpu.as_ref().map(gpu_numbers),
    })
}

fn gpu_numbers(gpu: &GpuUse) -> Value {
    json!({
        "experts_computed": gpu.computed,
        "experts_visited": gpu.visited,
        "experts_held": gpu.held,
        "slots": gpu.slots,
        "bytes": gpu.bytes,
        "exactness": gpu.exactness(),
        "lost": gpu.lost,
    })
}

fn cache_numbers(cache: &CacheStats, memory: &MemoryUse) -> Value {
    let part = |part: &CacheUse| {
        json!({
            "hit_rate": part.hit_rate(),
            "used_bytes": part.used_bytes,
            "missed_bytes": part.missed_bytes,
            "read_bytes": part.read_bytes,
            "read_gb_per_s": part.read_gb_per_s(),
            "stall_s": part.stall.as_secs_f64(),
            "retries": part.retries,
            "evicted": part.evicted,
            "prefetch_recall": part.prefetch_recall(),
            "prefetched": part.prefetched,
            "prefetched_used": part.prefetched_used,
        })
    };
    json!({
        "prompt": part(&cache.prompt),
        "answer": part(&cache.answer),
        "slot_bytes": memory.slot_bytes,
        "released_bytes": memory.released_bytes,
        "owned_bytes": memory.owned_bytes,
        "mapped_bytes": memory.mapped_bytes,
        "budget_bytes": memory.budget_bytes,
    })
}
