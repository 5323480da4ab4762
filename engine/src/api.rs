//! The engine's inputs and outputs during generation, as plain data without handles or behaviour. User
//! interfaces are written against these types. It must not know models, threads or files.

use std::time::Duration;

use crate::experts::reuse::Reuse;
use crate::sequence::sampler::SamplerParams;

/// Settings of one answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerateParams {
    /// Most tokens of the answer; `None` means until the context is full.
    pub max_tokens: Option<usize>,
    /// Texts that end the answer. The answer does not include them.
    pub stop: Vec<String>,
    /// Tokens that end the answer beside those that the model names.
    pub ends: Vec<u32>,
    /// Temperature, truncation, penalties and seed of the sampler.
    pub sampler: SamplerParams,
    /// Searches for the best answer in place of drawing tokens. `stop` and `sampler` do not count then.
    pub beams: Option<BeamParams>,
}

/// A beam search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BeamParams {
    /// Answers that grow side by side, at least 1.
    pub beams: usize,
    /// Exponent of the length that sums are divided by: 1 compares means, and more prefers longer answers.
    pub length_penalty: f32,
    /// Whether the search ends as soon as there are as many finished answers as beams.
    pub early: bool,
}

/// Progress of one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Prefill: the prompt is being read.
    Prompt {
        /// Prompt tokens in the KV cache so far, reused ones included.
        done: usize,
        /// Length of the whole prompt in tokens.
        total: usize,
    },
    /// The next part of the answer, whole UTF-8 characters.
    Text(String),
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// The model ended its turn.
    EndOfTurn,
    /// The model produced this stop text.
    StopText(String),
    /// `max_tokens` was reached.
    MaxTokens,
    /// No token fits after the last one.
    ContextFull,
    /// The caller cancelled the answer.
    Cancelled,
}

/// Times and counts of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GenerateStats {
    /// Length of the prompt in tokens.
    pub prompt_tokens: usize,
    /// Prompt tokens that were in the KV cache already.
    pub cached_tokens: usize,
    /// Prefill time of the other prompt tokens.
    pub prompt_time: Duration,
    /// Tokens of the answer, an end token included.
    pub generated_tokens: usize,
    /// Time from the first generated token to the last. It covers one decode step less than there are tokens.
    pub generate_time: Duration,
    /// Tokens in the context after the answer.
    pub context_used: usize,
    /// Most tokens that the context holds.
    pub context_size: usize,
    /// Routed experts that were evaluated, summed over all layers and passes.
    pub experts_used: u64,
    /// Bytes of the weights of these experts.
    pub expert_bytes: u64,
    /// Work of the expert cache; `None` if all experts are resident.
    pub cache: Option<CacheStats>,
    /// Memory after the answer.
    pub memory: MemoryUse,
    /// Work of a GPU, since the model was opened; `None` if it never had one.
    pub gpu: Option<GpuUse>,
}

/// What a GPU does for a model, since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GpuUse {
    /// Experts that it computed.
    pub computed: u64,
    /// Experts that decoded tokens visited, wherever they were computed.
    pub visited: u64,
    /// Experts in its memory.
    pub held: usize,
    /// Experts that its memory has room for.
    pub slots: usize,
    /// Bytes of this memory.
    pub bytes: u64,
    /// It gives the bits of the CPU; otherwise answers may differ from those without it.
    pub exact: bool,
    /// It failed and is not used any more.
    pub lost: bool,
}

impl GpuUse {
    /// Share of the visited experts that it computed, 0 to 1; `None` without visits.
    pub fn share(&self) -> Option<f64> {
        share(self.computed, self.visited)
    }

    /// How its results compare with the CPU's: `exact` or `close`.
    pub fn exactness(&self) -> &'static str {
        if self.exact { "exact" } else { "close" }
    }
}

/// Work of the expert cache for one answer.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CacheStats {
    /// During prefill.
    pub prompt: CacheUse,
    /// During decode.
    pub answer: CacheUse,
}

/// Work of the expert cache during a phase.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CacheUse {
    /// Bytes of requested experts.
    pub used_bytes: u64,
    /// Bytes of requested experts that had to be read.
    pub missed_bytes: u64,
    /// Bytes read from files, prefetches included.
    pub read_bytes: u64,
    /// Time during which at least one read was in flight.
    pub reading: Duration,
    /// Time during which computing was stalled on reads.
    pub stall: Duration,
    /// Reads that succeeded only when they were repeated.
    pub retries: u64,
    /// Experts that made room for others.
    pub evicted: u64,
    /// Experts that routers chose in requests for which a prediction existed.
    pub chosen: u64,
    /// Experts among [`Self::chosen`] that had been predicted.
    pub predicted: u64,
    /// Experts read by prefetch.
    pub prefetched: u64,
    /// Prefetched experts that a router then chose.
    pub prefetched_used: u64,
    /// What caches of other sizes would have found of what decode used.
    pub reuse: Reuse,
}

impl CacheUse {
    /// Share of the requested bytes that were resident, 0 to 1; `None` without requests.
    pub fn hit_rate(&self) -> Option<f64> {
        share(self.used_bytes.saturating_sub(self.missed_bytes), self.used_bytes)
    }

