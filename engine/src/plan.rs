//! What is kept in memory, decided before anything large is allocated: the model as it lies in its files, if
//! all of it fits the budget, and otherwise everything but the experts and as many of these as there is room
//! for. The same plan is what `fit` prints. It must not allocate, nor know how fast anything is.

pub mod context;

use moelten_loader::spec::ModelSpec;
use moelten_loader::tensors::roles::Role;
use moelten_loader::tensors::store::TensorStore;

use crate::error::{EngineError, Result};
use crate::experts::room::{Cached, Shape};
use crate::experts::source::Source;
use crate::runtime::memory;
use crate::runtime::system::System;
use crate::state::SequenceState;
pub use context::SequenceOptions;
use context::{ContextChoice, ContextLimit};

/// Memory of threads' stacks, of small vectors and of what the allocator rounds up.
const SLACK: u64 = 24 << 20;
/// Bytes by which the program may be larger when it is started again with what a refusal advised.
pub const GROWTH: u64 = 1 << 20;
/// Of the free memory at least this stays free when nobody names a number, and at least one part in
/// [`LEAVE_PART`].
const LEAVE: u64 = 192 << 20;
/// See [`LEAVE`].
const LEAVE_PART: u64 = 16;
/// An embedding smaller than this is not worth reading row by row.
const EMBEDDING_IN_FILE: u64 = 16 << 20;
/// A context that nobody asked for takes at most this part of what streamed experts could use...
const CONTEXT_PART: u64 = 4;
/// ... but is not made shorter than this for it.
const CONTEXT_LEAST: usize = 512;

/// How much memory the process may own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ram {
    /// What is free, with something left for others.
    #[default]
    Auto,
    /// As little as the model runs with.
    Min,
    /// This many bytes.
    Bytes(u64),
}

/// How expert weights come from their files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Io {
    /// In place if all fits, and direct reads otherwise.
    #[default]
    Auto,
    /// Mapped, whatever fits.
    Mmap,
    /// Direct reads, whatever fits.
    Direct,
}

/// What a plan is made from.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlanOptions {
    /// Budget.
    pub ram: Ram,
    /// Where experts come from.
    pub io: Io,
    /// The sequence there will be.
    pub sequence: SequenceOptions,
    /// Bytes that the caller will take for something else.
    pub extra: u64,
}

/// Where the experts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Experts {
    /// In the mapped files, all of them, with everything else.
    InPlace,
    /// Some in memory, the others in the files.
    Cached(Cached),
}

/// What is kept in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Bytes that may be owned.
    pub budget: u64,
    /// Bytes that the process owned before, and small things to come.
    pub base: u64,
    /// Bytes of all weights but the experts'.
    pub dense: u64,
    /// Bytes of all experts in the files.
    pub expert_bytes: u64,
    /// The context.
    pub context: ContextChoice,
    /// Bytes of keys and values.
    pub kv: u64,
    /// Bytes of buffers.
    pub scratch: u64,
    /// Bytes that the caller takes.
    pub extra: u64,
    /// The experts.
    pub experts: Experts,
}

impl Plan {
    /// Plans for a model on this machine, now.
    ///
    /// `charged` bytes of the budget are taken already, by other models of the process.
    ///
    /// # Errors
    /// [`EngineError::Memory`] when the budget is below what the model needs at least.
    pub fn new(spec: &ModelSpec, tensors: &TensorStore, options: PlanOptions, charged: u64) -> Result<Self> {
        Self::after(spec, tensors, options, charged, 0)
    }

