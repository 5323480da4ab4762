//! What layers ask of the device of a store: which experts of a token it computes, their outputs, and
//! promotions once the layer is done. It must not know how experts are multiplied.

use std::time::{Duration, Instant};

use moelten_quant::Line;

use super::device::{DeviceOffer, ExpertView};
use super::stats::Phase;
use super::store::ExpertStore;
use super::tier::{DeviceStats, DeviceTier, DeviceWork, Upload};

impl ExpertStore {
    /// Gives the store a device. A store has one at most, and the first stays.
    pub fn use_device(&self, offer: DeviceOffer) {
        let experts = self.tensors().banks().iter().map(|bank| bank.experts());
        let _ = self.device.set(DeviceTier::new(offer, experts));
        self.show_device();
    }

    /// Shows the counters of the device to readers.
    fn show_device(&self) {
        if let Some(tier) = self.device.get() {
            tier.with_stats(|stats| self.live().device.set(stats));
        }
    }

    /// Counters of the device; `None` if there never was one.
    pub fn device_stats(&self) -> Option<DeviceStats> {
        self.device.get().map(DeviceTier::stats)
    }

    fn tier(&self) -> Option<&DeviceTier> {
        self.device.get().filter(|tier| tier.alive())
    }

    /// Whether there is a device.
    pub(crate) fn has_device(&self) -> bool {
        self.tier().is_some()
    }

    /// Counts a request that is computed without the device.
    pub(crate) fn without_device(&self, bank: usize, uses: impl Iterator<Item = (u32, u32)>) {
        if let Some(tier) = self.tier() {
            tier.used(bank, uses);
        }
    }

    /// Decides what the device does for one token, and begins it. `input` has the token's packed input.
    /// Returns whether there is a device that does it.
    pub(crate) fn begin_on_device(
        &self,
        bank: usize,
        ids: &[u32],
        work: &mut DeviceWork,
        input: impl FnOnce() -> Vec<Line>,
    ) -> bool {
        let Some(tier) = self.tier() else { return false };
        tier.request(bank, ids, self.streams(), work);
        self.show_device();
        if !work.any() || tier.begin(bank, &work.hits, work.shared, &input()) {
            return true;
        }
        self.device_lost();
        false
    }

    /// Waits for the outputs of the hits, `[hits, d_model]`, and of the shared expert. Returns whether
    /// they are there.
    pub(crate) fn finish_on_device(
        &self,
        bank: usize,
        ids: &[u32],
        work: &DeviceWork,
        out: &mut [f32],
    ) -> bool {
        let (Some(tier), since) = (self.tier(), Instant::now()) else { return false };
        if !tier.finish(out) {
            self.device_lost();
            return false;
        }
        let took = since.elapsed();
        let size = |expert: u32| self.tensors().bank(bank).expert_bytes(expert as usize);
        let bytes = work.hits.iter().map(|hit| size(ids[hit.index])).sum();
        tier.computed(bytes);
        self.count_hits(Phase::Decode, work.hits.len() as u64, bytes);
        if work.shared {
            tier.shared_computed(bank);
        }
        let (hits, shared) = (work.hits.len(), work.shared.then_some(bank));
        if let Some(read) = self.seconds_to_read(bytes).filter(|&read| tier.waited(took, hits, read, shared))
        {
            let words =
                if read > 0.0 { "reading experts and computing them on the CPU" } else { "the CPU alone" };
            tier.drop_device(format!("{words} is faster here"));
            self.device_lost();
        }
        true
    }

    /// Compares what the device gave for a shared expert with the CPU's. A device that gave something else is
    /// dropped.
    pub(crate) fn check_shared(&self, got: &[f32], wanted: &[f32]) {
        let Some(tier) = self.tier() else { return };
        if !Self::agrees(tier, got, wanted) {
            tier.drop_device("it gave other bits than the CPU for a shared expert".to_owned());
            self.device_lost();
        }
    }

    /// Notes how long the CPU took for the shared expert beside a bank, for one token.
    pub(crate) fn shared_took(&self, bank: usize, took: Duration) {
        if let Some(tier) = self.tier() {
            tier.shared_took(bank, took);
        }
    }

    /// Begins to multiply rows of the head, of which there are `all`, with a token's packed input. Returns
    /// how many of the first ones the device computes, and whether [`Self::check_head`] is to be called.
    pub(crate) fn begin_head(&self, all: usize, input: &[Line]) -> (usize, bool) {
        let Some(tier) = self.tier() else { return (0, false) };
        let begun = tier.begin_head(all, input);
        if !tier.alive() {
            self.device_lost();
        }
        begun
    }

