//! The timed runs: prefill and decode over given tokens, so that every repetition does the same work. It must
//! not know how figures are printed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moelten_engine::DeviceStats;
use moelten_engine::EngineError;
use moelten_engine::KvFormat;
use moelten_engine::Model;
use moelten_engine::Observer;
use moelten_engine::Routing;
use moelten_engine::Sequence;
use moelten_engine::StoreStats;
use moelten_engine::offline::trace::TraceWriter;
use moelten_engine::plan::SequenceOptions;
use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::runtime::memory;
use moelten_loader::spec::BankKey;

use super::beside::{Gauge, Pairs, Rates};
use super::traffic::{Counter, Traffic};
use crate::report::progress::{Progress, Unit};

/// Tokens decoded without timing if prefill has already touched the weights.
const WARM_UP: usize = 8;

/// Tokens decoded without timing if experts are streamed, until the cache is in its steady state.
const WARM_UP_STREAM: usize = 64;

/// Tokens of the text that an encoder reads where only decoding is timed.
const TEXT: usize = 64;

/// The work to be timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Tokens of the prompt; 0 skips prefill.
    pub prefill: usize,
    /// Tokens to decode; 0 skips decode.
    pub decode: usize,
    /// Tokens in the context before the first decoded one.
    pub depth: usize,
    /// Timed repetitions.
    pub repeat: usize,
    /// Element type of the KV cache.
    pub kv: KvFormat,
    /// Whether experts are streamed. Then no token is decoded twice: its experts would be cached the second
    /// time.
    pub streams: bool,
}

impl Work {
    /// Tokens that the runs need.
    pub fn tokens(&self) -> usize {
        let decode = match self.streams {
            _ if self.decode == 0 => 0,
            true => self.depth + WARM_UP_STREAM + self.repeat * self.decode,
            false => self.depth + self.decode,
        };
        self.prefill.max(decode)
    }
}

/// Figures of prefill.
#[derive(Debug, Clone)]
pub struct Prefill {
    /// Tokens per second.
    pub rates: Rates,
    /// The same beside int8 products in registers, 10^12 operations per second.
    pub int8: Pairs,
    /// Operations of a token's matrix products without attention; a multiplication and an addition count as
    /// two.
    pub operations_per_token: f64,
    /// Tokens per second of the first run, with an empty expert cache.
    pub first_rate: f64,
    /// Counters of the expert store.
    pub store: StoreStats,
}

/// Figures of decode.
#[derive(Debug, Clone)]
pub struct Decode {
    /// Tokens per second.
    pub rates: Rates,
    /// The same beside reads of RAM, 10^9 bytes per second.
    pub ram: Pairs,
    /// The same beside plain reads of the weights, if they are in memory.
    pub weights: Option<Pairs>,
    /// Bytes of weights that a token reads.
    pub bytes_per_token: f64,
    /// Bytes of keys and values that a token reads.
    pub kv_bytes_per_token: f64,
    /// Bytes read from disk per token; `None` if the system does not count them.
    pub disk_bytes_per_token: Option<f64>,
    /// Time of a token in milliseconds: the median, and what 95 % of the tokens stay below.
    pub token_ms: [f64; 2],
    /// Counters of the expert store.
    pub store: StoreStats,
    /// What a GPU did; `None` without one.
    pub gpu: Option<DeviceStats>,
    /// Distinct experts chosen, over all layers.
    pub experts_used: usize,
    /// Number of experts, over all layers.
    pub experts: usize,
}

/// All figures of the timed runs.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Prefill, unless it was skipped.
    pub prefill: Option<Prefill>,
    /// Decode, unless it was skipped.
    pub decode: Option<Decode>,
    /// Bytes read from disk during timed repetitions.
    pub disk_bytes: Option<u64>,
}

impl Measured {
    /// Highest speed of expert reads, 10^9 bytes per second; 0 without reads.
    pub fn read_gb_per_s(&self) -> f64 {
        let prefill = self.prefill.as_ref().map_or(0.0, |prefill| prefill.store.read_gb_per_s());
        self.decode.as_ref().map_or(0.0, |decode| decode.store.read_gb_per_s()).max(prefill)
    }
}

/// Times `work` over `tokens`, with the limits of `gauge` beside each run. `trace` gets the routing of the
/// prompt and of each decoded token once.
///
/// # Errors
/// As [`Sequence::new`] and [`Sequence::append`]; NaN in the last logits.
pub fn measure(
    model: &Arc<Model>,
    tokens: &[u32],
    work: Work,
    gauge: &Gauge<'_>,
    trace: Option<&mut TraceWriter>,
    stop: &Cancel,
) -> anyhow::Result<Measured> {
    let options = SequenceOptions { context: Some(work.tokens()), kv: work.kv };
    let mut run = Run {
        session: Sequence::new(Arc::clone(model), options)?,
        traffic: &Traffic::of(model, work.kv),
        tokens,
        work,
        gauge,
        trace,
        stop,
        disk_bytes: memory::disk_bytes_read().map(|_| 0),
        first: Duration::ZERO,
    };
    let prefill = if work.prefill > 0 { run.prefill()? } else { None };
    let decode = if work.decode > 0 { run.decode()? } else { None };
    if run.session.logits().iter().any(|logit| logit.is_nan()) {
        return Err(EngineError::NotANumber { tokens: run.session.tokens().len() }.into());
    }
    Ok(Measured { prefill, decode, disk_bytes: run.disk_bytes })
}

