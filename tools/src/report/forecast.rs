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
use moelten_loader::spec::ModelSpec;
use moelten_loader::tensors::store::TensorStore;

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

/// Share of the speed of RAM that decode reaches without disk reads: between that of Q4_0 and of K-quants.
const KERNELS: f64 = 0.6;
/// Compute and disk reads mostly overlap: the longer of the two, plus this share of the shorter one. Fitted
/// together with [`KERNELS`] to seven measurements, within 11 % (`docs/memory.md`).
const APART: f64 = 0.3;
/// Tolerance for other models, machines and contexts.
pub const TOLERANCE: Span = Span { low: 0.8, high: 1.2 };
/// Share of the disk's speed that page faults reach on the first read of a mapped file.
const FAULTS: Span = Span { low: 0.05, high: 0.5 };

/// Best measured hit rate by the share of cached experts: the upper envelope of ten models with LRU caches on
/// real texts.
const BEST_HITS: [(f64, f64); 8] = [
    (0.0, 0.0),
    (0.06, 0.58),
    (0.12, 0.73),
    (0.25, 0.87),
    (0.38, 0.94),
    (0.5, 0.96),
    (0.75, 0.99),
    (1.0, 1.0),
];

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
    /// Share of the routed bytes found in memory: for uniform routing, and for the most regular routing
    /// known.
    pub hits: Span,
    /// Tokens per second with a full cache; `None` if that needs the unknown speed of the disk.
    pub warm: Option<Span>,
    /// Tokens per second of the first tokens, with an empty cache.
    pub cold: Option<Span>,
}

impl Forecast {
    /// Predicts for a plan on a machine; `hit_rate` replaces the estimated one.
    pub fn new(
        loaded: &LoadedModel,
        plan: &Plan,
        kv: KvFormat,
        speeds: &Speeds,
        hit_rate: Option<f64>,
    ) -> Self {
        let traffic = Traffic::weigh(&loaded.spec, &loaded.tensors, kv);
        let token = Token {
            dense: (traffic.dense.bytes + traffic.head.bytes) as f64,
            routed: traffic.routed_bytes(&loaded.spec),
        };
        let hits = hit_rate.map_or_else(|| token.hits(plan), |rate| Span { low: rate, high: rate });
        token.forecast(hits, !matches!(plan.experts, Experts::Cached(_)), speeds)
    }

    /// Predicts for a model that is not here, by figures about it: bytes of shared and of routed weights that
    /// a token reads, and the share of the experts that stays in memory.
    pub fn by_figures(dense: u64, routed: u64, share: f64, speeds: &Speeds) -> Self {
        let token = Token { dense: dense as f64, routed: vec![routed as f64] };
        token.forecast(Span { low: share, high: best_hits(share) }, share >= 1.0, speeds)
    }
}

/// Predicted speed of a model that is wholly in RAM, whose tokens read `token_bytes` each.
pub fn in_memory(token_bytes: f64, ram_gb_per_s: f64) -> Span {
    let rate = ram_gb_per_s * 1e9 * KERNELS / token_bytes;
    Span { low: rate * TOLERANCE.low, high: rate * TOLERANCE.high }
}

/// Bytes that a token reads.
struct Token {
    dense: f64,
    /// Routed bytes of each layer.
    routed: Vec<f64>,
}

impl Token {
    /// Hit rate over all layers, weighted by their bytes.
    fn hits(&self, plan: &Plan) -> Span {
        let Experts::Cached(cached) = &plan.experts else { return Span { low: 1.0, high: 1.0 } };
        let (mut low, mut high, mut all) = (0.0, 0.0, 0.0);
        for ((&quota, &experts), &bytes) in
            cached.shape.quotas.iter().zip(&cached.shape.experts).zip(&self.routed)
        {
            let share = quota as f64 / experts.max(1) as f64;
            (low, high, all) = (low + bytes * share, high + bytes * best_hits(share), all + bytes);
        }
        if all == 0.0 { Span { low: 1.0, high: 1.0 } } else { Span { low: low / all, high: high / all } }
    }

