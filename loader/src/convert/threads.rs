//! The worker threads of a conversion. A panic on one of them becomes an error of the conversion. It must not
//! know what they do.

use std::io;
use std::path::Path;

use crate::error::{LoadError, Result};
use crate::supervise::{caught, room_for_threads};

/// Threads for one conversion or one check.
pub(super) struct Threads(rayon::ThreadPool);

impl Threads {
    /// Starts `count` threads, at least one.
    ///
    /// # Errors
    /// [`LoadError::Io`] when the system starts none.
    pub fn new(count: usize) -> Result<Self> {
        room_for_threads(count).map_err(not_started)?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count.max(1)).build();
        pool.map(Self).map_err(|error| not_started(in_system_words(error)))
    }

    /// Runs `work` on them. Its parallel iterators use all of them.
    ///
    /// # Errors
    /// [`LoadError::Io`] with the message of a panic.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        caught("conversion", || self.0.install(work)).map_err(LoadError::panicked)
    }
}

/// The error for a thread that the system did not start.
pub(super) fn not_started(source: io::Error) -> LoadError {
    LoadError::io(Path::new("threads"), "start threads", source)
}

/// The error of the system inside the pool's, whose kind decides the exit code.
fn in_system_words(error: rayon::ThreadPoolBuildError) -> io::Error {
    let of_system = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
    match of_system.and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error),
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
