//! `moelten bench`: how fast a model reads a prompt and decodes, beside what the machine can do at most, measured in the
//! same run. The names in the JSON object are a promise: other programs read them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use moelten_engine::experts::trace::{TraceHeader, TraceWriter, TracedLayer};
use moelten_engine::model::Model;
use moelten_engine::plan::{Experts, Plan};
use moelten_engine::session::SessionOptions;
use moelten_engine::topology::{Placement, ThreadPlan};
use moelten_loader::spec::ModelSpec;
use moelten_loader::tensors::store::TensorStore;
use moelten_loader::text::TextSide;
use moelten_quant::Kernels;
use moelten_tui::filter;
use moelten_tui::terminal::{Notes, Tone};
use serde_json::{Value, json};

use crate::bench::generate::{self, Mix, Random};
use crate::bench::limits::{self, Limits};
use crate::bench::measure::{Measured, Rates, Work, measure};
use crate::bench::peak::Peak;
use crate::bench::shape::Shape;
use crate::exit::CommandError;
use crate::open::{self, ComputeArgs};
use crate::progress::bytes;
use crate::prompt;
use crate::signals::Polling;

/// Measure how fast a model runs, and how fast this machine could
///
/// Reads a prompt and decodes token by token, over random tokens or a text, a few times. RAM, int8 and disk limits are
/// measured in the same run with the same threads.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// GGUF file or model folder; the built-in model if there is none
    #[arg(conflicts_with = "shape")]
    model: Option<PathBuf>,
    /// Tokens of the prompt, 0 for none
    #[arg(long, value_name = "N", default_value = "512", value_parser = tokens_or_none)]
    prefill: usize,
    /// Tokens to decode, 0 for none
    #[arg(long, value_name = "N", default_value = "64", value_parser = tokens_or_none)]
    decode: usize,
    /// Tokens in the context before decoding begins
    #[arg(long, visible_alias = "ctx-start", value_name = "N", default_value = "0", value_parser = tokens_or_none)]
    depth: usize,
    /// Timed repetitions
    #[arg(long, value_name = "R", default_value = "3", value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: u16,
    /// Tokens of this text instead of random ones, UTF-8
    #[arg(long, value_name = "FILE", conflicts_with = "shape")]
    text: Option<PathBuf>,
    /// Weights made up for a shape: qwen3-30b-a3b, mixtral-8x7b, olmoe, gpt-oss-20b, mixtral-mini, qwen3-half, or FILE.toml
    #[arg(long, value_name = "NAME")]
    shape: Option<String>,
    /// Number of layers of the shape [default: all of them]
    #[arg(long, value_name = "N", requires = "shape", value_parser = clap::value_parser!(u16).range(1..=1024))]
    layers: Option<u16>,
    /// Weight format of the shape [default: q4_0]
    #[arg(long, value_name = "TYPE", requires = "shape")]
    format: Option<Mix>,
    /// Record which experts the tokens choose, for `moelten replay`
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
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

