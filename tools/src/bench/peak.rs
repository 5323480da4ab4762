//! Peak memory owned by the process, sampled every 50 ms. It must not know what runs.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use moelten_engine::runtime::memory;

/// Time between two samples.
const INTERVAL: Duration = Duration::from_millis(50);

/// Samples until [`Peak::end`].
pub struct Peak {
    stop: Sender<()>,
    thread: Option<JoinHandle<Option<u64>>>,
}

impl Peak {
    /// Starts sampling.
    pub fn begin() -> Self {
        let (stop, stopped) = channel();
        let look = move || {
            let mut most = memory::owned_bytes();
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                most = most.max(memory::owned_bytes());
            }
            most.max(memory::owned_bytes())
        };
        // Without the thread there is no peak.
        let thread = std::thread::Builder::new().name("moelten-peak".to_owned()).spawn(look).ok();
        Self { stop, thread }
    }

    /// Most bytes owned since the start; `None` if the system does not report them.
    pub fn end(mut self) -> Option<u64> {
        // The thread may have ended already.
        let _ = self.stop.send(());
        self.thread.take()?.join().ok().flatten()
    }
}
