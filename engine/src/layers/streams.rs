//! Several residual streams in place of one (hyper-connections, arXiv 2409.19606): the mix of them that a
//! branch reads, and how what it gives goes back to each. Each token is computed by itself, so the bits do
//! not depend on how a text is cut. It must not know which branch it is for.

use moelten_loader::spec::{MOST_STREAMS, StreamMix, StreamsSpec};
use moelten_loader::tensors::bank::MatrixRef;

use crate::layers::linear::{Compute, Linear, Packed};

/// Tokens whose mixes are computed at once: their streams are wide.
pub const STREAM_TOKENS: usize = 64;

/// The weights by which a branch, or the head, mixes streams.
#[derive(Debug, Clone)]
pub struct StreamWeights {
    /// How many streams there are, and how they are mixed.
    pub spec: StreamsSpec,
    /// Width of a stream.
    pub d_model: usize,
    /// `[rows, streams * d_model]`: the numbers of a token.
    pub matrix: MatrixRef,
    /// Added to them, `[rows]`.
    pub base: Vec<f32>,
    /// Factors on what is read, on what is written, and on weights from each to each; the first alone for the
    /// head.
    pub scale: Vec<f32>,
}

/// Buffers of mixes; empty in models with one stream.
pub struct StreamScratch {
    /// Normed streams of some tokens, `[STREAM_TOKENS, streams * d_model]`.
    flat: Vec<f32>,
    packed: Packed,
    /// The numbers of these tokens.
    values: Vec<f32>,
    grouped: Vec<f32>,
    /// For each token of a batch the weights of what a branch gives, and those from each stream to each.
    mixes: Vec<f32>,
    /// What the present branch reads, `[tokens, d_model]`.
    pub read: Vec<f32>,
}

impl StreamScratch {
    /// Buffers for batches of `chunk` tokens; empty ones for models with one stream.
    pub fn new(streams: Option<StreamsSpec>, d_model: usize, chunk: usize) -> Self {
        let (count, rows) = streams.map_or((0, 0), |spec| (spec.count, spec.rows()));
        let some = STREAM_TOKENS.min(chunk);
        let numbers = |count: usize| vec![0.0; count];
        Self {
            flat: numbers(some * count * d_model),
            packed: Packed::with_capacity([(some, count * d_model)]),
            values: numbers(some * rows),
            grouped: numbers(some * rows),
            mixes: numbers(chunk * (count + 1) * count),
            read: numbers(if count > 0 { chunk * d_model } else { 0 }),
        }
    }

    /// Numbers that [`Self::new`] allocates, and lines.
    pub fn sizes_for(streams: Option<StreamsSpec>, d_model: usize, chunk: usize) -> (usize, usize) {
        let Some(spec) = streams else { return (0, 0) };
        let some = STREAM_TOKENS.min(chunk);
        let width = spec.count * d_model;
        let of_some = some * (width + 2 * spec.rows());
        let of_all = chunk * ((spec.count + 1) * spec.count + d_model);
        (of_some + of_all, Packed::lines_for([(some, width)]))
    }

    /// Numbers of the buffers, and lines.
    pub fn sizes(&self) -> (usize, usize) {
        let all = [&self.flat, &self.values, &self.grouped, &self.mixes, &self.read];
        (all.iter().map(|buffer| buffer.capacity()).sum(), self.packed.lines())
    }
}

impl StreamWeights {
    /// Width of all streams of a token.
    pub fn width(&self) -> usize {
        self.spec.count * self.d_model
    }

    /// Numbers of a token: those of a branch, or those of the head.
    fn rows(&self) -> usize {
        self.matrix.rows
    }