    /// Share of the chosen experts that had been predicted, 0 to 1; `None` without predictions.
    pub fn prefetch_recall(&self) -> Option<f64> {
        share(self.predicted, self.chosen)
    }

    /// Share of the prefetched experts that were then chosen, 0 to 1; `None` without prefetches.
    pub fn prefetch_precision(&self) -> Option<f64> {
        share(self.prefetched_used, self.prefetched)
    }

    /// Read speed while reads were in flight, in 10^9 bytes per second; `None` if nothing was read.
    pub fn read_gb_per_s(&self) -> Option<f64> {
        let seconds = self.reading.as_secs_f64();
        (self.read_bytes > 0 && seconds > 0.0).then(|| self.read_bytes as f64 / seconds / 1e9)
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl GenerateStats {
    /// Prefill speed in tokens per second. Tokens reused from the KV cache do not count.
    pub fn prompt_tokens_per_s(&self) -> f64 {
        per_second(self.prompt_tokens - self.cached_tokens, self.prompt_time)
    }

    /// Decode speed in tokens per second. The first token does not count, because prefill computes its
    /// logits. 0 for a single token.
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
    /// The text, the same as in the events together.
    pub text: String,
    /// The token ids, an end token included.
    pub ids: Vec<u32>,
    /// Why generation ended.
    pub reason: StopReason,
    /// Times and counts.
    pub stats: GenerateStats,
}

/// A picture of all experts of a model at one moment: residency, use, predictions and their cost. Counts
/// start when the model is opened. The difference of two pictures is the work between them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExpertMap {
    /// One row for each expert bank, in the order of computation.
    pub rows: Vec<ExpertRow>,
    /// Requests of passes that only decode.
    pub decode: ExpertUse,
    /// Requests of passes that read prompts.
    pub prefill: ExpertUse,
    /// Bytes read from files, prefetches included.
    pub read_bytes: u64,
    /// Number of reads behind [`Self::read_bytes`].
    pub reads: u64,
    /// Whether computing is stalled on the read of an expert now.
    pub stalled: bool,
    /// Memory of the process and of the cache.
    pub memory: MemoryUse,
    /// A GPU that has experts; `None` if there never was one.
    pub gpu: Option<GpuUse>,
}

/// The experts of one bank.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExpertRow {
    /// The layer of the bank, counted from 0.
    pub layer: usize,
    /// The number of the bank among those of its layer.
    pub bank: usize,
    /// Experts that the bank keeps resident between requests; all of them if nothing is ever read.
    pub slots: usize,
    /// One cell for each expert, by expert id.
    pub cells: Vec<ExpertCell>,
    /// Experts that were requested.
    pub requested: u64,
    /// Requested experts that had to be read.
    pub missed: u64,
    /// Experts that the router chose in requests for which a prediction existed.
    pub chosen: u64,
    /// Experts among [`Self::chosen`] that had been predicted.
    pub predicted: u64,
}

impl ExpertRow {
    /// Share of the requested experts that were resident, 0 to 1; `None` without requests.
    pub fn hit_rate(&self) -> Option<f64> {
        share(self.requested.saturating_sub(self.missed), self.requested)
    }

    /// Share of the chosen experts that had been predicted, 0 to 1; `None` without predictions.
    pub fn prefetch_recall(&self) -> Option<f64> {
        share(self.predicted, self.chosen)
    }
}

/// One expert. Ages are in tokens: 0 is the token that is being computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExpertCell {
    /// Where its weights are.
    pub place: ExpertPlace,
    /// Age of its last use; `None` if it was never used.
    pub used: Option<u64>,
    /// Its last prediction; `None` if it was never predicted.
    pub prediction: Option<ExpertPrediction>,
}

/// Where the weights of an expert are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExpertPlace {
    /// In the file only.
    #[default]
    Absent,
    /// Being read into a slot.
    Loading,
    /// In memory.
    Resident,
    /// In the memory of a GPU, and perhaps in RAM too.
    Device,
}

/// A prediction that a router would choose an expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertPrediction {
    /// Whether the router then chose it.
    pub correct: bool,
    /// Age in tokens.
    pub age: u64,
}

/// Experts that the passes of one phase requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExpertUse {
    /// Tokens of all passes that have begun.
    pub tokens: u64,
    /// Experts that were requested.
    pub used: u64,
    /// Bytes of requested experts.
    pub used_bytes: u64,
    /// Bytes of requested experts that had to be read.
    pub missed_bytes: u64,
    /// Time during which computing was stalled on reads.
    pub stall: Duration,
}

/// Memory of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryUse {
    /// Bytes that the process owns; `None` where the system does not report them.
    pub owned_bytes: Option<u64>,
    /// Bytes of mapped files that are in memory for the process. `top` adds them to what it owns (`RES`); the
    /// system takes them back when others need memory. `None` where the system does not report them.
    pub mapped_bytes: Option<u64>,
    /// Bytes that the process may own.
    pub budget_bytes: u64,
    /// Bytes of the cache slots, those of released slots excluded; 0 if no expert is ever read.
    pub slot_bytes: u64,
    /// Bytes of cache slots that were released to the system because free memory ran short, since the model
    /// was opened.
    pub released_bytes: u64,
}
