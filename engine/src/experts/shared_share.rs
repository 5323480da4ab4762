//! The shared experts that a device has, and what the CPU takes for them: with the other times
//! of a layer that decides where one is computed. It must not know the device.

use std::time::Duration;

use super::device::SharedOffer;
use super::split::SharedTimes;

/// Shared experts that the CPU computes before its times count.
const LEARN: u32 = 16;

/// The shared experts of a device.
#[derive(Debug)]
pub struct SharedExperts {
    /// By bank; how often the device began with each.
    offers: Vec<Option<(SharedOffer, u64)>>,
    /// Seconds of a byte on the CPU, and the experts that they are of.
    host: (f64, u32),
}

impl SharedExperts {
    /// Of a device that has these, by bank.
    pub fn new(offers: Vec<Option<SharedOffer>>) -> Self {
        Self {
            offers: offers.into_iter().map(|offer| offer.map(|offer| (offer, 0))).collect(),
            host: (0.0, 0),
        }
    }

    fn of(&self, bank: usize) -> Option<SharedOffer> {
        self.offers.get(bank)?.map(|(offer, _)| offer)
    }

    /// Whether the device has the one beside this bank.
    pub fn has(&self, bank: usize) -> bool {
        self.of(bank).is_some()
    }

    /// What the one beside this bank weighs; 0 without it.
    pub fn bytes(&self, bank: usize) -> u64 {
        self.of(bank).map_or(0, |offer| offer.bytes)
    }

    /// What both take for it, once it is known.
    pub fn times(&self, bank: usize) -> Option<SharedTimes> {
        let offer = self.of(bank).filter(|_| self.host.1 >= LEARN)?;
        Some(SharedTimes { each: offer.time.as_secs_f64(), host: self.host_seconds(bank) })
    }

    /// Counts that the device begins with it; how often it has before.
    pub fn begun(&mut self, bank: usize) -> u64 {
        let Some(Some((_, begun))) = self.offers.get_mut(bank) else { return 0 };
        *begun += 1;
        *begun - 1
    }

    /// Notes how long the CPU took for it; what it takes for the largest of all.
    pub fn host_took(&mut self, bank: usize, took: Duration) -> Duration {
        let bytes = self.bytes(bank);
        if bytes > 0 {
            let (average, count) = &mut self.host;
            *count = count.saturating_add(1);
            // The first ones count equally, then each a sixteenth.
            *average += (took.as_secs_f64() / bytes as f64 - *average) / f64::from((*count).min(LEARN));
        }
        let most = self.offers.iter().flatten().map(|(offer, _)| offer.bytes).max().unwrap_or(0);
        Duration::from_secs_f64((self.host.0 * most as f64).max(0.0))
    }

    /// Seconds that the CPU takes for it.
    pub fn host_seconds(&self, bank: usize) -> f64 {
        self.host.0 * self.bytes(bank) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_its_bytes() {
        let micros = Duration::from_micros;
        let offer = |bytes| Some(SharedOffer { bytes, time: micros(20) });
        let mut shared = SharedExperts::new(vec![offer(1000), None, offer(2000)]);
        assert_eq!([0, 1, 2, 3].map(|bank| shared.has(bank)), [true, false, true, false]);
        assert_eq!(shared.times(0), None, "what the CPU takes is not known");
        (0..LEARN).for_each(|_| assert!(shared.host_took(0, micros(50)) > Duration::ZERO));
        assert_eq!(shared.host_took(1, micros(9000)), micros(100), "the device has no such expert");
        let times = shared.times(2).expect("they are known");
        assert!((times.each - 20e-6).abs() < 1e-12 && (times.host - 100e-6).abs() < 1e-9, "{times:?}");
        assert_eq!((shared.begun(0), shared.begun(0), shared.begun(2), shared.begun(1)), (0, 1, 0, 0));
    }
}
