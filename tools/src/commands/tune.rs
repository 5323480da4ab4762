//! `moelten tune`: which number of threads and which prefetching are fastest for a model on this machine,
//! measured inside the memory budget. The result is remembered for `chat` and `run`. It must not know how it
//! is used.

use std::path::PathBuf;
use std::time::Instant;

use moelten_engine::Sequence;
use moelten_engine::plan::SequenceOptions;
use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::runtime::topology::{Pin, ThreadPlan};
use moelten_loader::io::give_back;
use moelten_loader::text::TextSide;
use moelten_tui::terminal::{Notes, Tone};
use serde_json::json;

use crate::exit::CommandError;
use crate::open::tuned::{self, Tuned};
use crate::open::{self, PrefetchArg, SessionArgs};
use crate::output;
use crate::report::memory_words::streams;
use crate::report::page;
use crate::report::progress::{Progress, Unit};
use crate::report::windows;
use crate::signals::Polling;

/// Tokens decoded without timing: the cache of a streamed model is in its steady state after them.
const WARM_UP: usize = 64;
/// How much faster than the default something must be to be remembered: less is noise.
const WORTH: f64 = 1.03;

/// Find the fastest threads and prefetching for a model, and remember them
///
/// Decodes the same text with each setting, inside --ram. `moelten chat` and `moelten run` use the result
/// where --threads and --prefetch are not given.
#[derive(Debug, clap::Args)]
pub struct TuneArgs {
    /// GGUF file, model folder, or name such as user/repo:Q4_K_M [default: `model` of `moelten config`, or
    /// the built-in model]
    pub model: Option<PathBuf>,
    /// Tokens to decode with each setting
    #[arg(long, value_name = "N", default_value = "64", value_parser = open::tokens)]
    tokens: usize,
    /// Print the result and remember nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    session: SessionArgs,
}

/// A setting and its speed.
struct Trial {
    tuned: Tuned,
    tokens_per_s: f64,
}

impl TuneArgs {
    /// The models that are named, for names that are not paths.
    pub fn models(&mut self) -> Vec<&mut PathBuf> {
        self.model.iter_mut().collect()
    }
}

/// Runs the command.
pub fn run(args: TuneArgs) -> anyhow::Result<()> {
    let polling = Polling::begin();
    let (settings, ids, usual) = {
        let loaded = open::load(args.model.as_deref())?;
        open::has_text(&loaded, &open::name(args.model.as_deref()))?;
        let TextSide { tokenizer, .. } = loaded.text()?;
        let ids = windows::sample_ids(&tokenizer, WARM_UP + args.tokens)?;
        let streams = streams(&args.session.plan(&loaded)?);
        let usual = ThreadPlan::here(args.session.compute().threads.map(usize::from), Pin::Auto)?.threads;
        (settings(usual, streams), ids, usual)
    };
    let mut progress = Progress::new("measuring", Unit::Tokens, (settings.len() * ids.len()) as u64);
    let mut trials = Vec::new();
    for (index, tuned) in settings.into_iter().enumerate() {
        let tokens_per_s = speed(&args, &tuned, &ids, polling.stop())?;
        progress.set(((index + 1) * ids.len()) as u64);
        trials.push(Trial { tuned, tokens_per_s });
        give_back();
    }
    drop(progress);
    let best = best(&trials, usual).ok_or(CommandError::Stopped)?;
    if !args.dry_run {
        tuned::remember(args.model.as_deref(), &trials[best].tuned)?;
    }
    report(&args, &trials, best)
}

/// The settings to try: the usual one first.
fn settings(usual: usize, streams: bool) -> Vec<Tuned> {
    let all = std::thread::available_parallelism().map_or(usual, usize::from);
    let mut threads = vec![usual];
    for more in [usual.div_ceil(2), usual.saturating_sub(1), all] {
        if more > 0 && !threads.contains(&more) {
            threads.push(more);
        }
    }
    let prefetch: &[PrefetchArg] =
        if streams { &[PrefetchArg::Auto, PrefetchArg::Off, PrefetchArg::On] } else { &[PrefetchArg::Auto] };
    let with = |threads: usize| {
        prefetch
            .iter()
            .filter_map(move |&prefetch| Some(Tuned { threads: u16::try_from(threads).ok()?, prefetch }))
    };
    threads.into_iter().flat_map(with).collect()
}