/// What is printed.
struct Report<'a> {
    name: &'a str,
    generated: Option<&'a str>,
    approximated: Option<&'a str>,
    work: Work,
    model: &'a Model,
    measured: Measured,
    /// The most memory that the process owned.
    peak_owned_bytes: Option<u64>,
    limits: Limits,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    let mut work = Work {
        prefill: args.prefill,
        decode: args.decode,
        depth: args.depth,
        repeat: args.repeat.into(),
        kv: args.compute.kv(),
        streams: false,
    };
    let peak = Peak::begin();
    // `requires` above is not enforced beside a model, because that excludes a shape.
    if args.shape.is_none() && (args.layers.is_some() || args.format.is_some()) {
        let problem = "--layers and --format are for --shape; a model file has its own".to_owned();
        return Err(CommandError::Usage(problem).into());
    }
    if work.tokens() == 0 {
        let problem = "--prefill 0 --decode 0 leaves nothing to measure".to_owned();
        return Err(CommandError::Usage(problem).into());
    }
    let subject = subject(&args)?;
    let session = |work: Work| SessionOptions { context: Some(work.tokens()), kv: work.kv };
    let plan = Plan::new(&subject.spec, &subject.tensors, args.compute.options(session(work), 0).plan())?;
    work.streams = matches!(plan.experts, Experts::Cached(_));
    let tokens = known_or_random(subject.tokens, subject.spec.vocab, work.tokens())?;
    // A cache leaves no memory for the buffer that this needs.
    let ram_before = match work.streams {
        true => {
            let threads = ThreadPlan::here(args.compute.threads.map(usize::from), args.compute.pin.into())?;
            Some(limits::ram_before(threads, plan.budget / 2)?)
        }
        false => None,
    };
    let model = args.compute.model(subject.spec, subject.tensors, session(work), 0)?;
    let kernels = Kernels::for_isa(model.isa()).expect("the model runs with this tier");
    let notes = Notes::detect();
    let say = |text: &str| notes.line(Tone::Dim, &filter::clean(text));
    say(&format!("{}: {}; {}", subject.name, model.pool().plan(), model.isa()));
    if let Some(approximated) = &subject.approximated {
        say(&format!("note: {approximated}"));
    }
    let polling = Polling::begin();
    // Before and after, as the machine may be busy at one of these times; the larger one is nearer to the truth.
    let ram = || ram_before.map_or_else(|| limits::ram(model.pool(), kernels), Ok);
    let ram_first = ram()?;
    let int8 = limits::int8(model.pool(), kernels);
    let disk = limits::disk(subject.file.as_deref());
    let mut trace = match &args.trace {
        Some(path) => Some(begin_trace(path, &subject.name, &model)?),
        None => None,
    };
    let measured = measure(&model, &tokens, work, trace.as_mut(), polling.stop())?;
    if let Some(trace) = trace {
        trace.finish()?;
    }
    let peak_owned_bytes = peak.end();
    let limits = Limits {
        ram_gb_per_s: ram_first.max(ram()?),
        weights_gb_per_s: (!work.streams).then(|| limits::weights(model.pool(), kernels, model.tensors())),
        int8_tops: int8.max(limits::int8(model.pool(), kernels)),
        disk_gb_per_s: disk.and_then(|before| {
            let after = limits::disk(subject.file.as_deref())?;
            // The runs themselves may have found it faster.
            Ok(before.max(after).max(measured.read_gb_per_s()))
        }),
    };
    let report = Report {
        name: &subject.name,
        generated: subject.generated.as_deref(),
        approximated: subject.approximated.as_deref(),
        work,
        model: &model,
        measured,
        peak_owned_bytes,
        limits,
    };
    if args.json {
        writeln!(io::stdout(), "{}", report.json())?;
    } else {
        write!(io::stdout(), "{}", filter::clean(&report.text()))?;
    }
    Ok(())
}

