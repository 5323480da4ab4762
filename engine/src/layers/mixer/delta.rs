//! A gated delta net (arXiv 2412.06464), as Qwen3-Next and Qwen3.5 have it: a short convolution over queries,
//! keys and values, then for each value head a matrix that forgets, corrects what it holds under the key, and
//! is read with the query. Tokens are computed one after the other, heads beside each other, so the bits do
//! not depend on how a text is cut. It must not know how a state is kept.

use std::ops::Range;

use moelten_loader::spec::{DeltaLayout, DeltaOrder, DeltaSpec};
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

/// The weights of a gated delta net.
#[derive(Debug, Clone)]
pub struct Delta {
    /// Shapes and options.
    pub spec: DeltaSpec,
    /// The projections of a layout, in its order.
    pub inputs: Vec<Linear>,
    /// Taps of the convolution, the last for the present token, `[channels, kernel]`.
    pub conv: Vec<f32>,
    /// Rate of forgetting of each value head, below 0, `[value_heads]`.
    pub decay: Vec<f32>,
    /// Added to the logit of the step, `[value_heads]`.
    pub step_bias: Vec<f32>,
    /// Weights of the norm of outputs, `[value_dim]`.
    pub norm: Vec<f32>,
    /// Output projection, `[d_model, value_heads * value_dim]`.
    pub out: Linear,
}

impl Delta {
    /// Sorts the projected numbers of a token: channels of the convolution, gates, and for each value head
    /// the logits of the strength and of the step.
    fn sort(&self, parts: &[&[f32]], channels: &mut [f32], gates: &mut [f32], steps: &mut [f32]) {
        let DeltaSpec { key_heads, value_heads, key_dim, value_dim, .. } = self.spec;
        let (keys, of_key) = (key_heads * key_dim, value_heads / key_heads);
        let (strengths, steps) = steps.split_at_mut(value_heads);
        let by_key_head = |ba: &[f32], strengths: &mut [f32], steps: &mut [f32]| {
            for (head, ba) in ba.chunks_exact(2 * of_key).enumerate() {
                strengths[head * of_key..][..of_key].copy_from_slice(&ba[..of_key]);
                steps[head * of_key..][..of_key].copy_from_slice(&ba[of_key..]);
            }
        };
        match (self.spec.layout, parts) {
            (DeltaLayout::Apart, &[qkv, z, b, a]) => {
                channels.copy_from_slice(qkv);
                gates.copy_from_slice(z);
                strengths.copy_from_slice(b);
                steps.copy_from_slice(a);
            }
            (DeltaLayout::StepsByKeyHead, &[qkv, z, ba]) => {
                channels.copy_from_slice(qkv);
                gates.copy_from_slice(z);
                by_key_head(ba, strengths, steps);
            }
            (DeltaLayout::ByKeyHead, &[qkvz, ba]) => {
                let values = of_key * value_dim;
                let (q, rest) = channels.split_at_mut(keys);
                let (k, v) = rest.split_at_mut(keys);
                for (head, part) in qkvz.chunks_exact(2 * key_dim + 2 * values).enumerate() {
                    let (of_q, part) = part.split_at(key_dim);
                    let (of_k, part) = part.split_at(key_dim);
                    q[head * key_dim..][..key_dim].copy_from_slice(of_q);
                    k[head * key_dim..][..key_dim].copy_from_slice(of_k);
                    v[head * values..][..values].copy_from_slice(&part[..values]);
                    gates[head * values..][..values].copy_from_slice(&part[values..]);
                }
                by_key_head(ba, strengths, steps);
            }
            _ => unreachable!("a layout has its projections"),
        }
    }

