//! Measures of a model's predictions: perplexity, and the divergence from another model. Pure arithmetic on
//! logits, in double precision. It must not know where the logits come from.

/// Logarithm of the sum of the exponentials of `logits`.
fn log_sum(logits: &[f32]) -> f64 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&logit| f64::from(logit - highest).exp()).sum();
    total.ln() + f64::from(highest)
}

/// `-ln p(next)` under the softmax of `logits`.
pub fn negative_log_likelihood(logits: &[f32], next: u32) -> f64 {
    log_sum(logits) - f64::from(logits[next as usize])
}

/// Running mean and variance of numbers.
#[derive(Debug, Default, Clone, Copy)]
pub struct Spread {
    count: u64,
    total: f64,
    squares: f64,
}

impl Spread {
    /// Adds a number.
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        self.total += value;
        self.squares += value * value;
    }

    /// Count of numbers added.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The mean and its standard error.
    pub fn mean(&self) -> Estimate {
        let count = self.count as f64;
        let mean = self.total / count;
        let variance = (self.squares / count - mean * mean).max(0.0);
        Estimate { value: mean, error: (variance / count).sqrt() }
    }

    /// The exponential of the mean, and its standard error: perplexity, if the numbers are negative log
    /// likelihoods.
    pub fn exp_mean(&self) -> Estimate {
        let Estimate { value, error } = self.mean();
        Estimate { value: value.exp(), error: value.exp() * error }
    }
}

/// A figure and its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The estimated value.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

/// The divergence of a model from a reference, on the same tokens.
#[derive(Debug, Default)]
pub struct Divergence {
    /// Kullback-Leibler divergence of each token's prediction, in nats.
    each: Vec<f64>,
    kl: Spread,
    /// Differences of negative log likelihoods.
    ratio: Spread,
    same: u64,
}

impl Divergence {
    /// Empty, with capacity for this many tokens.
    pub fn with_capacity(tokens: usize) -> Self {
        Self { each: Vec::with_capacity(tokens), ..Self::default() }
    }

    /// Bytes that [`Self::with_capacity`] allocates.
    pub fn bytes_for(tokens: usize) -> u64 {
        (tokens * size_of::<f64>()) as u64
    }

    /// Adds one prediction: `logits` against the reference `other`; `next` is the token that follows.
    pub fn add(&mut self, logits: &[f32], other: &[f32], next: u32) {
        let (sum, other_sum) = (log_sum(logits), log_sum(other));
        let mut kl = 0.0;
        for (&logit, &other) in logits.iter().zip(other) {
            let log = f64::from(other) - other_sum;
            kl += log.exp() * (log - (f64::from(logit) - sum));
        }
        // Below 0 only by rounding.
        let kl = if kl.is_nan() { kl } else { kl.max(0.0) };
        self.each.push(kl);
        self.kl.add(kl);
        let nll = |logits: &[f32], sum: f64| sum - f64::from(logits[next as usize]);
        self.ratio.add(nll(logits, sum) - nll(other, other_sum));
        self.same += u64::from(first(logits) == first(other));
    }

    /// Mean divergence in nats.
    pub fn kl(&self) -> Estimate {
        self.kl.mean()
    }

    /// Quantiles of the divergence per token, for shares of 0 to 1. Sorts the values.
    pub fn quantiles<const N: usize>(&mut self, shares: [f64; N]) -> [f64; N] {
        self.each.sort_unstable_by(f64::total_cmp);
        let last = self.each.len() - 1;
        shares.map(|share| {
            self.each[((share * self.each.len() as f64).ceil() as usize).saturating_sub(1).min(last)]
        })
    }

    /// Perplexity divided by the reference's. Its error is smaller than those of the two, because the same
    /// tokens are hard for both.
    pub fn ratio(&self) -> Estimate {
        self.ratio.exp_mean()
    }

    /// Share of tokens whose most likely token is the same for both.
    pub fn agreement(&self) -> Estimate {
        let count = self.each.len() as f64;
        let share = self.same as f64 / count;
        Estimate { value: share, error: (share * (1.0 - share) / count).sqrt() }
    }
}

/// The most likely token; the first of equal ones.
fn first(logits: &[f32]) -> usize {
    let mut best = 0;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = id;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-7
    }

    #[test]
    fn an_even_guess_over_n_tokens_has_perplexity_n() {
        let mut sum = Spread::default();
        for next in 0..8 {
            sum.add(negative_log_likelihood(&[1.5; 8], next));
        }
        let Estimate { value, error } = sum.exp_mean();
        assert!(close(value, 8.0) && error < 1e-6);
    }

    #[test]
    fn divergence_matches_a_calculation_by_hand() {
        // Probabilities 1/2, 1/4, 1/4 and 1/4, 1/2, 1/4, whatever is added to the logits.
        let ln = |x: f32| x.ln();
        let (truth, model) = ([ln(2.0), 0.0, 0.0], [ln(8.0), ln(16.0), ln(8.0)]);
        let mut divergence = Divergence::default();
        divergence.add(&model, &truth, 0);
        // 1/2 ln(1/2 : 1/4) + 1/4 ln(1/4 : 1/2) = 1/4 ln 2.
        assert!(close(divergence.kl().value, 0.25 * 2.0_f64.ln()));
        assert_eq!(divergence.agreement().value, 0.0);
        // The right token is half as likely: twice the perplexity.
        assert!(close(divergence.ratio().value, 2.0));
        divergence.add(&truth, &truth, 1);
        assert!(close(divergence.kl().value, 0.125 * 2.0_f64.ln()));
        assert_eq!(divergence.agreement(), Estimate { value: 0.5, error: (0.25_f64 / 2.0).sqrt() });
        // Two numbers 0 and x: a standard deviation of x / 2.
        assert!(close(divergence.kl().error, 0.125 * 2.0_f64.ln() / 2.0_f64.sqrt()));
    }

    #[test]
    fn nothing_differs_from_itself() {
        let logits: Vec<f32> = (0..1000).map(|id| (id as f32 * 0.37).sin() * 30.0).collect();
        let mut divergence = Divergence::default();
        (0..3).for_each(|next| divergence.add(&logits, &logits, next));
        assert_eq!(divergence.kl(), Estimate { value: 0.0, error: 0.0 });
        assert_eq!(divergence.ratio(), Estimate { value: 1.0, error: 0.0 });
        assert_eq!(divergence.agreement(), Estimate { value: 1.0, error: 0.0 });
        assert_eq!(divergence.quantiles([0.5, 1.0]), [0.0; 2]);
    }

    #[test]
    fn quantiles_are_of_the_tokens() {
        let mut divergence =
            Divergence { each: (1..=100).rev().map(f64::from).collect(), ..Divergence::default() };
        assert_eq!(divergence.quantiles([0.0, 0.5, 0.99, 1.0]), [1.0, 50.0, 99.0, 100.0]);
    }
}
