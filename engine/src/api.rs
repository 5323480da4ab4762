//! What goes in and comes out of the engine while it generates: plain data, no handles, no behaviour. This is the
//! boundary that user interfaces are written against.

use std::time::Duration;

use crate::sampler::SamplerParams;

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
