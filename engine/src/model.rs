//! A model ready to run: spec, weights, expert store, and the buffers of the pass that runs. Many sequences
//! share it; one pass runs at a time. It must not know text.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use moelten_loader::io::read_at::{Access, ReadAt};
use moelten_loader::io::room_for;
use moelten_loader::spec::{ImageSpec, ModelSpec};
use moelten_loader::tensors::copied::Copied;
use moelten_loader::tensors::store::TensorStore;

use crate::error::{EngineError, Result};
use crate::experts::device::DeviceOffer;
use crate::experts::live::LiveView;
use crate::experts::pressure::{self, Keeper, Watch};
use crate::experts::room::CachePlan;
use crate::experts::slots::Slots;
use crate::experts::source::Source;
use crate::experts::store::{CANCEL_POLL, ExpertStore, Prefetch};
use crate::forward::batch::Batch;
use crate::forward::decoder::Decoder;
use crate::forward::executor::Executor;
use crate::forward::observe::Observer;
use crate::layers::linear::Compute;
use crate::plan::{Experts, Io, Plan, PlanOptions, Ram, SequenceOptions};
use crate::runtime::Runtime;
use crate::runtime::cancel::Cancel;
use crate::runtime::ledger::Charge;
use crate::runtime::memory;
use crate::runtime::system::System;
use crate::state::{MOST_NEW_TOKENS, SequenceState};
use crate::weights::Weights;
use crate::weights::build::ReadRows;

/// How to open a model.
#[derive(Debug, Clone, Default)]
pub struct ModelOptions {
    /// Memory that the process may own.
    pub ram: Ram,
    /// How expert weights come from their files.
    pub io: Io,
    /// Whether experts are read before it is sure that they are needed.
    pub prefetch: Prefetch,
    /// The sequence that memory is planned for.
    pub sequence: SequenceOptions,
    /// Bytes that the caller takes of the budget for something else.
    pub extra: u64,
    /// A request to give up the opening, which then ends with [`EngineError::Cancelled`].
    pub cancel: Cancel,
    /// How far the opening has come.
    pub progress: Arc<CopyProgress>,
}

/// Weights that are copied to memory when a model is opened.
#[derive(Debug, Default)]
pub struct CopyProgress {
    /// Bytes that were copied.
    pub done: AtomicU64,
    /// Bytes that will be; 0 before that is known, and where nothing is copied.
    pub total: AtomicU64,
}

impl ModelOptions {
    /// What of them decides about memory.
    pub fn plan(&self) -> PlanOptions {
        let Self { ram, io, sequence, extra, .. } = *self;
        PlanOptions { ram, io, sequence, extra }
    }
}

/// A model ready to run.
pub struct Model {
    runtime: Arc<Runtime>,
    spec: ModelSpec,
    tensors: Arc<TensorStore>,
    experts: Arc<ExpertStore>,
    /// What shrinks the cache when memory gets tight, if no budget was named.
    watch: Option<Watch>,
    plan: Plan,
    /// What the weights and the slots take of the budget.
    _charges: Vec<Charge>,
    weights: Weights,
    /// Whether a pass runs, and what wakes those that wait for its end.
    taken: Mutex<bool>,
    free: Condvar,
    executor: Mutex<Option<Executor>>,
    /// How large it is. It has a lock of its own: a sequence that needs no more does not wait for a pass.
    reserved: Mutex<Reserved>,
}

/// The size of the buffers of a pass, and what they are of the budget.
#[derive(Default)]
struct Reserved {
    chunk: usize,
    context: usize,
    /// Bytes that were allocated.
    bytes: u64,
    charge: Option<Charge>,
}

/// The right to run passes of a model. While it lives no other sequence computes.
pub struct Turn<'m> {
    model: &'m Model,
    executor: MutexGuard<'m, Option<Executor>>,
}

impl Model {
    /// Reads the weights that are checked when a model is made (norms, biases, routers), and keeps nothing.
    ///
    /// # Errors
    /// Those of [`Self::new`] that have nothing to do with memory: damaged norms, biases or routers.
    pub fn check(spec: &ModelSpec, tensors: &TensorStore) -> Result<()> {
        Weights::build(spec, tensors, ReadRows::default()).map(drop)
    }

