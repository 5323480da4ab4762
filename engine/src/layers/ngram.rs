//! Numbers of runs of tokens (Qwen3.8): rows of a large table, chosen by a hash of the last tokens, gated by
//! each residual stream and convolved over earlier tokens. The table stays in its file. Each token is
//! computed by itself, so the bits do not depend on how a text is cut. It must not know how a state is kept.

use std::ops::Range;

use moelten_loader::spec::{NgramHash, NgramSpec};

use crate::error::Result;
use crate::layers::linear::{Compute, Linear};
use crate::layers::norm::rms_in_place;
use crate::layers::scratch::ProductScratch;
use crate::layers::streams::STREAM_TOKENS;
use crate::weights::embedding::Embedding;

/// The weights of a branch with numbers of runs of tokens.
pub struct Ngram {
    /// Shapes and options.
    pub spec: NgramSpec,
    /// Width of a residual stream.
    pub d_model: usize,
    /// Parts of the table, one below the other, each with its first row.
    pub table: Vec<(u64, Embedding)>,
    /// The numbers of the hash.
    pub hash: NgramHash,
    /// Keys of streams, `[streams * d_model, read]`.
    pub key: Linear,
    /// Values, `[d_model, read]`.
    pub value: Linear,
    /// Weights of the norms of keys, of streams, and of what is convolved, `[streams * d_model]` each.
    pub norms: [Vec<f32>; 3],
    /// Taps of the convolution, `[streams * d_model, kernel]`.
    pub taps: Vec<f32>,
}

/// Buffers for some tokens; empty in models without such numbers.
#[derive(Default)]
pub struct NgramScratch {
    /// Rows of the table, `[tokens, heads]`.
    pub rows: Vec<u32>,
    /// Those of a part of it, with their places among all.
    some: Vec<(u32, usize)>,
    /// Their numbers, `[tokens, read]`.
    read: Vec<f32>,
    /// The numbers of a part.
    part: Vec<f32>,
    /// Keys, and later gated values, `[tokens, streams * d_model]`.
    keys: Vec<f32>,
    /// What is convolved, `[tokens, streams * d_model]`.
    normed: Vec<f32>,
    /// Values, `[tokens, d_model]`.
    values: Vec<f32>,
}

impl NgramScratch {
    /// Buffers for passes of up to `chunk` tokens.
    pub fn new(spec: Option<&NgramSpec>, width: usize, d_model: usize, chunk: usize) -> Self {
        let Some(spec) = spec else { return Self::default() };
        let (tokens, read) = (STREAM_TOKENS.min(chunk), spec.read_width());
        let numbers = |width: usize| vec![0.0; tokens * width];
        Self {
            rows: Vec::with_capacity(tokens * spec.all_heads()),
            some: Vec::with_capacity(tokens * spec.all_heads()),
            read: numbers(read),
            part: numbers(read),
            keys: numbers(width),
            normed: numbers(width),
            values: numbers(d_model),
        }
    }

    /// Numbers that [`Self::new`] allocates.
    pub fn numbers_for(spec: Option<&NgramSpec>, width: usize, d_model: usize, chunk: usize) -> usize {
        spec.map_or(0, |spec| STREAM_TOKENS.min(chunk) * (2 * spec.read_width() + 2 * width + d_model))
    }

    /// Numbers of the buffers.
    pub fn numbers(&self) -> usize {
        let all = [&self.read, &self.part, &self.keys, &self.normed, &self.values];
        all.iter().map(|buffer| buffer.capacity()).sum()
    }
}

impl Ngram {
    /// Width of all streams of a token.
    fn width(&self) -> usize {
        self.key.weight.rows
    }

    /// Appends the rows of the table for tokens that follow each other to `rows`. `before` are the tokens
    /// before them, the last one first, plus 1; 0 stands for what is before the text.
    pub fn rows_of(&self, before: &mut [f32], tokens: &[u32], rows: &mut Vec<u32>) {
        let NgramHash { factors, first, rows: of_heads } = &self.hash;
        for &token in tokens {
            let mut hash = i64::from(token).wrapping_mul(factors[0] as i64);
            let mut ended = false;
            for (run, &known) in before.iter().enumerate() {
                let known = if ended || known < 1.0 { self.spec.end } else { known as u32 - 1 };
                // A run does not reach over the end of a text.
                ended |= known == self.spec.end;
                hash ^= i64::from(known).wrapping_mul(factors[run + 1] as i64);
                for head in run * self.spec.heads..(run + 1) * self.spec.heads {
                    rows.push((hash.rem_euclid(of_heads[head] as i64) as u64 + first[head]) as u32);
                }
            }
            before.rotate_right(1);
            before[0] = (token + 1) as f32;
        }
    }

