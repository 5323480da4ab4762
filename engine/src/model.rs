//! A model ready to run: spec, small weights in f32, places of the large ones, the expert store, kernels and worker
//! threads. Immutable and shared; a sequence's state is in `session`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use moelten_loader::io::read_at::{Access, ReadAt};
use moelten_loader::spec::{
    Activation, AttentionSpec, Ffn, LayerSpec, Mixer, ModelSpec, NormSpec, QkNorm, RopeSpec, SharedExpert,
};
use moelten_loader::tensors::copied::Copied;
use moelten_loader::tensors::roles::{LayerTensor, Part, Role};
use moelten_loader::tensors::store::{MatrixRef, TensorStore};
use moelten_quant::{Isa, Kernels};

use crate::error::{EngineError, Result};
use crate::experts::live::Live;
use crate::experts::slots::Slots;
use crate::experts::source::Source;
use crate::experts::{ExpertStore, LOOK, Prefetch};
use crate::layers::attention::Attention;
use crate::layers::embedding::Embedding;
use crate::layers::linear::{Compute, Linear};
use crate::layers::moe::{Mlp, Moe, Shared};
use crate::layers::norm::Norm;
use crate::ledger::{Charge, Ledger};
use crate::memory;
use crate::plan::{Experts, Io, Plan, PlanOptions, Ram};
use crate::pool::Pool;
use crate::pressure::{self, Keeper, Watch};
use crate::session::SessionOptions;
use crate::system::System;
use crate::topology::{Pin, ThreadPlan};

/// How to run a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct ModelOptions {
    /// Worker threads; one for each performance core that the process may use when `None`.
    pub threads: Option<usize>,
    /// Whether they are tied to CPUs.
    pub pin: Pin,
    /// Instruction set; `MOELTEN_ISA` or the best of this machine when `None`.
    pub isa: Option<Isa>,
    /// Memory that the process may own.
    pub ram: Ram,
    /// How expert weights come from their files.
    pub io: Io,
    /// Whether experts are read before it is sure that they are needed.
    pub prefetch: Prefetch,
    /// The session that memory is planned for.
    pub session: SessionOptions,
    /// Bytes that the caller takes of the budget for something else.
    pub extra: u64,
    /// Turns true when somebody gives up the opening, which then ends with [`EngineError::Cancelled`].
    pub stop: Option<&'static AtomicBool>,
}

impl ModelOptions {
    /// What of them decides about memory.
    pub fn plan(&self) -> PlanOptions {
        let Self { ram, io, session, extra, .. } = *self;
        PlanOptions { ram, io, session, extra }
    }
}

/// A model ready to run.
pub struct Model {
    spec: ModelSpec,
    tensors: Arc<TensorStore>,
    experts: Arc<ExpertStore>,
    /// Who shrinks the cache when memory gets tight, if nobody named a budget.
    watch: Option<Watch>,
    plan: Plan,
    ledger: Arc<Ledger>,
    /// What the weights and the slots take of it.
    _charges: Vec<Charge>,
    /// Whether a sequence computes, and what wakes those that wait for that to end.
    taken: Mutex<bool>,
    free: Condvar,
    kernels: &'static Kernels,
    pool: Pool,
    /// The distinct ropes of the layers.
    pub(crate) ropes: Vec<RopeSpec>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) embedding: Embedding,
    pub(crate) final_norm: Norm,
    pub(crate) head: Linear,
}

/// While this lives one sequence computes.
pub(crate) struct Turn<'a>(&'a Model);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Self(model) = self;
        model.experts.pass(false);
        *model.taken() = false;
        model.free.notify_one();
    }
}

/// One layer's weights.
pub(crate) struct Layer {
    pub mixer_norm: Norm,
    pub attention: Attention,
    pub ffn_norm: Norm,
    pub ffn: FfnWeights,
    pub residual_scale: f32,
}

/// The feed-forward part.
pub(crate) enum FfnWeights {
    Dense(Mlp),
    Moe(Moe),
}

impl Model {
    /// Takes a spec and its tensors.
    ///
    /// # Errors
    /// Damaged norms or biases, an instruction set that is not here, threads that do not start.
    pub fn new(spec: ModelSpec, tensors: TensorStore, options: ModelOptions) -> Result<Self> {
        // Threads first: the plan counts what they take.
        let (kernels, pool) = compute(options)?;
        let plan = Plan::new(&spec, &tensors, options.plan())?;
        Self::build(spec, tensors, options, (kernels, pool), plan, None)
    }