    /// Takes a spec and its tensors.
    ///
    /// # Errors
    /// Damaged norms or biases; [`EngineError::Budget`] and [`EngineError::Memory`] for budgets that are too
    /// small.
    pub fn new(
        runtime: &Arc<Runtime>,
        spec: ModelSpec,
        tensors: TensorStore,
        options: &ModelOptions,
    ) -> Result<Self> {
        let plan = Plan::new(&spec, &tensors, options.plan(), runtime.ledger().used())?;
        Self::with_plan(runtime, spec, tensors, options, plan, None)
    }

    /// As [`Self::new`], by a plan that was made before, and with `files` in place of those that `tensors`
    /// names when the plan says that experts are read directly.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_plan(
        runtime: &Arc<Runtime>,
        spec: ModelSpec,
        tensors: TensorStore,
        options: &ModelOptions,
        plan: Plan,
        files: Option<Vec<Box<dyn ReadAt>>>,
    ) -> Result<Self> {
        let charges = charge_weights(runtime, &plan)?;
        let (tensors, slots) = match &plan.experts {
            Experts::InPlace => {
                let (threads, stop) = (runtime.pool().threads(), options.cancel.flag());
                let tensors = match plan.arranged {
                    0 => tensors,
                    _ => tensors
                        .copied(Copied::Arranged, threads, Some(stop), &options.progress.done)
                        .map_err(not_copied)?,
                };
                tensors.use_in_place();
                (tensors, None)
            }
            Experts::Cached(cached) => {
                let mut slots = Slots::reserve(cached).map_err(EngineError::Store)?;
                let tensors = copied(runtime, tensors, &mut slots, cached, &plan, options)?;
                (tensors, Some((cached, slots)))
            }
        };
        let tensors = Arc::new(tensors);
        let read = match &plan.experts {
            Experts::InPlace => ReadRows::default(),
            Experts::Cached(cached) => ReadRows {
                embedding: cached.embedding_in_file,
                layer_inputs: tensors.rows_in_file_bytes() > 0,
            },
        };
        let weights = Weights::build(&spec, &tensors, read)?;
        let experts = match slots {
            None => ExpertStore::in_place(Arc::clone(&tensors)),
            Some(room) => {
                let source = match files {
                    _ if !room.0.direct => Ok(Source::Mapped),
                    Some(files) => Ok(Source::slots(&tensors, files, Access::Direct)),
                    None => Source::open(&tensors),
                };
                let source = source.map_err(EngineError::Store)?;
                ExpertStore::cached(Arc::clone(&tensors), source, room, options.prefetch)
                    .map_err(EngineError::Store)?
            }
        };
        let experts = Arc::new(experts);
        let watch = watch(&experts, &plan, options)?;
        Ok(Self {
            runtime: Arc::clone(runtime),
            spec,
            tensors,
            experts,
            watch,
            plan,
            _charges: charges,
            weights,
            taken: Mutex::new(false),
            free: Condvar::new(),
            executor: Mutex::new(None),
            reserved: Mutex::default(),
        })
    }

    /// The runtime that it computes on.
    pub fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// What it is: shapes, operations, numbers.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Where its tensors are.
    pub fn tensors(&self) -> &TensorStore {
        &self.tensors
    }

    /// The store of its experts.
    pub fn experts(&self) -> &Arc<ExpertStore> {
        &self.experts
    }

    /// Gives it a device that computes experts. It has one at most, from before its first pass to its end.
    pub fn use_device(&self, offer: DeviceOffer) {
        self.experts.use_device(offer);
    }

    /// What takes pictures of its experts while it computes.
    pub fn live(&self) -> LiveView {
        let slot_bytes = match &self.plan.experts {
            Experts::Cached(cached) => cached.bytes(),
            Experts::InPlace => 0,
        };
        let released = self.watch.as_ref().map(|watch| Arc::clone(watch.given_back_counter()));
        LiveView {
            state: Arc::clone(self.experts.live()),
            budget_bytes: self.plan.budget,
            slot_bytes,
            released,
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

    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Waits until no other sequence computes.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] once `cancel` is set.
    pub fn turn(&self, cancel: &Cancel) -> Result<Turn<'_>> {
        self.turn_unless(|| cancel.is_cancelled())
    }

    /// As [`Self::turn`], until `stop`.
    pub(crate) fn turn_unless(&self, stop: impl Fn() -> bool) -> Result<Turn<'_>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken {
            if stop() {
                return Err(EngineError::Cancelled);
            }
            taken = self.free.wait_timeout(taken, CANCEL_POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
        *taken = true;
        drop(taken);
        self.experts.pass_begun();
        let executor = self.executor.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Turn { model: self, executor })
    }

    /// Makes the buffers large enough for contexts of `context` tokens, and charges `more` bytes beside them.
    ///
    /// # Errors
    /// [`EngineError::Memory`] when both together do not fit.
    pub(crate) fn reserve(
        &self,
        context: usize,
        more: u64,
        hint: impl FnOnce(u64) -> String,
    ) -> Result<Charge> {
        let ledger = self.runtime.ledger();
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let chunk = reserved.chunk.max(MOST_NEW_TOKENS.min(context));
        let context = reserved.context.max(context);
        if (chunk, context) == (reserved.chunk, reserved.context) {
            return ledger.charge("the KV cache and the buffers", more, hint);
        }
        let need = Executor::bytes_for(&self.spec, chunk, context);
        let grown = need.saturating_sub(reserved.charge.as_ref().map_or(0, Charge::bytes));
        let mut charge = ledger.charge("the KV cache and the buffers", more.saturating_add(grown), hint)?;
        room_for(grown).map_err(|_| no_address_space("the buffers", grown))?;
        let mut turn = self.turn(&Cancel::new())?;
        // The old buffers go first: for a moment there are none.
        *turn.executor = None;
        let executor = Executor::new(&self.spec, &self.weights.ropes, chunk, context);
        reserved.bytes = executor.bytes();
        *turn.executor = Some(executor);
        let grown = charge.split(grown);
        match &mut reserved.charge {
            Some(charged) => charged.join(grown),
            none => *none = Some(grown),
        }
        (reserved.chunk, reserved.context) = (chunk, context);
        Ok(charge)
    }

    /// Bytes of the buffers that passes work in; 0 before the first sequence.
    pub fn buffer_bytes(&self) -> u64 {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    fn decoder(&self) -> Decoder<'_> {
        let (kernels, pool) = (self.runtime.kernels(), self.runtime.pool());
        Decoder {
            compute: Compute { kernels, pool, tensors: &self.tensors },
            spec: &self.spec,
            weights: &self.weights,
            store: &self.experts,
        }
    }
}

