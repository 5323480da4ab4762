//! The expert store: the only way by which the MoE layer gets expert weights. `acquire` names the experts of a
//! layer; what it returns gives each expert's weights as soon as they are here and keeps them in place until they have
//! been used. What is resident, who leaves and where bytes come from is decided behind this interface and never changes a
//! result.
//!
//! It must not know tensor names, nor how experts are multiplied.

pub mod cache;
pub mod live;
pub mod policy;
mod readers;
pub mod replay;
pub mod slots;
pub mod source;
pub mod stats;
mod touch;
pub mod trace;

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use moelten_loader::io::pieces::Piece;
use moelten_loader::io::read_at::Access;
use moelten_loader::spec::{Activation, Ffn, ModelSpec};
use moelten_loader::tensors::store::{MlpRef, TensorStore};

use crate::error::{EngineError, Result};
use crate::layers::mlp::MlpView;
use crate::layers::moe::Visits;
use crate::plan::Cached;
use cache::{Cache, Slot, State};
use live::Board;
use policy::Policy;
pub use readers::DEPTH;
use readers::{Readers, Shared};
use slots::Slots;
use source::Source;
use stats::{Ahead, Phase, StoreStats};

/// How often whoever waits for a read looks whether to stop.
pub(crate) const LOOK: Duration = Duration::from_millis(20);
/// Guesses on their way at the same time.
const MOST_GUESSES: usize = 2;
/// Guesses after which it is judged whether they pay, and how long they rest if they do not.
const TRIAL: u64 = 64;
/// Requests that go without guesses after a bad trial.
const REST: u64 = 4096;

/// No entry of the cache.
const NONE: u32 = u32::MAX;

/// Gives out expert weights.
pub struct ExpertStore {
    tensors: Arc<TensorStore>,
    /// Activation of the experts of each layer; `None` for dense layers.
    activations: Vec<Option<Activation>>,
    place: Place,
    /// What it does, for those who watch.
    board: Arc<Board>,
}

enum Place {
    /// Every expert is used where the tensor store has it.
    InPlace(Mutex<StoreStats>),
    /// Some are in slots.
    Cached { readers: Readers, guessing: Guessing },
}

/// Whether the next layer's experts are guessed and read ahead.
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

struct Guessing {
    prefetch: Prefetch,
    state: Mutex<Guesses>,
}

/// What was guessed, and whether it pays.
#[derive(Default)]
struct Guesses {
    /// The layer that was guessed at, and its experts.
    layer: usize,
    experts: Vec<u32>,
    /// Guesses read and useful when the trial began.
    trial: Ahead,
    /// Requests until the next trial.
    rest: u64,
}

/// The experts of a request, remembered between calls so that no request allocates.
#[derive(Default)]
pub struct Held {
    entries: Vec<u32>,
    slots: Vec<Option<Slot>>,
    /// The first that may have no slot yet.
    next: usize,
}

/// Experts of one layer in the order of their use, held in place until they are done.
pub struct Acquired<'a> {
    store: &'a ExpertStore,
    layer: usize,
    ids: &'a [u32],
    held: &'a mut Held,
    cancel: &'a AtomicBool,
    prefill: bool,
}

impl ExpertStore {
    /// A store whose experts are used where `tensors` has them.
    pub fn in_place(spec: &ModelSpec, tensors: Arc<TensorStore>) -> Self {
        let experts: Vec<_> = (0..spec.layers.len()).map(|layer| tensors.experts(layer).len()).collect();
        let board = Arc::new(Board::resident(&experts));
        let place = Place::InPlace(Mutex::default());
        Self { activations: activations(spec), tensors, place, board }
    }

    /// A store that keeps the experts that there is room for, in `slots` that were reserved for it.
    ///
    /// # Errors
    /// When the reading threads do not start.
    pub fn cached(
        spec: &ModelSpec,
        tensors: Arc<TensorStore>,
        source: Source,
        (room, slots): (&Cached, Slots),
        prefetch: Prefetch,
    ) -> io::Result<Self> {
        let pieces = slots.into_pieces();
        let longest = pieces.iter().flatten().map(Piece::len).max().unwrap_or(0);
        let most_parts = source::most_parts(longest);
        let cache = Cache::new(&room.shape, Policy::default(), pieces, most_parts);
        let stats = StoreStats { ahead: vec![Ahead::default(); spec.layers.len()], ..StoreStats::default() };
        let board = Arc::clone(cache.board());
        let readers = Readers::start(source, Arc::clone(&tensors), cache, stats)?;
        let guessing = Guessing { prefetch, state: Mutex::default() };
        Ok(Self {
            activations: activations(spec),
            tensors,
            place: Place::Cached { readers, guessing },
            board,
        })
    }

