//! What recurrences and short convolutions compute, in plain loops in double precision. It must not know how
//! branches are joined.

use moelten_loader::spec::{
    ConvSpec, DeltaLayout, DeltaOrder, DeltaSpec, KdaSpec, NormSpec, SelectiveSpec, SsmSpec,
};
use moelten_loader::tensors::roles::LayerTensor as T;

use super::{Layer, Rows, dot, linear, norm};

/// What a delta net projects for a token.
type DeltaParts = (Vec<f64>, Vec<f64>, (Vec<f64>, Vec<f64>));

impl Layer<'_> {
    pub(super) fn conv(self, spec: &ConvSpec, x: &Rows) -> Rows {
        let (width, bias) = (spec.width, |tensor| self.weights_if(spec.bias, tensor));
        let parts: Rows = x.iter().map(|x| linear(self.weights(T::ConvIn), bias(T::ConvInBias), x)).collect();
        let token = |t: usize| {
            let mixed: Vec<f64> = (0..width)
                .map(|channel| {
                    let mut sum = bias(T::ConvBias).map_or(0.0, |bias| f64::from(bias[channel]));
                    for tap in 0..spec.kernel {
                        let Some(at) = (t + tap).checked_sub(spec.kernel - 1) else { continue };
                        let weight = self.weights(T::ConvTaps)[channel * spec.kernel + tap];
                        sum += f64::from(weight) * parts[at][channel] * parts[at][2 * width + channel];
                    }
                    sum * parts[t][width + channel]
                })
                .collect();
            linear(self.weights(T::ConvOut), bias(T::ConvOutBias), &mixed)
        };
        (0..x.len()).map(token).collect()
    }

    /// Token by token, head by head, one memory for each.
    pub(super) fn ssm(self, spec: &SsmSpec, x: &Rows) -> Rows {
        let (inner, channels) = (spec.inner(), spec.channels());
        let rows: Rows = x.iter().map(|x| linear(self.weights(T::SsmIn), None, x)).collect();
        let (taps, bias) = (self.weights(T::SsmConv), self.weights_if(spec.conv_bias, T::SsmConvBias));
        let conv = |t: usize, channel: usize| {
            let mut sum = bias.map_or(0.0, |bias| f64::from(bias[channel]));
            for tap in 0..spec.conv_kernel {
                let Some(at) = (t + tap).checked_sub(spec.conv_kernel - 1) else { continue };
                sum += f64::from(taps[channel * spec.conv_kernel + tap]) * rows[at][inner + channel];
            }
            sum / (1.0 + (-sum).exp())
        };
        let mut memories = vec![vec![vec![0.0; spec.state]; spec.head_dim]; spec.heads];
        let mut token = |t: usize| {
            let all: Vec<f64> = (0..channels).map(|channel| conv(t, channel)).collect();
            let mut mixed = Vec::new();
            for (head, memory) in memories.iter_mut().enumerate() {
                let group = head / (spec.heads / spec.groups);
                let b = &all[inner + group * spec.state..][..spec.state];
                let c = &all[inner + (spec.groups + group) * spec.state..][..spec.state];
                let logit = rows[t][inner + channels + head] + f64::from(self.weights(T::SsmStepBias)[head]);
                let step = logit.exp().ln_1p();
                let decay = f64::from(self.weights(T::SsmDecay)[head]);
                let rate = if spec.log_decay { -decay.exp() } else { decay };
                for (i, row) in memory.iter_mut().enumerate() {
                    let x = all[head * spec.head_dim + i];
                    let cells = row.iter_mut().zip(b);
                    cells.for_each(|(cell, b)| *cell = *cell * (rate * step).exp() + step * x * b);
                    let skip = f64::from(self.weights(T::SsmSkip)[head]);
                    let z = rows[t][head * spec.head_dim + i];
                    mixed.push((dot(row, c) + skip * x) * z / (1.0 + (-z).exp()));
                }
            }
            let width = inner / spec.groups;
            let weights = self.weights(T::SsmNorm).chunks(width);
            let rms = NormSpec::Rms { eps: spec.norm_eps };
            let groups = mixed.chunks(width).zip(weights).flat_map(|(x, w)| norm(rms, w, None, x));
            linear(self.weights(T::SsmOut), None, &groups.collect::<Vec<_>>())
        };
        (0..x.len()).map(&mut token).collect()
    }

    /// Inputs of the convolution, gates, and logits of strengths and steps of a token.
    fn delta_parts(self, spec: &DeltaSpec, x: &[f64]) -> DeltaParts {
        let project = |weight: T, x: &[f64]| linear(self.weights(weight), None, x);
        let r = spec.value_heads / spec.key_heads;
        let rates = |rates: Vec<f64>| -> (Vec<f64>, Vec<f64>) {
            let of = |half: usize| rates.chunks(2 * r).flat_map(|c| c[half * r..][..r].to_vec()).collect();
            (of(0), of(1))
        };
        match spec.layout {
            DeltaLayout::Apart => {
                let rates = (project(T::DeltaStrength, x), project(T::DeltaStep, x));
                (project(T::DeltaQkv, x), project(T::DeltaGate, x), rates)
            }
            DeltaLayout::StepsByKeyHead => {
                (project(T::DeltaQkv, x), project(T::DeltaGate, x), rates(project(T::DeltaRates, x)))
            }
            DeltaLayout::ByKeyHead => {
                let all = project(T::DeltaByKeyHead, x);
                let heads: Vec<_> = all.chunks(2 * spec.key_dim + 2 * r * spec.value_dim).collect();
                let of =
                    |from: usize, len: usize| heads.iter().flat_map(move |h| h[from..from + len].to_vec());
                let (d, v) = (spec.key_dim, r * spec.value_dim);
                let qkv = of(0, d).chain(of(d, d)).chain(of(2 * d, v)).collect();
                (qkv, of(2 * d + v, v).collect(), rates(project(T::DeltaRates, x)))
            }
        }
    }

    /// Token by token, head by head, one matrix for each value head.
    pub(super) fn delta(self, spec: &DeltaSpec, x: &Rows) -> Rows {
        let project = |weight: T, x: &[f64]| linear(self.weights(weight), None, x);
        let (keys, r) = (spec.key_heads * spec.key_dim, spec.value_heads / spec.key_heads);
        let tokens: Vec<_> = x.iter().map(|x| self.delta_parts(spec, x)).collect();
        let taps = self.weights(T::DeltaConv);
        let conv = |t: usize, channel: usize| {
            let tap = |i: usize| {
                let before = (t + i).checked_sub(spec.conv_kernel - 1);
                let input = before.map_or(0.0, |at| tokens[at].0[channel]);
                f64::from(taps[channel * spec.conv_kernel + i]) * input
            };
            let sum: f64 = (0..spec.conv_kernel).map(tap).sum();
            sum / (1.0 + (-sum).exp())
        };
        let mut memories = vec![vec![vec![0.0; spec.value_dim]; spec.key_dim]; spec.value_heads];
        let unit = |x: &[f64]| -> Vec<f64> {
            let size = (dot(x, x) + 1e-6).sqrt();
            x.iter().map(|x| x / size).collect()
        };
        let mut token = |t: usize| {
            let all: Vec<f64> = (0..spec.channels()).map(|channel| conv(t, channel)).collect();
            let (_, gates, (strengths, steps)) = &tokens[t];
            let mut mixed = Vec::new();
            for (head, memory) in memories.iter_mut().enumerate() {
                let key_head = match spec.order {
                    DeltaOrder::Grouped => head / r,
                    DeltaOrder::Tiled => head % spec.key_heads,
                };
                let q = unit(&all[key_head * spec.key_dim..][..spec.key_dim]);
                let k = unit(&all[keys + key_head * spec.key_dim..][..spec.key_dim]);
                let v = &all[2 * keys + head * spec.value_dim..][..spec.value_dim];
                let decay = f64::from(self.weights(T::DeltaDecay)[head]);
                let rate = if spec.log_decay { -decay.exp() } else { decay };
                let step = steps[head] + f64::from(self.weights(T::DeltaStepBias)[head]);
                let keep = (rate * (1.0 + step.exp()).ln()).exp();
                let strength = 1.0 / (1.0 + (-strengths[head]).exp());
                memory.iter_mut().flatten().for_each(|x| *x *= keep);
                for column in 0..spec.value_dim {
                    let known: f64 = (0..spec.key_dim).map(|i| memory[i][column] * k[i]).sum();
                    (0..spec.key_dim)
                        .for_each(|i| memory[i][column] += k[i] * strength * (v[column] - known));
                }
                let read = |column: usize| (0..spec.key_dim).map(|i| memory[i][column] * q[i]).sum::<f64>();
                let root = (spec.key_dim as f64).sqrt();
                let y: Vec<f64> = (0..spec.value_dim).map(|column| read(column) / root).collect();
                let y = norm(NormSpec::Rms { eps: spec.norm_eps }, self.weights(T::DeltaNorm), None, &y);
                let gate = &gates[head * spec.value_dim..][..spec.value_dim];
                let gate = gate.iter().map(|z| if spec.sigmoid_gate { 1.0 } else { *z } / (1.0 + (-z).exp()));
                mixed.extend(y.iter().zip(gate).map(|(y, gate)| y * gate));
            }
            project(T::DeltaOut, &mixed)
        };
        (0..x.len()).map(&mut token).collect()
    }

    /// Token by token, channel by channel.
    pub(super) fn selective(self, spec: &SelectiveSpec, x: &Rows) -> Rows {
        let SelectiveSpec { inner, state, rank, .. } = *spec;
        let rows: Rows = x.iter().map(|x| linear(self.weights(T::SsmIn), None, x)).collect();
        let (taps, bias) = (self.weights(T::SsmConv), self.weights_if(spec.conv_bias, T::SsmConvBias));
        let conv = |t: usize, channel: usize| {
            let mut sum = bias.map_or(0.0, |bias| f64::from(bias[channel]));
            for tap in 0..spec.conv_kernel {
                let Some(at) = (t + tap).checked_sub(spec.conv_kernel - 1) else { continue };
                sum += f64::from(taps[channel * spec.conv_kernel + tap]) * rows[at][channel];
            }
            sum / (1.0 + (-sum).exp())
        };
        let rms = NormSpec::Rms { eps: spec.norm_eps };
        let mut memories = vec![vec![0.0; state]; inner];
        let mut token = |t: usize| {
            let x: Vec<f64> = (0..inner).map(|channel| conv(t, channel)).collect();
            let projected = linear(self.weights(T::SsmX), None, &x);
            let narrow = norm(rms, self.weights(T::SsmStepNorm), None, &projected[..rank]);
            let b = norm(rms, self.weights(T::SsmBNorm), None, &projected[rank..rank + state]);
            let c = norm(rms, self.weights(T::SsmCNorm), None, &projected[rank + state..]);
            let steps = linear(self.weights(T::SsmStep), Some(self.weights(T::SsmStepBias)), &narrow);
            let of_channel = |(channel, memory): (usize, &mut Vec<f64>)| {
                let step = steps[channel].exp().ln_1p();
                for (n, cell) in memory.iter_mut().enumerate() {
                    let stored = f64::from(self.weights(T::SsmDecay)[channel * state + n]);
                    let rate = if spec.log_decay { -stored.exp() } else { stored };
                    *cell = *cell * (rate * step).exp() + step * x[channel] * b[n];
                }
                let z = rows[t][inner + channel];
                let y = dot(memory, &c) + f64::from(self.weights(T::SsmSkip)[channel]) * x[channel];
                y * z / (1.0 + (-z).exp())
            };
            let mixed: Vec<f64> = memories.iter_mut().enumerate().map(of_channel).collect();
            linear(self.weights(T::SsmOut), None, &mixed)
        };
        (0..x.len()).map(&mut token).collect()
    }

    /// Token by token, head by head, one matrix for each.
    pub(super) fn kda(self, spec: &KdaSpec, x: &Rows) -> Rows {
        let project = |weight: T, x: &[f64]| linear(self.weights(weight), None, x);
        let narrowed = |down: T, up: T, x: &[f64]| match spec.rank {
            Some(_) => project(up, &project(down, x)),
            None => project(up, x),
        };
        let kinds = [(T::Q, T::KdaConvQ), (T::K, T::KdaConvK), (T::V, T::KdaConvV)];
        let convolved = kinds.map(|(weight, taps)| -> Rows {
            let rows: Rows = x.iter().map(|x| project(weight, x)).collect();
            let taps: Vec<_> = self.weights(taps).chunks(spec.conv_kernel).collect();
            let value = |t: usize, channel: usize| {
                let of_tap = |(i, &tap): (usize, &f32)| {
                    (t + i)
                        .checked_sub(spec.conv_kernel - 1)
                        .map_or(0.0, |at| f64::from(tap) * rows[at][channel])
                };
                let sum: f64 = taps[channel].iter().enumerate().map(of_tap).sum();
                sum / (1.0 + (-sum).exp())
            };
            (0..x.len()).map(|t| (0..spec.inner()).map(|channel| value(t, channel)).collect()).collect()
        });
        let d = spec.head_dim;
        let mut memories = vec![vec![vec![0.0; d]; d]; spec.heads];
        let unit = |x: &[f64]| -> Vec<f64> {
            let size = (dot(x, x) + 1e-6).sqrt();
            x.iter().map(|x| x / size).collect()
        };
        let mut token = |t: usize| {
            let rates = narrowed(T::KdaRateDown, T::KdaRateUp, &x[t]);
            let gates = narrowed(T::KdaGateDown, T::KdaGateUp, &x[t]);
            let strengths = project(T::DeltaStrength, &x[t]);
            let mut mixed = Vec::new();
            for (head, memory) in memories.iter_mut().enumerate() {
                let of = |part: usize| &convolved[part][t][head * d..][..d];
                let (q, k, v) = (unit(of(0)), unit(of(1)), of(2));
                let stored = f64::from(self.weights(T::DeltaDecay)[head]);
                let decay = if spec.log_decay { -stored.exp() } else { stored };
                let strength = 1.0 / (1.0 + (-strengths[head]).exp());
                for (row, cells) in memory.iter_mut().enumerate() {
                    let bias = f64::from(self.weights(T::DeltaStepBias)[head * d + row]);
                    let logit = rates[head * d + row] + bias;
                    let rate = match spec.lower_bound {
                        Some(bound) => f64::from(bound) / (1.0 + (decay * logit).exp()),
                        None => decay * logit.exp().ln_1p(),
                    };
                    cells.iter_mut().for_each(|cell| *cell *= rate.exp());
                }
                for column in 0..d {
                    let known: f64 = (0..d).map(|row| memory[row][column] * k[row]).sum();
                    (0..d).for_each(|row| memory[row][column] += k[row] * strength * (v[column] - known));
                }
                let read = |column: usize| (0..d).map(|row| memory[row][column] * q[row]).sum::<f64>();
                let y: Vec<f64> = (0..d).map(|column| read(column) / (d as f64).sqrt()).collect();
                let y = norm(NormSpec::Rms { eps: spec.norm_eps }, self.weights(T::DeltaNorm), None, &y);
                mixed.extend(y.iter().zip(&gates[head * d..]).map(|(y, gate)| y / (1.0 + (-gate).exp())));
            }
            project(T::O, &mixed)
        };
        (0..x.len()).map(&mut token).collect()
    }
}
