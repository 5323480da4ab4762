//! Encoders, and how positions are told without ropes, as data. It must not know layers.

/// The encoder of a model: the first of its layers, in which every token of a text sees every other. The
/// decoder attends to what it makes of the text (arXiv 1706.03762).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EncoderSpec {
    /// How many of the model's layers are the encoder's.
    pub layers: usize,
    /// Norm of what they give.
    pub final_norm: super::NormSpec,
    /// The token that every text of the decoder begins with.
    pub start: u32,
    /// What people use the model for.
    pub purpose: Purpose,
}

/// What an encoder-decoder was trained to do, as far as its commands differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Text to text: the text itself says what to do, or has gaps to be filled.
    TextToText,
    /// Filling gaps of a text, and nothing else.
    Gaps,
    /// Translation between languages that tokens of the vocabulary name.
    Translation,
}

/// Sinusoidal positions (arXiv 1706.03762), the sines before the cosines: number `i` of each half turns with
/// `(position + offset) * 10000^(-i / (width / 2 - 1))`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinusoidSpec {
    /// Added to positions.
    pub offset: usize,
}

/// A learned number for each head that is added to scores by the distance of the two tokens (T5, arXiv
/// 1910.10683). Distances share numbers in buckets: near ones have one each, farther ones have buckets whose
/// width grows with the logarithm of the distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelativeSpec {
    /// Numbers of a head.
    pub buckets: usize,
    /// The distance from which all share the last bucket.
    pub reach: usize,
    /// Whether half of the buckets are for tokens that come later.
    pub both_ways: bool,
    /// The layer whose numbers they are: its own, or the first of its stack.
    pub of_layer: usize,
}

impl RelativeSpec {
    /// The bucket of a token that stands `after` tokens later (earlier, if negative), as transformers
    /// computes it in single precision.
    pub fn bucket(&self, after: isize) -> usize {
        let (buckets, first) = match self.both_ways {
            true if after > 0 => (self.buckets / 2, self.buckets / 2),
            true => (self.buckets / 2, 0),
            false => (self.buckets, 0),
        };
        let distance = match self.both_ways {
            true => after.unsigned_abs(),
            false => after.min(0).unsigned_abs(),
        };
        let exact = buckets / 2;
        if distance < exact {
            return first + distance;
        }
        let logarithm = |a: usize, b: usize| (small(a) / small(b)).ln();
        let part = logarithm(distance, exact) / logarithm(self.reach, exact) * small(buckets - exact);
        first + (exact + whole(part)).min(buckets - 1)
    }
}

/// Distances and buckets are bounded far below what single precision holds.
#[allow(clippy::cast_precision_loss, reason = "see above")]
fn small(value: usize) -> f32 {
    value as f32
}

/// The whole part of a number; saturates.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
fn whole(value: f32) -> usize {
    value.max(0.0) as usize
}

/// How many tokens of a text an expert takes: tokens over it go past the expert. Transformers counts them
/// for each text that an encoder reads; a decoder computes token by token, where it never binds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CapacitySpec {
    /// The number.
    pub limit: ExpertLimit,
    /// Whether the weights that a token keeps are divided by their sum afterwards.
    pub renormalise: bool,
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
}

impl ExpertLimit {
    /// Tokens that an expert takes of a text of `tokens` tokens.
    pub fn of_text(self, tokens: usize, experts: usize) -> usize {
        match self {
            Self::Tokens(count) => count,
            Self::Part(part) => whole((part * small(tokens)).ceil()),
            Self::Factor(factor) => factor * tokens.div_ceil(experts),
        }
    }
}

impl super::ModelSpec {
    /// Sets how many tokens of a text the experts of the encoder take, all that choose them if `None`; false
    /// if it has no experts.
    pub fn set_capacity(&mut self, limit: Option<ExpertLimit>) -> bool {
        let encoder = self.encoder.map_or(0, |encoder| encoder.layers);
        let branches = self.layers.iter_mut().take(encoder).flat_map(|layer| &mut layer.branches);
        let mut found = false;
        for branch in branches {
            let super::Op::Moe(moe) = &mut branch.op else { continue };
            found = true;
            let renormalises = match &moe.router.select {
                super::Select::SoftmaxTopK { renormalise, .. }
                | super::Select::Threshold { renormalise, .. } => *renormalise,
                _ => false,
            };
            let renormalise = moe.router.capacity.map_or(renormalises, |capacity| capacity.renormalise);
            moe.router.capacity = limit.map(|limit| CapacitySpec { limit, renormalise });
        }
        found
    }

    /// How many tokens of a text an expert of the encoder takes; `None` without experts or a limit.
    pub fn capacity(&self) -> Option<ExpertLimit> {
        let moes = self.layers.iter().filter_map(super::LayerSpec::moe);
        moes.filter_map(|moe| moe.router.capacity).map(|capacity| capacity.limit).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Buckets that transformers' `_relative_position_bucket` gives.
    #[test]
    fn buckets_are_those_of_transformers() {
        let spec = RelativeSpec { buckets: 32, reach: 128, both_ways: true, of_layer: 0 };
        let got: Vec<usize> = BOTH.iter().map(|&(after, _)| spec.bucket(after)).collect();
        assert_eq!(got, BOTH.map(|(_, bucket)| bucket));
        let spec = RelativeSpec { both_ways: false, ..spec };
        let got: Vec<usize> = PAST.iter().map(|&(after, _)| spec.bucket(after)).collect();
        assert_eq!(got, PAST.map(|(_, bucket)| bucket));
    }

    const BOTH: [(isize, usize); 12] = [
        (0, 0),
        (1, 17),
        (-1, 1),
        (-7, 7),
        (-8, 8),
        (-12, 9),
        (12, 25),
        (-64, 14),
        (-127, 15),
        (-128, 15),
        (128, 31),
        (5000, 31),
    ];
    const PAST: [(isize, usize); 8] =
        [(0, 0), (3, 0), (-1, 1), (-15, 15), (-16, 16), (-40, 23), (-127, 31), (-128, 31)];

    #[test]
    fn limits_are_counted_for_a_text() {
        assert_eq!(ExpertLimit::Tokens(64).of_text(10, 8), 64);
        assert_eq!(ExpertLimit::Part(0.5).of_text(11, 8), 6);
        assert_eq!(ExpertLimit::Part(1.0).of_text(40, 6), 40);
        assert_eq!(ExpertLimit::Factor(2).of_text(17, 8), 6);
    }
}