    /// The convolution of some tokens and its activation, then norms of queries and keys, into `out`,
    /// `[tokens, channels]`. `before` are the channels of the tokens before them, `[kernel - 1, channels]`,
    /// which become those of the last ones.
    fn convolve(&self, compute: Compute<'_>, before: &mut [f32], x: &[f32], out: &mut [f32]) {
        let spec = &self.spec;
        let (channels, taps) = (spec.channels(), spec.conv_kernel);
        let (heads, key_dim) = (2 * spec.key_heads, spec.key_dim);
        let history = History { before: &*before, present: x, width: channels };
        compute.pool.rows(out, channels, |range, out| {
            for (t, out) in range.zip(out.chunks_exact_mut(channels)) {
                for (channel, out) in out.iter_mut().enumerate() {
                    let sum = history.convolve(t, channel, &self.conv[channel * taps..][..taps], 0.0);
                    *out = sum / (1.0 + (-sum).exp());
                }
                for (head, numbers) in out.chunks_exact_mut(key_dim).take(heads).enumerate() {
                    let root = if head < spec.key_heads { (key_dim as f32).sqrt().recip() } else { 1.0 };
                    let size = (compute.kernels.dot(numbers, numbers) + L2_EPS).sqrt().recip();
                    compute.kernels.scale(size * root, numbers);
                }
            }
        });
        keep_last(before, x, channels);
    }

    /// One token of a value head: `memory` is `[key_dim, value_dim]`, `out` is `[value_dim]`.
    #[allow(clippy::too_many_arguments, reason = "every argument is one of the operation's operands")]
    fn step(
        kernels: &Kernels,
        memory: &mut [f32],
        (q, k, v): (&[f32], &[f32], &[f32]),
        (decay, strength): (f32, f32),
        change: &mut [f32],
        out: &mut [f32],
    ) {
        let width = v.len();
        change.fill(0.0);
        for (row, &k) in memory.chunks_exact_mut(width).zip(k) {
            kernels.scale(decay, row);
            kernels.axpy(k, row, change);
        }
        for (change, v) in change.iter_mut().zip(v) {
            *change = strength * (v - *change);
        }
        out.fill(0.0);
        for ((row, &k), &q) in memory.chunks_exact_mut(width).zip(k).zip(q) {
            kernels.axpy(k, change, row);
            kernels.axpy(q, row, out);
        }
    }

    /// Decay and strength of a value head of a token.
    fn rates(&self, steps: &[f32], head: usize) -> (f32, f32) {
        let heads = self.spec.value_heads;
        let x = steps[heads + head] + self.step_bias[head];
        // ln(1 + e^x), which is x where e^x would lose the 1.
        let softplus = if x > 20.0 { x } else { x.exp().ln_1p() };
        ((self.decay[head] * softplus).exp(), 1.0 / (1.0 + (-steps[head]).exp()))
    }
}

