//! Kimi delta attention (arXiv 2510.26692): short convolutions over queries, keys and values, then for each
//! head a matrix whose rows forget at rates of their own, which corrects what it holds under the key, and is
//! read with the query. Tokens are computed one after the other, heads beside each other, so the bits do not
//! depend on how a text is cut. It must not know how a state is kept.

use std::ops::Range;

use moelten_loader::spec::KdaSpec;
use moelten_quant::Kernels;

use super::contract::Mixer;
use super::history::{History, keep_last};
use crate::layers::linear::{Compute, Linear};
use crate::layers::norm::rms_in_place;
use crate::layers::rope::Angles;
use crate::layers::scratch::{AttentionScratch, DeltaScratch, PASS, ProductScratch};
use crate::state::LayerState;

/// Added to the sum of squares of queries and keys.
const L2_EPS: f32 = 1e-6;

/// One matrix, or two with a narrow vector between.
#[derive(Debug, Clone)]
pub struct Narrowed {
    /// `[rank, d_model]`.
    pub down: Option<Linear>,
    /// `[inner, rank]` or `[inner, d_model]`.
    pub up: Linear,
}

/// The weights of Kimi delta attention.
#[derive(Debug, Clone)]
pub struct Kda {
    /// Shapes and options.
    pub spec: KdaSpec,
    /// Queries, keys and values, `[inner, d_model]` each.
    pub qkv: [Linear; 3],
    /// Strengths, `[heads, d_model]`.
    pub strength: Linear,
    /// Rates of forgetting.
    pub rates: Narrowed,
    /// Gates on outputs.
    pub gates: Narrowed,
    /// Taps of the convolutions, the last for the present token, `[3 * inner, kernel]`.
    pub conv: Vec<f32>,
    /// `-e^a` of each head, `[heads]`.
    pub decay: Vec<f32>,
    /// Added to the logits of rates, `[inner]`.
    pub rate_bias: Vec<f32>,
    /// Weights of the norm of outputs, `[head_dim]`.
    pub norm: Vec<f32>,
    /// Output projection, `[d_model, inner]`.
    pub out: Linear,
}

impl Kda {
    /// The convolutions of some tokens and their activation, then norms of queries and keys, into `out`,
    /// `[tokens, 3 * inner]`. `before` are the inputs of the tokens before them, which become those of the
    /// last ones.
    fn convolve(&self, compute: Compute<'_>, before: &mut [f32], x: &[f32], out: &mut [f32]) {
        let KdaSpec { heads, head_dim, conv_kernel: taps, .. } = self.spec;
        let channels = 3 * self.spec.inner();
        let history = History { before: &*before, present: x, width: channels };
        compute.pool.rows(out, channels, |range, out| {
            for (t, out) in range.zip(out.chunks_exact_mut(channels)) {
                for (channel, out) in out.iter_mut().enumerate() {
                    let sum = history.convolve(t, channel, &self.conv[channel * taps..][..taps], 0.0);
                    *out = sum / (1.0 + (-sum).exp());
                }
                for (head, numbers) in out.chunks_exact_mut(head_dim).take(2 * heads).enumerate() {
                    let root = if head < heads { (head_dim as f32).sqrt().recip() } else { 1.0 };
                    let size = (compute.kernels.dot(numbers, numbers) + L2_EPS).sqrt().recip();
                    compute.kernels.scale(size * root, numbers);
                }
            }
        });
        keep_last(before, x, channels);
    }

    /// What a row of a head's matrix keeps, for the logit of its rate.
    fn keep(&self, logit: f32, head: usize, row: usize) -> f32 {
        let x = logit + self.rate_bias[head * self.spec.head_dim + row];
        let decay = self.decay[head];
        match self.spec.lower_bound {
            Some(bound) => (bound / (1.0 + (decay * x).exp())).exp(),
            None => {
                // ln(1 + e^x), which is x where e^x would lose the 1.
                let softplus = if x > 20.0 { x } else { x.exp().ln_1p() };
                (decay * softplus).exp()
            }
        }
    }

