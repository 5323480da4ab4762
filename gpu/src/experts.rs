//! Experts in slots, and the submission that computes some of them over one input. It must not know which
//! experts are worth a slot.

use std::time::Duration;

use moelten_quant::{BLOCK, Kernels, Line, QMatrix};

use crate::block::{Activation, Block, ExpertBytes, Matrix};
use crate::device::Gpu;
use crate::error::GpuError;
use crate::product::Product;
use crate::readback::{self, Readback};
use crate::shader::{self, Arithmetic, Job, NONE, RECORD};
use crate::slabs::{Slabs, Slot};
use crate::speed::Speed;
use crate::stage::{Layouts, Stage, little_endian};

/// How long an answer may take while a model runs. Systems reset a device after two seconds or so.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the first answers may take: drivers compile then.
const FIRST_PATIENCE: Duration = Duration::from_secs(120);

/// Experts of one shape.
#[derive(Debug, Clone, Copy)]
pub struct BankNeed {
    /// Index of their shape.
    pub block: usize,
    /// How many there are.
    pub experts: usize,
}

/// What is to be computed.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a> {
    /// The shapes.
    pub blocks: &'a [Block],
    /// The experts.
    pub banks: &'a [BankNeed],
    /// Most experts of one submission.
    pub most_at_once: usize,
}

/// A device with slots for experts.
#[derive(Debug)]
pub struct Experts {
    gpu: Gpu,
    arithmetic: Arithmetic,
    blocks: Vec<Prepared>,
    banks: Vec<Bank>,
    slabs: Slabs,
    buffers: Buffers,
    layouts: Layouts,
    patience: Duration,
    /// Words of the answer that is being computed.
    asked: Option<usize>,
    speed: Speed,
    head: Option<Product>,
}

/// A shape with its pipelines.
#[derive(Debug)]
struct Prepared {
    block: Block,
    /// Gate, up, the hidden layer, down, in order.
    stages: Vec<Stage>,
    hidden: usize,
}

#[derive(Debug)]
struct Bank {
    block: usize,
    slots: Vec<Slot>,
}

/// What kernels read and write beside slabs.
#[derive(Debug)]
struct Buffers {
    input: wgpu::Buffer,
    values: wgpu::Buffer,
    hidden: wgpu::Buffer,
    outputs: wgpu::Buffer,
    slots: wgpu::Buffer,
    back: Readback,
    most_at_once: usize,
}

impl Experts {
    /// Allocates up to `budget` bytes. Nothing can be computed before [`Self::compile`].
    ///
    /// # Errors
    /// [`GpuError::NoRoom`]; faults of the driver.
    pub(crate) fn allocate(gpu: Gpu, needs: &Needs<'_>, budget: u64) -> Result<Self, GpuError> {
        let layouts = Layouts::new(&gpu);
        let mut slabs = Slabs::allocate(&gpu, &layouts, budget);
        let banks = share_out(&mut slabs, needs);
        if banks.iter().all(|bank| bank.slots.is_empty()) {
            let smallest = needs.blocks.iter().map(Block::slot_bytes).min().unwrap_or(0) as u64;
            return Err(GpuError::NoRoom { given: slabs.bytes(), smallest });
        }
        let buffers = gpu.scoped(|| Buffers::new(&gpu, needs))?;
        Ok(Self {
            gpu,
            arithmetic: Arithmetic::Whole,
            blocks: Vec::new(),
            banks,
            slabs,
            buffers,
            layouts,
            patience: FIRST_PATIENCE,
            asked: None,
            speed: Speed::default(),
            head: None,
        })
    }

    /// Compiles the pipelines of all shapes, in place of those that there were.
    ///
    /// # Errors
    /// When the driver refuses one.
    pub(crate) fn compile(&mut self, blocks: &[Block], arithmetic: Arithmetic) -> Result<(), GpuError> {
        self.arithmetic = arithmetic;
        self.blocks.clear();
        for block in blocks {
            let prepared = self.prepare(block)?;
            self.blocks.push(prepared);
        }
        Ok(())
    }

    /// Ends the preparations: answers must come soon from now on.
    pub(crate) fn ready(mut self, speed: Speed) -> Self {
        (self.speed, self.patience) = (speed, PATIENCE);
        self
    }

