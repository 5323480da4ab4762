//! `moelten verify`: checks a file's checksums and weights, and measures the error against the original. Exit
//! code 9 if something is wrong. It must not know how files are read.

use std::path::PathBuf;

use moelten_loader::convert::verify::{Damage, Report, verify};
use serde_json::{Value, json};

use crate::exit::CommandError;
use crate::open;
use crate::output;
use crate::report::page;
use crate::report::progress::{Progress, Unit, bytes};
use crate::signals::Polling;

/// Check a model file: checksums, finite weights, error against the original
///
/// Files written by `moelten quantize` have a checksum for each tensor. Every weight must be a finite number.
/// With --source, the error against the original weights is reported too.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// GGUF file, model folder, or name such as user/repo:Q4_K_M
    model: PathBuf,
    /// The original that it was made from: a model folder, GGUF file or name
    #[arg(long, value_name = "MODEL")]
    source: Option<PathBuf>,
    /// Worker threads [default: all CPUs]
    #[arg(long, value_name = "N", env = "MOELTEN_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl VerifyArgs {
    /// The models that are named, for names that are not paths.
    pub fn models(&mut self) -> Vec<&mut PathBuf> {
        vec![&mut self.model]
    }
}

/// Runs the command.
pub fn run(args: VerifyArgs) -> anyhow::Result<()> {
    let model = open::load(Some(&args.model))?;
    open::mention(&model.notices);
    let source = args.source.as_deref().map(|source| open::load(Some(source))).transpose()?;
    let threads =
        args.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
    let polling = Polling::begin();
    let mut progress = None;
    let report = verify(&model, source.as_ref(), threads, &mut |done, total| {
        progress.get_or_insert_with(|| Progress::new("reading", Unit::Bytes, total)).set(done);
        !polling.stop().is_cancelled()
    });
    drop(progress);
    let Some(report) = report? else { return Err(CommandError::Stopped.into()) };
    if args.json {
        output::answer(&to_json(&report))?;
    } else {
        page::print(&text(&report))?;
    }
    match report.damage.len() {
        0 => Ok(()),
        1 => {
            Err(CommandError::Damaged(format!("{}: {}", args.model.display(), words(&report.damage[0])))
                .into())
        }
        n => {
            let first = words(&report.damage[0]);
            Err(CommandError::Damaged(format!("{}: {n} problems, first: {first}", args.model.display()))
                .into())
        }
    }
}

fn words(damage: &Damage) -> String {
    match damage {
        Damage::Checksum { tensor } => format!("{tensor}: checksum mismatch"),
        Damage::Missing { tensor } => format!("{tensor}: missing"),
        Damage::NotFinite { tensor, expert: None, row } => {
            format!("{tensor}: a weight in row {row} is not a finite number")
        }
        Damage::NotFinite { tensor, expert: Some(expert), row } => {
            format!("{tensor}: a weight in row {row} of expert {expert} is not a finite number")
        }
        Damage::Source { tensor } => format!("{tensor}: not made from this source"),
    }
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    let compared = report.classes.values().any(|weights| weights.distance.is_some());
    out.push_str("  class           type          weights         size");
    out.push_str(if compared { "  relative error      largest\n" } else { "\n" });
    for ((class, kind), weights) in &report.classes {
        let (name, size) = (class.name(), bytes(weights.bytes));
        out.push_str(&format!("  {name:<14}  {kind:<7} {:>13} {size:>12}", weights.count));
        if let Some(distance) = weights.distance {
            out.push_str(&format!(" {:>14.3} % {:>12.2e}", 100.0 * distance.relative(), distance.largest));
        }
        out.push('\n');
    }
    let checksums = match (report.checked, report.unchecked) {
        (0, _) => "none in the file; only weights were checked".to_owned(),
        (n, 0) => format!("{n} tensors, all with checksums"),
        (n, others) => format!("{n} tensors with checksums, {others} without"),
    };
    out.push_str(&format!("\n  checksums       {checksums}\n"));
    if report.from_source > 0 {
        out.push_str(&format!("  source          {} tensors made from it\n", report.from_source));
    }
    for damage in &report.damage {
        out.push_str(&format!("  DAMAGED         {}\n", words(damage)));
    }
    if report.damage.is_empty() {
        out.push_str("  sound           yes\n");
    }
    out
}

fn to_json(report: &Report) -> Value {
    let classes: Vec<Value> = report
        .classes
        .iter()
        .map(|((class, kind), weights)| {
            json!({
                "class": class.name(),
                "type": kind,
                "weights": weights.count,
                "bytes": weights.bytes,
                "relative_error": weights.distance.map(|distance| distance.relative()),
                "largest_error": weights.distance.map(|distance| distance.largest),
            })
        })
        .collect();
    json!({
        "sound": report.damage.is_empty(),
        "checked_tensors": report.checked,
        "unchecked_tensors": report.unchecked,
        "tensors_from_source": report.from_source,
        "damage": report.damage.iter().map(words).collect::<Vec<_>>(),
        "classes": classes,
    })
}
