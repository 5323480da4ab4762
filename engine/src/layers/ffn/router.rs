//! From router logits to experts and weights. It is exact and deterministic: plain f32 in a fixed order, ties
//! to the lower expert id. It must not know where expert weights are.

mod groups;

use moelten_loader::spec::{CapacitySpec, ExpertGroups, Renormalise, RouterSpec, Scoring, Second, Select};

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
    /// What the choice goes by, `[experts]`: scores with their bias, -infinity outside the best groups.
    choice: Vec<f32>,
    /// The score of each group, and its number.
    groups: Vec<(f32, u32)>,
}

/// What the experts of a token are chosen with.
#[derive(Debug, Clone, Copy)]
struct ScoredChoice<'a> {
    k: usize,
    scoring: Scoring,
    /// `[experts]`; empty without one.
    bias: &'a [f32],
    /// The experts, where they are not chosen.
    listed: Option<&'a [u16]>,
    groups: Option<ExpertGroups>,
    renormalise: Renormalise,
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
            choice: Vec::with_capacity(experts),
            groups: Vec::with_capacity(experts),
        }
    }

    /// Routes every token of `logits`, `[tokens, experts]`. `bias` is `[experts]`, or empty if the router has
    /// none. Tokens that are not `live` get no expert. Where experts are listed, `listed` returns those of a
    /// token.
    pub fn route<'l>(
        &mut self,
        spec: &RouterSpec,
        bias: &[f32],
        logits: &[f32],
        experts: usize,
        live: impl Fn(usize) -> bool,
        listed: impl Fn(usize) -> Option<&'l [u16]>,
    ) {
        self.starts.clear();
        self.ids.clear();
        self.weights.clear();
        self.starts.push(0);
        for (number, token) in logits.chunks_exact(experts).enumerate() {
            match spec.select {
                _ if !live(number) => {}
                Select::SoftmaxTopK { k, renormalise } => self.softmax_top_k(token, k, renormalise),
                Select::Scored { k, scoring, groups, renormalise, .. } => {
                    let listed = listed(number);
                    self.scored(token, ScoredChoice { k, scoring, bias, listed, groups, renormalise });
                }
                Select::Threshold { eps, most, renormalise } => {
                    self.threshold(token, (eps, most), renormalise);
                }
                Select::TopTwo { second } => self.top_two(token, second),
                Select::SparseMixer { jitter } => self.sparse_mixer(token, jitter),
            }
            let start = self.starts.last().copied().unwrap_or(0);
            self.weights[start..].iter_mut().for_each(|weight| *weight *= spec.scale);
            self.starts.push(self.ids.len());
        }
    }

    /// Lets every expert keep the first tokens that chose it, as many as it takes of this text: first
    /// choices count before second ones, and tokens in their order (arXiv 2006.16668, 2101.03961), or in
    /// that of their highest weights (arXiv 2106.05974, algorithm 2). Other tokens go past it.
    pub fn limit(&mut self, spec: CapacitySpec, scale: f32, experts: usize) {
        let limit = spec.limit.of_text(self.tokens(), experts);
        let mut taken = vec![0_usize; experts];
        let mut kept = vec![false; self.ids.len()];
        let most = (0..self.tokens()).map(|token| self.token(token).0.len()).max().unwrap_or(0);
        let mut order: Vec<usize> = (0..self.tokens()).collect();
        if spec.prioritised {
            let highest = |token: usize| self.token(token).1.iter().copied().fold(0.0, f32::max);
            order.sort_by(|&a, &b| highest(b).total_cmp(&highest(a)));
        }
        for choice in 0..most {
            for &token in &order {
                let at = self.starts[token] + choice;
                if at < self.starts[token + 1] {
                    let taken = &mut taken[self.ids[at] as usize];
                    kept[at] = *taken < limit;
                    *taken += 1;
                }
            }
        }
        let (mut end, mut next) = (0, 0);
        for token in 0..self.starts.len().saturating_sub(1) {
            let range = next..self.starts[token + 1];
            next = range.end;
            self.starts[token] = end;
            let before = end;
            for at in range {
                if kept[at] {
                    (self.ids[end], self.weights[end]) = (self.ids[at], self.weights[at]);
                    end += 1;
                }
            }
            let weights = &mut self.weights[before..end];
            let total: f32 = weights.iter().sum();
            if spec.renormalise && total > 0.0 {
                weights.iter_mut().for_each(|weight| *weight = *weight / total * scale);
            }
        }
        if let Some(last) = self.starts.last_mut() {
            *last = end;
        }
        self.ids.truncate(end);
        self.weights.truncate(end);
    }

    /// Multiplies each weight with the factor of its expert; `scales` is `[experts]`, or empty for none.
    pub fn scale_experts(&mut self, scales: &[f32]) {
        if !scales.is_empty() {
            let weights = self.weights.iter_mut().zip(&self.ids);
            weights.for_each(|(weight, &expert)| *weight *= scales[expert as usize]);
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
        // Logits have the order of the softmax, without its rounding.
        sort_by_score(&mut self.order, logits);
        self.take_best(k, renormalise);
    }

    /// Experts whose share of a softmax is over `eps` times an equal one, at most a given number.
    fn threshold(&mut self, logits: &[f32], (eps, most): (f32, usize), renormalise: bool) {
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        softmax(&mut self.scores);
        sort_by_score(&mut self.order, logits);
        let over = |&expert: &u32| logits.len() as f32 * self.scores[expert as usize] > eps;
        let count = self.order.iter().take(most).take_while(|expert| over(expert)).count();
        self.take_best(count, renormalise);
    }

    /// The best expert, and the second where the rule says so; weights are parts of both.
    fn top_two(&mut self, logits: &[f32], second: Second) {
        self.softmax_top_k(logits, 2, true);
        let part = self.weights.last().copied().unwrap_or(0.0);
        let used = match second {
            Second::Over(least) => part > least,
            Second::Chance { seed } => draw(seed, logits) < 2.0 * part,
        };
        if !used {
            self.ids.pop();
            self.weights.pop();
        }
    }

    /// The first `k` experts in order with their scores.
    fn take_best(&mut self, k: usize, renormalise: bool) {
        let chosen = &self.order[..k];
        let total: f32 =
            if renormalise { chosen.iter().map(|&e| self.scores[e as usize]).sum() } else { 1.0 };
        self.ids.extend_from_slice(chosen);
        self.weights.extend(chosen.iter().map(|&e| self.scores[e as usize] / total));
    }

    /// Choice by score plus bias (arXiv 2412.19437).
    fn scored(&mut self, logits: &[f32], rule: ScoredChoice<'_>) {
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        match rule.scoring {
            Scoring::Softmax => softmax(&mut self.scores),
            Scoring::Sigmoid => self.scores.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
            Scoring::SqrtSoftplus => self.scores.iter_mut().for_each(|x| {
                *x = (x.max(0.0) + (-x.abs()).exp().ln_1p()).sqrt();
            }),
        }
        match rule.listed {
            Some(listed) => {
                self.order.clear();
                self.order.extend(listed.iter().map(|&expert| u32::from(expert)));
            }
            None => self.choose(&rule),
        }
        let chosen = &self.order[..rule.k];
        let score = |&expert: &u32| self.scores[expert as usize];
        let total: f32 = chosen.iter().map(score).sum();
        let divisor = match rule.renormalise {
            Renormalise::No => 1.0,
            Renormalise::Plus(eps) => total + eps,
            Renormalise::AtLeast(least) => total.max(least),
        };
        self.ids.extend_from_slice(chosen);
        self.weights.extend(chosen.iter().map(|expert| score(expert) / divisor));
    }

    /// Puts experts into order by score plus bias, those out of the best groups first.
    fn choose(&mut self, rule: &ScoredChoice<'_>) {
        self.choice.clear();
        self.choice.extend_from_slice(&self.scores);
        self.choice.iter_mut().zip(rule.bias).for_each(|(score, bias)| *score += bias);
        if let Some(groups) = rule.groups {
            keep_best_groups(&mut self.choice, groups, &mut self.groups);
        }
        sort_by_score(&mut self.order, &self.choice);
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

/// All experts in `order`, the highest score first. Ties go to the lower id.
fn sort_by_score(order: &mut Vec<u32>, scores: &[f32]) {
    order.clear();
    order.extend(0..scores.len() as u32);
    order.sort_unstable_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b)));
}