    /// One token of a head: `memory` is `[head_dim, head_dim]`, the others are `[head_dim]`. `keep` returns
    /// what a row keeps.
    #[allow(clippy::too_many_arguments, reason = "every argument is one of the operation's operands")]
    fn step(
        kernels: &Kernels,
        memory: &mut [f32],
        (q, k, v): (&[f32], &[f32], &[f32]),
        keep: impl Fn(usize) -> f32,
        strength: f32,
        change: &mut [f32],
        out: &mut [f32],
    ) {
        let width = v.len();
        change.fill(0.0);
        for (row, (cells, &k)) in memory.chunks_exact_mut(width).zip(k).enumerate() {
            kernels.scale(keep(row), cells);
            kernels.axpy(k, cells, change);
        }
        for (change, v) in change.iter_mut().zip(v) {
            *change = strength * (v - *change);
        }
        out.fill(0.0);
        for ((cells, &k), &q) in memory.chunks_exact_mut(width).zip(k).zip(q) {
            kernels.axpy(k, change, cells);
            kernels.axpy(q, cells, out);
        }
    }
}

impl Narrowed {
    /// The outputs of some tokens into `out`, `[tokens, inner]`. `narrow` is scratch; inputs are packed in
    /// `products`, which keep them if there is one matrix.
    fn project(
        &self,
        compute: Compute<'_>,
        x: &[f32],
        narrow: &mut [f32],
        products: &mut ProductScratch,
        out: &mut [f32],
    ) {
        let inputs = |linear: &Linear| (linear.weight.cols, linear.weight.format);
        let first = self.down.as_ref().unwrap_or(&self.up);
        let (d_model, format) = inputs(first);
        let tokens = x.len() / d_model;
        compute.pack(x, d_model, [format], &mut products.packed);
        if let Some(down) = &self.down {
            let (rank, format) = inputs(&self.up);
            let narrow = &mut narrow[..tokens * rank];
            compute.linear(down, &products.packed, narrow, &mut products.grouped);
            compute.pack(narrow, rank, [format], &mut products.packed);
        }
        compute.linear(&self.up, &products.packed, out, &mut products.grouped);
    }
}

impl Mixer for Kda {
    fn project(
        &self,
        compute: Compute<'_>,
        _: &[Angles],
        _: usize,
        x: &[f32],
        s: &mut AttentionScratch,
        products: &mut ProductScratch,
    ) {
        let (d_model, inner) = (self.out.weight.rows, self.spec.inner());
        let tokens = x.len() / d_model;
        let formats = self.qkv.iter().chain([&self.strength]).map(|linear| linear.weight.format);
        compute.pack(x, d_model, formats, &mut products.packed);
        let DeltaScratch { projected, channels, gates, steps, rates, .. } = &mut s.delta;
        let projected = &mut projected[..tokens * inner];
        for (number, linear) in self.qkv.iter().enumerate() {
            compute.linear(linear, &products.packed, projected, &mut products.grouped);
            let rows = channels.chunks_exact_mut(3 * inner).zip(projected.chunks_exact(inner));
            rows.for_each(|(channels, row)| channels[number * inner..][..inner].copy_from_slice(row));
        }
        let steps = &mut steps[..tokens * self.spec.heads];
        compute.linear(&self.strength, &products.packed, steps, &mut products.grouped);
        self.rates.project(compute, x, projected, products, &mut rates[..tokens * inner]);
        self.gates.project(compute, x, projected, products, &mut gates[..tokens * inner]);
    }

