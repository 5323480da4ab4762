//! `moelten verify`: whether a file is what was written, and how far its weights are from those it was made
//! from. Exit code 9 if something is wrong. It must not know how files are read.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use moelten_loader::convert::verify::{Damage, Report, verify};
use moelten_tui::filter;
use serde_json::{Value, json};

use crate::exit::CommandError;
use crate::open;
use crate::report::progress::{Progress, Unit, bytes};
use crate::signals::Polling;

/// Check a model file: its checksums, and every weight
///
/// Files that `moelten quantize` wrote have a checksum for each tensor. Every weight is looked at, whether it
/// is a number. With --source, also how far the weights are from those that the file was made from.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// GGUF file or model folder
    model: PathBuf,
    /// What it was made from: a model folder or GGUF file
    #[arg(long, value_name = "MODEL")]
    source: Option<PathBuf>,
    /// Worker threads [default: all CPUs]
    #[arg(long, value_name = "N", env = "MOELTEN_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
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
        !polling.stop().load(Ordering::Relaxed)
    });
    drop(progress);
    let Some(report) = report? else { return Err(CommandError::Stopped.into()) };
    let text = if args.json { format!("{}\n", to_json(&report)) } else { text(&report) };
    write!(io::stdout(), "{}", filter::clean(&text))?;
    match report.damage.len() {
        0 => Ok(()),
        1 => {
            Err(CommandError::Damaged(format!("{}: {}", args.model.display(), words(&report.damage[0])))
                .into())
        }
        n => {
            let first = words(&report.damage[0]);
            Err(CommandError::Damaged(format!("{}: {n} problems, the first: {first}", args.model.display()))
                .into())
        }
    }
}

fn words(damage: &Damage) -> String {
    match damage {
        Damage::Checksum { tensor } => format!("{tensor} is not what was written"),
        Damage::Missing { tensor } => format!("{tensor} was written and is not there"),
        Damage::NotFinite { tensor, expert: None, row } => {
            format!("{tensor} has a weight that is no number in row {row}")
        }
        Damage::NotFinite { tensor, expert: Some(expert), row } => {
            format!("{tensor} has a weight that is no number in row {row} of expert {expert}")
        }
        Damage::Source { tensor } => format!("{tensor} was made from something else than this source"),
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
        (0, _) => "the file has no checksums: only its weights were looked at".to_owned(),
        (n, 0) => format!("{n} tensors, all with checksums"),
        (n, others) => format!("{n} tensors with checksums, {others} without"),
    };
    out.push_str(&format!("\n  checksums       {checksums}\n"));
    if report.from_source > 0 {
        out.push_str(&format!("  source          {} tensors were made from it\n", report.from_source));
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
