//! `moelten replay`: simulates caches of different sizes and policies on a recorded run, as a table with a
//! plot or as JSON. The names in the JSON object are stable: other programs read them.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use moelten_engine::Policy;
use moelten_engine::offline::replay::{Outcome, Replacement, Replay, Tokens, slots_in, spread};
use moelten_engine::offline::tiers::{self, TierUses};
use moelten_engine::offline::trace::{Trace, TraceHeader};
use moelten_engine::runtime::memory;
use moelten_tui::filter;
use moelten_tui::terminal::{self, Notes};
use serde_json::{Value, json};

use crate::exit::CommandError;
use crate::open;
use crate::output;
use crate::report::plot;
use crate::report::progress::bytes;

/// Compare cache policies and sizes on a routing trace from `moelten bench --trace`
///
/// Shows the hit rate and the bytes read from disk for caches that hold a part of all experts. Belady's
/// policy knows the future: no policy does better.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// Trace file, recorded with `moelten bench --trace`
    trace: PathBuf,
    /// Shares of the experts that are cached, e.g. 25%,50%
    #[arg(long, value_name = "SHARES", value_delimiter = ',', default_value = "25%,50%,75%", value_parser = share)]
    budget: Vec<f64>,
    /// Cache sizes instead of shares, e.g. 512M,4G
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = open::size, conflicts_with = "budget")]
    ram: Vec<u64>,
    /// Sizes of a GPU's memory for experts beside each cache, e.g. 2G,4G; needs a trace with decoded tokens
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = open::size)]
    vram: Vec<u64>,
    /// Decoded tokens that only warm up the caches and are not counted
    #[arg(long, value_name = "N", default_value = "0")]
    skip: u64,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The replacement that moelten uses.
const USED: Replacement = Replacement::Policy(Policy::Aged);
/// Number of steps of the curves in the JSON object.
const CURVE_STEPS: u64 = 20;

/// Bytes of memory for each byte of a trace: its choices, and when each expert comes next.
const MEMORY_PER_BYTE: u64 = 8;

/// Refuses a trace that takes more than three quarters of the free memory.
fn room_for(trace: &Path) -> anyhow::Result<()> {
    let len = std::fs::metadata(trace).map_or(0, |found| found.len());
    let (needs, free) = (len.saturating_mul(MEMORY_PER_BYTE), memory::available_bytes().unwrap_or(u64::MAX));
    if needs > free / 4 * 3 {
        return Err(CommandError::Memory(format!(
            "the trace {} of {} takes about {} of memory, and {} are free; record a shorter one, or close other programs",
            trace.display(),
            bytes(len),
            bytes(needs),
            bytes(free)
        ))
        .into());
    }
    Ok(())
}

/// Everything that is printed.
struct Report {
    header: TraceHeader,
    tokens: Tokens,
    replays: Vec<(Replacement, Replay)>,
    /// Cache sizes in slots, over all layers.
    budgets: Vec<u64>,
    /// Slots in RAM, slots in VRAM, and what became of the uses.
    tiers: Vec<(u64, u64, TierUses)>,
}

/// Runs the command.
pub fn run(args: ReplayArgs) -> anyhow::Result<()> {
    room_for(&args.trace)?;
    let trace = Trace::open(&args.trace)?;
    let (header, tokens) = (trace.header().clone(), Tokens::of(&trace, args.skip));
    if tokens == Tokens::default() {
        let problem = format!("{} has no tokens to count", args.trace.display());
        return Err(CommandError::Usage(problem).into());
    }
    let of_shares = args.budget.iter().map(|share| (share * header.experts() as f64).round() as u64);
    let budgets: Vec<u64> = if args.ram.is_empty() {
        of_shares.collect()
    } else {
        args.ram.iter().map(|&bytes| slots_in(&header, bytes)).collect()
    };
    let replays =
        Replacement::ALL.into_iter().map(|policy| (policy, Replay::run(&trace, policy, args.skip))).collect();
    let sizes = args.vram.iter().map(|&bytes| slots_in(&header, bytes));
    let pairs = sizes.flat_map(|vram| budgets.iter().map(move |&ram| (ram, vram)));
    let tiers = pairs.map(|(ram, vram)| {
        let uses = tiers::run(&trace, &spread(&header, ram), &spread(&header, vram), args.skip);
        (ram, vram, uses)
    });
    let tiers = tiers.collect();
    let report = Report { header, tokens, replays, budgets, tiers };
    if args.json {
        return Ok(output::answer(&report.json())?);
    }
    let mut stdout = io::stdout().lock();
    {
        // The header is already filtered; the plot may have colours.
        stdout.write_all(report.table()?.as_bytes())?;
        let coloured = terminal::stdout_styled();
        let columns = Notes::detect().columns();
        stdout.write_all(format!("\n{}", report.drawing(columns, coloured)).as_bytes())?;
    }
    Ok(stdout.flush()?)
}

