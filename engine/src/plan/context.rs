//! How long a context is: what was asked for, what the model was made for, what memory there is. It must not
//! know experts.

use moelten_loader::spec::ModelSpec;

use crate::forward::executor::Executor;
use crate::state::kv::format::KvFormat;
use crate::state::{MOST_NEW_TOKENS, SequenceState};

/// Context when the user names none, if model and memory allow it.
pub const DEFAULT_CONTEXT: usize = 8192;
/// How a sequence is set up.
#[derive(Debug, Clone, Copy, Default)]
pub struct SequenceOptions {
    /// Context in tokens; the one that was planned for when `None`.
    pub context: Option<usize>,
    /// Precision of the KV cache.
    pub kv: KvFormat,
}

/// A context size and why it is that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextChoice {
    /// Tokens.
    pub tokens: usize,
    /// What limited it.
    pub limit: ContextLimit,
}

/// What limits a context that nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextLimit {
    /// The model was made for no more.
    Model,
    /// [`DEFAULT_CONTEXT`].
    Default,
    /// Beyond it the model would compute short texts with its frequencies for long ones.
    ShortRope,
    /// Memory: half of the budget, or less where experts need it more.
    Memory,
    /// It was asked for.
    Asked,
}

/// The smallest of the model's context, 8192, and what fits into `room` bytes with the buffers. A model with
/// two sets of rope frequencies stays within the one for short texts, because a sequence has one set and most
/// texts are short.
pub fn default_context(spec: &ModelSpec, kv: KvFormat, room: u64) -> ContextChoice {
    let fits = fitting(spec, room, kv);
    let (tokens, limit) = [
        (spec.max_context, ContextLimit::Model),
        (DEFAULT_CONTEXT, ContextLimit::Default),
        (spec.short_rope_context().unwrap_or(usize::MAX), ContextLimit::ShortRope),
        (fits.max(1), ContextLimit::Memory),
    ]
    .into_iter()
    .min_by_key(|&(tokens, _)| tokens)
    .expect("there are four");
    ContextChoice { tokens, limit }
}

/// Bytes of the buffers that passes over a context of `context` tokens work in, the states not counted.
pub fn buffer_bytes(spec: &ModelSpec, context: usize) -> u64 {
    Executor::bytes_for(spec, MOST_NEW_TOKENS.min(context), context)
}

/// Bytes of the states of a sequence with a context of `context` tokens.
pub fn state_bytes(spec: &ModelSpec, context: usize, kv: KvFormat) -> u64 {
    SequenceState::bytes_for(spec, context, kv)
}

/// Bytes of the states and of the buffers.
pub(crate) fn need_bytes(spec: &ModelSpec, context: usize, kv: KvFormat) -> u64 {
    SequenceState::bytes_for(spec, context, kv).saturating_add(buffer_bytes(spec, context))
}

/// The largest context of which all fits into `bytes`.
pub fn fitting(spec: &ModelSpec, bytes: u64, kv: KvFormat) -> usize {
    // More than a byte per token it always is.
    let (mut fits, mut too_many) = (0, usize::try_from(bytes).unwrap_or(usize::MAX).saturating_add(1));
    while fits + 1 < too_many {
        let middle = fits + (too_many - fits) / 2;
        if need_bytes(spec, middle, kv) <= bytes {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    fits
}
