//! Replay of a routing trace against cache policies, and against the optimum, for all sizes of the cache at
//! once. It is pure. It must not know files or terminals.
//!
//! The cache of a bank starts empty. An event is a token, or a chunk of tokens (prefill), that passes the
//! bank. Every expert that it needs is used once: a hit if it is resident, else a read. Afterwards the
//! experts with the highest values stay, as many as there are slots, whether they were just read or not. The
//! store does the same.
//!
//! Values do not depend on the number of slots, so a smaller cache always holds a part of what a larger cache
//! holds. Experts therefore form a stack (Mattson et al., IBM Systems Journal 9(2), 1970, for requests of
//! several items): the first `n` are the content of `n` slots, and one pass over a trace counts the hits of
//! every size.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::AddAssign;

use super::trace::{Trace, TraceHeader, TracedBank};
use crate::experts::policy::{Policy, Ranking, Value};

/// How the expert to evict is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Replacement {
    /// A policy, which knows past uses.
    Policy(Policy),
    /// Evicts the expert whose next use is farthest in the future, which only a replay can know. No policy
    /// reads less (Belady, IBM Systems Journal 5(2), 1966).
    Belady,
}

impl Replacement {
    /// All policies and the optimum.
    pub const ALL: [Self; 4] =
        [Self::Policy(Policy::Lru), Self::Policy(Policy::Lfu), Self::Policy(Policy::Aged), Self::Belady];

    /// The name in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Policy(policy) => policy.name(),
            Self::Belady => "belady",
        }
    }
}

/// Uses of experts, hits and reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Uses {
    /// Experts that events used. Each counts once per event.
    pub uses: u64,
    /// Uses of resident experts.
    pub hits: u64,
    /// Bytes of the experts that were not resident.
    pub bytes_read: u64,
}

impl Uses {
    /// Share of the uses that were hits, 0 to 1; `None` without uses.
    pub fn hit_rate(self) -> Option<f64> {
        (self.uses > 0).then(|| self.hits as f64 / self.uses as f64)
    }

    /// Uses that were not hits.
    pub fn misses(self) -> u64 {
        self.uses - self.hits
    }
}

impl AddAssign for Uses {
    fn add_assign(&mut self, other: Self) {
        self.uses += other.uses;
        self.hits += other.hits;
        self.bytes_read += other.bytes_read;
    }
}

/// The uses and hits of a cache of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Events of several tokens.
    pub prefill: Uses,
    /// Events of one token.
    pub decode: Uses,
}

/// Numbers of tokens of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tokens {
    /// Tokens in events of several tokens.
    pub prefill: u64,
    /// Tokens in events of one token.
    pub decode: u64,
}

impl Tokens {
    /// The tokens whose uses [`Replay::run`] counts with the same `skip`.
    pub fn of(trace: &Trace, skip: u64) -> Self {
        let mut most = Self::default();
        for events in events_by_bank(trace) {
            let alone = events.iter().filter(|event| event.tokens == 1).count() as u64;
            let chunks = events.iter().filter(|event| event.tokens > 1);
            most.prefill = most.prefill.max(chunks.map(|event| event.tokens as u64).sum());
            most.decode = most.decode.max(alone.saturating_sub(skip));
        }
        most
    }
}

/// The replay of a trace with one replacement, for every number of slots.
#[derive(Debug, Clone)]
pub struct Replay {
    banks: Vec<Reuse>,
}

/// The reuse of the experts of one bank.
#[derive(Debug, Clone, Default)]
struct Reuse {
    expert_bytes: u64,
    prefill: Depths,
    decode: Depths,
}

/// The stack depth of experts when they were used.
#[derive(Debug, Clone, Default)]
struct Depths {
    uses: u64,
    /// Number of uses at each depth.
    at: Vec<u64>,
}

impl Depths {
    /// Counts a use of the expert at `depth`, or of one that is not on the stack yet.
    fn count(&mut self, depth: Option<usize>) {
        self.uses += 1;
        if let Some(depth) = depth {
            if depth >= self.at.len() {
                self.at.resize(depth + 1, 0);
            }
            self.at[depth] += 1;
        }
    }

