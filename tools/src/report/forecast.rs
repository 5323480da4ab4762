//! Predicts hit rate and tokens per second before anything runs, from the plan, the bytes that a token reads,
//! and the speeds of RAM and disk. `docs/memory.md` explains the constants. It must not know how figures are
//! worded.

use std::path::Path;
use std::time::Duration;

use moelten_engine::KvFormat;
use moelten_engine::READ_BYTES;
use moelten_engine::READ_DEPTH;
use moelten_engine::plan::{Experts, Plan};
use moelten_engine::runtime::topology::ThreadPlan;
use moelten_loader::io::probe::Pattern;
use moelten_loader::load::LoadedModel;
use moelten_loader::spec::{BankKey, BankSpec, ModelSpec};
use moelten_loader::tensors::store::TensorStore;

use super::routing::Routing;
use super::vram::{Layer, SharedLayer, VramFigures, VramSlots, shares};
use crate::bench::limits;
use crate::bench::traffic::Traffic;
use crate::open::ComputeArgs;

/// A range of values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Share of the speed of RAM that decode reaches when all weights are in memory: 0.71 to 0.99 were measured
/// (`docs/performance.md`).
const IN_PLACE: f64 = 0.75;
/// The same beside disk reads.
const KERNELS: f64 = 0.6;
/// Compute and disk reads mostly overlap: the longer of the two, plus this share of the shorter one. Fitted
/// together with [`KERNELS`] to seven measurements, within 11 % (`docs/memory.md`).
const APART: f64 = 0.3;
/// Tolerance for other models, machines and contexts.
pub const TOLERANCE: Span = Span { low: 0.8, high: 1.2 };
/// Share of the disk's speed that page faults reach on the first read of a mapped file.
const FAULTS: Span = Span { low: 0.05, high: 0.5 };

/// What earlier runs on this machine say about a model. Empty if there were none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Earlier {
    /// Seconds in which a token of this model is computed.
    pub computing: Option<f64>,
    /// What is known of the model's routing.
    pub routing: Routing,
    /// Speed at which missing experts come beside computing, 10^9 bytes per second.
    pub disk_gb_per_s: Option<f64>,
    /// As [`APART`], of the run that gave the speed above.
    pub apart: Option<f64>,
    /// Bytes per second at which other models were computed: the median.
    pub rate: Option<f64>,
}

/// What a forecast rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// An earlier run of this model on this machine.
    Run,
    /// Runs of other models on this machine.
    Others,
    /// The measured speeds of RAM and disk alone.
    Machine,
}

impl Basis {
    /// In words, behind a speed.
    pub fn words(self) -> &'static str {
        match self {
            Self::Run => "by an earlier run of this model here",
            Self::Others => "by the speed of other models here",
            Self::Machine => "by the speed of RAM and disk",
        }
    }
}

/// Measured speeds of this machine, read the way the model will read.
#[derive(Debug, Clone)]
pub struct Speeds {
    /// RAM reads, 10^9 bytes per second.
    pub ram_gb_per_s: f64,
    /// Reads of the model's disk, 10^9 bytes per second, or why it was not measured.
    pub disk_gb_per_s: Result<f64, String>,
    /// Block size and depth of the disk reads.
    pub pattern: Pattern,
}

impl Speeds {
    /// Measures for about as long as `time`, with at most `most` bytes of memory.
    ///
    /// # Errors
    /// No threads, no memory, an unavailable instruction set.
    pub fn probe(
        compute: &ComputeArgs,
        tensors: &TensorStore,
        time: Duration,
        most: u64,
    ) -> anyhow::Result<Self> {
        let files = tensors.catalog().files();
        // The largest file holds the experts. The built-in model is in no file.
        let largest = files.iter().max_by_key(|file| file.size()).map(|file| file.path());
        Self::probe_on(largest.filter(|_| tensors.in_files()), compute, tensors, time, most)
    }

