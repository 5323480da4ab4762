//! Attention of every tier against double precision, and what must never change its bits.

use crate::common::{Rng, bits, tiers};
use half::f16;
use moelten_quant::{Attend, KEY_GROUP, Kernels, KvHead, Running, SPAN};

/// One unit of rounding.
const U: f64 = 1.0 / (1u64 << 24) as f64;

/// A head of the cache in both formats, and what it holds in plain order.
struct Cache {
    head_dim: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
    halves: [Vec<f16>; 2],
    floats: [Vec<f32>; 2],
}

impl Cache {
    /// Keys and values `[positions, head_dim]` that half precision can hold, in memory that ends with the
    /// last group.
    fn new(head_dim: usize, positions: usize, rng: &mut Rng) -> Self {
        let round = |x: Vec<f32>| x.iter().map(|&x| f16::from_f32(x).to_f32()).collect::<Vec<_>>();
        let keys = round(rng.floats(positions * head_dim));
        let values = round(rng.floats(positions * head_dim));
        let mut grouped = vec![0.0; positions.next_multiple_of(KEY_GROUP) * head_dim];
        for (i, &key) in keys.iter().enumerate() {
            grouped[slot(i / head_dim, i % head_dim, head_dim)] = key;
        }
        let half = |x: &[f32]| x.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>();
        let halves = [half(&grouped), half(&values)];
        Self { head_dim, keys, floats: [grouped, values.clone()], values, halves }
    }

    fn heads(&self) -> [KvHead<'_>; 2] {
        [
            KvHead::F16 { keys: &self.halves[0], values: &self.halves[1] },
            KvHead::F32 { keys: &self.floats[0], values: &self.floats[1] },
        ]
    }

    /// Overwrites positions that no token of the task may read.
    fn spoil(&mut self, positions: std::ops::Range<usize>, with: f32) {
        for position in positions {
            for dim in 0..self.head_dim {
                let (key, value) = (slot(position, dim, self.head_dim), position * self.head_dim + dim);
                self.halves[0][key] = f16::from_f32(with);
                self.floats[0][key] = with;
                self.halves[1][value] = f16::from_f32(with);
                self.floats[1][value] = with;
            }
        }
    }
}

/// Where the cache keeps a number of a key.
fn slot(position: usize, dim: usize, head_dim: usize) -> usize {
    position / KEY_GROUP * KEY_GROUP * head_dim + dim * KEY_GROUP + position % KEY_GROUP
}

/// Queries of a number of tokens.
#[derive(Clone, Copy)]
struct Shape {
    group: usize,
    tokens: usize,
    first: usize,
    window: Option<usize>,
}

impl Shape {
    fn task<'a>(&self, kv: KvHead<'a>, head_dim: usize, queries: &'a [f32]) -> Attend<'a> {
        let Self { group, tokens, first, window } = *self;
        let spans = 0..(first + tokens).div_ceil(SPAN);
        let (scale, stride) = (0.3, (group + 1) * head_dim);
        let huge_pages = first % 2 == 0;
        // Low enough to change most scores.
        let softcap = (head_dim % 4 == 2 || head_dim == 80).then_some(1.25);
        Attend {
            kv,
            huge_pages,
            head_dim,
            scale,
            softcap,
            window,
            whole: None,
            bias: None,
            queries,
            stride,
            group,
            tokens,
            first,
            spans,
        }
    }

    /// Queries with one head that is not of the task after each token's.
    fn queries(&self, head_dim: usize, rng: &mut Rng) -> Vec<f32> {
        rng.floats(self.tokens * (self.group + 1) * head_dim)
    }
}

/// Outputs divided by their sums; untouched ones stay NaN.
fn run(kernels: &Kernels, task: &Attend<'_>) -> Vec<f32> {
    let mut out = vec![f32::NAN; task.queries.len()];
    let mut state = vec![Running::default(); out.len() / task.head_dim];
    kernels.attend(task, &mut out, &mut state);
    for (out, state) in out.chunks_mut(task.head_dim).zip(state) {
        kernels.scale(1.0 / state.sum, out);
    }
    out
}

/// Which rows of `run` belong to the task.
fn rows(shape: Shape) -> impl Iterator<Item = (usize, usize)> {
    (0..shape.tokens)
        .flat_map(move |token| (0..shape.group).map(move |g| (token, token * (shape.group + 1) + g)))
}

