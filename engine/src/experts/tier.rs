//! The experts that a device holds: which get a slot and which lose it, by the ranking alone, so that one
//! trace of requests always leaves the same content. When the device fails, the tier ends, and experts are
//! computed from RAM and file. It must not know how experts are multiplied, nor read anything.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use moelten_quant::Line;

use super::device::{DeviceOffer, ExpertDevice, ExpertView};
pub use super::device_stats::DeviceStats;
use super::head_share::HeadShare;
use super::policy::{Policy, Ranking};
use super::shared_share::SharedExperts;
use super::split::{LayerTimes, Split};

/// Most uploads for one token in one layer.
pub const MOST_UPLOADS: usize = 2;
/// Marks an expert without a slot.
const NONE: u32 = u32::MAX;
/// Uploads of a bank after which another one is verified. The first always is.
const VERIFY_EVERY: u64 = 1024;
/// Layers between two checks of whether waiting for the device took longer than doing without it.
const JUDGE_EVERY: u32 = 256;
/// Layers that are computed without the device before its times are compared with the CPU's.
const LEARN: u32 = 16;
/// A copy to the device may take as long as this many uses of an expert take without the device. What it
/// takes beyond that counts as waiting.
const PAYS_AFTER: f64 = 16.0;
/// Seconds of waiting without gain after which the device is given up.
const MOST_IN_VAIN: f64 = 5.0;

/// An expert that is computed by the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// Its index in the request.
    pub index: usize,
    /// Where the device has it, among the slots of its bank.
    pub slot: usize,
}

/// An expert that gets a slot once the layer is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upload {
    /// Id in its bank.
    pub expert: u32,
    /// Where it is copied to, among the slots of its bank.
    pub slot: usize,
    /// The expert that loses it.
    pub evicts: Option<u32>,
    /// Whether the device's outputs are compared with the CPU's after it.
    pub verify: bool,
}

/// What a device does for one token in one layer.
#[derive(Debug, Default)]
pub struct DeviceWork {
    /// In ascending order of the experts.
    pub hits: Vec<Hit>,
    /// Whether the shared expert is computed too.
    pub shared: bool,
    /// Whether its output is compared with the CPU's.
    pub check_shared: bool,
    /// Promotions.
    pub uploads: Vec<Upload>,
}

impl DeviceWork {
    /// Whether there is something to submit.
    pub fn any(&self) -> bool {
        !self.hits.is_empty() || self.shared
    }
}

/// The device with its slots.
pub struct DeviceTier {
    alive: AtomicBool,
    state: Mutex<State>,
    /// A copy for readers that must not wait for a layer.
    stats: Mutex<DeviceStats>,
}

struct State {
    device: Option<Box<dyn ExpertDevice>>,
    /// With the time of an expert on the device.
    banks: Vec<(DeviceBank, Duration)>,
    launch: Duration,
    always: bool,
    /// Average time of an expert on the CPU, and the layers that it is of.
    host: (f64, u32),
    waited: Waited,
    head: Option<HeadShare>,
    shared: SharedExperts,
}

impl State {
    /// What is known of the times of a bank's layer. Where experts are read, what the CPU takes for one
    /// is not known, and not asked for.
    fn times(&self, bank: usize, must: bool) -> Option<LayerTimes> {
        let (host, layers) = self.host;
        let host = if layers >= LEARN { Some(host) } else { must.then_some(0.0) };
        let times = LayerTimes::new(self.launch, self.banks[bank].1, host?);
        Some(LayerTimes { shared: self.shared.times(bank), ..times })
    }
}

/// What a device has cost and saved since it was last judged.
#[derive(Debug, Clone, Copy, Default)]
struct Waited {
    /// Seconds that were waited for its results.
    seconds: f64,
    /// Seconds that its experts would have taken without it.
    without: f64,
    /// Experts that it computed.
    hits: usize,
    layers: u32,
    /// Seconds that its rows of the head and its shared experts would have taken without it.
    beside: f64,
    /// Seconds of copies to it.
    copying: f64,
    copies: u32,
}

