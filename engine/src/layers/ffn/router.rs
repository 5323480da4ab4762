//! From router logits to experts and weights. It is exact and deterministic: plain f32 in a fixed order, ties
//! to the lower expert id. It must not know where expert weights are.

use moelten_loader::spec::{RouterSpec, Select};

/// The experts of each token of a batch. Tokens may have different numbers of experts.
#[derive(Debug, Default, Clone)]
pub struct Routing {
    /// `ids[starts[t]..starts[t + 1]]` are the experts of token `t`, best first.
    starts: Vec<usize>,
    ids: Vec<u32>,
    weights: Vec<f32>,
    /// Scores of the token that is being routed, `[experts]`.
    scores: Vec<f32>,
    /// Experts in order of preference, `[experts]`.
    order: Vec<u32>,
}

impl Routing {
    /// An empty routing with room for `tokens` tokens, so that decode never allocates.
    pub fn with_capacity(tokens: usize, experts: usize, per_token: usize) -> Self {
        Self {
            starts: Vec::with_capacity(tokens + 1),
            ids: Vec::with_capacity(tokens * per_token),
            weights: Vec::with_capacity(tokens * per_token),
            scores: Vec::with_capacity(experts),
            order: Vec::with_capacity(experts),
        }
    }

    /// Routes every token of `logits`, `[tokens, experts]`. Tokens that are not `live` get no expert.
    pub fn route(&mut self, spec: &RouterSpec, logits: &[f32], experts: usize, live: impl Fn(usize) -> bool) {
        self.starts.clear();
        self.ids.clear();
        self.weights.clear();
        self.starts.push(0);
        for (number, token) in logits.chunks_exact(experts).enumerate() {
            match spec.select {
                _ if !live(number) => {}
                Select::SoftmaxTopK { k, renormalise } => self.softmax_top_k(token, k, renormalise),
                Select::SparseMixer { jitter } => self.sparse_mixer(token, jitter),
            }
            let start = self.starts.last().copied().unwrap_or(0);
            self.weights[start..].iter_mut().for_each(|weight| *weight *= spec.scale);
            self.starts.push(self.ids.len());
        }
    }

    /// Number of routed tokens.
    pub fn tokens(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Experts and weights of a token, best first.
    pub fn token(&self, token: usize) -> (&[u32], &[f32]) {
        let range = self.starts[token]..self.starts[token + 1];
        (&self.ids[range.clone()], &self.weights[range])
    }

    fn softmax_top_k(&mut self, logits: &[f32], k: usize, renormalise: bool) {
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        softmax(&mut self.scores);
        self.order.clear();
        self.order.extend(0..logits.len() as u32);
        // Logits have the order of the softmax, without its rounding. Ties go to the lower id.
        self.order
            .sort_unstable_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        let chosen = &self.order[..k];
        let total: f32 =
            if renormalise { chosen.iter().map(|&e| self.scores[e as usize]).sum() } else { 1.0 };
        self.ids.extend_from_slice(chosen);
        self.weights.extend(chosen.iter().map(|&e| self.scores[e as usize] / total));
    }

    /// SparseMixer (arXiv 2409.12136), as the deterministic path of `PhimoeSparseMoeBlock` in transformers
    /// computes it.
    fn sparse_mixer(&mut self, logits: &[f32], jitter: f32) {
        let mut first = None;
        for _ in 0..2 {
            let open = |expert: usize| Some(expert) != first;
            let best = best_of(logits, open);
            let top = logits[best];
            self.scores.clear();
            self.scores.extend(logits.iter().enumerate().map(|(expert, &logit)| {
                let far = (top - logit) / logit.abs().max(top) > 2.0 * jitter;
                if far || !open(expert) { f32::NEG_INFINITY } else { logit }
            }));
            softmax(&mut self.scores);
            self.ids.push(best as u32);
            self.weights.push(self.scores[best]);
            first = Some(best);
        }
    }
}

fn best_of(logits: &[f32], open: impl Fn(usize) -> bool) -> usize {
    let mut best = None;
    for (expert, &logit) in logits.iter().enumerate().filter(|(expert, _)| open(*expert)) {
        if best.is_none_or(|(_, highest)| logit > highest) {
            best = Some((expert, logit));
        }
    }
    best.map_or(0, |(expert, _)| expert)
}

fn softmax(x: &mut [f32]) {
    let highest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for value in x.iter_mut() {
        *value = (*value - highest).exp();
        total += *value;
    }
    x.iter_mut().for_each(|value| *value /= total);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(select: Select, logits: &[f32]) -> (Vec<u32>, Vec<f32>) {
        let mut routing = Routing::default();
        routing.route(&RouterSpec { bias: false, select, scale: 1.0 }, logits, logits.len(), |_| true);
        let (ids, weights) = routing.token(0);
        (ids.to_vec(), weights.to_vec())
    }

    #[test]
    fn ties_go_to_the_lower_expert_id() {
        let (ids, weights) = route(Select::SoftmaxTopK { k: 3, renormalise: false }, &[1.0, 2.0, 1.0, 2.0]);
        assert_eq!(ids, [1, 3, 0]);
        assert_eq!(weights[0], weights[1]);
    }

    #[test]
    fn renormalised_weights_sum_to_one_and_raw_ones_do_not() {
        let logits = [0.1, 1.5, -0.3, 0.9];
        let (_, weights) = route(Select::SoftmaxTopK { k: 2, renormalise: true }, &logits);
        assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        let (_, raw) = route(Select::SoftmaxTopK { k: 2, renormalise: false }, &logits);
        assert!(raw.iter().sum::<f32>() < 0.95);
        assert!((raw[0] / raw[1] - weights[0] / weights[1]).abs() < 1e-5);
    }

    #[test]
    fn sparse_mixer_gives_an_expert_without_close_rivals_full_weight() {
        // The others are far below the best, so each softmax is over one expert.
        let (ids, weights) = route(Select::SparseMixer { jitter: 0.01 }, &[5.0, 1.0, 3.0]);
        assert_eq!((ids, weights), (vec![0, 2], vec![1.0, 1.0]));
        // An expert within 2 * jitter of the best shares the softmax.
        let (_, close) = route(Select::SparseMixer { jitter: 0.01 }, &[5.0, 1.0, 4.95]);
        assert!((0.5..0.52).contains(&close[0]) && close[1] == 1.0);
    }
}