fn subject(args: &Args) -> anyhow::Result<Subject> {
    if let Some(shape) = &args.shape {
        let shape = Shape::find(shape, args.layers.map(usize::from))?;
        let spec = shape.spec();
        let mix = args.format.unwrap_or(Mix::Q4_0);
        let tensors = generate::generate(&spec, mix)?;
        let format = clap::ValueEnum::to_possible_value(&mix).expect("no format is hidden");
        return Ok(Subject {
            name: format!("{} ({} layers)", shape.name, shape.layers),
            generated: Some(format.get_name().to_owned()),
            approximated: shape.approximated,
            spec,
            tensors,
            tokens: None,
            file: None,
        });
    }
    let loaded = open::load(args.model.as_deref())?;
    open::mention(&loaded.notices);
    let tokens = match &args.text {
        None => None,
        Some(path) => {
            let text = prompt::file(path, Notes::detect())?;
            let TextSide { tokenizer, notices } = loaded.text()?;
            open::mention(&notices);
            let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
            Some(bos.into_iter().chain(tokenizer.encode_text(&text)?).collect())
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
    let layers = (0..model.spec().layers.len()).map(|layer| {
        let experts = model.tensors().experts(layer);
        let expert_bytes = experts.iter().map(|expert| expert.bytes()).max().unwrap_or(0);
        TracedLayer { experts: experts.len() as u32, expert_bytes }
    });
    let header = TraceHeader { model: name.to_owned(), layers: layers.collect() };
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

/// Figures that both kinds of output show.
struct DecodeFigures {
    gb_per_s: f64,
    share_of_ram: f64,
    gb_per_s_with_kv: f64,
    share_of_ram_with_kv: f64,
    /// What RAM and disk would allow: every byte that a token reads from RAM at the RAM's speed, and every byte that came
    /// from the disk at the disk's, whichever takes longer. `None` if there are bytes from a disk of unknown speed.
    bound_tokens_per_s: Option<f64>,
}

impl Report<'_> {
    fn decode_figures(&self) -> Option<DecodeFigures> {
        let (decode, ram) = (self.measured.decode.as_ref()?, self.limits.ram_gb_per_s);
        let rate = decode.rates.median / 1e9;
        let with_kv = decode.bytes_per_token + decode.kv_bytes_per_token;
        let from_disk = match self.work.streams {
            true => decode.store.decode.missed_bytes as f64 / (self.work.decode * self.work.repeat) as f64,
            false => decode.disk_bytes_per_token.unwrap_or(0.0),
        };
        let disk_seconds = match &self.limits.disk_gb_per_s {
            _ if from_disk == 0.0 => Some(0.0),
            Ok(disk) => Some(from_disk / disk / 1e9),
            Err(_) => None,
        };
        Some(DecodeFigures {
            gb_per_s: decode.bytes_per_token * rate,
            share_of_ram: decode.bytes_per_token * rate / ram,
            gb_per_s_with_kv: with_kv * rate,
            share_of_ram_with_kv: with_kv * rate / ram,
            bound_tokens_per_s: disk_seconds.map(|disk| 1.0 / disk.max(with_kv / ram / 1e9)),
        })
    }

    fn json(&self) -> Value {
        let Measured { prefill, decode, disk_bytes } = &self.measured;
        let (plan, work, limits) = (self.model.pool().plan(), self.work, &self.limits);
        let prefill_json = prefill.as_ref().map(|prefill| {
            let tops = prefill.operations_per_token * prefill.rates.median / 1e12;
            json!({
                "tokens": work.prefill,
                "tokens_per_s": prefill.rates.median,
                "tokens_per_s_min": prefill.rates.min,
                "tokens_per_s_max": prefill.rates.max,
                "first_tokens_per_s": prefill.first_rate,
                "operations_per_token": prefill.operations_per_token,
                "int8_tops": tops,
                "share_of_int8": tops / limits.int8_tops,
            })
        });
        let decode_json = decode.as_ref().zip(self.decode_figures()).map(|(decode, figures)| {
            json!({
                "tokens": work.decode,
                "depth": work.depth,
                "tokens_per_s": decode.rates.median,
                "tokens_per_s_min": decode.rates.min,
                "tokens_per_s_max": decode.rates.max,
                "bytes_per_token": decode.bytes_per_token,
                "kv_bytes_per_token": decode.kv_bytes_per_token,
                "gb_per_s": figures.gb_per_s,
                "share_of_ram": figures.share_of_ram,
                "gb_per_s_with_kv": figures.gb_per_s_with_kv,
                "share_of_ram_with_kv": figures.share_of_ram_with_kv,
                "bound_tokens_per_s": figures.bound_tokens_per_s,
                "experts_used": decode.experts_used,
                "experts": decode.experts,
            })
        });
        json!({
            "model": self.name,
            "generated": self.generated,
            "approximated": self.approximated,
            "isa": self.model.isa().name(),
            "threads": plan.threads,
            "pinned": matches!(plan.placement, Placement::Pinned(_)),
            "kv": work.kv.name(),
            "repeat": work.repeat,
            "prefill": prefill_json,
            "decode": decode_json,
            "limits": {
                "ram_gb_per_s": limits.ram_gb_per_s,
                "weights_gb_per_s": limits.weights_gb_per_s,
                "int8_tops": limits.int8_tops,
                "disk_gb_per_s": limits.disk_gb_per_s.as_ref().ok(),
                "disk_problem": limits.disk_gb_per_s.as_ref().err(),
            },
            "cache": self.cache_json(*disk_bytes),
            "memory": {
                "peak_owned_bytes": self.peak_owned_bytes,
                "budget_bytes": self.model.plan().budget,
                "mapped_bytes": self.model.plan().mapped(),
            },
        })
    }

    /// What the store did; `null` for rates of what was not run. In place every expert is there.
    fn cache_json(&self, disk_bytes: Option<u64>) -> Value {
        let (prefill, decode) = (self.measured.prefill.as_ref(), self.measured.decode.as_ref());
        let stores = prefill.map(|p| &p.store).into_iter().chain(decode.map(|d| &d.store));
        let bytes_read =
            if self.work.streams { Some(stores.map(|s| s.bytes_read).sum()) } else { disk_bytes };
        let tokens = (self.work.decode * self.work.repeat) as f64;
        json!({
            "streams": self.work.streams,
            "share_resident": match &self.model.plan().experts {
                Experts::Cached(cached) => cached.share(),
                Experts::InPlace => 1.0,
            },
            "hit_rate_decode": decode.map(|d| d.store.decode.hit_rate()),
            "hit_rate_prefill": prefill.map(|p| p.store.prefill.hit_rate()),
            "bytes_read": bytes_read,
            "decode_missed_bytes_per_token": decode.map(|d| d.store.decode.missed_bytes as f64 / tokens),
            "decode_bytes_read_per_token": decode.map(|d| d.store.bytes_read as f64 / tokens),
            "decode_stall_s": decode.map(|d| d.store.decode.stall.as_secs_f64()),
            "decode_read_gb_per_s": decode.map(|d| d.store.read_gb_per_s()),
            "prefill_stall_s": prefill.map(|p| p.store.prefill.stall.as_secs_f64()),
            "prefill_read_gb_per_s": prefill.map(|p| p.store.read_gb_per_s()),
            "retries": decode.map(|d| d.store.retries),
            "prefetch": decode.map(|d| d.store.ahead.iter().map(|layer| json!({
                "chosen": layer.chosen, "foreseen": layer.foreseen, "read": layer.read, "useful": layer.useful,
            })).collect::<Vec<_>>()),
        })
    }

    /// What the store did in a line or two, if it had anything to do.
    fn cache_lines(&self, lines: &mut Vec<String>) {
        let Experts::Cached(cached) = &self.model.plan().experts else { return };
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        lines.push(format!(
            "experts  {} of them stay, {}; {}",
            percent(cached.share()),
            bytes(cached.bytes()),
            if cached.direct { "direct reads" } else { "mapped" }
        ));
        if let Some(prefill) = &self.measured.prefill {
            let (store, tokens) = (&prefill.store, (self.work.prefill * self.work.repeat) as u64);
            lines.push(format!(
                "         prefill: {:.2} tok/s at first; then {} hits, {} read per token at {:.2} GB/s, {:.0} % of the time \
                 waiting",
                prefill.first_rate,
                percent(store.prefill.hit_rate()),
                bytes(store.bytes_read / tokens),
                store.read_gb_per_s(),
                100.0 * store.prefill.stall.as_secs_f64() * prefill.rates.median / tokens as f64,
            ));
        }
        if let Some(decode) = &self.measured.decode {
            let (store, tokens) = (&decode.store, (self.work.decode * self.work.repeat) as u64);
            lines.push(format!(
                "         decode: {} hits, {} read per token at {:.2} GB/s, {:.0} % of the time waiting",
                percent(store.decode.hit_rate()),
                bytes(store.bytes_read / tokens),
                store.read_gb_per_s(),
                100.0 * store.decode.stall.as_secs_f64() * decode.rates.median / tokens as f64,
            ));
            let ahead = store.ahead_total();
            if ahead.chosen > 0 {
                lines.push(format!(
                    "         prefetch: {} of the next layer's experts foreseen; {} read ahead, {} of them used",
                    percent(ahead.foreseen as f64 / ahead.chosen as f64),
                    ahead.read,
                    percent(ahead.useful as f64 / ahead.read.max(1) as f64),
                ));
            }
        }
    }

    fn text(&self) -> String {
        let (work, limits) = (self.work, &self.limits);
        let mut lines = vec![match self.generated {
            Some(format) => format!("{}, generated weights, {format}", self.name),
            None => self.name.to_owned(),
        }];
        lines.push(format!("{}; {}; KV {}", self.model.pool().plan(), self.model.isa(), work.kv.name()));
        if let Some(prefill) = &self.measured.prefill {
            let tops = prefill.operations_per_token * prefill.rates.median / 1e12;
            lines.push(format!(
                "prefill  {:>5} tokens {}   {tops:.2} of {:.2} int8 TOP/s ({:.0} %)",
                work.prefill,
                spread(prefill.rates),
                limits.int8_tops,
                100.0 * tops / limits.int8_tops
            ));
        }
        if let Some((decode, figures)) = self.measured.decode.as_ref().zip(self.decode_figures()) {
            lines.push(format!(
                "decode   {:>5} tokens {}   {:.1} of {:.1} GB/s RAM ({:.0} %)",
                work.decode,
                spread(decode.rates),
                figures.gb_per_s,
                limits.ram_gb_per_s,
                100.0 * figures.share_of_ram
            ));
            lines.push(format!(
                "         after {} tokens; {} of weights and {} of KV per token ({:.1} GB/s, {:.0} %, together)",
                work.depth,
                bytes(decode.bytes_per_token as u64),
                bytes(decode.kv_bytes_per_token as u64),
                figures.gb_per_s_with_kv,
                100.0 * figures.share_of_ram_with_kv
            ));
            if let Some(weights) = limits.weights_gb_per_s {
                let share = 100.0 * figures.gb_per_s / weights;
                lines.push(format!(
                    "         weights read plainly where they lie: {weights:.1} GB/s ({share:.0} %)"
                ));
            }
            let bound = figures.bound_tokens_per_s.map_or_else(
                || "bound unknown, as the disk's speed is".to_owned(),
                |bound| {
                    let share = 100.0 * decode.rates.median / bound;
                    format!("at most {bound:.1} tok/s possible ({share:.0} % reached)")
                },
            );
            let used = format!("{} of {} experts used", decode.experts_used, decode.experts);
            lines.push(format!("         {bound}; {used}"));
        }
        self.cache_lines(&mut lines);
        let disk = match &limits.disk_gb_per_s {
            Ok(speed) => format!("{speed:.2} GB/s"),
            Err(why) => format!("not measured: {why}"),
        };
        lines.push(format!("disk     {disk}"));
        let owned = self.peak_owned_bytes.map_or_else(|| "unknown".to_owned(), bytes);
        let read = self.measured.disk_bytes.map_or_else(|| "unknown".to_owned(), bytes);
        let budget = bytes(self.model.plan().budget);
        lines.push(format!(
            "memory   {owned} owned at most, of {budget}; {read} read from disks in timed runs"
        ));
        lines.push(String::new());
        lines.join("\n")
    }
}

/// Median and spread, aligned.
fn spread(rates: Rates) -> String {
    format!("{:>8.2} tok/s ({:.2} to {:.2})", rates.median, rates.min, rates.max)
}
