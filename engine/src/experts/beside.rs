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
        if work.hits.is_empty() || tier.begin(bank, &work.hits, &input()) {
            return true;
        }
        self.device_lost();
        false
    }

    /// Waits for the outputs of the hits, `[hits, d_model]`. Returns whether they are there.
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
        let (took, bank) = (since.elapsed(), self.tensors().bank(bank));
        let bytes = work.hits.iter().map(|hit| bank.expert_bytes(ids[hit.index] as usize)).sum();
        tier.computed(bytes);
        self.count_hits(Phase::Decode, work.hits.len() as u64, bytes);
        if let Some(read) =
            self.seconds_to_read(bytes).filter(|&read| tier.waited(took, work.hits.len(), read))
        {
            let words =
                if read > 0.0 { "reading experts and computing them on the CPU" } else { "the CPU alone" };
            tier.drop_device(format!("{words} is faster here"));
            self.device_lost();
        }
        true
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
            done = tier.begin(bank, &[hit], input) && tier.finish(&mut out);
            let same = |(a, b): (&f32, &f32)| a == b || a.is_nan() && b.is_nan();
            if done && !out.iter().zip(wanted).all(same) {
                tier.drop_device(format!("it gave other bits than the CPU for expert {}", upload.expert));
                done = false;
            }
        }
        if !done {
            return self.device_lost();
        }
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
        if let Some(streamed) = self.streamed() {
            streamed.readers.lock().cache.nothing_elsewhere();
        }
    }
}

/// What an expert gives for an input on the CPU, to compare with.
pub(crate) struct Check<'a> {
    /// The packed input of one token.
    pub input: &'a [Line],
    /// `[d_model]`, without the bias of `down`.
    pub wanted: &'a [f32],
}
