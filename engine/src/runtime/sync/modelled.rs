//! What [`super`] has, from a scheduler that runs one thread at a time and tries many orders of their steps.
//! It finds deadlocks and lost wake-ups: no wait times out unless a test says so. It must not know what is
//! tested.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::{Arc, LazyLock, LockResult, PoisonError};
use std::time::{Duration, Instant};

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, Runner};

pub use shuttle::sync::atomic::{AtomicUsize, Ordering};
pub use shuttle::sync::{Mutex, MutexGuard};
pub use shuttle::thread::{JoinHandle, yield_now};

use moelten_loader::supervise::caught;

/// Preemptions that a schedule of the second kind has, besides those where threads wait.
const PREEMPTIONS: usize = 4;
/// Stack of a modelled thread: more than `shuttle` gives, for tests that are not optimised.
const STACK: usize = 256 << 10;

thread_local! {
    /// Time since the start of the run. All modelled threads of a test run on one thread of the system.
    static CLOCK: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// What has been waited for with a limit in this run.
    static LIMITED: RefCell<Vec<Arc<shuttle::sync::Condvar>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` under `runs` schedules, half of them random, half with few preemptions; the same ones in every
/// test run.
pub fn explore(runs: usize, work: impl Fn() + Send + Sync + Clone + 'static) {
    let mut config = Config::new();
    config.stack_size = STACK;
    config.failure_persistence = FailurePersistence::Print;
    let fresh = move || {
        CLOCK.set(Duration::ZERO);
        LIMITED.take();
        work();
    };
    Runner::new(RandomScheduler::new_from_seed(1, runs / 2), config.clone()).run(fresh.clone());
    Runner::new(PctScheduler::new_from_seed(2, PREEMPTIONS, runs / 2), config).run(fresh);
}

/// Moves the clock and ends all waits that have a limit. They may begin again at once.
pub fn advance(time: Duration) {
    CLOCK.set(CLOCK.get() + time);
    let limited = LIMITED.with_borrow(Vec::clone);
    limited.iter().for_each(|condvar| condvar.notify_all());
}

/// The time on the test's clock.
pub fn now() -> Instant {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    *START + CLOCK.get()
}

/// A condition variable. Waits with a limit end only when [`advance`] says so.
#[derive(Debug, Default)]
pub struct Condvar(Arc<shuttle::sync::Condvar>);

impl Condvar {
    /// Without waiting threads.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits until it is notified.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.0.wait(guard)
    }

    /// Waits until it is notified or the clock moves.
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        _limit: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, ())> {
        LIMITED.with_borrow_mut(|all| {
            if all.iter().all(|known| !Arc::ptr_eq(known, &self.0)) {
                all.push(Arc::clone(&self.0));
            }
        });
        match self.0.wait(guard) {
            Ok(guard) => Ok((guard, ())),
            Err(poisoned) => Err(PoisonError::new((poisoned.into_inner(), ()))),
        }
    }

    /// Wakes all waiting threads.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// As [`moelten_loader::supervise::supervised`].
pub fn supervised<T: Send + 'static>(
    name: &str,
    on_panic: impl FnOnce(String) + Send + 'static,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<Option<T>>> {
    let of_thread = name.to_owned();
    let work = move || caught(&of_thread, work).map_err(on_panic).ok();
    shuttle::thread::Builder::new().name(name.to_owned()).spawn(work)
}