/// A percentage with or without `%`, as a share of 0 to 1.
fn share(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>();
    let percent = percent.ok().filter(|percent| (0.0..=100.0).contains(percent));
    percent.map(|percent| percent / 100.0).ok_or_else(|| "not a percentage like 25%".to_owned())
}

/// The letter that draws a policy without colours.
fn mark(policy: Replacement) -> char {
    match policy {
        Replacement::Policy(Policy::Lru) => 'R',
        Replacement::Policy(Policy::Lfu) => 'F',
        Replacement::Policy(Policy::Aged) => 'A',
        Replacement::Belady => 'B',
    }
}

impl Report {
    /// Hit rate of decode, or of prefill for a trace without decode.
    fn hit_rate(&self, outcome: Outcome) -> f64 {
        let uses = if self.tokens.decode > 0 { outcome.decode } else { outcome.prefill };
        uses.hit_rate().unwrap_or(0.0)
    }

    /// Bytes read per decoded token, or per prompt token for a trace without decode.
    fn bytes_per_token(&self, outcome: Outcome) -> f64 {
        let Tokens { prefill, decode } = self.tokens;
        match decode {
            0 => outcome.prefill.bytes_read as f64 / prefill as f64,
            _ => outcome.decode.bytes_read as f64 / decode as f64,
        }
    }

    fn of_experts(&self, slots: u64) -> f64 {
        slots as f64 / self.header.experts().max(1) as f64
    }

    /// Bytes of this many slots.
    fn bytes_in(&self, slots: u64) -> u64 {
        let slots = spread(&self.header, slots);
        let bytes = self.header.banks.iter().zip(slots);
        bytes.fold(0, |sum: u64, (layer, slots)| {
            sum.saturating_add(layer.expert_bytes.saturating_mul(slots.into()))
        })
    }

    /// The outcome of each replacement with this many slots, and the best hit rate.
    fn outcomes(&self, slots: u64) -> (Vec<(Replacement, Outcome)>, f64) {
        let slots = spread(&self.header, slots);
        let outcomes: Vec<_> =
            self.replays.iter().map(|(policy, replay)| (*policy, replay.with_slots(&slots))).collect();
        let best = outcomes.iter().find(|(policy, _)| *policy == Replacement::Belady);
        let best = best.map_or(0.0, |(_, outcome)| self.hit_rate(*outcome));
        (outcomes, best)
    }

    fn table(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        let layers: Vec<_> = self.header.banks.iter().filter(|bank| bank.experts > 0).collect();
        let range = |of: &dyn Fn(usize) -> u64, show: &dyn Fn(u64) -> String| {
            let all = (0..layers.len()).map(of);
            match (all.clone().min(), all.max()) {
                (Some(min), Some(max)) if min < max => format!("{} to {}", show(min), show(max)),
                (_, max) => show(max.unwrap_or(0)),
            }
        };
        let experts = range(&|layer| layers[layer].experts.into(), &|experts| experts.to_string());
        let size = range(&|layer| layers[layer].expert_bytes, &bytes);
        writeln!(
            out,
            "{}: {} layers with {experts} experts of {size}; {} prompt tokens, {} decoded tokens\n",
            filter::clean(&self.header.model),
            layers.len(),
            self.tokens.prefill,
            self.tokens.decode
        )?;
        let column = if self.tokens.decode > 0 { "decode hits" } else { "prompt hits" };
        writeln!(out, "{:<28}{:<9}{column:>11}{:>16}{:>16}", "budget", "policy", "read/token", "to Belady")?;
        for &slots in &self.budgets {
            let share = 100.0 * self.of_experts(slots);
            let mut budget = format!("{share:.0} %, {slots} slots, {}", bytes(self.bytes_in(slots)));
            let (outcomes, best) = self.outcomes(slots);
            for (policy, outcome) in outcomes {
                let rate = self.hit_rate(outcome);
                let name = format!("{}{}", policy.name(), if policy == USED { " *" } else { "" });
                let read = bytes(self.bytes_per_token(outcome) as u64);
                let gap = match policy {
                    Replacement::Belady => String::new(),
                    Replacement::Policy(_) => format!("{:>9.2} points", 100.0 * (best - rate)),
                };
                let line = format!("{budget:<28}{name:<9}{:>9.2} %{read:>16}{gap:>16}", 100.0 * rate);
                writeln!(out, "{}", line.trim_end())?;
                budget.clear();
            }
        }
        writeln!(out, "* used by moelten")?;
        self.tiers_table(&mut out)?;
        Ok(out)
    }

