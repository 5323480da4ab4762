//! A region split by the speed of the workers: each begins with a share of its own, takes it in pieces that
//! become smaller, and then takes from the shares of others. Speeds are measured in every region, so that
//! cores of different kinds, and cores that other programs use, get what they can do. It must not know what
//! is computed.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

/// Memory that tasks write, each a part of it.
pub trait Divide: Send + Sized {
    /// What is before and from `at` on, counted as the starts of a region are.
    fn cut(self, at: usize) -> (Self, Self);
}

impl<T: Send> Divide for &mut [T] {
    fn cut(self, at: usize) -> (Self, Self) {
        self.split_at_mut(at)
    }
}

/// Weight of the newest region in the speed of a worker.
const NEWEST: f64 = 1.0 / 8.0;
/// Shorter times say little about speed.
const SHORTEST: Duration = Duration::from_micros(20);
/// The slowest worker counts as at least this fast, relative to the fastest: it could not recover otherwise.
const SLOWEST: f64 = 1.0 / 64.0;

/// How fast each worker is, relative to the others.
#[derive(Debug)]
pub struct Speeds(Vec<AtomicU64>);

impl Speeds {
    /// All alike.
    pub fn alike(workers: usize) -> Self {
        Self((0..workers).map(|_| AtomicU64::new(1.0_f64.to_bits())).collect())
    }

    /// Of worker `index`.
    pub fn get(&self, index: usize) -> f64 {
        f64::from_bits(self.0[index].load(Ordering::Relaxed))
    }

    /// Takes into account what each worker did in a region: units and time, by worker.
    fn learn(&self, done: impl Iterator<Item = (usize, Duration)> + Clone) {
        let rate = |(units, time): (usize, Duration)| {
            (units > 0 && time >= SHORTEST).then(|| units as f64 / time.as_secs_f64())
        };
        let rates = done.clone().filter_map(rate);
        let (count, sum) = rates.fold((0, 0.0), |(count, sum), rate| (count + 1, sum + rate));
        if count < 2 {
            // Nothing to compare.
            return;
        }
        for (speed, rate) in self.0.iter().zip(done.map(rate)) {
            let Some(rate) = rate else { continue };
            let relative = (rate * f64::from(count) / sum).max(SLOWEST);
            let before = f64::from_bits(speed.load(Ordering::Relaxed));
            // Another region may write at the same time: either value will do.
            speed.store((before + (relative - before) * NEWEST).to_bits(), Ordering::Relaxed);
        }
    }
}

/// What is left of a worker's share, and what the worker did in the region.
struct Share<P> {
    rest: Option<P>,
    units: Range<usize>,
    done: usize,
    time: Duration,
}

/// A region of units that are given out in ranges.
pub struct Board<'a, P, S> {
    shares: SmallVec<[Mutex<Share<P>>; 8]>,
    /// Units that have not been taken.
    untaken: AtomicUsize,
    least: usize,
    start: &'a S,
}

impl<'a, P: Divide, S: Fn(usize) -> usize> Board<'a, P, S> {
    /// Shares of `units` units by speed; `start(unit)` is where a unit begins in `out`. Ranges have at least
    /// `least` units, as far as there are as many.
    pub fn new(out: P, units: usize, least: usize, start: &'a S, speeds: &Speeds) -> Self {
        let workers = speeds.0.len();
        let all: f64 = (0..workers).map(|index| speeds.get(index)).sum();
        let (mut rest, mut from, mut before) = (out, 0, 0.0);
        let mut shares = SmallVec::new();
        for index in 0..workers - 1 {
            before += speeds.get(index);
            let to = ((units as f64 * before / all).round() as usize).clamp(from, units);
            let (part, others) = rest.cut(start(to) - start(from));
            shares.push(Mutex::new(Share {
                rest: Some(part),
                units: from..to,
                done: 0,
                time: Duration::ZERO,
            }));
            (rest, from) = (others, to);
        }
        shares.push(Mutex::new(Share {
            rest: Some(rest),
            units: from..units,
            done: 0,
            time: Duration::ZERO,
        }));
        Self { shares, untaken: AtomicUsize::new(units), least: least.max(1), start }
    }

    /// Works as worker `index` until nothing is left to take.
    pub fn work(&self, index: usize, work: &impl Fn(Range<usize>, P)) {
        let (begun, mut done) = (Instant::now(), 0);
        while self.untaken.load(Ordering::Relaxed) > 0 {
            let Some((units, part)) = self.own(index).or_else(|| self.stolen(index)) else { break };
            done += units.len();
            work(units, part);
        }
        if done > 0 {
            let mut share = self.lock(index);
            share.done += done;
            share.time += begun.elapsed();
        }
    }

    /// After all workers have finished.
    pub fn tell(&self, speeds: &Speeds) {
        speeds.learn(self.shares.iter().map(|share| {
            let share = share.lock().unwrap_or_else(PoisonError::into_inner);
            (share.done, share.time)
        }));
    }

    /// The next units of a worker's own share: half of them, so that pieces are large at first.
    fn own(&self, index: usize) -> Option<(Range<usize>, P)> {
        let mut share = self.lock(index);
        let count = self.count(share.units.len())?;
        let Range { start: from, end } = share.units;
        let (part, rest) = share.rest.take()?.cut((self.start)(from + count) - (self.start)(from));
        (share.rest, share.units) = (Some(rest), from + count..end);
        self.untaken.fetch_sub(count, Ordering::Relaxed);
        Some((from..from + count, part))
    }

