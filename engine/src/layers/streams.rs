//! Several residual streams in place of one (hyper-connections, arXiv 2409.19606): the mix of them that a
//! branch reads, and how what it gives goes back to each. Each token is computed by itself, so the bits do
//! not depend on how a text is cut. It must not know which branch it is for.

use moelten_loader::spec::{MOST_STREAMS, StreamMix, StreamsSpec};
use moelten_loader::tensors::bank::MatrixRef;

use crate::layers::linear::{Compute, Linear, Packed};
use crate::layers::norm::rms_in_place;

/// Tokens whose mixes are computed at once: their streams are wide.
pub const STREAM_TOKENS: usize = 64;

/// The weights by which a branch, or the head, mixes streams.
#[derive(Debug, Clone)]
pub struct StreamWeights {
    /// How many streams there are, and how they are mixed.
    pub spec: StreamsSpec,
    /// Width of a stream.
    pub d_model: usize,
    /// Weights of the kind of mix.
    pub kind: MixWeights,
}

/// What one of the two ways to mix needs.
#[derive(Debug, Clone)]
pub enum MixWeights {
    /// One matrix gives all weights.
    Sinkhorn {
        /// `[rows, streams * d_model]`: the numbers of a token.
        matrix: MatrixRef,
        /// Added to them, `[rows]`.
        base: Vec<f32>,
        /// Factors on what is read, on what is written, and on weights from each to each; the first alone for
        /// the head.
        scale: Vec<f32>,
    },
    /// Every number has a gate.
    Gated {
        /// Weights of the norm of each stream, `[streams * d_model]`.
        norm: Vec<f32>,
        /// `[rank, streams * d_model]`.
        down: MatrixRef,
        /// `[streams * d_model, rank]`.
        up: MatrixRef,
        /// Weights of what a branch gives, `[streams, streams * d_model]`; `None` for the head.
        inject: Option<MatrixRef>,
    },
}

/// Buffers of mixes; empty in models with one stream.
pub struct StreamScratch {
    /// Normed streams of some tokens, `[STREAM_TOKENS, streams * d_model]`.
    flat: Vec<f32>,
    packed: Packed,
    /// The numbers of these tokens, or their narrow projection.
    values: Vec<f32>,
    /// Gates of these tokens, `[STREAM_TOKENS, streams * d_model]`; empty in Sinkhorn's mixes.
    gates: Vec<f32>,
    grouped: Vec<f32>,
    /// For each token of a batch the weights of what a branch gives, and those from each stream to each.
    mixes: Vec<f32>,
    /// What the present branch reads, `[tokens, d_model]`.
    pub read: Vec<f32>,
}

/// Widths of the buffers of a token: numbers or narrow projection, gates, and mixes.
fn widths(spec: StreamsSpec, d_model: usize) -> [usize; 3] {
    let count = spec.count;
    match spec.mix {
        StreamMix::Sinkhorn { .. } => [spec.rows(), 0, (count + 1) * count],
        StreamMix::Gated { rank, .. } => [rank, count * d_model, count],
    }
}

impl StreamScratch {
    /// Buffers for batches of `chunk` tokens; empty ones for models with one stream.
    pub fn new(streams: Option<StreamsSpec>, d_model: usize, chunk: usize) -> Self {
        let width = streams.map_or(0, |spec| spec.count * d_model);
        let [values, gates, mixes] = streams.map_or([0; 3], |spec| widths(spec, d_model));
        let some = STREAM_TOKENS.min(chunk);
        let numbers = |count: usize| vec![0.0; count];
        Self {
            flat: numbers(some * width),
            packed: Packed::with_capacity([(some, width.max(values))]),
            values: numbers(some * values),
            gates: numbers(some * gates),
            grouped: numbers(some * values.max(gates)),
            mixes: numbers(chunk * mixes),
            read: numbers(if width > 0 { chunk * d_model } else { 0 }),
        }
    }

    /// Numbers that [`Self::new`] allocates, and lines.
    pub fn sizes_for(streams: Option<StreamsSpec>, d_model: usize, chunk: usize) -> (usize, usize) {
        let Some(spec) = streams else { return (0, 0) };
        let [values, gates, mixes] = widths(spec, d_model);
        let (some, width) = (STREAM_TOKENS.min(chunk), spec.count * d_model);
        let of_some = some * (width + values + gates + values.max(gates));
        (of_some + chunk * (mixes + d_model), Packed::lines_for([(some, width.max(values))]))
    }

