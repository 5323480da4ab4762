//! A Mamba-2 block (arXiv 2405.21060): a short convolution, then for each head a memory that forgets, takes
//! up what the step weighs, and is read. Tokens are computed one after the other, heads beside each other, so
//! the bits do not depend on how a text is cut. It must not know how a state is kept.

use std::ops::Range;

use moelten_loader::spec::SsmSpec;
use moelten_quant::Kernels;

use super::contract::Mixer;
use super::history::{History, keep_last};
use crate::layers::linear::{Compute, Linear};
use crate::layers::norm::rms_in_place;
use crate::layers::rope::Angles;
use crate::layers::scratch::{AttentionScratch, DeltaScratch, PASS, ProductScratch};
use crate::state::LayerState;

/// The weights of a Mamba-2 block.
#[derive(Debug, Clone)]
pub struct Ssm {
    /// Shapes and options.
    pub spec: SsmSpec,
    /// `z`, channels and steps, `[projected, d_model]`.
    pub input: Linear,
    /// Taps of the convolution, the last for the present token, `[channels, kernel]`.
    pub conv: Vec<f32>,
    /// `[channels]`; empty without biases.
    pub conv_bias: Vec<f32>,
    /// Rate of forgetting of each head, below 0, `[heads]`.
    pub decay: Vec<f32>,
    /// Added to the steps, `[heads]`.
    pub step_bias: Vec<f32>,
    /// What of a head's input goes past the memory, `[heads]`.
    pub skip: Vec<f32>,
    /// Weights of the norm of outputs, `[inner]`.
    pub norm: Vec<f32>,
    /// Output projection, `[d_model, inner]`.
    pub out: Linear,
}

impl Ssm {
    /// The convolution of some tokens and its activation, into `out`, `[tokens, channels]`. `before` are the
    /// channels of the tokens before them, `[kernel - 1, channels]`, which become those of the last ones.
    fn convolve(&self, compute: Compute<'_>, before: &mut [f32], x: &[f32], out: &mut [f32]) {
        let (channels, taps) = (self.spec.channels(), self.spec.conv_kernel);
        let history = History { before: &*before, present: x, width: channels };
        compute.pool.rows(out, channels, |range, out| {
            for (t, out) in range.zip(out.chunks_exact_mut(channels)) {
                for (channel, out) in out.iter_mut().enumerate() {
                    let bias = self.conv_bias.get(channel).copied().unwrap_or(0.0);
                    let sum = history.convolve(t, channel, &self.conv[channel * taps..][..taps], bias);
                    *out = sum / (1.0 + (-sum).exp());
                }
            }
        });
        keep_last(before, x, channels);
    }

    /// One token of a head: `memory` is `[head_dim, state]`, `x` and `out` are `[head_dim]`, `b` and `c` are
    /// `[state]`.
    fn step(
        kernels: &Kernels,
        memory: &mut [f32],
        (x, b, c): (&[f32], &[f32], &[f32]),
        (keep, step, skip): (f32, f32, f32),
        out: &mut [f32],
    ) {
        for ((row, &x), out) in memory.chunks_exact_mut(b.len()).zip(x).zip(out) {
            kernels.scale(keep, row);
            kernels.axpy(step * x, b, row);
            *out = kernels.dot(row, c) + skip * x;
        }
    }

    /// What a head keeps of its memory, and how much it takes up, for the logit of a step.
    fn rates(&self, logit: f32, head: usize) -> (f32, f32) {
        let x = logit + self.step_bias[head];
        // ln(1 + e^x), which is x where e^x would lose the 1.
        let step = if x > 20.0 { x } else { x.exp().ln_1p() };
        ((self.decay[head] * step).exp(), step)
    }
}

impl Mixer for Ssm {
    fn project(
        &self,
        compute: Compute<'_>,
        _: &[Angles],
        _: usize,
        x: &[f32],
        s: &mut AttentionScratch,
        products: &mut ProductScratch,
    ) {
        let tokens = x.len() / self.out.weight.rows;
        let (inner, wide, heads) = (self.spec.inner(), self.spec.channels(), self.spec.heads);
        compute.pack(x, self.out.weight.rows, [self.input.weight.format], &mut products.packed);
        let DeltaScratch { projected, channels, gates, steps, .. } = &mut s.delta;
        let projected = &mut projected[..tokens * self.spec.projected()];
        compute.linear(&self.input, &products.packed, projected, &mut products.grouped);
        let rows = projected.chunks_exact(self.spec.projected());
        let places = channels.chunks_exact_mut(wide).zip(gates.chunks_exact_mut(inner));
        for ((row, (channels, gates)), steps) in rows.zip(places).zip(steps.chunks_exact_mut(heads)) {
            gates.copy_from_slice(&row[..inner]);
            channels.copy_from_slice(&row[inner..inner + wide]);
            steps.copy_from_slice(&row[inner + wide..]);
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
        let SsmSpec { heads, head_dim, groups, state: width, .. } = self.spec;
        let (wide, inner) = (self.spec.channels(), self.spec.inner());
        let DeltaScratch { channels, convolved, steps, by_head, mixed, .. } = &mut s.delta;
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
        let of_head = head_dim * width;
        let by_head = &mut by_head[..count * inner];
        let both = ((memories, of_head), (&mut *by_head, count * head_dim));
        compute.pool.chunks_of_two(both.0, both.1, 1, |range, memories, out| {
            let all = memories.chunks_exact_mut(of_head).zip(out.chunks_exact_mut(count * head_dim));
            for (head, (memory, out)) in range.zip(all) {
                if let Some((_, from)) = from {
                    memory.copy_from_slice(&from[head * of_head..][..of_head]);
                }
                let group = head / (heads / groups);
                for (t, out) in out.chunks_exact_mut(head_dim).enumerate() {
                    let row = &convolved[t * wide..][..wide];
                    let x = &row[head * head_dim..][..head_dim];
                    let b = &row[inner + group * width..][..width];
                    let c = &row[inner + (groups + group) * width..][..width];
                    let (keep, step) = self.rates(steps[t * heads + head], head);
                    Self::step(compute.kernels, memory, (x, b, c), (keep, step, self.skip[head]), out);
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
        let of_group = inner / self.spec.groups;
        compute.pool.rows(mixed, inner, |range, mixed| {
            let gates = &gates[range.start * inner..range.end * inner];
            mixed.iter_mut().zip(gates).for_each(|(x, gate)| *x *= gate / (1.0 + (-gate).exp()));
            for token in mixed.chunks_exact_mut(inner) {
                let groups = token.chunks_exact_mut(of_group).zip(self.norm.chunks_exact(of_group));
                groups.for_each(|(x, w)| rms_in_place(compute.kernels, x, w, self.spec.norm_eps));
            }
        });
        compute.pack(mixed, inner, [self.out.weight.format], &mut products.packed);
        compute.linear(&self.out, &products.packed, out, &mut products.grouped);
        mixed
    }

    fn pass_tokens(&self) -> usize {
        PASS
    }
}
