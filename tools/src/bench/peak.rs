//! The most memory that the process owned while something ran, looked at every 50 ms. It must not know what
//! ran.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use moelten_engine::memory;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(50);

/// Looks until it is asked.
pub struct Peak {
    stop: Sender<()>,
    thread: Option<JoinHandle<Option<u64>>>,
}

impl Peak {
    /// Begins to look.
    pub fn begin() -> Self {
        let (stop, stopped) = channel();
        let look = move || {
            let mut most = memory::owned_bytes();
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                most = most.max(memory::owned_bytes());
            }
            most.max(memory::owned_bytes())
        };
        // Without the thread there is no figure.
        let thread = std::thread::Builder::new().name("moelten-peak".to_owned()).spawn(look).ok();
        Self { stop, thread }
    }

    /// The most bytes that were owned since the beginning; `None` where the system does not say.
    pub fn end(mut self) -> Option<u64> {
        // Whoever does not listen has ended.
        let _ = self.stop.send(());
        self.thread.take()?.join().ok().flatten()
    }
}
