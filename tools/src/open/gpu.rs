//! The options of a GPU, a GPU as plans count it, and as the device of a model: which adapter, how much of
//! its memory, what is said when it is not used. It must not know what a model is used for.

use std::str::FromStr;
use std::time::Duration;

use moelten_engine::EngineError;
use moelten_engine::runtime::Runtime;
use moelten_engine::{
    DeviceOffer, ExpertDevice, ExpertShape, ExpertView, HeadOffer, MatrixShape, expert_shapes, most_experts,
};
use moelten_gpu::{
    Activation, Adapter, AdapterKind, BankNeed, Block, Choice, Exactness, ExpertBytes, Experts, FORMATS, Gpu,
    GpuError, Matrix, Needs, Trial, choose, slots_in, trial,
};
use moelten_loader::spec::{self, ModelSpec};
use moelten_loader::tensors::bank::MatrixRef;
use moelten_loader::tensors::roles::Role;
use moelten_loader::tensors::store::TensorStore;
use moelten_quant::{Isa, Kernels, Line, QMatrix};

use super::files::mention;
use super::sizes::size;
use crate::exit::CommandError;
use crate::report::vram::{VramFigures, VramPlan, VramSlots};

/// What `--vram auto` takes of a GPU whose memory is the RAM.
const SHARED: u64 = 256 << 20;

/// Options of a GPU.
#[derive(Debug, Clone, clap::Args)]
pub struct GpuArgs {
    /// GPU that keeps hot experts in its memory and computes them: `auto` for a discrete one, `off`, or a
    /// part of its name, as `moelten doctor` shows it
    #[arg(long, value_name = "GPU", env = "MOELTEN_GPU", default_value = "auto")]
    gpu: GpuArg,
    /// Memory of the GPU for experts: a size like 4G, `auto` for as much as it gives, 0 for none
    #[arg(long, value_name = "SIZE", env = "MOELTEN_VRAM", default_value = "auto")]
    vram: VramArg,
    /// Whether the GPU must give the bits of the CPU [off: sums are only close, which is faster]
    #[arg(long, value_name = "WHETHER", env = "MOELTEN_GPU_EXACT", default_value = "on")]
    gpu_exact: ExactArg,
}

/// Whether results must be those of the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExactArg {
    /// In every bit
    On,
    /// Nearly: answers depend on which experts the GPU has
    Off,
}

impl From<ExactArg> for Exactness {
    fn from(arg: ExactArg) -> Self {
        match arg {
            ExactArg::On => Self::Exact,
            ExactArg::Off => Self::Close,
        }
    }
}

/// Which GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuArg {
    /// None.
    Off,
    /// A discrete one, or one of a name.
    On(Choice),
}

impl FromStr for GpuArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().to_lowercase().as_str() {
            "" => Err("give `auto`, `off` or a part of a name".to_owned()),
            "off" => Ok(Self::Off),
            "auto" => Ok(Self::On(Choice::Auto)),
            name => Ok(Self::On(Choice::Named(name.to_owned()))),
        }
    }
}

/// How much of its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VramArg {
    /// What it gives.
    Auto,
    /// So many bytes.
    Bytes(u64),
}

impl FromStr for VramArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "0" => Ok(Self::Bytes(0)),
            auto if auto.eq_ignore_ascii_case("auto") => Ok(Self::Auto),
            text => Ok(Self::Bytes(size(text)?)),
        }
    }
}

/// A GPU that is ready, and what it takes of the RAM.
pub struct OfferedGpu {
    /// For the model.
    pub offer: DeviceOffer,
    /// Bytes of its slots in RAM; 0 for a card with memory of its own.
    pub ram_bytes: u64,
}

/// A GPU that was tried without a model, for plans. Its device is open as long as this lives, so that plans
/// see what the driver takes of the RAM, unless [`Self::close`] was called.
pub struct TriedGpu {
    name: String,
    trial: Result<Trial, GpuError>,
    device: Option<Experts>,
}

impl TriedGpu {
    /// What it would do for a model.
    pub fn plan(&self, spec: &ModelSpec, tensors: &TensorStore) -> VramPlan {
        let slots = match (&self.trial, Banks::of(spec, tensors)) {
            (Ok(trial), Ok(banks)) => Ok(banks.planned(trial)),
            (Err(error), _) => Err(error.to_string()),
            (_, Err(reason)) => Err(reason),
        };
        VramPlan { name: self.name.clone(), slots }
    }

    /// What it gives to any model; `None` if it is not used.
    pub fn figures(&self) -> Option<VramFigures> {
        let trial = self.trial.as_ref().ok()?;
        Some(VramFigures {
            exact: trial.arithmetic.is_exact(),
            bytes: trial.room - trial.room / HEAD_PART,
            shares_ram: trial.shares_ram,
            rate: trial.weights,
            launch: trial.launch.as_secs_f64(),
        })
    }

