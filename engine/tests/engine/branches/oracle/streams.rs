//! Several residual streams, written out.

use moelten_loader::spec::{LayerSpec, ModelSpec, NormSpec, StreamMix, StreamsSpec};
use moelten_loader::tensors::roles::{LayerTensor as T, Role};

use super::super::made::Made;
use super::{Caches, Layer, Rows, linear, norm, softmax};

/// Copies embeddings to all streams.
pub(super) fn spread(spec: &ModelSpec, x: &mut Rows) {
    let count = spec.streams.map_or(1, |streams| streams.count);
    x.iter_mut().for_each(|x| *x = x.repeat(count));
}

/// What the head reads of the streams.
pub(super) fn gather(made: &Made, x: &mut Rows) {
    let Some(streams) = made.spec.streams else { return };
    if let StreamMix::Gated { .. } = streams.mix {
        let [norm, down, up] =
            [Role::HeadStreamNorm, Role::HeadStreamDown, Role::HeadStreamUp].map(|role| made.weights(role));
        x.iter_mut().for_each(|x| *x = gated(streams, (norm, down, up), x).0);
        return;
    }
    let [matrix, base, scale] =
        [Role::HeadStreamMix, Role::HeadStreamBase, Role::HeadStreamScale].map(|role| made.weights(role));
    for x in x {
        let values = numbers(streams, matrix, x);
        let StreamMix::Sinkhorn { eps, .. } = streams.mix else { unreachable!("it is Sinkhorn's") };
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
        let StreamMix::Sinkhorn { iterations, eps, .. } = streams.mix else {
            return self.run_gated(streams, spec, x, caches);
        };
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

impl Layer<'_> {
    fn run_gated(self, streams: StreamsSpec, spec: &LayerSpec, x: &mut Rows, caches: &mut Caches) {
        let count = streams.count;
        for branch in &spec.branches {
            let [norm, down, up, inject] = [
                T::StreamNorm(branch.place),
                T::StreamDown(branch.place),
                T::StreamUp(branch.place),
                T::StreamInject(branch.place),
            ]
            .map(|tensor| self.weights(tensor));
            let read: Vec<_> = x.iter().map(|x| gated(streams, (norm, down, up), x)).collect();
            let input: Rows = read.iter().map(|(read, _)| read.clone()).collect();
            let out = self.branch(branch, &input, &input, caches);
            for ((x, (_, normed)), out) in x.iter_mut().zip(&read).zip(&out) {
                let weights = linear(inject, None, normed);
                for (stream, weight) in x.chunks_exact_mut(out.len()).zip(weights) {
                    let weight = 2.0 * sigmoid(weight / count as f64) * f64::from(branch.scale);
                    stream.iter_mut().zip(out).for_each(|(x, out)| *x += weight * out);
                }
            }
        }
    }
}

/// What a gated mix reads of the streams of a token, and these under their norm.
fn gated(
    streams: StreamsSpec,
    (weight, down, up): (&[f32], &[f32], &[f32]),
    x: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    let StreamMix::Gated { norm_eps, .. } = streams.mix else { unreachable!("it is gated") };
    let (count, d) = (streams.count, x.len() / streams.count);
    let rms = NormSpec::Rms { eps: norm_eps };
    let of_streams = x.chunks_exact(d).zip(weight.chunks_exact(d));
    let normed: Vec<f64> = of_streams.flat_map(|(x, weight)| norm(rms, weight, None, x)).collect();
    let narrow = linear(down, None, &normed).into_iter().map(|x| x / count as f64);
    let narrow: Vec<f64> = narrow.map(|x| x * sigmoid(x)).collect();
    let gates = linear(up, None, &narrow);
    let mean = |i: usize| {
        (0..count).map(|stream| sigmoid(gates[stream * d + i]) * normed[stream * d + i]).sum::<f64>()
            / count as f64
    };
    ((0..d).map(mean).collect(), normed)
}

/// What the matrix of a mix gives for the streams of a token.
fn numbers(streams: StreamsSpec, matrix: &[f32], x: &[f64]) -> Vec<f64> {
    let StreamMix::Sinkhorn { norm_eps, .. } = streams.mix else { unreachable!("it is Sinkhorn's") };
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
