//! Which tokens visit which experts: the routing of a batch, sorted by expert. It must not know where experts
//! are.

use crate::layers::ffn::router::Routing;

/// Which tokens visit which experts.
#[derive(Debug, Default)]
pub struct Visits {
    /// Experts that any token chose, ascending.
    pub experts: Vec<u32>,
    /// Expert number `i` of `experts` has the visitors from `starts[i]` to `starts[i + 1]`.
    starts: Vec<u32>,
    /// Tokens, ascending for each expert, and their weights.
    visitors: Vec<(u32, f32)>,
    /// Where the next visitor of each expert id goes.
    next: Vec<u32>,
}

impl Visits {
    /// Room for `tokens` tokens, so that decode never allocates.
    pub fn with_capacity(tokens: usize, experts: usize, per_token: usize) -> Self {
        Self {
            experts: Vec::with_capacity(experts),
            starts: Vec::with_capacity(experts + 1),
            visitors: Vec::with_capacity(tokens * per_token),
            next: Vec::with_capacity(experts),
        }
    }

    /// Sorts the choices of a batch by expert.
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

    /// Visitors of expert number `index` of `experts`.
    pub fn of(&self, index: usize) -> &[(u32, f32)] {
        &self.visitors[self.starts[index] as usize..self.starts[index + 1] as usize]
    }
}
