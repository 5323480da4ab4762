//! What a cache would have done: runs a routing trace against the policies, and against the best that any policy could
//! do, at every size of the cache at once. Pure; it must not know files or terminals.
//!
//! A layer's cache starts empty. An event is a token, or a chunk of tokens (prefill), that passes the layer: every expert
//! it needs is used once, a hit if it is resident and else a read. Afterwards those with the highest values stay, as many
//! as there are slots, whether they were read just now or not: what the store does.
//!
//! Values do not depend on the number of slots, so a smaller cache always holds a part of what a larger one holds. The
//! experts can therefore stand in one line (the stack of Mattson et al., IBM Systems Journal 9(2), 1970, for requests of
//! several items): the first `n` are what `n` slots hold, and one pass over a trace counts the hits of every size.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::AddAssign;

use super::policy::{Policy, Ranking, Value};
use super::trace::{Trace, TraceHeader, TracedLayer};

/// Who decides what leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Replacement {
    /// A policy, which knows what was used.
    Policy(Policy),
    /// The expert whose next use is farthest away leaves. Knows what will be used; no policy reads less (Belady, IBM
    /// Systems Journal 5(2), 1966).
    Belady,
}

impl Replacement {
    /// All policies, and the best that could be done.
    pub const ALL: [Self; 4] =
        [Self::Policy(Policy::Lru), Self::Policy(Policy::Lfu), Self::Policy(Policy::Aged), Self::Belady];

    /// Its name in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Policy(policy) => policy.name(),
            Self::Belady => "belady",
        }
    }
}

/// Uses of experts, and what they cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Uses {
    /// Experts that events needed; each counts once per event.
    pub uses: u64,
    /// Those that were resident.
    pub hits: u64,
    /// Bytes of the others.
    pub bytes_read: u64,
}

impl Uses {
    /// Hits per use, 0 to 1; `None` without uses.
    pub fn hit_rate(self) -> Option<f64> {
        (self.uses > 0).then(|| self.hits as f64 / self.uses as f64)
    }

    /// Uses that were no hits.
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

/// What a cache of one size would have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Chunks of several tokens.
    pub prefill: Uses,
    /// Single tokens.
    pub decode: Uses,
}

/// Tokens of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tokens {
    /// In chunks of several tokens.
    pub prefill: u64,
    /// Alone.
    pub decode: u64,
}

impl Tokens {
    /// Those that [`Replay::run`] with the same `skip` counts the uses of.
    pub fn of(trace: &Trace, skip: u64) -> Self {
        let mut most = Self::default();
        for events in events_by_layer(trace) {
            let alone = events.iter().filter(|event| event.tokens == 1).count() as u64;
            let chunks = events.iter().filter(|event| event.tokens > 1);
            most.prefill = most.prefill.max(chunks.map(|event| event.tokens as u64).sum());
            most.decode = most.decode.max(alone.saturating_sub(skip));
        }
        most
    }
}

/// What a policy does with a trace, for every number of slots.
#[derive(Debug, Clone)]
pub struct Replay {
    layers: Vec<Reuse>,
}

/// How a layer's experts were used again.
#[derive(Debug, Clone, Default)]
struct Reuse {
    expert_bytes: u64,
    prefill: Places,
    decode: Places,
}

/// Where in the line experts stood when they were used.
#[derive(Debug, Clone, Default)]
struct Places {
    uses: u64,
    /// Uses of the expert that stood at each place.
    at: Vec<u64>,
}

impl Places {
    /// Counts a use of the expert at `place`, or of one that is not in the line yet.
    fn count(&mut self, place: Option<usize>) {
        self.uses += 1;
        if let Some(place) = place {
            if place >= self.at.len() {
                self.at.resize(place + 1, 0);
            }
            self.at[place] += 1;
        }
    }

    fn with_slots(&self, slots: u32, expert_bytes: u64) -> Uses {
        let hits = self.at.iter().take(slots as usize).sum();
        // Bytes beyond 64 bits are not worth an error.
        Uses { uses: self.uses, hits, bytes_read: (self.uses - hits).saturating_mul(expert_bytes) }
    }
}

impl Replay {
    /// Runs `trace` against `replacement`. The first `skip` single tokens only fill the caches; their uses do not count.
    pub fn run(trace: &Trace, replacement: Replacement, skip: u64) -> Self {
        let reuse = |(events, layer): (Vec<Event>, &TracedLayer)| {
            // Dense layers, and those that nothing is known of.
            if events.is_empty() {
                return Reuse::default();
            }
            let experts = layer.experts as usize;
            let (prefill, decode) = match replacement {
                Replacement::Policy(policy) => count(&events, Ranking::new(policy, experts), skip),
                Replacement::Belady => count(&events, Future::of(&events, experts), skip),
            };
            Reuse { expert_bytes: layer.expert_bytes, prefill, decode }
        };
        Self { layers: events_by_layer(trace).into_iter().zip(&trace.header().layers).map(reuse).collect() }
    }

    /// What caches with so many slots, one number for each layer, would have done.
    pub fn with_slots(&self, slots: &[u32]) -> Outcome {
        let mut outcome = Outcome::default();
        for (reuse, &slots) in self.layers.iter().zip(slots) {
            outcome.prefill += reuse.prefill.with_slots(slots, reuse.expert_bytes);
            outcome.decode += reuse.decode.with_slots(slots, reuse.expert_bytes);
        }
        outcome
    }
}

