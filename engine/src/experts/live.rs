//! State and counters of the expert store for readers on other threads: plain atomics that the store writes
//! and never waits for. A picture taken during a pass may show one bank before a request and the next one
//! after it. It must not know its readers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use moelten_loader::spec::BankKey;
use moelten_loader::tensors::bank::ExpertBank;

use super::live_device::LiveDevice;
use super::stats::{Phase, PhaseStats, StoreStats};
use crate::api::{ExpertCell, ExpertMap, ExpertPlace, ExpertPrediction, ExpertRow, ExpertUse, MemoryUse};
use crate::runtime::memory;

/// State and counters of the store. Each number has one writer at a time: the thread that runs the forward
/// pass, or the holder of the cache's lock.
#[derive(Debug)]
pub struct LiveState {
    banks: Vec<BankState>,
    /// Tokens of all passes that have begun. Uses and predictions are stamped with it.
    clock: AtomicU64,
    /// The bank of the last request; `usize::MAX` before the first.
    last_bank: AtomicUsize,
    decode: PhaseCounts,
    prefill: PhaseCounts,
    read_bytes: AtomicU64,
    reads: AtomicU64,
    stalled: AtomicBool,
    /// Counters of a device.
    pub(super) device: LiveDevice,
}

#[derive(Debug)]
struct BankState {
    key: BankKey,
    /// Experts that the bank keeps resident between requests.
    slots: AtomicUsize,
    /// The [`code`] of each expert's place.
    places: Vec<AtomicU8>,
    /// Whether a device has each expert.
    on_device: Vec<AtomicBool>,
    /// The clock at each expert's last use; 0 if it was never used.
    used: Vec<AtomicU64>,
    /// Twice the clock at each expert's last prediction, plus 1 if it was correct; 0 if it was never
    /// predicted.
    predictions: Vec<AtomicU64>,
    requested: AtomicU64,
    missed: AtomicU64,
    chosen: AtomicU64,
    predicted: AtomicU64,
}

#[derive(Debug, Default)]
struct PhaseCounts {
    tokens: AtomicU64,
    used: AtomicU64,
    used_bytes: AtomicU64,
    missed_bytes: AtomicU64,
    stall_ns: AtomicU64,
}

/// While it lives, the store shows that computing is stalled on a read.
pub struct Stalled<'a>(&'a LiveState);

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        self.0.stalled.store(false, Relaxed);
    }
}

/// Adds to a number that has no other writer now, which is cheaper than an atomic addition.
fn add(to: &AtomicU64, more: u64) {
    to.store(to.load(Relaxed) + more, Relaxed);
}

impl LiveState {
    /// State of these banks with `slots[bank]` slots each and no expert resident.
    pub fn new(banks: &[ExpertBank], slots: &[usize]) -> Self {
        let shape = banks.iter().zip(slots).map(|(bank, &slots)| (bank.key, bank.experts(), slots));
        Self::of_shape(shape)
    }

    /// State of banks of these keys, numbers of experts and numbers of slots, with no expert resident.
    pub(super) fn of_shape(banks: impl Iterator<Item = (BankKey, usize, usize)>) -> Self {
        let banks = banks.map(|(key, experts, slots)| BankState {
            key,
            slots: AtomicUsize::new(slots),
            places: (0..experts).map(|_| AtomicU8::new(0)).collect(),
            on_device: (0..experts).map(|_| AtomicBool::new(false)).collect(),
            used: (0..experts).map(|_| AtomicU64::new(0)).collect(),
            predictions: (0..experts).map(|_| AtomicU64::new(0)).collect(),
            requested: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            chosen: AtomicU64::new(0),
            predicted: AtomicU64::new(0),
        });
        Self {
            banks: banks.collect(),
            clock: AtomicU64::new(0),
            last_bank: AtomicUsize::new(usize::MAX),
            decode: PhaseCounts::default(),
            prefill: PhaseCounts::default(),
            read_bytes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
            device: LiveDevice::default(),
        }
    }

    /// State of banks whose experts are all resident.
    pub fn resident(banks: &[ExpertBank]) -> Self {
        let state = Self::new(banks, &banks.iter().map(ExpertBank::experts).collect::<Vec<_>>());
        let places = state.banks.iter().flat_map(|bank| &bank.places);
        places.for_each(|place| place.store(code(ExpertPlace::Resident), Relaxed));
        state
    }

    /// Counts a request for these experts of a bank by a pass of `tokens` tokens.
    pub fn requested(&self, bank: usize, experts: &[u32], tokens: usize, phase: Phase) {
        // Banks are requested in ascending order, so a number that does not grow begins a pass.
        if bank <= self.last_bank.swap(bank, Relaxed) {
            add(&self.clock, tokens as u64);
            add(&self.phase(phase).tokens, tokens as u64);
        }
        let clock = self.clock.load(Relaxed);
        let bank = &self.banks[bank];
        add(&bank.requested, experts.len() as u64);
        for &expert in experts {
            bank.used[expert as usize].store(clock, Relaxed);
        }
    }

    /// Counts requested experts of a bank that had to be read.
    pub fn missed(&self, bank: usize, experts: u64) {
        add(&self.banks[bank].missed, experts);
    }