    /// Reads the rows of `s.rows` and projects them.
    ///
    /// # Errors
    /// As [`Embedding::rows`].
    pub fn project(
        &self,
        compute: Compute<'_>,
        stop: &dyn Fn() -> bool,
        s: &mut NgramScratch,
        products: &mut ProductScratch,
    ) -> Result<()> {
        let (cols, read) = (self.spec.width, self.spec.read_width());
        let NgramScratch { rows, some, read: numbers, part, keys, values, .. } = s;
        let tokens = rows.len() / self.spec.all_heads();
        let ends = self.table.iter().skip(1).map(|(first, _)| *first).chain([u64::MAX]);
        for ((first, table), end) in self.table.iter().zip(ends) {
            let own =
                |row: u32| (*first..end).contains(&u64::from(row)).then(|| (u64::from(row) - first) as u32);
            some.clear();
            some.extend(rows.iter().enumerate().filter_map(|(place, &row)| Some((own(row)?, place))));
            let part = &mut part[..some.len() * cols];
            let from = (compute.tensors, compute.pool);
            table.rows(from, some.iter().map(|&(row, _)| row), stop, part)?;
            for (&(_, place), part) in some.iter().zip(part.chunks_exact(cols)) {
                numbers[place * cols..][..cols].copy_from_slice(part);
            }
        }
        let numbers = &numbers[..tokens * read];
        let formats = [self.key.weight.format, self.value.weight.format];
        compute.pack(numbers, read, formats, &mut products.packed);
        for (linear, out) in [(&self.key, keys), (&self.value, values)] {
            let out = &mut out[..tokens * linear.weight.rows];
            compute.linear(linear, &products.packed, out, &mut products.grouped);
        }
        Ok(())
    }

    /// Adds what tokens of one sequence get to their streams `x`, after [`Self::project`]. `tokens` are their
    /// places in `s`; `before` is what was convolved of the tokens before them, `[reach, streams * d_model]`,
    /// the last one last, and becomes that of the last of them.
    pub fn join(
        &self,
        compute: Compute<'_>,
        before: &mut [f32],
        tokens: Range<usize>,
        s: &mut NgramScratch,
        x: &mut [f32],
    ) {
        let (width, d) = (self.width(), self.d_model);
        let at = tokens.start * width..tokens.end * width;
        let (keys, normed) = (&mut s.keys[at.clone()], &mut s.normed[at]);
        let values = &s.values[tokens.start * d..tokens.end * d];
        {
            let x = &*x;
            compute.pool.chunks_of_two(
                (&mut *keys, width),
                (&mut *normed, width),
                1,
                |range, keys, normed| {
                    let rows = keys.chunks_exact_mut(width).zip(normed.chunks_exact_mut(width));
                    for (token, (keys, normed)) in range.zip(rows) {
                        normed.copy_from_slice(&x[token * width..][..width]);
                        self.gate(compute, &values[token * d..][..d], keys, normed);
                    }
                },
            );
        }
        let (gated, normed, past) = (&*keys, &*normed, &*before);
        compute.pool.rows(x, width, |range, x| {
            for (token, x) in range.zip(x.chunks_exact_mut(width)) {
                for (channel, x) in x.iter_mut().enumerate() {
                    let sum = self.convolve(past, normed, (token, channel));
                    *x += gated[token * width + channel] + sum / (1.0 + (-sum).exp());
                }
            }
        });
        crate::layers::mixer::history::keep_last(before, normed, width);
    }

    /// Gates the value of a token for each stream: `keys` becomes the gated values, and `normed`, which holds
    /// the streams, these under their norm.
    fn gate(&self, compute: Compute<'_>, value: &[f32], keys: &mut [f32], normed: &mut [f32]) {
        let (d, eps, kernels) = (self.d_model, self.spec.norm_eps, compute.kernels);
        let [key_norm, query_norm, conv_norm] = &self.norms;
        let root = (d as f32).sqrt();
        for (stream, (key, query)) in keys.chunks_exact_mut(d).zip(normed.chunks_exact_mut(d)).enumerate() {
            let at = stream * d..(stream + 1) * d;
            rms_in_place(kernels, key, &key_norm[at.clone()], eps);
            rms_in_place(kernels, query, &query_norm[at.clone()], eps);
            let score = kernels.dot(key, query) / root;
            let steep = score.abs().max(LEAST_SCORE).sqrt().copysign(score);
            let gate = if score == 0.0 { 0.5 } else { 1.0 / (1.0 + (-steep).exp()) };
            key.copy_from_slice(value);
            kernels.scale(gate, key);
            query.copy_from_slice(key);
            rms_in_place(kernels, query, &conv_norm[at], eps);
        }
    }

    /// The convolution of a channel at a token.
    fn convolve(&self, past: &[f32], normed: &[f32], (token, channel): (usize, usize)) -> f32 {
        let (width, kernel, apart) = (self.width(), self.spec.kernel, self.spec.most_tokens);
        let (reach, mut sum) = (self.spec.reach(), 0.0);
        for (tap, weight) in self.taps[channel * kernel..][..kernel].iter().enumerate() {
            let input = match (token + tap * apart).checked_sub(reach) {
                None => past[(token + tap * apart) * width + channel],
                Some(now) => normed[now * width + channel],
            };
            sum += weight * input;
        }
        sum
    }
}

/// Scores nearer to 0 count as so near.
const LEAST_SCORE: f32 = 1e-6;