impl Waited {
    /// Whether it has been faster to do without the device: for long, or by much. `each` is what an expert
    /// takes without it, where nothing is known of reads.
    fn in_vain(&self, each: f64) -> bool {
        let each = if self.hits > 0 { self.without / self.hits as f64 } else { each };
        let copying = (self.copying - PAYS_AFTER * each * f64::from(self.copies)).max(0.0);
        let lost = self.seconds + copying - self.without - self.beside;
        lost > 0.0 && (self.layers >= JUDGE_EVERY || lost > MOST_IN_VAIN)
    }
}

/// The experts of a bank, and which of them have slots. Plain bookkeeping, for the store and for replay.
pub struct DeviceBank {
    ranking: Ranking,
    /// The slot of each expert, or `NONE`.
    slots: Vec<u32>,
    /// The expert of each slot.
    held: Vec<Option<u32>>,
    uploads: u64,
}

impl DeviceTier {
    /// A tier without experts. `experts` is the number of each bank's.
    pub fn new(offer: DeviceOffer, experts: impl Iterator<Item = usize>) -> Self {
        let stats = DeviceStats {
            slots: offer.slots.iter().sum(),
            each: offer.each.iter().copied().max().unwrap_or_default(),
            name: offer.name,
            arithmetic: offer.arithmetic,
            exact: offer.exact,
            bytes: offer.bytes,
            shared: offer.shared.iter().flatten().count(),
            shared_each: offer.shared.iter().flatten().map(|shared| shared.time).max().unwrap_or_default(),
            head_bytes: offer.head.map_or(0, |head| head.bytes),
            head_held: offer.head.map_or(0, |head| head.rows),
            head_time: offer.head.map_or(Duration::ZERO, |head| head.time),
            launch: offer.launch,
            upload: offer.upload,
            ..DeviceStats::default()
        };
        let banks = experts.zip(&offer.slots).map(|(experts, &slots)| DeviceBank::new(experts, slots));
        let banks = banks.zip(offer.each.iter().copied());
        let state = State {
            banks: banks.collect(),
            device: Some(offer.device),
            launch: offer.launch,
            always: offer.always,
            host: (0.0, 0),
            waited: Waited::default(),
            head: offer.head.map(HeadShare::new),
            shared: SharedExperts::new(offer.shared),
        };
        Self { alive: AtomicBool::new(true), state: Mutex::new(state), stats: Mutex::new(stats) }
    }