    /// Decoded tokens with a GPU beside the cache.
    fn tiers_table(&self, out: &mut String) -> std::fmt::Result {
        if self.tiers.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "\n{:<12}{:<12}{:>10}{:>10}{:>16}{:>16}",
            "RAM", "VRAM", "in VRAM", "in RAM", "read/token", "copied/token"
        )?;
        for &(ram, vram, uses) in &self.tiers {
            let share = |part: u64| 100.0 * part as f64 / uses.uses.max(1) as f64;
            let tokens = self.tokens.decode.max(1);
            writeln!(
                out,
                "{:<12}{:<12}{:>8.2} %{:>8.2} %{:>16}{:>16.2}",
                bytes(self.bytes_in(ram)),
                bytes(self.bytes_in(vram)),
                share(uses.in_vram),
                share(uses.in_ram),
                bytes(uses.bytes_read / tokens),
                uses.uploads as f64 / tokens as f64,
            )?;
        }
        Ok(())
    }

    fn tiers_json(&self) -> Vec<Value> {
        let tokens = self.tokens.decode.max(1) as f64;
        let tier = |&(ram, vram, uses): &(u64, u64, TierUses)| {
            json!({
                "ram_slots": ram,
                "vram_slots": vram,
                "ram_bytes": self.bytes_in(ram),
                "vram_bytes": self.bytes_in(vram),
                "uses": uses.uses,
                "in_vram": uses.in_vram,
                "in_ram": uses.in_ram,
                "bytes_per_token": uses.bytes_read as f64 / tokens,
                "uploads_per_token": uses.uploads as f64 / tokens,
            })
        };
        self.tiers.iter().map(tier).collect()
    }

    fn drawing(&self, columns: usize, coloured: bool) -> String {
        let all = self.header.experts() as f64;
        // The bound first, then the policies: the one in use is drawn on top.
        let order = self.replays.iter().cycle().skip(self.replays.len() - 1).take(self.replays.len());
        let heights: Vec<_> = order
            .clone()
            .map(|(_, replay)| {
                move |place: f64| {
                    let slots = spread(&self.header, (place * all).round() as u64);
                    self.hit_rate(replay.with_slots(&slots))
                }
            })
            .collect();
        let lines = order.zip(&heights);
        let lines: Vec<_> = lines
            .map(|((policy, _), height)| plot::Line { name: policy.name(), mark: mark(*policy), height })
            .collect();
        format!("hit rate by share of cached experts\n{}", plot::draw(&lines, columns, coloured))
    }

    fn json(&self) -> Value {
        let budgets = self.budgets.iter().map(|&slots| {
            let (outcomes, best) = self.outcomes(slots);
            let policies = outcomes.iter().map(|&(policy, outcome)| {
                json!({
                    "policy": policy.name(),
                    "hit_rate_decode": outcome.decode.hit_rate(),
                    "hit_rate_prefill": outcome.prefill.hit_rate(),
                    "misses_decode": outcome.decode.misses(),
                    "misses_prefill": outcome.prefill.misses(),
                    "bytes_per_token": self.bytes_per_token(outcome),
                    "gap_to_belady": best - self.hit_rate(outcome),
                })
            });
            json!({
                "share": self.of_experts(slots),
                "slots": slots,
                "bytes": self.bytes_in(slots),
                "policies": policies.collect::<Vec<_>>(),
            })
        });
        let curves = self.replays.iter().map(|(policy, replay)| {
            let points = (0..=CURVE_STEPS).map(|step| {
                let slots = spread(&self.header, self.header.experts() * step / CURVE_STEPS);
                self.hit_rate(replay.with_slots(&slots))
            });
            (policy.name().to_owned(), points.collect::<Vec<_>>().into())
        });
        let mut object = json!({
            "model": self.header.model,
            "layers": self.header.banks.iter().filter(|bank| bank.experts > 0).count(),
            "experts": self.header.experts(),
            "expert_bytes": self.bytes_in(self.header.experts()),
            "tokens": { "prefill": self.tokens.prefill, "decode": self.tokens.decode },
            "used": USED.name(),
            "budgets": budgets.collect::<Vec<_>>(),
            "curve_step": 1.0 / CURVE_STEPS as f64,
            "curves": curves.collect::<serde_json::Map<_, _>>(),
        });
        if !self.tiers.is_empty() {
            object["tiers"] = self.tiers_json().into();
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percentages() {
        assert_eq!(
            [share("25%"), share("0"), share("12.5 %"), share("100%")],
            [Ok(0.25), Ok(0.0), Ok(0.125), Ok(1.0)]
        );
        for wrong in ["", "%", "-1%", "101%", "NaN", "inf%", "half"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