    fn with_slots(&self, slots: u32, expert_bytes: u64) -> Uses {
        let hits = self.at.iter().take(slots as usize).sum();
        // A sum beyond 64 bits saturates: no real trace has one.
        Uses { uses: self.uses, hits, bytes_read: (self.uses - hits).saturating_mul(expert_bytes) }
    }
}

impl Replay {
    /// Replays `trace` with `replacement`. The first `skip` events of one token only fill the caches; their
    /// uses do not count.
    pub fn run(trace: &Trace, replacement: Replacement, skip: u64) -> Self {
        let reuse = |(events, bank): (Vec<BankEvent>, &TracedBank)| {
            // Banks without experts, and banks that no event used.
            if events.is_empty() {
                return Reuse::default();
            }
            let experts = bank.experts as usize;
            let (prefill, decode) = match replacement {
                Replacement::Policy(policy) => count(&events, Ranking::new(policy, experts), skip),
                Replacement::Belady => count(&events, NextUses::of(&events, experts), skip),
            };
            Reuse { expert_bytes: bank.expert_bytes, prefill, decode }
        };
        Self { banks: events_by_bank(trace).into_iter().zip(&trace.header().banks).map(reuse).collect() }
    }

    /// The outcome with these numbers of slots, one for each bank.
    pub fn with_slots(&self, slots: &[u32]) -> Outcome {
        let mut outcome = Outcome::default();
        for (reuse, &slots) in self.banks.iter().zip(slots) {
            outcome.prefill += reuse.prefill.with_slots(slots, reuse.expert_bytes);
            outcome.decode += reuse.decode.with_slots(slots, reuse.expert_bytes);
        }
        outcome
    }
}

/// Spreads `total` slots over the banks in proportion to their experts. No bank gets more slots than experts.
pub fn spread(header: &TraceHeader, total: u64) -> Vec<u32> {
    let all = header.experts().max(1);
    let total = total.min(all);
    let (mut experts, mut given) = (0, 0);
    let slots = header.banks.iter().map(|bank| {
        experts += u64::from(bank.experts);
        // At most the number of experts, because `total` is at most `all`.
        let until_this = total * experts / all;
        (until_this - std::mem::replace(&mut given, until_this)) as u32
    });
    slots.collect()
}

/// The most slots that fit `bytes` when they are [`spread`].
pub fn slots_in(header: &TraceHeader, bytes: u64) -> u64 {
    let cost = |slots: &[u32]| -> u128 {
        let cost = |(bank, &slots): (&TracedBank, &u32)| u128::from(slots) * u128::from(bank.expert_bytes);
        header.banks.iter().zip(slots).map(cost).sum()
    };
    let all = header.experts();
    let everything = cost(&spread(header, all)).max(1);
    // An upper bound: the number for experts of equal size, and one slot more for each bank. The loop lowers
    // it.
    let guess = u128::from(all) * u128::from(bytes) / everything + header.banks.len() as u128;
    let mut slots = u64::try_from(guess).unwrap_or(u64::MAX).min(all);
    while slots > 0 && cost(&spread(header, slots)) > u128::from(bytes) {
        slots -= 1;
    }
    slots
}

/// A token or a chunk of tokens that passed a bank.
#[derive(Debug, Clone)]
pub(super) struct BankEvent {
    pub tokens: usize,
    /// Experts in ascending order, and the number of tokens that chose each.
    pub uses: Vec<(u32, u32)>,
}

pub(super) fn events_by_bank(trace: &Trace) -> Vec<Vec<BankEvent>> {
    let mut banks = vec![Vec::new(); trace.header().banks.len()];
    for event in trace.events() {
        let mut ids = event.choices().to_vec();
        ids.sort_unstable();
        let uses = ids.chunk_by(|a, b| a == b).map(|same| (same[0].into(), same.len() as u32)).collect();
        banks[event.bank].push(BankEvent { tokens: event.tokens(), uses });
    }
    banks
}