    /// What a branch reads of `x`, `[tokens, streams, d_model]`, into `s.read`. The weights of what it gives
    /// stay in `s` for [`Self::write`].
    pub fn read(&self, compute: Compute<'_>, x: &[f32], s: &mut StreamScratch) {
        let (width, d, rows) = (self.width(), self.d_model, self.rows());
        let (count, kept) = (self.spec.count, rows - self.spec.count);
        let StreamMix::Sinkhorn { iterations, eps, norm_eps } = self.spec.mix;
        let mut read = std::mem::take(&mut s.read);
        let tokens = x.len() / width;
        for first in (0..tokens).step_by(STREAM_TOKENS) {
            let some = first..tokens.min(first + STREAM_TOKENS);
            let x = &x[some.start * width..some.end * width];
            let flat = &mut s.flat[..x.len()];
            compute.pool.rows(flat, width, |range, flat| {
                let x = &x[range.start * width..range.end * width];
                for (x, flat) in x.chunks_exact(width).zip(flat.chunks_exact_mut(width)) {
                    let square = compute.kernels.dot(x, x) / width as f32;
                    flat.copy_from_slice(x);
                    compute.kernels.scale((square + norm_eps).sqrt().recip(), flat);
                }
            });
            compute.pack(flat, width, [self.matrix.format], &mut s.packed);
            let values = &mut s.values[..some.len() * rows];
            let linear = Linear { weight: self.matrix, bias: None };
            compute.linear(&linear, &s.packed, values, &mut s.grouped);
            for (token, values) in some.zip(values.chunks_exact_mut(rows)) {
                let (of_read, rest) = values.split_at_mut(count);
                for (value, base) in of_read.iter_mut().zip(&self.base) {
                    *value = sigmoid(*value * self.scale[0] + base) + eps;
                }
                let streams = &x[(token - first) * width..][..width];
                let read = &mut read[token * d..][..d];
                read.fill(0.0);
                for (weight, stream) in of_read.iter().zip(streams.chunks_exact(d)) {
                    compute.kernels.axpy(*weight, stream, read);
                }
                if kept > 0 {
                    self.weights(rest, (iterations, eps));
                    s.mixes[token * kept..][..kept].copy_from_slice(rest);
                }
            }
        }
        s.read = read;
    }

    /// From numbers to weights: of what a branch gives for each stream, and from each stream to each.
    fn weights(&self, values: &mut [f32], (iterations, eps): (usize, f32)) {
        let count = self.spec.count;
        let (given, between) = values.split_at_mut(count);
        for (value, base) in given.iter_mut().zip(&self.base[count..]) {
            *value = 2.0 * sigmoid(*value * self.scale[1] + base);
        }
        for (value, base) in between.iter_mut().zip(&self.base[2 * count..]) {
            *value = *value * self.scale[2] + base;
        }
        for row in between.chunks_exact_mut(count) {
            let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|value| *value = (*value - highest).exp());
            let total: f32 = row.iter().sum();
            row.iter_mut().for_each(|value| *value = *value / total + eps);
        }
        for iteration in 0..iterations {
            if iteration > 0 {
                for row in between.chunks_exact_mut(count) {
                    let total = row.iter().sum::<f32>() + eps;
                    row.iter_mut().for_each(|value| *value /= total);
                }
            }
            for column in 0..count {
                let cells = || (0..count).map(|row| row * count + column);
                let total = cells().map(|cell| between[cell]).sum::<f32>() + eps;
                cells().for_each(|cell| between[cell] /= total);
            }
        }
    }

    /// Joins what a branch gives, `[tokens, d_model]` times `factor`, to the streams `x` that it has read.
    pub fn write(&self, compute: Compute<'_>, factor: f32, y: &[f32], s: &StreamScratch, x: &mut [f32]) {
        let (width, d, count) = (self.width(), self.d_model, self.spec.count);
        let kept = (1 + count) * count;
        compute.pool.chunks(x, width, TOKENS, |range, x| {
            let mut before = [0.0; MOST_STREAMS];
            for (token, x) in range.zip(x.chunks_exact_mut(width)) {
                let (given, between) = s.mixes[token * kept..][..kept].split_at(count);
                let y = &y[token * d..][..d];
                for i in 0..d {
                    let before = &mut before[..count];
                    before.iter_mut().enumerate().for_each(|(stream, value)| *value = x[stream * d + i]);
                    for to in 0..count {
                        let mut sum = factor * given[to] * y[i];
                        for (from, value) in before.iter().enumerate() {
                            sum += between[from * count + to] * value;
                        }
                        x[to * d + i] = sum;
                    }
                }
            }
        });
    }

    /// Copies embeddings, `[tokens, d_model]`, to all streams.
    pub fn spread(compute: Compute<'_>, count: usize, embedded: &[f32], d_model: usize, x: &mut [f32]) {
        let width = count * d_model;
        compute.pool.rows(x, width, |range, x| {
            let from = embedded[range.start * d_model..range.end * d_model].chunks_exact(d_model);
            for (embedded, x) in from.zip(x.chunks_exact_mut(width)) {
                x.chunks_exact_mut(d_model).for_each(|stream| stream.copy_from_slice(embedded));
            }
        });
    }
}

/// Tokens of one task that joins what a branch gives.
const TOKENS: usize = 8;

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