    fn prepare(&self, block: &Block) -> Result<Prepared, GpuError> {
        let (gpu, buffers, layouts) = (&self.gpu, &self.buffers, &self.layouts);
        let (places, most) = (block.places(), buffers.most_at_once);
        let (ff, d) = (block.d_ff(), block.d_model());
        let mut stages = Vec::new();
        let mut product =
            |matrix: &Matrix, base: usize, [x, o]: [&wgpu::Buffer; 2], [i, s, t]: [usize; 3]| {
                let job = Job {
                    rows: matrix.rows as u32,
                    blocks: (matrix.cols / BLOCK) as u32,
                    base: base as u32,
                    row_bytes: matrix.row_bytes() as u32,
                    in_stride: i as u32,
                    out_start: s as u32,
                    out_stride: t as u32,
                    ..Job::default()
                };
                let source = shader::rows(matrix.format, self.arithmetic);
                let pipeline = layouts.pipeline(gpu, source, "rows")?;
                let bind = layouts.bind_job(gpu, [x, o, &buffers.slots], &job);
                let groups = matrix.rows.div_ceil(self.arithmetic.rows_of_group());
                stages.push(Stage { pipeline, bind, groups: groups as u32 });
                Ok::<(), GpuError>(())
            };
        let into_values = [&buffers.input, &buffers.values];
        let (mut up_start, mut gate_bias, mut up_bias) =
            (NONE, block.up_bias.then_some(places.up_bias), None);
        if let Some(gate) = &block.gate {
            product(gate, places.gate, into_values, [0, 0, ff])?;
            product(&block.up, places.up, into_values, [0, most * ff, ff])?;
            up_start = (most * ff) as u32;
            (gate_bias, up_bias) = (block.gate_bias.then_some(places.gate_bias), gate_bias);
        } else {
            product(&block.up, places.up, into_values, [0, 0, ff])?;
        }
        let records = ff / BLOCK * RECORD;
        let (limit, alpha) = match block.activation {
            Activation::ClampedSilu { limit } => (limit.to_bits(), 0),
            Activation::ClampedSwiglu { limit, alpha } => (limit.to_bits(), alpha.to_bits()),
            _ => (0, 0),
        };
        let place = |bias: Option<usize>| bias.map_or(NONE, |byte| byte as u32);
        let job = Job {
            in_stride: ff as u32,
            out_stride: records as u32,
            up_start,
            gate_bias: place(gate_bias),
            up_bias: place(up_bias),
            limit,
            alpha,
            ..Job::default()
        };
        product(&block.down, places.down, [&buffers.hidden, &buffers.outputs], [records, 0, d])?;
        let pipeline = layouts.pipeline(gpu, shader::hidden(block.activation), "layer")?;
        let bind = layouts.bind_job(gpu, [&buffers.values, &buffers.hidden, &buffers.slots], &job);
        let hidden = stages.len() - 1;
        stages.insert(hidden, Stage { pipeline, bind, groups: (ff / BLOCK) as u32 });
        gpu.check()?;
        Ok(Prepared { block: *block, stages, hidden })
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The arithmetic that is used.
    pub fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    /// What was measured at the start.
    pub fn speed(&self) -> &Speed {
        &self.speed
    }

    /// How long an answer may take from now on: with no time at all every device hangs, a fault for tests.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Copies the first rows of a model's head beside the experts, in `budget` bytes, with the arithmetic of
    /// the experts. It is tested and measured.
    ///
    /// # Errors
    /// As [`Product::open`].
    pub fn add_head(
        &mut self,
        head: &QMatrix<'_>,
        budget: u64,
        kernels: &Kernels,
    ) -> Result<&Product, GpuError> {
        let product = Product::open(&self.gpu, &self.layouts, self.arithmetic, head, budget, kernels)?;
        Ok(self.head.insert(product))
    }

    /// Begins to multiply the first `rows` rows of the head with one token's packed input.
    ///
    /// # Errors
    /// Faults of the driver.
    ///
    /// # Panics
    /// If there is no head, or an answer of it is being computed.
    pub fn begin_head(&mut self, rows: usize, input: &[Line]) -> Result<(), GpuError> {
        self.head.as_mut().expect("begin_head: there is one").begin(&self.gpu, rows, input)
    }

    /// Waits for the products of [`Self::begin_head`].
    ///
    /// # Errors
    /// As [`Self::finish`].
    ///
    /// # Panics
    /// If nothing was begun, or `out` is of another length.
    pub fn finish_head(&mut self, out: &mut [f32]) -> Result<(), GpuError> {
        let head = self.head.as_mut().expect("finish_head: there is one");
        head.finish(&self.gpu, self.patience, out)
    }

    /// Bytes that were allocated for slots.
    pub fn bytes(&self) -> u64 {
        self.slabs.bytes()
    }

    /// Slots of a bank.
    pub fn slots(&self, bank: usize) -> usize {
        self.banks[bank].slots.len()
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.buffers.most_at_once
    }

    pub(crate) fn blocks(&self) -> impl Iterator<Item = (usize, Block)> + use<> {
        let blocks: Vec<Block> = self.blocks.iter().map(|prepared| prepared.block).collect();
        blocks.into_iter().enumerate()
    }

    /// A bank of some shape with slots.
    pub(crate) fn bank_of(&self, block: usize) -> Option<usize> {
        self.banks.iter().position(|bank| bank.block == block && !bank.slots.is_empty())
    }

    /// Copies an expert into a slot of its bank. It is there for everything that begins later.
    ///
    /// # Errors
    /// Faults of the driver.
    ///
    /// # Panics
    /// If the matrices have other shapes than the bank.
    pub fn upload(&mut self, bank: usize, slot: usize, expert: &ExpertBytes<'_>) -> Result<(), GpuError> {
        let Bank { block, slots } = &self.banks[bank];
        let (block, slot) = (&self.blocks[*block].block, slots[slot]);
        let places = block.places();
        let buffer = &self.slabs.get(slot.slab).buffer;
        let write = |at: usize, bytes: &[u8]| {
            let at = u64::from(slot.byte) + at as u64;
            let (whole, rest) = bytes.split_at(bytes.len() & !3);
            self.gpu.queue.write_buffer(buffer, at, whole);
            if !rest.is_empty() {
                let mut word = [0; 4];
                word[..rest.len()].copy_from_slice(rest);
                self.gpu.queue.write_buffer(buffer, at + whole.len() as u64, &word);
            }
        };
        let shape = |w: &QMatrix<'_>| (w.format(), w.rows(), w.cols());
        let wanted = |m: &Matrix| (m.format, m.rows, m.cols);
        assert_eq!(expert.gate.as_ref().map(shape), block.gate.as_ref().map(wanted), "upload: gate");
        assert_eq!(shape(&expert.up), wanted(&block.up), "upload: up");
        assert_eq!(shape(&expert.down), wanted(&block.down), "upload: down");
        if let Some(gate) = &expert.gate {
            write(places.gate, gate.data());
        }
        write(places.up, expert.up.data());
        write(places.down, expert.down.data());
        let biases = [(places.gate_bias, expert.gate_bias), (places.up_bias, expert.up_bias)];
        for (at, bias) in biases.into_iter().filter_map(|(at, bias)| Some((at, bias?))) {
            let bytes: Vec<u8> = bias.iter().flat_map(|b| b.to_le_bytes()).collect();
            write(at, &bytes);
        }
        self.gpu.check()
    }

    /// Begins to compute the experts in some slots of a bank over one token's packed input: its records, a
    /// line each. [`Self::finish`] gives the outputs.
    ///
    /// # Errors
    /// Faults of the driver.
    ///
    /// # Panics
    /// If an answer is being computed, or there are more slots than was said.
    pub fn begin(&mut self, bank: usize, slots: &[usize], input: &[Line]) -> Result<(), GpuError> {
        let Bank { block, slots: places } = &self.banks[bank];
        assert!(
            self.asked.is_none() && slots.len() <= self.buffers.most_at_once,
            "begin: {} slots",
            slots.len()
        );
        let prepared = &self.blocks[*block];
        assert_eq!(input.len() * BLOCK, prepared.block.d_model(), "begin: width of the input");
        let places: Vec<Slot> = slots.iter().map(|&slot| places[slot]).collect();
        let words: Vec<u8> = input.iter().flat_map(|line| little_endian(line.as_words())).collect();
        self.gpu.queue.write_buffer(&self.buffers.input, 0, &words);
        let words = places.len() * prepared.block.d_model();
        self.submit(prepared, 0..prepared.stages.len(), &places, words);
        self.asked = Some(words);
        self.gpu.check()
    }

    /// One submission: some stages over the experts in `places`, and a copy of the outputs.
    fn submit(&self, prepared: &Prepared, stages: std::ops::Range<usize>, places: &[Slot], words: usize) {
        let (gpu, buffers) = (&self.gpu, &self.buffers);
        let table: Vec<u32> = places.iter().flat_map(|slot| [slot.byte, slot.slab]).collect();
        gpu.queue.write_buffer(&buffers.slots, 0, &little_endian(&table));
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for stage in &prepared.stages[stages] {
            pass.set_pipeline(&stage.pipeline);
            pass.set_bind_group(1, &stage.bind, &[]);
            for (number, slab) in self.slabs.iter() {
                if places.iter().any(|slot| slot.slab == number) {
                    pass.set_bind_group(0, &slab.bind, &[]);
                    pass.dispatch_workgroups(stage.groups, places.len() as u32, 1);
                }
            }
        }
        drop(pass);
        let bytes = 4 * words as u64;
        if bytes > 0 {
            encoder.copy_buffer_to_buffer(&buffers.outputs, 0, &buffers.back.buffer, 0, bytes);
        }
        gpu.queue.submit([encoder.finish()]);
        if bytes > 0 {
            buffers.back.ask(bytes);
        }
    }

    /// Waits for the outputs of [`Self::begin`], `[slots, d_model]`.
    ///
    /// # Errors
    /// The device was lost, or does not answer. It must not be used any more then.
    ///
    /// # Panics
    /// If nothing was begun, or `out` is of another length.
    pub fn finish(&mut self, out: &mut [f32]) -> Result<(), GpuError> {
        let words = self.asked.take().expect("finish: nothing was begun");
        assert_eq!(out.len(), words, "finish: length of the outputs");
        let read = |bytes: &[u8]| {
            for (out, word) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *out = f32::from_le_bytes(*word);
            }
        };
        self.buffers.back.wait(&self.gpu, self.patience, 4 * words as u64, read)
    }