impl Mixer for Delta {
    fn project(
        &self,
        compute: Compute<'_>,
        _: &[Angles],
        _: usize,
        x: &[f32],
        s: &mut AttentionScratch,
        products: &mut ProductScratch,
    ) {
        let d_model = self.out.weight.rows;
        let tokens = x.len() / d_model;
        compute.pack(x, d_model, self.inputs.iter().map(|l| l.weight.format), &mut products.packed);
        let DeltaScratch { projected, channels, gates, steps, .. } = &mut s.delta;
        let mut rest = &mut projected[..];
        let mut parts: [&[f32]; MOST_INPUTS] = [&[]; MOST_INPUTS];
        for (linear, to) in self.inputs.iter().zip(&mut parts) {
            let (part, others) = rest.split_at_mut(tokens * linear.weight.rows);
            compute.linear(linear, &products.packed, part, &mut products.grouped);
            (rest, *to) = (others, part);
        }
        let (wide, values, heads) =
            (self.spec.channels(), self.spec.value_heads * self.spec.value_dim, 2 * self.spec.value_heads);
        let rows = channels.chunks_exact_mut(wide).zip(gates.chunks_exact_mut(values));
        for (t, ((channels, gates), steps)) in
            rows.zip(steps.chunks_exact_mut(heads)).take(tokens).enumerate()
        {
            let mut of_token: [&[f32]; MOST_INPUTS] = [&[]; MOST_INPUTS];
            for ((linear, part), to) in self.inputs.iter().zip(&parts).zip(&mut of_token) {
                *to = &part[t * linear.weight.rows..][..linear.weight.rows];
            }
            self.sort(&of_token[..self.inputs.len()], channels, gates, steps);
        }
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
        let spec = &self.spec;
        let DeltaSpec { key_heads, value_heads, key_dim, value_dim, .. } = *spec;
        let (wide, values) = (spec.channels(), value_heads * value_dim);
        let DeltaScratch { channels, convolved, steps, by_head, mixed, .. } = &mut s.delta;
        let (from, to) = state.step();
        let (taps, memories) = to.split_at_mut(spec.conv_numbers());
        let from = from.map(|from| from.split_at(spec.conv_numbers()));
        if let Some((from, _)) = from {
            taps.copy_from_slice(from);
        }
        let x = &channels[tokens.start * wide..tokens.end * wide];
        let convolved = &mut convolved[..tokens.len() * wide];
        self.convolve(compute, taps, x, convolved);
        let (convolved, count) = (&*convolved, tokens.len());
        let steps = &steps[tokens.start * 2 * value_heads..tokens.end * 2 * value_heads];
        let of_head = key_dim * value_dim;
        let by_head = &mut by_head[..value_heads * count * value_dim];
        let both = ((memories, of_head), (&mut *by_head, count * value_dim));
        compute.pool.chunks_of_two(both.0, both.1, 1, |range, memories, out| {
            let heads = memories.chunks_exact_mut(of_head).zip(out.chunks_exact_mut(count * value_dim));
            let mut change = [0.0; MOST_VALUE_DIM];
            let change = &mut change[..value_dim];
            for (head, (memory, out)) in range.zip(heads) {
                if let Some((_, from)) = from {
                    memory.copy_from_slice(&from[head * of_head..][..of_head]);
                }
                let key_head = match spec.order {
                    DeltaOrder::Grouped => head / (value_heads / key_heads),
                    DeltaOrder::Tiled => head % key_heads,
                };
                for (t, out) in out.chunks_exact_mut(value_dim).enumerate() {
                    let row = &convolved[t * wide..][..wide];
                    let q = &row[key_head * key_dim..][..key_dim];
                    let k = &row[(key_heads + key_head) * key_dim..][..key_dim];
                    let v = &row[2 * key_heads * key_dim + head * value_dim..][..value_dim];
                    let rates = self.rates(&steps[t * 2 * value_heads..][..2 * value_heads], head);
                    Self::step(compute.kernels, memory, (q, k, v), rates, change, out);
                }
            }
        });
        let mixed = &mut mixed[tokens.start * values..tokens.end * values];
        for (t, mixed) in mixed.chunks_exact_mut(values).enumerate() {
            for (head, to) in mixed.chunks_exact_mut(value_dim).enumerate() {
                to.copy_from_slice(&by_head[(head * count + t) * value_dim..][..value_dim]);
            }
        }
    }

    fn skip(&self, tokens: Range<usize>, s: &mut AttentionScratch) {
        let values = self.spec.value_heads * self.spec.value_dim;
        s.delta.mixed[tokens.start * values..tokens.end * values].fill(0.0);
    }

    fn output<'s>(
        &self,
        compute: Compute<'_>,
        s: &'s mut AttentionScratch,
        products: &mut ProductScratch,
        out: &mut [f32],
    ) -> &'s [f32] {
        let values = self.spec.value_heads * self.spec.value_dim;
        let tokens = out.len() / self.out.weight.rows;
        let DeltaScratch { mixed, gates, .. } = &mut s.delta;
        let mixed = &mut mixed[..tokens * values];
        compute.pool.rows(mixed, values, |range, mixed| {
            rms_in_place(compute.kernels, mixed, &self.norm, self.spec.norm_eps);
            let gates = &gates[range.start * values..range.end * values];
            mixed.iter_mut().zip(gates).for_each(|(x, gate)| *x *= gate / (1.0 + (-gate).exp()));
        });
        compute.pack(mixed, values, [self.out.weight.format], &mut products.packed);
        compute.linear(&self.out, &products.packed, out, &mut products.grouped);
        mixed
    }

    fn pass_tokens(&self) -> usize {
        PASS
    }
}

/// The most projections of a layout.
const MOST_INPUTS: usize = 4;
/// The widest value head; the lowering refuses wider ones.
const MOST_VALUE_DIM: usize = 1024;
