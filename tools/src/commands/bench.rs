//! `moelten bench`: how fast a model reads a prompt and decodes, compared with the limits of the machine,
//! measured in the same run. It must not know how figures are printed.

use std::io;
use std::path::{Path, PathBuf};

use moelten_engine::offline::trace::{TraceHeader, TraceWriter, TracedBank};
use moelten_engine::plan::SequenceOptions;
use moelten_engine::plan::{Experts, Plan};
use moelten_engine::runtime::memory;
use moelten_engine::runtime::topology::ThreadPlan;
use moelten_engine::{Model, PhaseStats};
use moelten_loader::spec::ModelSpec;
use moelten_loader::tensors::store::TensorStore;
use moelten_loader::text::TextSide;
use moelten_tui::terminal::{Notes, Tone, stdout_columns};

use crate::bench::beside::{Gauge, Ram};
use crate::bench::generate::{self, Mix, Random};
use crate::bench::limits::{self, RamBuffer};
use crate::bench::measure::{Measured, Work, measure};
use crate::bench::peak::Peak;
use crate::bench::shape::{self, FoundShape};
use crate::exit::{self, CommandError};
use crate::open::{self, ComputeArgs};
use crate::output;
use crate::report::bench::{BenchReport, heading};
use crate::report::earlier::{self, Machine, ModelKey, Pace};
use crate::report::page;
use crate::report::windows;
use crate::signals::Polling;

/// Measure how fast a model runs, compared with the hardware's limits
///
/// Times prefill and decode several times, over random tokens or a text. The limits of RAM, disk and int8
/// units are measured in the same run, with the same threads.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// GGUF file, model folder, or name such as user/repo:Q4_K_M [default: the built-in model]
    #[arg(conflicts_with = "shape")]
    model: Option<PathBuf>,
    /// Tokens of the prompt, 0 for none
    #[arg(long, value_name = "N", default_value = "512", value_parser = tokens_or_none)]
    prefill: usize,
    /// Tokens to decode, 0 for none
    #[arg(long, value_name = "N", default_value = "64", value_parser = tokens_or_none)]
    decode: usize,
    /// Tokens in the context before decode begins
    #[arg(long, visible_alias = "ctx-start", value_name = "N", default_value = "0", value_parser = tokens_or_none)]
    depth: usize,
    /// Timed repetitions
    #[arg(long, value_name = "R", default_value = "3", value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: u16,
    /// Use the tokens of this UTF-8 text instead of random ones
    #[arg(long, value_name = "FILE", conflicts_with = "shape")]
    text: Option<PathBuf>,
    /// Generated weights of a named shape: qwen3-30b-a3b, mixtral-8x7b, olmoe, gpt-oss-20b, mixtral-mini,
    /// qwen3-half, qwen3.5-35b-a3b, glm-4.7-flash, lfm2-8b-a1b, gemma-4-26b-a4b, nemotron-3-nano,
    /// switch-base-8, switch-base-128, nllb-moe-54b, or FILE.toml, or a model's config.json
    #[arg(long, value_name = "NAME")]
    shape: Option<String>,
    /// Number of layers of the shape [default: all of them]
    #[arg(long, value_name = "N", requires = "shape", value_parser = clap::value_parser!(u16).range(1..=1024))]
    layers: Option<u16>,
    /// Weight format of the shape [default: q4_0]
    #[arg(long, value_name = "TYPE", requires = "shape")]
    format: Option<Mix>,
    /// Record the experts that tokens choose, for `moelten replay`
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// A model to measure.
struct Subject {
    name: String,
    /// Format and what is left out, of a shape.
    generated: Option<String>,
    approximated: Option<String>,
    spec: ModelSpec,
    tensors: TensorStore,
    /// Known tokens; made up if there are none.
    tokens: Option<Vec<u32>>,
    /// The largest file.
    file: Option<PathBuf>,
}

impl BenchArgs {
    /// The models that are named, for names that are not paths.
    pub fn models(&mut self) -> Vec<&mut PathBuf> {
        self.model.iter_mut().collect()
    }
}

/// Bytes that measuring takes besides its buffer.
const MEASURING: u64 = 4 << 20;