    /// As [`Self::new`], by a plan that was made before, and with `files` in place of those that `tensors` names when the
    /// plan says that experts are read directly.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_plan(
        spec: ModelSpec,
        tensors: TensorStore,
        options: ModelOptions,
        plan: Plan,
        files: Option<Vec<Box<dyn ReadAt>>>,
    ) -> Result<Self> {
        let compute = compute(options)?;
        Self::build(spec, tensors, options, compute, plan, files)
    }

    fn build(
        spec: ModelSpec,
        tensors: TensorStore,
        options: ModelOptions,
        (kernels, pool): (&'static Kernels, Pool),
        plan: Plan,
        files: Option<Vec<Box<dyn ReadAt>>>,
    ) -> Result<Self> {
        let ledger = Ledger::new(plan.budget);
        let mut charges = Vec::new();
        let mut charge = |what, bytes| -> Result<()> {
            charges.push(ledger.charge(what, bytes, |_| "--ram names the budget".to_owned())?);
            Ok(())
        };
        charge("the program", plan.base)?;
        charge("the weights outside experts", plan.dense)?;
        let (tensors, slots) = match &plan.experts {
            Experts::InPlace => {
                charge("the experts", plan.expert_bytes)?;
                tensors.use_in_place();
                (tensors, None)
            }
            Experts::Cached(cached) => {
                charge("the expert cache", cached.bytes())?;
                let mut slots = Slots::reserve(cached).map_err(EngineError::Store)?;
                let which =
                    if cached.embedding_in_file { Copied::DenseWithoutEmbedding } else { Copied::Dense };
                // Nobody watches the machine yet, and what the plan found free may have been taken by others since.
                let here = System::here();
                let free = || memory::free_bytes(&here).is_none_or(|free| free > plan.floor());
                let copied = slots.touch_during(
                    || options.ram != Ram::Auto || free(),
                    || tensors.copied(which, pool.threads(), options.stop),
                );
                let tensors = copied.map_err(|error| match error.kind() {
                    std::io::ErrorKind::Interrupted => EngineError::Cancelled,
                    _ => EngineError::Copy(error),
                })?;
                (tensors, Some((cached, slots)))
            }
        };
        let tensors = Arc::new(tensors);
        let mut ropes = Vec::new();
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (index, layer) in spec.layers.iter().enumerate() {
            layers.push(Builder { tensors: &tensors, index }.layer(layer, &mut ropes)?);
        }
        let final_norm = norm(&tensors, spec.final_norm, Role::FinalNorm, Role::FinalNormBias)?;
        let head = Linear {
            weight: tensors.get(if spec.head.tied { Role::Embed } else { Role::Head }),
            bias: if spec.head.bias { Some(tensors.vector(Role::HeadBias)?) } else { None },
        };
        let experts = match slots {
            None => ExpertStore::in_place(&spec, Arc::clone(&tensors)),
            Some(room) => {
                let source = match files {
                    _ if !room.0.direct => Ok(Source::Mapped),
                    Some(files) => Ok(Source::slots(&tensors, files, Access::Direct)),
                    None => Source::open(&tensors),
                };
                let source = source.map_err(EngineError::Store)?;
                ExpertStore::cached(&spec, Arc::clone(&tensors), source, room, options.prefetch)
                    .map_err(EngineError::Store)?
            }
        };
        let embedding = match &plan.experts {
            Experts::Cached(cached) if cached.embedding_in_file => {
                Embedding::in_file(&tensors).map_err(EngineError::Store)?
            }
            _ => Embedding::InMemory(tensors.get(Role::Embed)),
        };
        let experts = Arc::new(experts);
        let watch = match &plan.experts {
            Experts::Cached(cached) if cached.direct && options.ram == Ram::Auto => {
                let keeper = Keeper::new(System::here(), cached.clone(), plan.floor());
                let watch = Watch::begin(Arc::clone(&experts), keeper, pressure::INTERVAL);
                Some(watch.map_err(EngineError::Store)?)
            }
            _ => None,
        };
        Ok(Self {
            embedding,
            spec,
            tensors,
            experts,
            watch,
            plan,
            ledger,
            _charges: charges,
            taken: Mutex::new(false),
            free: Condvar::new(),
            kernels,
            pool,
            ropes,
            layers,
            final_norm,
            head,
        })
    }

    /// What it is.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Its tensors.
    pub fn tensors(&self) -> &TensorStore {
        &self.tensors
    }

    /// Its experts.
    pub fn experts(&self) -> &Arc<ExpertStore> {
        &self.experts
    }

    /// What takes pictures of its experts while it computes.
    pub fn live(&self) -> Live {
        let slot_bytes = match &self.plan.experts {
            Experts::Cached(cached) => cached.bytes(),
            Experts::InPlace => 0,
        };
        let given_back = self.watch.as_ref().map(|watch| Arc::clone(watch.given_back_counter()));
        Live {
            board: Arc::clone(self.experts.board()),
            budget_bytes: self.plan.budget,
            slot_bytes,
            given_back,
        }
    }

    /// Bytes of the expert cache that went back to the system because memory got tight.
    pub fn given_back(&self) -> u64 {
        self.watch.as_ref().map_or(0, Watch::given_back)
    }

    /// What is kept in memory.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The memory budget.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Waits until no other sequence computes.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] once `cancel` is set.
    pub(crate) fn turn(&self, cancel: &AtomicBool) -> Result<Turn<'_>> {
        let mut taken = self.taken();
        while *taken {
            if cancel.load(Ordering::Relaxed) {
                return Err(EngineError::Cancelled);
            }
            taken = self.free.wait_timeout(taken, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        *taken = true;
        self.experts.pass(true);
        Ok(Turn(self))
    }

    /// Whether a sequence computes.
    fn taken(&self) -> MutexGuard<'_, bool> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernels in use.
    pub fn isa(&self) -> Isa {
        self.kernels.isa()
    }

    /// The worker threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) fn compute(&self) -> Compute<'_> {
        Compute { kernels: self.kernels, pool: &self.pool, tensors: &self.tensors }
    }
}

