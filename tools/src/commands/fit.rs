//! `moelten fit`: whether a model fits, what stays in memory and how fast it will be, without running it. The
//! plan is the one that `chat` and `run` allocate by. The names in the JSON object are stable: other programs
//! read them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use moelten_engine::EngineError;
use moelten_engine::plan::context::fitting;
use moelten_engine::plan::{Experts, GROWTH, Plan, Ram};
use moelten_engine::runtime::memory;
use moelten_hub::variants;
use moelten_loader::load::LoadedModel;
use moelten_tui::figures::percent;
use moelten_tui::terminal::{Notes, Tone};
use serde_json::{Value, json};

use crate::chat::headers::Headers;
use crate::chat::language::Language;
use crate::exit;
use crate::models::RemoteModel;
use crate::names;
use crate::open::{self, SessionArgs};
use crate::output;
use crate::report::earlier;
use crate::report::forecast::{Basis, Forecast, Likely, Span, Speeds, TOLERANCE};
use crate::report::memory_words;
use crate::report::page;
use crate::report::progress::bytes;
use crate::report::vram::VramPlan;

/// Show whether a model fits, what stays in memory, and how fast it will be
///
/// Plans as `chat` and `run` do, measures RAM and disk briefly, and loads no weights. Exit code 0 if the
/// model runs, 5 if it does not.
#[derive(Debug, clap::Args)]
pub struct FitArgs {
    /// GGUF file, model folder, or name such as user/repo:Q4_K_M, which is judged by its headers without a
    /// download [default: `model` of `moelten config`, or the built-in model]
    pub model: Option<PathBuf>,
    /// Cache hit rate to assume, 0 to 1, such as one that `/stats` showed [default: estimated]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    hit_rate: Option<f64>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    session: SessionArgs,
}

/// Time to measure the disk.
const PROBE: Duration = Duration::from_millis(800);
/// Largest buffer to measure RAM, in bytes.
const PROBE_BYTES: u64 = 512 << 20;

/// A line of the report: what, its value, and words behind it.
type Row = (&'static str, String, String);

/// Everything that is printed of a model that runs.
struct Report<'a> {
    name: String,
    /// Whether it has a chat template.
    chats: bool,
    loaded: &'a LoadedModel,
    session: &'a SessionArgs,
    plan: Plan,
    speeds: Speeds,
    /// A GPU that the options name.
    vram: Option<VramPlan>,
    /// Bytes that the vocabulary takes, if it was not read: an estimate.
    vocabulary: u64,
    forecast: Forecast,
    free: Option<u64>,
}

/// Why a model does not fit, and what would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refusal {
    /// Memory budget in bytes.
    budget: u64,
    /// Smallest budget with this context.
    least: u64,
    /// Smallest budget with a context of one token.
    least_short: u64,
    /// Longest context in this budget, 0 if none fits.
    longest: usize,
}

/// Runs the command.
pub fn run(mut args: FitArgs) -> anyhow::Result<()> {
    let remote = args.model.as_deref().map(names::remote).transpose()?.flatten();
    let remote = remote.map(|name| RemoteModel::fetch(&names::hub()?, &name)).transpose()?;
    args.model = match (&remote, args.model.take()) {
        (Some(remote), _) => Some(remote.path()),
        (None, given) => given.map(names::resolve).transpose()?,
    };
    let Judged { loaded, name, chats, language: _language } = judged(args.model.as_deref(), remote.as_ref())?;
    let vocabulary = remote.as_ref().map_or(0, RemoteModel::vocabulary_bytes);
    // Open until the end, so that the plan sees what its driver takes of the RAM.
    let gpu = args.session.compute().tried_gpu(0)?;
    let vram = gpu.as_ref().map(|gpu| gpu.plan(&loaded.spec, &loaded.tensors));
    let extra = vram.as_ref().map_or(0, VramPlan::ram_bytes) + vocabulary;
    let plan = match args.session.plan_after(&loaded, 0, extra) {
        Ok(plan) => plan,
        Err(error) => {
            if let Some(refusal) = Refusal::of(&error, &args.session, &loaded) {
                if !args.json {
                    page::print(&refusal.text(&name))?;
                    return Err(error.into());
                }
                let (mut object, error) = (refusal.json(&name), error.into());
                object["error"] = exit::report(&error).json();
                output::answer(&object)?;
                return Err(error);
            }
            return Err(error.into());
        }
    };
    Notes::detect().line(Tone::Dim, "measuring, a second or two");
    let most = PROBE_BYTES.min(plan.budget / 2);
    let compute = args.session.compute();
    let speeds = match &remote {
        None => Speeds::probe(compute, &loaded.tensors, PROBE, most)?,
        Some(_) => {
            let trial = names::hub()?.trial_file();
            let path = trial.as_ref().ok().map(|trial| trial.path());
            Speeds::probe_on(path, compute, &loaded.tensors, PROBE, most)?
        }
    };
    let earlier = earlier::about(compute, &loaded, &plan);
    let slots = vram.as_ref().and_then(VramPlan::used);
    let forecast = Forecast::new(&loaded, &plan, compute.kv(), &speeds, &earlier, slots, args.hit_rate);
    let free = memory::available_bytes();
    let (loaded, session) = (&loaded, &args.session);
    let report = Report { name, chats, loaded, session, plan, speeds, vram, vocabulary, forecast, free };
    if args.json {
        output::answer(&report.json())?;
    } else {
        page::print(&report.text()?)?;
        if let Some(remote) = &remote {
            page::print(&others(remote, &report.plan)?)?;
        }
    }
    Ok(())
}

