//! Whether experts of the next bank are guessed and read ahead, and whether that pays. It must not know how a guess is made.

use std::sync::PoisonError;

use super::live::Board;
use super::readers::{Queues, Readers};
use super::stats::Ahead;
use super::sync::{Mutex, MutexGuard};

/// Guesses after which it is judged whether they pay.
const TRIAL: u64 = 64;
/// Requests that go without guesses after a bad trial.
const REST: u64 = 4096;

/// Whether the next bank's experts are guessed and read ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prefetch {
    /// As long as it pays.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// The guesses of a store.
pub struct Guessing {
    prefetch: Prefetch,
    state: Mutex<Guesses>,
}

/// What was guessed, and whether it pays.
#[derive(Default)]
struct Guesses {
    /// The bank that was guessed at, and its experts.
    bank: usize,
    experts: Vec<u32>,
    /// Guesses read and useful when the trial began.
    trial: Ahead,
    /// Requests until the next trial.
    rest: u64,
}

impl Guessing {
    /// No guess yet.
    pub fn new(prefetch: Prefetch) -> Self {
        Self { prefetch, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Guesses> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is worth guessing now.
    pub fn wanted(&self, readers: &Readers) -> bool {
        match self.prefetch {
            Prefetch::On => true,
            Prefetch::Off => false,
            Prefetch::Auto => self.pays(readers),
        }
    }

    fn pays(&self, readers: &Readers) -> bool {
        let mut guesses = self.lock();
        if guesses.rest > 0 {
            guesses.rest -= 1;
            return false;
        }
        // Requests take the two locks in the other order.
        drop(guesses);
        let now = readers.lock().stats.ahead_total();
        let mut guesses = self.lock();
        let (read, useful) = (now.read - guesses.trial.read, now.useful - guesses.trial.useful);
        if read >= TRIAL {
            guesses.trial = now;
            // A wrong guess takes disk time from what is needed next.
            if useful * 2 < read {
                guesses.rest = REST;
                return false;
            }
        }
        true
    }

    /// Notes a guess at a bank's experts, the likeliest first.
    pub fn note(&self, bank: usize, likely: &[u32]) {
        let mut guesses = self.lock();
        guesses.bank = bank;
        guesses.experts.clear();
        guesses.experts.extend_from_slice(likely);
    }

    /// Counts how good the guess at a bank was.
    pub fn compare(&self, bank: usize, ids: &[u32], shared: &mut Queues, board: &Board) {
        let mut guesses = self.lock();
        if guesses.bank == bank && !guesses.experts.is_empty() {
            let count = &mut shared.stats.ahead[bank];
            count.chosen += ids.len() as u64;
            let among = &guesses.experts[..ids.len().min(guesses.experts.len())];
            let foreseen = ids.iter().filter(|id| among.contains(id)).count() as u64;
            count.foreseen += foreseen;
            board.guessed(bank, among, ids, foreseen);
            guesses.experts.clear();
        }
    }
}