    /// As [`Self::probe`], with the speed of the disk from another file than the model's.
    ///
    /// # Errors
    /// As [`Self::probe`].
    pub fn probe_on(
        file: Option<&Path>,
        compute: &ComputeArgs,
        tensors: &TensorStore,
        time: Duration,
        most: u64,
    ) -> anyhow::Result<Self> {
        let threads = ThreadPlan::here(compute.threads.map(usize::from), compute.pin.into())?;
        let pattern = Pattern { block: slice_bytes(tensors), depth: READ_DEPTH, limit: time };
        let disk_gb_per_s = match file {
            Some(path) => limits::disk_with(path, pattern),
            None => Err("the weights are not in a file".to_owned()),
        };
        Ok(Self { ram_gb_per_s: limits::ram_before(threads, most)?, disk_gb_per_s, pattern })
    }
}

/// Bytes of one read of an expert.
fn slice_bytes(tensors: &TensorStore) -> usize {
    let experts = tensors.banks().iter().filter_map(|bank| bank.iter().next());
    let slices = experts.flatten().map(|matrix| matrix.bytes);
    slices.min().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(READ_BYTES).min(READ_BYTES)
}

/// Predicted speed of decode, at the beginning of a context.
#[derive(Debug, Clone)]
pub struct Forecast {
    /// Bytes of shared weights that every token reads.
    pub dense_bytes: f64,
    /// Bytes of routed experts that a token reads.
    pub routed_bytes: f64,
    /// Share of the routed bytes found in memory, of RAM or of a GPU.
    pub hits: Likely,
    /// Share of the routed experts that a GPU computes; 0 without one.
    pub on_gpu: f64,
    /// Tokens per second with a full cache; `None` if that needs the unknown speed of the disk.
    pub warm: Option<Likely>,
    /// Tokens per second of the first tokens, with an empty cache.
    pub cold: Option<Span>,
    /// Where the figures come from.
    pub basis: Basis,
}

/// A likely value and its range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likely {
    /// The likely value.
    pub value: f64,
    /// The range of what may be expected.
    pub range: Span,
}

impl Forecast {
    /// Predicts for a plan on a machine, with a GPU or without; `hit_rate` replaces the estimated one.
    pub fn new(
        loaded: &LoadedModel,
        plan: &Plan,
        kv: KvFormat,
        speeds: &Speeds,
        earlier: &Earlier,
        gpu: Option<&VramSlots>,
        hit_rate: Option<f64>,
    ) -> Self {
        let traffic = Traffic::weigh(&loaded.spec, &loaded.tensors, kv);
        let token = Token {
            dense: (traffic.dense.bytes + traffic.head.bytes) as f64,
            routed: traffic.routed_bytes(&loaded.spec),
            gpu: gpu.map_or_else(Vec::new, |gpu| gpu_layers(loaded, plan, gpu, &earlier.routing)),
        };
        let always = |rate| Likely { value: rate, range: Span { low: rate, high: rate } };
        let in_place = !matches!(plan.experts, Experts::Cached(_));
        let banks = loaded.tensors.banks().iter().enumerate();
        let in_memory = banks.map(|(number, bank)| {
            let (ram, vram) = shares(plan, gpu, number, bank.experts());
            (ram + vram).min(1.0)
        });
        let in_memory: Vec<f64> = in_memory.collect();
        let hits = hit_rate.map_or_else(|| token.hits(&in_memory, in_place, &earlier.routing), always);
        token.forecast(hits, in_place, speeds, earlier)
    }

    /// Predicts for a model that is not here.
    pub fn by_figures(
        model: &Outline,
        gpu: Option<&VramFigures>,
        speeds: &Speeds,
        earlier: &Earlier,
    ) -> Self {
        let in_place = model.in_ram >= 1.0;
        let layers = gpu.map(|gpu| model.on_gpu(gpu, !in_place));
        let routed = vec![model.routed as f64];
        let token = Token { dense: model.dense as f64, routed, gpu: layers.into_iter().collect() };
        let share = (model.in_ram + model.in_vram).min(1.0);
        let (low, high) = Routing::Unknown.range(share);
        let hits = Likely { value: Routing::Unknown.hits(share), range: Span { low, high } };
        token.forecast(hits, in_place, speeds, earlier)
    }
}

/// What is known of a model that is not here.
#[derive(Debug, Clone, Copy)]
pub struct Outline {
    /// Bytes of shared weights that a token reads.
    pub dense: u64,
    /// Bytes of routed experts that a token reads.
    pub routed: u64,
    /// Layers with experts, and how many of them a token visits in each.
    pub visits: (u64, u64),
    /// Share of the experts that stays in RAM.
    pub in_ram: f64,
    /// Share of the experts that a GPU holds.
    pub in_vram: f64,
}