/// A model that is judged, by all that is here of it.
struct Judged {
    loaded: LoadedModel,
    name: String,
    /// Whether it has a chat template.
    chats: bool,
    /// `chat` and `run` hold it when they plan, so it counts here too.
    language: Option<Language>,
}

fn judged(model: Option<&Path>, remote: Option<&RemoteModel>) -> anyhow::Result<Judged> {
    if let (Some(path), Some(remote)) = (model, remote)
        && remote.skipped > 0
    {
        let (loaded, chats) = Headers::without_vocabulary(path)?;
        return Ok(Judged { loaded, name: remote.name().to_owned(), chats, language: None });
    }
    let headers = Headers::read(model, true)?;
    let chats = headers.language.has_template();
    let Headers { loaded, name, language, .. } = headers;
    // The copy of the headers of a folder has a name that says nothing.
    let name = remote.map_or(name, |remote| remote.name().to_owned());
    Ok(Judged { loaded, name, chats, language: Some(language) })
}

/// The other quantisations of a repository: their sizes, and whether they would fit, by the parts that the
/// judged one has.
fn others(remote: &RemoteModel, plan: &Plan) -> Result<String, std::fmt::Error> {
    let variants = variants(&remote.repository.files);
    let mut out = String::new();
    if variants.len() < 2 {
        return Ok(out);
    }
    let judged: u64 = remote.choice.files.iter().map(|file| file.bytes).sum();
    let fixed = plan.base + plan.kv + plan.scratch;
    // A cache of fewer experts than this share answers, but at the speed of the disk.
    const LEAST: f64 = 0.05;
    let needs = |bytes: u64| {
        let scale = bytes as f64 / judged.max(1) as f64;
        let (dense, experts) = (plan.dense as f64 * scale, plan.expert_bytes as f64 * scale);
        (fixed + (dense + experts) as u64, fixed + (dense + LEAST * experts) as u64)
    };
    let verdict = |bytes: u64| match needs(bytes) {
        (all, _) if all <= plan.budget => "RAM",
        (_, least) if least <= plan.budget && plan.expert_bytes > 0 => "STREAM",
        _ => "NO",
    };
    writeln!(out, "\nall quantisations there, estimated by their sizes for this budget and context:")?;
    let best = variants.iter().rposition(|variant| verdict(variant.bytes()) == "RAM");
    for (index, variant) in variants.iter().enumerate() {
        let here = if variant.files == remote.choice.files { "  (the one above)" } else { "" };
        let note = if Some(index) == best { "  largest that fits into memory" } else { "" };
        let (quant, size) = (&variant.quant, bytes(variant.bytes()));
        writeln!(out, "  {quant:<14} {size:>9}  {:<6}{here}{note}", verdict(variant.bytes()))?;
    }
    Ok(out)
}

/// `--hit-rate`.
fn share(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| "not a share from 0 to 1".to_owned())
}