/// The error for buffers that fit the budget, but not what is left of the address space.
fn no_address_space(what: &'static str, need_bytes: u64) -> EngineError {
    let available_bytes = memory::address_space_headroom(&System::here()).unwrap_or(0);
    let hint = "the address space is limited (ulimit -v); give a smaller --ctx or lift the limit".to_owned();
    EngineError::Memory { what, need_bytes, available_bytes, hint }
}

impl Turn<'_> {
    /// Computes a batch. The logits of runs that want those of their last token are left in the runs; for
    /// those of all tokens see [`Self::logits`]. Either all runs that were not cancelled move on, or, on an
    /// error, none does.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] once all runs are cancelled; failed reads.
    pub fn forward(&mut self, batch: &mut Batch<'_, '_>, observer: &mut dyn Observer) -> Result<()> {
        let (model, executor) = (self.model, executor(&mut self.executor));
        // The whole batch runs on a worker: entering the pool costs more than one parallel region inside it.
        model.runtime.pool().install(|| model.decoder().forward(executor, batch, observer))
    }

    /// Reads the text of a batch of one run for the decoder with the states `decoder`; see
    /// [`Decoder::encode`].
    ///
    /// # Errors
    /// [`EngineError::Cancelled`]; failed reads.
    pub(crate) fn encode(
        &mut self,
        batch: &mut Batch<'_, '_>,
        decoder: &mut SequenceState,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let (model, executor) = (self.model, executor(&mut self.executor));
        model.runtime.pool().install(|| model.decoder().encode(executor, batch, decoder, observer))
    }

    /// Scores of the images of a batch; see [`Decoder::classify`].
    ///
    /// # Errors
    /// [`EngineError::Cancelled`]; failed reads.
    pub(crate) fn classify(
        &mut self,
        batch: &mut Batch<'_, '_>,
        images: (&ImageSpec, &[f32]),
        scores: &mut [f32],
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let (model, executor) = (self.model, executor(&mut self.executor));
        model.runtime.pool().install(|| model.decoder().classify(executor, batch, images, scores, observer))
    }

    /// As [`Self::forward`], while `beside` runs on this thread.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_beside(
        &mut self,
        batch: &mut Batch<'_, '_>,
        mut observer: impl Observer,
        beside: impl FnMut(),
    ) -> Result<()> {
        let (model, executor) = (self.model, executor(&mut self.executor));
        let work = move || model.decoder().forward(executor, batch, &mut observer);
        model.runtime.pool().install_beside(work, beside)
    }

    /// Logits of some of the wanted rows of the last batch, at most [`crate::forward::decoder::HEAD_ROWS`]:
    /// `[rows, vocab]`.
    pub fn logits(&mut self, rows: Range<usize>) -> &[f32] {
        let (model, executor) = (self.model, executor(&mut self.executor));
        model.runtime.pool().install(|| model.decoder().head(executor, rows));
        &executor.logits
    }

    /// Most tokens of a batch.
    pub fn chunk(&self) -> usize {
        self.executor.as_ref().map_or(0, |executor| executor.chunk)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Self { model, .. } = self;
        model.experts.pass_ended();
        *model.taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        model.free.notify_one();
    }
}

