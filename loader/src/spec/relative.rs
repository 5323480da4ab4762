//! Positions by distance, as data. It must not know layers.

use super::single::{small, whole};

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
}
