//! One large matrix in slabs of its own, and the submission that multiplies its first rows with one input: a
//! model's head. It must not know what its outputs are for.

use std::time::{Duration, Instant};

use moelten_quant::{ActivationKind, Activations, BLOCK, Kernels, Line, QMatrix};

use crate::block::{FORMATS, Matrix};
use crate::device::Gpu;
use crate::error::GpuError;
use crate::readback::Readback;
use crate::samples::{Random, Weights, differs, far, input};
use crate::shader::{self, Arithmetic, Job, RECORD};
use crate::slabs::Slabs;
use crate::stage::{Layouts, Stage, little_endian};

/// Inputs of the test, and rounds of which the fastest counts.
const ROUNDS: u64 = 3;
/// Bytes that are copied at once.
const PART: usize = 16 << 20;

/// A matrix on a device.
#[derive(Debug)]
pub struct Product {
    matrix: Matrix,
    slabs: Slabs,
    input: wgpu::Buffer,
    outputs: wgpu::Buffer,
    back: Readback,
    pieces: Vec<Piece>,
    rows_of_group: usize,
    /// Rows that are being computed.
    asked: Option<usize>,
    /// From a submission of all rows to their results.
    time: Duration,
}

/// The rows of one slab.
#[derive(Debug)]
struct Piece {
    /// The first of them in the matrix.
    first: usize,
    rows: usize,
    stage: Stage,
}

impl Product {
    /// Copies as many of the first rows of a matrix as `budget` bytes hold, in as many slabs as they
    /// need, and tests that their products are those of `kernels`.
    ///
    /// # Errors
    /// [`GpuError::NoRoom`], also for a format without a kernel; [`GpuError::Inexact`]; faults of the
    /// driver.
    pub(crate) fn open(
        gpu: &Gpu,
        layouts: &Layouts,
        arithmetic: Arithmetic,
        w: &QMatrix<'_>,
        budget: u64,
        kernels: &Kernels,
    ) -> Result<Self, GpuError> {
        let row = w.row_bytes() as u64;
        let no_room = |given| GpuError::NoRoom { given, smallest: row * GROUP as u64 };
        if !FORMATS.contains(&w.format()) || !w.cols().is_multiple_of(BLOCK) {
            return Err(no_room(0));
        }
        let counts = rows_of_slabs(w.rows(), row, budget, gpu.most_slab());
        let mut slabs = Slabs::of(gpu, layouts, counts.iter().map(|&rows| rows as u64 * row + SLACK));
        let counts = &counts[..slabs.iter().count()];
        let rows: usize = counts.iter().sum();
        if rows == 0 {
            return Err(no_room(slabs.bytes()));
        }
        let all = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let bytes = |words: usize| 4 * words as u64;
        let (input, outputs, back) = gpu.scoped(|| {
            let buffer = |words| gpu.buffer(bytes(words), all);
            (buffer(w.cols() / BLOCK * RECORD), buffer(rows), Readback::new(gpu, bytes(rows)))
        })?;
        let pipeline = layouts.pipeline(gpu, shader::rows(w.format(), arithmetic), "rows")?;
        let rows_of_group = arithmetic.rows_of_group();
        let (mut pieces, mut first) = (Vec::new(), 0);
        for &rows in counts {
            let Some(slot) = slabs.take(rows * w.row_bytes()) else { return Err(no_room(slabs.bytes())) };
            let job = Job {
                rows: rows as u32,
                blocks: (w.cols() / BLOCK) as u32,
                row_bytes: w.row_bytes() as u32,
                out_start: first as u32,
                ..Job::default()
            };
            let table = gpu.scoped(|| gpu.buffer(bytes(2), all))?;
            gpu.queue.write_buffer(&table, 0, &little_endian(&[slot.byte, slot.slab]));
            let bind = layouts.bind_job(gpu, [&input, &outputs, &table], &job);
            let groups = rows.div_ceil(rows_of_group) as u32;
            pieces.push(Piece { first, rows, stage: Stage { pipeline: pipeline.clone(), bind, groups } });
            let some = w.slice_rows(first..first + rows);
            for (part, at) in some.data().chunks(PART).zip((0..).step_by(PART)) {
                gpu.queue.write_buffer(&slabs.get(slot.slab).buffer, u64::from(slot.byte) + at, part);
                gpu.queue.submit([]);
            }
            first += rows;
        }
        gpu.check()?;
        let matrix = Matrix { format: w.format(), rows, cols: w.cols() };
        let (asked, time) = (None, Duration::MAX);
        let mut product = Self { matrix, slabs, input, outputs, back, pieces, rows_of_group, asked, time };
        match product.test(gpu, arithmetic, w, kernels)? {
            None => Ok(product),
            Some(fault) => Err(GpuError::Inexact(fault)),
        }
    }

    /// Rows that are there.
    pub fn rows(&self) -> usize {
        self.matrix.rows
    }

    /// Bytes of its slabs.
    pub fn bytes(&self) -> u64 {
        self.slabs.bytes()
    }

