//! The experts of one request, held in place until they have been used. It must not know how experts are multiplied.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use moelten_loader::spec::MOST_MATRICES;
use moelten_loader::tensors::store::TensorStore;
use moelten_quant::QMatrix;

use super::cache::{Slot, State};
use super::live::Board;
use super::readers::Queues;
use super::stats::Phase;
use super::streamed::Streamed;
use super::sync::{MutexGuard, now};
use crate::error::{EngineError, Result};

/// How often a thread that waits for a read checks whether to stop.
pub const LOOK: Duration = Duration::from_millis(20);

/// No entry of the cache.
const NONE: u32 = u32::MAX;

/// The experts of a request, remembered between calls so that no request allocates.
#[derive(Default)]
pub struct Held {
    entries: Vec<u32>,
    slots: Vec<Option<Slot>>,
    /// The first that may have no slot yet.
    next: usize,
}

/// What a layer asks of the store.
pub struct Request<'a> {
    /// The bank.
    pub bank: usize,
    /// Its experts that are needed, ascending.
    pub ids: &'a [u32],
    /// How many tokens use each of them, by its place in `ids`.
    pub uses: &'a dyn Fn(usize) -> u32,
    /// Tokens of the batch.
    pub tokens: usize,
    /// Whether the batch reads prompts or decodes.
    pub phase: Phase,
    /// Says whether to give up waiting.
    pub stop: &'a (dyn Fn() -> bool + 'a),
}

/// Experts of one bank in the order of their use, held in place until they are done.
pub struct Acquired<'a> {
    tensors: &'a TensorStore,
    board: &'a Board,
    /// `None` where every expert is used in place.
    streamed: Option<&'a Streamed>,
    bank: usize,
    ids: &'a [u32],
    held: &'a mut Held,
    stop: &'a (dyn Fn() -> bool + 'a),
    phase: Phase,
    /// Whether a thread that the store depends on had panicked when the request was made: none of the experts counts as
    /// here then, so that every wait ends with its message.
    broken: bool,
}

impl<'a> Acquired<'a> {
    /// Experts that are all in place.
    pub(super) fn in_place(
        tensors: &'a TensorStore,
        board: &'a Board,
        request: &Request<'a>,
        held: &'a mut Held,
    ) -> Self {
        let &Request { bank, ids, phase, stop, .. } = request;
        Self { tensors, board, streamed: None, bank, ids, held, stop, phase, broken: false }
    }

    /// Takes hold of the experts that are here and begins to read the others, in order, as far as there is room.
    pub(super) fn streamed(
        streamed: &'a Streamed,
        board: &'a Board,
        request: &Request<'a>,
        held: &'a mut Held,
    ) -> Self {
        let &Request { bank, ids, phase, stop, .. } = request;
        let tensors = &*streamed.tensors;
        held.entries.clear();
        held.slots.clear();
        held.entries.resize(ids.len(), NONE);
        held.slots.resize(ids.len(), None);
        held.next = 0;
        let mut shared = streamed.readers.lock();
        let broken = shared.broken.is_some();
        let mut acquired =
            Self { tensors, board, streamed: Some(streamed), bank, ids, held, stop, phase, broken };
        streamed.guessing.compare(bank, ids, &mut shared, board);
        let uses = ids.iter().enumerate().map(|(i, &id)| (id, (request.uses)(i)));
        shared.stats.ahead[bank].useful += shared.cache.request(bank, uses);
        shared.recall_wrong();
        let mut missed = 0;
        for (i, &id) in ids.iter().enumerate() {
            let size = tensors.bank(bank).expert_bytes(id as usize);
            let found = shared.cache.find(bank, id);
            let here =
                found.is_some_and(|entry| matches!(shared.cache.entry(entry).state, State::Here { .. }));
            // Read ahead is read.
            let ahead = found.is_some_and(|entry| shared.cache.guessed_right(entry));
            let count = shared.stats.phase(phase);
            count.used += 1;
            count.used_bytes += size;
            if !here || ahead {
                count.missed += 1;
                count.missed_bytes += size;
                missed += 1;
            }
            if let Some(entry) = found {
                if !here {
                    shared.promote(entry);
                }
                acquired.hold(&mut shared, i, entry);
            }
        }
        acquired.pump(streamed, &mut shared);
        board.missed(bank, missed);
        board.counters(&shared.stats);
        drop(shared);
        acquired
    }

    /// Whether an expert, by its place in the list, is here.
    pub fn ready(&self, index: usize) -> bool {
        let here = || self.held.slots[index].as_ref().is_some_and(|slot| slot.get().is_some());
        self.streamed.is_none() || !self.broken && here()
    }

