//! Locks, atomics, threads and the clock of code whose schedules are tested: the standard library's. Those
//! tests compile the same code once more with [`modelled`] in its place. It must not know what is locked.

#[cfg(test)]
pub mod modelled;

pub use std::sync::atomic::{AtomicUsize, Ordering};
pub use std::sync::{Condvar, Mutex, MutexGuard};
pub use std::thread::{JoinHandle, yield_now};
use std::time::Instant;

pub use moelten_loader::supervise::supervised;

/// The time.
pub fn now() -> Instant {
    Instant::now()
}
