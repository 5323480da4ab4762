//! The banks of a model on a GPU: which of them it can compute, how its memory is shared out among
//! experts, shared experts and the head, and a GPU as the device of a model. It must not know which GPU
//! is chosen.

use std::time::Duration;

use moelten_engine::runtime::Runtime;
use moelten_engine::{
    DeviceOffer, ExpertDevice, ExpertShape, ExpertView, HeadOffer, MatrixShape, SharedOffer, SharedWeights,
    expert_shapes, most_experts, shared_experts,
};
use moelten_gpu::{
    Activation, AdapterKind, BankNeed, Block, Exactness, ExpertBytes, Experts, FORMATS, Gpu, GpuError,
    Matrix, Needs, Trial, slots_in,
};
use moelten_loader::spec::{self, ModelSpec};
use moelten_loader::tensors::bank::MatrixRef;
use moelten_loader::tensors::roles::Role;
use moelten_loader::tensors::store::TensorStore;
use moelten_quant::{Line, QMatrix};

use crate::open::files::mention;
use crate::report::vram::VramSlots;

/// Parts of a GPU's memory when not everything fits: at most one is for the head and one for shared experts.
/// The others are left to routed experts, which are read from the disk otherwise.
pub(super) const PARTS: u64 = 4;

/// A GPU that is ready, and what it takes of the RAM.
pub struct OfferedGpu {
    /// For the model.
    pub offer: DeviceOffer,
    /// Bytes of its slots in RAM; 0 for a card with memory of its own.
    pub ram_bytes: u64,
}

/// The banks of a model that a GPU can compute.
pub(super) struct Banks {
    blocks: Vec<Block>,
    needs: Vec<BankNeed>,
    /// The number of each bank of the model among `needs`.
    numbers: Vec<Option<usize>>,
    /// The shared expert beside each bank of the model, if it can be computed.
    shared: Vec<Option<(SharedWeights, Block)>>,
    most_at_once: usize,
    /// Bytes of slots for all experts.
    pub all: u64,
    /// Bytes of the head, if it has a kernel.
    head: u64,
}

/// What a GPU gets of a model in some bytes.
struct Shares {
    blocks: Vec<Block>,
    banks: Vec<BankNeed>,
    most_at_once: usize,
    /// The number of the shared expert beside each bank of the model among `banks`.
    shared: Vec<Option<usize>>,
    /// Bytes for experts and shared experts, and for the head.
    experts: u64,
    head: u64,
}

impl Shares {
    fn needs(&self) -> Needs<'_> {
        Needs { blocks: &self.blocks, banks: &self.banks, most_at_once: self.most_at_once }
    }
}

/// The head of a model, if its products have a kernel.
pub(super) fn head(spec: &ModelSpec, tensors: &TensorStore) -> Option<MatrixRef> {
    let role = if spec.head.tied { Role::Embed } else { Role::Head };
    let head = tensors.dense().find(|(found, _)| *found == role)?.1;
    (FORMATS.contains(&head.format) && !tensors.is_arranged(&head)).then_some(head)
}

/// The number of a bank in a list.
fn number(numbers: &[Option<usize>], bank: usize) -> Option<usize> {
    numbers.get(bank).copied().flatten()
}

impl Banks {
    /// Of a model; otherwise why a GPU can compute none of its experts.
    pub fn of(spec: &ModelSpec, tensors: &TensorStore) -> Result<Self, String> {
        let known = |weights: Option<SharedWeights>| {
            weights.and_then(|weights| Some((weights, block(weights.shape()).ok()?)))
        };
        let mut banks = Self {
            blocks: Vec::new(),
            needs: Vec::new(),
            numbers: Vec::new(),
            shared: shared_experts(spec, tensors).into_iter().map(known).collect(),
            most_at_once: most_experts(spec),
            all: 0,
            head: head(spec, tensors).map_or(0, |head| head.bytes),
        };
        let mut reason = "the model has no experts".to_owned();
        for (bank, shape) in tensors.banks().iter().zip(expert_shapes(spec, tensors)) {
            let block = shape.ok_or_else(|| "its experts are of different shapes".to_owned()).and_then(block);
            match block {
                Ok(block) => {
                    banks.numbers.push(Some(banks.needs.len()));
                    banks.needs.push(BankNeed::routed(index_of(block, &mut banks.blocks, 0), bank.experts()));
                    banks.all += (bank.experts() * block.slot_bytes()) as u64;
                }
                Err(why) => {
                    reason = why;
                    banks.numbers.push(None);
                }
            }
        }
        if banks.needs.is_empty() { Err(reason) } else { Ok(banks) }
    }

    /// Bytes of all shared experts.
    fn all_shared(&self) -> u64 {
        self.shared.iter().flatten().map(|(_, block)| block.slot_bytes() as u64).sum()
    }

