//! The expert store: the only way by which the MoE layer gets expert weights. `acquire` names the experts of a
//! layer; the guard it returns gives each expert's weights and keeps them in place until it is dropped. What is
//! resident, who leaves and where bytes come from is decided behind this interface and never changes a result.
//!
//! It must not know tensor names, nor how experts are multiplied.

pub mod policy;
pub mod replay;
pub mod source;
pub mod trace;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{EngineError, Result};
use crate::layers::mlp::MlpView;
use source::ExpertSource;

/// Gives out expert weights.
pub struct ExpertStore {
    source: Box<dyn ExpertSource>,
    used: AtomicU64,
    used_bytes: AtomicU64,
}

/// What the store did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Experts given out.
    pub experts_used: u64,
    /// Bytes of their weights.
    pub bytes_used: u64,
}

/// Experts of one layer, held in place while this lives.
pub struct Acquired<'s> {
    store: &'s ExpertStore,
    layer: usize,
}

impl ExpertStore {
    /// A store over `source`.
    pub fn new(source: Box<dyn ExpertSource>) -> Self {
        Self { source, used: AtomicU64::new(0), used_bytes: AtomicU64::new(0) }
    }

    /// Takes hold of experts `ids` of `layer`.
    ///
    /// # Errors
    /// [`EngineError::Expert`] when one of them cannot be had.
    pub fn acquire(&self, layer: usize, ids: &[u32]) -> Result<Acquired<'_>> {
        let mut bytes = 0;
        for &id in ids {
            bytes += self.source.bytes(layer, id as usize).map_err(|source| failed(layer, id, source))?;
        }
        self.used.fetch_add(ids.len() as u64, Ordering::Relaxed);
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(Acquired { store: self, layer })
    }

    /// Counters since the start.
    pub fn stats(&self) -> StoreStats {
        StoreStats {
            experts_used: self.used.load(Ordering::Relaxed),
            bytes_used: self.used_bytes.load(Ordering::Relaxed),
        }
    }
}

impl Acquired<'_> {
    /// The weights of one of the acquired experts; waits until they are there.
    ///
    /// # Errors
    /// [`EngineError::Expert`] when they could not be read.
    pub fn expert(&self, id: u32) -> Result<MlpView<'_>> {
        self.store.source.weights(self.layer, id as usize).map_err(|source| failed(self.layer, id, source))
    }
}

fn failed(layer: usize, id: u32, source: std::io::Error) -> EngineError {
    EngineError::Expert { layer, expert: id as usize, source }
}
