//! A device: its queue, its limits, and what has gone wrong with it. It must not know what is computed.

use std::sync::{Arc, Mutex, PoisonError};

use crate::adapter::{Adapter, AdapterKind, now};
use crate::error::GpuError;
use crate::quiet::quietly;

/// Most bytes of one buffer of experts.
const MOST_SLAB: u64 = 512 << 20;

/// An open device.
#[derive(Debug)]
pub struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    adapter: Adapter,
    limits: wgpu::Limits,
    /// The first thing that went wrong.
    fault: Arc<Mutex<Option<String>>>,
    /// Most bytes of a slab, and the number of the first one that is refused.
    slabs: (u64, usize),
}

impl Gpu {
    /// Opens a device with all limits that the adapter has.
    ///
    /// # Errors
    /// [`GpuError::NoDevice`].
    pub fn open(adapter: &Adapter) -> Result<Self, GpuError> {
        let limits = adapter.inner.limits();
        let descriptor = wgpu::DeviceDescriptor { required_limits: limits.clone(), ..Default::default() };
        let opened = quietly(|| now(adapter.inner.request_device(&descriptor)));
        let refused = |reason: String| GpuError::NoDevice { adapter: adapter.name.clone(), reason };
        let opened = opened.ok_or_else(|| refused("it did not answer".to_owned()))?;
        let (device, queue) = opened.map_err(|error| refused(error.to_string()))?;
        let fault: Arc<Mutex<Option<String>>> = Arc::default();
        let note = |fault: &Mutex<Option<String>>, text: String| {
            fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
        };
        let seen = Arc::clone(&fault);
        device.on_uncaptured_error(Arc::new(move |error| note(&seen, first_line(&error))));
        let seen = Arc::clone(&fault);
        device.set_device_lost_callback(move |_, text| note(&seen, format!("the device was lost: {text}")));
        let slabs = (MOST_SLAB, usize::MAX);
        Ok(Self { device, queue, adapter: adapter.clone(), limits, fault, slabs })
    }

    /// The adapter that it was opened on.
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// Whether its memory is the RAM.
    pub fn shares_ram(&self) -> bool {
        self.adapter.kind != AdapterKind::Discrete
    }

    /// Ends the device as a driver does that is reset: a fault for tests.
    pub fn destroy(&self) {
        self.device.destroy();
    }

    /// Makes slabs of at most `bytes` bytes and has the driver refuse all from number `refused` on, as it
    /// does when its memory is used up: a fault for tests.
    pub fn run_out(&mut self, bytes: u64, refused: usize) {
        self.slabs = (bytes, refused);
    }

    /// Bytes that the driver gives for slabs, up to `most`. They are free again afterwards.
    pub fn room(&self, most: u64) -> u64 {
        let (mut buffers, mut given) = (Vec::new(), 0);
        while given + (1 << 20) <= most {
            let bytes = (most - given).min(self.most_slab());
            let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
            let Ok(buffer) = self.scoped(|| self.buffer(bytes, usage)) else { break };
            buffers.push(buffer);
            given += bytes;
        }
        buffers.iter().for_each(wgpu::Buffer::destroy);
        given
    }

    /// Bytes that the buffer of a slab has: more than any driver gives for one that is to be refused.
    pub(crate) fn asked(&self, slab: u32, bytes: u64) -> u64 {
        if slab as usize >= self.slabs.1 { self.limits.max_buffer_size.saturating_add(4) & !3 } else { bytes }
    }

    /// Most bytes of a slab, a multiple of four.
    pub(crate) fn most_slab(&self) -> u64 {
        let limits = [self.limits.max_storage_buffer_binding_size, self.limits.max_buffer_size, self.slabs.0];
        limits.into_iter().min().unwrap_or(0) & !3
    }

    /// Fails once anything has gone wrong.
    pub(crate) fn check(&self) -> Result<(), GpuError> {
        match &*self.fault.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(text) => Err(GpuError::Lost(text.clone())),
            None => Ok(()),
        }
    }

    /// Does something and returns the first error of it, with everything that the driver may complain about.
    pub(crate) fn scoped<R>(&self, work: impl FnOnce() -> R) -> Result<R, GpuError> {
        let filters =
            [wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal];
        let mut guards = filters.map(|filter| Some(self.device.push_error_scope(filter)));
        let result = work();
        // Scopes are a stack.
        let errors = [2, 1, 0].map(|i: usize| guards[i].take().and_then(|guard| now(guard.pop()).flatten()));
        match errors.into_iter().flatten().next() {
            Some(error) => Err(GpuError::Lost(first_line(&error))),
            None => self.check().map(|()| result),
        }
    }

    /// A buffer without content.
    pub(crate) fn buffer(&self, bytes: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        let descriptor = wgpu::BufferDescriptor {
            label: None,
            size: bytes.next_multiple_of(4).max(16),
            usage,
            mapped_at_creation: false,
        };
        self.device.create_buffer(&descriptor)
    }
}

/// What an error says, on one line.
fn first_line(error: &wgpu::Error) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}
