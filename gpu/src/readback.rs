//! Reading results: a buffer that both sides see, and waiting for it. It must not know what is read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crate::device::Gpu;
use crate::error::GpuError;

const WAITING: u8 = 0;
const THERE: u8 = 1;
const FAILED: u8 = 2;

/// A buffer that results are copied to.
#[derive(Debug)]
pub(crate) struct Readback {
    pub buffer: wgpu::Buffer,
    state: Arc<AtomicU8>,
}

impl Readback {
    pub fn new(gpu: &Gpu, bytes: u64) -> Self {
        let buffer = gpu.buffer(bytes, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        Self { buffer, state: Arc::new(AtomicU8::new(WAITING)) }
    }

    /// Asks for the first bytes, once what was submitted is done.
    pub fn ask(&self, bytes: u64) {
        self.state.store(WAITING, Ordering::Relaxed);
        let state = Arc::clone(&self.state);
        self.buffer.map_async(wgpu::MapMode::Read, ..bytes, move |result| {
            state.store(if result.is_ok() { THERE } else { FAILED }, Ordering::Release);
        });
    }

    /// Waits for the bytes of [`Self::ask`] and passes them to `read`. The thread does not sleep: being woken
    /// takes longer than a layer.
    ///
    /// # Errors
    /// [`GpuError::Lost`], [`GpuError::Hung`].
    pub fn wait(
        &self,
        gpu: &Gpu,
        patience: Duration,
        bytes: u64,
        read: impl FnOnce(&[u8]),
    ) -> Result<(), GpuError> {
        let since = Instant::now();
        loop {
            let polled = gpu.device.poll(wgpu::PollType::Poll);
            match self.state.load(Ordering::Acquire) {
                THERE => break,
                FAILED => {
                    gpu.check()?;
                    return Err(GpuError::Lost("results could not be read".to_owned()));
                }
                _ => gpu.check()?,
            }
            if let Err(error) = polled {
                return Err(GpuError::Lost(error.to_string()));
            }
            if since.elapsed() > patience {
                return Err(GpuError::Hung(patience.as_secs()));
            }
            std::thread::yield_now();
        }
        let view = self.buffer.get_mapped_range(..bytes);
        let view = view.map_err(|error| GpuError::Lost(error.to_string()))?;
        read(&view);
        drop(view);
        self.buffer.unmap();
        gpu.check()
    }
}

/// All of a buffer, for tests of the device.
pub(crate) fn read(
    gpu: &Gpu,
    patience: Duration,
    from: &wgpu::Buffer,
    words: usize,
) -> Result<Vec<u32>, GpuError> {
    let bytes = 4 * words as u64;
    let back = Readback::new(gpu, bytes);
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    encoder.copy_buffer_to_buffer(from, 0, &back.buffer, 0, bytes);
    gpu.queue.submit([encoder.finish()]);
    back.ask(bytes);
    let mut out = Vec::with_capacity(words);
    back.wait(gpu, patience, bytes, |bytes| {
        out.extend(bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)));
    })?;
    Ok(out)
}