/// `softmax(scale q K^T) V` in double precision, and a bound on what single precision may make of each
/// output.
fn exact(cache: &Cache, task: &Attend<'_>, token: usize, row: usize) -> Vec<(f64, f64)> {
    let n = task.head_dim;
    let query = &task.queries[row * n..][..n];
    let end = task.first + token + 1;
    let start = task.window.map_or(0, |window| end.saturating_sub(window));
    let mut scores = Vec::new();
    let mut score_error: f64 = 0.0;
    for key in cache.keys[start * n..end * n].chunks(n) {
        let terms =
            || query.iter().zip(key).map(|(&q, &k)| f64::from(q) * f64::from(k) * f64::from(task.scale));
        let score = terms().sum::<f64>();
        let cap = task.softcap.map(f64::from);
        scores.push(cap.map_or(score, |cap| cap * (score / cap).tanh()));
        // One rounding of the scaled query, two for each term in plain Rust. The slope of tanh is at most 1,
        // and its result is 1 less a quotient of an exponential.
        let of_terms = (2 * n + 1) as f64 * U * terms().map(f64::abs).sum::<f64>();
        score_error = score_error.max(of_terms + cap.map_or(0.0, |cap| 8.0 * U * (cap + score.abs())));
    }
    let max = scores.iter().copied().fold(f64::MIN, f64::max);
    let min = scores.iter().copied().fold(f64::MAX, f64::min);
    let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    // A weight is a product of exponentials, one for each block and span that raised the maximum: each
    // takes a difference, rounded, of scores that are off, to an exponential within 2 units in the last
    // place, and multiplies once. A sum adds every position and the blocks once more.
    let steps = (scores.len() / 64 + scores.len() / SPAN + 4) as f64;
    let relative = 2.0 * score_error + U * (max - min) + steps * 6.0 * U + (2 * scores.len() + 8) as f64 * U;
    let value = |i: usize, dim: usize| f64::from(cache.values[(start + i) * n + dim]);
    (0..n)
        .map(|dim| {
            let sum = |f: &dyn Fn(f64) -> f64| {
                weights.iter().enumerate().map(|(i, w)| w * f(value(i, dim))).sum::<f64>()
            };
            // The error in the sum of weights counts as that in the weighted values does.
            (sum(&|v| v) / total, 2.1 * relative * sum(&f64::abs) / total)
        })
        .collect()
}

const SHAPES: [Shape; 9] = [
    Shape { group: 1, tokens: 1, first: 0, window: None },
    Shape { group: 8, tokens: 1, first: 200, window: None },
    Shape { group: 3, tokens: 5, first: 126, window: None },
    Shape { group: 1, tokens: 19, first: 0, window: None },
    Shape { group: 7, tokens: 3, first: SPAN - 1, window: None },
    Shape { group: 4, tokens: 2, first: 2 * SPAN + 77, window: None },
    Shape { group: 2, tokens: 9, first: 60, window: Some(6) },
    Shape { group: 1, tokens: 11, first: SPAN + 30, window: Some(40) },
    Shape { group: 9, tokens: 2, first: SPAN + 300, window: Some(SPAN) },
];

#[test]
fn outputs_are_close_to_the_exact_ones() {
    let mut rng = Rng(1);
    for (i, shape) in SHAPES.into_iter().enumerate() {
        for head_dim in [2, 8, 10, 16, 36, 64, 80, 128] {
            let cache = Cache::new(head_dim, shape.first + shape.tokens, &mut rng);
            let queries = shape.queries(head_dim, &mut rng);
            let expected: Vec<_> = {
                let task = shape.task(cache.heads()[1], head_dim, &queries);
                rows(shape).map(|(token, row)| (row, exact(&cache, &task, token, row))).collect()
            };
            for kernels in tiers() {
                for kv in cache.heads() {
                    let got = run(kernels, &shape.task(kv, head_dim, &queries));
                    for (row, expected) in &expected {
                        for (got, (expected, bound)) in got[row * head_dim..].iter().zip(expected) {
                            assert!(
                                (f64::from(*got) - expected).abs() <= *bound,
                                "{} shape {i} width {head_dim} row {row}: {got}, not {expected} +- {bound}",
                                kernels.isa()
                            );
                        }
                    }
                    // Rows between those of the task are not written.
                    assert!(
                        got.chunks(head_dim)
                            .skip(shape.group)
                            .step_by(shape.group + 1)
                            .flatten()
                            .all(|x| x.is_nan())
                    );
                }
            }
        }
    }
}

/// Token by token, head by head, span by span: the same bits as all at once.
#[test]
fn a_result_does_not_depend_on_what_is_computed_beside_it() {
    let mut rng = Rng(2);
    for (i, shape) in SHAPES.into_iter().enumerate() {
        for head_dim in [6, 64] {
            let cache = Cache::new(head_dim, shape.first + shape.tokens, &mut rng);
            let queries = shape.queries(head_dim, &mut rng);
            for kernels in tiers() {
                for kv in cache.heads() {
                    let whole = run(kernels, &shape.task(kv, head_dim, &queries));
                    for (token, row) in rows(shape) {
                        let one = Shape { group: 1, tokens: 1, first: shape.first + token, ..shape };
                        let query = &queries[row * head_dim..][..head_dim];
                        let task = one.task(kv, head_dim, query);
                        let expected = bits(&whole[row * head_dim..][..head_dim]);
                        let what = format!("{} shape {i} width {head_dim} row {row}", kernels.isa());
                        assert_eq!(bits(&run(kernels, &task)), expected, "{what}: alone");
                        assert_eq!(bits(&merged(kernels, &task)), expected, "{what}: by spans");
                    }
                }
            }
        }
    }
}

