//! Which expert is evicted: ranks the experts of a bank by their past uses. It is pure and deterministic,
//! without clocks: the same uses give the same order, in the store as in `replay`. It must not know which
//! experts are resident, nor where their bytes are.
//!
//! Time is counted in events. An event is one token, or one chunk of a prompt, that passes the bank. All
//! experts of an event are equally recent; the number of tokens that chose each decides between them.

/// How experts are ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    /// Evicts the least recently used expert.
    Lru,
    /// Evicts the expert that the fewest tokens have used. Counts never age; it is kept for comparison.
    Lfu,
    /// Evicts the expert with the lowest aged frequency: every use counts, and counts less with every later
    /// event (LRFU, IEEE Transactions on Computers 50(12), 2001). The store uses it; `docs/cache.md` has the
    /// measurements.
    #[default]
    Aged,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::Lru, Self::Lfu, Self::Aged];

    /// The name in options and output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::Lfu => "lfu",
            Self::Aged => "aged",
        }
    }
}

/// Every event lowers a count by `1 / 2^AGING_SHIFT` of itself. It halves in 44 events.
const AGING_SHIFT: u32 = 6;
/// The count of one use by one token. Its low bits leave room for aging, its high bits for chunks.
const USE: u64 = 1 << 32;
/// The most used expert of a chunk counts as this many uses at most, the others in proportion. So the hottest
/// experts of a prompt rank first, and the uses of decoded tokens soon outweigh them.
const CHUNK_USES: u32 = 16;

/// The rank of an expert. Lower ranks are evicted first; no two experts of a bank have the same rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// The count of the policy.
    count: u64,
    /// The event of the last use; 0 if there was none.
    last: u64,
    /// Tokens of that event that used the expert.
    tokens: u32,
    expert: u32,
}

impl Value {
    /// Whether the last use was not the only one, as far as uses still count.
    pub fn used_before(&self) -> bool {
        self.count > USE
    }

    /// Whether it is higher by more than one use: then moving an expert pays off.
    pub fn exceeds(&self, other: &Self) -> bool {
        self.count > other.count + USE
    }
}

/// The ranking of one bank's experts.
#[derive(Debug, Clone)]
pub struct Ranking {
    policy: Policy,
    /// Events so far.
    now: u64,
    /// The last use of each expert.
    uses: Vec<LastUse>,
    /// The counts of [`Policy::Lfu`] and [`Policy::Aged`] for each expert.
    counts: Vec<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct LastUse {
    last: u64,
    tokens: u32,
}

impl Ranking {
    /// The ranking of `experts` unused experts. Later calls allocate nothing.
    pub fn new(policy: Policy, experts: usize) -> Self {
        Self { policy, now: 0, uses: vec![LastUse::default(); experts], counts: vec![0; experts] }
    }

    /// Counts an event: experts, and the number of tokens that used each.
    ///
    /// # Panics
    /// If the bank has no such expert.
    pub fn used(&mut self, uses: impl IntoIterator<Item = (u32, u32)>) {
        self.now += 1;
        let mut most = 1;
        for (expert, tokens) in uses {
            self.uses[expert as usize] = LastUse { last: self.now, tokens };
            most = most.max(tokens);
        }
        let counts = self.counts.iter_mut().zip(&self.uses);
        let used_now = |uses: &LastUse| if uses.last == self.now { u64::from(uses.tokens) } else { 0 };
        match self.policy {
            Policy::Lru => {}
            Policy::Lfu => counts.for_each(|(count, uses)| *count += used_now(uses)),
            Policy::Aged => {
                let each = USE * u64::from(most.min(CHUNK_USES)) / u64::from(most);
                counts.for_each(|(count, uses)| {
                    *count = *count - (*count >> AGING_SHIFT) + used_now(uses) * each
                });
            }
        }
    }

    /// How many experts of the bank rank higher; `None` if the expert was never used.
    ///
    /// # Panics
    /// If the bank has no such expert.
    pub fn depth(&self, expert: u32) -> Option<usize> {
        let own = self.value(expert);
        let others = 0..self.uses.len() as u32;
        (own.last > 0).then(|| others.filter(|&other| self.value(other) > own).count())
    }

