//! Parking worker threads while a pass can compute nothing because it waits for the disk: spinning workers would take cores
//! from the readers and drain a battery. It must not know what is waited for.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The longest time that a parked worker sleeps before it looks again: a lost wake-up costs this much and no more.
const LONGEST: Duration = Duration::from_millis(50);

/// Whether workers should park, and those that have.
#[derive(Debug, Default)]
pub struct Rest {
    resting: AtomicBool,
    parked: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

/// While this lives workers park.
pub struct Resting<'a>(&'a Rest);

impl Rest {
    /// Has workers park until the result is dropped.
    pub fn begin(&self) -> Resting<'_> {
        self.resting.store(true, Ordering::SeqCst);
        Resting(self)
    }

    /// Whether workers should park now.
    pub fn is_resting(&self) -> bool {
        self.resting.load(Ordering::Relaxed)
    }

    /// Parks this thread until the rest is over.
    pub fn park(&self) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.parked.fetch_add(1, Ordering::SeqCst);
        while self.resting.load(Ordering::SeqCst) {
            guard = self.wake.wait_timeout(guard, LONGEST).unwrap_or_else(PoisonError::into_inner).0;
        }
        self.parked.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        let Self(rest) = self;
        rest.resting.store(false, Ordering::SeqCst);
        if rest.parked.load(Ordering::SeqCst) > 0 {
            // A worker that has seen the flag is waiting, or holds the lock and will see the flag cleared.
            drop(rest.lock.lock().unwrap_or_else(PoisonError::into_inner));
            rest.wake.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn parked_threads_wake_when_the_rest_is_over() {
        let rest = Arc::new(Rest::default());
        for _ in 0..100 {
            let resting = rest.begin();
            let threads: Vec<_> = (0..3)
                .map(|_| {
                    let rest = Arc::clone(&rest);
                    thread::spawn(move || rest.park())
                })
                .collect();
            while rest.parked.load(Ordering::SeqCst) < 3 {
                thread::yield_now();
            }
            drop(resting);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert!(!rest.is_resting());
        }
        assert_eq!(rest.parked.load(Ordering::SeqCst), 0);
    }
}
