//! The experts of one request: pinning them, starting their reads and waiting for them. It must not know how
//! experts are multiplied.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use moelten_loader::spec::MOST_MATRICES;
use moelten_loader::tensors::store::TensorStore;
use moelten_quant::QMatrix;

use super::cache::{Slot, State};
use super::live::LiveState;
use super::readers::Queues;
use super::stats::Phase;
use super::streamed::Streamed;
use super::sync::{MutexGuard, now};
use crate::error::{EngineError, Result};

/// Interval at which a thread that waits for a read checks whether it was cancelled.
pub const CANCEL_POLL: Duration = Duration::from_millis(20);

/// Marks an expert without a cache entry.
const NONE: u32 = u32::MAX;

/// Buffers of a request. The caller keeps them between requests, so that no request allocates.
#[derive(Default)]
pub struct AcquireBuffers {
    /// The pinned cache entry of each expert, or [`NONE`].
    entries: Vec<u32>,
    /// The pinned slot of each expert.
    slots: Vec<Option<Slot>>,
    /// The first expert that may have no slot yet.
    next: usize,
}

/// A request of a layer for experts of one bank.
pub struct Request<'a> {
    /// The number of the bank in the store.
    pub bank: usize,
    /// The requested experts, in ascending order.
    pub ids: &'a [u32],
    /// Number of tokens that use an expert, by its index in `ids`.
    pub uses: &'a dyn Fn(usize) -> u32,
    /// Tokens of the batch.
    pub tokens: usize,
    /// Whether the batch reads prompts or decodes.
    pub phase: Phase,
    /// Returns whether the request was cancelled.
    pub stop: &'a (dyn Fn() -> bool + 'a),
}

/// The experts of a request in the order of their use. Each stays in its slot until [`Self::release`] or the
/// drop.
pub struct Acquired<'a> {
    tensors: &'a TensorStore,
    live: &'a LiveState,
    /// `None` where all experts are used in place.
    streamed: Option<&'a Streamed>,
    bank: usize,
    ids: &'a [u32],
    buffers: &'a mut AcquireBuffers,
    stop: &'a (dyn Fn() -> bool + 'a),
    phase: Phase,
    /// Whether a thread that the store depends on had panicked when the request was made. No expert counts as
    /// resident then, so that every wait returns the error.
    broken: bool,
}

impl<'a> Acquired<'a> {
    /// A request to a store whose experts are all used in place.
    pub(super) fn in_place(
        tensors: &'a TensorStore,
        live: &'a LiveState,
        request: &Request<'a>,
        buffers: &'a mut AcquireBuffers,
    ) -> Self {
        let &Request { bank, ids, phase, stop, .. } = request;
        Self { tensors, live, streamed: None, bank, ids, buffers, stop, phase, broken: false }
    }

    /// Pins the experts that have a slot and begins to read the others in order, as far as slots are free.
    pub(super) fn streamed(
        streamed: &'a Streamed,
        live: &'a LiveState,
        request: &Request<'a>,
        buffers: &'a mut AcquireBuffers,
    ) -> Self {
        let &Request { bank, ids, phase, stop, .. } = request;
        let tensors = &*streamed.tensors;
        buffers.entries.clear();
        buffers.slots.clear();
        buffers.entries.resize(ids.len(), NONE);
        buffers.slots.resize(ids.len(), None);
        buffers.next = 0;
        let mut shared = streamed.readers.lock();
        let broken = shared.broken.is_some();
        let mut acquired =
            Self { tensors, live, streamed: Some(streamed), bank, ids, buffers, stop, phase, broken };
        streamed.prefetcher.score(bank, ids, &mut shared, live);
        for &id in ids {
            let size = tensors.bank(bank).expert_bytes(id as usize);
            if let Some((depth, experts)) = shared.cache.depth(bank, id) {
                shared.stats.phase(phase).reuse.count(depth, experts, size);
            }
        }
        let uses = ids.iter().enumerate().map(|(i, &id)| (id, (request.uses)(i)));
        shared.stats.prefetch[bank].used += shared.cache.request(bank, uses);
        shared.recall_wrong();
        let mut missed = 0;
        for (i, &id) in ids.iter().enumerate() {
            let size = tensors.bank(bank).expert_bytes(id as usize);
            let found = shared.cache.find(bank, id);
            let resident =
                found.is_some_and(|entry| matches!(shared.cache.entry(entry).state, State::Here { .. }));
            // A prefetched expert had to be read too.
            let prefetched = found.is_some_and(|entry| shared.cache.guessed_right(entry));
            let count = shared.stats.phase(phase);
            count.used += 1;
            count.used_bytes += size;
            if !resident || prefetched {
                count.missed += 1;
                count.missed_bytes += size;
                missed += 1;
            }
            if let Some(entry) = found {
                if !resident {
                    shared.promote(entry);
                }
                acquired.pin(&mut shared, i, entry);
            }
        }
        acquired.start_reads(streamed, &mut shared);
        live.missed(bank, missed);
        live.set_counters(&shared.stats);
        drop(shared);
        acquired
    }

