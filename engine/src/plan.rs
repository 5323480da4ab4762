//! The memory plan: what stays in memory, decided before anything large is allocated. If the whole model fits
//! the budget it is used in its mapped files; otherwise everything but the experts is copied and a cache gets
//! the rest of the budget. `fit` prints the same plan. It must not allocate, nor know speeds.

pub mod context;

use moelten_loader::spec::ModelSpec;
use moelten_loader::tensors::roles::Role;
use moelten_loader::tensors::store::TensorStore;

use crate::error::{EngineError, Result};
use crate::experts::room::{CachePlan, CacheShape};
use crate::experts::source::Source;
use crate::experts::store::DEPTH;
use crate::runtime::memory;
use crate::runtime::system::System;
use crate::state::SequenceState;
pub use context::SequenceOptions;
use context::{ContextChoice, ContextLimit};

/// Bytes for thread stacks, small vectors and what the allocator rounds up.
const SLACK: u64 = 24 << 20;
/// Bytes by which the program may be larger when it is started again with the budget that an error message
/// advised.
pub const GROWTH: u64 = 1 << 20;
/// Bytes of free memory that [`Ram::Auto`] leaves free, unless [`RESERVE_PART`] is more, or there is so
/// little that it would be more than one byte in [`SMALL_PART`].
const RESERVE: u64 = 192 << 20;
/// Where little memory is free, [`Ram::Auto`] leaves a quarter of it free.
const SMALL_PART: u64 = 4;
/// [`Ram::Auto`] leaves at least a sixteenth of the free memory free.
const RESERVE_PART: u64 = 16;
/// An embedding smaller than this is always in memory.
const EMBEDDING_IN_FILE: u64 = 16 << 20;
/// Bytes through which each reader arranges experts: a piece of weights, and what lies beside them.
const ARRANGING: u64 = (DEPTH as u64) * (3 << 20);
/// With streamed experts, a context that was not requested takes at most this fraction of the bytes that they
/// could use: one in four.
const CONTEXT_PART: u64 = 4;
/// Tokens below which a context that was not requested is not shortened for the sake of experts.
const CONTEXT_LEAST: usize = 512;

/// How much memory the process may own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ram {
    /// The free memory but for a reserve.
    #[default]
    Auto,
    /// As little as the model runs with.
    Min,
    /// This many bytes.
    Bytes(u64),
}

/// How expert weights get from their files into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Io {
    /// Mapped if the whole model fits, else direct reads.
    #[default]
    Auto,
    /// Always mapped.
    Mmap,
    /// Always direct reads.
    Direct,
}

/// The options that a plan depends on.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlanOptions {
    /// The memory budget.
    pub ram: Ram,
    /// How expert weights get into memory.
    pub io: Io,
    /// The sequence that the plan has room for.
    pub sequence: SequenceOptions,
    /// Bytes of the budget that the caller needs for itself.
    pub extra: u64,
}

/// Where the experts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Experts {
    /// All of them in the mapped files, like all other weights.
    InPlace,
    /// Some in a cache, all of them in the files.
    Cached(CachePlan),
}

/// What stays in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Bytes that the process may own.
    pub budget: u64,
    /// Bytes that the process owned before, and an allowance for small allocations.
    pub base: u64,
    /// Bytes of all weights outside experts, as far as they are in memory.
    pub dense: u64,
    /// Bytes of all experts in the files.
    pub expert_bytes: u64,
    /// Length of the context, and its reason.
    pub context: ContextChoice,
    /// Bytes of the states of a sequence.
    pub kv: u64,
    /// Bytes of the buffers that passes compute in.
    pub scratch: u64,
    /// Bytes that the caller needs for itself.
    pub extra: u64,
    /// Least part of the free memory that stays free, in bytes.
    pub reserve: u64,
    /// Bytes of those weights outside experts that have to be arranged in memory, and are in no mapped file.
    pub arranged: u64,
    /// Bytes of the buffers through which experts are arranged.
    pub arranging: u64,
    /// Where the experts are, and the cache if there is one.
    pub experts: Experts,
}

/// Bytes that [`Ram::Auto`] leaves of `free` bytes.
fn reserve(free: u64) -> u64 {
    RESERVE.min(free / SMALL_PART).max(free / RESERVE_PART)
}

impl Plan {
    /// Plans for a model on this machine, now. Other models of the process have `charged` bytes of the
    /// budget.
    ///
    /// # Errors
    /// [`EngineError::Budget`] and [`EngineError::Memory`] when the budget is below the least that the model
    /// needs.
    pub fn new(spec: &ModelSpec, tensors: &TensorStore, options: PlanOptions, charged: u64) -> Result<Self> {
        Self::after_release(spec, tensors, options, charged, 0)
    }

