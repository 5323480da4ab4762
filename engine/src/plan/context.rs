//! The length of a context: what was requested, what the model was trained for, and what fits. It must not
//! know experts.

use moelten_loader::spec::ModelSpec;

use crate::forward::executor::Executor;
use crate::state::kv::format::KvFormat;
use crate::state::{MOST_NEW_TOKENS, SequenceState};

/// Tokens of a context that was not requested, if model and memory allow as many.
pub const DEFAULT_CONTEXT: usize = 8192;

/// The settings of a sequence.
#[derive(Debug, Clone, Copy, Default)]
pub struct SequenceOptions {
    /// Length of the context in tokens; `None` takes the one of the plan.
    pub context: Option<usize>,
    /// Number format of the KV cache.
    pub kv: KvFormat,
}

/// The length of a context, and its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextChoice {
    /// Most tokens that the context holds.
    pub tokens: usize,
    /// Why it holds no more.
    pub limit: ContextLimit,
}

/// What decided about the length of a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextLimit {
    /// The model was trained for no more.
    Model,
    /// [`DEFAULT_CONTEXT`].
    Default,
    /// In a longer context the model would use its rope frequencies for long texts on short texts too.
    ShortRope,
    /// The memory budget: half of it, or less beside streamed experts.
    Memory,
    /// The caller requested this length.
    Requested,
}

/// The smallest of the model's context, [`DEFAULT_CONTEXT`], and what fits `room` bytes with the buffers. A
/// model with two sets of rope frequencies stays within the context of the first: a sequence uses one set,
/// and most texts are short.
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
    .expect("there are four candidates");
    ContextChoice { tokens, limit }
}

/// Bytes of the buffers of passes in a context of `context` tokens, without the states.
pub fn buffer_bytes(spec: &ModelSpec, context: usize) -> u64 {
    Executor::bytes_for(spec, MOST_NEW_TOKENS.min(context), context)
}

/// Bytes of the states of a sequence with a context of `context` tokens.
pub fn state_bytes(spec: &ModelSpec, context: usize, kv: KvFormat) -> u64 {
    SequenceState::bytes_for(spec, context, kv)
}

/// Bytes of the states and the buffers of a context of `context` tokens.
pub(crate) fn need_bytes(spec: &ModelSpec, context: usize, kv: KvFormat) -> u64 {
    SequenceState::bytes_for(spec, context, kv).saturating_add(buffer_bytes(spec, context))
}

/// What to do about memory that is too small, where a context of `fits` tokens would have room.
pub fn advice(fits: usize) -> String {
    match fits {
        0 => "not even a short context would fit: give a larger --ram, or free memory".to_owned(),
        fits => format!("--ctx {fits} would fit"),
    }
}

/// The longest context whose states and buffers fit `bytes`; 0 if none does.
pub fn fitting(spec: &ModelSpec, bytes: u64, kv: KvFormat) -> usize {
    // Every token takes more than one byte.
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
