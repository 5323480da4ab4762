//! Experts in slots, and the submission that computes some of them over one input. It must not know which
//! experts are worth a slot.

use std::time::Duration;

use moelten_quant::{BLOCK, Kernels, Line, QMatrix};

use crate::block::{Activation, Block, ExpertBytes, Matrix};
use crate::device::Gpu;
use crate::error::GpuError;
use crate::product::Product;
use crate::readback::{self, Readback};
use crate::reference;
use crate::samples::{Random, Weights, differs, far_by, input};
use crate::shader::{self, Arithmetic, Job, NONE, RECORD};
use crate::slabs::{Slabs, Slot};
use crate::speed::Speed;
use crate::stage::{Layouts, Pipelines, Stage, little_endian};

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
    /// Whether it is one that every token visits: it gets its slot before others do, and is computed beside
    /// those of another bank. Its shape is none of other banks.
    pub shared: bool,
}

impl BankNeed {
    /// Experts of which a token visits some.
    pub fn routed(block: usize, experts: usize) -> Self {
        Self { block, experts, shared: false }
    }

    /// An expert that every token visits.
    pub fn shared(block: usize) -> Self {
        Self { block, experts: 1, shared: true }
    }
}

/// What is to be computed.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a> {
    /// The shapes.
    pub blocks: &'a [Block],
    /// The experts.
    pub banks: &'a [BankNeed],
    /// Most routed experts of one submission.
    pub most_at_once: usize,
}

impl Needs<'_> {
    /// Whether a shape is one of shared experts.
    fn is_shared(&self, block: usize) -> bool {
        self.banks.iter().any(|bank| bank.shared && bank.block == block)
    }

    /// The widest of what all shapes have.
    fn widest(&self, shared: Option<bool>, width: fn(&Block) -> usize) -> usize {
        let blocks = self.blocks.iter().enumerate();
        let some = blocks.filter(|&(index, _)| shared.is_none_or(|shared| self.is_shared(index) == shared));
        some.map(|(_, block)| width(block)).max().unwrap_or(0)
    }
}

/// Experts of a bank, by their slots.
pub type Part<'a> = (usize, &'a [usize]);

/// A device with slots for experts.
#[derive(Debug)]
pub struct Experts {
    gpu: Gpu,
    arithmetic: Arithmetic,
    blocks: Vec<Prepared>,
    banks: Vec<Bank>,
    slabs: Slabs,
    /// One token's packed input.
    input: wgpu::Buffer,
    back: Readback,
    /// What kernels read and write: for routed experts, and for a shared one.
    buffers: [Buffers; 2],
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
    /// Which of the buffers they use.
    set: usize,
}

#[derive(Debug)]
struct Bank {
    block: usize,
    slots: Vec<Slot>,
}

