//! A Mamba block as Jamba has it (arXiv 2312.00752, 2403.19887): a short convolution, projections of what it
//! gives, then for each channel a memory that forgets, takes up what the step weighs, and is read. Tokens are
//! computed one after the other, channels beside each other, so the bits do not depend on how a text is cut.
//! It must not know how a state is kept.

use std::ops::Range;

use moelten_loader::spec::SelectiveSpec;

use super::contract::Mixer;
use super::history::{History, keep_last};
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
    /// The convolution of some tokens and its activation, into `out`, `[tokens, inner]`. `before` are the
    /// inputs of the tokens before them, which become those of the last ones.
    fn convolve(&self, compute: Compute<'_>, before: &mut [f32], x: &[f32], out: &mut [f32]) {
        let (inner, taps) = (self.spec.inner, self.spec.conv_kernel);
        let history = History { before: &*before, present: x, width: inner };
        compute.pool.rows(out, inner, |range, out| {
            for (t, out) in range.zip(out.chunks_exact_mut(inner)) {
                for (channel, out) in out.iter_mut().enumerate() {
                    let bias = self.conv_bias.get(channel).copied().unwrap_or(0.0);
                    let sum = history.convolve(t, channel, &self.conv[channel * taps..][..taps], bias);
                    *out = sum / (1.0 + (-sum).exp());
                }
            }
        });
        keep_last(before, x, inner);
    }

    /// All tokens of a channel: `memory` is `[state]`, `out` is `[tokens]`.
    fn channel(&self, channel: usize, inputs: Inputs<'_>, memory: &mut [f32], out: &mut [f32]) {
        let SelectiveSpec { inner, state, rank, .. } = self.spec;
        let decay = &self.decay[channel * state..][..state];
        for (t, out) in out.iter_mut().enumerate() {
            let (x, logit) = (inputs.x[t * inner + channel], inputs.steps[t * inner + channel]);
            // ln(1 + e^x), which is x where e^x would lose the 1.
            let step = if logit > 20.0 { logit } else { logit.exp().ln_1p() };
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
        let LayerState::Recurrent(state) = state else { unreachable!("the model gives it this state") };
        let SelectiveSpec { inner, state: width, rank, norm_eps, .. } = self.spec;
        let (from, to) = state.step();
        let (taps, memories) = to.split_at_mut(self.spec.taps_kept());
        if let Some(from) = from {
            let (from_taps, from_memories) = from.split_at(self.spec.taps_kept());
            taps.copy_from_slice(from_taps);
            memories.copy_from_slice(from_memories);
        }
        let DeltaScratch { channels, convolved, steps, rates, by_head, mixed, inner: own, .. } = &mut s.delta;
        let count = tokens.len();
        let convolved = &mut convolved[..count * inner];
        self.convolve(compute, taps, &channels[tokens.start * inner..tokens.end * inner], convolved);
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
        let by_channel = &mut by_head[..count * inner];
        let both = ((memories, width), (&mut *by_channel, count));
        compute.pool.chunks_of_two(both.0, both.1, CHANNELS, |range, memories, out| {
            let all = memories.chunks_exact_mut(width).zip(out.chunks_exact_mut(count));
            for (channel, (memory, out)) in range.zip(all) {
                self.channel(channel, inputs, memory, out);
            }
        });
        let mixed = &mut mixed[tokens.start * inner..tokens.end * inner];
        for (t, mixed) in mixed.chunks_exact_mut(inner).enumerate() {
            mixed.iter_mut().enumerate().for_each(|(channel, to)| *to = by_channel[channel * count + t]);
        }
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
        let inner = self.spec.inner;
        let tokens = out.len() / self.out.weight.rows;
        let DeltaScratch { mixed, gates, .. } = &mut s.delta;
        let mixed = &mut mixed[..tokens * inner];
        compute.pool.rows(mixed, inner, |range, mixed| {
            let gates = &gates[range.start * inner..range.end * inner];
            mixed.iter_mut().zip(gates).for_each(|(x, gate)| *x *= gate / (1.0 + (-gate).exp()));
        });
        compute.pack(mixed, inner, [self.out.weight.format], &mut products.packed);
        compute.linear(&self.out, &products.packed, out, &mut products.grouped);
        mixed
    }

    fn pass_tokens(&self) -> usize {
        PASS
    }
}