impl Outline {
    /// All its layers as one, which takes as long as they do one after the other: they are alike.
    fn on_gpu(&self, gpu: &VramFigures, only_there: bool) -> Layer {
        let (layers, chosen) = self.visits;
        let visits = (layers * chosen).max(1) as f64;
        Layer {
            visits,
            held: visits * Routing::Unknown.hits(self.in_vram),
            host: 0.0,
            each: self.routed as f64 / visits / gpu.rate,
            launch: layers as f64 * gpu.launch,
            only_there,
            shared: None,
        }
    }
}

/// Predicted speed of a model that is wholly in RAM, whose tokens read `token_bytes` each.
pub fn in_memory(token_bytes: f64, ram_gb_per_s: f64) -> Likely {
    let value = ram_gb_per_s * 1e9 * IN_PLACE / token_bytes;
    Likely { value, range: Span { low: value * TOLERANCE.low, high: value * TOLERANCE.high } }
}

/// Bytes that a token reads.
struct Token {
    dense: f64,
    /// Routed bytes of each bank.
    routed: Vec<f64>,
    /// What a GPU has of each bank; empty without one. The times of the CPU are not known yet.
    gpu: Vec<Layer>,
}

/// What a GPU has of each bank: the experts that are used most, so they are found as in a cache of its size.
fn gpu_layers(loaded: &LoadedModel, plan: &Plan, gpu: &VramSlots, routing: &Routing) -> Vec<Layer> {
    let layer = |(number, (_, bank)): (usize, (BankKey, BankSpec))| {
        let experts = loaded.tensors.banks().get(number).map_or(0, |bank| bank.experts());
        let (ram, vram) = shares(plan, Some(gpu), number, experts);
        let visits = bank.most_per_token as f64;
        Layer {
            visits,
            held: visits * routing.hits(vram),
            host: 0.0,
            each: gpu.each.get(number).copied().unwrap_or(0.0),
            launch: gpu.launch,
            only_there: ram < 1.0,
            shared: gpu.shared.get(number).copied().flatten().map(|(bytes, each)| SharedLayer {
                bytes,
                host: 0.0,
                each,
            }),
        }
    };
    loaded.spec.banks().enumerate().map(layer).collect()
}

impl Token {
    /// Hit rate over all banks, weighted by their bytes, when memory has these shares of their experts.
    fn hits(&self, in_memory: &[f64], in_place: bool, routing: &Routing) -> Likely {
        if in_place {
            return Likely { value: 1.0, range: Span { low: 1.0, high: 1.0 } };
        }
        let over_all = |hits: &dyn Fn(f64) -> f64| {
            let (mut hit, mut all) = (0.0, 0.0);
            for (&share, &bytes) in in_memory.iter().zip(&self.routed) {
                hit += bytes * hits(share);
                all += bytes;
            }
            if all == 0.0 { 1.0 } else { hit / all }
        };
        let low = over_all(&|share| routing.range(share).0);
        let high = over_all(&|share| routing.range(share).1);
        Likely { value: over_all(&|share| routing.hits(share)), range: Span { low, high } }
    }

    /// Seconds in which a token is computed when the CPU alone takes `computing`, and the share of the routed
    /// bytes that the GPU computes.
    fn beside_gpu(&self, computing: f64) -> (f64, f64) {
        let routed: f64 = self.routed.iter().sum();
        let rate = computing / (self.dense + routed);
        let (mut seconds, mut on_gpu) = (computing, 0.0);
        for (layer, &bytes) in self.gpu.iter().zip(&self.routed).filter(|(layer, _)| layer.visits > 0.0) {
            let host = bytes * rate / layer.visits;
            let shared = layer.shared.map(|shared| SharedLayer { host: shared.bytes * rate, ..shared });
            let (took, computed) = Layer { host, shared, ..*layer }.seconds();
            seconds += took - bytes * rate - shared.map_or(0.0, |shared| shared.host);
            on_gpu += bytes * computed / layer.visits;
        }
        (seconds, if routed > 0.0 { on_gpu / routed } else { 0.0 })
    }

