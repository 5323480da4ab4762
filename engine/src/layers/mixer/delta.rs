//! A gated delta net (arXiv 2412.06464), as Qwen3-Next and Qwen3.5 have it: a short convolution over queries,
//! keys and values, then for each value head a matrix that forgets, corrects what it holds under the key, and
//! is read with the query. Tokens are computed one after the other, heads beside each other, so the bits do
//! not depend on how a text is cut. It must not know how a state is kept.

use std::ops::Range;

use moelten_loader::spec::{DeltaLayout, DeltaOrder, DeltaSpec};
use moelten_quant::{DeltaStep, HeadMatrix};

use super::contract::Mixer;
use super::recurrence::{
    MOST_HEAD_DIM, ShortConv, begin, finish, norm_queries_and_keys, sigmoid, silu, softplus,
};
use crate::layers::linear::{Compute, Linear};
use crate::layers::norm::rms_in_place;
use crate::layers::rope::Angles;
use crate::layers::scratch::{AttentionScratch, DeltaScratch, PASS, ProductScratch};
use crate::state::LayerState;

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

    /// Decay and strength of a value head of a token.
    fn rates(&self, steps: &[f32], head: usize) -> (f32, f32) {
        let heads = self.spec.value_heads;
        let x = steps[heads + head] + self.step_bias[head];
        ((self.decay[head] * softplus(x)).exp(), sigmoid(steps[head]))
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
        let spec = &self.spec;
        let DeltaSpec { key_heads, value_heads, key_dim, value_dim, .. } = *spec;
        let (wide, values, logits) = (spec.channels(), value_heads * value_dim, 2 * value_heads);
        let DeltaScratch { channels, convolved, steps, by_head, mixed, .. } = &mut s.delta;
        let (taps, memories) = begin(state, spec.conv_numbers());
        let convolved = &mut convolved[..tokens.len() * wide];
        let kernels = compute.kernels;
        let conv = ShortConv { taps: &self.conv, bias: &[], width: wide };
        conv.run(compute, taps, &channels[tokens.start * wide..tokens.end * wide], convolved, |row| {
            norm_queries_and_keys(kernels, row, key_heads, key_dim);
        });
        let convolved = &*convolved;
        let steps = &steps[tokens.start * logits..tokens.end * logits];
        let outputs = (&mut mixed[tokens.start * values..tokens.end * values], value_dim);
        memories.heads(compute.pool, (key_dim * value_dim, 1), by_head, outputs, |head, memory, out| {
            let HeadMatrix { mut before, now } = memory;
            let mut keep = [0.0; MOST_HEAD_DIM];
            let keep = &mut keep[..key_dim];
            let key_head = match spec.order {
                DeltaOrder::Grouped => head / (value_heads / key_heads),
                DeltaOrder::Tiled => head % key_heads,
            };
            for (t, out) in out.chunks_exact_mut(value_dim).enumerate() {
                let row = &convolved[t * wide..][..wide];
                let q = &row[key_head * key_dim..][..key_dim];
                let k = &row[(key_heads + key_head) * key_dim..][..key_dim];
                let v = &row[2 * key_heads * key_dim + head * value_dim..][..value_dim];
                let (decay, strength) = self.rates(&steps[t * logits..][..logits], head);
                keep.fill(decay);
                let matrix = HeadMatrix { before: before.take(), now: &mut *now };
                kernels.delta_step(DeltaStep { matrix, keep, q, k, v, strength }, out);
            }
        });
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
        finish(compute, &self.out, &mut s.delta, products, out, |mixed, gates| {
            rms_in_place(compute.kernels, mixed, &self.norm, self.spec.norm_eps);
            let sigmoid = self.spec.sigmoid_gate;
            mixed.iter_mut().zip(gates).for_each(|(x, &gate)| {
                *x *= if sigmoid { 1.0 / (1.0 + (-gate).exp()) } else { silu(gate) };
            });
        })
    }

    fn pass_tokens(&self) -> usize {
        PASS
    }
}

/// The most projections of a layout.
const MOST_INPUTS: usize = 4;
