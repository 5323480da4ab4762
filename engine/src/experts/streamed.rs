//! Experts of which a cache holds only some: starting reads for requests and prefetches, and telling the
//! source about evictions. It must not know what an expert is used for.

use std::sync::Arc;

use moelten_loader::tensors::store::TensorStore;

use super::cache::State;
use super::prefetch::Prefetcher;
use super::readers::{Queues, Readers};

/// Experts of one prediction that are prefetched.
const MOST_PREFETCHES: usize = 2;

/// An expert cache with its readers.
pub struct Streamed {
    /// The cache, the queues and the reader threads.
    pub readers: Readers,
    /// Decides about prefetching.
    pub prefetcher: Prefetcher,
    /// Where experts are in the files.
    pub tensors: Arc<TensorStore>,
}

impl Streamed {
    /// Stores a prediction of the experts of a bank, the likeliest first, and prefetches some of its missing
    /// experts. Readers take these reads after those of requests.
    pub fn prefetch(&self, bank: usize, likely: &[u32]) {
        self.prefetcher.predict(bank, likely);
        let mut shared = self.readers.lock();
        let missing = likely
            .iter()
            .filter(|&&id| shared.cache.find(bank, id).is_none() && !shared.cache.is_elsewhere(bank, id));
        let missing: [Option<u32>; MOST_PREFETCHES] = {
            let mut missing = missing.copied();
            std::array::from_fn(|_| missing.next())
        };
        for id in missing.into_iter().flatten() {
            if !self.start(&mut shared, bank, id, true) {
                break;
            }
            shared.stats.prefetch[bank].read += 1;
        }
        drop(shared);
        self.readers.wake();
    }

    /// Begins to read an expert. Returns whether a slot was free for it. A read for a request may give up
    /// prefetches to free one; a prefetch may not.
    pub fn start(&self, shared: &mut Queues, bank: usize, id: u32, prefetch: bool) -> bool {
        if !prefetch {
            shared.cache.make_way(bank);
            shared.recall_wrong();
        }
        let Queues { cache, needs, guesses, .. } = shared;
        let Some((entry, slot)) = cache.begin(bank, id, prefetch) else { return false };
        let queue = if prefetch { guesses } else { needs };
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

    /// Counts the experts that were evicted, and tells the source which they were.
    pub fn notify_evicted(&self, shared: &mut Queues) {
        for (bank, expert) in shared.cache.drain_evicted() {
            shared.stats.evicted += 1;
            self.readers.source().evicted(&self.tensors, bank as usize, expert);
        }
    }
}
