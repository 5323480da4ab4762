//! Which tokens visit which experts: the routing of a batch, sorted by expert. It must not know where expert
//! weights are.

use crate::layers::ffn::router::Routing;

/// The visits of a batch, by expert. A visit is one token at one expert that the router chose for it.
#[derive(Debug, Default)]
pub struct Visits {
    /// Experts with at least one visitor, in ascending order.
    pub experts: Vec<u32>,
    /// `visitors[starts[i]..starts[i + 1]]` are those of `experts[i]`.
    starts: Vec<u32>,
    /// The token of each visit, in ascending order for each expert, and its weight.
    visitors: Vec<(u32, f32)>,
    /// The index of the next visitor of each expert id, while the list is made.
    next: Vec<u32>,
}

impl Visits {
    /// An empty list with room for `tokens` tokens, so that decode never allocates.
    pub fn with_capacity(tokens: usize, experts: usize, per_token: usize) -> Self {
        Self {
            experts: Vec::with_capacity(experts),
            starts: Vec::with_capacity(experts + 1),
            visitors: Vec::with_capacity(tokens * per_token),
            next: Vec::with_capacity(experts),
        }
    }

    /// Lists the visits of a routed batch.
    pub fn list(&mut self, routing: &Routing, experts: usize) {
        self.next.clear();
        self.next.resize(experts, 0);
        let tokens = 0..routing.tokens();
        for &id in tokens.clone().flat_map(|token| routing.token(token).0) {
            self.next[id as usize] += 1;
        }
        self.experts.clear();
        self.starts.clear();
        let mut total = 0;
        for (id, next) in self.next.iter_mut().enumerate().filter(|(_, visitors)| **visitors > 0) {
            self.experts.push(id as u32);
            self.starts.push(total);
            total += std::mem::replace(next, total);
        }
        self.starts.push(total);
        self.visitors.clear();
        self.visitors.resize(total as usize, (0, 0.0));
        for token in tokens {
            let (ids, weights) = routing.token(token);
            for (&id, &weight) in ids.iter().zip(weights) {
                let next = &mut self.next[id as usize];
                self.visitors[*next as usize] = (token as u32, weight);
                *next += 1;
            }
        }
    }

    /// Lists the visits of the experts whose index is not to be skipped.
    pub fn without(&self, skip: impl Fn(usize) -> bool, into: &mut Self) {
        into.experts.clear();
        into.starts.clear();
        into.visitors.clear();
        for index in (0..self.experts.len()).filter(|&index| !skip(index)) {
            into.experts.push(self.experts[index]);
            into.starts.push(into.visitors.len() as u32);
            into.visitors.extend_from_slice(self.of(index));
        }
        into.starts.push(into.visitors.len() as u32);
    }

    /// Sets all weights to 1.
    pub fn weigh_equally(&mut self) {
        self.visitors.iter_mut().for_each(|(_, weight)| *weight = 1.0);
    }

    /// Every expert with its number of visitors.
    pub fn uses(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.experts.iter().enumerate().map(|(index, &expert)| (expert, self.of(index).len() as u32))
    }

    /// The visitors of `experts[index]`: token and weight.
    pub fn of(&self, index: usize) -> &[(u32, f32)] {
        &self.visitors[self.starts[index] as usize..self.starts[index + 1] as usize]
    }
}
