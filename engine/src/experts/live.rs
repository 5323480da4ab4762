//! What the expert store is doing, for whoever watches from another thread: plain atomics that the store writes as it goes and
//! nobody waits for. A picture taken in the midst of a step may show one layer before it and the next one after it. It must
//! not know who watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use super::stats::{Phase, StoreStats};
use crate::api::{ExpertCell, ExpertGuess, ExpertMap, ExpertPlace, ExpertRow, ExpertUse, MemoryUse};
use crate::memory;

/// Where the store notes what it does. Each number has one writer at a time: whoever runs the forward pass, or holds the lock
/// of the cache.
#[derive(Debug)]
pub struct Board {
    layers: Vec<LayerBoard>,
    /// Tokens of the passes that have begun; stamps are taken from it.
    clock: AtomicU64,
    /// The layer that was asked last.
    last: AtomicUsize,
    decode: PhaseBoard,
    prefill: PhaseBoard,
    read_bytes: AtomicU64,
    reads: AtomicU64,
    waiting: AtomicBool,
}

#[derive(Debug)]
struct LayerBoard {
    /// Experts that are kept at rest.
    slots: AtomicUsize,
    /// A code of [`ExpertPlace`] for each expert.
    places: Vec<AtomicU8>,
    /// The clock when each expert was last used, 0 if never.
    used: Vec<AtomicU64>,
    /// Twice the clock when each expert was last guessed, and one more if rightly; 0 if never.
    guessed: Vec<AtomicU64>,
    asked: AtomicU64,
    missed: AtomicU64,
    chosen: AtomicU64,
    foreseen: AtomicU64,
}

#[derive(Debug, Default)]
struct PhaseBoard {
    tokens: AtomicU64,
    used: AtomicU64,
    used_bytes: AtomicU64,
    missed_bytes: AtomicU64,
    stall_ns: AtomicU64,
}

/// Computing stands still.
pub struct Waiting<'a>(&'a Board);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.store(false, Relaxed);
    }
}

/// Adds to a number that nobody else writes now: cheaper than an atomic addition.
fn add(to: &AtomicU64, more: u64) {
    to.store(to.load(Relaxed) + more, Relaxed);
}

impl Board {
    /// For layers with so many experts, 0 for dense ones, of which so many are kept; all are elsewhere.
    pub fn new(experts: &[usize], slots: &[usize]) -> Self {
        let layers = experts.iter().zip(slots).map(|(&experts, &slots)| LayerBoard {
            slots: AtomicUsize::new(slots),
            places: (0..experts).map(|_| AtomicU8::new(0)).collect(),
            used: (0..experts).map(|_| AtomicU64::new(0)).collect(),
            guessed: (0..experts).map(|_| AtomicU64::new(0)).collect(),
            asked: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            chosen: AtomicU64::new(0),
            foreseen: AtomicU64::new(0),
        });
        Self {
            layers: layers.collect(),
            clock: AtomicU64::new(0),
            last: AtomicUsize::new(usize::MAX),
            decode: PhaseBoard::default(),
            prefill: PhaseBoard::default(),
            read_bytes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
        }
    }

    /// For layers all of whose experts are in memory.
    pub fn resident(experts: &[usize]) -> Self {
        let board = Self::new(experts, experts);
        let places = board.layers.iter().flat_map(|layer| &layer.places);
        places.for_each(|place| place.store(code(ExpertPlace::Resident), Relaxed));
        board
    }

    /// A layer's experts are asked for by so many tokens.
    pub fn asked(&self, layer: usize, experts: &[u32], tokens: usize) {
        // A pass has begun when the number does not grow.
        if layer <= self.last.swap(layer, Relaxed) {
            add(&self.clock, tokens as u64);
            add(&self.phase(tokens > 1).tokens, tokens as u64);
        }
        let clock = self.clock.load(Relaxed);
        let layer = &self.layers[layer];
        add(&layer.asked, experts.len() as u64);
        for &expert in experts {
            layer.used[expert as usize].store(clock, Relaxed);
        }
    }

    /// Of what was asked of a layer so many were not there.
    pub fn missed(&self, layer: usize, experts: u64) {
        add(&self.layers[layer].missed, experts);
    }

    /// A layer's experts were guessed before it chose.
    pub fn guessed(&self, layer: usize, guesses: &[u32], chosen: &[u32], foreseen: u64) {
        let clock = self.clock.load(Relaxed);
        let layer = &self.layers[layer];
        add(&layer.chosen, chosen.len() as u64);
        add(&layer.foreseen, foreseen);
        for expert in guesses {
            let right = u64::from(chosen.contains(expert));
            layer.guessed[*expert as usize].store((clock << 1) | right, Relaxed);
        }
    }

