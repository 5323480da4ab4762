//! Options of every command that computes with a model. It must not know what the model is used for.

use std::sync::Arc;

use moelten_engine::KvFormat;
use moelten_engine::Prefetch;
use moelten_engine::plan::{Io, Ram, SequenceOptions};
use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::runtime::topology::Pin;
use moelten_engine::runtime::{Runtime, RuntimeOptions};
use moelten_engine::{Model, ModelOptions};
use moelten_loader::rule::ExpertRule;
use moelten_loader::spec::ModelSpec;
use moelten_loader::tensors::store::TensorStore;

use serde::{Deserialize, Serialize};

use super::files::mention;
#[cfg(feature = "gpu")]
use super::gpu::GpuArgs;
#[cfg(feature = "gpu")]
pub use super::gpu::TriedGpu;
use super::loops;
use super::sizes::ram;
use crate::exit::CommandError;
#[cfg(not(feature = "gpu"))]
use crate::report::vram::{VramFigures, VramPlan};
use crate::report::waiting;

/// Opens a model with these options; a wait is shown with the weights that were copied.
pub fn opening<T>(options: &ModelOptions, open: impl FnOnce() -> T) -> T {
    waiting::during("opening the model", Some(&options.progress), open)
}

/// Options of every command that computes with a model.
#[derive(Debug, Clone, clap::Args)]
pub struct ComputeArgs {
    /// Worker threads [default: one per performance core]
    #[arg(long, value_name = "N", env = "MOELTEN_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Pin each worker thread to a CPU [auto: when no other program is using the cores]
    #[arg(long, value_name = "WHEN", env = "MOELTEN_PIN", default_value = "auto")]
    pub pin: PinArg,
    /// Element type of the KV cache [default: f16; f32 for `logits`]
    #[arg(long, value_name = "TYPE")]
    pub kv: Option<KvArg>,
    /// Memory the process may own: a size like 6G or 800M, `min` for the smallest that works, `auto` for what
    /// is free
    #[arg(long, value_name = "SIZE", env = "MOELTEN_RAM", default_value = "auto", value_parser = ram)]
    pub ram: Ram,
    /// How expert weights are read [auto: mapped if everything fits, direct reads otherwise]
    #[arg(long, value_name = "HOW", env = "MOELTEN_IO", default_value = "auto")]
    pub io: IoArg,
    /// Choose experts by another rule than the model's: 4 (the best 4), all, over:0.48 and others of --help
    ///
    /// 4: the 4 with the highest weights. all: every expert. over:0.48: each expert whose weight is more than
    /// 0.48 of an equal share; over:0.48:4: at most 4 of these. two:0.2: the best, and the second if its part
    /// of the sum of both is more than 0.2; two:chance:SEED: the second by chance. A rule after attn= is for
    /// experts of attention, as in 6,attn=all.
    #[arg(long, value_name = "RULE")]
    pub experts: Option<ExpertRule>,
    /// Read the experts that the next layer will probably choose in advance [auto: while it pays off]
    #[arg(long, value_name = "WHEN", env = "MOELTEN_PREFETCH", default_value = "auto")]
    pub prefetch: PrefetchArg,
    #[cfg(feature = "gpu")]
    #[command(flatten)]
    pub gpu: GpuArgs,
}

/// A GPU, which this build does not support.
#[cfg(not(feature = "gpu"))]
pub enum NoGpu {}

#[cfg(not(feature = "gpu"))]
impl NoGpu {
    /// What it would do for a model.
    pub fn plan(&self, _: &ModelSpec, _: &TensorStore) -> VramPlan {
        match *self {}
    }

    /// What it gives to any model.
    pub fn figures(&self) -> Option<VramFigures> {
        match *self {}
    }

    /// Gives its device back.
    pub fn close(&mut self) {
        match *self {}
    }
}

/// How expert weights are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum IoArg {
    /// Mapped if everything fits, direct reads otherwise
    Auto,
    /// From the mapped file
    Mmap,
    /// Direct reads that bypass the page cache
    Direct,
}

impl From<IoArg> for Io {
    fn from(arg: IoArg) -> Self {
        match arg {
            IoArg::Auto => Self::Auto,
            IoArg::Mmap => Self::Mmap,
            IoArg::Direct => Self::Direct,
        }
    }
}

/// When the experts of the next layer are prefetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrefetchArg {
    /// While it pays off
    Auto,
    /// Always
    On,
    /// Never
    Off,
}

impl PrefetchArg {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

impl From<PrefetchArg> for Prefetch {
    fn from(arg: PrefetchArg) -> Self {
        match arg {
            PrefetchArg::Auto => Self::Auto,
            PrefetchArg::On => Self::On,
            PrefetchArg::Off => Self::Off,
        }
    }
}

/// When worker threads are pinned to CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PinArg {
    /// With one thread per performance core, when no other program is using the cores
    Auto,
    /// Always
    On,
    /// Never
    Off,
}