/// Observers of a run.
struct Watch<'w, 't> {
    counter: Option<&'w mut Counter<'t>>,
    trace: Option<&'w mut TraceWriter>,
}

impl Observer for Watch<'_, '_> {
    fn routed(&mut self, bank: BankKey, routing: &Routing) {
        if let Some(counter) = &mut self.counter {
            counter.routed(bank, routing);
        }
        if let Some(trace) = &mut self.trace {
            trace.routed(bank, routing);
        }
    }
}

/// Timed repetitions.
struct Repeated {
    /// Tokens per second.
    rates: Rates,
    /// The same beside each of the limits.
    beside: Vec<Pairs>,
}

struct Run<'a> {
    session: Sequence,
    traffic: &'a Traffic,
    tokens: &'a [u32],
    work: Work,
    gauge: &'a Gauge<'a>,
    /// Taken out when its recording is complete.
    trace: Option<&'a mut TraceWriter>,
    stop: &'a Cancel,
    disk_bytes: Option<u64>,
    /// Time of the last untimed run.
    first: Duration,
}

impl Run<'_> {
    fn prefill(&mut self) -> anyhow::Result<Option<Prefill>> {
        let prompt = &self.tokens[..self.work.prefill];
        let mut progress = self.progress("prefill", prompt.len());
        let mut counter = self.traffic.counter();
        let mut before = None;
        let gauge = self.gauge;
        let timed = self.repeat(prompt.len(), &mut progress, &|| gauge.int8(), |run, timed| {
            if timed && before.is_none() {
                before = Some(run.session.model().experts().stats());
            }
            let mut watch = if timed {
                Watch { counter: Some(&mut counter), trace: None }
            } else {
                Watch { counter: None, trace: run.trace.as_deref_mut() }
            };
            read(&mut run.session, prompt, run.stop, &mut watch)
        })?;
        let tokens = prompt.len() as f64;
        let chosen = counter.chosen.weights as f64 / self.work.repeat as f64;
        let (prompt, head) = (self.traffic.prompt.weights, self.traffic.prompt_head.weights);
        let weights = prompt as f64 * tokens + head as f64 + chosen;
        let store = self.session.model().experts().stats().since(&before.unwrap_or_default());
        let first_rate = tokens / self.first.as_secs_f64();
        let operations_per_token = 2.0 * weights / tokens;
        Ok(timed.and_then(|Repeated { rates, beside }| {
            let int8 = beside.into_iter().next()?;
            Some(Prefill { rates, int8, operations_per_token, first_rate, store })
        }))
    }

    fn decode(&mut self) -> anyhow::Result<Option<Decode>> {
        let Work { decode, depth, repeat, .. } = self.work;
        self.begin_text()?;
        let tokens = &self.tokens[..depth + decode];
        let mut progress = self.progress("decode", decode);
        self.session.keep_prefix(&tokens[..depth]);
        let rest = &tokens[self.session.tokens().len()..depth];
        if !rest.is_empty() {
            let mut watch = Watch { counter: None, trace: self.trace.as_deref_mut() };
            self.session.append(rest, self.stop, &mut watch, &mut |_| {})?;
        }
        // The warm-up must read all weights that the timed runs use: a prompt does, or all tokens once.
        let warm_up = match self.work.streams {
            true => WARM_UP_STREAM,
            false if self.work.prefill > 0 => decode.min(WARM_UP),
            false => decode,
        };
        let (all_tokens, gauge) = (self.tokens, self.gauge);
        let mut counter = self.traffic.counter();
        let before = self.disk_bytes;
        let (mut store_before, mut gpu_before) = (None, None);
        let mut times = Vec::with_capacity(repeat * decode);
        let timed = self.repeat(decode, &mut progress, &|| gauge.memory(), |run, timed| {
            if !run.work.streams {
                run.session.keep_prefix(&tokens[..depth]);
            }
            if timed && store_before.is_none() {
                store_before = Some(run.session.model().experts().stats());
                gpu_before = run.session.model().experts().device_stats();
            }
            let (first, count) = (run.session.tokens().len(), if timed { decode } else { warm_up });
            // Without streaming all repetitions are alike and the warm-up may be shorter: record the first
            // repetition.
            let mut taken = if timed && !run.work.streams { run.trace.take() } else { None };
            for &token in &all_tokens[first..first + count] {
                let counter = timed.then_some(&mut counter);
                let trace = match run.work.streams {
                    true => run.trace.as_deref_mut(),
                    false => taken.as_deref_mut(),
                };
                let mut watch = Watch { counter, trace };
                let started = Instant::now();
                run.session.decode(token, run.stop, &mut watch)?;
                if timed {
                    times.push(started.elapsed());
                }
            }
            Ok(())
        })?;
        let every = self.traffic.dense.bytes + self.traffic.head.bytes;
        let (all, kv) = ((repeat * decode) as f64, (depth..depth + decode).map(|p| self.traffic.kv_bytes(p)));
        let (experts_used, experts) = counter.variety();
        let disk = before.zip(self.disk_bytes).map(|(before, after)| (after - before) as f64 / all);
        Ok(timed.and_then(|Repeated { rates, beside }| {
            let mut beside = beside.into_iter();
            Some(Decode {
                rates,
                ram: beside.next()?,
                weights: beside.next(),
                bytes_per_token: every as f64 + counter.chosen.bytes as f64 / all,
                kv_bytes_per_token: kv.sum::<u64>() as f64 / decode as f64,
                disk_bytes_per_token: disk,
                token_ms: [0.5, 0.95].map(|share| quantile_ms(&mut times, share)),
                store: self.session.model().experts().stats().since(&store_before.unwrap_or_default()),
                gpu: self.gpu_since(gpu_before),
                experts_used,
                experts,
            })
        }))
    }

    /// What a GPU did since it had these counters.
    fn gpu_since(&self, before: Option<DeviceStats>) -> Option<DeviceStats> {
        let now = self.session.model().experts().device_stats();
        now.zip(before).map(|(now, before)| now.since(&before))
    }

    /// Lets an encoder read a text, if it has read none.
    fn begin_text(&mut self) -> Result<(), EngineError> {
        if self.session.model().spec().encoder.is_none() || !self.session.text().is_empty() {
            return Ok(());
        }
        let text = &self.tokens[..self.tokens.len().min(TEXT)];
        self.session.encode(text, self.stop, &mut ())
    }

    /// Runs once without timing, then `repeat` times; tokens per second. `limits` are measured before the
    /// first of these runs and after each.
    fn repeat(
        &mut self,
        tokens: usize,
        progress: &mut Progress,
        limits: &dyn Fn() -> Vec<f64>,
        mut once: impl FnMut(&mut Self, bool) -> Result<(), EngineError>,
    ) -> anyhow::Result<Option<Repeated>> {
        let started = Instant::now();
        once(self, false)?;
        self.first = started.elapsed();
        let mut rates = Vec::with_capacity(self.work.repeat);
        let mut measured = vec![limits()];
        for round in 0..self.work.repeat {
            progress.set((tokens * (round + 1)) as u64);
            let before = memory::disk_bytes_read();
            let started = Instant::now();
            once(self, true)?;
            rates.push(tokens as f64 / started.elapsed().as_secs_f64());
            let read = memory::disk_bytes_read().zip(before).map(|(after, before)| after - before);
            self.disk_bytes = self.disk_bytes.zip(read).map(|(sum, read)| sum + read);
            measured.push(limits());
        }
        let kinds = measured.first().map_or(0, Vec::len);
        let limits = |kind: usize| measured.iter().filter_map(move |limits| limits.get(kind).copied());
        let beside = (0..kinds).map(|kind| Pairs::of(&rates, limits(kind))).collect();
        Ok(Rates::of(rates).map(|rates| Repeated { rates, beside }))
    }

    fn progress(&self, label: &'static str, tokens: usize) -> Progress {
        // The untimed run counts as one.
        Progress::new(label, Unit::Tokens, (tokens * (self.work.repeat + 1)) as u64)
    }
}