    /// Speeds from the bytes read from RAM and disk, which partly overlap.
    fn forecast(&self, hits: Span, in_place: bool, speeds: &Speeds) -> Forecast {
        let routed: f64 = self.routed.iter().sum();
        let compute = (self.dense + routed) / speeds.ram_gb_per_s / 1e9 / KERNELS;
        // Tokens per second if a token reads `bytes` from the disk at this share of its speed.
        let rate = |bytes: f64, share: f64| match &speeds.disk_gb_per_s {
            _ if bytes < 1.0 => Some(1.0 / compute),
            Ok(disk) => {
                let read = bytes / disk / 1e9 / share;
                Some(1.0 / (compute.max(read) + APART * compute.min(read)))
            }
            Err(_) => None,
        };
        let span = |low: Option<f64>, high: Option<f64>| {
            low.zip(high).map(|(low, high)| Span { low: low * TOLERANCE.low, high: high * TOLERANCE.high })
        };
        let missed = |hit: f64| (1.0 - hit) * routed;
        let cold = if in_place {
            span(rate(self.dense + routed, FAULTS.low), rate(self.dense + routed, FAULTS.high))
        } else {
            span(rate(routed, 1.0), rate(routed, 1.0))
        };
        Forecast {
            dense_bytes: self.dense,
            routed_bytes: routed,
            hits,
            warm: span(rate(missed(hits.low), 1.0), rate(missed(hits.high), 1.0)),
            cold,
        }
    }
}

/// Interpolates [`BEST_HITS`].
fn best_hits(share: f64) -> f64 {
    let after = BEST_HITS.iter().position(|&(at, _)| share <= at).unwrap_or(BEST_HITS.len() - 1).max(1);
    let ((from, low), (to, high)) = (BEST_HITS[after - 1], BEST_HITS[after]);
    low + (high - low) * ((share - from) / (to - from)).clamp(0.0, 1.0)
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

    #[test]
    fn the_slower_of_ram_and_disk_decides() {
        let token = Token { dense: 0.2e9, routed: vec![0.3e9, 0.5e9] };
        let hits = Span { low: 0.5, high: 0.99 };
        let forecast = token.forecast(hits, false, &speeds(Ok(2.0)));
        // Computing 1 GB takes 1/12 s. 0.4 GB from the disk take 0.2 s, 8 MB a twentieth of computing.
        let (slow, fast) = (0.2 + 0.3 / 12.0, 1.0 / 12.0 + 0.3 * 0.004);
        close(forecast.warm, TOLERANCE.low / slow, TOLERANCE.high / fast);
        let cold = 0.4 + 0.3 / 12.0;
        close(forecast.cold, TOLERANCE.low / cold, TOLERANCE.high / cold);
        assert_eq!((forecast.dense_bytes, forecast.routed_bytes), (0.2e9, 0.8e9));
    }

    #[test]
    fn without_a_disk_only_what_is_in_memory_has_a_speed() {
        let token = Token { dense: 1e9, routed: vec![1e9] };
        let unknown = speeds(Err("none".into()));
        let here = Span { low: 1.0, high: 1.0 };
        let forecast = token.forecast(here, true, &unknown);
        close(forecast.warm, 6.0 * TOLERANCE.low, 6.0 * TOLERANCE.high);
        assert!(forecast.cold.is_none());
        assert!(token.forecast(Span { low: 0.1, high: 0.9 }, false, &unknown).warm.is_none());
        // Page faults: a twentieth to half of the disk's speed.
        let cold = token.forecast(here, true, &speeds(Ok(2.0))).cold;
        let (slow, fast) = (20.0 + 0.3 / 6.0, 2.0 + 0.3 / 6.0);
        close(cold, TOLERANCE.low / slow, TOLERANCE.high / fast);
    }

    #[test]
    fn friendly_routing_is_never_worse_than_none() {
        for percent in 0..=100 {
            let share = f64::from(percent) / 100.0;
            assert!(best_hits(share) >= share && best_hits(share) <= 1.0, "{share}");
        }
        assert!((best_hits(0.185) - 0.80).abs() < 1e-9);
        assert_eq!((best_hits(0.0), best_hits(0.5), best_hits(1.0)), (0.0, 0.96, 1.0));
    }
}