    /// Speeds from the bytes read from RAM and disk, which partly overlap.
    fn forecast(&self, hits: Likely, in_place: bool, speeds: &Speeds, earlier: &Earlier) -> Forecast {
        let routed: f64 = self.routed.iter().sum();
        let bytes = self.dense + routed;
        let by_ram = bytes / speeds.ram_gb_per_s / 1e9 / if in_place { IN_PLACE } else { KERNELS };
        let (computing, basis) = match (earlier.computing, earlier.rate) {
            (Some(seconds), _) => (seconds, Basis::Run),
            (None, Some(rate)) => (bytes / rate, Basis::Others),
            (None, None) => (by_ram, Basis::Machine),
        };
        let (computing, on_gpu) = self.beside_gpu(computing);
        let apart = earlier.apart.unwrap_or(APART);
        let disk = earlier.disk_gb_per_s.or(speeds.disk_gb_per_s.as_ref().ok().copied());
        // Tokens per second if a token reads `bytes` from the disk at this share of its speed.
        let rate = |bytes: f64, share: f64| match disk {
            _ if bytes < 1.0 => Some(1.0 / computing),
            Some(disk) => {
                let read = bytes / disk / 1e9 / share;
                Some(1.0 / (computing.max(read) + apart * computing.min(read)))
            }
            None => None,
        };
        let span = |low: Option<f64>, high: Option<f64>| {
            low.zip(high).map(|(low, high)| Span { low: low * TOLERANCE.low, high: high * TOLERANCE.high })
        };
        let missed = |hit: f64| rate((1.0 - hit) * routed, 1.0);
        let cold = if in_place {
            span(rate(bytes, FAULTS.low), rate(bytes, FAULTS.high))
        } else {
            span(rate(routed, 1.0), rate(routed, 1.0))
        };
        let range = span(missed(hits.range.low), missed(hits.range.high));
        Forecast {
            dense_bytes: self.dense,
            routed_bytes: routed,
            hits,
            on_gpu,
            warm: missed(hits.value).zip(range).map(|(value, range)| Likely { value, range }),
            cold,
            basis,
        }
    }
}

