//! Limits of the machine beside each timed run, and their ratio. On a machine that other programs or other
//! virtual machines use, both change from minute to minute: a run is compared only with what was measured
//! directly before and after it. It must not know how figures are printed.

use moelten_engine::runtime::pool::Pool;
use moelten_loader::tensors::store::TensorStore;
use moelten_quant::Kernels;

use super::limits::{self, RamBuffer};

/// What RAM is measured with.
pub enum Ram {
    /// A buffer that is kept during the runs.
    Buffer(RamBuffer),
    /// Measured once before the model was loaded, 10^9 bytes per second: there is no memory for a buffer.
    Before(f64),
}

/// Measures limits between timed runs.
pub struct Gauge<'a> {
    /// The threads of the model.
    pub pool: &'a Pool,
    /// What the model computes with, and limits are measured with.
    pub kernels: &'static Kernels,
    /// See [`Ram`].
    pub ram: Ram,
    /// The weights, if they are in memory.
    pub weights: Option<&'a TensorStore>,
}

impl Gauge<'_> {
    /// Int8 products in registers, 10^12 operations per second.
    pub fn int8(&self) -> Vec<f64> {
        vec![limits::int8(self.pool, self.kernels)]
    }

    /// Reads of RAM and, if weights are in memory, plain reads of them, 10^9 bytes per second.
    pub fn memory(&self) -> Vec<f64> {
        let ram = match &self.ram {
            Ram::Buffer(buffer) => buffer.gb_per_s(self.pool, self.kernels),
            Ram::Before(speed) => *speed,
        };
        let weights = self.weights.map(|tensors| limits::weights(self.pool, self.kernels, tensors));
        [Some(ram), weights].into_iter().flatten().collect()
    }
}

/// Speeds of the repetitions, mostly tokens per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Median of the repetitions.
    pub median: f64,
    /// Slowest repetition.
    pub min: f64,
    /// Fastest repetition.
    pub max: f64,
}

impl Rates {
    /// `None` without repetitions.
    pub fn of(mut rates: Vec<f64>) -> Option<Self> {
        rates.sort_by(f64::total_cmp);
        let (&min, &max) = (rates.first()?, rates.last()?);
        Some(Self { median: (rates[(rates.len() - 1) / 2] + rates[rates.len() / 2]) / 2.0, min, max })
    }
}

/// Timed runs, each with the mean of a limit before and after it.
#[derive(Debug, Clone, PartialEq)]
pub struct Pairs(Vec<(f64, f64)>);

impl Pairs {
    /// `rates` of runs, and `limits` before the first of them and after each.
    pub fn of(rates: &[f64], limits: impl Iterator<Item = f64>) -> Self {
        let limits: Vec<f64> = limits.collect();
        let beside = limits.windows(2).map(|pair| f64::midpoint(pair[0], pair[1]));
        Self(rates.iter().copied().zip(beside).collect())
    }

    /// The limit beside the runs.
    pub fn limit(&self) -> Rates {
        Rates::of(self.0.iter().map(|&(_, limit)| limit).collect()).unwrap_or_default()
    }

    /// The rates as shares of their limits, where a rate of one takes `unit` of the limit.
    pub fn shares(&self, unit: f64) -> Rates {
        Rates::of(self.0.iter().map(|&(rate, limit)| rate * unit / limit).collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let rates = |rates: &[f64]| Rates::of(rates.to_vec()).map(|r| (r.min, r.median, r.max));
        assert_eq!(rates(&[3.0, 1.0, 2.0]), Some((1.0, 2.0, 3.0)));
        assert_eq!(rates(&[4.0, 1.0, 2.0, 3.0]), Some((1.0, 2.5, 4.0)));
        assert_eq!(rates(&[]), None);
    }

    /// The machine slows down to half in the second run: the share stays.
    #[test]
    fn a_run_is_compared_with_its_own_minute() {
        let pairs = Pairs::of(&[30.0, 15.0, 30.0], [40.0, 40.0, 0.0, 80.0].into_iter());
        assert_eq!(pairs.shares(1.0), Rates { median: 0.75, min: 0.75, max: 0.75 });
        assert_eq!(pairs.limit(), Rates { median: 40.0, min: 20.0, max: 40.0 });
        assert_eq!(pairs.shares(0.5).median, 0.375);
        assert_eq!(Pairs::of(&[], [1.0].into_iter()).limit(), Rates::default());
    }
}
