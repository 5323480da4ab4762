//! The counters of the expert store, as plain numbers. It must not know how they are counted, nor how they
//! are shown.

use std::time::Duration;

use super::reuse::Reuse;

/// Counters of the store since it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Requests of passes that only decode.
    pub decode: PhaseStats,
    /// Requests of passes that read prompts.
    pub prefill: PhaseStats,
    /// Bytes read from files, prefetches included.
    pub bytes_read: u64,
    /// Number of reads behind [`Self::bytes_read`].
    pub reads: u64,
    /// Time during which at least one read was in flight.
    pub busy: Duration,
    /// Reads that succeeded only when they were repeated.
    pub retries: u64,
    /// Experts that made room for others, in the cache or under memory pressure.
    pub evicted: u64,
    /// Slots whose memory was touched while nothing was computed, so that reads find it mapped.
    pub touched: u64,
    /// Predictions and prefetches, by bank.
    pub prefetch: Vec<PrefetchStats>,
}

/// What a pass is for. The code that begins a pass names it; it is never inferred from the number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reading the tokens of a prompt.
    Prefill,
    /// Computing the next token of each sequence.
    Decode,
}

/// Requests of one phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PhaseStats {
    /// Experts that were requested.
    pub used: u64,
    /// Bytes of requested experts.
    pub used_bytes: u64,
    /// Requested experts that were not resident. An expert that a prefetch has just read counts too.
    pub missed: u64,
    /// Bytes of the experts in [`Self::missed`].
    pub missed_bytes: u64,
    /// Time during which computing was stalled on reads.
    pub stall: Duration,
    /// What caches of other sizes would have found. Empty where nothing is cached.
    pub reuse: Reuse,
}

impl PhaseStats {
    /// Share of the requested bytes that were resident, 0 to 1; 1 without requests.
    pub fn hit_rate(&self) -> f64 {
        if self.used_bytes == 0 { 1.0 } else { 1.0 - self.missed_bytes as f64 / self.used_bytes as f64 }
    }

    /// The counts since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            used: self.used - before.used,
            used_bytes: self.used_bytes - before.used_bytes,
            missed: self.missed - before.missed,
            missed_bytes: self.missed_bytes - before.missed_bytes,
            stall: self.stall.saturating_sub(before.stall),
            reuse: self.reuse.since(&before.reuse),
        }
    }
}

/// Predictions of the experts of a bank, made while the bank before it is computed, and the prefetches that
/// follow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrefetchStats {
    /// Experts that the router chose in requests for which a prediction existed.
    pub chosen: u64,
    /// Experts among [`Self::chosen`] that the prediction named. As many predicted experts count as were
    /// chosen.
    pub predicted: u64,
    /// Experts whose prefetch was started.
    pub read: u64,
    /// Prefetched experts that the router then chose.
    pub used: u64,
}

impl StoreStats {
    /// The counts of a phase, to add to.
    pub fn phase(&mut self, phase: Phase) -> &mut PhaseStats {
        match phase {
            Phase::Prefill => &mut self.prefill,
            Phase::Decode => &mut self.decode,
        }
    }

    /// Experts that were requested in both phases.
    pub fn experts_used(&self) -> u64 {
        self.decode.used + self.prefill.used
    }

    /// Bytes of the requested experts in both phases.
    pub fn bytes_used(&self) -> u64 {
        self.decode.used_bytes + self.prefill.used_bytes
    }

    /// The counts since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let none = PrefetchStats::default();
        let prefetch = self.prefetch.iter().enumerate().map(|(bank, now)| {
            let before = before.prefetch.get(bank).unwrap_or(&none);
            PrefetchStats {
                chosen: now.chosen - before.chosen,
                predicted: now.predicted - before.predicted,
                read: now.read - before.read,
                used: now.used - before.used,
            }
        });
        Self {
            decode: self.decode.since(&before.decode),
            prefill: self.prefill.since(&before.prefill),
            bytes_read: self.bytes_read - before.bytes_read,
            reads: self.reads - before.reads,
            busy: self.busy.saturating_sub(before.busy),
            retries: self.retries - before.retries,
            evicted: self.evicted - before.evicted,
            touched: self.touched - before.touched,
            prefetch: prefetch.collect(),
        }
    }

    /// Read speed while reads were in flight, in 10^9 bytes per second; 0 if nothing was read.
    pub fn read_gb_per_s(&self) -> f64 {
        let seconds = self.busy.as_secs_f64();
        if seconds > 0.0 { self.bytes_read as f64 / seconds / 1e9 } else { 0.0 }
    }

    /// The sum of [`Self::prefetch`] over all banks.
    pub fn prefetch_total(&self) -> PrefetchStats {
        self.prefetch.iter().fold(PrefetchStats::default(), |sum, bank| PrefetchStats {
            chosen: sum.chosen + bank.chosen,
            predicted: sum.predicted + bank.predicted,
            read: sum.read + bank.read,
            used: sum.used + bank.used,
        })
    }
}