    /// Numbers of the buffers, and lines.
    pub fn sizes(&self) -> (usize, usize) {
        let all = [&self.flat, &self.values, &self.gates, &self.grouped, &self.mixes, &self.read];
        (all.iter().map(|buffer| buffer.capacity()).sum(), self.packed.lines())
    }
}

impl StreamWeights {
    /// Width of all streams of a token.
    pub fn width(&self) -> usize {
        self.spec.count * self.d_model
    }

    /// What a branch reads of `x`, `[tokens, streams, d_model]`, into `s.read`. The weights of what it gives
    /// stay in `s` for [`Self::write`].
    pub fn read(&self, compute: Compute<'_>, x: &[f32], s: &mut StreamScratch) {
        let (width, d) = (self.width(), self.d_model);
        // It comes back at the end.
        let mut read = std::mem::take(&mut s.read);
        let tokens = x.len() / width;
        for first in (0..tokens).step_by(STREAM_TOKENS) {
            let some = first..tokens.min(first + STREAM_TOKENS);
            let x = &x[some.start * width..some.end * width];
            let out = &mut read[some.start * d..some.end * d];
            match (&self.kind, self.spec.mix) {
                (MixWeights::Sinkhorn { matrix, base, scale }, StreamMix::Sinkhorn { .. }) => {
                    self.read_weighed(compute, (matrix, base, scale), x, first, s, out);
                }
                (MixWeights::Gated { norm, down, up, inject }, StreamMix::Gated { norm_eps, .. }) => {
                    self.norm_streams(compute, (norm, norm_eps), x, &mut s.flat);
                    self.read_gated(compute, (down, up, inject.as_ref()), first, s, out);
                }
                _ => unreachable!("weights are those of the spec's mix"),
            }
        }
        s.read = read;
    }

    /// Sinkhorn's mix of some tokens, the first of which is token `first` of the batch.
    fn read_weighed(
        &self,
        compute: Compute<'_>,
        (matrix, base, scale): (&MatrixRef, &[f32], &[f32]),
        x: &[f32],
        first: usize,
        s: &mut StreamScratch,
        out: &mut [f32],
    ) {
        let (width, d, rows, count) = (self.width(), self.d_model, matrix.rows, self.spec.count);
        let StreamMix::Sinkhorn { iterations, eps, norm_eps } = self.spec.mix else { return };
        let (tokens, kept) = (x.len() / width, rows - count);
        let flat = &mut s.flat[..x.len()];
        compute.pool.rows(flat, width, |range, flat| {
            let x = &x[range.start * width..range.end * width];
            for (x, flat) in x.chunks_exact(width).zip(flat.chunks_exact_mut(width)) {
                let square = compute.kernels.dot(x, x) / width as f32;
                flat.copy_from_slice(x);
                compute.kernels.scale((square + norm_eps).sqrt().recip(), flat);
            }
        });
        compute.pack(flat, width, [matrix.format], &mut s.packed);
        let values = &mut s.values[..tokens * rows];
        let linear = Linear { weight: *matrix, bias: None };
        compute.linear(&linear, &s.packed, values, &mut s.grouped);
        for (token, values) in values.chunks_exact_mut(rows).enumerate() {
            let (of_read, rest) = values.split_at_mut(count);
            for (value, base) in of_read.iter_mut().zip(base) {
                *value = sigmoid(*value * scale[0] + base) + eps;
            }
            let streams = &x[token * width..][..width];
            let read = &mut out[token * d..][..d];
            read.fill(0.0);
            for (weight, stream) in of_read.iter().zip(streams.chunks_exact(d)) {
                compute.kernels.axpy(*weight, stream, read);
            }
            if kept > 0 {
                self.weights(rest, (base, scale), (iterations, eps));
                s.mixes[(first + token) * kept..][..kept].copy_from_slice(rest);
            }
        }
    }

    /// Each stream of some tokens under its norm.
    fn norm_streams(&self, compute: Compute<'_>, (norm, eps): (&[f32], f32), x: &[f32], flat: &mut [f32]) {
        let (width, d) = (self.width(), self.d_model);
        compute.pool.rows(&mut flat[..x.len()], width, |range, flat| {
            flat.copy_from_slice(&x[range.start * width..range.end * width]);
            for token in flat.chunks_exact_mut(width) {
                for (stream, norm) in token.chunks_exact_mut(d).zip(norm.chunks_exact(d)) {
                    rms_in_place(compute.kernels, stream, norm, eps);
                }
            }
        });
    }

