//! What a worker thread does without a task. While a pass computes, it looks for one: waking it would take
//! longer than many a parallel region lasts. While every pass waits for the disk, it parks: a spinning worker
//! would take a core from the readers and drain a battery. Without a pass it stops looking. It must not know
//! what a pass computes, nor what it waits for.

use std::sync::PoisonError;

use super::sync::{AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, yield_now};

/// Looks for tasks before a worker offers its core to other processes: some microseconds.
const PATIENCE: u32 = 64;

/// The passes of a pool, and what its workers do meanwhile.
#[derive(Debug)]
pub struct Idle {
    counts: Mutex<Counts>,
    /// Parked workers wait for this.
    wake: Condvar,
    /// Copies of two counts, for workers that look: read without the lock, and checked under it.
    passes: AtomicUsize,
    computing: AtomicUsize,
    /// Looks for tasks before a worker parks.
    last_looks: u32,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    /// Passes that have begun and not ended.
    passes: usize,
    /// Those of them that do not wait for the disk.
    computing: usize,
    /// Workers that look for tasks, run one that they found, or are parked.
    looking: usize,
    /// Workers that are parked.
    parked: usize,
}

/// A pass that runs while this lives.
#[must_use]
pub struct Pass<'a>(&'a Idle);

/// A pass that waits while this lives.
#[must_use]
pub struct Resting<'a>(&'a Idle);

impl Idle {
    /// No pass runs. A worker parks after `last_looks` looks in a row that found no task.
    pub fn new(last_looks: u32) -> Self {
        let (passes, computing) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { counts: Mutex::default(), wake: Condvar::new(), passes, computing, last_looks }
    }

    /// Begins a pass. Also returns how many workers look for tasks: the others have to be asked to.
    pub fn begin(&self) -> (Pass<'_>, usize) {
        let looking = self.change(|counts| {
            counts.passes += 1;
            counts.computing += 1;
            counts.looking
        });
        (Pass(self), looking)
    }

    /// Notes that the pass of this thread waits from now on. `None` if no pass computes.
    pub fn rest(&self) -> Option<Resting<'_>> {
        self.change(|counts| {
            let others = counts.computing.checked_sub(1)?;
            counts.computing = others;
            Some(Resting(self))
        })
    }

    /// Whether no pass runs and no worker looks for tasks.
    #[cfg(test)]
    pub fn is_unused(&self) -> bool {
        *self.lock() == Counts::default()
    }

    /// Takes tasks as long as there is a pass; `take` runs one if it finds one, and says whether it did.
    pub fn look(&self, mut take: impl FnMut() -> bool) {
        self.lock().looking += 1;
        let mut idle = 0_u32;
        loop {
            if self.passes.load(Ordering::Relaxed) == 0 && self.leave() {
                return;
            }
            if take() {
                idle = 0;
                continue;
            }
            idle = idle.saturating_add(1);
            std::hint::spin_loop();
            if idle.is_multiple_of(PATIENCE) {
                // Another process may want the core.
                yield_now();
            }
            if idle >= self.last_looks && self.computing.load(Ordering::Relaxed) == 0 {
                self.park();
                idle = 0;
            }
        }
    }

    /// Stops looking, unless a pass has begun.
    fn leave(&self) -> bool {
        let mut counts = self.lock();
        let over = counts.passes == 0;
        counts.looking -= usize::from(over);
        over
    }

    /// Parks this worker until a pass computes or the last one has ended.
    fn park(&self) {
        let mut counts = self.lock();
        counts.parked += 1;
        while counts.passes > 0 && counts.computing == 0 {
            counts = self.wake.wait(counts).unwrap_or_else(PoisonError::into_inner);
        }
        counts.parked -= 1;
    }

    /// Changes the counts, and wakes the parked workers if they have something to do now.
    fn change<R>(&self, change: impl FnOnce(&mut Counts) -> R) -> R {
        let mut counts = self.lock();
        let result = change(&mut counts);
        self.passes.store(counts.passes, Ordering::Relaxed);
        self.computing.store(counts.computing, Ordering::Relaxed);
        let wakes = counts.parked > 0 && (counts.passes == 0 || counts.computing > 0);
        drop(counts);
        if wakes {
            self.wake.notify_all();
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // The counts are whole between two statements.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.change(|counts| {
            counts.passes -= 1;
            counts.computing -= 1;
        });
    }
}

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.0.change(|counts| counts.computing += 1);
    }
}