    /// Bytes with which all of it fits: slabs have padding, and slots do not fill them.
    fn everything(&self) -> u64 {
        let slots = self.all + self.all_shared();
        slots + slots / 64 + (1 << 20) + self.for_all_of_head()
    }

    fn for_all_of_head(&self) -> u64 {
        if self.head == 0 { 0 } else { self.head + (1 << 10) }
    }

    /// Shares bytes out: to the head, to the shared experts of the first layers, to experts.
    fn share_out(&self, budget: u64) -> Shares {
        let part = if budget >= self.everything() { budget } else { budget / PARTS };
        let head = self.for_all_of_head().min(part);
        let (mut blocks, mut banks) = (self.blocks.clone(), self.needs.clone());
        let mut left = part;
        let mut take = |(_, block): &(SharedWeights, Block)| {
            left = left.checked_sub(block.slot_bytes() as u64)?;
            banks.push(BankNeed::shared(index_of(*block, &mut blocks, self.blocks.len())));
            Some(banks.len() - 1)
        };
        let shared = self.shared.iter().map(|shared| shared.as_ref().and_then(&mut take)).collect();
        let most_at_once = self.most_at_once;
        Shares { blocks, banks, most_at_once, shared, experts: budget - head, head }
    }

    /// What a GPU that was tried does for them: slots by its memory, times by bytes.
    pub fn planned(&self, trial: &Trial) -> VramSlots {
        let shares = self.share_out(trial.room.min(self.everything()));
        let slots = slots_in(&shares.needs(), shares.experts);
        let of = |number: &Option<usize>| number.map_or(0, |bank| slots[bank]);
        let seconds = |block: Block| block.slot_bytes() as f64 / trial.weights;
        let each =
            |number: &Option<usize>| number.map_or(0.0, |bank| seconds(self.blocks[self.needs[bank].block]));
        let shared = |(number, shared): (&Option<usize>, &Option<(SharedWeights, Block)>)| {
            let (bank, (_, block)) = (*number).zip(shared.as_ref())?;
            (slots[bank] > 0).then(|| (block.slot_bytes() as f64, seconds(*block)))
        };
        VramSlots {
            exact: trial.arithmetic.is_exact(),
            arithmetic: trial.arithmetic.name(),
            bytes: shares.experts,
            shares_ram: trial.shares_ram,
            slots: self.numbers.iter().map(of).collect(),
            each: self.numbers.iter().map(each).collect(),
            shared: shares.shared.iter().zip(&self.shared).map(shared).collect(),
            launch: trial.launch.as_secs_f64(),
            upload_gb_per_s: trial.upload / 1e9,
        }
    }

    /// Prepares at most `most` bytes of a GPU, and copies shared experts and a part of the head to it.
    /// `device` makes of it what the model gets.
    pub fn open(
        self,
        gpu: Gpu,
        (most, exactness): (u64, Exactness),
        runtime: &Runtime,
        tensors: &TensorStore,
        head: Option<QMatrix<'_>>,
        device: impl FnOnce(GpuDevice) -> Box<dyn ExpertDevice>,
    ) -> Result<OfferedGpu, GpuError> {
        let (of_ram, adapter) = (gpu.shares_ram(), gpu.adapter().clone());
        let shares = self.share_out(most.min(self.everything()));
        let kernels = runtime.kernels();
        let mut experts = Experts::open(gpu, &shares.needs(), shares.experts, exactness, kernels)?;
        let added = head.and_then(|head| match experts.add_head(&head, shares.head, kernels) {
            Ok(head) => Some(head),
            Err(error) => {
                mention(&[format!("{}: the CPU computes the output head: {error}", adapter.name)]);
                None
            }
        });
        let head = added.map(|head| HeadOffer { rows: head.rows(), bytes: head.bytes(), time: head.time() });
        let shared = self.copy_shared(&shares, &mut experts, runtime, tensors)?;
        let speed = experts.speed().clone();
        let of = |number: &Option<usize>| number.map(|bank| (experts.slots(bank), self.needs[bank].block));
        let slots = self.numbers.iter().map(|number| of(number).map_or(0, |(slots, _)| slots)).collect();
        let each = self
            .numbers
            .iter()
            .map(|number| of(number).map_or(Duration::ZERO, |(_, block)| speed.expert[block]));
        let offer = DeviceOffer {
            name: adapter.name,
            arithmetic: experts.arithmetic().name().to_owned(),
            exact: experts.arithmetic().is_exact(),
            slots,
            each: each.collect(),
            bytes: experts.bytes(),
            shared,
            head,
            launch: speed.launch,
            upload: speed.upload,
            always: adapter.kind == AdapterKind::Software,
            device: device(GpuDevice { numbers: self.numbers, shared: shares.shared, experts }),
        };
        let of_head = offer.head.map_or(0, |head| head.bytes);
        let ram_bytes = if of_ram { offer.bytes + of_head } else { 0 };
        Ok(OfferedGpu { offer, ram_bytes })
    }