    /// The gated mix of some tokens, whose normed streams are in `s.flat`.
    fn read_gated(
        &self,
        compute: Compute<'_>,
        (down, up, inject): (&MatrixRef, &MatrixRef, Option<&MatrixRef>),
        first: usize,
        s: &mut StreamScratch,
        out: &mut [f32],
    ) {
        let (width, d, count, rank) = (self.width(), self.d_model, self.spec.count, down.rows);
        let (tokens, share) = (out.len() / d, (count as f32).recip());
        let StreamScratch { flat, packed, values, gates, grouped, mixes, .. } = s;
        let flat = &flat[..tokens * width];
        compute.pack(flat, width, [down.format], packed);
        let narrow = &mut values[..tokens * rank];
        compute.linear(&Linear { weight: *down, bias: None }, packed, narrow, grouped);
        if let Some(inject) = inject {
            compute.pack_also(flat, [inject.format], packed);
            let weights = &mut mixes[first * count..][..tokens * count];
            compute.linear(&Linear { weight: *inject, bias: None }, packed, weights, grouped);
            weights.iter_mut().for_each(|weight| *weight = 2.0 * sigmoid(*weight * share));
        }
        narrow.iter_mut().for_each(|x| {
            let scaled = *x * share;
            *x = scaled * sigmoid(scaled);
        });
        compute.pack(narrow, rank, [up.format], packed);
        let gates = &mut gates[..tokens * width];
        compute.linear(&Linear { weight: *up, bias: None }, packed, gates, grouped);
        let gates = &*gates;
        compute.pool.rows(out, d, |range, out| {
            for (token, out) in range.zip(out.chunks_exact_mut(d)) {
                let at = token * width..(token + 1) * width;
                let (flat, gates) = (&flat[at.clone()], &gates[at]);
                for (i, out) in out.iter_mut().enumerate() {
                    let of = |stream: usize| sigmoid(gates[stream * d + i]) * flat[stream * d + i];
                    *out = (0..count).map(of).sum::<f32>() * share;
                }
            }
        });
    }

    /// From numbers to weights: of what a branch gives for each stream, and from each stream to each.
    fn weights(&self, values: &mut [f32], (base, scale): (&[f32], &[f32]), (iterations, eps): (usize, f32)) {
        let count = self.spec.count;
        let (given, between) = values.split_at_mut(count);
        for (value, base) in given.iter_mut().zip(&base[count..]) {
            *value = 2.0 * sigmoid(*value * scale[1] + base);
        }
        for (value, base) in between.iter_mut().zip(&base[2 * count..]) {
            *value = *value * scale[2] + base;
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
        let gated = matches!(self.spec.mix, StreamMix::Gated { .. });
        let kept = if gated { count } else { (1 + count) * count };
        compute.pool.chunks(x, width, TOKENS, |range, x| {
            for (token, x) in range.zip(x.chunks_exact_mut(width)) {
                let (given, between) = s.mixes[token * kept..][..kept].split_at(count);
                let y = &y[token * d..][..d];
                if gated {
                    for (weight, stream) in given.iter().zip(x.chunks_exact_mut(d)) {
                        compute.kernels.axpy(factor * weight, y, stream);
                    }
                } else {
                    mix_streams(factor, (given, between), y, x);
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

/// Each stream of a token becomes what is given to it and the weighed sum of all streams.
fn mix_streams(factor: f32, (given, between): (&[f32], &[f32]), y: &[f32], x: &mut [f32]) {
    let (count, d) = (given.len(), y.len());
    let mut before = [0.0; MOST_STREAMS];
    let before = &mut before[..count];
    for (i, y) in y.iter().enumerate() {
        before.iter_mut().enumerate().for_each(|(stream, value)| *value = x[stream * d + i]);
        for (to, given) in given.iter().enumerate() {
            let mut sum = factor * given * y;
            for (from, value) in before.iter().enumerate() {
                sum += between[from * count + to] * value;
            }
            x[to * d + i] = sum;
        }
    }
}

/// Tokens of one task that joins what a branch gives.
const TOKENS: usize = 8;

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