    /// As [`Self::new`], for the time when the process has released `released` bytes of what it owns.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn after_release(
        spec: &ModelSpec,
        tensors: &TensorStore,
        options: PlanOptions,
        charged: u64,
        released: u64,
    ) -> Result<Self> {
        let owned = memory::owned_bytes().unwrap_or(0);
        let system = System::here();
        let free = memory::free_bytes(&system).map(|free| free - reserve(free));
        // Address space is not shared with other processes, so it needs no reserve.
        let room = [free, memory::address_space_headroom(&system)].into_iter().flatten().min();
        let auto = room.map_or(u64::MAX, |room| owned.saturating_add(room));
        // Charged memory may not have been written to yet, and is not owned then.
        Self::with_memory(spec, tensors, options, owned.saturating_sub(released).max(charged), auto)
    }

    /// As [`Self::new`], on a machine where the process owns `owned` bytes and [`Ram::Auto`] is `auto` bytes.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_memory(
        spec: &ModelSpec,
        tensors: &TensorStore,
        options: PlanOptions,
        owned: u64,
        auto: u64,
    ) -> Result<Self> {
        let limit = match options.ram {
            Ram::Auto | Ram::Min => auto,
            Ram::Bytes(bytes) => bytes,
        };
        // What is left for this process is the free memory less its reserve.
        let reserve = RESERVE.min(auto.saturating_sub(owned) / (SMALL_PART - 1));
        // Weights are counted as weights.
        let base = owned.saturating_sub(tensors.owned_bytes()) + SLACK;
        let planner = Planner { spec, tensors, options, limit, base, reserve };
        let context = planner.context();
        let whole = planner.plan(context, Experts::InPlace);
        let fits = whole.needs() <= limit && options.ram != Ram::Min;
        // Weights that are in no file are in memory anyway.
        let stays = tensors.expert_bytes() == 0 || !tensors.in_files();
        let arranges = tensors.arranges_experts();
        if arranges && options.io == Io::Mmap {
            return Err(EngineError::Setting {
                setting: "--io",
                found: "mmap".into(),
                must: "auto or direct: the experts of this folder are arranged while they are read",
            });
        }
        if stays || (fits && options.io != Io::Direct && !arranges) {
            planner.in_place(whole)
        } else {
            planner.cached(context)
        }
    }

    /// Bytes of the whole plan, mapped files included.
    pub fn needs(&self) -> u64 {
        let experts = match &self.experts {
            Experts::InPlace => self.expert_bytes,
            Experts::Cached(cached) => cached.bytes(),
        };
        [self.base, self.dense, self.kv, self.scratch, self.extra, self.arranging, experts]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Bytes of mapped files, whose pages the system can take back.
    pub fn mapped(&self) -> u64 {
        match &self.experts {
            Experts::InPlace => (self.dense - self.arranged) + self.expert_bytes,
            Experts::Cached(cached) if !cached.direct => cached.bytes(),
            Experts::Cached(_) => 0,
        }
    }

    /// Bytes that must stay free on the machine while the model runs: half of the reserve of [`Ram::Auto`].
    pub fn floor(&self) -> u64 {
        self.reserve.max(self.budget.saturating_sub(self.base) / (RESERVE_PART - 1)) / 2
    }
}

/// Makes plans for one model under one limit.
struct Planner<'a> {
    spec: &'a ModelSpec,
    tensors: &'a TensorStore,
    options: PlanOptions,
    /// Bytes that the process may own.
    limit: u64,
    /// Bytes that it owned before, and [`SLACK`].
    base: u64,
    /// Least part of the free memory that stays free, in bytes.
    reserve: u64,
}