/// Reads a prompt anew, or with an encoder a text.
fn read(
    session: &mut Sequence,
    prompt: &[u32],
    stop: &Cancel,
    watch: &mut Watch<'_, '_>,
) -> Result<(), EngineError> {
    if session.model().spec().encoder.is_some() {
        session.forget_text();
        return session.encode(prompt, stop, watch);
    }
    session.keep_prefix(&[]);
    session.append(prompt, stop, watch, &mut |_| {})
}

/// The time in milliseconds that a share of the times stays below; 0 without times.
fn quantile_ms(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    let at = (last as f64 * share).round() as usize;
    times.get(at).map_or(0.0, |time| 1e3 * time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_times() {
        let mut times: Vec<_> = (1..=101).rev().map(Duration::from_millis).collect();
        assert_eq!(
            [0.0, 0.5, 0.95, 1.0].map(|share| quantile_ms(&mut times, share)),
            [1.0, 51.0, 96.0, 101.0]
        );
        assert_eq!(quantile_ms(&mut [], 0.5), 0.0);
    }

    #[test]
    fn only_what_is_run_needs_tokens() {
        let work = Work { prefill: 5, decode: 0, depth: 100, repeat: 1, kv: KvFormat::F16, streams: false };
        assert_eq!(work.tokens(), 5);
        assert_eq!(Work { decode: 3, ..work }.tokens(), 103);
        assert_eq!(Work { decode: 3, repeat: 2, streams: true, ..work }.tokens(), 170);
    }
}