impl Refusal {
    fn of(error: &EngineError, session: &SessionArgs, loaded: &LoadedModel) -> Option<Self> {
        let (budget, least) = match *error {
            EngineError::Memory { available_bytes, need_bytes, .. } => (available_bytes, need_bytes),
            EngineError::Budget { budget_bytes, need_bytes, .. } => (budget_bytes, need_bytes),
            _ => return None,
        };
        let smallest = session.smallest_plan(loaded).ok()?;
        let least_short = smallest.needs();
        let beside = least_short - smallest.kv - smallest.scratch;
        let longest = fitting(
            &loaded.spec,
            budget.saturating_sub(beside.saturating_add(GROWTH)),
            session.compute().kv(),
        );
        Some(Self { budget, least, least_short, longest })
    }

    fn text(&self, name: &str) -> String {
        let Self { budget, least, least_short, longest } = *self;
        let would = match longest {
            0 if least_short < least => {
                format!("--ram {} or more, or {} with the shortest context", size(least), bytes(least_short))
            }
            0 => format!("--ram {} or more", size(least)),
            longest => {
                format!(
                    "--ram {} or more, or a context of at most {} (--ctx {longest})",
                    size(least),
                    open::count(longest)
                )
            }
        };
        format!("{name}: NO, does not fit in {}\n\n  needs           {would}\n", bytes(budget))
    }

    fn json(&self, name: &str) -> Value {
        json!({
            "model": name,
            "verdict": "no",
            "budget_bytes": self.budget,
            "least_budget_bytes": self.least,
            "least_budget_shortest_context_bytes": self.least_short,
            "longest_context": self.longest,
        })
    }
}

/// A value for `--ram` with which a model that needs `bytes` runs.
fn size(bytes: u64) -> String {
    format!("{}M", bytes.saturating_add(GROWTH).div_ceil(1 << 20))
}

