//! The decode loop: a prompt in, events out, until something ends the answer. The only part of the engine
//! that knows text, through the tokenizer's streaming decoder.

use std::time::Instant;

use moelten_loader::text::tokenizer::{StreamDecoder, Tokenizer};

use crate::api::{
    Answer, BeamParams, CacheStats, CacheUse, Event, GenerateParams, GenerateStats, GpuUse, StopReason,
};
use crate::error::{EngineError, Result};
use crate::experts::stats::StoreStats;
use crate::model::Model;
use crate::plan::Experts;
use crate::runtime::cancel::Cancel;
use crate::sequence::beams::Search;
use crate::sequence::sampler::Sampler;
use crate::sequence::session::Sequence;
use crate::sequence::stop::StopFilter;

impl Sequence {
    /// Answers a prompt: reads what is not in the cache, then draws tokens until something ends the answer.
    /// The text that was sent stays valid whatever happens later.
    ///
    /// # Errors
    /// Failed reads, an empty prompt or one longer than the context, settings out of range. Being cancelled
    /// is not an error.
    pub fn generate(
        &mut self,
        tokenizer: &Tokenizer,
        prompt: &[u32],
        params: &GenerateParams,
        cancel: &Cancel,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Answer> {
        self.check_prompt(prompt)?;
        let mut sampler = Sampler::new(params.sampler, self.model().spec().vocab)?;
        let experts_before = self.model().experts().stats();
        let started = Instant::now();
        // The last token is read again even if its state is there: its logits are not.
        let cached = self.keep_prefix(&prompt[..prompt.len() - 1]);
        let mut stats =
            GenerateStats { prompt_tokens: prompt.len(), cached_tokens: cached, ..Default::default() };
        let total = prompt.len();
        on_event(Event::Prompt { done: cached, total });
        let read = self.append(&prompt[cached..], cancel, &mut (), &mut |done| {
            on_event(Event::Prompt { done: cached + done, total });
        });
        stats.prompt_time = started.elapsed();
        let experts_between = self.model().experts().stats();

        let decoding = Instant::now();
        let mut answer = Writing {
            text: StopFilter::new(&params.stop),
            stream: tokenizer.decode_stream(),
            ids: Vec::new(),
        };
        let decoded = read.and_then(|()| {
            // Another answer to the same prompt begins here.
            self.snapshot();
            answer.decode(self, tokenizer, &mut sampler, params, cancel, on_event)
        });
        let reason = match decoded {
            Err(EngineError::Cancelled) => StopReason::Cancelled,
            other => other?,
        };
        let (text, ids) = answer.finish(&reason, on_event);
        let answer_use = self.model().experts().stats().since(&experts_between);
        let prompt_use = experts_between.since(&experts_before);
        stats.generate_time = decoding.elapsed();
        stats.generated_tokens = ids.len();
        stats.context_used = self.tokens().len();
        stats.context_size = self.context();
        stats.experts_used = prompt_use.experts_used() + answer_use.experts_used();
        stats.expert_bytes = prompt_use.bytes_used() + answer_use.bytes_used();
        stats.cache = cache_stats(self.model(), &prompt_use, &answer_use);
        stats.memory = self.model().live().memory();
        stats.gpu = self.model().experts().device_stats().map(|gpu| GpuUse {
            computed: gpu.used,
            visited: gpu.asked,
            held: gpu.held,
            slots: gpu.slots,
            bytes: gpu.bytes,
            exact: gpu.exact,
            lost: gpu.dropped.is_some(),
        });
        Ok(Answer { text, ids, reason, stats })
    }

    fn check_prompt(&self, prompt: &[u32]) -> Result<()> {
        if prompt.is_empty() {
            let (found, must) = ("no tokens".to_owned(), "at least one token");
            return Err(EngineError::Setting { setting: "prompt", found, must });
        }
        if prompt.len() > self.context() {
            return Err(EngineError::ContextFull { tokens: prompt.len(), context: self.context() });
        }
        Ok(())
    }
}

/// An answer that is being written.
struct Writing<'a> {
    text: StopFilter<'a>,
    stream: StreamDecoder,
    ids: Vec<u32>,
}