/// Runs the command.
pub fn run(args: BenchArgs) -> anyhow::Result<()> {
    let peak = Peak::begin(exit::on_bug);
    let mut work = work(&args)?;
    // Streaming needs the most tokens; whether it does is not known yet.
    let subject = subject(&args, Work { streams: true, ..work }.tokens())?;
    let session = |work: Work| SequenceOptions { context: Some(work.tokens()), kv: work.kv };
    // The plan counts what the threads take.
    let runtime = args.compute.runtime()?;
    let options = args.compute.options(session(work), 0).plan();
    let plan = Plan::new(&subject.spec, &subject.tensors, options, runtime.ledger().used())?;
    work.streams = matches!(plan.experts, Experts::Cached(_));
    let tokens = known_or_random(subject.tokens, subject.spec.vocab, work.tokens())?;
    // A cache leaves no memory for the buffer that this needs.
    let threads = || ThreadPlan::here(args.compute.threads.map(usize::from), args.compute.pin.into());
    let before = || anyhow::Ok(limits::ram_before(threads()?, plan.budget / 2)?);
    let ram_before = work.streams.then(before).transpose()?;
    let key = subject.generated.is_none().then(|| ModelKey::of(&subject.tensors));
    let model = args.compute.model(&runtime, subject.spec, subject.tensors, session(work), 0)?;
    let kernels = runtime.kernels();
    let heading = heading(&subject.name, subject.generated.as_deref(), &model, work);
    let begun = begin_output(&args, &heading, subject.approximated.as_deref())?;
    let polling = Polling::begin();
    // The buffer has to fit into the budget beside what the process owns and will own.
    let taken = memory::owned_bytes().unwrap_or(0) + plan.kv + plan.scratch + MEASURING;
    let room = plan.budget.saturating_sub(taken);
    let gauge = Gauge {
        pool: runtime.pool(),
        kernels,
        ram: match ram_before {
            Some(speed) => Ram::Before(speed),
            None => Ram::Buffer(RamBuffer::within(runtime.pool(), room)?),
        },
        weights: (!work.streams).then(|| model.tensors()),
    };
    let disk = limits::disk(subject.file.as_deref());
    let begin = |path: &PathBuf| begin_trace(path, &subject.name, &model);
    let mut trace = args.trace.as_ref().map(begin).transpose()?;
    let measured = measure(&model, &tokens, work, &gauge, trace.as_mut(), polling.stop())?;
    if let Some(trace) = trace {
        trace.finish()?;
    }
    let peak_owned_bytes = peak.end()?;
    keep(key, &model, &measured, work);
    let disk_gb_per_s = disk.and_then(|before| {
        let after = limits::disk(subject.file.as_deref())?;
        // The runs themselves may have found it faster.
        Ok(before.max(after).max(measured.read_gb_per_s()))
    });
    let report = BenchReport {
        name: &subject.name,
        generated: subject.generated.as_deref(),
        approximated: subject.approximated.as_deref(),
        work,
        model: &model,
        measured,
        peak_owned_bytes,
        disk_gb_per_s,
    };
    if args.json {
        output::answer(&report.json())?;
    } else if begun {
        page::print(&report.figures())?;
    } else {
        page::print(&format!("{heading}{}", report.figures()))?;
    }
    Ok(())
}

/// Says what is measured before that takes its time: on a terminal the report begins with it, and elsewhere
/// it is a note. Returns whether the report has begun.
fn begin_output(args: &BenchArgs, heading: &str, approximated: Option<&str>) -> io::Result<bool> {
    let begins = !args.json && stdout_columns().is_some();
    let notes = Notes::detect();
    if begins {
        page::print(heading)?;
    } else {
        heading.lines().for_each(|line| notes.line(Tone::Dim, line));
    }
    if let Some(approximated) = approximated {
        notes.line(Tone::Dim, &format!("note: {approximated}"));
    }
    Ok(begins)
}

/// Keeps what forecasts need of decode, unless too few tokens were decoded, a GPU computed a part, or the
/// weights are generated.
fn keep(key: Option<ModelKey>, model: &Model, measured: &Measured, work: Work) {
    let (Some(key), Some(decode)) = (key, &measured.decode) else { return };
    if model.experts().device_stats().is_some_and(|gpu| gpu.used > 0) {
        return;
    }
    let tokens = work.decode * work.repeat;
    let PhaseStats { used_bytes, missed_bytes, stall, reuse, .. } = decode.store.decode;
    let pace = Pace {
        tokens: tokens as u64,
        seconds: tokens as f64 / decode.rates.median,
        stall: stall.as_secs_f64(),
        reading: decode.store.busy.as_secs_f64(),
        bytes: decode.bytes_per_token,
        used_bytes,
        missed_bytes,
        reuse,
    };
    if let Some(pace) = pace.filter(false) {
        // Without a record the next forecast is an estimate, which it says.
        let _ = earlier::keep(&key, &Machine::of(model.runtime()), model.plan(), &pace);
    }
}

