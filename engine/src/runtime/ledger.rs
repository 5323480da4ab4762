//! The memory budget and what is taken of it. Every large buffer is charged before it is allocated and given
//! back when it goes. It must not know what a buffer is for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{EngineError, Result};

/// The budget and what is taken of it.
#[derive(Debug)]
pub struct Ledger {
    limit: AtomicU64,
    used: AtomicU64,
}

/// A part of the budget, given back when this goes.
#[derive(Debug)]
pub struct Charge {
    ledger: Arc<Ledger>,
    bytes: u64,
}

impl Ledger {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit: AtomicU64::new(limit), used: AtomicU64::new(0) })
    }

    /// Bytes of the budget.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// From now on the budget is `limit` bytes. What is charged stays charged.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Bytes that are charged.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that are not charged.
    pub fn free(&self) -> u64 {
        self.limit().saturating_sub(self.used())
    }

    /// Takes `bytes` for `what`; `hint` says what would fit instead, of the bytes that are free.
    ///
    /// # Errors
    /// [`EngineError::Memory`] when as much is not left.
    pub fn charge(
        self: &Arc<Self>,
        what: &'static str,
        bytes: u64,
        hint: impl FnOnce(u64) -> String,
    ) -> Result<Charge> {
        let limit = self.limit();
        let take = |used: u64| used.checked_add(bytes).filter(|&sum| sum <= limit);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(Charge { ledger: Arc::clone(self), bytes }),
            Err(used) => {
                let free = limit.saturating_sub(used);
                Err(EngineError::Memory { what, need_bytes: bytes, available_bytes: free, hint: hint(free) })
            }
        }
    }
}

impl Charge {
    /// What it is of the budget.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes a part of it off, as a charge of its own.
    ///
    /// # Panics
    /// If it is less.
    #[must_use]
    pub fn split(&mut self, bytes: u64) -> Self {
        assert!(bytes <= self.bytes, "{bytes} of a charge of {}", self.bytes);
        self.bytes -= bytes;
        Self { ledger: Arc::clone(&self.ledger), bytes }
    }

    /// Takes another charge of the same budget into this one.
    pub fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.ledger.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_left_is_refused_and_what_goes_is_given_back() {
        let ledger = Ledger::new(100);
        let first = ledger.charge("first", 60, |_| String::new()).unwrap();
        let refused = ledger.charge("second", 41, |free| format!("{free} would")).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "not enough memory for second: 41 B needed, 40 B available; 40 would"
        );
        let second = ledger.charge("second", 40, |_| String::new()).unwrap();
        assert_eq!(ledger.free(), 0);
        drop(first);
        assert_eq!(ledger.free(), 60);
        assert!(ledger.charge("huge", u64::MAX, |_| String::new()).is_err());
        drop(second);
        assert_eq!((ledger.free(), ledger.limit()), (100, 100));
    }
}
