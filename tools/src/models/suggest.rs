//! Which models of the catalogue run on this machine, how fast they likely are, and which of them are worth
//! offering. It must not know how they are shown, nor use the network.

use std::time::Duration;

use moelten_engine::READ_BYTES;
use moelten_engine::READ_DEPTH;
use moelten_engine::runtime::topology::ThreadPlan;
use moelten_hub::Hub;
use moelten_loader::io::probe::Pattern;
use moelten_tui::figures;

use super::catalogue::KnownModel;
use crate::bench::limits;
use crate::open::{SessionArgs, builtin};
use crate::report::earlier;
use crate::report::forecast::{Earlier, Forecast, Likely, Speeds};

/// Time to measure the disk, and the largest buffer to measure RAM.
const PROBE: Duration = Duration::from_millis(500);
const PROBE_BYTES: u64 = 256 << 20;
/// Program, context and buffers beside the weights.
const BESIDE: u64 = 700 << 20;
/// With less than this share of its experts in memory a model is not worth a download.
const LEAST_SHARE: f64 = 0.03;
/// Tokens per second above which answers come as fast as they are read.
const WELL: f64 = 5.0;

/// Whether a model runs on this machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Fit {
    /// All of it fits into memory.
    Ram,
    /// With this share of its experts in memory; the others are read from the disk.
    Stream(f64),
    /// Why it does not.
    No(String),
}

/// A model of the catalogue on this machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Suggestion {
    /// What the catalogue says.
    pub model: KnownModel,
    /// Whether it runs.
    pub fit: Fit,
    /// Tokens per second once warm.
    pub speed: Option<Likely>,
    /// Whether it was downloaded.
    pub here: bool,
}

impl Suggestion {
    /// The likely speed in tokens per second.
    pub fn likely(&self) -> Option<f64> {
        self.speed.map(|speed| speed.value)
    }

    /// Whether answers come at the speed of reading.
    pub fn runs_well(&self) -> bool {
        self.runs() && self.likely().is_some_and(|speed| speed >= WELL)
    }

    /// Whether it runs at all.
    pub fn runs(&self) -> bool {
        !matches!(self.fit, Fit::No(_))
    }
}

/// What the judgement depends on.
struct Machine {
    /// Memory that the program may own.
    budget: u64,
    /// Free bytes of the disk of downloads, if known.
    disk: Option<u64>,
    speeds: Speeds,
    /// What models measured that ran here.
    earlier: Earlier,
}

/// The models of the catalogue, best first: those that run well, the strongest of them first, then slower
/// ones, then those that do not run. Measures the machine for about a second.
///
/// # Errors
/// A catalogue that cannot be read; no threads, no memory.
pub fn suggestions(session: &SessionArgs, hub: &Hub) -> anyhow::Result<Vec<Suggestion>> {
    let models = KnownModel::all()?;
    let machine = Machine::measure(session, hub)?;
    let mut all = Vec::new();
    for model in models {
        let here = hub.find(&model.hub_name()?).is_some();
        all.push(machine.judge(model, here));
    }
    Ok(sorted(all))
}

/// Up to three to offer: the best, the best of at most half its size, and the best of half of that; where
/// there is none, the next best.
pub fn three(sorted: &[Suggestion]) -> Vec<&Suggestion> {
    let mut offered: Vec<&Suggestion> = Vec::new();
    let mut most = u64::MAX;
    let runs = || sorted.iter().filter(|suggestion| suggestion.runs());
    while offered.len() < 3
        && let Some(next) = runs().find(|suggestion| suggestion.model.bytes <= most)
    {
        most = next.model.bytes / 2;
        offered.push(next);
    }
    for next in runs() {
        if offered.len() < 3 && !offered.contains(&next) {
            offered.push(next);
        }
    }
    offered
}

/// `all` comes weakest first.
fn sorted(mut all: Vec<Suggestion>) -> Vec<Suggestion> {
    all.reverse();
    let slower = |suggestion: &Suggestion| -suggestion.likely().unwrap_or(0.0);
    all.sort_by(|a, b| {
        let group = |s: &Suggestion| (!s.runs(), !s.runs_well());
        let by_speed = || match a.runs_well() || !a.runs() {
            true => std::cmp::Ordering::Equal,
            false => slower(a).total_cmp(&slower(b)),
        };
        group(a).cmp(&group(b)).then_with(by_speed)
    });
    all
}