    /// The rank of an expert among those of its bank. An expert that was never used ranks lowest.
    ///
    /// # Panics
    /// If the bank has no such expert.
    pub fn value(&self, expert: u32) -> Value {
        let LastUse { last, tokens } = self.uses[expert as usize];
        Value { count: self.counts[expert as usize], last, tokens, expert }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Experts in the order of eviction.
    fn order(ranking: &Ranking) -> Vec<u32> {
        let mut experts: Vec<u32> = (0..ranking.uses.len() as u32).collect();
        experts.sort_by_key(|&expert| ranking.value(expert));
        experts
    }

    fn ranked(policy: Policy, experts: usize, events: &[&[(u32, u32)]]) -> Vec<u32> {
        let mut ranking = Ranking::new(policy, experts);
        events.iter().for_each(|event| ranking.used(event.iter().copied()));
        order(&ranking)
    }

    #[test]
    fn depths_are_places_in_the_order() {
        let mut ranking = Ranking::new(Policy::Aged, 5);
        [&[(2, 1)][..], &[(4, 1), (2, 1)], &[(0, 1)]]
            .into_iter()
            .for_each(|uses| ranking.used(uses.iter().copied()));
        let depths: Vec<_> = (0..5).map(|expert| ranking.depth(expert)).collect();
        assert_eq!(depths, [Some(1), None, Some(0), None, Some(2)]);
    }

    #[test]
    fn unused_experts_are_evicted_first_and_ties_are_broken() {
        for policy in Policy::ALL {
            assert_eq!(ranked(policy, 4, &[]), [0, 1, 2, 3], "{policy:?}");
            assert_eq!(ranked(policy, 5, &[&[(3, 1), (1, 1)]]), [0, 2, 4, 1, 3], "{policy:?}");
            // Equally recent experts rank by their tokens of the chunk.
            assert_eq!(ranked(policy, 4, &[&[(0, 9), (1, 300), (2, 8)]]), [3, 2, 0, 1], "{policy:?}");
        }
    }

    #[test]
    fn lru_ranks_by_the_last_event_and_lfu_by_tokens() {
        let events: [&[(u32, u32)]; 4] = [&[(0, 50), (1, 40)], &[(2, 1)], &[(1, 1)], &[(3, 1)]];
        assert_eq!(ranked(Policy::Lru, 4, &events), [0, 2, 1, 3]);
        assert_eq!(ranked(Policy::Lfu, 4, &events), [2, 3, 1, 0]);
    }

    #[test]
    fn aged_counts_are_halved_in_44_events() {
        let mut ranking = Ranking::new(Policy::Aged, 2);
        ranking.used([(0, 1)]);
        (0..44).for_each(|_| ranking.used([]));
        assert_eq!(ranking.counts[0] * 1000 / USE, 500);
    }

    #[test]
    fn aged_keeps_frequent_experts_until_their_counts_have_faded() {
        let mut ranking = Ranking::new(Policy::Aged, 3);
        for _ in 0..20 {
            ranking.used([(0, 1)]);
        }
        ranking.used([(1, 1)]);
        assert_eq!(order(&ranking), [2, 1, 0], "a single use does not outweigh twenty");
        for _ in 0..400 {
            ranking.used([]);
        }
        ranking.used([(1, 1)]);
        assert_eq!(order(&ranking), [2, 0, 1], "old uses fade");
    }

    #[test]
    fn a_long_prompt_outweighs_a_few_decoded_tokens_but_not_many() {
        let mut ranking = Ranking::new(Policy::Aged, 3);
        ranking.used([(0, 2048), (1, 1024)]);
        assert_eq!(ranking.counts[0] / USE, u64::from(CHUNK_USES));
        assert_eq!(ranking.counts[1] * 2, ranking.counts[0]);
        ranking.used([(2, 1)]);
        assert_eq!(order(&ranking), [2, 1, 0]);
        for _ in 0..20 {
            ranking.used([(2, 1)]);
        }
        assert_eq!(order(&ranking), [1, 0, 2]);
    }

    #[test]
    fn counts_do_not_overflow() {
        let mut ranking = Ranking::new(Policy::Aged, 2);
        for _ in 0..100_000 {
            ranking.used([(0, u32::MAX), (1, 1)]);
        }
        // The sum of a geometric series.
        assert!(ranking.counts[0] <= (USE * u64::from(CHUNK_USES)) << AGING_SHIFT);
        assert!(ranking.value(0) > ranking.value(1));
    }

    /// The definition of the policies over the whole history, in floating point.
    fn naive(policy: Policy, experts: usize, history: &[Vec<(u32, u32)>]) -> Vec<u32> {
        let now = history.len();
        let value = |expert: u32| {
            let (mut count, mut last) = (0.0, (0, 0));
            for (event, uses) in history.iter().enumerate() {
                let most = uses.iter().map(|use_| use_.1).max().unwrap_or(1);
                for &(_, tokens) in uses.iter().filter(|use_| use_.0 == expert) {
                    last = (event + 1, tokens);
                    count += match policy {
                        Policy::Lru => 0.0,
                        Policy::Lfu => f64::from(tokens),
                        Policy::Aged => {
                            let weight =
                                f64::from(tokens) * f64::from(most.min(CHUNK_USES)) / f64::from(most);
                            weight * (63.0_f64 / 64.0).powi((now - event - 1) as i32)
                        }
                    };
                }
            }
            (count, last)
        };
        let mut order: Vec<u32> = (0..experts as u32).collect();
        order.sort_by(|&a, &b| {
            let ((count_a, last_a), (count_b, last_b)) = (value(a), value(b));
            // Integer counts drop fractions smaller than this.
            let close = (count_a - count_b).abs() < 1e-6;
            let by_count = if close { std::cmp::Ordering::Equal } else { count_a.total_cmp(&count_b) };
            by_count.then(last_a.cmp(&last_b)).then(a.cmp(&b))
        });
        order
    }

    #[test]
    fn rankings_match_a_naive_computation_over_the_whole_history() {
        let mut random = 7_u64;
        let mut draw = move |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for policy in Policy::ALL {
            for _ in 0..40 {
                let experts = 1 + draw(12) as u32;
                let (mut ranking, mut history) = (Ranking::new(policy, experts as usize), Vec::new());
                for _ in 0..draw(40) {
                    let most = [1, 1, 30, 3000][draw(4) as usize];
                    let chosen = (0..experts).filter(|_| draw(3) == 0).collect::<Vec<_>>();
                    let uses: Vec<_> = chosen.into_iter().map(|e| (e, 1 + draw(most) as u32)).collect();
                    ranking.used(uses.iter().copied());
                    history.push(uses);
                    let expected = naive(policy, experts as usize, &history);
                    assert_eq!(order(&ranking), expected, "{policy:?} {history:?}");
                }
            }
        }
    }
}