/// Kernels and worker threads.
fn compute(options: ModelOptions) -> Result<(&'static Kernels, Pool)> {
    let isa = options.isa.map_or_else(Isa::from_env, Ok)?;
    let kernels = Kernels::for_isa(isa).expect("an instruction set that was found here has kernels");
    let threads = options.threads.map(|threads| threads.max(1));
    Ok((kernels, Pool::new(ThreadPlan::here(threads, options.pin)?)?))
}

fn norm(tensors: &TensorStore, spec: NormSpec, weight: Role, bias: Role) -> Result<Norm> {
    let bias = match spec {
        NormSpec::Rms { .. } => Vec::new(),
        NormSpec::Layer { .. } => tensors.vector(bias)?,
    };
    Ok(Norm { spec, weight: tensors.vector(weight)?, bias })
}

/// Builds one layer.
struct Builder<'a> {
    tensors: &'a TensorStore,
    index: usize,
}

impl Builder<'_> {
    fn role(&self, tensor: LayerTensor) -> Role {
        Role::Layer(self.index, tensor)
    }

    fn layer(&self, spec: &LayerSpec, ropes: &mut Vec<RopeSpec>) -> Result<Layer> {
        let norm = |spec, weight, bias| norm(self.tensors, spec, self.role(weight), self.role(bias));
        let Mixer::Attention(attention) = &spec.mixer;
        Ok(Layer {
            mixer_norm: norm(spec.mixer_norm, LayerTensor::MixerNorm, LayerTensor::MixerNormBias)?,
            attention: self.attention(attention, ropes)?,
            ffn_norm: norm(spec.ffn_norm, LayerTensor::FfnNorm, LayerTensor::FfnNormBias)?,
            ffn: match &spec.ffn {
                Ffn::Dense(mlp) => FfnWeights::Dense(self.mlp(LayerTensor::Dense, mlp.activation)),
                Ffn::Moe(moe) => FfnWeights::Moe(Moe {
                    spec: moe.clone(),
                    router: self.router()?,
                    shared: match moe.shared {
                        SharedExpert::None => None,
                        SharedExpert::Plain(mlp) => {
                            Some(Shared { mlp: self.mlp(LayerTensor::Shared, mlp.activation), gate: None })
                        }
                        SharedExpert::Gated(mlp) => Some(Shared {
                            mlp: self.mlp(LayerTensor::Shared, mlp.activation),
                            gate: Some(self.tensors.get(self.role(LayerTensor::SharedInput))),
                        }),
                    },
                }),
            },
            residual_scale: spec.residual_scale,
        })
    }

    /// The router, which is small and decides everything: NaN or infinity in it is found now, not as a strange answer.
    fn router(&self) -> Result<MatrixRef> {
        let role = self.role(LayerTensor::Router);
        self.tensors.check_finite(role)?;
        Ok(self.tensors.get(role))
    }

    fn attention(&self, spec: &AttentionSpec, ropes: &mut Vec<RopeSpec>) -> Result<Attention> {
        let linear = |weight, bias, has_bias: bool| -> Result<Linear> {
            Ok(Linear {
                weight: self.tensors.get(self.role(weight)),
                bias: if has_bias { Some(self.tensors.vector(self.role(bias))?) } else { None },
            })
        };
        let qk_norm = |tensor| match spec.qk_norm {
            QkNorm::None => Ok(Vec::new()),
            QkNorm::PerHead { .. } | QkNorm::Full { .. } => self.tensors.vector(self.role(tensor)),
        };
        // Layers with equal ropes share one set of angles.
        let rope = spec.rope.as_ref().map(|rope| {
            ropes.iter().position(|known| known == rope).unwrap_or_else(|| {
                ropes.push(rope.clone());
                ropes.len() - 1
            })
        });
        Ok(Attention {
            q: linear(LayerTensor::Q, LayerTensor::QBias, spec.qkv_bias)?,
            k: linear(LayerTensor::K, LayerTensor::KBias, spec.qkv_bias)?,
            v: linear(LayerTensor::V, LayerTensor::VBias, spec.qkv_bias)?,
            o: linear(LayerTensor::O, LayerTensor::OBias, spec.out_bias)?,
            q_norm: qk_norm(LayerTensor::QNorm)?,
            k_norm: qk_norm(LayerTensor::KNorm)?,
            rope,
            spec: spec.clone(),
        })
    }

    fn mlp(&self, wrap: fn(Part) -> LayerTensor, activation: Activation) -> Mlp {
        let get = |part| self.tensors.get(self.role(wrap(part)));
        Mlp { gate: get(Part::Gate), up: get(Part::Up), down: get(Part::Down), activation }
    }
}
