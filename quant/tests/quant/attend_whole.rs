//! Attention in which every token sees a whole text, and scores to which distances add: every tier against
//! double precision.

use moelten_quant::{Attend, DistanceBias, KEY_GROUP, KvHead, Running, SPAN};

use crate::common::{Rng, bits, tiers};

const WIDTH: usize = 24;
const REACH: usize = 9;

/// Keys, values and queries of one head, with `group` queries for each of `tokens` tokens.
struct Case {
    positions: usize,
    group: usize,
    tokens: usize,
    first: usize,
    whole: bool,
    keys: Vec<f32>,
    grouped: Vec<f32>,
    values: Vec<f32>,
    queries: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(
        (positions, group, tokens, first): (usize, usize, usize, usize),
        whole: bool,
        rng: &mut Rng,
    ) -> Self {
        let keys = rng.floats(positions * WIDTH);
        let mut grouped = vec![0.0; positions.next_multiple_of(KEY_GROUP) * WIDTH];
        for (i, &key) in keys.iter().enumerate() {
            let (position, dim) = (i / WIDTH, i % WIDTH);
            grouped[position / KEY_GROUP * KEY_GROUP * WIDTH + dim * KEY_GROUP + position % KEY_GROUP] = key;
        }
        let (values, queries) = (rng.floats(positions * WIDTH), rng.floats(tokens * group * WIDTH));
        let bias = rng.floats(group * (2 * REACH + 1));
        Self { positions, group, tokens, first, whole, keys, grouped, values, queries, bias }
    }

    fn task(&self, bias: bool) -> Attend<'_> {
        let seen = if self.whole { self.positions } else { self.first + self.tokens };
        Attend {
            kv: KvHead::F32 { keys: &self.grouped, values: &self.values },
            huge_pages: false,
            head_dim: WIDTH,
            scale: 0.4,
            softcap: None,
            window: None,
            whole: self.whole.then_some(self.positions),
            bias: bias.then_some(DistanceBias { values: &self.bias, reach: REACH }),
            queries: &self.queries,
            stride: self.group * WIDTH,
            group: self.group,
            tokens: self.tokens,
            first: self.first,
            spans: 0..seen.div_ceil(SPAN),
        }
    }

    /// The result for one query, in double precision.
    fn exact(&self, token: usize, query: usize, bias: bool) -> Vec<f64> {
        let q = &self.queries[(token * self.group + query) * WIDTH..][..WIDTH];
        let position = self.first + token;
        let seen = if self.whole { self.positions } else { position + 1 };
        let score = |key: usize| -> f64 {
            let terms = q.iter().zip(&self.keys[key * WIDTH..][..WIDTH]);
            let product: f64 = terms.map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
            let reach = REACH as isize;
            let after = (key as isize - position as isize).clamp(-reach, reach);
            let added = self.bias[query * (2 * REACH + 1) + (reach + after) as usize];
            product * 0.4_f32 as f64 + if bias { f64::from(added) } else { 0.0 }
        };
        let scores: Vec<f64> = (0..seen).map(score).collect();
        let max = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
        let total: f64 = weights.iter().sum();
        let value = |dim: usize| {
            let of = |(key, weight): (usize, &f64)| weight * f64::from(self.values[key * WIDTH + dim]);
            weights.iter().enumerate().map(of).sum::<f64>() / total
        };
        (0..WIDTH).map(value).collect()
    }
}

#[test]
fn whole_texts_and_distances_are_close_to_the_exact_results() {
    let mut rng = Rng(11);
    // Positions, queries of a token, tokens, the first token's position; texts of less and more than a span.
    let shapes =
        [(1, 1, 1, 0), (70, 3, 5, 0), (130, 1, 19, 64), (64, 9, 2, 62), (SPAN + 40, 2, 3, SPAN + 37)];
    for (i, shape) in shapes.into_iter().enumerate() {
        for (whole, bias) in [(true, false), (true, true), (false, true)] {
            let case = Case::new(shape, whole, &mut rng);
            for kernels in tiers() {
                let run = |task: &Attend<'_>| {
                    let mut out = vec![f32::NAN; task.queries.len()];
                    let mut state = vec![Running::default(); out.len() / WIDTH];
                    kernels.attend(task, &mut out, &mut state);
                    for (out, state) in out.chunks_mut(WIDTH).zip(state) {
                        kernels.scale(1.0 / state.sum, out);
                    }
                    out
                };
                let got = run(&case.task(bias));
                let what = format!("{} shape {i} whole {whole} bias {bias}", kernels.isa());
                for (row, got) in got.chunks(WIDTH).enumerate() {
                    let expected = case.exact(row / case.group, row % case.group, bias);
                    for (got, expected) in got.iter().zip(expected) {
                        assert!((f64::from(*got) - expected).abs() < 2e-5, "{what}: {got} {expected}");
                    }
                }
                // A token by itself has the same bits.
                let last = case.tokens - 1;
                let queries = &case.queries[last * case.group * WIDTH..];
                let all = case.task(bias);
                let one = Attend { queries, tokens: 1, first: case.first + last, ..all };
                assert_eq!(bits(&run(&one)), bits(&got[last * case.group * WIDTH..]), "{what}: alone");
            }
        }
    }
}