    /// An expert comes, is here, or has left.
    pub fn place(&self, layer: usize, expert: u32, place: ExpertPlace) {
        self.layers[layer].places[expert as usize].store(code(place), Relaxed);
    }

    /// A layer keeps fewer experts.
    pub fn slots(&self, layer: usize, slots: usize) {
        self.layers[layer].slots.store(slots, Relaxed);
    }

    /// Computing stands still until the result is dropped.
    pub fn waits(&self) -> Waiting<'_> {
        self.waiting.store(true, Relaxed);
        Waiting(self)
    }

    /// The store's counters of now.
    pub fn counters(&self, stats: &StoreStats) {
        for (board, phase) in [(&self.decode, &stats.decode), (&self.prefill, &stats.prefill)] {
            board.counters(phase);
        }
        self.read_bytes.store(stats.bytes_read, Relaxed);
        self.reads.store(stats.reads, Relaxed);
    }

    fn phase(&self, prefill: bool) -> &PhaseBoard {
        if prefill { &self.prefill } else { &self.decode }
    }
}

impl PhaseBoard {
    fn counters(&self, phase: &Phase) {
        self.used.store(phase.used, Relaxed);
        self.used_bytes.store(phase.used_bytes, Relaxed);
        self.missed_bytes.store(phase.missed_bytes, Relaxed);
        self.stall_ns.store(u64::try_from(phase.stall.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    fn read(&self) -> ExpertUse {
        ExpertUse {
            tokens: self.tokens.load(Relaxed),
            used: self.used.load(Relaxed),
            used_bytes: self.used_bytes.load(Relaxed),
            missed_bytes: self.missed_bytes.load(Relaxed),
            stall: Duration::from_nanos(self.stall_ns.load(Relaxed)),
        }
    }
}

fn code(place: ExpertPlace) -> u8 {
    match place {
        ExpertPlace::Absent => 0,
        ExpertPlace::Loading => 1,
        ExpertPlace::Resident => 2,
    }
}

fn place(code: u8) -> ExpertPlace {
    match code {
        0 => ExpertPlace::Absent,
        1 => ExpertPlace::Loading,
        _ => ExpertPlace::Resident,
    }
}

/// Takes pictures of the experts of a model while it computes. Any thread may; computing never waits for it.
#[derive(Debug, Clone)]
pub struct Live {
    pub(crate) board: Arc<Board>,
    pub(crate) budget_bytes: u64,
    pub(crate) slot_bytes: u64,
    /// Bytes that went back because memory got tight; `None` where nobody watches that.
    pub(crate) given_back: Option<Arc<AtomicU64>>,
}

impl Live {
    /// What is where now, and what happened so far.
    pub fn map(&self) -> ExpertMap {
        let board = &*self.board;
        let clock = board.clock.load(Relaxed);
        // Whoever computes may be ahead of what was read first.
        let age = |stamp: u64| clock.saturating_sub(stamp);
        let row = |(number, layer): (usize, &LayerBoard)| {
            let cell = |((place_code, used), guessed): ((&AtomicU8, &AtomicU64), &AtomicU64)| {
                let (used, guessed) = (used.load(Relaxed), guessed.load(Relaxed));
                ExpertCell {
                    place: place(place_code.load(Relaxed)),
                    used: (used > 0).then(|| age(used)),
                    guessed: (guessed > 0)
                        .then(|| ExpertGuess { right: guessed & 1 == 1, age: age(guessed >> 1) }),
                }
            };
            ExpertRow {
                layer: number,
                slots: layer.slots.load(Relaxed),
                cells: layer.places.iter().zip(&layer.used).zip(&layer.guessed).map(cell).collect(),
                asked: layer.asked.load(Relaxed),
                missed: layer.missed.load(Relaxed),
                chosen: layer.chosen.load(Relaxed),
                foreseen: layer.foreseen.load(Relaxed),
            }
        };
        let with_experts = board.layers.iter().enumerate().filter(|(_, layer)| !layer.places.is_empty());
        let given_back_bytes = self.given_back.as_ref().map_or(0, |bytes| bytes.load(Relaxed));
        ExpertMap {
            rows: with_experts.map(row).collect(),
            decode: board.decode.read(),
            prefill: board.prefill.read(),
            read_bytes: board.read_bytes.load(Relaxed),
            reads: board.reads.load(Relaxed),
            waiting: board.waiting.load(Relaxed),
            memory: MemoryUse {
                owned_bytes: memory::owned_bytes(),
                budget_bytes: self.budget_bytes,
                slot_bytes: self.slot_bytes.saturating_sub(given_back_bytes),
                given_back_bytes,
            },
        }
    }
}
