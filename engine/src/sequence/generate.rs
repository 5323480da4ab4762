//! The decode loop: a prompt in, events out, until something ends the answer. The only part of the engine that knows
//! text, through the tokenizer's streaming decoder.

use std::time::Instant;

use moelten_loader::text::tokenizer::Tokenizer;

use crate::api::{Answer, CacheStats, CacheUse, Event, GenerateParams, GenerateStats, StopReason};
use crate::error::{EngineError, Result};
use crate::experts::stats::StoreStats;
use crate::model::Model;
use crate::plan::Experts;
use crate::runtime::cancel::Cancel;
use crate::runtime::memory;
use crate::sequence::sampler::Sampler;
use crate::sequence::session::Sequence;
use crate::sequence::stop::StopFilter;

impl Sequence {
    /// Answers a prompt: reads what is not in the cache, then draws tokens until something ends the answer. The text
    /// that was sent stays valid whatever happens later.
    ///
    /// # Errors
    /// Failed reads, an empty prompt or one longer than the context, settings out of range. Being cancelled is not an error.
    pub fn generate(
        &mut self,
        tokenizer: &Tokenizer,
        prompt: &[u32],
        params: &GenerateParams,
        cancel: &Cancel,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Answer> {
        if prompt.is_empty() {
            let (found, must) = ("no tokens".to_owned(), "at least one token");
            return Err(EngineError::Setting { setting: "prompt", found, must });
        }
        if prompt.len() > self.context() {
            return Err(EngineError::ContextFull { tokens: prompt.len(), context: self.context() });
        }
        let mut sampler = Sampler::new(params.sampler, self.model().spec().vocab)?;
        let experts_before = self.model().experts().stats();
        let started = Instant::now();
        // The last token is read again even if it is cached: its logits are not.
        let cached = self.keep_prefix(&prompt[..prompt.len() - 1]);
        let mut stats =
            GenerateStats { prompt_tokens: prompt.len(), cached_tokens: cached, ..Default::default() };
        let total = prompt.len();
        on_event(Event::Prompt { done: cached, total });
        let read = self.append(&prompt[cached..], cancel, &mut (), &mut |done| {
            on_event(Event::Prompt { done: cached + done, total });
        });
        stats.prompt_time = started.elapsed();
        // Another answer to the same prompt begins here.
        self.snapshot();
        let experts_between = self.model().experts().stats();

        let decoding = Instant::now();
        let mut text = StopFilter::new(&params.stop);
        let mut stream = tokenizer.decode_stream();
        let mut ids = Vec::new();
        let step = || -> Result<StopReason> {
            read?;
            if params.max_tokens == Some(0) {
                return Ok(StopReason::MaxTokens);
            }
            loop {
                let id = sampler
                    .sample(self.logits(), self.tokens())
                    .ok_or(EngineError::NotANumber { tokens: self.tokens().len() })?;
                ids.push(id);
                if tokenizer.is_end(id) {
                    return Ok(StopReason::EndOfTurn);
                }
                if let Some(piece) = stream.push(id)
                    && let Some(stop) = text.push(&piece, &mut |part| on_event(Event::Text(part.to_owned())))
                {
                    return Ok(StopReason::StopText(stop));
                }
                // Nothing is computed for a token that will not be drawn.
                if params.max_tokens == Some(ids.len()) {
                    return Ok(StopReason::MaxTokens);
                }
                if self.tokens().len() == self.context() {
                    return Ok(StopReason::ContextFull);
                }
                self.decode(id, cancel, &mut ())?;
            }
        };
        let reason = match step() {
            Err(EngineError::Cancelled) => StopReason::Cancelled,
            other => other?,
        };
        if let Some(rest) = stream.finish().filter(|_| !matches!(reason, StopReason::StopText(_))) {
            text.push(&rest, &mut |part| on_event(Event::Text(part.to_owned())));
        }
        text.finish(&mut |part| on_event(Event::Text(part.to_owned())));
        let answer_use = self.model().experts().stats().since(&experts_between);
        let prompt_use = experts_between.since(&experts_before);
        stats.generate_time = decoding.elapsed();
        stats.generated_tokens = ids.len();
        stats.context_used = self.tokens().len();
        stats.context_size = self.context();
        stats.experts_used = prompt_use.experts_used() + answer_use.experts_used();
        stats.expert_bytes = prompt_use.bytes_used() + answer_use.bytes_used();
        stats.cache = cache_stats(self.model(), &prompt_use, &answer_use);
        Ok(Answer { text: text.into_text(), ids, reason, stats })
    }
}

/// What the cache did and what memory is like now; `None` if nothing is ever read.
fn cache_stats(model: &Model, prompt: &StoreStats, answer: &StoreStats) -> Option<CacheStats> {
    let Experts::Cached(cached) = &model.plan().experts else { return None };
    let given_back_bytes = model.given_back();
    Some(CacheStats {
        prompt: cache_use(prompt),
        answer: cache_use(answer),
        slot_bytes: cached.bytes().saturating_sub(given_back_bytes),
        given_back_bytes,
        owned_bytes: memory::owned_bytes(),
        budget_bytes: model.plan().budget,
    })
}

fn cache_use(stats: &StoreStats) -> CacheUse {
    let ahead = stats.ahead_total();
    CacheUse {
        used_bytes: stats.bytes_used(),
        missed_bytes: stats.decode.missed_bytes + stats.prefill.missed_bytes,
        read_bytes: stats.bytes_read,
        reading: stats.busy,
        stall: stats.decode.stall + stats.prefill.stall,
        retries: stats.retries,
        chosen: ahead.chosen,
        foreseen: ahead.foreseen,
        guesses_read: ahead.read,
        guesses_used: ahead.useful,
    }
}
