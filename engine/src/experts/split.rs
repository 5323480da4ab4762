//! What a layer takes when a device computes some of its experts and the CPU the others meanwhile, and how
//! many are best. It must not know which experts these are.

use std::time::Duration;

/// Times of a layer, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LayerTimes {
    /// From a submission to its results, without computing: L.
    pub launch: f64,
    /// An expert on the device: g.
    pub each: f64,
    /// An expert on the CPU: c.
    pub host: f64,
}

impl LayerTimes {
    /// From measured times.
    pub fn new(launch: Duration, each: Duration, host: f64) -> Self {
        Self { launch: launch.as_secs_f64(), each: each.as_secs_f64(), host }
    }

    /// Seconds of a layer of `all` experts of which the device computes `n`.
    pub fn seconds(&self, all: usize, n: usize) -> f64 {
        let device = if n == 0 { 0.0 } else { self.launch + n as f64 * self.each };
        device.max(all.saturating_sub(n) as f64 * self.host)
    }

    /// How many of the `held` experts that the device has it computes, of `all` of a token: those for which
    /// the slower of device and CPU is done first.
    pub fn best(&self, all: usize, held: usize) -> usize {
        let sooner = |&a: &usize, &b: &usize| self.seconds(all, a).total_cmp(&self.seconds(all, b));
        (0..=held).min_by(sooner).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_is_that_of_the_shortest_time() {
        // The example of docs/gpu.md: 44 us an expert on the CPU, 18 on the device, 100 for a submission.
        let times = |launch: u64| {
            let micros = Duration::from_micros;
            LayerTimes::new(micros(launch), micros(18), 44e-6)
        };
        assert_eq!(times(100).best(8, 8), 4);
        assert_eq!(times(50).best(8, 8), 5);
        assert_eq!(times(100).best(8, 2), 2, "no more than are there");
        assert_eq!(times(500).best(8, 8), 0, "too late for any");
        assert_eq!(LayerTimes { launch: 1e-6, each: 1e-6, host: 1.0 }.best(8, 0), 0);
        assert!((times(100).seconds(8, 4) - 176e-6).abs() < 1e-9, "the CPU is the slower one");
        assert!((times(100).seconds(8, 5) - 190e-6).abs() < 1e-9, "the device is");
    }
}
