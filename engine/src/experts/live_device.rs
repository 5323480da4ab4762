//! Counters of a device for readers on other threads, as plain atomics. It must not know the device, nor its
//! readers.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::tier::DeviceStats;
use crate::api::GpuUse;

const NONE: u8 = 0;
const USED: u8 = 1;
const LOST: u8 = 2;

/// What a device has and does. It has one writer: the thread that runs the forward pass.
#[derive(Debug, Default)]
pub struct LiveDevice {
    state: AtomicU8,
    exact: AtomicBool,
    computed: AtomicU64,
    visited: AtomicU64,
    held: AtomicUsize,
    slots: AtomicUsize,
    bytes: AtomicU64,
}

impl LiveDevice {
    /// Shows counters.
    pub fn set(&self, stats: &DeviceStats) {
        self.exact.store(stats.exact, Relaxed);
        self.computed.store(stats.used, Relaxed);
        self.visited.store(stats.asked, Relaxed);
        self.held.store(stats.held, Relaxed);
        self.slots.store(stats.slots, Relaxed);
        self.bytes.store(stats.bytes, Relaxed);
        self.state.store(if stats.dropped.is_some() { LOST } else { USED }, Relaxed);
    }

    /// The counters; `None` if there never was a device.
    pub fn read(&self) -> Option<GpuUse> {
        let state = self.state.load(Relaxed);
        (state != NONE).then(|| GpuUse {
            computed: self.computed.load(Relaxed),
            visited: self.visited.load(Relaxed),
            held: self.held.load(Relaxed),
            slots: self.slots.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            exact: self.exact.load(Relaxed),
            lost: state == LOST,
        })
    }
}
