//! `moelten quantize`: a model folder or GGUF file in, one GGUF file out, in the chosen layout, every matrix
//! in the chosen type or as it is. It must not know how files are written.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::builder::PossibleValue;
use moelten_engine::runtime::memory;
use moelten_loader::container::gguf::Value;
use moelten_loader::convert::Description;
use moelten_loader::convert::types::{MIXTURES, Mixture, Override, TypeError, TypePlan, matrices};
use moelten_loader::convert::{Conversion, Event, FileLayout, Types, Work};
use moelten_loader::imatrix::ImportanceFile;
use moelten_loader::io::give_back;
use moelten_loader::load::{LoadedModel, Source};
use moelten_loader::tensors::roles::Role;
use moelten_tui::terminal::{Notes, Tone};
use serde_json::json;

use crate::chat::headers::Headers;
use crate::exit::{self, CommandError};
use crate::open;
use crate::output;
use crate::report::page;
use crate::report::progress::{Progress, Unit, bytes};
use crate::report::quantize_plan::{QuantizePlan, free_bytes};
use crate::report::type_choice::{self, Choice, Goal, Rules};
use crate::report::type_table::TypeTable;
use crate::report::waiting;
use crate::signals::Polling;

/// Convert a model folder or GGUF file to another weight type or layout
///
/// Reads the source and writes the final file in one pass and in bounded memory. If it is stopped or the disk
/// is full, the same command resumes.
#[derive(Debug, clap::Args)]
pub struct QuantizeArgs {
    /// Model folder, GGUF file, or name on the Hugging Face hub such as user/repo
    source: PathBuf,
    /// GGUF file to write; it gets this name only when it is complete
    #[arg(required_unless_present = "types")]
    target: Option<PathBuf>,
    /// Show what each weight type makes of this model: size, and whether and how fast it runs here
    #[arg(long, conflicts_with_all = ["chosen", "target", "dry_run"])]
    types: bool,
    /// Weight type of the matrices; norms, biases and routers stay exact [default for a GGUF source:
    /// unchanged]
    #[arg(long = "type", value_name = "TYPE", group = "chosen")]
    kind: Option<Kind>,
    /// The best weight type whose file is at most this large, like 12G
    #[arg(long, value_name = "SIZE", group = "chosen", value_parser = open::size)]
    target_size: Option<u64>,
    /// The best weight type with which the whole model is in RAM with this --ram, like 8G
    #[arg(long, value_name = "SIZE", group = "chosen", value_parser = open::size)]
    for_ram: Option<u64>,
    /// Another type for matrices whose GGUF names match; the last match wins. Can be given several times
    #[arg(long, value_name = "REGEX=TYPE", requires = "chosen", value_parser = override_of)]
    tensor_type: Vec<Override>,
    /// Layout of the experts
    #[arg(long, value_name = "LAYOUT", default_value = "standard")]
    layout: LayoutArg,
    /// Weigh errors by an importance file from `moelten imatrix`
    #[arg(long, value_name = "FILE", requires = "chosen")]
    imatrix: Option<PathBuf>,
    /// Allow a source that is already quantised; the errors add up
    #[arg(long)]
    allow_requantize: bool,
    /// Use another type of about the same size for rows that do not divide into blocks
    #[arg(long)]
    allow_fallback: bool,
    /// Print sizes, memory, disk space, time and what `fit` will report; write nothing. Exit code 7 if the
    /// disk is too small
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run, list every tensor with its type and size
    #[arg(short, long)]
    verbose: bool,
    /// Replace an existing file without asking
    #[arg(long)]
    force: bool,
    /// Worker threads [default: all CPUs]
    #[arg(long, value_name = "N", env = "MOELTEN_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Memory the process may own, like 200M [default: enough to be fast, below 256M]
    #[arg(long, value_name = "SIZE", value_parser = open::size)]
    ram: Option<u64>,
    /// Print JSON objects to stdout, one per line [default: if stdout is not a terminal]
    #[arg(long)]
    pub json: bool,
}

/// `--type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind(&'static Mixture);

impl clap::ValueEnum for Kind {
    fn value_variants<'a>() -> &'a [Self] {
        static ALL: [Kind; MIXTURES.len()] = {
            let mut all = [Kind(&MIXTURES[0]); MIXTURES.len()];
            let mut i = 0;
            while i < MIXTURES.len() {
                all[i] = Kind(&MIXTURES[i]);
                i += 1;
            }
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.name).help(self.0.about))
    }
}

/// `--tensor-type`.
fn override_of(text: &str) -> Result<Override, TypeError> {
    Override::parse(text)
}

/// How experts are stored in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LayoutArg {
    /// Readable by every program that supports GGUF
    Standard,
    /// Each expert in one piece, for models larger than RAM; only moelten reads it, and `--layout standard`
    /// converts it back
    Packed,
}

