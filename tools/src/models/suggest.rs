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
use crate::open::{SessionArgs, TriedGpu, builtin};
use crate::report::earlier;
use crate::report::forecast::{Earlier, Forecast, Likely, Outline, Speeds};
use crate::report::vram::VramFigures;

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
    /// Share of its experts that a GPU would hold; `None` without one.
    pub in_vram: Option<f64>,
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
    /// The GPU that the options name.
    gpu: Option<VramFigures>,
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
        // Open until the budget is known, which then counts what the driver takes.
        let tried = compute.tried_gpu(0)?;
        let gpu = tried.as_ref().and_then(TriedGpu::figures);
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
        Ok(Self { budget, disk: hub.free_bytes(), speeds, gpu, earlier })
    }

    fn judge(&self, model: KnownModel, here: bool) -> Suggestion {
        let experts = model.expert_bytes();
        let gpu = self.gpu.map(|gpu| VramFigures { bytes: gpu.bytes.min(experts), ..gpu });
        let of_ram = gpu.filter(|gpu| gpu.shares_ram).map_or(0, |gpu| gpu.bytes);
        let for_experts = self.budget.saturating_sub(model.shared_bytes + BESIDE + of_ram);
        let share = |bytes: u64| (bytes as f64 / experts.max(1) as f64).min(1.0);
        let (in_ram, in_vram) = (share(for_experts), gpu.map(|gpu| share(gpu.bytes)));
        let fit = self.fit(&model, here, for_experts, in_vram.unwrap_or(0.0));
        let routed = model.routed_bytes();
        let outline = Outline {
            dense: model.token_bytes.saturating_sub(routed),
            routed,
            visits: (model.layers, model.experts.1),
            in_ram,
            in_vram: in_vram.unwrap_or(0.0),
        };
        let forecast = || Forecast::by_figures(&outline, gpu.as_ref(), &self.speeds, &self.earlier).warm;
        let speed = if matches!(fit, Fit::No(_)) { None } else { forecast() };
        Suggestion { model, fit, speed, in_vram, here }
    }

    /// Whether a model runs with `for_experts` bytes of RAM for experts, of which a GPU holds a share too.
    fn fit(&self, model: &KnownModel, here: bool, for_experts: u64, in_vram: f64) -> Fit {
        let in_ram = for_experts as f64 / model.expert_bytes().max(1) as f64;
        if let Some(free) = self.disk.filter(|&free| !here && free < model.bytes) {
            let (need, free) = (figures::bytes(model.bytes), figures::bytes(free));
            return Fit::No(format!("the download of {need} does not fit on the disk, {free} are free"));
        }
        if in_ram >= 1.0 {
            return Fit::Ram;
        }
        // Both together hold each expert once. Those of a token need slots in RAM even so.
        if in_ram + in_vram >= LEAST_SHARE && for_experts >= model.routed_bytes() / model.layers.max(1) {
            return Fit::Stream(in_ram);
        }
        let least = model.shared_bytes + BESIDE + (LEAST_SHARE * model.expert_bytes() as f64) as u64;
        Fit::No(format!("needs about {} of memory", figures::bytes(least)))
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
            gpu: None,
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

    /// A card of 6 GB with three times the bandwidth of RAM.
    fn card() -> VramFigures {
        VramFigures { exact: true, bytes: 6_000_000_000, shares_ram: false, rate: 120e9, launch: 1e-4 }
    }

    #[test]
    fn a_gpu_makes_models_faster_and_more_of_them_run() {
        let (without, with) = (machine(12), Machine { gpu: Some(card()), ..machine(12) });
        let (mut faster, mut streamed) = (0, 0);
        for model in KnownModel::all().expect("a catalogue") {
            let (a, b) = (without.judge(model.clone(), false), with.judge(model, false));
            assert_eq!((a.in_vram, b.in_vram.is_some()), (None, true));
            let (Some(alone), Some(beside)) = (a.likely(), b.likely()) else { continue };
            assert!(beside >= alone * 0.999, "{}: {alone} without, {beside} with it", a.model.name);
            faster += usize::from(beside > 1.2 * alone);
            streamed += usize::from(matches!(a.fit, Fit::Stream(_)));
        }
        assert!(faster >= 3 && streamed >= 3, "{faster} of {streamed}");
        // Too little RAM for experts that are worth a download, and enough with those of the card.
        let tight = |gpu| Machine { gpu, ..machine(3) };
        let runs = |machine: &Machine| judged(machine).iter().filter(|s| s.runs()).count();
        assert!(runs(&tight(Some(card()))) > runs(&tight(None)));
        // Memory of an integrated one is RAM: nothing is there twice.
        let shared = VramFigures { shares_ram: true, bytes: 1 << 30, ..card() };
        let all = KnownModel::all().expect("a catalogue");
        let share = |machine: &Machine| match machine.judge(all[3].clone(), false).fit {
            Fit::Stream(share) => share,
            other => panic!("{other:?}"),
        };
        assert!(share(&Machine { gpu: Some(shared), ..machine(12) }) < share(&without));
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
