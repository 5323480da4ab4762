//! How much of the context the conversation takes. The model counts when it answers; after any other change a
//! count is requested, once. It must not count by itself.

use super::event::ChatEffect;
use super::state::{Chat, Meter};

/// Share of the context, in percent, from which on a chat warns that it is nearly full.
pub const CONTEXT_WARNING_PERCENT: usize = 80;

impl Chat {
    /// Tokens that the conversation takes; `None` until they are counted.
    pub fn context_used(&self) -> Option<usize> {
        match self.meter {
            Meter::Known(tokens) => Some(tokens),
            Meter::Unknown | Meter::Requested(_) | Meter::Uncountable => None,
        }
    }

    /// Requests a count, if the conversation has changed and no answer is being computed, which would count
    /// it.
    pub fn count_request(&mut self) -> Option<ChatEffect> {
        if self.meter != Meter::Unknown || self.busy() {
            return None;
        }
        let messages = self.messages(self.turns.len());
        if messages.is_empty() {
            self.meter = Meter::Known(0);
            return None;
        }
        self.counts += 1;
        self.meter = Meter::Requested(self.counts);
        Some(ChatEffect::Count { number: self.counts, messages, limit: self.context_limit() })
    }

    /// Tokens after which counting is pointless: the context is full.
    pub(super) fn context_limit(&self) -> usize {
        if self.facts.context > 0 { self.facts.context } else { usize::MAX }
    }

    /// Takes the result of a count; results of earlier requests are ignored.
    pub(super) fn counted(&mut self, number: u64, tokens: Option<usize>) -> Vec<ChatEffect> {
        if self.meter == Meter::Requested(number) {
            self.meter = tokens.map_or(Meter::Uncountable, Meter::Known);
            // If it does not fit at all, the next answer will say so.
            if let Some(used) = tokens.filter(|used| *used < self.facts.context && self.overflow.is_none()) {
                return self.warn_of_the_end(used, self.facts.context);
            }
        }
        Vec::new()
    }
}