impl From<LayoutArg> for FileLayout {
    fn from(arg: LayoutArg) -> Self {
        match arg {
            LayoutArg::Standard => Self::Standard,
            LayoutArg::Packed => Self::Packed,
        }
    }
}

impl QuantizeArgs {
    /// The models that are named, for names that are not paths.
    pub fn models(&mut self) -> Vec<&mut PathBuf> {
        vec![&mut self.source]
    }
}

/// Runs the command.
pub fn run(mut args: QuantizeArgs) -> anyhow::Result<()> {
    let model = open::load(Some(&args.source))?;
    open::mention(&model.notices);
    warn_of_refusal(&args.source, &model);
    let out = Output { json: args.json || !io::stdout().is_terminal(), notes: Notes::detect() };
    if args.types {
        return out
            .types(&waiting::during("planning every type", None, || TypeTable::new(&model, args.rules()))?);
    }
    args.choose_type(&model)?;
    let types = args.types(&model)?;
    let choose = types.as_ref().map(|types| |role: Role| types.format(role));
    let wanted = choose.as_ref().map_or(Types::Kept, |choose| Types::Chosen(choose));
    let importance = args.imatrix.as_deref().map(|path| importance(path, &model)).transpose()?;
    let mut conversion = Conversion::plan_as(&model, args.layout.into(), wanted)?;
    if let Some(importance) = &importance {
        conversion.weigh(importance);
        args.imatrix.iter().for_each(|path| conversion.protect(path));
    }
    if let Some(Kind(mixture)) = args.kind {
        conversion.describe(&Description {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            options: args.options(),
            file_type: Some(mixture.file_type),
            more: args
                .imatrix
                .as_deref()
                .zip(importance.as_ref())
                .map_or_else(Vec::new, |(path, file)| importance_keys(path, file)),
        });
    }
    open::mention(&conversion.notices);
    for fallback in types.iter().flat_map(|types| &types.fallbacks) {
        Notes::detect().line(Tone::Warning, &format!("warning: {fallback}"));
    }
    let threads = args.threads.map_or(Work::default().threads, usize::from);
    let work = Work { threads, memory: args.spare(threads)? };
    conversion.check_target(args.target())?;
    if args.dry_run {
        let memory = memory::owned_bytes().unwrap_or(0) + Conversion::memory(work);
        let plan = QuantizePlan::new(&model, &conversion, args.target(), work.threads, memory)?;
        out.plan(&plan, args.verbose.then_some(&conversion))?;
        return check_room(args.target(), plan.size());
    }
    check_room(args.target(), conversion.layout(args.target())?.file_len())?;
    args.may_replace(out.notes)?;
    if !write(&conversion, args.target(), work, out)? {
        let partial = args.target().display();
        if let Some(left) = leftover(args.target()) {
            let line = format!(
                "stopped; rerun the same command to resume, or delete {partial}.partial ({}) and its journal",
                bytes(left)
            );
            out.notes.line(Tone::Plain, &line);
        }
        return Err(CommandError::Stopped.into());
    }
    let about = args.about();
    let size = std::fs::metadata(args.target())?.len();
    let line = format!("{}: {}, {} ({about})", args.target().display(), model.spec.name, bytes(size));
    out.notes.line(Tone::Plain, &line);
    out.event(&json!({ "event": "done", "target": args.target().display().to_string(), "bytes": size }))
}

/// Says it when `run` would refuse the model: other programs may still want the file.
fn warn_of_refusal(source: &Path, model: &LoadedModel) {
    let checked = match &model.spec.image {
        Some(image) => model.preparation(image).map(drop).map_err(anyhow::Error::from),
        None => Headers::check(model, &open::name(Some(source))),
    };
    if let Err(error) = checked {
        let line = format!("warning: `moelten run` refuses this model: {}", exit::report(&error).text);
        Notes::detect().line(Tone::Warning, &line);
    }
    give_back();
}

/// Opens an importance file for this model, and warns of its gaps.
fn importance(path: &Path, model: &LoadedModel) -> anyhow::Result<ImportanceFile> {
    let (file, notes) = (ImportanceFile::open(path)?, Notes::detect());
    open::mention(file.notices());
    let (gaps, name) = (file.check(&model.spec)?, path.display());
    if let Some(first) = gaps.matrices.first() {
        let count = gaps.matrices.len();
        let line = format!(
            "{name} has no importance for {count} matrices, such as {first}: all their columns get equal weight"
        );
        notes.line(Tone::Warning, &line);
    }
    if let Some((first, experts)) = gaps.experts.first() {
        let all: usize = gaps.experts.iter().map(|(_, experts)| experts.len()).sum();
        let line = format!(
            "{name} has no importance for {all} expert matrices, such as {first} of expert {}: they get the mean of their \
             layer's other experts",
            experts.first().copied().unwrap_or(0)
        );
        notes.line(Tone::Warning, &line);
    }
    Ok(file)
}

