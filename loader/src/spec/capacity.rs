//! How many tokens experts take, as data. It must not know how they are chosen.

use super::single::{small, whole};

/// How many tokens of a text an expert takes: tokens over it go past the expert. Transformers counts them
/// for each text that an encoder reads; a decoder computes token by token, where it never binds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CapacitySpec {
    /// The number.
    pub limit: ExpertLimit,
    /// Whether the weights that a token keeps are divided by their sum afterwards.
    pub renormalise: bool,
    /// Whether tokens count in the order of their highest weight, and not in that of the text (batch
    /// prioritised routing, arXiv 2106.05974).
    pub prioritised: bool,
}

/// A number of tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ExpertLimit {
    /// This many (Switch-Transformer's `expert_capacity`).
    Tokens(usize),
    /// This part of the text, rounded up (NLLB's `moe_eval_capacity_token_fraction`).
    Part(f32),
    /// This many times the share of each expert if all had as many, rounded up: the capacity factor of the
    /// papers (arXiv 2006.16668, 2101.03961, 2202.08906).
    Factor(usize),
    /// This many times the places of all tokens over the experts, rounded to the nearest (arXiv 2106.05974).
    Share {
        /// The capacity factor.
        factor: f32,
        /// Experts, and so places, of a token.
        k: usize,
    },
}

impl ExpertLimit {
    /// Tokens that an expert takes of a text of `tokens` tokens.
    pub fn of_text(self, tokens: usize, experts: usize) -> usize {
        match self {
            Self::Tokens(count) => count,
            Self::Part(part) => whole((part * small(tokens)).ceil()),
            Self::Factor(factor) => factor * tokens.div_ceil(experts),
            Self::Share { factor, k } => whole((factor * small(k) * small(tokens) / small(experts)).round()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_counted_for_a_text() {
        assert_eq!(ExpertLimit::Tokens(64).of_text(10, 8), 64);
        assert_eq!(ExpertLimit::Part(0.5).of_text(11, 8), 6);
        assert_eq!(ExpertLimit::Part(1.0).of_text(40, 6), 40);
        assert_eq!(ExpertLimit::Factor(2).of_text(17, 8), 6);
        assert_eq!(ExpertLimit::Share { factor: 0.75, k: 2 }.of_text(17, 8), 3);
    }
}