impl Planner<'_> {
    /// The requested context, or a default within half of the free budget.
    fn context(&self) -> ContextChoice {
        if let Some(tokens) = self.options.sequence.context {
            return ContextChoice { tokens, limit: ContextLimit::Requested };
        }
        let half = self.default_context(self.limit.saturating_sub(self.base) / 2);
        let least = CONTEXT_LEAST.min(self.default_context(u64::MAX).tokens);
        if half.tokens < least { by_memory(least) } else { half }
    }

    fn default_context(&self, room: u64) -> ContextChoice {
        context::default_context(self.spec, self.options.sequence.kv, room)
    }

    /// The longest context whose states and buffers fit `room` bytes.
    fn fitting(&self, room: u64) -> usize {
        context::fitting(self.spec, room, self.options.sequence.kv)
    }

    /// The plan with this context and these experts, whether it fits or not.
    fn plan(&self, context: ContextChoice, experts: Experts) -> Plan {
        let mut dense = self.tensors.dense_bytes() - self.tensors.rows_in_file_bytes();
        if matches!(&experts, Experts::Cached(cached) if cached.embedding_in_file) {
            dense -= self.tensors.get(Role::Embed).bytes;
        }
        Plan {
            budget: self.limit,
            base: self.base,
            dense,
            expert_bytes: self.tensors.expert_bytes(),
            context,
            kv: SequenceState::bytes_for(self.spec, context.tokens, self.options.sequence.kv),
            scratch: context::buffer_bytes(self.spec, context.tokens),
            extra: self.options.extra,
            reserve: self.reserve,
            arranged: self.tensors.arranged_dense_bytes(),
            arranging: if self.tensors.arranges_experts() { ARRANGING } else { 0 },
            experts,
        }
    }

    /// The model used in place, with a shorter context than in `whole` where only that fits.
    fn in_place(&self, whole: Plan) -> Result<Plan> {
        let without_context = whole.needs().saturating_sub(whole.kv.saturating_add(whole.scratch));
        let fits = self.fitting(self.limit.saturating_sub(without_context));
        let requested = self.options.sequence.context.is_some();
        if !requested && (CONTEXT_LEAST..whole.context.tokens).contains(&fits) {
            return Ok(self.plan(by_memory(fits), Experts::InPlace));
        }
        let (need_bytes, available_bytes) = (whole.needs(), self.limit);
        if need_bytes <= available_bytes {
            return Ok(whole);
        }
        let free = self.limit.saturating_sub(without_context.saturating_add(GROWTH));
        let hint = context::advice(self.fitting(free));
        let what = "the model, its context and buffers";
        Err(EngineError::Memory { what, need_bytes, available_bytes, hint })
    }

    /// The model with an expert cache that gets what the rest leaves of the budget.
    fn cached(&self, context: ContextChoice) -> Result<Plan> {
        let mut cached = least_cache(self.spec, self.tensors, self.options.io != Io::Mmap);
        let least = |context| self.plan(context, Experts::Cached(cached.clone())).needs();
        let requested = self.options.sequence.context;
        let context = if requested.is_some() { context } else { self.context_beside(least(by_memory(1))) };
        let need_bytes = least(context);
        let budget_bytes = if self.options.ram == Ram::Min { need_bytes } else { self.limit };
        if need_bytes > budget_bytes {
            let shortest_bytes = least(by_memory(requested.unwrap_or(1)));
            return Err(EngineError::Budget { need_bytes, budget_bytes, shortest_bytes });
        }
        cached.shape.quotas = cached.quotas_for(budget_bytes - need_bytes + cached.bytes());
        Ok(Plan { budget: budget_bytes, ..self.plan(context, Experts::Cached(cached)) })
    }

    /// The default context beside streamed experts, which need the memory more. With the shortest context the
    /// plan needs `least` bytes.
    fn context_beside(&self, least: u64) -> ContextChoice {
        let most = match self.options.ram {
            Ram::Min => CONTEXT_LEAST,
            Ram::Auto | Ram::Bytes(_) => {
                self.fitting(self.limit.saturating_sub(least) / CONTEXT_PART).max(CONTEXT_LEAST)
            }
        };
        let usual = self.default_context(u64::MAX);
        if usual.tokens > most { by_memory(most) } else { usual }
    }
}

/// A context of `tokens` tokens that memory limits.
fn by_memory(tokens: usize) -> ContextChoice {
    ContextChoice { tokens, limit: ContextLimit::Memory }
}

/// The smallest cache that the model runs with: spare slots of each size, and no quota for any bank.
fn least_cache(spec: &ModelSpec, tensors: &TensorStore, direct: bool) -> CachePlan {
    let (mut slot_bytes, mut spare) = (Vec::new(), Vec::new());
    let (mut experts, mut classes) = (Vec::new(), Vec::new());
    for (number, (_, bank)) in spec.banks().enumerate() {
        experts.push(bank.experts);
        let size = Source::slot_bytes(tensors, number);
        let class = slot_bytes.iter().position(|&known| known == size).unwrap_or_else(|| {
            slot_bytes.push(size);
            spare.push(0);
            slot_bytes.len() - 1
        });
        // All experts of one token, and at least one to compute with while another is read.
        spare[class] = bank.most_per_token.max(2).max(spare[class]);
        classes.push(class as u32);
    }
    let quotas = vec![0; experts.len()];
    // A tied head reads the whole embedding for every token.
    let embedding = tensors.get(Role::Embed);
    let large = embedding.bytes >= EMBEDDING_IN_FILE && !tensors.is_arranged(&embedding);
    let embedding_in_file = direct && !spec.head.tied && large;
    let shape = CacheShape { experts, quotas, classes, spare };
    CachePlan { direct, embedding_in_file, shape, slot_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_memory_is_shared_and_much_has_a_reserve() {
        const MIB: u64 = 1 << 20;
        assert_eq!([0, 200 * MIB, 400 * MIB].map(reserve), [0, 50 * MIB, 100 * MIB]);
        assert_eq!([768 * MIB, 1024 * MIB, 3072 * MIB].map(reserve), [RESERVE; 3]);
        assert_eq!(reserve(16 << 30), 1 << 30);
    }
}