/// Number of layers that cache fewer experts than one token chooses, and number of layers with experts.
pub fn tight_layers(spec: &ModelSpec, plan: &Plan) -> (usize, usize) {
    let Experts::Cached(cached) = &plan.experts else { return (0, 0) };
    let banks = spec.banks().zip(&cached.shape.quotas);
    let tight = banks.filter(|((_, bank), quota)| **quota < bank.most_per_token).count();
    (tight, cached.shape.quotas.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speeds(disk: Result<f64, String>) -> Speeds {
        let pattern = Pattern { block: 1 << 20, depth: 4, limit: Duration::ZERO };
        Speeds { ram_gb_per_s: 20.0, disk_gb_per_s: disk, pattern }
    }

    fn close(span: Option<Span>, low: f64, high: f64) {
        let span = span.unwrap();
        assert!((span.low / low - 1.0).abs() < 1e-9 && (span.high / high - 1.0).abs() < 1e-9, "{span:?}");
    }

    fn hits(low: f64, value: f64, high: f64) -> Likely {
        Likely { value, range: Span { low, high } }
    }

    const NOTHING: Earlier =
        Earlier { computing: None, routing: Routing::Unknown, disk_gb_per_s: None, apart: None, rate: None };

    #[test]
    fn the_slower_of_ram_and_disk_decides() {
        let token = Token { dense: 0.2e9, routed: vec![0.3e9, 0.5e9], gpu: Vec::new() };
        let forecast = token.forecast(hits(0.5, 0.8, 0.99), false, &speeds(Ok(2.0)), &NOTHING);
        // Computing 1 GB takes 1/12 s. 0.4 GB from the disk take 0.2 s, 8 MB a twentieth of computing.
        let (slow, fast) = (0.2 + 0.3 / 12.0, 1.0 / 12.0 + 0.3 * 0.004);
        close(forecast.warm.map(|warm| warm.range), TOLERANCE.low / slow, TOLERANCE.high / fast);
        assert!((forecast.warm.unwrap().value - 1.0 / (1.0 / 12.0 + 0.3 * 0.08)).abs() < 1e-9);
        let cold = 0.4 + 0.3 / 12.0;
        close(forecast.cold, TOLERANCE.low / cold, TOLERANCE.high / cold);
        assert_eq!((forecast.dense_bytes, forecast.routed_bytes), (0.2e9, 0.8e9));
        assert_eq!(forecast.basis, Basis::Machine);
    }

    #[test]
    fn without_a_disk_only_what_is_in_memory_has_a_speed() {
        let token = Token { dense: 1e9, routed: vec![1e9], gpu: Vec::new() };
        let unknown = speeds(Err("none".into()));
        let here = hits(1.0, 1.0, 1.0);
        let forecast = token.forecast(here, true, &unknown, &NOTHING);
        close(forecast.warm.map(|warm| warm.range), 7.5 * TOLERANCE.low, 7.5 * TOLERANCE.high);
        assert!(forecast.cold.is_none());
        assert!(token.forecast(hits(0.1, 0.5, 0.9), false, &unknown, &NOTHING).warm.is_none());
        // Page faults: a twentieth to half of the disk's speed.
        let cold = token.forecast(here, true, &speeds(Ok(2.0)), &NOTHING).cold;
        let (slow, fast) = (20.0 + 0.3 / 7.5, 2.0 + 0.3 / 7.5);
        close(cold, TOLERANCE.low / slow, TOLERANCE.high / fast);
    }

    #[test]
    fn what_was_measured_before_replaces_what_is_estimated() {
        let token = Token { dense: 1e9, routed: vec![1e9], gpu: Vec::new() };
        let others = Earlier { rate: Some(20e9), ..NOTHING };
        let forecast = token.forecast(hits(1.0, 1.0, 1.0), false, &speeds(Ok(2.0)), &others);
        assert_eq!((forecast.warm.unwrap().value, forecast.basis), (10.0, Basis::Others));
        let run = Earlier { computing: Some(0.05), disk_gb_per_s: Some(4.0), ..others };
        let forecast = token.forecast(hits(0.6, 0.6, 0.6), false, &speeds(Ok(2.0)), &run);
        assert!((1.0 / forecast.warm.unwrap().value - (0.1 + 0.3 * 0.05)).abs() < 1e-9);
        assert_eq!(forecast.basis, Basis::Run);
        // The part that a run found not to overlap counts in place of the usual one.
        let run = Earlier { apart: Some(0.8), ..run };
        let forecast = token.forecast(hits(0.9, 0.9, 0.9), false, &speeds(Ok(2.0)), &run);
        assert!((1.0 / forecast.warm.unwrap().value - (0.05 + 0.8 * 0.025)).abs() < 1e-9);
    }

    #[test]
    fn a_gpu_takes_over_what_it_has() {
        // Computing 1 GB takes 1/12 s, of which 0.8 belong to one bank of 8 visits: 8.3 ms each.
        let layer = Layer {
            visits: 8.0,
            held: 4.0,
            host: 0.0,
            each: 1e-3,
            launch: 1e-4,
            only_there: false,
            shared: None,
        };
        let token = |only_there| Token {
            dense: 0.2e9,
            routed: vec![0.8e9],
            gpu: vec![Layer { only_there, ..layer }],
        };
        let alone = 1.0 / 12.0;
        let (seconds, share) = token(false).beside_gpu(alone);
        assert!((seconds - 0.6 * alone).abs() < 1e-9 && share == 0.5, "{seconds} {share}");
        // A slow one that has what would have to be read.
        let mut slow = token(true);
        slow.gpu[0].each = 0.1;
        let (seconds, share) = slow.beside_gpu(alone);
        assert!((seconds - (0.2 * alone + 0.4001)).abs() < 1e-9 && share == 0.5, "{seconds} {share}");
        slow.gpu[0].only_there = false;
        assert!(slow.beside_gpu(alone).0 <= alone, "never slower than without it");
        let forecast = token(false).forecast(hits(1.0, 1.0, 1.0), false, &speeds(Ok(2.0)), &NOTHING);
        assert!((forecast.warm.unwrap().value - 20.0).abs() < 1e-9 && forecast.on_gpu == 0.5);
    }
}
