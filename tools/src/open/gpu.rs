//! The options of a GPU, and a GPU as plans and models get it: which adapter, how much of its memory, what is
//! said when it is not used. It must not know what a model is used for.

mod banks;

use std::str::FromStr;

use moelten_engine::EngineError;
use moelten_engine::runtime::Runtime;
use moelten_gpu::{Adapter, AdapterKind, Choice, Exactness, Experts, Gpu, GpuError, Trial, choose, trial};
use moelten_loader::spec::ModelSpec;
use moelten_loader::tensors::store::TensorStore;
use moelten_quant::{Isa, Kernels};

pub use self::banks::OfferedGpu;
use self::banks::{Banks, PARTS, head};
use super::files::mention;
use super::sizes::size;
use crate::exit::CommandError;
use crate::report::vram::{VramFigures, VramPlan};

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

impl VramArg {
    /// Most bytes of a GPU, whose memory may be the RAM.
    fn most(self, shares_ram: bool) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Auto if shares_ram => SHARED,
            Self::Auto => u64::MAX,
        }
    }
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
            bytes: trial.room - trial.room / PARTS,
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

    /// The GPU that the options name, tried without a model. A model that is open on it will have given
    /// `held` bytes of its memory back before another one needs them.
    ///
    /// # Errors
    /// A name that no GPU has; an instruction set that is not there.
    pub fn tried(&self, held: u64) -> anyhow::Result<Option<TriedGpu>> {
        let Some(adapter) = self.adapter()? else { return Ok(None) };
        let most = self.vram.most(adapter.kind != AdapterKind::Discrete);
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
        let open = |gpu: Gpu| {
            let (most, exactness) = (self.vram.most(gpu.shares_ram()), self.gpu_exact.into());
            let head = head(spec, tensors).map(|head| tensors.view(&head));
            banks.open(gpu, (most, exactness), runtime, tensors, head, |device| Box::new(device))
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

#[cfg(test)]
mod tests;
