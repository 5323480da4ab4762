//! One large matrix in a slab of its own, and the submission that multiplies its first rows with one input:
//! a model's head. It must not know what its outputs are for.

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
    stage: Stage,
    rows_of_group: usize,
    /// Rows that are being computed.
    asked: Option<usize>,
    /// From a submission of all rows to their results.
    time: Duration,
}

impl Product {
    /// Copies as many of the first rows of a matrix as `budget` bytes hold, in one piece, and tests that
    /// their products are those of `kernels`.
    ///
    /// # Errors
    /// [`GpuError::NoRoom`], also for a format without a kernel; [`GpuError::Inexact`]; faults of the driver.
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
        let fits = FORMATS.contains(&w.format()) && w.cols().is_multiple_of(BLOCK);
        // One slab holds all of it: its size without padding.
        let room = budget.min(gpu.most_slab()).saturating_sub(SLACK) / row;
        let rows = (room as usize).min(w.rows()) / GROUP * GROUP;
        if rows == 0 || !fits {
            return Err(no_room(0));
        }
        let mut slabs = Slabs::allocate(gpu, layouts, rows as u64 * row + SLACK);
        let Some(slot) = slabs.take(rows * w.row_bytes()) else { return Err(no_room(slabs.bytes())) };
        let all = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let bytes = |words: usize| 4 * words as u64;
        let (records, matrix) =
            (w.cols() / BLOCK * RECORD, Matrix { format: w.format(), rows, cols: w.cols() });
        let (input, outputs, slots, back) = gpu.scoped(|| {
            let buffer = |words| gpu.buffer(bytes(words), all);
            (buffer(records), buffer(rows), buffer(2), Readback::new(gpu, bytes(rows)))
        })?;
        gpu.queue.write_buffer(&slots, 0, &little_endian(&[slot.byte, slot.slab]));
        let job = Job {
            rows: rows as u32,
            blocks: (w.cols() / BLOCK) as u32,
            row_bytes: w.row_bytes() as u32,
            ..Job::default()
        };
        let pipeline = layouts.pipeline(gpu, shader::rows(w.format(), arithmetic), "rows")?;
        let bind = layouts.bind_job(gpu, [&input, &outputs, &slots], &job);
        let rows_of_group = arithmetic.rows_of_group();
        let stage = Stage { pipeline, bind, groups: rows.div_ceil(rows_of_group) as u32 };
        for (part, at) in w.data()[..rows * w.row_bytes()].chunks(PART).zip((0..).step_by(PART)) {
            gpu.queue.write_buffer(&slabs.get(slot.slab).buffer, u64::from(slot.byte) + at, part);
            gpu.queue.submit([]);
        }
        gpu.check()?;
        let (asked, time) = (None, Duration::MAX);
        let mut product = Self { matrix, slabs, input, outputs, back, stage, rows_of_group, asked, time };
        match product.test(gpu, arithmetic, w, kernels)? {
            None => Ok(product),
            Some(fault) => Err(GpuError::Inexact(fault)),
        }
    }

    /// Rows that are there.
    pub fn rows(&self) -> usize {
        self.matrix.rows
    }

    /// Bytes of its slab.
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
        pass.set_pipeline(&self.stage.pipeline);
        pass.set_bind_group(1, &self.stage.bind, &[]);
        for (_, slab) in self.slabs.iter() {
            pass.set_bind_group(0, &slab.bind, &[]);
            let groups = (rows.div_ceil(self.rows_of_group) as u32).min(self.stage.groups);
            pass.dispatch_workgroups(groups, 1, 1);
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

/// Rows of a group, as in the CPU's products.
const GROUP: usize = 32;
/// Bytes of a slab that are not for rows.
const SLACK: u64 = 64;
/// How long the first answers may take: drivers compile then.
const TEST_PATIENCE: Duration = Duration::from_secs(120);