    /// Whether it is used.
    pub fn alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, change: impl FnOnce(&mut DeviceStats)) {
        change(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A copy of the counters.
    pub fn stats(&self) -> DeviceStats {
        self.with_stats(DeviceStats::clone)
    }

    /// Reads the counters.
    pub fn with_stats<R>(&self, read: impl FnOnce(&DeviceStats) -> R) -> R {
        read(&self.stats.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a request that the device does not compute: the tokens that use each expert.
    pub fn used(&self, bank: usize, uses: impl Iterator<Item = (u32, u32)>) {
        self.state().banks[bank].0.used(uses);
    }

    /// Decides about one token's experts: which the device computes, and which get a slot afterwards. `must`
    /// says that those in slots are nowhere else in memory.
    pub fn request(&self, bank: usize, ids: &[u32], must: bool, work: &mut DeviceWork) {
        let mut state = self.state();
        state.banks[bank].0.request(ids, work);
        let held = work.hits.len();
        let split = match state.times(bank, must) {
            _ if state.always => Split { experts: held, shared: state.shared.has(bank) },
            Some(times) => times.best(ids.len(), held, must),
            None => Split { experts: 0, shared: false },
        };
        work.hits.truncate(split.experts);
        work.shared = split.shared;
        work.check_shared = split.shared && state.shared.begun(bank).is_multiple_of(VERIFY_EVERY);
        self.count(|stats| {
            stats.layers += 1;
            stats.asked += ids.len() as u64;
            stats.used += split.experts as u64;
            stats.verified += u64::from(work.check_shared);
        });
    }

    /// Counts a shared expert that was computed by the device.
    pub fn shared_computed(&self, bank: usize) {
        let bytes = self.state().shared.bytes(bank);
        self.count(|stats| {
            stats.shared_used += 1;
            stats.shared_used_bytes += bytes;
        });
    }

    /// Notes how long the CPU took for a shared expert.
    pub fn shared_took(&self, bank: usize, took: Duration) {
        let slowest = self.state().shared.host_took(bank, took);
        self.count(|stats| stats.shared_host = slowest);
    }

    /// Counts the bytes of experts that were computed by the device.
    pub fn computed(&self, bytes: u64) {
        self.count(|stats| stats.used_bytes += bytes);
    }

    /// Notes how long the CPU took for `experts` experts that were all in memory.
    pub fn host_took(&self, took: Duration, experts: usize) {
        let mut state = self.state();
        let (average, layers) = &mut state.host;
        let each = took.as_secs_f64() / experts.max(1) as f64;
        *layers = layers.saturating_add(1);
        // The first ones count equally, then each a sixteenth.
        *average += (each - *average) / f64::from((*layers).min(LEARN));
        let average = Duration::from_secs_f64(average.max(0.0));
        self.count(|stats| stats.host = average);
    }

    /// Notes how long a layer waited for `hits` experts of the device after the CPU had done its part,
    /// how long reading them would have taken, and the bank whose shared expert it computed too. Returns
    /// whether it has been faster for long to do without the device.
    pub fn waited(&self, took: Duration, hits: usize, read: f64, shared: Option<usize>) -> bool {
        let mut state = self.state();
        let (host, layers) = state.host;
        let beside = shared.map_or(0.0, |bank| state.shared.host_seconds(bank));
        if state.always || layers < LEARN {
            return false;
        }
        let waited = &mut state.waited;
        waited.seconds += took.as_secs_f64();
        waited.without += hits as f64 * host + read;
        waited.beside += beside;
        waited.hits += hits;
        waited.layers += 1;
        let in_vain = waited.in_vain(host);
        if waited.layers >= JUDGE_EVERY {
            *waited = Waited::default();
        }
        in_vain
    }

    /// Whether copies to the device have taken so long that it has been faster to do without it.
    pub fn copies_in_vain(&self) -> bool {
        let state = self.state();
        !state.always && state.host.1 >= LEARN && state.waited.in_vain(state.host.0)
    }

    /// Begins to compute hits, and perhaps the shared expert. Returns whether the device does it; it is
    /// dropped if not.
    pub fn begin(&self, bank: usize, hits: &[Hit], shared: bool, input: &[Line]) -> bool {
        let slots: Vec<usize> = hits.iter().map(|hit| hit.slot).collect();
        self.with_device(|device| device.begin(bank, &slots, shared, input))
    }

    /// Waits for the outputs. Returns whether they are there; the device is dropped if not.
    pub fn finish(&self, out: &mut [f32]) -> bool {
        self.with_device(|device| device.finish(out))
    }

    /// Begins to multiply rows of the head, of which there are `all`, with a token's packed input. Returns
    /// how many the device computes, and whether these are to be compared with the CPU's.
    pub fn begin_head(&self, all: usize, input: &[Line]) -> (usize, bool) {
        let state = self.state();
        let rows = state.head.map_or(0, |head| head.rows(all, state.launch, state.always));
        drop(state);
        if rows == 0 || !self.with_device(|device| device.begin_head(rows, input)) {
            return (0, false);
        }
        let mut verify = false;
        self.count(|stats| {
            verify = stats.heads.is_multiple_of(VERIFY_EVERY);
            (stats.head_rows, stats.heads) = (rows, stats.heads + 1);
            stats.verified += u64::from(verify);
        });
        (rows, verify)
    }

    /// Waits for the rows of the head. Returns whether they are there; the device is dropped if not.
    pub fn finish_head(&self, out: &mut [f32]) -> bool {
        let since = Instant::now();
        let done = self.with_device(|device| device.finish_head(out));
        let mut state = self.state();
        if let Some(head) = state.head {
            state.waited.seconds += since.elapsed().as_secs_f64();
            state.waited.beside += head.host_seconds(out.len());
        }
        done
    }

    /// Notes how long the CPU took for rows of the head.
    pub fn head_took(&self, took: Duration, rows: usize) {
        if let Some(head) = &mut self.state().head {
            head.host_took(took, rows);
        }
    }

    /// Copies an expert to the device. Returns whether it is there; the device is dropped if not.
    pub fn upload(&self, bank: usize, upload: &Upload, expert: &ExpertView<'_>) -> bool {
        let since = Instant::now();
        let done = self.with_device(|device| device.upload(bank, upload.slot, expert));
        if done {
            let mut state = self.state();
            state.waited.copying += since.elapsed().as_secs_f64();
            state.waited.copies += 1;
            state.banks[bank].0.moved(upload);
            drop(state);
            self.count(|stats| {
                stats.uploads += 1;
                stats.held += usize::from(upload.evicts.is_none());
                stats.verified += u64::from(upload.verify);
            });
        }
        done
    }

    fn with_device(&self, work: impl FnOnce(&mut dyn ExpertDevice) -> Result<(), String>) -> bool {
        let mut state = self.state();
        let Some(device) = &mut state.device else { return false };
        let result = work(&mut **device);
        drop(state);
        match result {
            Ok(()) => true,
            Err(reason) => {
                self.drop_device(reason);
                false
            }
        }
    }

    /// Ends the tier. Every expert is where it was before the tier began.
    pub fn drop_device(&self, reason: String) {
        let mut state = self.state();
        self.alive.store(false, Ordering::Relaxed);
        // A driver that hangs would hang here too.
        std::mem::forget(state.device.take());
        for (bank, _) in &mut state.banks {
            bank.slots.fill(NONE);
            bank.held.fill(None);
        }
        self.count(|stats| {
            stats.held = 0;
            stats.dropped.get_or_insert(reason);
        });
    }
}

impl DeviceBank {
    /// A bank of `experts` experts, none of which has one of the `slots` slots.
    pub fn new(experts: usize, slots: usize) -> Self {
        let ranking = Ranking::new(Policy::default(), experts);
        Self { ranking, slots: vec![NONE; experts], held: vec![None; slots], uploads: 0 }
    }

    /// Counts a request that the device does not compute: experts and the tokens that use each.
    pub fn used(&mut self, uses: impl Iterator<Item = (u32, u32)>) {
        self.ranking.used(uses);
    }

    /// Decides about one token's experts: those that have slots, and those that get one afterwards.
    pub fn request(&mut self, ids: &[u32], work: &mut DeviceWork) {
        self.ranking.used(ids.iter().map(|&id| (id, 1)));
        work.hits.clear();
        work.uploads.clear();
        let slots = ids.iter().map(|&id| self.slots[id as usize]).enumerate();
        let hits = slots.filter(|&(_, slot)| slot != NONE);
        work.hits.extend(hits.map(|(index, slot)| Hit { index, slot: slot as usize }));
        self.promote(ids, &mut work.uploads);
    }

    /// Notes that an expert has been copied to its slot.
    pub fn moved(&mut self, upload: &Upload) {
        if let Some(evicted) = upload.evicts {
            self.slots[evicted as usize] = NONE;
        }
        self.slots[upload.expert as usize] = upload.slot as u32;
        self.held[upload.slot] = Some(upload.expert);
        self.uploads += 1;
    }

    /// Which of a token's experts get a slot: those that were used before, into free slots, or in place of
    /// experts that are used less by more than one use.
    fn promote(&self, ids: &[u32], uploads: &mut Vec<Upload>) {
        let ranking = &self.ranking;
        let mut missing: Vec<u32> =
            ids.iter().copied().filter(|&id| self.slots[id as usize] == NONE).collect();
        missing.sort_unstable_by_key(|&id| std::cmp::Reverse(ranking.value(id)));
        let mut free = self.held.iter().enumerate().filter(|(_, held)| held.is_none()).map(|(slot, _)| slot);
        let idle = |(slot, held): (usize, &Option<u32>)| {
            held.filter(|expert| !ids.contains(expert)).map(|expert| (slot, expert))
        };
        let mut victims: Vec<(usize, u32)> = self.held.iter().enumerate().filter_map(idle).collect();
        victims.sort_unstable_by_key(|&(_, expert)| ranking.value(expert));
        let mut victims = victims.into_iter();
        for expert in missing.into_iter().take(MOST_UPLOADS) {
            let value = ranking.value(expert);
            let verify = (self.uploads + uploads.len() as u64).is_multiple_of(VERIFY_EVERY);
            if let Some(slot) = free.next() {
                if value.used_before() {
                    uploads.push(Upload { expert, slot, evicts: None, verify });
                }
                continue;
            }
            let Some((slot, victim)) = victims.next() else { return };
            if value.exceeds(&ranking.value(victim)) {
                uploads.push(Upload { expert, slot, evicts: Some(victim), verify });
            }
        }
    }
}

#[cfg(test)]
mod tests;