    /// The matrices of an expert: formats and shapes, wherever its bytes are.
    ///
    /// # Panics
    /// If the layer has no such expert.
    pub fn matrices(&self, layer: usize, expert: u32) -> &MlpRef {
        &self.tensors.experts(layer)[expert as usize]
    }

    /// Whether some experts may have to be read.
    pub fn streams(&self) -> bool {
        matches!(self.place, Place::Cached { .. })
    }

    /// Takes hold of the experts of `layer` that `visits` lists. What is missing begins to be read, in order, as far as there
    /// is room. One request at a time: a forward pass is one.
    pub fn acquire<'a>(
        &'a self,
        layer: usize,
        visits: &'a Visits,
        tokens: usize,
        held: &'a mut Held,
        cancel: &'a AtomicBool,
    ) -> Acquired<'a> {
        let ids = &visits.experts[..];
        let prefill = tokens > 1;
        let bytes = |id: u32| self.matrices(layer, id).bytes();
        self.board.asked(layer, ids, tokens);
        match &self.place {
            Place::InPlace(stats) => {
                let mut stats = stats.lock().unwrap_or_else(PoisonError::into_inner);
                let phase = phase(&mut stats, prefill);
                phase.used += ids.len() as u64;
                phase.used_bytes += ids.iter().map(|&id| bytes(id)).sum::<u64>();
                self.board.counters(&stats);
                Acquired { store: self, layer, ids, held, cancel, prefill }
            }
            Place::Cached { readers, guessing } => {
                held.entries.clear();
                held.slots.clear();
                held.entries.resize(ids.len(), NONE);
                held.slots.resize(ids.len(), None);
                held.next = 0;
                let mut acquired = Acquired { store: self, layer, ids, held, cancel, prefill };
                let mut shared = readers.lock();
                guessing.compare(layer, ids, &mut shared, &self.board);
                let uses = ids.iter().enumerate().map(|(i, &id)| (id, visits.of(i).len() as u32));
                shared.stats.ahead[layer].useful += shared.cache.request(layer, uses);
                shared.recall_wrong();
                let mut missed = 0;
                for (i, &id) in ids.iter().enumerate() {
                    let size = bytes(id);
                    let found = shared.cache.find(layer, id);
                    let here = found
                        .is_some_and(|entry| matches!(shared.cache.entry(entry).state, State::Here { .. }));
                    // Read ahead is read.
                    let ahead = found.is_some_and(|entry| shared.cache.guessed_right(entry));
                    let phase = phase(&mut shared.stats, prefill);
                    phase.used += 1;
                    phase.used_bytes += size;
                    if !here || ahead {
                        phase.missed += 1;
                        phase.missed_bytes += size;
                        missed += 1;
                    }
                    if let Some(entry) = found {
                        if !here {
                            shared.promote(entry);
                        }
                        acquired.hold(&mut shared, i, entry);
                    }
                }
                acquired.pump(readers, &mut shared);
                self.board.missed(layer, missed);
                self.board.counters(&shared.stats);
                drop(shared);
                acquired
            }
        }
    }

    /// Whether it is worth guessing at the next layer's experts now.
    pub fn guesses(&self) -> bool {
        match &self.place {
            Place::InPlace(_) => false,
            Place::Cached { readers, guessing } => guessing.wanted(readers),
        }
    }

    /// Reads the likely experts of `layer`, the likeliest first, as far as they are missing, while nothing else is read.
    pub fn look_ahead(&self, layer: usize, likely: &[u32]) {
        let Place::Cached { readers, guessing } = &self.place else { return };
        let mut guesses = guessing.lock();
        guesses.layer = layer;
        guesses.experts.clear();
        guesses.experts.extend_from_slice(likely);
        drop(guesses);
        let mut shared = readers.lock();
        let missing = likely.iter().filter(|&&id| shared.cache.find(layer, id).is_none());
        let missing: [Option<u32>; MOST_GUESSES] = {
            let mut missing = missing.copied();
            std::array::from_fn(|_| missing.next())
        };
        for id in missing.into_iter().flatten() {
            if !self.start(readers, &mut shared, layer, id, true) {
                break;
            }
            shared.stats.ahead[layer].read += 1;
        }
        drop(shared);
        readers.wake();
    }

    /// A sequence that may ask for experts is open, or is gone.
    pub(crate) fn session(&self, open: bool) {
        let Place::Cached { readers, .. } = &self.place else { return };
        let touch = &mut readers.lock().touch;
        if open { touch.opened(Instant::now()) } else { touch.closed() }
    }

    /// A forward pass begins, or has ended.
    pub(crate) fn pass(&self, begins: bool) {
        let Place::Cached { readers, .. } = &self.place else { return };
        let touch = &mut readers.lock().touch;
        if begins { touch.begun() } else { touch.ended(Instant::now()) }
    }

    /// How files are read; `None` where they are mapped.
    pub fn access(&self) -> Option<Access> {
        match &self.place {
            Place::Cached { readers, .. } => match readers.source() {
                Source::Slots { access, .. } => Some(*access),
                Source::Mapped => None,
            },
            Place::InPlace(_) => None,
        }
    }

    /// What it does, for those who watch.
    pub(crate) fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Counters since the start.
    pub fn stats(&self) -> StoreStats {
        match &self.place {
            Place::InPlace(stats) => stats.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Place::Cached { readers, .. } => readers.lock().stats.clone(),
        }
    }

    /// Lowers the number of experts that each layer keeps. Returns the bytes that went back to the system.
    pub fn shrink(&self, quotas: &[usize]) -> usize {
        match &self.place {
            Place::InPlace(_) => 0,
            Place::Cached { readers, .. } => {
                let mut shared = readers.lock();
                // Where memory is short nothing is taken before it is needed.
                shared.touch.over();
                let bytes = shared.cache.shrink(quotas);
                self.forget(readers, &mut shared);
                bytes
            }
        }
    }

    /// Raises the number of experts that each layer keeps, where [`Self::shrink`] has lowered it.
    pub fn grow(&self, quotas: &[usize]) {
        if let Place::Cached { readers, .. } = &self.place {
            readers.lock().cache.grow(quotas);
        }
    }

    /// Experts of each layer that are here; all of them where they are used in place.
    pub fn resident(&self) -> Vec<Vec<u32>> {
        let layers = 0..self.activations.len();
        match &self.place {
            Place::InPlace(_) => {
                layers.map(|layer| (0..self.tensors.experts(layer).len() as u32).collect()).collect()
            }
            Place::Cached { readers, .. } => {
                let shared = readers.lock();
                layers.map(|layer| shared.cache.here(layer).collect()).collect()
            }
        }
    }

    /// Begins to read an expert if there is a free slot.
    fn start(&self, readers: &Readers, shared: &mut Shared, layer: usize, id: u32, guess: bool) -> bool {
        if !guess {
            shared.cache.make_way(layer);
            shared.recall_wrong();
        }
        let Shared { cache, needs, guesses, .. } = shared;
        let Some((entry, slot)) = cache.begin(layer, id, guess) else { return false };
        let queue = if guess { guesses } else { needs };
        let mut left = 0;
        let rest = readers.source().parts(&self.tensors, layer, id, entry, slot, |part| {
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

    /// Tells the source who has left.
    fn forget(&self, readers: &Readers, shared: &mut Shared) {
        for (layer, expert) in shared.cache.drain_evicted() {
            readers.source().evicted(&self.tensors, layer as usize, expert);
        }
    }

    fn activation(&self, layer: usize) -> Activation {
        self.activations[layer].expect("only layers with experts are asked for experts")
    }
}

impl Acquired<'_> {
    /// Whether an expert, by its place in the list, is here.
    pub fn ready(&self, index: usize) -> bool {
        match self.store.place {
            Place::InPlace(_) => true,
            Place::Cached { .. } => self.held.slots[index].as_ref().is_some_and(|slot| slot.get().is_some()),
        }
    }

    /// Whether an expert, by its place in the list, has a slot: it is here or on its way.
    pub fn coming(&self, index: usize) -> bool {
        match self.store.place {
            Place::InPlace(_) => true,
            Place::Cached { .. } => self.held.entries[index] != NONE,
        }
    }

    /// Waits until an expert is here.
    ///
    /// # Errors
    /// [`EngineError::Expert`] when it could not be read, [`EngineError::Cancelled`].
    pub fn wait(&mut self, index: usize) -> Result<()> {
        let store = self.store;
        let Place::Cached { readers, .. } = &store.place else { return Ok(()) };
        if self.ready(index) {
            return Ok(());
        }
        let mut shared = readers.lock();
        let since = Instant::now();
        let _waiting = store.board.waits();
        loop {
            self.pump(readers, &mut shared);
            if self.ready(index) {
                phase(&mut shared.stats, self.prefill).stall += since.elapsed();
                store.board.counters(&shared.stats);
                return Ok(());
            }
            if let Some(source) = self.problem(&mut shared, index) {
                let (layer, expert) = (self.layer, self.ids[index] as usize);
                return Err(EngineError::Expert { layer, expert, source });
            }
            if self.cancel.load(Ordering::Relaxed) {
                return Err(EngineError::Cancelled);
            }
            shared = readers.wait(shared, LOOK);
        }
    }

    /// Why an expert will not come, if it will not.
    fn problem(&self, shared: &mut MutexGuard<'_, Shared>, index: usize) -> Option<io::Error> {
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

    /// The weights of an expert that is here.
    ///
    /// # Panics
    /// If it is not.
    pub fn view(&self, index: usize) -> MlpView<'_> {
        let (tensors, id) = (&*self.store.tensors, self.ids[index]);
        let activation = self.store.activation(self.layer);
        let [gate, up, down] = match &self.store.place {
            Place::InPlace(_) => {
                let m = self.store.matrices(self.layer, id);
                [tensors.view(&m.gate), tensors.view(&m.up), tensors.view(&m.down)]
            }
            Place::Cached { readers, .. } => {
                let slot = self.held.slots[index].as_ref().and_then(|slot| slot.get());
                let slot = slot.expect("experts are viewed when they are here");
                readers.source().view(tensors, self.layer, id, slot)
            }
        };
        MlpView { gate, up, down, activation }
    }

    /// These have been used: their slots may serve others.
    pub fn done(&mut self, range: Range<usize>) {
        let store = self.store;
        let Place::Cached { readers, .. } = &store.place else { return };
        let mut shared = readers.lock();
        range.for_each(|index| self.let_go(&mut shared, index));
        self.pump(readers, &mut shared);
    }

    fn hold(&mut self, shared: &mut Shared, index: usize, entry: u32) {
        let found = shared.cache.entry_mut(entry);
        found.pins += 1;
        self.held.entries[index] = entry;
        self.held.slots[index] = Some(Arc::clone(&found.slot));
    }

    fn let_go(&mut self, shared: &mut Shared, index: usize) {
        self.held.slots[index] = None;
        let entry = std::mem::replace(&mut self.held.entries[index], NONE);
        if entry != NONE && shared.cache.unpin(entry) {
            shared.recall(entry);
        }
    }

    /// Begins as many of the missing reads as there are slots for.
    fn pump(&mut self, readers: &Readers, shared: &mut Shared) {
        let store = self.store;
        store.forget(readers, shared);
        let mut begun = false;
        while self.held.next < self.ids.len() {
            let index = self.held.next;
            if self.held.entries[index] == NONE {
                if !store.start(readers, shared, self.layer, self.ids[index], false) {
                    break;
                }
                let entry = shared.cache.find(self.layer, self.ids[index]).expect("it has just begun");
                self.hold(shared, index, entry);
                begun = true;
            }
            self.held.next += 1;
        }
        if begun {
            readers.wake();
        }
    }
}

impl Drop for Acquired<'_> {
    fn drop(&mut self) {
        let store = self.store;
        let Place::Cached { readers, .. } = &store.place else { return };
        let mut shared = readers.lock();
        for index in 0..self.held.entries.len() {
            self.let_go(&mut shared, index);
        }
        shared.problems.clear();
        store.forget(readers, &mut shared);
    }
}

