//! Rotary position embedding (arXiv 2104.09864). The frequencies are fixed when a sequence begins. Sines and
//! cosines of the positions of a batch are computed once and shared by all layers with the same rope. It must
//! not know attention.

use moelten_loader::spec::{Pairing, RopeSpec};

/// The rope of a sequence, with the frequencies for its context.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Radians per position, `[dim / 2]`.
    frequencies: Vec<f32>,
    /// Factor on rotated queries and keys.
    magnitude: f32,
}

/// Cosines and sines for the positions of a batch under one rope of the model, `[tokens, dim / 2]` each.
#[derive(Debug, Clone)]
pub struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
    pairing: Pairing,
}

impl Rope {
    /// The rope for a context of `context` tokens, which decides about the frequencies of LongRoPE.
    pub fn new(spec: &RopeSpec, context: usize) -> Self {
        let frequencies = spec.frequencies(context).into_iter().map(|f| f as f32).collect();
        Self { frequencies, magnitude: spec.magnitude(context) }
    }

    /// Appends the angles of positions `first..first + tokens` to `out`.
    pub fn angles(&self, first: usize, tokens: usize, out: &mut Angles) {
        for position in first..first + tokens {
            for &frequency in &self.frequencies {
                let (sin, cos) = (position as f32 * frequency).sin_cos();
                out.cos.push(cos * self.magnitude);
                out.sin.push(sin * self.magnitude);
            }
        }
    }
}

impl Angles {
    /// An empty list with room for `tokens` positions, so that decode never allocates.
    pub fn with_capacity(spec: &RopeSpec, tokens: usize) -> Self {
        let half = spec.dim / 2;
        let numbers = || Vec::with_capacity(tokens * half);
        Self { cos: numbers(), sin: numbers(), half, pairing: spec.pairing }
    }

    /// Removes the positions of the last batch.
    pub fn clear(&mut self) {
        self.cos.clear();
        self.sin.clear();
    }

    /// Makes it an empty list of the angles of a rope with as many dimensions at most.
    pub fn restart(&mut self, spec: &RopeSpec) {
        self.clear();
        (self.half, self.pairing) = (spec.dim / 2, spec.pairing);
    }

    /// Numbers that there is room for.
    pub fn capacity(&self) -> usize {
        self.cos.capacity() + self.sin.capacity()
    }

    /// Rotates `heads`, `[heads, head_dim]`, by the position of token `token` of the batch.
    pub fn rotate(&self, heads: &mut [f32], head_dim: usize, token: usize) {
        self.turn(heads, head_dim, token, |sin| sin);
    }

    /// As [`Self::rotate`], the other way round.
    pub fn rotate_back(&self, heads: &mut [f32], head_dim: usize, token: usize) {
        self.turn(heads, head_dim, token, |sin| -sin);
    }

    fn turn(&self, heads: &mut [f32], head_dim: usize, token: usize, way: impl Fn(f32) -> f32) {
        let half = self.half;
        let cos = &self.cos[token * half..][..half];
        let sin = &self.sin[token * half..][..half];
        for head in heads.chunks_exact_mut(head_dim) {
            match self.pairing {
                Pairing::Split => {
                    let (a, b) = head[..2 * half].split_at_mut(half);
                    for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                        let sin = way(*sin);
                        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                    }
                }
                Pairing::Adjacent => {
                    for ((pair, cos), sin) in head[..2 * half].chunks_exact_mut(2).zip(cos).zip(sin) {
                        let sin = way(*sin);
                        (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use moelten_loader::spec::RopeScaling;

    use super::*;

    fn spec(pairing: Pairing, scaling: RopeScaling) -> RopeSpec {
        RopeSpec { theta: 10_000.0, dim: 8, pairing, scaling }
    }

    fn rotated(rope: &RopeSpec, position: usize, head: &[f32]) -> Vec<f32> {
        let mut angles = Angles::with_capacity(rope, 1);
        Rope::new(rope, 64).angles(position, 1, &mut angles);
        let mut head = head.to_vec();
        angles.rotate(&mut head, 8, 0);
        head
    }

    #[test]
    fn position_zero_changes_nothing_and_rotation_keeps_lengths() {
        let rope = spec(Pairing::Split, RopeScaling::None);
        let head = [1.0, -2.0, 3.0, 0.5, 0.25, 4.0, -1.0, 2.0];
        assert_eq!(rotated(&rope, 0, &head), head);
        let turned = rotated(&rope, 37, &head);
        let norm = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>();
        assert!((norm(&turned) - norm(&head)).abs() < 1e-4);
        assert_ne!(turned, head);
    }

    #[test]
    fn rotating_back_undoes_a_rotation() {
        for pairing in [Pairing::Split, Pairing::Adjacent] {
            let rope = spec(pairing, RopeScaling::None);
            let mut angles = Angles::with_capacity(&rope, 1);
            Rope::new(&rope, 64).angles(37, 1, &mut angles);
            let head = [1.0, -2.0, 3.0, 0.5, 0.25, 4.0, -1.0, 2.0];
            let mut turned = head;
            angles.rotate(&mut turned, 8, 0);
            angles.rotate_back(&mut turned, 8, 0);
            assert!(turned.iter().zip(head).all(|(a, b)| (a - b).abs() < 1e-5), "{turned:?}");
        }
    }

    #[test]
    fn scores_depend_on_distance_only() {
        let rope = spec(Pairing::Adjacent, RopeScaling::None);
        let q = [0.3, -1.0, 0.7, 2.0, 1.0, 0.1, -0.4, 0.9];
        let k = [1.0, 0.5, -0.2, 0.8, -1.5, 0.3, 0.6, 0.2];
        let score = |a: usize, b: usize| {
            rotated(&rope, a, &q).iter().zip(rotated(&rope, b, &k)).map(|(x, y)| x * y).sum::<f32>()
        };
        assert!((score(5, 2) - score(25, 22)).abs() < 1e-4);
        assert!((score(5, 2) - score(5, 4)).abs() > 1e-3);
    }

    #[test]
    fn pairings_are_the_same_rotation_in_two_orders() {
        let split = spec(Pairing::Split, RopeScaling::None);
        let adjacent = spec(Pairing::Adjacent, RopeScaling::None);
        let head = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let interleave = |h: &[f32]| (0..4).flat_map(|i| [h[i], h[i + 4]]).collect::<Vec<_>>();
        assert_eq!(interleave(&rotated(&split, 9, &head)), rotated(&adjacent, 9, &interleave(&head)));
    }

    #[test]
    fn long_rope_selects_divisors_by_context() {
        let scaling = RopeScaling::LongRope {
            short: vec![1.0; 4],
            long: vec![4.0; 4],
            original_context: 32,
            short_factor: 1.0,
            long_factor: 1.5,
        };
        let spec = spec(Pairing::Split, scaling);
        let (short, long) = (Rope::new(&spec, 32), Rope::new(&spec, 33));
        assert_eq!(short.frequencies[0], 4.0 * long.frequencies[0]);
        assert_eq!((short.magnitude, long.magnitude), (1.0, 1.5));
    }
}