/// An eviction order of the experts of a bank, which changes with every event.
trait Order {
    /// Lower values are evicted first. No two experts have the same value.
    type Value: Ord;

    /// Counts an event.
    fn used(&mut self, event: &BankEvent);

    /// The present value of an expert.
    fn value(&self, expert: u32) -> Self::Value;
}

impl Order for Ranking {
    type Value = Value;

    fn used(&mut self, event: &BankEvent) {
        Self::used(self, event.uses.iter().copied());
    }

    fn value(&self, expert: u32) -> Self::Value {
        Self::value(self, expert)
    }
}

/// Belady's order, by next use.
struct NextUses {
    /// For each use of each event, the next event that uses the same expert.
    next: Vec<Vec<usize>>,
    /// Number of events so far.
    now: usize,
    /// The next use of each expert, as of its last use.
    by_expert: Vec<usize>,
}

impl NextUses {
    fn of(events: &[BankEvent], experts: usize) -> Self {
        let mut coming = vec![usize::MAX; experts];
        let of_event = |(number, event): (usize, &BankEvent)| {
            let next = |&(expert, _): &(u32, u32)| std::mem::replace(&mut coming[expert as usize], number);
            event.uses.iter().map(next).collect()
        };
        let mut next: Vec<_> = events.iter().enumerate().rev().map(of_event).collect();
        next.reverse();
        Self { next, now: 0, by_expert: vec![usize::MAX; experts] }
    }
}

impl Order for NextUses {
    type Value = (Reverse<usize>, u32);

    fn used(&mut self, event: &BankEvent) {
        for (&(expert, _), &next) in event.uses.iter().zip(&self.next[self.now]) {
            self.by_expert[expert as usize] = next;
        }
        self.now += 1;
    }

    fn value(&self, expert: u32) -> Self::Value {
        (Reverse(self.by_expert[expert as usize]), expert)
    }
}