    /// From a submission of all rows to their results.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// Compares the products of all rows with the CPU's, and measures them.
    fn test(
        &mut self,
        gpu: &Gpu,
        arithmetic: Arithmetic,
        w: &QMatrix<'_>,
        kernels: &Kernels,
    ) -> Result<Option<String>, GpuError> {
        let (rows, mut out) = (self.matrix.rows, vec![0.0; self.matrix.rows]);
        for seed in 0..ROUNDS {
            let x = input(kernels, self.matrix.cols, Weights::Usual, &mut Random::new(seed));
            let since = Instant::now();
            self.begin(gpu, rows, &x)?;
            self.finish(gpu, TEST_PATIENCE, &mut out)?;
            self.time = self.time.min(since.elapsed());
            let mut wanted = vec![0.0; rows];
            let x = Activations::new(ActivationKind::Q8, 1, self.matrix.cols, &x);
            kernels.matmul(w.slice_rows(0..rows), x, &mut wanted);
            let bits = |x: &[f32]| -> Vec<u32> { x.iter().map(|x| x.to_bits()).collect() };
            let fault = match arithmetic.is_exact() {
                true => differs("products of rows", &bits(&out), &bits(&wanted)),
                false => far("products of rows", &out, &wanted),
            };
            if fault.is_some() {
                return Ok(fault);
            }
        }
        Ok(None)
    }

    /// Begins to multiply the first `rows` rows with one token's packed input.
    ///
    /// # Errors
    /// Faults of the driver.
    ///
    /// # Panics
    /// If an answer is being computed, or there are fewer rows.
    pub(crate) fn begin(&mut self, gpu: &Gpu, rows: usize, input: &[Line]) -> Result<(), GpuError> {
        assert!(self.asked.is_none() && rows <= self.matrix.rows && rows > 0, "begin: {rows} rows");
        assert_eq!(input.len() * BLOCK, self.matrix.cols, "begin: width of the input");
        let words: Vec<u8> = input.iter().flat_map(|line| little_endian(line.as_words())).collect();
        gpu.queue.write_buffer(&self.input, 0, &words);
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for (piece, (_, slab)) in self.pieces.iter().zip(self.slabs.iter()) {
            let some = rows.saturating_sub(piece.first).min(piece.rows);
            if some > 0 {
                pass.set_pipeline(&piece.stage.pipeline);
                pass.set_bind_group(1, &piece.stage.bind, &[]);
                pass.set_bind_group(0, &slab.bind, &[]);
                let groups = (some.div_ceil(self.rows_of_group) as u32).min(piece.stage.groups);
                pass.dispatch_workgroups(groups, 1, 1);
            }
        }
        drop(pass);
        let bytes = 4 * rows as u64;
        encoder.copy_buffer_to_buffer(&self.outputs, 0, &self.back.buffer, 0, bytes);
        gpu.queue.submit([encoder.finish()]);
        self.back.ask(bytes);
        self.asked = Some(rows);
        gpu.check()
    }

    /// Waits for the products of [`Self::begin`].
    ///
    /// # Errors
    /// The device was lost, or does not answer.
    ///
    /// # Panics
    /// If nothing was begun, or `out` is of another length.
    pub(crate) fn finish(&mut self, gpu: &Gpu, patience: Duration, out: &mut [f32]) -> Result<(), GpuError> {
        let rows = self.asked.take().expect("finish: nothing was begun");
        assert_eq!(out.len(), rows, "finish: length of the outputs");
        self.back.wait(gpu, patience, 4 * rows as u64, |bytes| {
            for (out, word) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *out = f32::from_le_bytes(*word);
            }
        })
    }
}

/// The rows of each slab, whole groups, when `budget` bytes may be allocated in slabs of `most` bytes.
fn rows_of_slabs(all: usize, row: u64, budget: u64, most: u64) -> Vec<usize> {
    let (mut left, mut rows, mut counts) = (budget, all / GROUP * GROUP, Vec::new());
    loop {
        let room = left.min(most).saturating_sub(SLACK) / row.max(1);
        let some = (room as usize).min(rows) / GROUP * GROUP;
        if some == 0 {
            return counts;
        }
        counts.push(some);
        (left, rows) = (left - some as u64 * row - SLACK, rows - some);
    }
}

/// Rows of a group, as in the CPU's products.
const GROUP: usize = 32;
/// Bytes of a slab that are not for rows.
const SLACK: u64 = 64;
/// How long the first answers may take: drivers compile then.
const TEST_PATIENCE: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shared_out_among_slabs_in_whole_groups() {
        assert_eq!(rows_of_slabs(1000, 100, 1 << 20, 1 << 20), [992]);
        assert_eq!(rows_of_slabs(1000, 100, 1 << 20, 40_000), [384, 384, 224]);
        assert_eq!(rows_of_slabs(1000, 100, 60_000, 40_000), [384, 192], "no more than the budget");
        assert!(rows_of_slabs(1000, 100, 3_000, 40_000).is_empty());
        assert!(rows_of_slabs(1000, 100, 60_000, 3_000).is_empty());
        assert!(rows_of_slabs(31, 100, 60_000, 40_000).is_empty());
    }
}