    /// Compares the rows of [`Self::begin_head`] with the CPU's. A device that gives others is dropped.
    pub(crate) fn check_head(&self, wanted: &[f32]) {
        let mut out = vec![0.0; wanted.len()];
        let Some(tier) = self.tier().filter(|_| self.finish_head(&mut out)) else { return };
        if !Self::agrees(tier, &out, wanted) {
            tier.drop_device("it gave other bits than the CPU for the head".to_owned());
            self.device_lost();
        }
    }

    /// Waits for the rows of [`Self::begin_head`]. Returns whether they are there.
    pub(crate) fn finish_head(&self, out: &mut [f32]) -> bool {
        let done = self.tier().is_some_and(|tier| tier.finish_head(out));
        if !done {
            self.device_lost();
        }
        done
    }

    /// Notes how long the CPU took for rows of the head.
    pub(crate) fn head_took(&self, took: Duration, rows: usize) {
        if let Some(tier) = self.tier() {
            tier.head_took(took, rows);
        }
    }

    /// Whether a device's output counts as that of the CPU.
    fn agrees(tier: &DeviceTier, got: &[f32], wanted: &[f32]) -> bool {
        if tier.with_stats(|stats| stats.exact) {
            return got
                .iter()
                .zip(wanted)
                .all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
        }
        let most = wanted.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        got.iter().zip(wanted).all(|(a, b)| (a - b).abs() <= CLOSE * most || a.is_nan() && b.is_nan())
    }

    /// Seconds to read `bytes` of experts; 0 where all experts are in memory, `None` while it is not known.
    fn seconds_to_read(&self, bytes: u64) -> Option<f64> {
        let Some(streamed) = self.streamed() else { return Some(0.0) };
        let shared = streamed.readers.lock();
        let (busy, read) = (shared.stats.busy.as_secs_f64(), shared.stats.bytes_read);
        (read > 0).then(|| busy * bytes as f64 / read as f64)
    }

    /// Copies an expert to the device. It gives its slot in RAM back. With `check`, the device then
    /// computes it: the result says whether its output is that of the CPU.
    pub(crate) fn promote(
        &self,
        bank: usize,
        upload: &Upload,
        expert: &ExpertView<'_>,
        check: Option<Check<'_>>,
    ) {
        let Some(tier) = self.tier() else { return };
        let mut done = tier.upload(bank, upload, expert);
        if let Some(Check { input, wanted }) = check.filter(|_| done) {
            let mut out = vec![0.0; wanted.len()];
            let hit = super::tier::Hit { index: 0, slot: upload.slot };
            done = tier.begin(bank, &[hit], false, input) && tier.finish(&mut out);
            if done && !Self::agrees(tier, &out, wanted) {
                tier.drop_device(format!("it gave other bits than the CPU for expert {}", upload.expert));
                done = false;
            }
        }
        if done && tier.copies_in_vain() {
            tier.drop_device("copying experts to it takes longer than it saves".to_owned());
            done = false;
        }
        if !done {
            return self.device_lost();
        }
        if let Some(evicted) = upload.evicts {
            self.live().set_on_device(bank, evicted, false);
        }
        self.live().set_on_device(bank, upload.expert, true);
        self.show_device();
        if let Some(streamed) = self.streamed() {
            let mut shared = streamed.readers.lock();
            if let Some(evicted) = upload.evicts {
                shared.cache.set_elsewhere(bank, evicted, false);
            }
            shared.cache.set_elsewhere(bank, upload.expert, true);
            streamed.notify_evicted(&mut shared);
        }
    }

    /// Notes how long the CPU took for experts that were all in memory.
    pub(crate) fn host_took(&self, took: Duration, experts: usize) {
        if let Some(tier) = self.tier() {
            tier.host_took(took, experts);
        }
    }

    /// After the device was dropped: the cache keeps all experts that its ranking says.
    fn device_lost(&self) {
        self.live().nothing_on_device();
        self.show_device();
        if let Some(streamed) = self.streamed() {
            streamed.readers.lock().cache.nothing_elsewhere();
        }
    }
}

/// How far outputs of a device that is not exact may be from the CPU's, as a share of the largest: a code of
/// the hidden layer that is rounded the other way is a part of this.
const CLOSE: f32 = 0.02;

/// What an expert gives for an input on the CPU, to compare with.
pub(crate) struct Check<'a> {
    /// The packed input of one token.
    pub input: &'a [Line],
    /// `[d_model]`, without the bias of `down`.
    pub wanted: &'a [f32],
}
