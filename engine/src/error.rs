//! The engine's error type. Each message says what happened, with numbers; advice that needs the command line
//! is added by the programs. It must not know how a terminal prints.

use std::io;

use moelten_loader::error::LoadError;
use moelten_loader::size::bytes;
use moelten_quant::IsaError;

/// The crate's result type.
pub type Result<T> = std::result::Result<T, EngineError>;

/// Why the engine cannot open a model or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The model's files are damaged, incomplete or not supported.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The processor lacks the instruction set that was forced.
    #[error(transparent)]
    Isa(#[from] IsaError),
    /// A part of the model or of a sequence does not fit the memory budget.
    #[error(
        "not enough memory for {what}: {} needed, {} available; {hint}",
        bytes(*need_bytes), bytes(*available_bytes)
    )]
    Memory {
        /// The part, with its article.
        what: &'static str,
        /// Bytes that it takes.
        need_bytes: u64,
        /// Bytes of the budget that are not taken yet.
        available_bytes: u64,
        /// What would fit, or which option changes that.
        hint: String,
    },
    /// The memory budget is smaller than the least that the model runs with.
    #[error(
        "the memory budget of {} is too small: the model needs at least {} with this context, and {} with the \
         shortest; --ram min uses the least memory possible",
        bytes(*budget_bytes), bytes(*need_bytes), bytes(*shortest_bytes)
    )]
    Budget {
        /// Bytes that the model takes with the planned context and no cached expert.
        need_bytes: u64,
        /// Bytes that the process may own.
        budget_bytes: u64,
        /// Bytes that it takes with a context of one token, or with the requested context.
        shortest_bytes: u64,
    },
    /// The system has no memory for the weights that are copied out of the files.
    #[error("cannot copy the weights into memory: {0}; a smaller --ram copies less")]
    Copy(#[source] io::Error),
    /// The system has no address space for the states of a sequence.
    #[error("cannot reserve memory for the KV cache: {0}; a smaller --ctx needs less")]
    KvCache(#[source] io::Error),
    /// A file of the expert store, its slots or its threads could not be set up.
    #[error("cannot set up the expert store: {0}")]
    Store(#[source] io::Error),
    /// A text does not fit the context.
    #[error("the text has {tokens} tokens but the context holds {context}")]
    ContextFull {
        /// Tokens that the context would have to hold.
        tokens: usize,
        /// Most tokens that the context holds.
        context: usize,
    },
    /// A text is longer than the model's encoder reads.
    #[error("the text has {tokens} tokens but the encoder reads at most {most} at once")]
    TextTooLong {
        /// Tokens of the text.
        tokens: usize,
        /// Most tokens of a text.
        most: usize,
    },
    /// A token id is not in the vocabulary.
    #[error("token id {id} is outside the model's vocabulary of {vocab} tokens")]
    TokenRange {
        /// The token id, counted from 0.
        id: u32,
        /// Rows of the embedding.
        vocab: usize,
    },
    /// The weights of an expert could not be read.
    #[error("cannot read expert {expert} of layer {layer}: {source}")]
    Expert {
        /// The layer, counted from 0.
        layer: usize,
        /// The expert's id in its bank, counted from 0.
        expert: usize,
        /// The system's error.
        source: io::Error,
    },
    /// A row of the embedding could not be read.
    #[error("cannot read the embedding of token {token}: {source}")]
    Embedding {
        /// The id of the token, which is the row.
        token: u32,
        /// The system's error.
        source: io::Error,
    },
    /// The worker threads could not be started.
    #[error("cannot start {threads} worker threads: {problem}")]
    Threads {
        /// Number of threads.
        threads: usize,
        /// The system's error.
        problem: String,
    },
    /// A setting is out of its range.
    #[error("{setting} is {found}, but must be {must}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// Its value.
        found: String,
        /// The allowed values, in words.
        must: &'static str,
    },
    /// Logits are NaN, which only damaged weights cause.
    #[error("the model computed NaN after {tokens} tokens; its weights are damaged")]
    NotANumber {
        /// Tokens in the context.
        tokens: usize,
    },
    /// The caller cancelled the work.
    #[error("stopped")]
    Cancelled,
}