    /// Gives its device back.
    pub fn close(&mut self) {
        self.device = None;
    }
}

impl GpuArgs {
    /// The adapter that the options name; `None` where none is to be used.
    fn adapter(&self) -> anyhow::Result<Option<Adapter>> {
        match &self.gpu {
            GpuArg::On(choice) if self.vram != VramArg::Bytes(0) => {
                Ok(choose(choice).map_err(|error| CommandError::Usage(error.to_string()))?)
            }
            _ => Ok(None),
        }
    }

    /// The GPU that the options name, tried without a model. A model that is open on it will have given `held`
    /// bytes of its memory back before another one needs them.
    ///
    /// # Errors
    /// A name that no GPU has; an instruction set that is not there.
    pub fn tried(&self, held: u64) -> anyhow::Result<Option<TriedGpu>> {
        let Some(adapter) = self.adapter()? else { return Ok(None) };
        let most = match self.vram {
            VramArg::Bytes(bytes) => bytes,
            VramArg::Auto if adapter.kind == AdapterKind::Discrete => u64::MAX,
            VramArg::Auto => SHARED,
        };
        let isa = Isa::from_env().map_err(EngineError::from)?;
        let kernels = Kernels::for_isa(isa).expect("an available instruction set has kernels");
        let (trial, device) = match trial(&adapter, self.gpu_exact.into(), most, kernels) {
            Ok((trial, device)) => (Ok(with_room(trial, held, most)), Some(device)),
            Err(error) => (Err(error), None),
        };
        Ok(Some(TriedGpu { name: adapter.name, trial, device }))
    }

    /// The GPU that the options name, tested and measured for a model. `None` where none is used; the reason
    /// is printed unless no GPU was asked for.
    ///
    /// # Errors
    /// A name that no GPU has.
    pub fn offer(
        &self,
        runtime: &Runtime,
        spec: &ModelSpec,
        tensors: &TensorStore,
    ) -> anyhow::Result<Option<OfferedGpu>> {
        let Some(adapter) = self.adapter()? else { return Ok(None) };
        let banks = match Banks::of(spec, tensors) {
            Ok(banks) => banks,
            Err(reason) => {
                mention(&[format!("{}: not used: {reason}", adapter.name)]);
                return Ok(None);
            }
        };
        let open = |gpu| {
            let exactness = self.gpu_exact.into();
            let head = head(spec, tensors).map(|head| tensors.view(&head));
            banks.open(gpu, (self.vram, exactness), runtime, head, |device| Box::new(device))
        };
        match Gpu::open(&adapter).and_then(open) {
            Ok(offered) => Ok(Some(offered)),
            Err(error) => {
                mention(&[format!("{}: not used: {error}", adapter.name)]);
                Ok(None)
            }
        }
    }
}

/// A trial with what `held` more bytes give, of at most `most`.
fn with_room(trial: Trial, held: u64, most: u64) -> Trial {
    Trial { room: trial.room.saturating_add(held).min(most), ..trial }
}

/// The banks of a model that a GPU can compute.
struct Banks {
    blocks: Vec<Block>,
    needs: Vec<BankNeed>,
    /// The number of each bank of the model among `needs`.
    numbers: Vec<Option<usize>>,
    most_at_once: usize,
    /// Bytes of slots for all experts.
    all: u64,
    /// Bytes of the head, if it has a kernel.
    head: u64,
}

/// The part of its memory that a GPU may use for the head, at most: experts are read from the disk otherwise.
const HEAD_PART: u64 = 4;

/// The head of a model, if its products have a kernel.
fn head(spec: &ModelSpec, tensors: &TensorStore) -> Option<MatrixRef> {
    let role = if spec.head.tied { Role::Embed } else { Role::Head };
    let head = tensors.dense().find(|(found, _)| *found == role)?.1;
    (FORMATS.contains(&head.format) && !tensors.is_arranged(&head)).then_some(head)
}