    /// Copies the shared experts that have a slot, and compares each with the CPU's.
    fn copy_shared(
        &self,
        shares: &Shares,
        experts: &mut Experts,
        runtime: &Runtime,
        tensors: &TensorStore,
    ) -> Result<Vec<Option<SharedOffer>>, GpuError> {
        let mut offers = vec![None; self.shared.len()];
        for ((offer, number), shared) in offers.iter_mut().zip(&shares.shared).zip(&self.shared) {
            let (Some(bank), Some((weights, block))) = (*number, shared) else { continue };
            // The driver may have given less than was asked for.
            if experts.slots(bank) > 0 {
                experts.keep(bank, &parts(&weights.view(tensors)), runtime.kernels())?;
                let time = experts.speed().expert[shares.banks[bank].block];
                *offer = Some(SharedOffer { bytes: block.slot_bytes() as u64, time });
            }
        }
        Ok(offers)
    }
}

/// The number of a shape among those from `from` on, where it is put if it is new.
fn index_of(block: Block, blocks: &mut Vec<Block>, from: usize) -> usize {
    let known = blocks[from..].iter().position(|known| *known == block);
    known.map_or_else(
        || {
            blocks.push(block);
            blocks.len() - 1
        },
        |index| from + index,
    )
}

/// The parts of an expert as kernels of GPUs know them.
fn parts<'a>(expert: &ExpertView<'a>) -> ExpertBytes<'a> {
    let &ExpertView { gate, up, down, gate_bias, up_bias } = expert;
    ExpertBytes { gate, up, down, gate_bias, up_bias }
}

/// An expert's shape as kernels of GPUs know it.
fn block(shape: ExpertShape) -> Result<Block, String> {
    let matrix = |MatrixShape { format, rows, cols }: MatrixShape| Matrix { format, rows, cols };
    let activation = match shape.activation {
        spec::Activation::Silu => Activation::Silu,
        spec::Activation::GeluTanh => Activation::GeluTanh,
        spec::Activation::Relu => Activation::Relu,
        spec::Activation::ReluSquared => Activation::ReluSquared,
        spec::Activation::ClampedSilu { limit } => Activation::ClampedSilu { limit },
        spec::Activation::ClampedSwiglu { alpha, limit } => Activation::ClampedSwiglu { alpha, limit },
        spec::Activation::BoundedSilu { .. } => {
            return Err("their activation has no kernel for a GPU".to_owned());
        }
    };
    let block = Block {
        gate: shape.gate.map(matrix),
        up: matrix(shape.up),
        down: matrix(shape.down),
        gate_bias: shape.bias && shape.gate.is_some(),
        up_bias: shape.bias,
        activation,
    };
    block.check().map(|()| block)
}

/// A GPU as the device of a model.
pub(super) struct GpuDevice {
    /// The number of each bank of the model on the GPU, and of the shared expert beside it.
    numbers: Vec<Option<usize>>,
    shared: Vec<Option<usize>>,
    pub(super) experts: Experts,
}

impl GpuDevice {
    fn number(&self, bank: usize) -> Result<usize, String> {
        number(&self.numbers, bank).ok_or_else(|| format!("it has no slots for bank {bank}"))
    }
}

impl ExpertDevice for GpuDevice {
    fn upload(&mut self, bank: usize, slot: usize, expert: &ExpertView<'_>) -> Result<(), String> {
        let bank = self.number(bank)?;
        self.experts.upload(bank, slot, &parts(expert)).map_err(|error| error.to_string())
    }

    fn begin(&mut self, bank: usize, slots: &[usize], shared: bool, input: &[Line]) -> Result<(), String> {
        let routed = (!slots.is_empty()).then(|| Ok((self.number(bank)?, slots)));
        let none = || format!("it has no shared expert beside bank {bank}");
        let shared = shared.then(|| Ok((number(&self.shared, bank).ok_or_else(none)?, &[0][..])));
        let parts: Vec<_> = routed.into_iter().chain(shared).collect::<Result<_, String>>()?;
        self.experts.begin(&parts, input).map_err(|error| error.to_string())
    }

    fn finish(&mut self, out: &mut [f32]) -> Result<(), String> {
        self.experts.finish(out).map_err(|error| error.to_string())
    }

    fn begin_head(&mut self, rows: usize, input: &[Line]) -> Result<(), String> {
        self.experts.begin_head(rows, input).map_err(|error| error.to_string())
    }

    fn finish_head(&mut self, out: &mut [f32]) -> Result<(), String> {
        self.experts.finish_head(out).map_err(|error| error.to_string())
    }
}
