//! Who leaves: ranks the experts of a layer by what was used so far. Pure and deterministic, without clocks: the same
//! uses give the same order, in the store as in `replay`. It must not know what is resident, nor where bytes are.
//!
//! Time is counted in events: one token, or one chunk of a prompt, has passed the layer. All experts of an event are
//! equally recent; how many tokens of a chunk chose each decides between them.

/// How experts are ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The one whose last use is longest ago leaves.
    Lru,
    /// The one that was used by the fewest tokens ever leaves. Never forgets; here to compare with.
    Lfu,
    /// The one with the lowest aged frequency leaves: every use counts, and counts less with every event after it (LRFU,
    /// IEEE Transactions on Computers 50(12), 2001).
    Aged,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Lru, Self::Lfu, Self::Aged];

    /// The policy for a cache of so many slots, over all layers.
    pub fn for_slots(total_slots: usize) -> Self {
        if total_slots <= AGED_SLOTS_MAX { Self::Aged } else { Self::Lru }
    }

    /// Its name in options and output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::Lfu => "lfu",
            Self::Aged => "aged",
        }
    }
}

/// Slots up to which [`Policy::Aged`] is better than [`Policy::Lru`].
const AGED_SLOTS_MAX: usize = 1536;
/// With every event a count loses this power of two of itself: half in 44 events.
const AGING_SHIFT: u32 = 6;
/// One use, with room below for aging and above for chunks.
const USE: u64 = 1 << 32;
/// A chunk's tokens count as at most so many uses, so that a long prompt does not outweigh all that is decoded after it.
const CHUNK_USES_MAX: u32 = 16;

/// Rank of an expert: lower leaves first. No two experts have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// What the policy goes by.
    first: u64,
    /// Event of the last use, 0 if there was none.
    last: u64,
    /// Tokens of that event that used it.
    tokens: u32,
    expert: u32,
}

/// The ranking of one layer's experts.
#[derive(Debug, Clone)]
pub struct Ranking {
    policy: Policy,
    /// Events so far.
    now: u64,
    /// Of each expert.
    uses: Vec<Uses>,
    /// Counts of [`Policy::Lfu`] and [`Policy::Aged`], of each expert.
    counts: Vec<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Uses {
    last: u64,
    tokens: u32,
}

impl Ranking {
    /// Of a layer with so many experts, none of them used. Nothing is allocated afterwards.
    pub fn new(policy: Policy, experts: usize) -> Self {
        Self { policy, now: 0, uses: vec![Uses::default(); experts], counts: vec![0; experts] }
    }

    /// A token or a chunk of tokens has used these experts, each of them as many tokens as stand beside it.
    ///
    /// # Panics
    /// If the layer has no such expert.
    pub fn used(&mut self, uses: impl IntoIterator<Item = (u32, u32)>) {
        self.now += 1;
        if self.policy == Policy::Aged {
            for count in &mut self.counts {
                *count -= *count >> AGING_SHIFT;
            }
        }
        for (expert, tokens) in uses {
            let expert = expert as usize;
            self.uses[expert] = Uses { last: self.now, tokens };
            let more = match self.policy {
                Policy::Lru => 0,
                Policy::Lfu => tokens.into(),
                Policy::Aged => USE * u64::from(tokens.min(CHUNK_USES_MAX)),
            };
            self.counts[expert] += more;
        }
    }

    /// Rank of an expert among those of its layer. Never used is lowest.
    ///
    /// # Panics
    /// If the layer has no such expert.
    pub fn value(&self, expert: u32) -> Value {
        let Uses { last, tokens } = self.uses[expert as usize];
        Value { first: self.counts[expert as usize], last, tokens, expert }
    }
}