impl Banks {
    fn of(spec: &ModelSpec, tensors: &TensorStore) -> Result<Self, String> {
        let mut banks = Self {
            blocks: Vec::new(),
            needs: Vec::new(),
            numbers: Vec::new(),
            most_at_once: most_experts(spec),
            all: 0,
            head: head(spec, tensors).map_or(0, |head| head.bytes),
        };
        let mut reason = "the model has no experts".to_owned();
        for (bank, shape) in tensors.banks().iter().zip(expert_shapes(spec, tensors)) {
            let block = shape.ok_or_else(|| "its experts are of different shapes".to_owned()).and_then(block);
            match block {
                Ok(block) => {
                    let known = banks.blocks.iter().position(|known| *known == block);
                    let index = known.unwrap_or(banks.blocks.len());
                    if known.is_none() {
                        banks.blocks.push(block);
                    }
                    banks.numbers.push(Some(banks.needs.len()));
                    banks.needs.push(BankNeed { block: index, experts: bank.experts() });
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

    /// Bytes of slabs for all experts: these have padding, and slots do not fill them.
    fn all_slabs(&self) -> u64 {
        self.all + self.all / 64 + (1 << 20)
    }

    /// Bytes of a budget that are for the head.
    fn for_head(&self, budget: u64) -> u64 {
        (self.head + (1 << 10)).min(budget / HEAD_PART)
    }

    fn needs(&self) -> Needs<'_> {
        Needs { blocks: &self.blocks, banks: &self.needs, most_at_once: self.most_at_once }
    }

    /// What a GPU that was tried does for them: slots by its memory, times by bytes.
    fn planned(&self, trial: &Trial) -> VramSlots {
        let room = trial.room.min(self.all_slabs() + self.head);
        let bytes = room - self.for_head(room);
        let slots = slots_in(&self.needs(), bytes);
        let of = |number: &Option<usize>| number.map_or(0, |bank| slots[bank]);
        let each = |number: &Option<usize>| {
            let block = number.map(|bank| self.blocks[self.needs[bank].block]);
            block.map_or(0.0, |block| block.slot_bytes() as f64 / trial.weights)
        };
        VramSlots {
            exact: trial.arithmetic.is_exact(),
            arithmetic: trial.arithmetic.name(),
            bytes,
            shares_ram: trial.shares_ram,
            slots: self.numbers.iter().map(of).collect(),
            each: self.numbers.iter().map(each).collect(),
            launch: trial.launch.as_secs_f64(),
            upload_gb_per_s: trial.upload / 1e9,
        }
    }

    /// Prepares a GPU, and copies a part of the head to it. `device` makes of it what the model gets.
    fn open(
        self,
        gpu: Gpu,
        (vram, exactness): (VramArg, Exactness),
        runtime: &Runtime,
        head: Option<QMatrix<'_>>,
        device: impl FnOnce(GpuDevice) -> Box<dyn ExpertDevice>,
    ) -> Result<OfferedGpu, GpuError> {
        let (shared, adapter) = (gpu.shares_ram(), gpu.adapter().clone());
        let all = self.all_slabs() + self.head;
        let budget = match vram {
            VramArg::Bytes(bytes) => bytes.min(all),
            VramArg::Auto if shared => SHARED.min(all),
            VramArg::Auto => all,
        };
        let of_head = head.map_or(0, |_| self.for_head(budget));
        let kernels = runtime.kernels();
        let mut experts = Experts::open(gpu, &self.needs(), budget - of_head, exactness, kernels)?;
        let added = head.and_then(|head| match experts.add_head(&head, of_head, kernels) {
            Ok(head) => Some(head),
            Err(error) => {
                mention(&[format!("{}: the CPU computes the output head: {error}", adapter.name)]);
                None
            }
        });
        let head = added.map(|head| HeadOffer { rows: head.rows(), bytes: head.bytes(), time: head.time() });
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
            head,
            launch: speed.launch,
            upload: speed.upload,
            always: adapter.kind == AdapterKind::Software,
            device: device(GpuDevice { numbers: self.numbers, experts }),
        };
        let of_head = offer.head.map_or(0, |head| head.bytes);
        let ram_bytes = if shared { offer.bytes + of_head } else { 0 };
        Ok(OfferedGpu { offer, ram_bytes })
    }
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
struct GpuDevice {
    /// The number of each bank of the model on the GPU.
    numbers: Vec<Option<usize>>,
    experts: Experts,
}

impl GpuDevice {
    fn number(&self, bank: usize) -> Result<usize, String> {
        self.numbers.get(bank).copied().flatten().ok_or_else(|| format!("it has no slots for bank {bank}"))
    }
}

impl ExpertDevice for GpuDevice {
    fn upload(&mut self, bank: usize, slot: usize, expert: &ExpertView<'_>) -> Result<(), String> {
        let bank = self.number(bank)?;
        let &ExpertView { gate, up, down, gate_bias, up_bias } = expert;
        let expert = ExpertBytes { gate, up, down, gate_bias, up_bias };
        self.experts.upload(bank, slot, &expert).map_err(|error| error.to_string())
    }

    fn begin(&mut self, bank: usize, slots: &[usize], input: &[Line]) -> Result<(), String> {
        let bank = self.number(bank)?;
        self.experts.begin(bank, slots, input).map_err(|error| error.to_string())
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

#[cfg(test)]
mod tests;