impl Report<'_> {
    /// `RAM` if all experts fit into memory, `STREAM` otherwise.
    fn verdict(&self) -> &'static str {
        if memory_words::streams(&self.plan) { "STREAM" } else { "RAM" }
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        let what = match &self.plan.experts {
            Experts::Cached(cached) if cached.share() < 1.0 => {
                format!("runs with {:.0} % of its experts in memory", 100.0 * cached.share())
            }
            _ => "all of it fits".to_owned(),
        };
        writeln!(out, "{}: {}, {what}\n", self.name, self.verdict())?;
        for (name, value, words) in self.memory_rows().into_iter().chain(self.speed_rows()) {
            writeln!(out, "{}", format!("  {name:<15} {value:>12}  {words}").trim_end())?;
        }
        if !self.chats {
            writeln!(
                out,
                "\nno chat template: `moelten run --no-template` continues texts, `chat` refuses it"
            )?;
        }
        let streams = memory_words::streams(&self.plan);
        let place = memory_words::slow_place(self.loaded).filter(|_| streams);
        let rope = open::long_rope_words(&self.loaded.spec, self.plan.context);
        for line in rope.into_iter().chain(memory_words::tight(self.loaded, &self.plan)).chain(place) {
            writeln!(out, "\n{line}")?;
        }
        Ok(out)
    }

    fn memory_rows(&self) -> Vec<Row> {
        let plan = &self.plan;
        let why = match self.session.compute().ram {
            Ram::Auto => "free memory, less a reserve for other programs",
            Ram::Min => "the smallest that works",
            Ram::Bytes(_) => "from --ram",
        };
        let free = self.free.map_or_else(String::new, |free| format!("; {} free now", bytes(free)));
        let place = match &plan.experts {
            Experts::InPlace if plan.arranged > 0 => {
                "arranged in memory; the others are mapped from the file"
            }
            Experts::InPlace => "mapped from the file",
            Experts::Cached(cached) if cached.embedding_in_file => {
                "copied to memory; the embedding is read from the file, one row per token"
            }
            Experts::Cached(_) => "copied to memory",
        };
        let (kv, tokens) = (self.session.compute().kv().name(), open::count(plan.context.tokens));
        let why_context = open::context_words(&self.loaded.spec, plan.context);
        let (expert_bytes, experts) = self.experts_words();
        let mut rows = vec![
            ("budget", bytes(plan.budget), format!("{why}{free}")),
            ("program", bytes(plan.base), String::new()),
            ("vocabulary", bytes(self.vocabulary), "estimated, as it was not read".to_owned()),
            ("other weights", bytes(plan.dense), place.to_owned()),
            ("context", bytes(plan.kv), format!("{tokens} tokens in {kv} ({why_context})")),
            match plan.arranging {
                0 => ("buffers", bytes(plan.scratch), String::new()),
                arranging => {
                    let words =
                        format!("{} of them to arrange experts while they are read", bytes(arranging));
                    ("buffers", bytes(plan.scratch + arranging), words)
                }
            },
            ("experts", expert_bytes, experts),
            ("total", bytes(plan.needs()), String::new()),
        ];
        rows.retain(|row| row.0 != "vocabulary" || self.vocabulary > 0);
        rows.extend(self.vram.as_ref().map(|vram| {
            let (size, words) = vram.row(&self.experts());
            ("VRAM", size, words)
        }));
        rows
    }

    /// Experts of each bank.
    fn experts(&self) -> Vec<usize> {
        self.loaded.tensors.banks().iter().map(|bank| bank.experts()).collect()
    }

    fn speed_rows(&self) -> Vec<Row> {
        let (f, pattern) = (&self.forecast, self.speeds.pattern);
        let (disk, how) = match &self.speeds.disk_gb_per_s {
            Ok(speed) => {
                let (block, depth) = (bytes(pattern.block as u64), pattern.depth);
                (format!("{speed:.2}"), format!("GB/s, in reads of {block}, {depth} in flight"))
            }
            Err(why) => ("unknown".to_owned(), why.clone()),
        };
        let (shared, routed) = (f.dense_bytes as u64, f.routed_bytes as u64);
        let mut rows = vec![
            ("RAM", format!("{:.1}", self.speeds.ram_gb_per_s), "GB/s".to_owned()),
            ("disk", disk, how),
            (
                "read per token",
                bytes(shared + routed),
                format!("{} shared + {} experts", bytes(shared), bytes(routed)),
            ),
        ];
        if self.verdict() == "STREAM" {
            let Likely { value, range: Span { low, high } } = f.hits;
            let words = match low == high {
                true => "of expert bytes found in memory".to_owned(),
                false => format!(
                    "of expert bytes found in memory, {:.0} to {:.0} % by model and text",
                    100.0 * low,
                    100.0 * high
                ),
            };
            rows.push(("cache hits", percent(value), words));
        }
        if let Some(vram) = self.vram.as_ref().and_then(VramPlan::used) {
            let words = format!(
                "of the experts of a token; {:.0} us a submission, copies at {:.2} GB/s",
                1e6 * vram.launch,
                vram.upload_gb_per_s
            );
            rows.push(("on the GPU", percent(f.on_gpu), words));
        }
        let speed = |span: Option<Span>| span.map_or_else(|| "unknown".to_owned(), memory_words::speed);
        let range = speed(f.warm.map(|warm| warm.range));
        let (cold, basis) = (speed(f.cold), f.basis.words());
        let words = format!("tokens/s once warm ({range}), {basis}; {cold} for the first tokens");
        rows.push((
            "speed",
            speed(f.warm.map(|Likely { value, .. }| Span { low: value, high: value })),
            words,
        ));
        rows
    }

    /// Bytes of expert weights in memory, and which they are.
    fn experts_words(&self) -> (String, String) {
        let plan = &self.plan;
        let total = bytes(plan.expert_bytes);
        match &plan.experts {
            _ if plan.expert_bytes == 0 => ("0 B".to_owned(), "the model has none".to_owned()),
            Experts::InPlace => (total, "all of them, mapped from the file".to_owned()),
            Experts::Cached(cached) => {
                let shape = &cached.shape;
                let kept = || shape.quotas.iter().zip(&shape.experts).filter(|&(_, &experts)| experts > 0);
                let span = |low: Option<usize>, high: Option<usize>| match (low, high) {
                    (Some(low), Some(high)) if low < high => format!("{low} to {high}"),
                    (low, _) => low.unwrap_or(0).to_string(),
                };
                let quotas = span(kept().map(|k| *k.0).min(), kept().map(|k| *k.0).max());
                let experts = span(kept().map(|k| *k.1).min(), kept().map(|k| *k.1).max());
                let how = match (plan.arranging > 0, cached.direct) {
                    (true, _) => "arranged while they are read",
                    (false, true) => "direct reads",
                    (false, false) => "mapped",
                };
                let (layers, spare) = (kept().count(), shape.spare.iter().sum::<usize>());
                let words = format!(
                    "{quotas} of {experts} in each of {layers} layers, and {spare} slots for reads in flight; {total} in \
                     the file, {how}"
                );
                (bytes(cached.bytes()), words)
            }
        }
    }

    fn json(&self) -> Value {
        let (plan, f) = (&self.plan, &self.forecast);
        let span = |span: Option<Span>| span.map(|span| json!({ "low": span.low, "high": span.high }));
        let likely = |likely: Option<Likely>| {
            let json = |Likely { value, range }: Likely| json!({ "likely": value, "low": range.low, "high": range.high });
            likely.map(json)
        };
        let (slots, spare, direct) = match &plan.experts {
            Experts::Cached(c) => (Some(&c.shape.quotas), c.shape.spare.iter().sum(), c.direct),
            Experts::InPlace => (None, 0, false),
        };
        let counts = self.experts();
        let (share, held) = match &plan.experts {
            Experts::Cached(cached) => (cached.share(), cached.bytes()),
            Experts::InPlace => (1.0, plan.expert_bytes),
        };
        json!({
            "model": self.name,
            "verdict": self.verdict().to_lowercase(),
            "chat_template": self.chats,
            "budget_bytes": plan.budget,
            "free_bytes": self.free,
            "context": plan.context.tokens,
            "kv": self.session.compute().kv().name(),
            "memory": {
                "program_bytes": plan.base,
                "vocabulary_bytes": self.vocabulary,
                "dense_bytes": plan.dense,
                "kv_bytes": plan.kv,
                "buffer_bytes": plan.scratch,
                "expert_bytes": held,
                "total_bytes": plan.needs(),
                "mapped_bytes": plan.mapped(),
            },
            "experts": {
                "file_bytes": plan.expert_bytes,
                "per_layer": counts,
                "slots": slots.unwrap_or(&counts),
                "spare_slots": spare,
                "share": share,
                "direct": direct,
            },
            "token": { "dense_bytes": f.dense_bytes, "routed_bytes": f.routed_bytes },
            "gpu": self.vram.as_ref().map(|vram| vram.json(&counts)),
            "hit_rate": likely(Some(f.hits)),
            "gpu_share": f.on_gpu,
            "probe": {
                "ram_gb_per_s": self.speeds.ram_gb_per_s,
                "disk_gb_per_s": self.speeds.disk_gb_per_s.as_ref().ok(),
                "disk_problem": self.speeds.disk_gb_per_s.as_ref().err(),
                "block_bytes": self.speeds.pattern.block,
                "depth": self.speeds.pattern.depth,
            },
            "tolerance": span(Some(TOLERANCE)),
            "tokens_per_s_warm": likely(f.warm),
            "measured_before": f.basis == Basis::Run,
            "tokens_per_s_cold": span(f.cold),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_never_too_small() {
        assert_eq!([1, 1 << 20, (1 << 20) + 1].map(size), ["2M", "2M", "3M"]);
        assert!(matches!(open::sizes::ram(&size(3_000_000_000)), Ok(Ram::Bytes(3_000_000_000..))));
        assert_eq!((share("0.62"), share("1.01").is_err(), share("nan").is_err()), (Ok(0.62), true, true));
    }

    #[test]
    fn a_refusal_says_what_would_run() {
        let refusal = Refusal { budget: 50 << 20, least: 80 << 20, least_short: 40 << 20, longest: 1234 };
        let text = refusal.text("m");
        assert!(text.contains("NO") && text.contains("--ram 81M") && text.contains("--ctx 1234"), "{text}");
        let text = Refusal { longest: 0, least_short: 60 << 20, ..refusal }.text("m");
        assert!(text.contains("60 MiB with the shortest context") && !text.contains("--ctx"), "{text}");
        let text = Refusal { longest: 0, least_short: 80 << 20, ..refusal }.text("m");
        assert!(!text.contains("shortest"), "{text}");
    }
}