/// The stack depths of used experts with this eviction order, for events of several tokens and of one.
fn count<O: Order>(events: &[BankEvent], mut order: O, skip: u64) -> (Depths, Depths) {
    let (mut prefill, mut decode) = (Depths::default(), Depths::default());
    let mut stack: Vec<u32> = Vec::new();
    let mut candidates = BinaryHeap::new();
    let mut single = 0;
    for event in events {
        single += u64::from(event.tokens == 1);
        for (expert, _) in &event.uses {
            let depth = stack.iter().position(|other| other == expert);
            if event.tokens > 1 {
                prefill.count(depth);
            } else if single > skip {
                decode.count(depth);
            }
        }
        order.used(event);
        // A cache of `n` slots keeps the best of its residents and of the used experts. The cache of `n - 1`
        // slots has kept the best `n - 1` of a part of these. So the expert at depth `n - 1` is the best of
        // those that the smaller caches have evicted, and of the one expert that only this cache held.
        candidates.extend(event.uses.iter().map(|&(expert, _)| (order.value(expert), expert)));
        for slot in &mut stack {
            if event.uses.binary_search_by_key(&*slot, |&(expert, _)| expert).is_err() {
                candidates.push((order.value(*slot), *slot));
            }
            (_, *slot) = candidates.pop().expect("a cache and an event have no fewer experts than the cache");
        }
        while let Some((_, expert)) = candidates.pop() {
            stack.push(expert);
        }
    }
    (prefill, decode)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    struct Random(u64);

    impl Random {
        fn below(&mut self, below: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % below
        }

        /// Prompts and single tokens, which choose some experts more often than others.
        fn trace(&mut self, experts: u64, events: usize) -> Trace {
            let mut hot = 0;
            let events = (0..events).map(|_| {
                let tokens = if self.below(8) == 0 { 2 + self.below(5) } else { 1 };
                hot = if self.below(6) == 0 { self.below(experts) } else { hot };
                let choose = |random: &mut Self| {
                    let any = [hot, hot + 1, random.below(experts), random.below(experts)];
                    let ids: BTreeSet<u16> = any.iter().map(|id| (id % experts) as u16).collect();
                    ids.into_iter().take(1 + random.below(3) as usize).collect()
                };
                (0..tokens).map(|_| choose(self)).collect()
            });
            Trace::of_bank(experts as u32, &events.collect::<Vec<_>>())
        }
    }

    /// A store with `slots` slots: it reads missing experts and then evicts the lowest values.
    fn store<O: Order>(events: &[BankEvent], mut order: O, slots: usize, skip: u64) -> Outcome {
        let (mut resident, mut outcome, mut single) = (BTreeSet::new(), Outcome::default(), 0);
        for event in events {
            let mut uses = Uses { uses: event.uses.len() as u64, ..Uses::default() };
            for (expert, _) in &event.uses {
                match resident.insert(*expert) {
                    true => uses.bytes_read += 10,
                    false => uses.hits += 1,
                }
            }
            single += u64::from(event.tokens == 1);
            if event.tokens > 1 {
                outcome.prefill += uses;
            } else if single > skip {
                outcome.decode += uses;
            }
            order.used(event);
            while resident.len() > slots {
                let lowest = *resident.iter().min_by_key(|expert| order.value(**expert)).unwrap();
                resident.remove(&lowest);
            }
        }
        outcome
    }

    #[test]
    fn one_pass_counts_the_hits_of_stores_of_every_size() {
        let mut random = Random(1);
        for round in 0..60 {
            let (experts, skip) = (1 + random.below(10), random.below(3) * 5);
            let trace = random.trace(experts, 60);
            let events = &events_by_bank(&trace)[0];
            for replacement in Replacement::ALL {
                let replay = Replay::run(&trace, replacement, skip);
                for slots in 0..=experts as usize {
                    let expected = match replacement {
                        Replacement::Policy(policy) => {
                            store(events, Ranking::new(policy, experts as usize), slots, skip)
                        }
                        Replacement::Belady => {
                            store(events, NextUses::of(events, experts as usize), slots, skip)
                        }
                    };
                    assert_eq!(
                        replay.with_slots(&[slots as u32]),
                        expected,
                        "{replacement:?} {slots} {round}"
                    );
                }
            }
        }
    }

    fn hits(outcome: Outcome) -> u64 {
        outcome.prefill.hits + outcome.decode.hits
    }

    /// The most hits that any choice of evicted experts gives, by trying all of them.
    fn most_hits(events: &[BankEvent], resident: u32, slots: u32) -> u64 {
        let Some((event, rest)) = events.split_first() else { return 0 };
        let used = event.uses.iter().fold(0, |set, (expert, _)| set | 1 << expert);
        let hits = u64::from((resident & used).count_ones());
        let all = resident | used;
        // Keeping fewer experts than possible never gives more hits.
        let kept = (0..=all).filter(|kept| kept & !all == 0);
        let kept = kept.filter(|kept| kept.count_ones() == slots.min(all.count_ones()));
        hits + kept.map(|kept| most_hits(rest, kept, slots)).max().unwrap_or(0)
    }

    #[test]
    fn belady_is_optimal() {
        let mut random = Random(2);
        for _ in 0..30 {
            let trace = random.trace(4, 7);
            let best = Replay::run(&trace, Replacement::Belady, 0);
            for slots in 1..=3 {
                let most = most_hits(&events_by_bank(&trace)[0], 0, slots);
                assert_eq!(hits(best.with_slots(&[slots])), most, "{trace:?}");
            }
        }
    }

    #[test]
    fn no_policy_beats_belady() {
        let mut random = Random(3);
        for _ in 0..50 {
            let trace = random.trace(24, 200);
            let replays = Replacement::ALL.map(|replacement| Replay::run(&trace, replacement, 0));
            for slots in 0..=24 {
                let [lru, lfu, aged, best] =
                    replays.each_ref().map(|replay| hits(replay.with_slots(&[slots])));
                assert!(best >= lru.max(lfu).max(aged), "{slots} slots: {lru} {lfu} {aged} {best}");
            }
        }
    }

    #[test]
    fn lru_by_hand() {
        // Two slots: a prompt of two tokens chooses 0, 1 and 1, 2. The most used expert and the highest id
        // stay: 1, 2.
        let single = |id: u16| vec![vec![id]];
        let mut events = vec![vec![vec![0, 1], vec![1, 2]]];
        events.extend([1, 0, 1, 2, 0].map(single));
        let trace = Trace::of_bank(4, &events);
        let lru = Replay::run(&trace, Replacement::Policy(Policy::Lru), 0);
        let outcome = lru.with_slots(&[2]);
        assert_eq!(outcome.prefill, Uses { uses: 3, hits: 0, bytes_read: 30 });
        // 1 hits, 0 evicts 2, 1 hits, 2 evicts 0, 0 is missed.
        assert_eq!(outcome.decode, Uses { uses: 5, hits: 2, bytes_read: 30 });
        assert_eq!(outcome.decode.hit_rate(), Some(0.4));
        assert_eq!(outcome.decode.misses(), 3);
        // With slots for all experts only the first use of each is read.
        assert_eq!(lru.with_slots(&[4]).decode, Uses { uses: 5, hits: 5, bytes_read: 0 });
        assert_eq!(lru.with_slots(&[0]).decode.hits, 0);
        // The first three single tokens do not count, but fill the cache.
        let skipped = Replay::run(&trace, Replacement::Policy(Policy::Lru), 3).with_slots(&[2]);
        assert_eq!(skipped.decode, Uses { uses: 2, hits: 0, bytes_read: 20 });
        assert_eq!(skipped.prefill, outcome.prefill);
        assert_eq!(Tokens::of(&trace, 3), Tokens { prefill: 2, decode: 2 });
    }

    #[test]
    fn uniform_routing_has_the_hit_rate_of_the_share_of_slots() {
        let mut random = Random(4);
        let tokens = (0..4000).map(|_| {
            let mut ids = BTreeSet::new();
            while ids.len() < 4 {
                ids.insert(random.below(32) as u16);
            }
            vec![ids.into_iter().collect()]
        });
        let trace = Trace::of_bank(32, &tokens.collect::<Vec<_>>());
        for policy in Policy::ALL {
            let replay = Replay::run(&trace, Replacement::Policy(policy), 100);
            for slots in [8, 16, 24] {
                let rate = replay.with_slots(&[slots]).decode.hit_rate().unwrap();
                assert!((rate - f64::from(slots) / 32.0).abs() < 0.02, "{policy:?} {slots}: {rate}");
            }
        }
    }

    fn header(banks: &[(u32, u64)]) -> TraceHeader {
        let bank = |&(experts, expert_bytes): &(u32, u64)| TracedBank {
            experts,
            expert_bytes,
            ..TracedBank::default()
        };
        TraceHeader { model: "m".to_owned(), banks: banks.iter().map(bank).collect() }
    }

    #[test]
    fn slots_are_spread_evenly_and_fit() {
        let even = header(&[(8, 100), (0, 0), (8, 100), (8, 100)]);
        assert_eq!(spread(&even, 12), [4, 0, 4, 4]);
        assert_eq!(spread(&even, 14).iter().sum::<u32>(), 14);
        assert!(spread(&even, 14).iter().all(|slots| [0, 4, 5].contains(slots)));
        assert_eq!(spread(&even, u64::MAX), [8, 0, 8, 8]);
        assert_eq!(spread(&header(&[]), 5), [0; 0]);

        let sizes = header(&[(8, 100), (16, 1000), (4, 0)]);
        for bytes in [0, 99, 100, 5_000, 16_799, 16_800, u64::MAX] {
            let slots = slots_in(&sizes, bytes);
            let cost = |slots: u64| {
                spread(&sizes, slots)
                    .iter()
                    .zip(&sizes.banks)
                    .map(|(&s, l)| u64::from(s) * l.expert_bytes)
                    .sum()
            };
            let fits: u64 = cost(slots);
            assert!(fits <= bytes, "{bytes}: {slots} take {fits}");
            assert!(slots == 28 || cost(slots + 1) > bytes, "{bytes}: {} fit as well", slots + 1);
        }
    }
}