/// One row, its spans apart from each other.
fn merged(kernels: &Kernels, task: &Attend<'_>) -> Vec<f32> {
    let start = task.window.map_or(0, |window| (task.first + 1).saturating_sub(window));
    let mut parts = (start / SPAN..task.first / SPAN + 1).map(|span| {
        let (mut out, mut state) = (vec![f32::NAN; task.head_dim], [Running::default()]);
        kernels.attend(&Attend { spans: span..span + 1, ..task.clone() }, &mut out, &mut state);
        (out, state[0])
    });
    let (mut out, mut state) = parts.next().unwrap();
    for (later, later_state) in parts {
        kernels.attend_merge(&later, later_state, &mut out, &mut state);
    }
    kernels.scale(1.0 / state.sum, &mut out);
    out
}

/// Caches hold stale data: tokens that were rolled back, and positions that a window has passed.
#[test]
fn what_is_not_seen_has_no_influence() {
    let mut rng = Rng(3);
    let head_dim = 20;
    for shape in SHAPES {
        let last = shape.first + shape.tokens;
        let mut cache = Cache::new(head_dim, last + 150, &mut rng);
        let queries = shape.queries(head_dim, &mut rng);
        let all = |cache: &Cache| -> Vec<_> {
            let run = |(kernels, kv)| bits(&run(kernels, &shape.task(kv, head_dim, &queries)));
            tiers().into_iter().flat_map(|kernels| cache.heads().map(|kv| (kernels, kv))).map(run).collect()
        };
        let expected = all(&cache);
        for with in [f32::NAN, f32::INFINITY] {
            cache.spoil(last..last + 150, with);
            if let Some(window) = shape.window {
                cache.spoil(0..(shape.first + 1).saturating_sub(window), with);
            }
            assert_eq!(all(&cache), expected);
        }
        // NaN of a later token in the same tile does not change an earlier one.
        cache.spoil(last - 1..last, f32::NAN);
        let earlier = (shape.tokens - 1) * (shape.group + 1) * head_dim;
        for (got, expected) in all(&cache).iter().zip(&expected) {
            assert_eq!(got[..earlier], expected[..earlier]);
            assert!(f32::from_bits(got[earlier]).is_nan(), "its own value is not a number");
        }
    }
}

/// Scores far apart, infinite or equal.
#[test]
fn extreme_scores() {
    let head_dim = 4;
    let positions: usize = 200;
    for kernels in tiers() {
        let outputs = |key: &dyn Fn(usize) -> f32, q: f32| {
            let mut keys = vec![0.0; positions.next_multiple_of(KEY_GROUP) * head_dim];
            (0..positions).for_each(|p| keys[slot(p, 0, head_dim)] = key(p));
            let values: Vec<f32> = (0..positions * head_dim).map(|i| (i / head_dim) as f32).collect();
            let kv = KvHead::F32 { keys: &keys, values: &values };
            let shape = Shape { group: 1, tokens: 1, first: positions - 1, window: None };
            let queries = [q, 0.0, 0.0, 0.0];
            run(kernels, &Attend { scale: 1.0, ..shape.task(kv, head_dim, &queries) })
        };
        assert_eq!(outputs(&|p| if p == 150 { 1e30 } else { -1e30 }, 2.0), [150.0; 4], "one far above");
        assert_eq!(outputs(&|p| if p == 3 { 1e5 } else { 0.0 }, 1.0), [3.0; 4], "in the first block");
        let falling = outputs(&|p| -(p as f32), 200.0);
        assert_eq!(falling, [0.0; 4], "falling");
        let some = outputs(&|p| if p < 120 { f32::NEG_INFINITY } else { 1.0 }, 1.0);
        assert!((some[0] - 159.5).abs() < 1e-3, "{}: minus infinity has no weight: {some:?}", kernels.isa());
        let even = outputs(&|_| 7.0, 1.0);
        assert!((even[0] - 99.5).abs() < 1e-3, "{even:?}");
        assert!(outputs(&|p| if p == 70 { f32::INFINITY } else { 1.0 }, 1.0)[0].is_nan());
        assert!(outputs(&|p| if p == 70 { f32::NAN } else { 1.0 }, 1.0)[0].is_nan());
        assert!(outputs(&|_| f32::NEG_INFINITY, 1.0)[0].is_nan());
    }
}

#[test]
#[should_panic(expected = "values end before the last position")]
fn a_short_cache_is_refused() {
    let cache = Cache::new(8, 64, &mut Rng(4));
    let shape = Shape { group: 1, tokens: 2, first: 63, window: None };
    run(tiers()[0], &shape.task(cache.heads()[0], 8, &[0.0; 32]));
}
