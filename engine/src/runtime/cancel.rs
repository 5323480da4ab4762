//! A request to stop, shared by the code that asks and the code that computes. Each sequence and each long
//! job has its own. It must not know what is stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that is set when the work should stop. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A request that has not been made.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the work to stop. It does so between two layers, or within some milliseconds while it waits.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Takes the request back, before new work begins.
    pub fn reset(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    /// Whether the work was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The flag itself, for code outside the engine that knows plain flags.
    pub fn flag(&self) -> &AtomicBool {
        &self.0
    }
}