/// Tokens per second with a setting, from an empty cache and after the warm-up.
fn speed(args: &TuneArgs, tuned: &Tuned, ids: &[u32], stop: &Cancel) -> anyhow::Result<f64> {
    let session = args.session.with(tuned);
    let compute = session.compute();
    let loaded = open::load(args.model.as_deref())?;
    let options = SequenceOptions { context: Some(ids.len()), kv: compute.kv() };
    let model = compute.model(&compute.runtime()?, loaded.spec, loaded.tensors, options, 0)?;
    let mut sequence = Sequence::new(model, options)?;
    let (warm_up, timed) = ids.split_at(ids.len() - args.tokens.min(ids.len()));
    for &id in warm_up {
        sequence.decode(id, stop, &mut ())?;
    }
    let started = Instant::now();
    for &id in timed {
        sequence.decode(id, stop, &mut ())?;
    }
    Ok(timed.len() as f64 / started.elapsed().as_secs_f64())
}

/// Index of the fastest trial, or of the usual setting if nothing is visibly faster.
fn best(trials: &[Trial], usual: usize) -> Option<usize> {
    let fastest =
        (0..trials.len()).max_by(|&a, &b| trials[a].tokens_per_s.total_cmp(&trials[b].tokens_per_s))?;
    let is_usual = |trial: &Trial| {
        usize::from(trial.tuned.threads) == usual && trial.tuned.prefetch == PrefetchArg::Auto
    };
    let default = trials.iter().position(is_usual)?;
    let worth = trials[fastest].tokens_per_s > WORTH * trials[default].tokens_per_s;
    Some(if worth { fastest } else { default })
}

fn report(args: &TuneArgs, trials: &[Trial], best: usize) -> anyhow::Result<()> {
    if args.json {
        let row = |trial: &Trial| {
            json!({
                "threads": trial.tuned.threads,
                "prefetch": trial.tuned.prefetch.name(),
                "tokens_per_s": trial.tokens_per_s,
            })
        };
        let all: Vec<_> = trials.iter().map(row).collect();
        let object = json!({ "trials": all, "best": row(&trials[best]), "remembered": !args.dry_run });
        return Ok(output::answer(&object)?);
    }
    let mut out = format!("  {:>7}  {:<8}  {:>10}\n", "threads", "prefetch", "tokens/s");
    for (index, Trial { tuned, tokens_per_s }) in trials.iter().enumerate() {
        let mark = if index == best { "*" } else { " " };
        let name = tuned.prefetch.name();
        out.push_str(&format!("{mark} {:>7}  {name:<8}  {tokens_per_s:>10.2}\n", tuned.threads));
    }
    page::print(&out)?;
    let Tuned { threads, prefetch } = trials[best].tuned;
    let what = format!("--threads {threads} --prefetch {}", prefetch.name());
    let line = match args.dry_run {
        true => format!("best: {what}"),
        false => format!("best: {what}; `chat` and `run` use it for this model from now on"),
    };
    Notes::detect().line(Tone::Plain, &line);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(threads: u16, prefetch: PrefetchArg, tokens_per_s: f64) -> Trial {
        Trial { tuned: Tuned { threads, prefetch }, tokens_per_s }
    }

    #[test]
    fn what_is_hardly_faster_is_not_remembered() {
        let with = |other: f64| {
            let trials = [trial(4, PrefetchArg::Auto, 10.0), trial(2, PrefetchArg::Off, other)];
            best(&trials, 4)
        };
        assert_eq!([with(9.0), with(10.2), with(10.4)], [Some(0), Some(0), Some(1)]);
        assert_eq!(best(&[], 4), None);
    }

    #[test]
    fn the_usual_setting_is_tried_first_and_none_twice() {
        let all = settings(4, true);
        assert_eq!((all[0].threads, all[0].prefetch), (4, PrefetchArg::Auto));
        for (index, tuned) in all.iter().enumerate() {
            assert!(tuned.threads > 0 && !all[..index].contains(tuned), "{all:?}");
        }
        assert!(settings(1, false).iter().all(|tuned| tuned.prefetch == PrefetchArg::Auto));
    }
}