/// `total` slots, spread over the layers in proportion to their experts; no layer has more slots than experts.
pub fn spread(header: &TraceHeader, total: u64) -> Vec<u32> {
    let all = header.experts().max(1);
    let total = total.min(all);
    let (mut experts, mut given) = (0, 0);
    let slots = header.layers.iter().map(|layer| {
        experts += u64::from(layer.experts);
        // Never more than there are: `total` is at most `all`.
        let until_here = total * experts / all;
        (until_here - std::mem::replace(&mut given, until_here)) as u32
    });
    slots.collect()
}

/// The most slots that fit into `bytes` when they are [`spread`].
pub fn slots_in(header: &TraceHeader, bytes: u64) -> u64 {
    let cost = |slots: &[u32]| -> u128 {
        let cost = |(layer, &slots): (&TracedLayer, &u32)| u128::from(slots) * u128::from(layer.expert_bytes);
        header.layers.iter().zip(slots).map(cost).sum()
    };
    let all = header.experts();
    let everything = cost(&spread(header, all)).max(1);
    // As if all experts were equally large, and a slot more for each layer; from there down to what is true.
    let guess = u128::from(all) * u128::from(bytes) / everything + header.layers.len() as u128;
    let mut slots = u64::try_from(guess).unwrap_or(u64::MAX).min(all);
    while slots > 0 && cost(&spread(header, slots)) > u128::from(bytes) {
        slots -= 1;
    }
    slots
}

/// A token or a chunk that passed a layer.
#[derive(Debug, Clone)]
struct Event {
    tokens: usize,
    /// Experts, ascending, and how many of the tokens chose each.
    uses: Vec<(u32, u32)>,
}

fn events_by_layer(trace: &Trace) -> Vec<Vec<Event>> {
    let mut layers = vec![Vec::new(); trace.header().layers.len()];
    for event in trace.events() {
        let mut ids = event.choices().to_vec();
        ids.sort_unstable();
        let uses = ids.chunk_by(|a, b| a == b).map(|same| (same[0].into(), same.len() as u32)).collect();
        layers[event.layer].push(Event { tokens: event.tokens(), uses });
    }
    layers
}

/// An order of the experts that changes with every event.
trait Order {
    /// Lower leaves first; no two experts have the same.
    type Value: Ord;

    /// An event has used its experts.
    fn used(&mut self, event: &Event);

    /// Where an expert is now.
    fn value(&self, expert: u32) -> Self::Value;
}

impl Order for Ranking {
    type Value = Value;

    fn used(&mut self, event: &Event) {
        Self::used(self, event.uses.iter().copied());
    }

    fn value(&self, expert: u32) -> Self::Value {
        Self::value(self, expert)
    }
}

/// Belady's order: by next use.
struct Future {
    /// For each use of each event, the next event with the same expert.
    next: Vec<Vec<usize>>,
    /// Events so far.
    now: usize,
    /// Next use of each expert as of its last one.
    by_expert: Vec<usize>,
}

impl Future {
    fn of(events: &[Event], experts: usize) -> Self {
        let mut coming = vec![usize::MAX; experts];
        let of_event = |(number, event): (usize, &Event)| {
            let next = |&(expert, _): &(u32, u32)| std::mem::replace(&mut coming[expert as usize], number);
            event.uses.iter().map(next).collect()
        };
        let mut next: Vec<_> = events.iter().enumerate().rev().map(of_event).collect();
        next.reverse();
        Self { next, now: 0, by_expert: vec![usize::MAX; experts] }
    }
}

impl Order for Future {
    type Value = (Reverse<usize>, u32);

    fn used(&mut self, event: &Event) {
        for (&(expert, _), &next) in event.uses.iter().zip(&self.next[self.now]) {
            self.by_expert[expert as usize] = next;
        }
        self.now += 1;
    }

    fn value(&self, expert: u32) -> Self::Value {
        (Reverse(self.by_expert[expert as usize]), expert)
    }
}

/// Where in the line the experts of chunks and of single tokens stood, when `order` decides who leaves.
fn count<O: Order>(events: &[Event], mut order: O, skip: u64) -> (Places, Places) {
    let (mut prefill, mut decode) = (Places::default(), Places::default());
    let mut line: Vec<u32> = Vec::new();
    let mut waiting = BinaryHeap::new();
    let mut single = 0;
    for event in events {
        single += u64::from(event.tokens == 1);
        for (expert, _) in &event.uses {
            let place = line.iter().position(|other| other == expert);
            if event.tokens > 1 {
                prefill.count(place);
            } else if single > skip {
                decode.count(place);
            }
        }
        order.used(event);
        // A cache of `n` slots has its residents and what the event used before it, and keeps the best. If the smaller
        // ones did so, what it keeps and they do not is the best of what they dropped and of the one it alone had.
        waiting.extend(event.uses.iter().map(|&(expert, _)| (order.value(expert), expert)));
        for place in &mut line {
            if event.uses.binary_search_by_key(&*place, |&(expert, _)| expert).is_err() {
                waiting.push((order.value(*place), *place));
            }
            (_, *place) = waiting.pop().expect("a cache and an event have no fewer experts than the cache");
        }
        while let Some((_, expert)) = waiting.pop() {
            line.push(expert);
        }
    }
    (prefill, decode)
}
