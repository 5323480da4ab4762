//! What can go wrong while a model runs: one error type with numbers in it. It must not know how a terminal
//! prints.

use std::io;

use moelten_loader::error::LoadError;
use moelten_quant::IsaError;

/// The crate's result type.
pub type Result<T> = std::result::Result<T, EngineError>;

/// Why the engine stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The model's files are at fault.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The forced instruction set does not exist here.
    #[error(transparent)]
    Isa(#[from] IsaError),
    /// A large buffer does not fit.
    #[error("{what} needs {}, {} are available; {hint}", size(*need_bytes), size(*available_bytes))]
    Memory {
        /// The buffer.
        what: &'static str,
        /// Bytes needed.
        need_bytes: u64,
        /// Bytes available.
        available_bytes: u64,
        /// What would fit.
        hint: String,
    },
    /// The memory budget is below what the model runs with at least.
    #[error(
        "a budget of {} is too small: this model with this context needs {} at least, and {} with the shortest context; \
         --ram min takes as little as possible",
        size(*budget_bytes), size(*need_bytes), size(*shortest_bytes)
    )]
    Budget {
        /// Bytes needed.
        need_bytes: u64,
        /// The budget.
        budget_bytes: u64,
        /// Bytes needed with a context of one token, or the one asked for.
        shortest_bytes: u64,
    },
    /// Memory for copied weights could not be had.
    #[error("cannot copy weights to memory: {0}; a smaller --ram takes less")]
    Copy(#[source] io::Error),
    /// Memory for keys and values could not be had.
    #[error("cannot reserve memory for the context: {0}; a smaller --ctx takes less")]
    KvCache(#[source] io::Error),
    /// The expert store could not be set up.
    #[error("cannot set up the expert store: {0}")]
    Store(#[source] io::Error),
    /// More tokens than the context holds.
    #[error("the text is {tokens} tokens long, the context holds {context}")]
    ContextFull {
        /// Tokens that would be in the context.
        tokens: usize,
        /// Its size.
        context: usize,
    },
    /// A token id beyond the vocabulary.
    #[error("token id {id} does not exist, the model's vocabulary has {vocab}")]
    TokenRange {
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocab: usize,
    },
    /// Expert weights could not be read.
    #[error("reading expert {expert} of layer {layer} failed: {source}")]
    Expert {
        /// The layer.
        layer: usize,
        /// The expert.
        expert: usize,
        /// The system's answer.
        source: io::Error,
    },
    /// A row of the embedding could not be read.
    #[error("reading the embedding of token {token} failed: {source}")]
    Embedding {
        /// The token.
        token: u32,
        /// The system's answer.
        source: io::Error,
    },
    /// The worker threads could not be started.
    #[error("cannot start {threads} worker threads: {problem}")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// What the system said.
        problem: String,
    },
    /// A sampling or generation setting out of range.
    #[error("{setting} is {found}, but must be {must}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// Its value.
        found: String,
        /// The rule.
        must: &'static str,
    },
    /// Logits are NaN: the weights are damaged.
    #[error("the model computed NaN after {tokens} tokens; its weights are damaged")]
    NotANumber {
        /// Tokens in the context.
        tokens: usize,
    },
    /// The caller asked to stop.
    #[error("stopped")]
    Cancelled,
}

/// Bytes in words, in powers of ten.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{bytes} bytes"),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