    /// Counts a prediction that was made for a bank: the `likeliest` experts, the `chosen` ones, and how many
    /// are both.
    pub fn predicted(&self, bank: usize, likeliest: &[u32], chosen: &[u32], both: u64) {
        let clock = self.clock.load(Relaxed);
        let bank = &self.banks[bank];
        add(&bank.chosen, chosen.len() as u64);
        add(&bank.predicted, both);
        for expert in likeliest {
            let correct = u64::from(chosen.contains(expert));
            bank.predictions[*expert as usize].store((clock << 1) | correct, Relaxed);
        }
    }

    /// Shows where an expert is now.
    pub fn set_place(&self, bank: usize, expert: u32, place: ExpertPlace) {
        self.banks[bank].places[expert as usize].store(code(place), Relaxed);
    }

    /// Shows whether a device has an expert.
    pub fn set_on_device(&self, bank: usize, expert: u32, has: bool) {
        self.banks[bank].on_device[expert as usize].store(has, Relaxed);
    }

    /// Shows that no device has any expert.
    pub fn nothing_on_device(&self) {
        self.banks.iter().flat_map(|bank| &bank.on_device).for_each(|has| has.store(false, Relaxed));
    }

    /// Shows how many experts a bank keeps resident between requests.
    pub fn set_slots(&self, bank: usize, slots: usize) {
        self.banks[bank].slots.store(slots, Relaxed);
    }

    /// Shows that computing is stalled, until the result is dropped.
    pub fn stall(&self) -> Stalled<'_> {
        self.stalled.store(true, Relaxed);
        Stalled(self)
    }

    /// Shows the store's counters.
    pub fn set_counters(&self, stats: &StoreStats) {
        self.decode.set(&stats.decode);
        self.prefill.set(&stats.prefill);
        self.read_bytes.store(stats.bytes_read, Relaxed);
        self.reads.store(stats.reads, Relaxed);
    }

    fn phase(&self, phase: Phase) -> &PhaseCounts {
        match phase {
            Phase::Prefill => &self.prefill,
            Phase::Decode => &self.decode,
        }
    }
}

impl PhaseCounts {
    fn set(&self, phase: &PhaseStats) {
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
        ExpertPlace::Device => 3,
    }
}

fn place(code: u8) -> ExpertPlace {
    match code {
        0 => ExpertPlace::Absent,
        1 => ExpertPlace::Loading,
        2 => ExpertPlace::Resident,
        _ => ExpertPlace::Device,
    }
}

/// Shows the experts of a model while it computes. Any thread may use it; computing never waits for it.
#[derive(Debug, Clone)]
pub struct LiveView {
    pub(crate) state: Arc<LiveState>,
    pub(crate) budget_bytes: u64,
    pub(crate) slot_bytes: u64,
    /// Bytes of slots that were released because free memory ran short; `None` where the cache never shrinks.
    pub(crate) released: Option<Arc<AtomicU64>>,
}

impl LiveView {
    /// A picture of all experts now, and counts since the model was opened.
    pub fn map(&self) -> ExpertMap {
        let state = &*self.state;
        let clock = state.clock.load(Relaxed);
        // The pass goes on while this reads: a stamp may be later than the clock that was read first.
        let age = |stamp: u64| clock.saturating_sub(stamp);
        let row = |bank: &BankState| {
            let cell = |expert: usize| {
                let of = |stamps: &[AtomicU64]| stamps[expert].load(Relaxed);
                let (used, predicted) = (of(&bank.used), of(&bank.predictions));
                let on_device = bank.on_device[expert].load(Relaxed);
                let here = place(bank.places[expert].load(Relaxed));
                ExpertCell {
                    place: if on_device { ExpertPlace::Device } else { here },
                    used: (used > 0).then(|| age(used)),
                    prediction: (predicted > 0)
                        .then(|| ExpertPrediction { correct: predicted & 1 == 1, age: age(predicted >> 1) }),
                }
            };
            ExpertRow {
                layer: bank.key.layer,
                bank: bank.key.bank,
                slots: bank.slots.load(Relaxed),
                cells: (0..bank.places.len()).map(cell).collect(),
                requested: bank.requested.load(Relaxed),
                missed: bank.missed.load(Relaxed),
                chosen: bank.chosen.load(Relaxed),
                predicted: bank.predicted.load(Relaxed),
            }
        };
        ExpertMap {
            rows: state.banks.iter().map(row).collect(),
            decode: state.decode.read(),
            prefill: state.prefill.read(),
            read_bytes: state.read_bytes.load(Relaxed),
            reads: state.reads.load(Relaxed),
            stalled: state.stalled.load(Relaxed),
            memory: self.memory(),
            gpu: state.device.read(),
        }
    }

    /// Memory of the process and of the cache now.
    pub fn memory(&self) -> MemoryUse {
        let released_bytes = self.released.as_ref().map_or(0, |bytes| bytes.load(Relaxed));
        MemoryUse {
            owned_bytes: memory::owned_bytes(),
            mapped_bytes: memory::mapped_bytes(),
            budget_bytes: self.budget_bytes,
            slot_bytes: self.slot_bytes.saturating_sub(released_bytes),
            released_bytes,
        }
    }
}