/// Metadata about an importance file, under llama.cpp's keys.
fn importance_keys(path: &Path, file: &ImportanceFile) -> Vec<(String, Value)> {
    let about = file.provenance();
    let key = |name: &str, value| (format!("quantize.imatrix.{name}"), value);
    let mut keys = vec![
        key("file", Value::Str(open::name(Some(path)))),
        key("dataset", Value::Str(about.datasets.join(", "))),
    ];
    keys.extend(u32::try_from(about.chunks).ok().map(|chunks| key("chunks_count", Value::U32(chunks))));
    keys
}

/// Writes the target and shows progress; `false` if it was stopped.
fn write(conversion: &Conversion<'_>, target: &Path, work: Work, out: Output) -> anyhow::Result<bool> {
    let polling = Polling::begin();
    let (mut started, mut last) = (Instant::now(), Instant::now());
    let mut progress = Progress::new("writing", Unit::Bytes, conversion.bytes());
    let mut before = 0;
    let result = conversion.write_with(target, work, &mut |event| {
        match event {
            Event::Checked { bytes } => progress.set(bytes),
            Event::Resumed { bytes: done } => {
                (before, started) = (done, Instant::now());
                progress.begin_at(done);
                progress.say(&format!("resuming at {} of {}", bytes(done), bytes(conversion.bytes())));
            }
            Event::Replaced { bytes: old, foreign } => {
                let why = if foreign {
                    "of another source or with other options"
                } else {
                    "without a complete tensor"
                };
                progress.say(&format!("replacing an unfinished file {why} ({})", bytes(old)));
            }
            Event::Written { bytes: done, total } => {
                progress.set(done);
                if last.elapsed() >= EVENT_EVERY {
                    last = Instant::now();
                    let rate = (done - before) as f64 / started.elapsed().as_secs_f64().max(1e-3);
                    let left = (total - done) as f64 / rate.max(1.0);
                    // Progress events are optional: ignore a closed pipe.
                    let _ = out.event(&json!({
                        "event": "progress",
                        "bytes": done,
                        "total_bytes": total,
                        "bytes_per_s": rate.round(),
                        "seconds_left": left.round(),
                    }));
                }
            }
        }
        !polling.stop().is_cancelled()
    });
    drop(progress);
    if let (Err(_), Some(left)) = (&result, leftover(target)) {
        let line = format!(
            "{}.partial ({}) is kept; rerun the same command to resume once the problem is solved",
            target.display(),
            bytes(left)
        );
        out.notes.line(Tone::Plain, &line);
    }
    Ok(result?)
}

/// Bytes of the partial file, if there is one.
fn leftover(target: &Path) -> Option<u64> {
    let mut partial = target.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::metadata(partial).ok().map(|found| found.len())
}

/// Refuses a target larger than the free disk space.
fn check_room(target: &Path, size: u64) -> anyhow::Result<()> {
    let Some(free) = free_bytes(target) else { return Ok(()) };
    let there = leftover(target).unwrap_or(0);
    if free.saturating_add(there) >= size {
        return Ok(());
    }
    Err(CommandError::Room {
        target: target.display().to_string(),
        size: bytes(size),
        missing: bytes(size - free - there),
        free: bytes(free),
    }
    .into())
}

/// Time between two progress events.
const EVENT_EVERY: Duration = Duration::from_secs(1);

/// Destination of messages and events.
#[derive(Debug, Clone, Copy)]
struct Output {
    json: bool,
    notes: Notes,
}

impl Output {
    /// Prints a plan; of `tensors`, every tensor.
    fn plan(self, plan: &QuantizePlan, tensors: Option<&Conversion<'_>>) -> anyhow::Result<()> {
        if self.json {
            let mut object = plan.json();
            if let Some(conversion) = tensors {
                object["tensors"] = QuantizePlan::tensors_json(conversion);
            }
            return self.event(&object);
        }
        let tensors =
            tensors.map_or_else(String::new, |conversion| format!("\n{}", QuantizePlan::tensors(conversion)));
        Ok(page::print(&(plan.text() + &tensors))?)
    }

    fn types(self, table: &TypeTable) -> anyhow::Result<()> {
        if self.json { self.event(&table.json()) } else { Ok(page::print(&table.text())?) }
    }

    fn event(self, event: &serde_json::Value) -> anyhow::Result<()> {
        if self.json {
            output::event(event)?;
        }
        Ok(())
    }
}

impl QuantizeArgs {
    /// The file to write; only `--types` has none, and writes none.
    fn target(&self) -> &Path {
        self.target.as_deref().unwrap_or(Path::new("model.gguf"))
    }

