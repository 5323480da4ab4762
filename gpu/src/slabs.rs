//! The memory of slots: a few large buffers, as many as the driver gives. It must not know what is in a slot.

use crate::device::Gpu;
use crate::error::GpuError;
use crate::stage::Layouts;

/// Bytes behind the last slot: kernels read words that begin in it.
const PADDING: u64 = 16;

/// A buffer of slots.
#[derive(Debug)]
pub(crate) struct Slab {
    pub buffer: wgpu::Buffer,
    pub bind: wgpu::BindGroup,
    /// Bytes for slots.
    bytes: u64,
    used: u64,
}

/// The place of an expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub slab: u32,
    /// First byte in the slab.
    pub byte: u32,
}

/// All slabs.
#[derive(Debug)]
pub(crate) struct Slabs(Vec<Slab>);

impl Slabs {
    /// Allocates slabs up to `budget` bytes, or fewer when the driver refuses more.
    pub fn allocate(gpu: &Gpu, layouts: &Layouts, budget: u64) -> Self {
        let mut left = budget;
        let next = || {
            let bytes = left.min(gpu.most_slab());
            left -= bytes;
            (bytes >= 1 << 10).then_some(bytes)
        };
        Self::of(gpu, layouts, std::iter::from_fn(next))
    }

    /// Allocates slabs of these sizes, until the driver refuses one.
    pub fn of(gpu: &Gpu, layouts: &Layouts, sizes: impl Iterator<Item = u64>) -> Self {
        Self((0..).zip(sizes).map_while(|(number, bytes)| slab(gpu, layouts, number, bytes).ok()).collect())
    }

    /// Bytes of all slabs.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|slab| slab.bytes + PADDING).sum()
    }

    /// A slot of `bytes` bytes, if one is left.
    pub fn take(&mut self, bytes: usize) -> Option<Slot> {
        let bytes = bytes as u64;
        let found = self.0.iter_mut().enumerate().find(|(_, slab)| slab.used + bytes <= slab.bytes);
        found.map(|(number, slab)| {
            let byte = slab.used as u32;
            slab.used += bytes;
            Slot { slab: number as u32, byte }
        })
    }

    /// A slab by its number.
    pub fn get(&self, slab: u32) -> &Slab {
        &self.0[slab as usize]
    }

    /// Every slab with its number.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Slab)> {
        (0..).zip(&self.0)
    }
}

/// One slab, without its padding no larger than `bytes`.
fn slab(gpu: &Gpu, layouts: &Layouts, number: u32, bytes: u64) -> Result<Slab, GpuError> {
    let bytes = (bytes & !15) - PADDING;
    gpu.scoped(|| {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let buffer = gpu.buffer(gpu.asked(number, bytes + PADDING), usage);
        let uniform = gpu.buffer(16, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST);
        gpu.queue.write_buffer(&uniform, 0, &number.to_le_bytes());
        let bind = layouts.bind_slab(gpu, &buffer, &uniform);
        Slab { buffer, bind, bytes, used: 0 }
    })
}