    /// What the products before the hidden layer gave, and its records, for the last submission of `n`
    /// experts of a shape: `[gate and up][n][d_ff]`, `[n][records]`.
    pub(crate) fn inside(&self, block: usize, n: usize) -> Result<(Vec<u32>, Vec<u32>), GpuError> {
        let (block, most) = (&self.blocks[block].block, self.buffers.most_at_once);
        let ff = block.d_ff();
        let all = if block.gate.is_some() { most + n } else { n };
        let values = readback::read(&self.gpu, self.patience, &self.buffers.values, all * ff)?;
        let (gates, ups) = (values[..n * ff].to_vec(), values.get(most * ff..).unwrap_or(&[]));
        let hidden = ff / BLOCK * RECORD;
        let hidden = readback::read(&self.gpu, self.patience, &self.buffers.hidden, n * hidden)?;
        Ok(([&gates, ups].concat(), hidden))
    }

    /// The records of the hidden layer for given outputs of gate and up, by the pipeline of the shape.
    pub(crate) fn hidden_of(&self, block: usize, gate: &[u32], up: &[u32]) -> Result<Vec<u32>, GpuError> {
        let prepared = &self.blocks[block];
        let (most, ff) = (self.buffers.most_at_once, prepared.block.d_ff());
        let queue = &self.gpu.queue;
        queue.write_buffer(&self.buffers.values, 0, &little_endian(gate));
        if prepared.block.gate.is_some() {
            queue.write_buffer(&self.buffers.values, 4 * (most * ff) as u64, &little_endian(up));
        }
        let bank = self.bank_of(block).map(|bank| self.banks[bank].slots[0]);
        let Some(slot) = bank else { return Ok(Vec::new()) };
        self.submit(prepared, prepared.hidden..prepared.hidden + 1, &[slot], 0);
        let words = ff / BLOCK * RECORD;
        readback::read(&self.gpu, self.patience, &self.buffers.hidden, words)
    }
}

