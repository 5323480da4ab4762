//! Experts of which only some are in memory: beginning reads, and telling the source which experts have left.
//! It must not know what an expert is used for.

use std::sync::Arc;

use moelten_loader::tensors::store::TensorStore;

use super::cache::State;
use super::guessing::Guessing;
use super::readers::{Queues, Readers};

/// Guesses on their way at the same time.
const MOST_GUESSES: usize = 2;

/// The cache with its readers.
pub struct Streamed {
    /// The cache, the queues, and the threads that read.
    pub readers: Readers,
    /// What is read ahead.
    pub guessing: Guessing,
    /// Where experts are in the files.
    pub tensors: Arc<TensorStore>,
}

impl Streamed {
    /// Reads the likely experts of a bank, the likeliest first, as far as they are missing, while nothing
    /// else is read.
    pub fn look_ahead(&self, bank: usize, likely: &[u32]) {
        self.guessing.note(bank, likely);
        let mut shared = self.readers.lock();
        let missing = likely.iter().filter(|&&id| shared.cache.find(bank, id).is_none());
        let missing: [Option<u32>; MOST_GUESSES] = {
            let mut missing = missing.copied();
            std::array::from_fn(|_| missing.next())
        };
        for id in missing.into_iter().flatten() {
            if !self.start(&mut shared, bank, id, true) {
                break;
            }
            shared.stats.ahead[bank].read += 1;
        }
        drop(shared);
        self.readers.wake();
    }

    /// Begins to read an expert if there is a free slot.
    pub fn start(&self, shared: &mut Queues, bank: usize, id: u32, guess: bool) -> bool {
        if !guess {
            shared.cache.make_way(bank);
            shared.recall_wrong();
        }
        let Queues { cache, needs, guesses, .. } = shared;
        let Some((entry, slot)) = cache.begin(bank, id, guess) else { return false };
        let queue = if guess { guesses } else { needs };
        let mut left = 0;
        let rest = self.readers.source().parts(&self.tensors, bank, id, entry, slot, |part| {
            queue.push_back(part);
            left += 1;
        });
        let found = cache.entry_mut(entry);
        if !rest.is_empty() {
            found.back.push(rest);
        }
        if let State::Reading(reading) = &mut found.state {
            reading.left = left;
        }
        true
    }

    /// Tells the source which experts have left.
    pub fn forget(&self, shared: &mut Queues) {
        for (bank, expert) in shared.cache.drain_evicted() {
            self.readers.source().evicted(&self.tensors, bank as usize, expert);
        }
    }
}
