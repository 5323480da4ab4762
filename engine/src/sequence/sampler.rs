//! From logits to a token: repetition penalty, temperature, top-k, top-p, min-p, in that order (the order of
//! Hugging Face generation configurations, which carry the models' recommended values). Greedy decoding is
//! exact; sampling is repeatable for a seed. It must not know text.

use crate::error::{EngineError, Result};

/// Sampling settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Only the `k` most likely tokens; 0 is off.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability (arXiv 1904.09751); 1 is off.
    pub top_p: f32,
    /// Only tokens at least this fraction as likely as the best (arXiv 2407.01082); 0 is off.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens (arXiv 1909.05858); 1 is off.
    pub repetition_penalty: f32,
    /// How many recent tokens the penalty looks at.
    pub repetition_window: usize,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Default for SamplerParams {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repetition_penalty: 1.0,
            repetition_window: 64,
            seed: 0,
        }
    }
}

impl SamplerParams {
    /// Refuses settings that mean nothing.
    ///
    /// # Errors
    /// [`EngineError::Setting`].
    pub fn validate(&self) -> Result<()> {
        let rules: [(&'static str, f32, bool, &'static str); 4] = [
            ("temperature", self.temperature, (0.0..=100.0).contains(&self.temperature), "between 0 and 100"),
            ("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1"),
            ("min-p", self.min_p, (0.0..1.0).contains(&self.min_p), "at least 0 and below 1"),
            (
                "repetition penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0 && self.repetition_penalty <= 100.0,
                "above 0 and at most 100",
            ),
        ];
        for (setting, value, ok, must) in rules {
            if !ok {
                return Err(EngineError::Setting { setting, found: value.to_string(), must });
            }
        }
        Ok(())
    }
}

/// Draws tokens. Buffers are sized once for a vocabulary.
pub struct Sampler {
    params: SamplerParams,
    random: SplitMix64,
    /// `(logit, id)` of the tokens still in play.
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler for logits `[vocab]`.
    ///
    /// # Errors
    /// [`EngineError::Setting`].
    pub fn new(params: SamplerParams, vocab: usize) -> Result<Self> {
        params.validate()?;
        Ok(Self { params, random: SplitMix64(params.seed), candidates: Vec::with_capacity(vocab) })
    }

    /// The next token after `recent`. `None` if every logit is NaN.
    pub fn sample(&mut self, logits: &[f32], recent: &[u32]) -> Option<u32> {
        self.candidates.clear();
        let finite = logits.iter().zip(0..).filter(|(logit, _)| !logit.is_nan());
        self.candidates.extend(finite.map(|(&logit, id)| (logit, id)));
        self.penalise(recent);
        if self.params.temperature == 0.0 {
            return self
                .candidates
                .iter()
                .copied()
                .reduce(|a, b| if b.0 > a.0 { b } else { a })
                .map(|(_, id)| id);
        }
        // Relative to the best, so that a tiny temperature makes the others unlikely instead of everything
        // infinite.
        let best = self.candidates.iter().map(|&(logit, _)| logit).reduce(f32::max)?;
        self.candidates.iter_mut().for_each(|(logit, _)| *logit = (*logit - best) / self.params.temperature);
        self.keep_likely();
        self.draw()
    }