impl Machine {
    fn measure(session: &SessionArgs, hub: &Hub) -> anyhow::Result<Self> {
        let compute = session.compute();
        // Its plan has the budget of every model.
        let budget = session.plan(&builtin::load()?)?.budget;
        let threads = ThreadPlan::here(compute.threads.map(usize::from), compute.pin.into())?;
        let pattern = Pattern { block: READ_BYTES, depth: READ_DEPTH, limit: PROBE };
        let disk_gb_per_s = match hub.trial_file() {
            Ok(trial) => limits::disk_with(trial.path(), pattern),
            Err(error) => Err(error.to_string()),
        };
        let ram_gb_per_s = limits::ram_before(threads, PROBE_BYTES.min(budget / 2))?;
        let speeds = Speeds { ram_gb_per_s, disk_gb_per_s, pattern };
        let earlier = earlier::any_model(compute);
        Ok(Self { budget, disk: hub.free_bytes(), speeds, earlier })
    }

    fn judge(&self, model: KnownModel, here: bool) -> Suggestion {
        let for_experts = self.budget.saturating_sub(model.shared_bytes + BESIDE);
        let share = (for_experts as f64 / model.expert_bytes().max(1) as f64).min(1.0);
        let room = self.disk.filter(|&free| !here && free < model.bytes);
        let fit = if let Some(free) = room {
            let (need, free) = (figures::bytes(model.bytes), figures::bytes(free));
            Fit::No(format!("the download of {need} does not fit on the disk, {free} are free"))
        } else if share >= 1.0 {
            Fit::Ram
        } else if share >= LEAST_SHARE {
            Fit::Stream(share)
        } else {
            let least = model.shared_bytes + BESIDE + (LEAST_SHARE * model.expert_bytes() as f64) as u64;
            Fit::No(format!("needs about {} of memory", figures::bytes(least)))
        };
        let routed = model.routed_bytes();
        let dense = model.token_bytes.saturating_sub(routed);
        let speed = match fit {
            Fit::No(_) => None,
            _ => Forecast::by_figures(dense, routed, share, &self.speeds, &self.earlier).warm,
        };
        Suggestion { model, fit, speed, here }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(budget_gb: u64) -> Machine {
        let pattern = Pattern { block: READ_BYTES, depth: READ_DEPTH, limit: PROBE };
        let speeds = Speeds { ram_gb_per_s: 40.0, disk_gb_per_s: Ok(3.0), pattern };
        Machine {
            budget: budget_gb * 1_000_000_000,
            disk: Some(200_000_000_000),
            speeds,
            earlier: Earlier::default(),
        }
    }

    fn judged(machine: &Machine) -> Vec<Suggestion> {
        let all = KnownModel::all().expect("a catalogue");
        sorted(all.into_iter().map(|model| machine.judge(model, false)).collect())
    }

    #[test]
    fn the_strongest_model_that_runs_well_comes_first() {
        for budget in [4, 8, 14, 28, 60, 150] {
            let all = judged(&machine(budget));
            let groups: Vec<_> = all.iter().map(|s| (!s.runs(), !s.runs_well())).collect();
            assert!(groups.is_sorted(), "{budget} GB: {groups:?}");
            let slow: Vec<_> = all.iter().filter(|s| s.runs() && !s.runs_well()).collect();
            assert!(slow.is_sorted_by(|a, b| a.likely() >= b.likely()), "{budget} GB");
            assert!(all[0].runs_well(), "{budget} GB: {:?}", all[0]);
        }
        let best = |budget| judged(&machine(budget))[0].model.bytes;
        assert!(best(4) < best(28) && best(28) < best(150));
        let ram = judged(&machine(150)).iter().filter(|s| s.fit == Fit::Ram).count();
        assert!(ram >= 13, "{ram} fit into 150 GB");
    }

    #[test]
    fn three_of_different_sizes_are_offered() {
        let all = judged(&machine(14));
        let offered = three(&all);
        assert_eq!(offered.len(), 3);
        assert_eq!(offered[0], &all[0]);
        assert!(offered[1].model.bytes <= offered[0].model.bytes / 2);
        assert!(offered.iter().all(|suggestion| suggestion.runs()));
        assert!(three(&judged(&machine(0))).is_empty());
    }

    #[test]
    fn a_disk_that_is_too_small_is_a_reason() {
        let small = Machine { disk: Some(6_000_000_000), ..machine(14) };
        for suggestion in judged(&small) {
            assert_eq!(suggestion.runs(), suggestion.model.bytes < 6_000_000_000, "{suggestion:?}");
        }
        let model = KnownModel::all().expect("a catalogue").pop().expect("a model");
        let Fit::No(why) = small.judge(model.clone(), false).fit else { panic!("it is larger") };
        assert!(why.contains("does not fit on the disk"), "{why}");
        // What is on the disk already needs no room there.
        let Fit::No(why) = Machine { budget: 1 << 30, ..small }.judge(model, true).fit else {
            panic!("too little memory")
        };
        assert!(why.contains("of memory"), "{why}");
    }
}
