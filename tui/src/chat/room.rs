//! How much of the context the conversation takes as it stands. A model counts when it answers; after every other change
//! somebody is asked to, once. It must not count.

use super::{Chat, Effect};

/// What is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// The conversation has changed.
    Unknown,
    /// Somebody counts, by the number of the request.
    Asked(u64),
    /// So many tokens.
    Known(usize),
    /// The model's template takes no such conversation.
    Uncountable,
}

impl Chat {
    /// Tokens that the conversation takes as it stands; `None` until they are counted.
    pub fn context_used(&self) -> Option<usize> {
        match self.room {
            Room::Known(tokens) => Some(tokens),
            Room::Unknown | Room::Asked(_) | Room::Uncountable => None,
        }
    }

    /// Has the conversation counted, if it has changed and nothing is being computed, which will tell.
    pub fn count(&mut self) -> Option<Effect> {
        if self.room != Room::Unknown || self.busy() {
            return None;
        }
        let messages = self.messages(self.turns.len());
        if messages.is_empty() {
            self.room = Room::Known(0);
            return None;
        }
        self.counts += 1;
        self.room = Room::Asked(self.counts);
        Some(Effect::Count { number: self.counts, messages })
    }

    /// An answer begins: the model will tell. What changes from here on is to be counted after it.
    pub(super) fn counted_by_the_model(&mut self) {
        if self.room == Room::Unknown {
            self.counts += 1;
            self.room = Room::Asked(self.counts);
        }
    }

    /// Somebody has counted; what was asked before the last change is of no use.
    pub(super) fn counted(&mut self, number: u64, tokens: Option<usize>) -> Vec<Effect> {
        if self.room == Room::Asked(number) {
            self.room = tokens.map_or(Room::Uncountable, Room::Known);
            // Of one that is too long already more is said when an answer is wanted.
            if let Some(used) = tokens.filter(|used| *used < self.facts.context && self.asking.is_none()) {
                return self.warn_of_the_end(used, self.facts.context);
            }
        }
        Vec::new()
    }
}