impl Writing<'_> {
    /// Draws and computes tokens until something ends the answer.
    fn decode(
        &mut self,
        sequence: &mut Sequence,
        tokenizer: &Tokenizer,
        sampler: &mut Sampler,
        params: &GenerateParams,
        cancel: &Cancel,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<StopReason> {
        if params.max_tokens == Some(0) {
            return Ok(StopReason::MaxTokens);
        }
        if let Some(beams) = params.beams {
            return self.search(sequence, beams, tokenizer, params, cancel, on_event);
        }
        loop {
            let id = sampler
                .sample(sequence.logits(), sequence.tokens())
                .ok_or(EngineError::NotANumber { tokens: sequence.tokens().len() })?;
            self.ids.push(id);
            if tokenizer.is_end(id) || params.ends.contains(&id) {
                return Ok(StopReason::EndOfTurn);
            }
            if let Some(piece) = self.stream.push(id)
                && let Some(stop) = self.text.push(&piece, &mut |part| on_event(Event::Text(part.to_owned())))
            {
                return Ok(StopReason::StopText(stop));
            }
            // Nothing is computed for a token that will not be drawn.
            if params.max_tokens == Some(self.ids.len()) {
                return Ok(StopReason::MaxTokens);
            }
            if sequence.tokens().len() == sequence.context() {
                return Ok(StopReason::ContextFull);
            }
            sequence.decode(id, cancel, &mut ())?;
        }
    }

    /// Searches for the best answer; it is sent when it is found.
    fn search(
        &mut self,
        sequence: &mut Sequence,
        beams: BeamParams,
        tokenizer: &Tokenizer,
        params: &GenerateParams,
        cancel: &Cancel,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<StopReason> {
        let vocab = u32::try_from(sequence.model().spec().vocab).unwrap_or(u32::MAX);
        let ends: Vec<u32> =
            (0..vocab).filter(|&id| tokenizer.is_end(id) || params.ends.contains(&id)).collect();
        // The last token is drawn, but not computed.
        let room = sequence.context() - sequence.tokens().len() + 1;
        let most = params.max_tokens.map_or(room, |most| most.min(room));
        let given = sequence.tokens().len() - 1;
        let (ids, reason) = Search { params: beams, given, most, ends: &ends }.run(sequence, cancel)?;
        for &id in ids.iter().filter(|id| !ends.contains(id)) {
            if let Some(piece) = self.stream.push(id) {
                self.text.push(&piece, &mut |part| on_event(Event::Text(part.to_owned())));
            }
        }
        self.ids = ids;
        let full = reason == StopReason::MaxTokens && params.max_tokens.is_none_or(|most| most > room);
        Ok(if full { StopReason::ContextFull } else { reason })
    }

    /// The text and the tokens, once what was held back has been sent.
    fn finish(mut self, reason: &StopReason, on_event: &mut dyn FnMut(Event)) -> (String, Vec<u32>) {
        if let Some(rest) = self.stream.finish().filter(|_| !matches!(reason, StopReason::StopText(_))) {
            self.text.push(&rest, &mut |part| on_event(Event::Text(part.to_owned())));
        }
        self.text.finish(&mut |part| on_event(Event::Text(part.to_owned())));
        (self.text.into_text(), self.ids)
    }
}

/// What the cache did; `None` if nothing is ever read.
fn cache_stats(model: &Model, prompt: &StoreStats, answer: &StoreStats) -> Option<CacheStats> {
    let Experts::Cached(_) = &model.plan().experts else { return None };
    Some(CacheStats { prompt: cache_use(prompt), answer: cache_use(answer) })
}

fn cache_use(stats: &StoreStats) -> CacheUse {
    let prefetch = stats.prefetch_total();
    CacheUse {
        used_bytes: stats.bytes_used(),
        missed_bytes: stats.decode.missed_bytes + stats.prefill.missed_bytes,
        read_bytes: stats.bytes_read,
        reading: stats.busy,
        stall: stats.decode.stall + stats.prefill.stall,
        retries: stats.retries,
        evicted: stats.evicted,
        chosen: prefetch.chosen,
        predicted: prefetch.predicted,
        prefetched: prefetch.read,
        prefetched_used: prefetch.used,
        reuse: stats.decode.reuse,
    }
}