    /// Whether an expert, by its index in the request, is resident.
    pub fn ready(&self, index: usize) -> bool {
        let resident = || self.buffers.slots[index].as_ref().is_some_and(|slot| slot.get().is_some());
        self.streamed.is_none() || !self.broken && resident()
    }

    /// Whether an expert, by its index in the request, has a slot: it is resident or being read.
    pub fn has_slot(&self, index: usize) -> bool {
        self.streamed.is_none() || self.buffers.entries[index] != NONE
    }

    /// Waits until an expert is resident.
    ///
    /// # Errors
    /// [`EngineError::Expert`] when it could not be read, [`EngineError::Cancelled`] when the request was
    /// cancelled.
    pub fn wait(&mut self, index: usize) -> Result<()> {
        let Some(streamed) = self.streamed.filter(|_| !self.ready(index)) else { return Ok(()) };
        let readers = &streamed.readers;
        let mut shared = readers.lock();
        let since = now();
        let _stalled = self.live.stall();
        loop {
            self.start_reads(streamed, &mut shared);
            if self.ready(index) {
                shared.stats.phase(self.phase).stall += now().duration_since(since);
                self.live.set_counters(&shared.stats);
                return Ok(());
            }
            if let Some(source) = self.read_error(&mut shared, index) {
                let (layer, expert) = (self.tensors.bank(self.bank).key.layer, self.ids[index] as usize);
                return Err(EngineError::Expert { layer, expert, source });
            }
            if (self.stop)() {
                return Err(EngineError::Cancelled);
            }
            shared = readers.wait(shared, CANCEL_POLL);
        }
    }

    /// The error of an expert that will not become resident.
    fn read_error(&self, shared: &mut MutexGuard<'_, Queues>, index: usize) -> Option<io::Error> {
        if let Some(message) = &shared.broken {
            return Some(io::Error::other(message.clone()));
        }
        let entry = self.buffers.entries[index];
        if entry == NONE {
            return None;
        }
        let State::Reading(reading) = shared.cache.entry(entry).state else { return None };
        if !reading.failed || reading.left > 0 {
            return None;
        }
        let at = shared.problems.iter().position(|(of, _)| *of == entry);
        let first = at.map(|at| shared.problems.swap_remove(at).1);
        Some(first.unwrap_or_else(|| io::Error::other("an earlier read of it failed")))
    }

    /// The matrices of a resident expert, in the order of its bank.
    ///
    /// # Panics
    /// If the expert is not resident.
    pub fn view(&self, index: usize) -> [Option<QMatrix<'_>>; MOST_MATRICES] {
        let id = self.ids[index];
        match self.streamed {
            None => {
                let matrices = self.tensors.bank(self.bank).expert(id as usize);
                std::array::from_fn(|i| matrices.get(i).map(|matrix| self.tensors.view(matrix)))
            }
            Some(streamed) => {
                let slot = self.buffers.slots[index].as_ref().and_then(|slot| slot.get());
                let slot = slot.expect("only resident experts are viewed");
                streamed.readers.source().view(self.tensors, self.bank, id, slot)
            }
        }
    }

    /// Unpins experts that have been used. Their slots may then hold others.
    pub fn release(&mut self, range: Range<usize>) {
        let Some(streamed) = self.streamed else { return };
        let mut shared = streamed.readers.lock();
        range.for_each(|index| self.unpin(&mut shared, index));
        self.start_reads(streamed, &mut shared);
        streamed.readers.wake_for_retired(&shared);
    }

    fn pin(&mut self, shared: &mut Queues, index: usize, entry: u32) {
        let found = shared.cache.entry_mut(entry);
        found.pins += 1;
        self.buffers.entries[index] = entry;
        self.buffers.slots[index] = Some(Arc::clone(&found.slot));
    }

    fn unpin(&mut self, shared: &mut Queues, index: usize) {
        self.buffers.slots[index] = None;
        let entry = std::mem::replace(&mut self.buffers.entries[index], NONE);
        if entry != NONE && shared.cache.unpin(entry) {
            shared.recall(entry);
        }
    }

    /// Begins the missing reads in order, as far as slots are free.
    fn start_reads(&mut self, streamed: &Streamed, shared: &mut Queues) {
        streamed.notify_evicted(shared);
        let mut begun = false;
        while self.buffers.next < self.ids.len() {
            let index = self.buffers.next;
            if self.buffers.entries[index] == NONE {
                if !streamed.start(shared, self.bank, self.ids[index], false) {
                    break;
                }
                let entry = shared.cache.find(self.bank, self.ids[index]).expect("its read has just begun");
                self.pin(shared, index, entry);
                begun = true;
            }
            self.buffers.next += 1;
        }
        if begun {
            streamed.readers.wake();
        }
    }
}

impl Drop for Acquired<'_> {
    fn drop(&mut self) {
        let Some(streamed) = self.streamed else { return };
        let mut shared = streamed.readers.lock();
        for index in 0..self.buffers.entries.len() {
            self.unpin(&mut shared, index);
        }
        shared.problems.clear();
        streamed.notify_evicted(&mut shared);
        streamed.readers.wake_for_retired(&shared);
    }
}