/// What is to be timed.
fn work(args: &BenchArgs) -> Result<Work, CommandError> {
    let work = Work {
        prefill: args.prefill,
        decode: args.decode,
        depth: args.depth,
        repeat: args.repeat.into(),
        kv: args.compute.kv(),
        streams: false,
    };
    // clap does not enforce `requires` beside a model, because a model conflicts with a shape.
    if args.shape.is_none() && (args.layers.is_some() || args.format.is_some()) {
        let problem = "--layers and --format are for --shape; a model file has its own".to_owned();
        return Err(CommandError::Usage(problem));
    }
    if work.tokens() == 0 {
        let problem = "--prefill 0 --decode 0 leaves nothing to measure".to_owned();
        return Err(CommandError::Usage(problem));
    }
    Ok(work)
}

/// The model, with at most `most` tokens of the text.
fn subject(args: &BenchArgs, most: usize) -> anyhow::Result<Subject> {
    if let Some(shape) = &args.shape {
        let FoundShape { name, approximated, spec } = shape::found(shape, args.layers.map(usize::from))?;
        let mix = args.format.unwrap_or(Mix::Q4_0);
        let tensors = generate::generate(&spec, mix)?;
        let format = clap::ValueEnum::to_possible_value(&mix).expect("no format is hidden");
        return Ok(Subject {
            name: format!("{name} ({} layers)", spec.layers.len()),
            generated: Some(format.get_name().to_owned()),
            approximated,
            spec,
            tensors,
            tokens: None,
            file: None,
        });
    }
    let loaded = open::load(args.model.as_deref())?;
    open::has_text(&loaded, &open::name(args.model.as_deref()))?;
    open::mention(&loaded.notices);
    let tokens = match &args.text {
        None => None,
        Some(path) => {
            let TextSide { tokenizer, notices } = loaded.text()?;
            open::mention(&notices);
            let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
            Some(bos.into_iter().chain(windows::ids(path, &tokenizer, most)?).collect())
        }
    };
    let files = loaded.tensors.catalog().files();
    let largest = files.iter().max_by_key(|file| file.size()).map(|file| file.path().to_owned());
    Ok(Subject {
        name: open::name(args.model.as_deref()),
        generated: None,
        approximated: None,
        spec: loaded.spec,
        tensors: loaded.tensors,
        tokens,
        file: largest.filter(|_| args.model.is_some()),
    })
}

/// Begins a trace of a model called `name`.
fn begin_trace(path: &Path, name: &str, model: &Model) -> anyhow::Result<TraceWriter> {
    let banks = model.tensors().banks().iter().map(|bank| {
        let expert_bytes = (0..bank.experts()).map(|expert| bank.expert_bytes(expert)).max().unwrap_or(0);
        let (layer, number) = (bank.key.layer as u32, bank.key.bank as u32);
        TracedBank { layer, bank: number, experts: bank.experts() as u32, expert_bytes }
    });
    let header = TraceHeader { model: name.to_owned(), banks: banks.collect() };
    if header.experts() == 0 {
        let problem = format!("{name} has no experts, so there is no routing to record");
        return Err(CommandError::Unsupported(problem).into());
    }
    Ok(TraceWriter::create(path, &header)?)
}

/// `count` tokens: the first of those that are known, or random ones, the same in every run.
fn known_or_random(known: Option<Vec<u32>>, vocab: usize, count: usize) -> anyhow::Result<Vec<u32>> {
    match known {
        Some(known) if known.len() < count => {
            let problem = format!("the text has {} tokens, but {count} are needed", known.len());
            Err(CommandError::Usage(problem).into())
        }
        Some(known) => Ok(known),
        None => {
            let mut random = Random(42);
            Ok((0..count).map(|_| (random.next() % vocab.max(1) as u64) as u32).collect())
        }
    }
}

/// A number of tokens, or none.
fn tokens_or_none(text: &str) -> Result<usize, String> {
    if text == "0" { Ok(0) } else { open::tokens(text) }
}