    /// Whether an expert, by its place in the list, has a slot: it is here or on its way.
    pub fn coming(&self, index: usize) -> bool {
        self.streamed.is_none() || self.held.entries[index] != NONE
    }

    /// Waits until an expert is here.
    ///
    /// # Errors
    /// [`EngineError::Expert`] when it could not be read, [`EngineError::Cancelled`].
    pub fn wait(&mut self, index: usize) -> Result<()> {
        let Some(streamed) = self.streamed.filter(|_| !self.ready(index)) else { return Ok(()) };
        let readers = &streamed.readers;
        let mut shared = readers.lock();
        let since = now();
        let _waiting = self.board.waits();
        loop {
            self.pump(streamed, &mut shared);
            if self.ready(index) {
                shared.stats.phase(self.phase).stall += now().duration_since(since);
                self.board.counters(&shared.stats);
                return Ok(());
            }
            if let Some(source) = self.problem(&mut shared, index) {
                let (layer, expert) = (self.tensors.bank(self.bank).key.layer, self.ids[index] as usize);
                return Err(EngineError::Expert { layer, expert, source });
            }
            if (self.stop)() {
                return Err(EngineError::Cancelled);
            }
            shared = readers.wait(shared, LOOK);
        }
    }

    /// Why an expert will not come, if it will not.
    fn problem(&self, shared: &mut MutexGuard<'_, Queues>, index: usize) -> Option<io::Error> {
        if let Some(message) = &shared.broken {
            return Some(io::Error::other(message.clone()));
        }
        let entry = self.held.entries[index];
        if entry == NONE {
            return None;
        }
        let State::Reading(reading) = shared.cache.entry(entry).state else { return None };
        if !reading.failed || reading.left > 0 {
            return None;
        }
        let at = shared.problems.iter().position(|(of, _)| *of == entry);
        let first = at.map(|at| shared.problems.swap_remove(at).1);
        Some(first.unwrap_or_else(|| io::Error::other("it failed before it was asked for")))
    }

    /// The matrices of an expert that is here, in the order of its bank.
    ///
    /// # Panics
    /// If it is not here.
    pub fn view(&self, index: usize) -> [Option<QMatrix<'_>>; MOST_MATRICES] {
        let id = self.ids[index];
        match self.streamed {
            None => {
                let matrices = self.tensors.bank(self.bank).expert(id as usize);
                std::array::from_fn(|i| matrices.get(i).map(|matrix| self.tensors.view(matrix)))
            }
            Some(streamed) => {
                let slot = self.held.slots[index].as_ref().and_then(|slot| slot.get());
                let slot = slot.expect("experts are viewed when they are here");
                streamed.readers.source().view(self.tensors, self.bank, id, slot)
            }
        }
    }

    /// These have been used: their slots may serve others.
    pub fn done(&mut self, range: Range<usize>) {
        let Some(streamed) = self.streamed else { return };
        let mut shared = streamed.readers.lock();
        range.for_each(|index| self.let_go(&mut shared, index));
        self.pump(streamed, &mut shared);
        streamed.readers.wake_for_retired(&shared);
    }

    fn hold(&mut self, shared: &mut Queues, index: usize, entry: u32) {
        let found = shared.cache.entry_mut(entry);
        found.pins += 1;
        self.held.entries[index] = entry;
        self.held.slots[index] = Some(Arc::clone(&found.slot));
    }

    fn let_go(&mut self, shared: &mut Queues, index: usize) {
        self.held.slots[index] = None;
        let entry = std::mem::replace(&mut self.held.entries[index], NONE);
        if entry != NONE && shared.cache.unpin(entry) {
            shared.recall(entry);
        }
    }

    /// Begins as many of the missing reads as there are slots for.
    fn pump(&mut self, streamed: &Streamed, shared: &mut Queues) {
        streamed.forget(shared);
        let mut begun = false;
        while self.held.next < self.ids.len() {
            let index = self.held.next;
            if self.held.entries[index] == NONE {
                if !streamed.start(shared, self.bank, self.ids[index], false) {
                    break;
                }
                let entry = shared.cache.find(self.bank, self.ids[index]).expect("it has just begun");
                self.hold(shared, index, entry);
                begun = true;
            }
            self.held.next += 1;
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
        for index in 0..self.held.entries.len() {
            self.let_go(&mut shared, index);
        }
        shared.problems.clear();
        streamed.forget(&mut shared);
        streamed.readers.wake_for_retired(&shared);
    }
}