    /// The last units of the largest other share.
    fn stolen(&self, index: usize) -> Option<(Range<usize>, P)> {
        loop {
            let others = (0..self.shares.len()).filter(|&other| other != index);
            let (left, victim) = others.map(|other| (self.lock(other).units.len(), other)).max()?;
            if left == 0 {
                return None;
            }
            let mut share = self.lock(victim);
            // It may have become smaller meanwhile.
            let Some(count) = self.count(share.units.len()) else { continue };
            let Range { start: from, end } = share.units;
            let (rest, part) = share.rest.take()?.cut((self.start)(end - count) - (self.start)(from));
            (share.rest, share.units) = (Some(rest), from..end - count);
            self.untaken.fetch_sub(count, Ordering::Relaxed);
            return Some((end - count..end, part));
        }
    }

    /// How many of `left` units are taken: half, but not fewer than the least, and no fewer are left.
    fn count(&self, left: usize) -> Option<usize> {
        let half = (left / 2).max(self.least);
        (left > 0).then_some(if left < half + self.least { left } else { half })
    }

    fn lock(&self, index: usize) -> MutexGuard<'_, Share<P>> {
        // Shares are whole between two statements; work is done without the lock.
        self.shares[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    /// Workers that sleep: unit times by worker. Returns how long the region took.
    fn region(speeds: &Speeds, units: usize, unit_times: &[Duration]) -> Duration {
        let mut out = vec![0_u8; units * 2];
        let start = |unit: usize| unit * 2;
        let board = Board::new(&mut out[..], units, 1, &start, speeds);
        let (barrier, begun) = (Barrier::new(unit_times.len()), Mutex::new(None));
        std::thread::scope(|scope| {
            for (index, time) in unit_times.iter().enumerate() {
                let (board, barrier, begun) = (&board, &barrier, &begun);
                scope.spawn(move || {
                    barrier.wait();
                    begun.lock().unwrap().get_or_insert_with(Instant::now);
                    board.work(index, &|units, part: &mut [u8]| {
                        assert_eq!(part.len(), 2 * units.len());
                        part.iter_mut().for_each(|x| *x += 1);
                        std::thread::sleep(*time * units.len() as u32);
                    });
                });
            }
        });
        board.tell(speeds);
        drop(board);
        assert!(out.iter().all(|&x| x == 1), "every unit is computed once");
        begun.into_inner().unwrap().unwrap().elapsed()
    }

    /// Two fast cores and one of a third of their speed: once that is known, the region takes as long as the
    /// sum of the speeds says, within a tenth. A core that becomes slow then is found out within some
    /// regions.
    #[test]
    #[cfg_attr(windows, ignore = "short sleeps are not exact enough there")]
    fn work_is_split_by_the_speed_of_cores() {
        let [fast, slow] = [200, 600].map(Duration::from_micros);
        let (units, speeds) = (700, Speeds::alike(3));
        let expected = fast * units as u32 * 3 / 7;
        for unit_times in [[fast, fast, slow], [slow, fast, fast]] {
            let times: Vec<Duration> = (0..40).map(|_| region(&speeds, units, &unit_times)).collect();
            // Other programs may disturb some of the runs.
            let best = times[20..].iter().min().unwrap();
            assert!(*best < expected * 11 / 10, "{best:?}, the sum of the speeds gives {expected:?}");
        }
        let relative = speeds.get(0) / speeds.get(2);
        assert!((0.25..0.45).contains(&relative), "{speeds:?}");
    }

    #[test]
    fn ranges_cover_all_units() {
        for workers in [1, 2, 5, 11] {
            for (units, least) in [(0, 1), (1, 4), (7, 2), (64, 3), (1000, 16)] {
                let speeds = Speeds::alike(workers);
                speeds.0[0].store(0.1_f64.to_bits(), Ordering::Relaxed);
                let mut out = vec![0; units];
                let board = Board::new(&mut out[..], units, least, &|unit| unit, &speeds);
                // The last worker does everything, then the first finds nothing.
                let ranges = Mutex::new(Vec::new());
                for index in [workers - 1, 0] {
                    board.work(index, &|range, part: &mut [i32]| {
                        part.iter_mut().for_each(|x| *x += 1);
                        ranges.lock().unwrap().push(range);
                    });
                }
                drop(board);
                assert!(out.iter().all(|&x| x == 1), "{workers} {units} {least}");
                assert!(ranges.into_inner().unwrap().iter().all(|range| !range.is_empty()));
            }
        }
    }

    #[test]
    fn a_worker_that_was_slow_recovers() {
        let speeds = Speeds::alike(2);
        let ms = Duration::from_millis;
        (0..200).for_each(|_| speeds.learn([(100, ms(1)), (1, ms(1))].into_iter()));
        assert!(speeds.get(1) < 0.05, "{speeds:?}");
        (0..60).for_each(|_| speeds.learn([(50, ms(1)), (50, ms(1))].into_iter()));
        assert!((speeds.get(1) - 1.0).abs() < 0.01, "{speeds:?}");
        // A worker without work, or alone, says nothing.
        speeds.learn([(50, ms(1)), (0, ms(0))].into_iter());
        assert!((speeds.get(0) - 1.0).abs() < 0.01, "{speeds:?}");
    }
}