    fn rules(&self) -> Rules<'_> {
        let (layout, overrides) = (self.layout.into(), self.tensor_type.as_slice());
        Rules { layout, overrides, allow_fallback: self.allow_fallback }
    }

    /// Sets the type that --target-size or --for-ram leads to, and says which.
    fn choose_type(&mut self, model: &LoadedModel) -> anyhow::Result<()> {
        let (goal, words) = match (self.target_size, self.for_ram) {
            (Some(most), _) => (Goal::File(most), format!("--target-size {}", bytes(most))),
            (None, Some(budget)) => (Goal::Ram(budget), format!("--for-ram {}", bytes(budget))),
            (None, None) => return Ok(()),
        };
        let Choice { mixture, bytes: size } = type_choice::choose(model, self.target(), goal, self.rules())?;
        self.kind = Some(Kind(mixture));
        let line = format!("{words}: {}, a file of {}; {}", mixture.name, bytes(size), mixture.about);
        Notes::detect().line(Tone::Plain, &line);
        Ok(())
    }

    /// Asks before a file is replaced, unless --force was given. Without a terminal nothing can be asked.
    fn may_replace(&self, notes: Notes) -> anyhow::Result<()> {
        let Ok(old) = std::fs::metadata(self.target()) else { return Ok(()) };
        let (name, size) = (self.target().display(), bytes(old.len()));
        if self.force {
            notes.line(Tone::Warning, &format!("replacing {name} ({size})"));
            return Ok(());
        }
        if !(io::stdin().is_terminal() && notes.terminal) {
            let problem = format!("{name} exists ({size}); --force replaces it");
            return Err(CommandError::Usage(problem).into());
        }
        write!(io::stderr(), "{}", moelten_tui::filter::clean(&format!("Replace {name} ({size})? [y/N] ")))?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(CommandError::Usage(format!("{name} is unchanged")).into()),
        }
    }

    /// The types of all matrices; `None` if they are unchanged.
    fn types(&self, model: &LoadedModel) -> anyhow::Result<Option<TypePlan>> {
        let usage = |problem: String| anyhow::Error::from(CommandError::Usage(problem));
        let Some(Kind(mixture)) = self.kind else {
            if matches!(model.source, Source::Hf { .. }) {
                let names = MIXTURES.map(|mixture| mixture.name).join(", ");
                let problem =
                    format!("a model folder needs a --type: {names}; --types shows what each makes of it");
                return Err(usage(problem));
            }
            return Ok(None);
        };
        let types = TypePlan::new(model, mixture, &self.tensor_type, self.allow_fallback);
        let types = types.map_err(|error| usage(error.to_string()))?;
        let blocks = |&(role, matrix): &(Role, moelten_loader::tensors::bank::MatrixRef)| {
            let after = types.format(role);
            !matrix.format.is_float() && !after.is_float() && after != matrix.format
        };
        let quantised = matrices(model).into_iter().find(|found| blocks(found) && !self.allow_requantize);
        match quantised {
            None => Ok(Some(types)),
            Some((role, matrix)) => Err(usage(format!(
                "the source is already quantised ({role} is {}); use the original weights, or --allow-requantize to accept \
                 the added error",
                matrix.format
            ))),
        }
    }

    /// Bytes of --ram that the process does not own yet.
    fn spare(&self, threads: usize) -> anyhow::Result<Option<u64>> {
        let Some(ram) = self.ram else { return Ok(None) };
        let owned = memory::owned_bytes().unwrap_or(0);
        let least = owned + Conversion::memory(Work { threads, memory: Some(0) });
        if ram < least {
            let problem = format!(
                "--ram {} is too small: {threads} threads need at least {}; fewer --threads need less",
                bytes(ram),
                bytes(least)
            );
            return Err(CommandError::Memory(problem).into());
        }
        Ok(Some(ram - owned))
    }

    /// The options that affect the output, for its metadata.
    fn options(&self) -> String {
        let mut words = Vec::new();
        words.extend(self.kind.map(|Kind(mixture)| format!("--type {}", mixture.name)));
        words.extend(self.tensor_type.iter().map(|rule| format!("--tensor-type {rule}")));
        words.extend(self.imatrix.as_deref().map(|path| format!("--imatrix {}", open::name(Some(path)))));
        words.extend(self.allow_requantize.then(|| "--allow-requantize".to_owned()));
        words.extend(self.allow_fallback.then(|| "--allow-fallback".to_owned()));
        words.join(" ")
    }

    fn about(&self) -> String {
        let types = self.kind.map_or("types unchanged", |Kind(mixture)| mixture.name);
        match self.layout {
            LayoutArg::Standard => types.to_owned(),
            LayoutArg::Packed => format!("packed, {types}"),
        }
    }
}