/// What the kernels of some shapes write, and their table of slots.
#[derive(Debug)]
struct Buffers {
    values: wgpu::Buffer,
    hidden: wgpu::Buffer,
    outputs: wgpu::Buffer,
    slots: wgpu::Buffer,
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
        let width = needs.widest(None, Block::d_model);
        let most = needs.most_at_once.max(1);
        let (input, back, buffers) = gpu.scoped(|| {
            let input = gpu.buffer(4 * records(width) as u64, ALL_USES);
            let back = Readback::new(&gpu, 4 * ((most + 1) * width) as u64);
            (input, back, [Buffers::new(&gpu, needs, false, most), Buffers::new(&gpu, needs, true, 1)])
        })?;
        Ok(Self {
            gpu,
            arithmetic: Arithmetic::Whole,
            blocks: Vec::new(),
            banks,
            slabs,
            input,
            back,
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
    pub(crate) fn compile(&mut self, needs: &Needs<'_>, arithmetic: Arithmetic) -> Result<(), GpuError> {
        self.arithmetic = arithmetic;
        self.blocks.clear();
        let mut pipelines = Pipelines::default();
        for (index, block) in needs.blocks.iter().enumerate() {
            let set = usize::from(needs.is_shared(index));
            let prepared = self.prepare(block, set, &mut pipelines)?;
            self.blocks.push(prepared);
        }
        Ok(())
    }

    /// Ends the preparations: answers must come soon from now on.
    pub(crate) fn ready(mut self, speed: Speed) -> Self {
        (self.speed, self.patience) = (speed, PATIENCE);
        self
    }

    fn prepare(&self, block: &Block, set: usize, pipelines: &mut Pipelines) -> Result<Prepared, GpuError> {
        let (gpu, buffers, layouts) = (&self.gpu, &self.buffers[set], &self.layouts);
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
                let pipeline = pipelines.get(gpu, layouts, source, "rows")?;
                let bind = layouts.bind_job(gpu, [x, o, &buffers.slots], &job);
                let groups = matrix.rows.div_ceil(self.arithmetic.rows_of_group());
                stages.push(Stage { pipeline, bind, groups: groups as u32 });
                Ok::<(), GpuError>(())
            };
        let into_values = [&self.input, &buffers.values];
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
        let records = records(ff);
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
        let pipeline = pipelines.get(gpu, layouts, shader::hidden(block.activation), "layer")?;
        let bind = layouts.bind_job(gpu, [&buffers.values, &buffers.hidden, &buffers.slots], &job);
        let hidden = stages.len() - 1;
        stages.insert(hidden, Stage { pipeline, bind, groups: (ff / BLOCK) as u32 });
        gpu.check()?;
        Ok(Prepared { block: *block, stages, hidden, set })
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

    /// Most experts of a shape in one submission.
    pub(crate) fn most_at_once(&self, block: usize) -> usize {
        self.buffers[self.blocks[block].set].most_at_once
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

    /// Copies an expert into the first slot of its bank, where it stays, and compares it with the CPU's.
    ///
    /// # Errors
    /// [`GpuError::Inexact`]; faults of the driver.
    ///
    /// # Panics
    /// As [`Self::upload`].
    pub fn keep(&mut self, bank: usize, expert: &ExpertBytes<'_>, kernels: &Kernels) -> Result<(), GpuError> {
        self.upload(bank, 0, expert)?;
        let block = self.blocks[self.banks[bank].block].block;
        let input = input(kernels, block.d_model(), Weights::Usual, &mut Random::new(bank as u64));
        let mut out = vec![0.0; block.d_model()];
        self.begin(&[(bank, &[0])], &input)?;
        self.finish(&mut out)?;
        let wanted = reference::expert(kernels, &block, expert, &input).out;
        let bits = |x: &[f32]| -> Vec<u32> { x.iter().map(|x| x.to_bits()).collect() };
        let fault = match self.arithmetic.is_exact() {
            true => differs("outputs of a shared expert", &bits(&out), &bits(&wanted)),
            // A code of the hidden layer may be rounded the other way.
            false => far_by("outputs of a shared expert", &out, &wanted, 0.02),
        };
        fault.map_or(Ok(()), |fault| Err(GpuError::Inexact(fault)))
    }

    /// Begins to compute experts of banks over one token's packed input: its records, a line each. At
    /// most one of the banks is of routed experts, and one a shared one. [`Self::finish`] gives the
    /// outputs.
    ///
    /// # Errors
    /// Faults of the driver.
    ///
    /// # Panics
    /// If an answer is being computed, there are more slots than was said, or two banks of a kind.
    pub fn begin(&mut self, parts: &[Part<'_>], input: &[Line]) -> Result<(), GpuError> {
        assert!(self.asked.is_none(), "begin: what was begun has not ended");
        let words: Vec<u8> = input.iter().flat_map(|line| little_endian(line.as_words())).collect();
        self.gpu.queue.write_buffer(&self.input, 0, &words);
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let (mut at, mut sets) = (0, [false; 2]);
        for &(bank, slots) in parts {
            let Bank { block, slots: places } = &self.banks[bank];
            let prepared = &self.blocks[*block];
            let (d_model, buffers) = (prepared.block.d_model(), &self.buffers[prepared.set]);
            assert!(slots.len() <= buffers.most_at_once, "begin: {} slots", slots.len());
            assert!(!std::mem::replace(&mut sets[prepared.set], true), "begin: two banks of a kind");
            assert_eq!(input.len() * BLOCK, d_model, "begin: width of the input");
            let places: Vec<Slot> = slots.iter().map(|&slot| places[slot]).collect();
            self.encode(&mut encoder, prepared, 0..prepared.stages.len(), &places);
            let bytes = 4 * (places.len() * d_model) as u64;
            encoder.copy_buffer_to_buffer(&buffers.outputs, 0, &self.back.buffer, at, bytes);
            at += bytes;
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.back.ask(at);
        self.asked = Some(at as usize / 4);
        self.gpu.check()
    }

    /// Some stages over the experts in `places`.
    fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        prepared: &Prepared,
        stages: std::ops::Range<usize>,
        places: &[Slot],
    ) {
        let table: Vec<u32> = places.iter().flat_map(|slot| [slot.byte, slot.slab]).collect();
        self.gpu.queue.write_buffer(&self.buffers[prepared.set].slots, 0, &little_endian(&table));
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
    }

    /// Waits for the outputs of [`Self::begin`], `[slots, d_model]` of each bank in their order.
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
        self.back.wait(&self.gpu, self.patience, 4 * words as u64, read)
    }

    /// What the products before the hidden layer gave, and its records, for the last submission of `n`
    /// experts of a shape: `[gate and up][n][d_ff]`, `[n][records]`.
    pub(crate) fn inside(&self, block: usize, n: usize) -> Result<(Vec<u32>, Vec<u32>), GpuError> {
        let Prepared { block, set, .. } = &self.blocks[block];
        let (buffers, ff) = (&self.buffers[*set], block.d_ff());
        let most = buffers.most_at_once;
        let all = if block.gate.is_some() { most + n } else { n };
        let values = readback::read(&self.gpu, self.patience, &buffers.values, all * ff)?;
        let (gates, ups) = (values[..n * ff].to_vec(), values.get(most * ff..).unwrap_or(&[]));
        let hidden = readback::read(&self.gpu, self.patience, &buffers.hidden, n * records(ff))?;
        Ok(([&gates, ups].concat(), hidden))
    }

    /// The records of the hidden layer for given outputs of gate and up, by the pipeline of the shape.
    pub(crate) fn hidden_of(&self, block: usize, gate: &[u32], up: &[u32]) -> Result<Vec<u32>, GpuError> {
        let prepared = &self.blocks[block];
        let (buffers, ff, queue) = (&self.buffers[prepared.set], prepared.block.d_ff(), &self.gpu.queue);
        queue.write_buffer(&buffers.values, 0, &little_endian(gate));
        if prepared.block.gate.is_some() {
            queue.write_buffer(&buffers.values, 4 * (buffers.most_at_once * ff) as u64, &little_endian(up));
        }
        let bank = self.bank_of(block).map(|bank| self.banks[bank].slots[0]);
        let Some(slot) = bank else { return Ok(Vec::new()) };
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.encode(&mut encoder, prepared, prepared.hidden..prepared.hidden + 1, &[slot]);
        queue.submit([encoder.finish()]);
        readback::read(&self.gpu, self.patience, &buffers.hidden, records(ff))
    }
}

impl Buffers {
    /// For `most` experts of the shared shapes or of the others.
    fn new(gpu: &Gpu, needs: &Needs<'_>, shared: bool, most: usize) -> Self {
        let widest = |width: fn(&Block) -> usize| needs.widest(Some(shared), width);
        let (d, ff) = (widest(Block::d_model), widest(Block::d_ff));
        let words = |words: usize| 4 * words as u64;
        Self {
            values: gpu.buffer(words(2 * most * ff), ALL_USES),
            hidden: gpu.buffer(words(most * records(ff)), ALL_USES),
            outputs: gpu.buffer(words(most * d), ALL_USES),
            slots: gpu.buffer(words(2 * most), ALL_USES),
            most_at_once: most,
        }
    }
}

/// Words of the records of a token.
fn records(width: usize) -> usize {
    width / BLOCK * RECORD
}

/// Of buffers that kernels read and write and that tests look into.
const ALL_USES: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

/// How many slots each bank gets of `bytes` in one piece: shared ones first, then as many for each of the
/// others as there is room, then one more for the first ones.
pub fn slots_in(needs: &Needs<'_>, bytes: u64) -> Vec<usize> {
    let size = |bank: &BankNeed| needs.blocks[bank.block].slot_bytes() as u64;
    let (mut left, mut quotas) = (bytes, vec![0; needs.banks.len()]);
    for shared in [true, false] {
        loop {
            let before = left;
            for (quota, bank) in quotas.iter_mut().zip(needs.banks).filter(|(_, bank)| bank.shared == shared)
            {
                if *quota < bank.experts && size(bank) <= left {
                    *quota += 1;
                    left -= size(bank);
                }
            }
            if left == before {
                break;
            }
        }
    }
    quotas
}

/// Slots of every bank. Those of a bank follow each other, so that a submission binds few slabs.
fn share_out(slabs: &mut Slabs, needs: &Needs<'_>) -> Vec<Bank> {
    let quotas = slots_in(needs, slabs.bytes());
    let mut banks: Vec<Bank> =
        needs.banks.iter().map(|bank| Bank { block: bank.block, slots: Vec::new() }).collect();
    for shared in [true, false] {
        let some = banks.iter_mut().zip(needs.banks).zip(&quotas);
        for ((bank, need), &quota) in some.filter(|((_, need), _)| need.shared == shared) {
            let bytes = needs.blocks[need.block].slot_bytes();
            bank.slots = (0..quota).map_while(|_| slabs.take(bytes)).collect();
        }
    }
    banks
}