    fn mix(
        &self,
        compute: Compute<'_>,
        state: &mut LayerState,
        _: usize,
        tokens: Range<usize>,
        s: &mut AttentionScratch,
    ) {
        let LayerState::Recurrent(state) = state else { unreachable!("the model gives it this state") };
        let KdaSpec { heads, head_dim, .. } = self.spec;
        let inner = self.spec.inner();
        let wide = 3 * inner;
        let DeltaScratch { channels, convolved, steps, rates, by_head, mixed, .. } = &mut s.delta;
        let (from, to) = state.step();
        let (taps, memories) = to.split_at_mut(self.spec.taps_kept());
        let from = from.map(|from| from.split_at(self.spec.taps_kept()));
        if let Some((from, _)) = from {
            taps.copy_from_slice(from);
        }
        let x = &channels[tokens.start * wide..tokens.end * wide];
        let convolved = &mut convolved[..tokens.len() * wide];
        self.convolve(compute, taps, x, convolved);
        let (convolved, count) = (&*convolved, tokens.len());
        let steps = &steps[tokens.start * heads..tokens.end * heads];
        let rates = &rates[tokens.start * inner..tokens.end * inner];
        let of_head = head_dim * head_dim;
        let by_head = &mut by_head[..count * inner];
        let both = ((memories, of_head), (&mut *by_head, count * head_dim));
        compute.pool.chunks_of_two(both.0, both.1, 1, |range, memories, out| {
            let all = memories.chunks_exact_mut(of_head).zip(out.chunks_exact_mut(count * head_dim));
            let mut change = [0.0; MOST_HEAD_DIM];
            let change = &mut change[..head_dim];
            for (head, (memory, out)) in range.zip(all) {
                if let Some((_, from)) = from {
                    memory.copy_from_slice(&from[head * of_head..][..of_head]);
                }
                for (t, out) in out.chunks_exact_mut(head_dim).enumerate() {
                    let row = &convolved[t * wide + head * head_dim..];
                    let (q, k, v) =
                        (&row[..head_dim], &row[inner..][..head_dim], &row[2 * inner..][..head_dim]);
                    let logits = &rates[t * inner + head * head_dim..][..head_dim];
                    let keep = |row: usize| self.keep(logits[row], head, row);
                    let strength = 1.0 / (1.0 + (-steps[t * heads + head]).exp());
                    Self::step(compute.kernels, memory, (q, k, v), keep, strength, change, out);
                }
            }
        });
        let mixed = &mut mixed[tokens.start * inner..tokens.end * inner];
        for (t, mixed) in mixed.chunks_exact_mut(inner).enumerate() {
            for (head, to) in mixed.chunks_exact_mut(head_dim).enumerate() {
                to.copy_from_slice(&by_head[(head * count + t) * head_dim..][..head_dim]);
            }
        }
    }

    fn skip(&self, tokens: Range<usize>, s: &mut AttentionScratch) {
        let inner = self.spec.inner();
        s.delta.mixed[tokens.start * inner..tokens.end * inner].fill(0.0);
    }

    fn output<'s>(
        &self,
        compute: Compute<'_>,
        s: &'s mut AttentionScratch,
        products: &mut ProductScratch,
        out: &mut [f32],
    ) -> &'s [f32] {
        let inner = self.spec.inner();
        let tokens = out.len() / self.out.weight.rows;
        let DeltaScratch { mixed, gates, .. } = &mut s.delta;
        let mixed = &mut mixed[..tokens * inner];
        compute.pool.rows(mixed, inner, |range, mixed| {
            rms_in_place(compute.kernels, mixed, &self.norm, self.spec.norm_eps);
            let gates = &gates[range.start * inner..range.end * inner];
            mixed.iter_mut().zip(gates).for_each(|(x, gate)| *x *= 1.0 / (1.0 + (-gate).exp()));
        });
        compute.pack(mixed, inner, [self.out.weight.format], &mut products.packed);
        compute.linear(&self.out, &products.packed, out, &mut products.grouped);
        mixed
    }

    fn pass_tokens(&self) -> usize {
        PASS
    }
}

/// The widest head; the lowering refuses wider ones.
const MOST_HEAD_DIM: usize = 1024;
