//! Who leaves. Placeholder API while the real one is on its branch.

/// How experts are ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// By last use.
    Lru,
}

impl Policy {
    /// The policy for a cache of so many slots.
    pub fn for_slots(_slots: usize) -> Self {
        Self::Lru
    }
}

/// One layer's ranking.
#[derive(Debug)]
pub struct Ranking {
    last: Vec<(u64, u32)>,
    now: u64,
}

impl Ranking {
    /// Of a layer of so many experts.
    pub fn new(_policy: Policy, experts: usize) -> Self {
        Self { last: vec![(0, 0); experts], now: 0 }
    }

    /// A token or chunk has used these experts, each by so many tokens.
    pub fn used(&mut self, uses: impl IntoIterator<Item = (u32, u32)>) {
        self.now += 1;
        for (expert, tokens) in uses {
            self.last[expert as usize] = (self.now, tokens);
        }
    }

    /// Lower leaves first.
    pub fn value(&self, expert: u32) -> (u64, u32, u32) {
        let (now, tokens) = self.last[expert as usize];
        (now, tokens, expert)
    }
}