    /// Each distinct token of the recent window is penalised once.
    fn penalise(&mut self, recent: &[u32]) {
        let penalty = self.params.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        let window = &recent[recent.len().saturating_sub(self.params.repetition_window)..];
        for (position, &id) in window.iter().enumerate() {
            if window[..position].contains(&id) {
                continue;
            }
            // Candidates are ascending by id here, with gaps only where logits were NaN.
            if let Ok(index) = self.candidates.binary_search_by_key(&id, |&(_, id)| id) {
                let logit = &mut self.candidates[index].0;
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    /// Sorts the candidates that survive top-k, top-p and min-p to the front and drops the others.
    fn keep_likely(&mut self) {
        let SamplerParams { top_k, top_p, min_p, .. } = self.params;
        let Some(best) = self.candidates.iter().map(|&(logit, _)| logit).reduce(f32::max) else { return };
        let mut keep = if top_k == 0 { self.candidates.len() } else { top_k.min(self.candidates.len()) };
        if keep < self.candidates.len() {
            self.candidates.select_nth_unstable_by(keep - 1, by_likelihood);
            self.candidates.truncate(keep);
        }
        // Sorted in growing steps: top-p rarely needs more than a few hundred of a large vocabulary.
        let total: f32 = self.candidates.iter().map(|&(logit, _)| (logit - best).exp()).sum();
        let (mut sorted, mut step, mut reached) = (0, 256, 0.0);
        while sorted < keep {
            let end = (sorted + step).min(keep);
            let rest = &mut self.candidates[sorted..];
            if end - sorted < rest.len() {
                rest.select_nth_unstable_by(end - sorted - 1, by_likelihood);
            }
            rest[..end - sorted].sort_unstable_by(by_likelihood);
            for index in sorted..end {
                let likelihood = (self.candidates[index].0 - best).exp();
                if reached >= top_p * total || likelihood < min_p {
                    keep = index.max(1);
                    break;
                }
                reached += likelihood;
            }
            (sorted, step) = (end, step * 4);
        }
        self.candidates.truncate(keep);
    }

    /// Draws from the softmax over the candidates.
    fn draw(&mut self) -> Option<u32> {
        let best = self.candidates.first()?.0;
        let total: f32 = self.candidates.iter().map(|&(logit, _)| (logit - best).exp()).sum();
        let mut left = self.random.unit() * total;
        for &(logit, id) in &self.candidates {
            left -= (logit - best).exp();
            if left < 0.0 {
                return Some(id);
            }
        }
        self.candidates.last().map(|&(_, id)| id)
    }
}

/// Likelier first, ties to the lower id.
fn by_likelihood(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): small, fast, and the same on every machine.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`, 24 bits.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(params: SamplerParams) -> Sampler {
        Sampler::new(params, 8).unwrap()
    }

    fn open() -> SamplerParams {
        SamplerParams { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplerParams::default() }
    }

    fn seen(params: SamplerParams, logits: &[f32]) -> Vec<u32> {
        let mut sampler = sampler(params);
        let mut seen: Vec<_> = (0..2000).filter_map(|_| sampler.sample(logits, &[])).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    }

    #[test]
    fn greedy_takes_the_best_and_the_lower_id_of_equals() {
        let mut s = sampler(SamplerParams { temperature: 0.0, ..open() });
        assert_eq!(s.sample(&[0.5, 2.0, -1.0, 2.0], &[]), Some(1));
        assert_eq!(s.sample(&[f32::NAN, -5.0, f32::NAN], &[]), Some(1));
        assert_eq!(s.sample(&[f32::NAN; 3], &[]), None);
    }

    #[test]
    fn a_tiny_temperature_is_greedy() {
        for temperature in [1e-3, 1e-30, f32::MIN_POSITIVE, 1e-45] {
            assert_eq!(seen(SamplerParams { temperature, ..open() }, &[3.0, -40.0, 9.0, 8.9]), [2]);
        }
    }

    #[test]
    fn cuts_keep_exactly_the_likely_tokens() {
        let logits = [0.0, 3.0, 1.0, 2.9, -2.0, 0.5];
        assert_eq!(seen(SamplerParams { top_k: 2, ..open() }, &logits), [1, 3]);
        assert_eq!(seen(SamplerParams { top_p: 0.5, ..open() }, &logits), [1, 3]);
        assert_eq!(seen(SamplerParams { top_p: 0.1, ..open() }, &logits), [1]);
        assert_eq!(seen(SamplerParams { min_p: 0.1, ..open() }, &logits), [1, 2, 3]);
        assert_eq!(seen(open(), &logits), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn long_tails_are_cut_as_a_full_sort_would() {
        let logits: Vec<f32> = (0..5000).map(|i| ((i * 7919) % 5000) as f32 / 2500.0).collect();
        let mut s = Sampler::new(SamplerParams { top_p: 0.7, ..open() }, 5000).unwrap();
        s.candidates.extend(logits.iter().copied().zip(0..));
        s.keep_likely();
        let mut all: Vec<_> = logits.iter().copied().zip(0..).collect();
        all.sort_by(by_likelihood);
        let total: f32 = all.iter().map(|(l, _)| (l - all[0].0).exp()).sum();
        let mut reached = 0.0;
        let expected: Vec<_> = all
            .iter()
            .take_while(|(l, _)| {
                let before = reached;
                reached += (l - all[0].0).exp();
                before < 0.7 * total
            })
            .copied()
            .collect();
        assert!(s.candidates.len().abs_diff(expected.len()) <= 1, "sums differ in their last bits at most");
        assert!(s.candidates.iter().zip(&expected).all(|(a, b)| a == b));
    }

    #[test]
    fn frequencies_follow_the_softmax_and_seeds_repeat() {
        let logits = [0.0, 1.0, 2.0];
        let draw = |seed| {
            let mut s = sampler(SamplerParams { seed, ..open() });
            (0..20_000).map(|_| s.sample(&logits, &[]).unwrap()).collect::<Vec<_>>()
        };
        let drawn = draw(7);
        assert_eq!(drawn, draw(7));
        assert_ne!(drawn, draw(8));
        let share = drawn.iter().filter(|&&id| id == 2).count() as f32 / 20_000.0;
        assert!((share - 0.6652).abs() < 0.015, "{share}");
    }

    #[test]
    fn the_penalty_looks_at_the_window_only() {
        let params = SamplerParams {
            temperature: 0.0,
            repetition_penalty: 2.0,
            repetition_window: 2,
            ..SamplerParams::default()
        };
        let mut s = sampler(params);
        assert_eq!(s.sample(&[3.0, 2.0, -1.0], &[0, 2]), Some(1));
        assert_eq!(s.sample(&[3.0, 2.0, -1.0], &[0, 2, 2]), Some(0));
    }

    #[test]
    fn nonsense_is_refused() {
        for params in [
            SamplerParams { temperature: f32::NAN, ..open() },
            SamplerParams { temperature: -1.0, ..open() },
            SamplerParams { top_p: 0.0, ..open() },
            SamplerParams { min_p: 1.0, ..open() },
            SamplerParams { repetition_penalty: 0.0, ..open() },
        ] {
            assert!(matches!(params.validate(), Err(EngineError::Setting { .. })), "{params:?}");
        }
    }
}