fn executor<'b>(executor: &'b mut MutexGuard<'_, Option<Executor>>) -> &'b mut Executor {
    executor.as_mut().expect("a sequence has reserved buffers")
}

/// Charges what a plan takes before any sequence.
fn charge_weights(runtime: &Runtime, plan: &Plan) -> Result<Vec<Charge>> {
    let ledger = runtime.ledger();
    ledger.set_limit(plan.budget);
    let experts = match &plan.experts {
        Experts::InPlace => ("the experts", plan.expert_bytes),
        Experts::Cached(cached) => ("the expert cache", cached.bytes()),
    };
    // Of what the process owned before, other models of the runtime have charged their part.
    let program = plan.base.saturating_sub(ledger.used());
    let arranging = ("the memory in which experts are arranged", plan.arranging);
    let parts = [("the program", program), ("the weights outside experts", plan.dense), arranging, experts];
    let hint = |_| "raise the limit with --ram".to_owned();
    parts.into_iter().map(|(what, bytes)| ledger.charge(what, bytes, hint)).collect()
}

/// Weights outside experts copied to memory, while the system brings the memory of the slots.
fn copied(
    runtime: &Runtime,
    tensors: TensorStore,
    slots: &mut Slots,
    cached: &CachePlan,
    plan: &Plan,
    options: &ModelOptions,
) -> Result<TensorStore> {
    let which = if cached.embedding_in_file { Copied::DenseWithoutEmbedding } else { Copied::Dense };
    // The machine is not watched yet, and what the plan found free may have been taken by others since.
    let here = System::here();
    let free = || memory::free_bytes(&here).is_none_or(|free| free > plan.floor());
    let (threads, stop) = (runtime.pool().threads(), options.cancel.flag());
    options.progress.total.store(tensors.copied_bytes(which), Ordering::Relaxed);
    let copy = || tensors.copied(which, threads, Some(stop), &options.progress.done);
    slots.touch_during(|| options.ram != Ram::Auto || free(), copy).map_err(not_copied)
}

/// The error for weights that were not copied to memory.
fn not_copied(error: std::io::Error) -> EngineError {
    match error.kind() {
        std::io::ErrorKind::Interrupted => EngineError::Cancelled,
        _ => EngineError::Copy(error),
    }
}

/// What gives memory of the cache back when the machine runs short of it, if no budget was named. Windows
/// takes no part of a reservation back, so a smaller cache would help no other program there.
fn watch(experts: &Arc<ExpertStore>, plan: &Plan, options: &ModelOptions) -> Result<Option<Watch>> {
    match &plan.experts {
        Experts::Cached(cached) if cached.direct && options.ram == Ram::Auto && !cfg!(windows) => {
            let keeper = Keeper::new(System::here(), cached.clone(), plan.floor());
            let watch = Watch::begin(Arc::clone(experts), keeper, pressure::INTERVAL);
            watch.map(Some).map_err(EngineError::Store)
        }
        Experts::Cached(_) | Experts::InPlace => Ok(None),
    }
}