/// Sets the scores of experts outside the best groups to -infinity. `ranked` is scratch.
fn keep_best_groups(scores: &mut [f32], groups: ExpertGroups, ranked: &mut Vec<(f32, u32)>) {
    let size = scores.len() / groups.count;
    let rank = if groups.summed == 1 { highest } else { best_two };
    ranked.clear();
    ranked.extend(scores.chunks_exact(size).zip(0..).map(|(group, number)| (rank(group), number)));
    ranked.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    for &(_, group) in &ranked[groups.kept..] {
        scores[group as usize * size..][..size].fill(f32::NEG_INFINITY);
    }
}

fn highest(values: &[f32]) -> f32 {
    values.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The sum of the two highest values.
fn best_two(values: &[f32]) -> f32 {
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &value in values {
        if value > first {
            (first, second) = (value, first);
        } else if value > second {
            second = value;
        }
    }
    first + second
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

/// A number from 0 up to 1 that a seed and logits decide: SplitMix64 over their bits.
fn draw(seed: u64, logits: &[f32]) -> f32 {
    let mixed = |state: u64, logit: &f32| {
        let state = (state ^ u64::from(logit.to_bits())).wrapping_add(0x9E37_79B9_7F4A_7C15);
        let state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        state ^ (state >> 31)
    };
    (logits.iter().fold(seed, mixed) >> 40) as f32 / (1_u32 << 24) as f32
}

#[cfg(test)]
mod tests {
    use moelten_loader::spec::ExpertLimit;

    use super::*;

    fn route(select: Select, logits: &[f32]) -> (Vec<u32>, Vec<f32>) {
        let mut routing = Routing::default();
        routing.route(
            &RouterSpec {
                bias: false,
                select,
                scale: 1.0,
                listed: false,
                expert_scales: false,
                capacity: None,
            },
            &[],
            logits,
            logits.len(),
            |_| true,
            |_| None,
        );
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

    /// Routes of four tokens with two of three experts each, under a limit.
    fn limited(limit: usize, renormalise: bool) -> Vec<(Vec<u32>, Vec<f32>)> {
        let (select, scale) = (Select::SoftmaxTopK { k: 2, renormalise: true }, 0.5);
        let spec =
            RouterSpec { bias: false, select, scale, listed: false, expert_scales: false, capacity: None };
        // First choices: 0, 0, 0, 1; second ones: 1, 1, 2, 0.
        let logits = [3.0, 2.0, 0.0, 3.0, 2.0, 0.0, 3.0, 0.0, 2.0, 2.0, 3.0, 0.0];
        let mut routing = Routing::default();
        routing.route(&spec, &[], &logits, 3, |_| true, |_| None);
        let capacity = CapacitySpec { limit: ExpertLimit::Tokens(limit), renormalise, prioritised: false };
        routing.limit(capacity, scale, 3);
        (0..4).map(|token| (routing.token(token).0.to_vec(), routing.token(token).1.to_vec())).collect()
    }

    #[test]
    fn experts_over_their_limit_keep_first_choices_in_the_order_of_tokens() {
        let ids = |limit| limited(limit, false).into_iter().map(|(ids, _)| ids).collect::<Vec<_>>();
        assert_eq!(ids(4), [vec![0, 1], vec![0, 1], vec![0, 2], vec![1, 0]]);
        assert_eq!(ids(2), [vec![0, 1], vec![0], vec![2], vec![1]], "second choices go first");
        assert_eq!(ids(1), [vec![0], vec![], vec![2], vec![1]]);
        assert_eq!(ids(0), [vec![], vec![], vec![], vec![0; 0]], "every token goes past");
    }

    #[test]
    fn weights_that_are_left_may_be_divided_by_their_sum() {
        let kept = limited(2, true);
        assert_eq!(kept[1], (vec![0], vec![0.5]), "the factor stays");
        assert!((kept[0].1.iter().sum::<f32>() - 0.5).abs() < 1e-6);
        assert!(limited(2, false)[1].1[0] < 0.5);
    }

    fn scored(groups: Option<ExpertGroups>, renormalise: Renormalise) -> Select {
        Select::Scored { k: 2, scoring: Scoring::Sigmoid, bias: true, groups, renormalise }
    }

    fn route_with_bias(select: Select, bias: &[f32], logits: &[f32]) -> (Vec<u32>, Vec<f32>) {
        let mut routing = Routing::default();
        routing.route(
            &RouterSpec {
                bias: false,
                select,
                scale: 2.0,
                listed: false,
                expert_scales: false,
                capacity: None,
            },
            bias,
            logits,
            logits.len(),
            |_| true,
            |_| None,
        );
        let (ids, weights) = routing.token(0);
        (ids.to_vec(), weights.to_vec())
    }

    #[test]
    fn the_bias_chooses_and_the_score_weighs() {
        let (logits, bias) = ([0.0, 0.0, 0.0, 3.0], [0.0, 0.1, 0.9, 0.0]);
        let (ids, weights) = route_with_bias(scored(None, Renormalise::No), &bias, &logits);
        assert_eq!(ids, [2, 3], "0.5 + 0.9 is above 0.95");
        assert_eq!(weights[0], 2.0 * 0.5);
        let (_, weights) = route_with_bias(scored(None, Renormalise::Plus(1e-20)), &bias, &logits);
        assert!((weights.iter().sum::<f32>() - 2.0).abs() < 1e-6, "the factor comes after the division");
        let (_, weights) = route_with_bias(scored(None, Renormalise::AtLeast(4.0)), &bias, &logits);
        assert_eq!(weights[0], 2.0 * 0.5 / 4.0);
    }

    #[test]
    fn a_threshold_keeps_as_many_experts_as_are_over_it() {
        let threshold = |eps, most| Select::Threshold { eps, most, renormalise: false };
        // Shares of 0.644, 0.237, 0.087 and 0.032; an equal share is 0.25.
        let logits = [1.0, 3.0, 0.0, 2.0];
        assert_eq!(route(threshold(0.9, 4), &logits).0, [1, 3]);
        assert_eq!(route(threshold(0.3, 4), &logits).0, [1, 3, 0]);
        assert_eq!(route(threshold(0.3, 2), &logits).0, [1, 3]);
        assert_eq!(route(threshold(0.999, 4), &[0.0; 4]).0, [0, 1, 2, 3], "equal shares are over it");
        let (_, weights) = route(threshold(0.9, 4), &logits);
        assert!((weights[0] - 0.6439).abs() < 1e-4 && (weights[1] - 0.2369).abs() < 1e-4, "{weights:?}");
    }

    #[test]
    fn the_second_expert_is_used_where_the_rule_says_so() {
        // Parts of both: 0.731 and 0.269.
        let logits = [1.0, 3.0, 0.0, 2.0];
        let two = |second| route(Select::TopTwo { second }, &logits);
        for (second, ids) in [(Second::Over(0.2), &[1, 3][..]), (Second::Over(0.3), &[1])] {
            let (found, weights) = two(second);
            assert_eq!(found, ids);
            assert!((weights[0] - 0.7311).abs() < 1e-4, "parts of both: {weights:?}");
        }
        let used = (0..10_000).filter(|&seed| two(Second::Chance { seed }).0.len() == 2).count();
        assert!((5200..5560).contains(&used), "{used} of 10000, not 5379");
        let again = (0..100).all(|seed| two(Second::Chance { seed }).0 == two(Second::Chance { seed }).0);
        assert!(again, "a seed says what is drawn");
        let equal = [0.5; 4];
        let always = (0..100)
            .all(|seed| route(Select::TopTwo { second: Second::Chance { seed } }, &equal).0.len() == 2);
        assert!(always, "an equal second expert is always used");
    }

    #[test]
    fn listed_experts_are_weighed_by_their_scores() {
        let (scoring, renormalise) = (Scoring::SqrtSoftplus, Renormalise::Plus(1e-20));
        let select = Select::Scored { k: 2, scoring, bias: false, groups: None, renormalise };
        let spec = RouterSpec {
            bias: false,
            select,
            scale: 1.5,
            listed: true,
            expert_scales: false,
            capacity: None,
        };
        let mut routing = Routing::default();
        let logits = [0.5, -40.0, 2.0, 60.0];
        routing.route(&spec, &[], &logits, 4, |_| true, |_| Some(&[2, 0]));
        let (ids, weights) = routing.token(0);
        assert_eq!(ids, [2, 0], "the order of the list, and not the best");
        let score = |x: f32| x.exp().ln_1p().sqrt();
        let expected = [2.0, 0.5].map(|x| 1.5 * score(x) / (score(2.0) + score(0.5)));
        assert!(weights.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{weights:?}");
        routing.route(&spec, &[], &logits, 4, |_| true, |_| Some(&[3, 1]));
        let weights = routing.token(0).1;
        assert!((weights[0] - 1.5).abs() < 1e-6 && weights[1] >= 0.0, "{weights:?}");
    }

    #[test]
    fn groups_count_as_often_as_they_have_experts() {
        let logits = [0.0, 2.0, -1.0, 3.0, 2.5, -2.0];
        let mut routing = Routing::default();
        let select = Select::SoftmaxTopK { k: 3, renormalise: false };
        let spec = RouterSpec {
            bias: false,
            select,
            scale: 5.0,
            listed: false,
            expert_scales: false,
            capacity: None,
        };
        let both = [logits, logits].concat();
        routing.route(&spec, &[], &both, 6, |token| token == 1, |_| None);
        assert_eq!(routing.token(1).0, [3, 4, 1]);
        routing.choose_groups(2, 3, &both, 6);
        assert!(routing.token(0).0.is_empty());
        let (ids, weights) = routing.token(1);
        assert_eq!(ids, [1, 2, 0]);
        // Of groups 1, 2 and 0: the softmax of experts 1, 2 and 0.
        let powers: Vec<f32> = [2.0_f32, -1.0, 0.0].iter().map(|x| x.exp()).collect();
        let total: f32 = powers.iter().sum();
        for (weight, power) in weights.iter().zip(powers) {
            assert!((weight - power / total).abs() < 1e-6, "{weights:?}");
        }
        // Experts 3 and 1 are in one group of four, expert 4 in the other.
        routing.route(&spec, &[], &logits, 6, |_| true, |_| None);
        routing.choose_groups(4, 2, &logits, 6);
        let (ids, weights) = routing.token(0);
        assert_eq!(ids, [0, 1]);
        assert!((weights[0] - 1.0 / (1.0 + 2.0_f32.exp())).abs() < 1e-6, "{weights:?}");
        routing.route(&spec, &[], &logits, 6, |_| true, |_| None);
        routing.choose_groups(6, 3, &logits, 6);
        assert_eq!(routing.token(0), (&[0][..], &[1.0][..]));
    }

    #[test]
    fn experts_come_from_the_groups_with_the_best_two() {
        // The best expert is alone in its group; the other group has two good ones.
        let logits = [4.0, -9.0, -9.0, 2.0, 2.0, -9.0];
        let groups = |kept| Some(ExpertGroups { count: 2, kept, summed: 2 });
        let route = |kept| route_with_bias(scored(groups(kept), Renormalise::No), &[0.0; 6], &logits).0;
        assert_eq!(route(1), [3, 4]);
        assert_eq!(route(2), [0, 3]);
        // The bias counts for groups, too.
        let bias = [0.0, 0.9, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(route_with_bias(scored(groups(1), Renormalise::No), &bias, &logits).0, [0, 1]);
    }
}
