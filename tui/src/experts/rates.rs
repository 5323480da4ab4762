//! Rates of the last few seconds, computed from counters that only grow. Idle time does not count. It must
//! not know how rates are drawn.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use moelten_engine::api::{ExpertMap, ExpertUse};

use crate::chat::Limits;

/// Length of the window, in active time.
const SPAN: Duration = Duration::from_secs(4);
/// Active time between two stored samples.
const STEP: Duration = Duration::from_millis(200);
/// Length of a window whose rates are reliable enough to raise a limit.
const TRUSTED: Duration = Duration::from_secs(2);
/// Longest time between two snapshots; after a longer one the window starts anew.
const GAP: Duration = Duration::from_secs(2);

/// The rates of the window.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rates {
    /// Generated tokens per second; `None` if none was generated, or a prompt was read too.
    pub tokens_per_s: Option<f64>,
    /// Share of the used expert bytes that were resident, 0 to 1.
    pub hit_rate: Option<f64>,
    /// Share of the chosen experts that were predicted, 0 to 1.
    pub recall: Option<f64>,
    /// Bytes read from disk, 10^9 per second.
    pub disk_gb_per_s: Option<f64>,
    /// Bytes of weights that generated tokens read from RAM, 10^9 per second.
    pub ram_gb_per_s: Option<f64>,
    /// Share of the time in which the computation was stalled on the disk, 0 to 1.
    pub stalled: Option<f64>,
    /// Tokens per second that RAM and disk allow at this hit rate; needs both limits and the dense bytes.
    pub bound_tokens_per_s: Option<f64>,
    /// The limits of the machine, raised to what was reached.
    pub limits: Limits,
}

/// The counters at one moment.
#[derive(Debug, Clone, Default)]
struct Sample {
    /// Active time since the first sample.
    active: Duration,
    decode: ExpertUse,
    prefill: ExpertUse,
    read_bytes: u64,
    /// Of each layer: experts requested, missed, chosen and predicted.
    layers: Vec<[u64; 4]>,
}

/// The samples of the last few seconds.
#[derive(Debug, Clone, Default)]
pub struct Window {
    limits: Limits,
    /// The oldest first.
    samples: VecDeque<Sample>,
    at: Duration,
}

impl Window {
    /// An empty window.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Adds a snapshot, taken at time `at`.
    pub fn push(&mut self, map: &ExpertMap, at: Duration) {
        let elapsed = at.saturating_sub(std::mem::replace(&mut self.at, at));
        let layers = map.rows.iter().map(|row| [row.requested, row.missed, row.chosen, row.predicted]);
        let mut sample = Sample {
            active: Duration::ZERO,
            decode: map.decode,
            prefill: map.prefill,
            read_bytes: map.read_bytes,
            layers: layers.collect(),
        };
        if elapsed > GAP {
            self.samples.clear();
        }
        let Some(newest) = self.samples.back() else {
            self.samples.push_back(sample);
            return;
        };
        let idle =
            (newest.decode, newest.prefill, newest.read_bytes) == (map.decode, map.prefill, map.read_bytes);
        if idle && !map.stalled {
            return;
        }
        sample.active = newest.active + elapsed;
        // The newest sample is replaced until it is a step apart from the one before.
        let before = self.samples.len().checked_sub(2).and_then(|i| self.samples.get(i));
        if before.is_some_and(|before| newest.active - before.active < STEP) {
            self.samples.pop_back();
        }
        let oldest = sample.active.saturating_sub(SPAN);
        self.samples.push_back(sample);
        while self.samples.len() > 2 && self.samples[1].active <= oldest {
            self.samples.pop_front();
        }
        self.learn();
    }

    /// Raises the limits to rates that were reached for some time: the limits were measured briefly, while
    /// other programs may have been running.
    fn learn(&mut self) {
        let long = self.ends().is_some_and(|(first, last)| last.active - first.active >= TRUSTED);
        if !long {
            return;
        }
        let rates = self.rates();
        let raise = |limit: &mut Option<f64>, reached: Option<f64>| {
            if let (Some(limit), Some(reached)) = (limit, reached) {
                *limit = limit.max(reached);
            }
        };
        raise(&mut self.limits.ram_gb_per_s, rates.ram_gb_per_s);
        raise(&mut self.limits.disk_gb_per_s, rates.disk_gb_per_s);
    }

    fn ends(&self) -> Option<(&Sample, &Sample)> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        (last.active > first.active).then_some((first, last))
    }

    /// Hit rate and recall of some layers together; `layers` are rows of the map.
    pub fn layers(&self, layers: Range<usize>) -> (Option<f64>, Option<f64>) {
        let Some((first, last)) = self.ends() else { return (None, None) };
        let mut sum = [0; 4];
        for (now, before) in last.layers.iter().zip(&first.layers).take(layers.end).skip(layers.start) {
            (0..4).for_each(|i| sum[i] += now[i].saturating_sub(before[i]));
        }
        let [requested, missed, chosen, predicted] = sum;
        (share(requested.saturating_sub(missed), requested), share(predicted, chosen))
    }

    /// The rates of the window.
    pub fn rates(&self) -> Rates {
        let none = Rates { limits: self.limits, ..Rates::default() };
        let Some((first, last)) = self.ends() else { return none };
        let seconds = (last.active - first.active).as_secs_f64();
        let (decode, prefill) = (since(&last.decode, &first.decode), since(&last.prefill, &first.prefill));
        let (used, missed) =
            (decode.used_bytes + prefill.used_bytes, decode.missed_bytes + prefill.missed_bytes);
        let tokens = decode.tokens as f64;
        let decodes = decode.tokens > 0 && prefill.tokens == 0;
        let tokens_per_s = decodes.then(|| tokens / seconds);
        let Limits { ram_gb_per_s, disk_gb_per_s, dense_bytes } = self.limits;
        let per_token = |bytes: u64| bytes as f64 / tokens;
        let bound = ram_gb_per_s.zip(dense_bytes).filter(|_| decodes).and_then(|(ram, dense)| {
            let compute = (dense + per_token(decode.used_bytes)) / ram / 1e9;
            let read = match disk_gb_per_s {
                _ if decode.missed_bytes == 0 => 0.0,
                Some(disk) => per_token(decode.missed_bytes) / disk / 1e9,
                None => return None,
            };
            Some(1.0 / compute.max(read))
        });
        Rates {
            tokens_per_s,
            hit_rate: share(used.saturating_sub(missed), used),
            recall: self.layers(0..usize::MAX).1,
            disk_gb_per_s: Some(last.read_bytes.saturating_sub(first.read_bytes) as f64 / seconds / 1e9),
            ram_gb_per_s: decodes
                .then(|| (decode.used_bytes as f64 + dense_bytes.unwrap_or(0.0) * tokens) / seconds / 1e9),
            stalled: Some(((decode.stall + prefill.stall).as_secs_f64() / seconds).min(1.0)),
            bound_tokens_per_s: bound.filter(|bound| bound.is_finite()),
            limits: self.limits,
        }
    }
}

fn since(now: &ExpertUse, before: &ExpertUse) -> ExpertUse {
    ExpertUse {
        tokens: now.tokens.saturating_sub(before.tokens),
        used: now.used.saturating_sub(before.used),
        used_bytes: now.used_bytes.saturating_sub(before.used_bytes),
        missed_bytes: now.missed_bytes.saturating_sub(before.missed_bytes),
        stall: now.stall.saturating_sub(before.stall),
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