impl Guessing {
    fn lock(&self) -> MutexGuard<'_, Guesses> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wanted(&self, readers: &Readers) -> bool {
        match self.prefetch {
            Prefetch::On => true,
            Prefetch::Off => false,
            Prefetch::Auto => {
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
        }
    }

    /// Counts how good the guess at a layer was.
    fn compare(&self, layer: usize, ids: &[u32], shared: &mut Shared, board: &Board) {
        let mut guesses = self.lock();
        if guesses.layer == layer && !guesses.experts.is_empty() {
            let count = &mut shared.stats.ahead[layer];
            count.chosen += ids.len() as u64;
            let among = &guesses.experts[..ids.len().min(guesses.experts.len())];
            let foreseen = ids.iter().filter(|id| among.contains(id)).count() as u64;
            count.foreseen += foreseen;
            board.guessed(layer, among, ids, foreseen);
            guesses.experts.clear();
        }
    }
}

fn phase(stats: &mut StoreStats, prefill: bool) -> &mut Phase {
    if prefill { &mut stats.prefill } else { &mut stats.decode }
}

fn activations(spec: &ModelSpec) -> Vec<Option<Activation>> {
    let activation = |ffn: &Ffn| match ffn {
        Ffn::Moe(moe) => Some(moe.expert.activation),
        Ffn::Dense(_) => None,
    };
    spec.layers.iter().map(|layer| activation(&layer.ffn)).collect()
}
