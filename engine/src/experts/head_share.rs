//! How many rows of a model's head a device computes while the CPU computes the others: as many as make both
//! end at the same time. It must not know the device.

use std::time::Duration;

use super::device::HeadOffer;

/// Heads that the CPU computes alone before its time counts.
const LEARN: u32 = 4;
/// Rows of a group; the device computes whole groups.
const GROUP: usize = 32;

/// The rows that a device has, and the times of both.
#[derive(Debug, Clone, Copy)]
pub struct HeadShare {
    offer: HeadOffer,
    /// Seconds of a row on the CPU, and the heads that they are of.
    host: (f64, u32),
}

impl HeadShare {
    /// Of a device that has these rows.
    pub fn new(offer: HeadOffer) -> Self {
        Self { offer, host: (0.0, 0) }
    }

    /// Rows of `all` that the device computes, when a submission takes `launch` without computing. `always`
    /// says that it computes all that it has.
    pub fn rows(&self, all: usize, launch: Duration, always: bool) -> usize {
        let held = self.offer.rows.min(all);
        if always {
            return held;
        }
        let (host, heads) = self.host;
        if heads < LEARN {
            return 0;
        }
        let launch = launch.as_secs_f64();
        let each = (self.offer.time.as_secs_f64() - launch).max(0.0) / self.offer.rows.max(1) as f64;
        let even = (all as f64 * host - launch) / (each + host);
        (even.max(0.0) as usize).min(held) / GROUP * GROUP
    }

    /// Notes how long the CPU took for some rows.
    pub fn host_took(&mut self, took: Duration, rows: usize) {
        let (average, heads) = &mut self.host;
        *heads = heads.saturating_add(1);
        let each = took.as_secs_f64() / rows.max(1) as f64;
        *average += (each - *average) / f64::from((*heads).min(4 * LEARN));
    }

    /// Seconds that the CPU takes for `rows` rows.
    pub fn host_seconds(&self, rows: usize) -> f64 {
        self.host.0 * rows as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_end_together() {
        let micros = Duration::from_micros;
        // 1,000 rows take the device 100 us and a submission of 100, the CPU 1 us each.
        let mut head = HeadShare::new(HeadOffer { rows: 992, bytes: 0, time: micros(200) });
        assert_eq!(head.rows(1000, micros(100), true), 992);
        assert_eq!(head.rows(1000, micros(100), false), 0, "what the CPU takes is not known");
        (0..LEARN).for_each(|_| head.host_took(micros(1000), 1000));
        assert!((head.host_seconds(10) - 1e-5).abs() < 1e-12);
        // 900 us for 1.1 us a row are 817 rows, of which whole groups count.
        assert_eq!(head.rows(1000, micros(100), false), 800);
        assert_eq!(head.rows(1000, micros(2000), false), 0, "a submission takes longer than the CPU");
        assert_eq!(head.rows(100_000, micros(100), false), 992, "no more than are there");
    }
}
