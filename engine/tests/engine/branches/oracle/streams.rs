//! Several residual streams, written out.

use moelten_loader::spec::{LayerSpec, ModelSpec, StreamMix, StreamsSpec};
use moelten_loader::tensors::roles::{LayerTensor as T, Role};

use super::super::made::Made;
use super::{Caches, Layer, Rows, linear, softmax};

/// Copies embeddings to all streams.
pub(super) fn spread(spec: &ModelSpec, x: &mut Rows) {
    let count = spec.streams.map_or(1, |streams| streams.count);
    x.iter_mut().for_each(|x| *x = x.repeat(count));
}

/// What the head reads of the streams.
pub(super) fn gather(made: &Made, x: &mut Rows) {
    let Some(streams) = made.spec.streams else { return };
    let [matrix, base, scale] =
        [Role::HeadStreamMix, Role::HeadStreamBase, Role::HeadStreamScale].map(|role| made.weights(role));
    for x in x {
        let values = numbers(streams, matrix, x);
        let StreamMix::Sinkhorn { eps, .. } = streams.mix;
        let weight =
            |i: usize| sigmoid(values[i] * f64::from(scale[0]) + f64::from(base[i])) + f64::from(eps);
        *x = mixed(x, &(0..streams.count).map(weight).collect::<Vec<_>>());
    }
}

impl Layer<'_> {
    pub(super) fn run_streams(
        self,
        streams: StreamsSpec,
        spec: &LayerSpec,
        x: &mut Rows,
        caches: &mut Caches,
    ) {
        let StreamMix::Sinkhorn { iterations, eps, .. } = streams.mix;
        let (count, eps) = (streams.count, f64::from(eps));
        for branch in &spec.branches {
            let matrix = self.weights(T::StreamMix(branch.place));
            let base = self.weights(T::StreamBase(branch.place));
            let scale = self.weights(T::StreamScale(branch.place));
            let of = |values: &[f64], kind: usize, i: usize| {
                values[i] * f64::from(scale[kind]) + f64::from(base[i])
            };
            let values: Rows = x.iter().map(|x| numbers(streams, matrix, x)).collect();
            let read = |(x, values): (&Vec<f64>, &Vec<f64>)| {
                mixed(x, &(0..count).map(|i| sigmoid(of(values, 0, i)) + eps).collect::<Vec<_>>())
            };
            let input: Rows = x.iter().zip(&values).map(read).collect();
            let out = self.branch(branch, &input, &input, caches);
            for ((x, values), out) in x.iter_mut().zip(&values).zip(&out) {
                let given: Vec<f64> = (0..count).map(|i| 2.0 * sigmoid(of(values, 1, count + i))).collect();
                let row = |row: usize| {
                    let logits: Vec<f64> = (0..count).map(|i| of(values, 2, (2 + row) * count + i)).collect();
                    softmax(&logits).into_iter().map(|weight| weight + eps).collect::<Vec<f64>>()
                };
                let mut between: Vec<Vec<f64>> = (0..count).map(row).collect();
                for iteration in 0..iterations {
                    if iteration > 0 {
                        for row in &mut between {
                            let total = row.iter().sum::<f64>() + eps;
                            row.iter_mut().for_each(|value| *value /= total);
                        }
                    }
                    for column in 0..count {
                        let total = between.iter().map(|row| row[column]).sum::<f64>() + eps;
                        between.iter_mut().for_each(|row| row[column] /= total);
                    }
                }
                let d = out.len();
                let before = x.clone();
                for (i, x) in x.iter_mut().enumerate() {
                    let (to, at) = (i / d, i % d);
                    let kept: f64 = (0..count).map(|from| between[from][to] * before[from * d + at]).sum();
                    *x = f64::from(branch.scale) * given[to] * out[at] + kept;
                }
            }
        }
    }
}

/// What the matrix of a mix gives for the streams of a token.
fn numbers(streams: StreamsSpec, matrix: &[f32], x: &[f64]) -> Vec<f64> {
    let StreamMix::Sinkhorn { norm_eps, .. } = streams.mix;
    let square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let size = (square + f64::from(norm_eps)).sqrt();
    linear(matrix, None, &x.iter().map(|x| x / size).collect::<Vec<_>>())
}

/// The streams of a token, weighed.
fn mixed(x: &[f64], weights: &[f64]) -> Vec<f64> {
    let d = x.len() / weights.len();
    (0..d)
        .map(|i| weights.iter().enumerate().map(|(stream, weight)| weight * x[stream * d + i]).sum())
        .collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