impl From<PinArg> for Pin {
    fn from(arg: PinArg) -> Self {
        match arg {
            PinArg::Auto => Self::Auto,
            PinArg::On => Self::On,
            PinArg::Off => Self::Off,
        }
    }
}

/// Element type of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum KvArg {
    /// Half precision
    F16,
    /// Single precision
    F32,
}

impl From<KvArg> for KvFormat {
    fn from(arg: KvArg) -> Self {
        match arg {
            KvArg::F16 => Self::F16,
            KvArg::F32 => Self::F32,
        }
    }
}

impl ComputeArgs {
    /// Starts the threads of the process, with the loops that are fastest on this machine. All its models run
    /// on one runtime.
    ///
    /// # Errors
    /// As [`Runtime::start`].
    pub fn runtime(&self) -> anyhow::Result<Arc<Runtime>> {
        let (threads, pin) = (self.threads.map(usize::from), self.pin.into());
        let loops = loops::loops()?;
        mention(loops.notice().as_slice());
        Ok(Runtime::start(RuntimeOptions { threads, pin, isa: None, picks: Some(loops.picks) })?)
    }

    /// The model with the experts that the options choose.
    ///
    /// # Errors
    /// A usage error where they do not fit the model.
    pub fn chosen(&self, mut spec: ModelSpec) -> anyhow::Result<ModelSpec> {
        if let Some(rule) = &self.experts {
            let refused = |error| CommandError::Usage(format!("--experts: {error}"));
            spec.choose_experts(rule).map_err(refused)?;
        }
        Ok(spec)
    }

    /// Options of a model with room for `sequence` and for `extra` bytes of the caller.
    pub fn options(&self, sequence: SequenceOptions, extra: u64) -> ModelOptions {
        ModelOptions {
            ram: self.ram,
            io: self.io.into(),
            prefetch: self.prefetch.into(),
            sequence,
            extra,
            cancel: Cancel::new(),
            progress: Arc::default(),
        }
    }

    /// Makes a model ready to run, with room for `sequence` and for `extra` bytes of the caller.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn model(
        &self,
        runtime: &Arc<Runtime>,
        spec: ModelSpec,
        tensors: TensorStore,
        sequence: SequenceOptions,
        extra: u64,
    ) -> anyhow::Result<Arc<Model>> {
        self.open(runtime, self.chosen(spec)?, tensors, self.options(sequence, extra))
    }

    /// Makes a model ready to run, with a GPU if there is one to use.
    ///
    /// # Errors
    /// As [`Model::new`].
    #[cfg(feature = "gpu")]
    pub fn open(
        &self,
        runtime: &Arc<Runtime>,
        spec: ModelSpec,
        tensors: TensorStore,
        mut options: ModelOptions,
    ) -> anyhow::Result<Arc<Model>> {
        // Before the plan, which then sees what the driver takes.
        let offered = self.gpu.offer(runtime, &spec, &tensors)?;
        if let Some(offered) = &offered {
            options.extra += offered.ram_bytes;
        }
        let model = opening(&options, || Model::new(runtime, spec, tensors, &options))?;
        if let Some(offered) = offered {
            model.use_device(offered.offer);
        }
        Ok(Arc::new(model))
    }

    /// Makes a model ready to run.
    ///
    /// # Errors
    /// As [`Model::new`].
    #[cfg(not(feature = "gpu"))]
    #[allow(clippy::needless_pass_by_value, reason = "as with a GPU, whose part of the budget is added")]
    pub fn open(
        &self,
        runtime: &Arc<Runtime>,
        spec: ModelSpec,
        tensors: TensorStore,
        options: ModelOptions,
    ) -> anyhow::Result<Arc<Model>> {
        opening(&options, || Ok(Arc::new(Model::new(runtime, spec, tensors, &options)?)))
    }

    /// The GPU that the options name, tried without a model. A model that is open on it will have given
    /// `held` bytes of its memory back.
    ///
    /// # Errors
    /// As [`GpuArgs::tried`].
    #[cfg(feature = "gpu")]
    pub fn tried_gpu(&self, held: u64) -> anyhow::Result<Option<TriedGpu>> {
        self.gpu.tried(held)
    }

    /// None: this build has no support for GPUs.
    ///
    /// # Errors
    /// Never.
    #[cfg(not(feature = "gpu"))]
    #[allow(clippy::unused_self, reason = "as with a GPU, which the options name")]
    pub fn tried_gpu(&self, _: u64) -> anyhow::Result<Option<NoGpu>> {
        Ok(None)
    }

    /// Element type of the KV cache: the option's, or f16.
    pub fn kv(&self) -> KvFormat {
        self.kv.map_or_else(KvFormat::default, KvFormat::from)
    }
}
