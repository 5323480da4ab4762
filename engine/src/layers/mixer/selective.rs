//! A Mamba block as Jamba has it (arXiv 2312.00752, 2403.19887): a short convolution, projections of what it
//! gives, then for each channel a memory that forgets, takes up what the step weighs, and is read. Tokens are
//! computed one after the other, channels beside each other, so the bits do not depend on how a text is cut.
//! It must not know how a state is kept.

use std::ops::Range;

use moelten_loader::spec::SelectiveSpec;

use super::contract::Mixer;
use super::recurrence::{ShortConv, begin, finish, silu, softplus};
use crate::layers::linear::{Compute, Linear};
use crate::layers::norm::rms_in_place;
use crate::layers::rope::Angles;
use crate::layers::scratch::{AttentionScratch, DeltaScratch, PASS, ProductScratch};
use crate::state::LayerState;

/// Channels of one task.
const CHANNELS: usize = 32;

/// The weights of a Mamba block.
#[derive(Debug, Clone)]
pub struct Selective {
    /// Shapes and options.
    pub spec: SelectiveSpec,
    /// `x` and `z`, `[2 * inner, d_model]`.
    pub input: Linear,
    /// Taps of the convolution, the last for the present token, `[inner, kernel]`.
    pub conv: Vec<f32>,
    /// `[inner]`; empty without biases.
    pub conv_bias: Vec<f32>,
    /// `t`, `B` and `C`, `[rank + 2 * state, inner]`.
    pub project: Linear,
    /// Weights of their norms, `[rank]`, `[state]`, `[state]`.
    pub norms: [Vec<f32>; 3],
    /// Steps with their bias, `[inner, rank]`.
    pub step: Linear,
    /// Rates of forgetting, below 0, `[inner, state]`.
    pub decay: Vec<f32>,
    /// What of a channel's input goes past the memory, `[inner]`.
    pub skip: Vec<f32>,
    /// Output projection, `[d_model, inner]`.
    pub out: Linear,
}

/// What a channel is computed with.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    /// `[tokens, inner]`.
    x: &'a [f32],
    /// Logits of steps, `[tokens, inner]`.
    steps: &'a [f32],
    /// `t`, `B` and `C`, `[tokens, rank + 2 * state]`.
    projected: &'a [f32],
}

impl Selective {
    /// All tokens of a channel: `memory` is `[state]`, `out` is `[tokens]`.
    fn channel(&self, channel: usize, inputs: Inputs<'_>, memory: &mut [f32], out: &mut [f32]) {
        let SelectiveSpec { inner, state, rank, .. } = self.spec;
        let decay = &self.decay[channel * state..][..state];
        for (t, out) in out.iter_mut().enumerate() {
            let (x, logit) = (inputs.x[t * inner + channel], inputs.steps[t * inner + channel]);
            let step = softplus(logit);
            let projected = &inputs.projected[t * self.spec.projected() + rank..][..2 * state];
            let (b, c) = projected.split_at(state);
            let mut sum = 0.0;
            for (((memory, decay), b), c) in memory.iter_mut().zip(decay).zip(b).zip(c) {
                *memory = (step * decay).exp() * *memory + step * x * b;
                sum += *memory * c;
            }
            *out = sum + self.skip[channel] * x;
        }
    }
}

impl Mixer for Selective {
    fn project(
        &self,
        compute: Compute<'_>,
        _: &[Angles],
        _: usize,
        x: &[f32],
        s: &mut AttentionScratch,
        products: &mut ProductScratch,
    ) {
        let (d_model, inner) = (self.out.weight.rows, self.spec.inner);
        let tokens = x.len() / d_model;
        compute.pack(x, d_model, [self.input.weight.format], &mut products.packed);
        let DeltaScratch { projected, channels, gates, .. } = &mut s.delta;
        let projected = &mut projected[..tokens * 2 * inner];
        compute.linear(&self.input, &products.packed, projected, &mut products.grouped);
        let places = channels.chunks_exact_mut(inner).zip(gates.chunks_exact_mut(inner));
        for (row, (channels, gates)) in projected.chunks_exact(2 * inner).zip(places) {
            channels.copy_from_slice(&row[..inner]);
            gates.copy_from_slice(&row[inner..]);
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
        let SelectiveSpec { inner, state: width, rank, norm_eps, .. } = self.spec;
        let (taps, memories) = begin(state, self.spec.taps_kept());
        let DeltaScratch { channels, convolved, steps, rates, by_head, mixed, inner: own, .. } = &mut s.delta;
        let count = tokens.len();
        let convolved = &mut convolved[..count * inner];
        let conv = ShortConv { taps: &self.conv, bias: &self.conv_bias, width: inner };
        conv.run(compute, taps, &channels[tokens.start * inner..tokens.end * inner], convolved, |_| {});
        compute.pack(convolved, inner, [self.project.weight.format], &mut own.packed);
        let projected = &mut steps[..count * self.spec.projected()];
        compute.linear(&self.project, &own.packed, projected, &mut own.grouped);
        let narrow = &mut by_head[..count * rank];
        for (row, narrow) in
            projected.chunks_exact_mut(self.spec.projected()).zip(narrow.chunks_exact_mut(rank))
        {
            let (t, rest) = row.split_at_mut(rank);
            let (b, c) = rest.split_at_mut(width);
            for (part, norm) in [&mut *t, b, c].into_iter().zip(&self.norms) {
                rms_in_place(compute.kernels, part, norm, norm_eps);
            }
            narrow.copy_from_slice(t);
        }
        compute.pack(narrow, rank, [self.step.weight.format], &mut own.packed);
        let logits = &mut rates[..count * inner];
        compute.linear(&self.step, &own.packed, logits, &mut own.grouped);
        let inputs = Inputs { x: convolved, steps: logits, projected };
        let outputs = (&mut mixed[tokens.start * inner..tokens.end * inner], 1);
        memories.heads(compute.pool, (width, CHANNELS), by_head, outputs, |channel, memory, out| {
            self.channel(channel, inputs, memory.moved(), out);
        });
    }

    fn skip(&self, tokens: Range<usize>, s: &mut AttentionScratch) {
        let inner = self.spec.inner;
        s.delta.mixed[tokens.start * inner..tokens.end * inner].fill(0.0);
    }

    fn output<'s>(
        &self,
        compute: Compute<'_>,
        s: &'s mut AttentionScratch,
        products: &mut ProductScratch,
        out: &mut [f32],
    ) -> &'s [f32] {
        finish(compute, &self.out, &mut s.delta, products, out, |mixed, gates| {
            mixed.iter_mut().zip(gates).for_each(|(x, &gate)| *x *= silu(gate));
        })
    }

    fn pass_tokens(&self) -> usize {
        PASS
    }
}
