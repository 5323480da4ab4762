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
    /// The shared expert, if the device has it.
    pub shared: Option<SharedTimes>,
}

/// Times of a shared expert, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SharedTimes {
    /// On the device, in a submission.
    pub each: f64,
    /// On the CPU, which computes it after the other experts of the layer.
    pub host: f64,
}

/// What of a layer a device computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// How many of the routed ones.
    pub experts: usize,
    /// Whether the shared expert too.
    pub shared: bool,
}

impl LayerTimes {
    /// From measured times, without a shared expert.
    pub fn new(launch: Duration, each: Duration, host: f64) -> Self {
        Self { launch: launch.as_secs_f64(), each: each.as_secs_f64(), host, shared: None }
    }

    /// Seconds of a layer of `all` experts, of which the device computes some.
    pub fn seconds(&self, all: usize, split: Split) -> f64 {
        let Split { experts: n, shared } = split;
        let (on_device, on_host) = match self.shared {
            Some(times) if shared => (times.each, 0.0),
            Some(times) => (0.0, times.host),
            None => (0.0, 0.0),
        };
        let submitted = n > 0 || (shared && self.shared.is_some());
        let device = if submitted { self.launch + n as f64 * self.each + on_device } else { 0.0 };
        device.max(all.saturating_sub(n) as f64 * self.host) + on_host
    }

    /// What the device computes of `all` experts of a token, of which it has `held`, and of the shared one:
    /// that with which the layer is done first. With `must` it computes all that it has, and the question is
    /// the shared one alone.
    pub fn best(&self, all: usize, held: usize, must: bool) -> Split {
        let least = if must { held } else { 0 };
        let splits = (least..=held).flat_map(|experts| [false, true].map(|shared| Split { experts, shared }));
        let possible = splits.filter(|split| !split.shared || self.shared.is_some());
        let sooner = |a: &Split, b: &Split| self.seconds(all, *a).total_cmp(&self.seconds(all, *b));
        possible.min_by(sooner).unwrap_or(Split { experts: least, shared: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of docs/gpu.md: 44 us an expert on the CPU, 18 on the device.
    fn times(launch: u64) -> LayerTimes {
        let micros = Duration::from_micros;
        LayerTimes::new(micros(launch), micros(18), 44e-6)
    }

    fn split(experts: usize, shared: bool) -> Split {
        Split { experts, shared }
    }

    #[test]
    fn the_split_is_that_of_the_shortest_time() {
        assert_eq!(times(100).best(8, 8, false), split(4, false));
        assert_eq!(times(50).best(8, 8, false), split(5, false));
        assert_eq!(times(100).best(8, 2, false), split(2, false), "no more than are there");
        assert_eq!(times(500).best(8, 8, false), split(0, false), "too late for any");
        assert_eq!(times(500).best(8, 8, true), split(8, false), "otherwise they would be read");
        assert_eq!(times(1).best(8, 0, false), split(0, false));
        assert!((times(100).seconds(8, split(4, false)) - 176e-6).abs() < 1e-9, "the CPU is the slower one");
        assert!((times(100).seconds(8, split(5, false)) - 190e-6).abs() < 1e-9, "the device is");
    }

    #[test]
    fn a_shared_expert_takes_the_device_from_others_where_that_is_faster() {
        let with = |each: f64, host: f64| LayerTimes {
            shared: Some(SharedTimes { each: each * 1e-6, host: host * 1e-6 }),
            ..times(100)
        };
        // Four others and it take the device 190 us. Without it they take 176, and then the CPU 44 more.
        assert_eq!(with(18.0, 44.0).best(8, 8, false), split(4, true));
        assert!((with(18.0, 44.0).seconds(8, split(4, true)) - 190e-6).abs() < 1e-9);
        assert!((with(18.0, 44.0).seconds(8, split(4, false)) - 220e-6).abs() < 1e-9);
        // Nothing else is there: it is hidden behind the CPU's eight.
        assert_eq!(with(18.0, 44.0).best(8, 0, false), split(0, true));
        // One that the device takes long for stays.
        assert_eq!(with(500.0, 44.0).best(8, 8, false), split(4, false));
        assert_eq!(with(500.0, 44.0).best(8, 2, true), split(2, false));
        assert_eq!(with(18.0, 44.0).best(8, 2, true), split(2, true));
    }
}
