//! The options of a GPU, and a GPU as the device of a model: which adapter, how much of its memory, what is
//! said when it is not used. It must not know what a model is used for.

use std::str::FromStr;
use std::time::Duration;

use moelten_engine::runtime::Runtime;
use moelten_engine::{
    DeviceOffer, ExpertDevice, ExpertShape, ExpertView, MatrixShape, expert_shapes, most_experts,
};
use moelten_gpu::{
    Activation, Adapter, AdapterKind, BankNeed, Block, Choice, ExpertBytes, Experts, Gpu, GpuError, Matrix,
    Needs, choose,
};
use moelten_loader::spec::{self, ModelSpec};
use moelten_loader::tensors::store::TensorStore;
use moelten_quant::Line;

use super::files::mention;
use super::sizes::size;
use crate::exit::CommandError;

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

impl GpuArgs {
    /// A notice for commands that plan without a GPU, if one was asked for.
    pub fn uncounted(&self) -> Option<String> {
        let asked =
            matches!(self.gpu, GpuArg::On(Choice::Named(_))) || matches!(self.vram, VramArg::Bytes(1..));
        asked.then(|| "a GPU is not counted here: this is for RAM and file alone".to_owned())
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
        let GpuArg::On(choice) = &self.gpu else { return Ok(None) };
        if self.vram == VramArg::Bytes(0) {
            return Ok(None);
        }
        let adapter = choose(choice).map_err(|error| CommandError::Usage(error.to_string()))?;
        let Some(adapter) = adapter else { return Ok(None) };
        let banks = match Banks::of(spec, tensors) {
            Ok(banks) => banks,
            Err(reason) => {
                mention(&[format!("{}: not used: {reason}", adapter.name)]);
                return Ok(None);
            }
        };
        match banks.open(&adapter, self.vram, runtime, |device| Box::new(device)) {
            Ok(offered) => Ok(Some(offered)),
            Err(error) => {
                mention(&[format!("{}: not used: {error}", adapter.name)]);
                Ok(None)
            }
        }
    }
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
}

impl Banks {
    fn of(spec: &ModelSpec, tensors: &TensorStore) -> Result<Self, String> {
        let mut banks = Self {
            blocks: Vec::new(),
            needs: Vec::new(),
            numbers: Vec::new(),
            most_at_once: most_experts(spec),
            all: 0,
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

    /// Opens the adapter. `device` makes of it what the model gets.
    fn open(
        self,
        adapter: &Adapter,
        vram: VramArg,
        runtime: &Runtime,
        device: impl FnOnce(GpuDevice) -> Box<dyn ExpertDevice>,
    ) -> Result<OfferedGpu, GpuError> {
        let gpu = Gpu::open(adapter)?;
        let shared = gpu.shares_ram();
        // Slabs have padding, and slots do not fill them.
        let all = self.all + self.all / 64 + (1 << 20);
        let budget = match vram {
            VramArg::Bytes(bytes) => bytes.min(all),
            VramArg::Auto if shared => SHARED.min(all),
            VramArg::Auto => all,
        };
        let needs = Needs { blocks: &self.blocks, banks: &self.needs, most_at_once: self.most_at_once };
        let experts = Experts::open(gpu, &needs, budget, runtime.kernels())?;
        let speed = experts.speed().clone();
        let of = |number: &Option<usize>| number.map(|bank| (experts.slots(bank), self.needs[bank].block));
        let slots = self.numbers.iter().map(|number| of(number).map_or(0, |(slots, _)| slots)).collect();
        let each = self
            .numbers
            .iter()
            .map(|number| of(number).map_or(Duration::ZERO, |(_, block)| speed.expert[block]));
        let offer = DeviceOffer {
            name: adapter.name.clone(),
            arithmetic: format!("exact, {}", experts.arithmetic().name()),
            slots,
            each: each.collect(),
            bytes: experts.bytes(),
            launch: speed.launch,
            upload: speed.upload,
            always: adapter.kind == AdapterKind::Software,
            device: device(GpuDevice { numbers: self.numbers, experts }),
        };
        let ram_bytes = if shared { offer.bytes } else { 0 };
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
}

#[cfg(test)]
mod tests;
