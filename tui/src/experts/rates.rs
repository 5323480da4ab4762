//! Speeds and shares of the last few seconds, out of counts that only grow. Time in which nothing went on does not count. It
//! must not know how they are drawn.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use moelten_engine::api::{ExpertMap, ExpertUse};

/// How far back rates look, in time that something went on.
const SPAN: Duration = Duration::from_secs(4);
/// Time between two samples that are kept.
const STEP: Duration = Duration::from_millis(200);
/// Time after which a rate is no accident of two moments.
const TRUSTED: Duration = Duration::from_secs(2);
/// Two snapshots that lie further apart say nothing of the time between them.
const GAP: Duration = Duration::from_secs(2);

/// What the machine and the model allow, where it is known.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Limits {
    /// Reading RAM, 10^9 bytes per second.
    pub ram_gb_per_s: Option<f64>,
    /// Reading the disk as experts are read, 10^9 bytes per second.
    pub disk_gb_per_s: Option<f64>,
    /// Bytes that every token reads from RAM beside its experts.
    pub dense_bytes: Option<f64>,
}

/// What went on lately.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rates {
    /// Tokens written per second; `None` when none was.
    pub tokens_per_s: Option<f64>,
    /// Share of the experts' bytes that was in memory, 0 to 1.
    pub hit_rate: Option<f64>,
    /// Share of the chosen experts that were foreseen, 0 to 1.
    pub recall: Option<f64>,
    /// Read from disk, 10^9 bytes per second.
    pub disk_gb_per_s: Option<f64>,
    /// Read from RAM by the weights of tokens that were written, 10^9 bytes per second.
    pub ram_gb_per_s: Option<f64>,
    /// Share of the time that computing stood still for the disk, 0 to 1.
    pub stalled: Option<f64>,
    /// Tokens per second that RAM and disk allow with these hits; needs both speeds and the dense bytes.
    pub bound_tokens_per_s: Option<f64>,
    /// What the machine and the model allow.
    pub limits: Limits,
}

/// Counts at one moment.
#[derive(Debug, Clone, Default)]
struct Sample {
    /// Time that something went on.
    active: Duration,
    decode: ExpertUse,
    prefill: ExpertUse,
    read_bytes: u64,
    /// Asked, missed, chosen and foreseen of each layer.
    layers: Vec<[u64; 4]>,
}

/// The last few seconds.
#[derive(Debug, Clone, Default)]
pub struct Window {
    limits: Limits,
    /// The oldest first; the last is the newest.
    samples: VecDeque<Sample>,
    at: Duration,
}

impl Window {
    /// Without any snapshot.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// The next snapshot.
    pub fn push(&mut self, map: &ExpertMap, at: Duration) {
        let elapsed = at.saturating_sub(std::mem::replace(&mut self.at, at));
        let layers = map.rows.iter().map(|row| [row.asked, row.missed, row.chosen, row.foreseen]);
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
        let still =
            (newest.decode, newest.prefill, newest.read_bytes) == (map.decode, map.prefill, map.read_bytes);
        if still && !map.waiting {
            return;
        }
        sample.active = newest.active + elapsed;
        // The newest one is replaced until it is old enough to be kept.
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

    /// Limits are measured in a moment, with other programs about: what was reached for a while is possible too.
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

    /// Hit rate and recall of some layers together, by their place in the map.
    pub fn layers(&self, layers: Range<usize>) -> (Option<f64>, Option<f64>) {
        let Some((first, last)) = self.ends() else { return (None, None) };
        let mut sum = [0; 4];
        for (now, before) in last.layers.iter().zip(&first.layers).take(layers.end).skip(layers.start) {
            (0..4).for_each(|i| sum[i] += now[i].saturating_sub(before[i]));
        }
        let [asked, missed, chosen, foreseen] = sum;
        (share(asked.saturating_sub(missed), asked), share(foreseen, chosen))
    }

    /// What went on.
    pub fn rates(&self) -> Rates {
        let none = Rates { limits: self.limits, ..Rates::default() };
        let Some((first, last)) = self.ends() else { return none };
        let seconds = (last.active - first.active).as_secs_f64();
        let (decode, prefill) = (since(&last.decode, &first.decode), since(&last.prefill, &first.prefill));
        let (used, missed) =
            (decode.used_bytes + prefill.used_bytes, decode.missed_bytes + prefill.missed_bytes);
        let tokens = decode.tokens as f64;
        let writes = decode.tokens > 0 && prefill.tokens == 0;
        let tokens_per_s = writes.then(|| tokens / seconds);
        let Limits { ram_gb_per_s, disk_gb_per_s, dense_bytes } = self.limits;
        let per_token = |bytes: u64| bytes as f64 / tokens;
        let bound = ram_gb_per_s.zip(dense_bytes).filter(|_| writes).and_then(|(ram, dense)| {
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
            ram_gb_per_s: writes
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