    /// As [`Self::new`], once the process has given back `released` bytes of what it owns.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn after(
        spec: &ModelSpec,
        tensors: &TensorStore,
        options: PlanOptions,
        charged: u64,
        released: u64,
    ) -> Result<Self> {
        let owned = memory::owned_bytes().unwrap_or(0);
        let here = System::here();
        let free = memory::free_bytes(&here).map(|free| free.saturating_sub(LEAVE.max(free / LEAVE_PART)));
        // Address space is nobody else's: of that nothing has to be left.
        let room = [free, memory::address_space_headroom(&here)].into_iter().flatten().min();
        let auto = room.map_or(u64::MAX, |room| owned.saturating_add(room));
        // What is charged may not have been written to yet.
        Self::with_memory(spec, tensors, options, owned.saturating_sub(released).max(charged), auto)
    }

    /// As [`Self::new`], on a machine where the process owns `owned` bytes and may own `auto`.
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
        let (kv_format, asked) = (options.sequence.kv, options.sequence.context);
        let limit = match options.ram {
            Ram::Auto | Ram::Min => auto,
            Ram::Bytes(bytes) => bytes,
        };
        let (base, expert_bytes) = (owned + SLACK, tensors.expert_bytes());
        let least_context = asked.unwrap_or(1);
        let free = limit.saturating_sub(base);
        let usual = context::default_context(spec, kv_format, u64::MAX);
        let context = match asked {
            Some(tokens) => ContextChoice { tokens, limit: ContextLimit::Asked },
            None => {
                let half = context::default_context(spec, kv_format, free / 2);
                let least = CONTEXT_LEAST.min(usual.tokens);
                let short = ContextChoice { tokens: least, limit: ContextLimit::Memory };
                if half.tokens < least { short } else { half }
            }
        };
        let with_context = |context: ContextChoice, experts| {
            let mut dense = tensors.dense_bytes();
            if matches!(&experts, Experts::Cached(cached) if cached.embedding_in_file) {
                dense -= tensors.get(Role::Embed).bytes;
            }
            let kv = SequenceState::bytes_for(spec, context.tokens, kv_format);
            let scratch = context::buffer_bytes(spec, context.tokens);
            let extra = options.extra;
            Self { budget: limit, base, dense, expert_bytes, context, kv, scratch, extra, experts }
        };
        let whole = with_context(context, Experts::InPlace);
        let fits = whole.needs() <= limit && options.ram != Ram::Min;
        // What the program carries or made up itself is in memory anyway.
        if expert_bytes == 0 || !tensors.in_files() || (fits && options.io != Io::Direct) {
            let beside = whole.needs().saturating_sub(whole.kv.saturating_add(whole.scratch));
            let fitting = |room| context::fitting(spec, room, kv_format);
            let fits = fitting(limit.saturating_sub(beside));
            if asked.is_none() && (CONTEXT_LEAST..context.tokens).contains(&fits) {
                let shorter = ContextChoice { tokens: fits, limit: ContextLimit::Memory };
                return Ok(with_context(shorter, Experts::InPlace));
            }
            let hint = match fitting(limit.saturating_sub(beside.saturating_add(GROWTH))) {
                0 => "no context would fit".to_owned(),
                fits => format!("a context of {fits} would fit"),
            };
            return whole.checked("the model, its context and buffers", &hint);
        }
        let direct = options.io != Io::Mmap;
        let mut cached = room(spec, tensors, direct);
        let least = |context| with_context(context, Experts::Cached(cached.clone())).needs();
        let context = if asked.is_some() {
            context
        } else {
            // With a tight budget experts need the memory more.
            let shortest = ContextChoice { tokens: 1, limit: ContextLimit::Memory };
            let beside = limit.saturating_sub(least(shortest));
            let fits = context::fitting(spec, beside / CONTEXT_PART, kv_format);
            let most = match options.ram {
                Ram::Min => CONTEXT_LEAST,
                Ram::Auto | Ram::Bytes(_) => fits.max(CONTEXT_LEAST),
            };
            let limited = ContextChoice { tokens: most, limit: ContextLimit::Memory };
            if usual.tokens > most { limited } else { usual }
        };
        let need = least(context);
        let budget = if options.ram == Ram::Min { need } else { limit };
        if need > budget {
            let shortest = least(ContextChoice { tokens: least_context, limit: ContextLimit::Asked });
            return Err(EngineError::Budget {
                need_bytes: need,
                budget_bytes: budget,
                shortest_bytes: shortest,
            });
        }
        cached.shape.quotas = cached.quotas_for(budget - need + cached.bytes());
        Ok(Self { budget, ..with_context(context, Experts::Cached(cached)) })
    }

    /// Bytes that it takes in all, mapped ones included.
    pub fn needs(&self) -> u64 {
        let experts = match &self.experts {
            Experts::InPlace => self.expert_bytes,
            Experts::Cached(cached) => cached.bytes(),
        };
        [self.base, self.dense, self.kv, self.scratch, self.extra, experts]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Bytes of them that are mapped, which the system can take back.
    pub fn mapped(&self) -> u64 {
        match &self.experts {
            Experts::InPlace => self.dense + self.expert_bytes,
            Experts::Cached(cached) if !cached.direct => cached.bytes(),
            Experts::Cached(_) => 0,
        }
    }

    /// Bytes that must stay free for others: half of what a budget that nobody named left to them.
    pub fn floor(&self) -> u64 {
        LEAVE.max(self.budget.saturating_sub(self.base) / (LEAVE_PART - 1)) / 2
    }

    fn checked(self, what: &'static str, hint: &str) -> Result<Self> {
        let (need_bytes, available_bytes) = (self.needs(), self.budget);
        if need_bytes > available_bytes {
            return Err(EngineError::Memory { what, need_bytes, available_bytes, hint: hint.to_owned() });
        }
        Ok(self)
    }
}

/// Slots by size, without a quota for any bank yet.
fn room(spec: &ModelSpec, tensors: &TensorStore, direct: bool) -> Cached {
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
        // One to compute with while the next is read, and all of one token.
        spare[class] = bank.most_per_token.max(2).max(spare[class]);
        classes.push(class as u32);
    }
    let quotas = vec![0; experts.len()];
    // A tied head reads all of it for every token.
    let embedding_in_file = direct && !spec.head.tied && tensors.get(Role::Embed).bytes >= EMBEDDING_IN_FILE;
    let shape = Shape { experts, quotas, classes, spare };
    Cached { direct, embedding_in_file, shape, slot_bytes }
}
