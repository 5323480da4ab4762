//! What goes in and comes out of the engine while it generates: plain data, no handles, no behaviour. This is
//! the boundary that user interfaces are written against.

use std::time::Duration;

use crate::sequence::sampler::SamplerParams;

/// How to answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerateParams {
    /// Most tokens of the answer; `None` is up to the end of the context.
    pub max_tokens: Option<usize>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// How tokens are drawn.
    pub sampler: SamplerParams,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The prompt is being read.
    Prompt {
        /// Tokens read, those found in the cache included.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// More of the answer: whole UTF-8 characters.
    Text(String),
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// The model ended its turn.
    EndOfTurn,
    /// A stop text appeared.
    StopText(String),
    /// `max_tokens` was reached.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// The caller asked to stop.
    Cancelled,
}

/// Times and counts of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GenerateStats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them were still in the cache.
    pub cached_tokens: usize,
    /// Time to read the rest.
    pub prompt_time: Duration,
    /// Tokens of the answer, an end token included.
    pub generated_tokens: usize,
    /// Time from the first to the last of them: one step of the model less than there are tokens.
    pub generate_time: Duration,
    /// Tokens in the context afterwards.
    pub context_used: usize,
    /// Size of the context.
    pub context_size: usize,
    /// Routed experts that were multiplied, over all layers.
    pub experts_used: u64,
    /// Bytes of their weights.
    pub expert_bytes: u64,
    /// What the expert cache did; `None` if all experts are in memory.
    pub cache: Option<CacheStats>,
}

/// What the expert cache did for one answer, and memory afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CacheStats {
    /// While the prompt was read.
    pub prompt: CacheUse,
    /// While the answer was written.
    pub answer: CacheUse,
    /// Bytes of its slots.
    pub slot_bytes: u64,
    /// Bytes that it gave back since the start because memory got tight.
    pub given_back_bytes: u64,
    /// Bytes that the process owns, where the system says.
    pub owned_bytes: Option<u64>,
    /// Bytes that it may own.
    pub budget_bytes: u64,
}

/// What the expert cache did for a while.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CacheUse {
    /// Bytes of experts asked for.
    pub used_bytes: u64,
    /// How many of them had to be read.
    pub missed_bytes: u64,
    /// Bytes read, guesses included.
    pub read_bytes: u64,
    /// Time with a read on its way.
    pub reading: Duration,
    /// Time that computing stood still for reads.
    pub stall: Duration,
    /// Reads that failed once and then came.
    pub retries: u64,
    /// Experts chosen where they had been guessed at before...
    pub chosen: u64,
    /// ... and how many of them the guess named.
    pub foreseen: u64,
    /// Experts read because of a guess...
    pub guesses_read: u64,
    /// ... and how many of them were then chosen.
    pub guesses_used: u64,
}

impl CacheUse {
    /// Share of the bytes asked for that were here, 0 to 1; `None` if nothing was asked for.
    pub fn hit_rate(&self) -> Option<f64> {
        share(self.used_bytes.saturating_sub(self.missed_bytes), self.used_bytes)
    }

    /// Share of the chosen experts that were foreseen, 0 to 1; `None` without guesses.
    pub fn foreseen_share(&self) -> Option<f64> {
        share(self.foreseen, self.chosen)
    }

    /// Share of the guesses read that were used, 0 to 1; `None` without any.
    pub fn useful_share(&self) -> Option<f64> {
        share(self.guesses_used, self.guesses_read)
    }

    /// Speed of reading while there was something to read, in 10^9 bytes per second; `None` if nothing was
    /// read.
    pub fn read_gb_per_s(&self) -> Option<f64> {
        let seconds = self.reading.as_secs_f64();
        (self.read_bytes > 0 && seconds > 0.0).then(|| self.read_bytes as f64 / seconds / 1e9)
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl GenerateStats {
    /// Prompt tokens per second, those from the cache not counted.
    pub fn prompt_tokens_per_s(&self) -> f64 {
        per_second(self.prompt_tokens - self.cached_tokens, self.prompt_time)
    }

    /// Answer tokens per second, the first not counted: it comes out of the prompt. 0 for a single token.
    pub fn generated_tokens_per_s(&self) -> f64 {
        per_second(self.generated_tokens.saturating_sub(1), self.generate_time)
    }
}

fn per_second(tokens: usize, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 }
}

/// A finished answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Its text, as it was sent in events.
    pub text: String,
    /// Its token ids, an end token included.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub reason: StopReason,
    /// Times and counts.
    pub stats: GenerateStats,
}

/// The experts of a model at one moment: where each is, who was used, what was foreseen, and what that cost.
/// Counts are since the model was opened; the difference of two pictures is what happened between them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExpertMap {
    /// The expert banks of the layers, in order.
    pub rows: Vec<ExpertRow>,
    /// Passes of one token.
    pub decode: ExpertUse,
    /// Passes of several.
    pub prefill: ExpertUse,
    /// Bytes read from files, guesses included.
    pub read_bytes: u64,
    /// Reads that brought them.
    pub reads: u64,
    /// Computing stands still until an expert has been read.
    pub waiting: bool,
    /// Memory.
    pub memory: MemoryUse,
}

/// The experts of one bank.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExpertRow {
    /// The layer's number in the model.
    pub layer: usize,
    /// Which of the layer's expert banks it is.
    pub bank: usize,
    /// Experts that it keeps in memory; all of them if nothing is ever read.
    pub slots: usize,
    /// Each expert.
    pub cells: Vec<ExpertCell>,
    /// Experts asked for...
    pub asked: u64,
    /// ... and how many of them had to be read.
    pub missed: u64,
    /// Experts chosen where they had been guessed at before...
    pub chosen: u64,
    /// ... and how many of them the guess named.
    pub foreseen: u64,
}

impl ExpertRow {
    /// Share of what was asked for that was in memory, 0 to 1; `None` if nothing was asked for.
    pub fn hit_rate(&self) -> Option<f64> {
        share(self.asked.saturating_sub(self.missed), self.asked)
    }

    /// Share of the chosen experts that were foreseen, 0 to 1; `None` without guesses.
    pub fn recall(&self) -> Option<f64> {
        share(self.foreseen, self.chosen)
    }
}

/// One expert. Ages are in tokens: 0 is the one that is being computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExpertCell {
    /// Where its weights are.
    pub place: ExpertPlace,
    /// When it was last used, if ever.
    pub used: Option<u64>,
    /// When it was last guessed that it would be used, if ever.
    pub guessed: Option<ExpertGuess>,
}

/// Where the weights of an expert are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExpertPlace {
    /// On the disk.
    #[default]
    Absent,
    /// On their way.
    Loading,
    /// In memory.
    Resident,
}

/// A guess that an expert would be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertGuess {
    /// Whether it was.
    pub right: bool,
    /// How long ago, in tokens.
    pub age: u64,
}

/// What passes asked of the experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExpertUse {
    /// Tokens of the passes that have begun.
    pub tokens: u64,
    /// Experts asked for.
    pub used: u64,
    /// Bytes of their weights.
    pub used_bytes: u64,
    /// How many of them had to be read.
    pub missed_bytes: u64,
    /// Time that computing stood still for reads.
    pub stall: Duration,
}

/// Memory of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryUse {
    /// Bytes that it owns, where the system says.
    pub owned_bytes: Option<u64>,
    /// Bytes that it may own.
    pub budget_bytes: u64,
    /// Bytes of the slots for experts; 0 if none is ever read.
    pub slot_bytes: u64,
    /// Bytes of slots that were given back because memory got tight.
    pub given_back_bytes: u64,
}
