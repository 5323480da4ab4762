//! From a token's experts to the groups of neighbours that they are in. It must not know what stands for a
//! group.

use std::ops::Range;

use super::{Routing, softmax};

impl Routing {
    /// Makes the choice of every token that of the groups of `size` neighbours that its experts are in. A
    /// group weighs as much as the token's experts in it together.
    pub fn sum_groups(&mut self, size: usize) {
        let (mut end, mut next) = (0, 0);
        for token in 0..self.tokens() {
            let chosen = next..self.starts[token + 1];
            next = chosen.end;
            end = self.merge(chosen, end, size, |routing, at, _| routing.weights[at]);
            self.starts[token + 1] = end;
        }
        self.ids.truncate(end);
        self.weights.truncate(end);
    }

    /// Makes the choice of every token that of the groups of `size` neighbours that its first `k` experts are
    /// in. The weight of a group is what the softmax of `logits`, `[tokens, experts]`, gave to the expert of
    /// its number, over the sum of these; a group of several of the experts counts as often.
    pub fn choose_groups(&mut self, size: usize, k: usize, logits: &[f32], experts: usize) {
        let (mut end, mut next) = (0, 0);
        for (token, logits) in logits.chunks_exact(experts).enumerate() {
            let chosen = next..self.starts[token + 1];
            next = chosen.end;
            let chosen = chosen.start..chosen.end.min(chosen.start + k);
            self.scores.clear();
            self.scores.extend_from_slice(logits);
            softmax(&mut self.scores);
            let score = |&id: &u32| self.scores[id as usize / size];
            let total: f32 = self.ids[chosen.clone()].iter().map(score).sum();
            end = self.merge(chosen, end, size, |routing, _, group| routing.scores[group] / total);
            self.starts[token + 1] = end;
        }
        self.ids.truncate(end);
        self.weights.truncate(end);
    }

    /// Writes the groups of the experts in `chosen` from `begin` on, each once, with the sum of what `weight`
    /// returns for the place of an expert and its group. Returns where they end.
    fn merge(
        &mut self,
        chosen: Range<usize>,
        begin: usize,
        size: usize,
        weight: impl Fn(&Self, usize, usize) -> f32,
    ) -> usize {
        // Groups are no more than experts: what is written stays behind what is read.
        let mut end = begin;
        for at in chosen {
            let group = self.ids[at] as usize / size;
            let weight = weight(self, at, group);
            match self.ids[begin..end].iter().position(|&known| known as usize == group) {
                Some(known) => self.weights[begin + known] += weight,
                None => {
                    (self.ids[end], self.weights[end]) = (group as u32, weight);
                    end += 1;
                }
            }
        }
        end
    }
}