impl Buffers {
    fn new(gpu: &Gpu, needs: &Needs<'_>) -> Self {
        let most = needs.most_at_once.max(1);
        let widest = |width: fn(&Block) -> usize| needs.blocks.iter().map(width).max().unwrap_or(0);
        let (d, ff) = (widest(Block::d_model), widest(Block::d_ff));
        let records = |width: usize| width / BLOCK * RECORD;
        let words = |words: usize| 4 * words as u64;
        let all = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        Self {
            input: gpu.buffer(words(records(d)), all),
            values: gpu.buffer(words(2 * most * ff), all),
            hidden: gpu.buffer(words(most * records(ff)), all),
            outputs: gpu.buffer(words(most * d), all),
            slots: gpu.buffer(words(2 * most), all),
            back: Readback::new(gpu, words(most * d)),
            most_at_once: most,
        }
    }
}

/// How many slots each bank gets of `bytes` in one piece: as many for each as there is room, then one
/// more for the first ones.
pub fn slots_in(needs: &Needs<'_>, bytes: u64) -> Vec<usize> {
    let size = |bank: &BankNeed| needs.blocks[bank.block].slot_bytes() as u64;
    let mut left = bytes;
    let mut quotas = vec![0; needs.banks.len()];
    loop {
        let before = left;
        for (quota, bank) in quotas.iter_mut().zip(needs.banks) {
            if *quota < bank.experts && size(bank) <= left {
                *quota += 1;
                left -= size(bank);
            }
        }
        if left == before {
            return quotas;
        }
    }
}

/// Slots of every bank. Those of a bank follow each other, so that a submission binds few slabs.
fn share_out(slabs: &mut Slabs, needs: &Needs<'_>) -> Vec<Bank> {
    let quotas = slots_in(needs, slabs.bytes());
    let take = |(bank, &quota): (&BankNeed, &usize)| {
        let bytes = needs.blocks[bank.block].slot_bytes();
        let slots = (0..quota).map_while(|_| slabs.take(bytes)).collect();
        Bank { block: bank.block, slots }
    };
    needs.banks.iter().zip(&quotas).map(take).collect()
}
