//! Whether the next bank's experts are prefetched, whether that pays, and how good the predictions are. It
//! must not know how experts are predicted.

use std::sync::PoisonError;

use super::live::LiveState;
use super::readers::{Queues, Readers};
use super::stats::PrefetchStats;
use super::sync::{Mutex, MutexGuard};

/// Prefetched experts after which [`Prefetch::Auto`] judges whether prefetching pays.
const TRIAL_READS: u64 = 64;
/// Requests without prefetching after a trial in which it did not pay.
const PAUSE_REQUESTS: u64 = 4096;

/// Whether the next bank's experts are read before its router has chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prefetch {
    /// As long as at least half of the prefetched experts are used.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Decides about prefetching and scores predictions.
pub struct Prefetcher {
    mode: Prefetch,
    state: Mutex<PrefetchState>,
}

/// The latest prediction, and the trial of [`Prefetch::Auto`].
#[derive(Default)]
struct PrefetchState {
    /// The bank of the latest prediction.
    bank: usize,
    /// The predicted experts, the likeliest first; empty once the prediction has been scored.
    experts: Vec<u32>,
    /// Counts at the start of the trial.
    trial_start: PrefetchStats,
    /// Requests until the next trial.
    pause: u64,
}

impl Prefetcher {
    /// A prefetcher without a prediction.
    pub fn new(mode: Prefetch) -> Self {
        Self { mode, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, PrefetchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the coming request should predict and prefetch.
    pub fn enabled(&self, readers: &Readers) -> bool {
        match self.mode {
            Prefetch::On => true,
            Prefetch::Off => false,
            Prefetch::Auto => self.pays(readers),
        }
    }

    fn pays(&self, readers: &Readers) -> bool {
        let mut state = self.lock();
        if state.pause > 0 {
            state.pause -= 1;
            return false;
        }
        // Requests take the readers' lock first, so this lock must not be held while waiting for it.
        drop(state);
        let now = readers.lock().stats.prefetch_total();
        let mut state = self.lock();
        let (read, used) = (now.read - state.trial_start.read, now.used - state.trial_start.used);
        if read >= TRIAL_READS {
            state.trial_start = now;
            // A wrong prefetch takes disk time from the experts that are needed next.
            if used * 2 < read {
                state.pause = PAUSE_REQUESTS;
                return false;
            }
        }
        true
    }

    /// Stores a prediction of the experts of a bank, the likeliest first.
    pub fn predict(&self, bank: usize, likely: &[u32]) {
        let mut state = self.lock();
        state.bank = bank;
        state.experts.clear();
        state.experts.extend_from_slice(likely);
    }

    /// Compares the prediction for a bank with its request, and counts the result. As many predicted experts
    /// count as were requested.
    pub fn score(&self, bank: usize, ids: &[u32], shared: &mut Queues, live: &LiveState) {
        let mut state = self.lock();
        if state.bank == bank && !state.experts.is_empty() {
            let count = &mut shared.stats.prefetch[bank];
            count.chosen += ids.len() as u64;
            let likeliest = &state.experts[..ids.len().min(state.experts.len())];
            let predicted = ids.iter().filter(|id| likeliest.contains(id)).count() as u64;
            count.predicted += predicted;
            live.predicted(bank, likeliest, ids, predicted);
            state.experts.clear();
        }
    }
}
