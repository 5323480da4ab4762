//! Peak memory owned by the process, sampled every 50 ms. It must not know what runs.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use moelten_engine::runtime::memory;
use moelten_loader::supervise::supervised;

/// Time between two samples.
const INTERVAL: Duration = Duration::from_millis(50);

/// Samples until [`Peak::end`].
pub struct Peak {
    stop: Sender<()>,
    thread: io::Result<JoinHandle<Option<Option<u64>>>>,
}

impl Peak {
    /// Starts sampling.
    ///
    /// `on_panic` gets the message if the thread fails.
    pub fn begin(on_panic: fn(String)) -> Self {
        let (stop, stopped) = channel();
        let look = move || {
            let mut most = memory::owned_bytes();
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                most = most.max(memory::owned_bytes());
            }
            most.max(memory::owned_bytes())
        };
        Self { stop, thread: supervised("peak", on_panic, look) }
    }

    /// Most bytes owned since the start; `None` if the system does not report them.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn end(self) -> io::Result<Option<u64>> {
        // The thread may have ended already.
        let _ = self.stop.send(());
        Ok(self.thread?.join().ok().flatten().flatten())
    }
}
