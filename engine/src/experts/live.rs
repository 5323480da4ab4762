//! What the expert store is doing, for whoever watches from another thread: plain atomics that the store
//! writes as it goes and nobody waits for. A picture taken in the midst of a step may show one bank before it
//! and the next one after it. It must not know who watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use moelten_loader::spec::BankKey;
use moelten_loader::tensors::bank::ExpertBank;

use super::stats::{Phase, PhaseStats, StoreStats};
use crate::api::{ExpertCell, ExpertGuess, ExpertMap, ExpertPlace, ExpertRow, ExpertUse, MemoryUse};
use crate::runtime::memory;

/// Where the store notes what it does. Each number has one writer at a time: whoever runs the forward pass,
/// or holds the lock of the cache.
#[derive(Debug)]
pub struct Board {
    banks: Vec<BankBoard>,
    /// Tokens of the passes that have begun; stamps are taken from it.
    clock: AtomicU64,
    /// The bank that was asked last.
    last: AtomicUsize,
    decode: PhaseBoard,
    prefill: PhaseBoard,
    read_bytes: AtomicU64,
    reads: AtomicU64,
    waiting: AtomicBool,
}

#[derive(Debug)]
struct BankBoard {
    key: BankKey,
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
    /// For these banks, each of which keeps so many experts; all experts are elsewhere.
    pub fn new(banks: &[ExpertBank], slots: &[usize]) -> Self {
        let shape = banks.iter().zip(slots).map(|(bank, &slots)| (bank.key, bank.experts(), slots));
        Self::of_shape(shape)
    }

    /// For banks of these keys, numbers of experts and slots.
    pub(super) fn of_shape(banks: impl Iterator<Item = (BankKey, usize, usize)>) -> Self {
        let banks = banks.map(|(key, experts, slots)| BankBoard {
            key,
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
            banks: banks.collect(),
            clock: AtomicU64::new(0),
            last: AtomicUsize::new(usize::MAX),
            decode: PhaseBoard::default(),
            prefill: PhaseBoard::default(),
            read_bytes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
        }
    }

    /// For banks all of whose experts are in memory.
    pub fn resident(banks: &[ExpertBank]) -> Self {
        let board = Self::new(banks, &banks.iter().map(ExpertBank::experts).collect::<Vec<_>>());
        let places = board.banks.iter().flat_map(|bank| &bank.places);
        places.for_each(|place| place.store(code(ExpertPlace::Resident), Relaxed));
        board
    }

    /// A bank's experts are asked for by so many tokens.
    pub fn asked(&self, bank: usize, experts: &[u32], tokens: usize, phase: Phase) {
        // A pass has begun when the number does not grow.
        if bank <= self.last.swap(bank, Relaxed) {
            add(&self.clock, tokens as u64);
            add(&self.phase(phase).tokens, tokens as u64);
        }
        let clock = self.clock.load(Relaxed);
        let bank = &self.banks[bank];
        add(&bank.asked, experts.len() as u64);
        for &expert in experts {
            bank.used[expert as usize].store(clock, Relaxed);
        }
    }

    /// Of what was asked of a bank so many were not there.
    pub fn missed(&self, bank: usize, experts: u64) {
        add(&self.banks[bank].missed, experts);
    }

    /// A bank's experts were guessed before it chose.
    pub fn guessed(&self, bank: usize, guesses: &[u32], chosen: &[u32], foreseen: u64) {
        let clock = self.clock.load(Relaxed);
        let bank = &self.banks[bank];
        add(&bank.chosen, chosen.len() as u64);
        add(&bank.foreseen, foreseen);
        for expert in guesses {
            let right = u64::from(chosen.contains(expert));
            bank.guessed[*expert as usize].store((clock << 1) | right, Relaxed);
        }
    }

    /// An expert comes, is here, or has left.
    pub fn place(&self, bank: usize, expert: u32, place: ExpertPlace) {
        self.banks[bank].places[expert as usize].store(code(place), Relaxed);
    }

    /// A bank keeps fewer experts.
    pub fn slots(&self, bank: usize, slots: usize) {
        self.banks[bank].slots.store(slots, Relaxed);
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

    fn phase(&self, phase: Phase) -> &PhaseBoard {
        match phase {
            Phase::Prefill => &self.prefill,
            Phase::Decode => &self.decode,
        }
    }
}

impl PhaseBoard {
    fn counters(&self, phase: &PhaseStats) {
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
        let row = |bank: &BankBoard| {
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
                layer: bank.key.layer,
                bank: bank.key.bank,
                slots: bank.slots.load(Relaxed),
                cells: bank.places.iter().zip(&bank.used).zip(&bank.guessed).map(cell).collect(),
                asked: bank.asked.load(Relaxed),
                missed: bank.missed.load(Relaxed),
                chosen: bank.chosen.load(Relaxed),
                foreseen: bank.foreseen.load(Relaxed),
            }
        };
        let given_back_bytes = self.given_back.as_ref().map_or(0, |bytes| bytes.load(Relaxed));
        ExpertMap {
            rows: board.banks.iter().map(row).collect(),
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
