//! The worker threads of a conversion. A panic on one of them becomes an error of the conversion. It must not
//! know what they do.

use std::path::Path;

use crate::error::{LoadError, Result};
use crate::supervise::caught;

/// Threads for one conversion or one check.
pub(super) struct Threads(rayon::ThreadPool);

impl Threads {
    /// Starts `count` threads, at least one.
    ///
    /// # Errors
    /// [`LoadError::Io`] when the system starts none.
    pub fn new(count: usize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count.max(1)).build();
        let failed =
            |error| LoadError::io(Path::new("threads"), "start threads", std::io::Error::other(error));
        pool.map(Self).map_err(failed)
    }

    /// Runs `work` on them. Its parallel iterators use all of them.
    ///
    /// # Errors
    /// [`LoadError::Io`] with the message of a panic.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        caught("conversion", || self.0.install(work)).map_err(LoadError::panicked)
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    #[test]
    fn a_panic_is_an_error() {
        let threads = Threads::new(2).unwrap();
        let error =
            threads.run(|| (0..9).into_par_iter().for_each(|i| assert_ne!(i, 5, "the sixth"))).unwrap_err();
        assert!(error.to_string().contains("the sixth"), "{error}");
        assert_eq!(threads.run(|| 1).unwrap(), 1, "the threads go on");
    }
}
