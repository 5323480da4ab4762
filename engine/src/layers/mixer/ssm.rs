//! A Mamba-2 block (arXiv 2405.21060): a short convolution, then for each head a memory that forgets, takes
//! up what the step weighs, and is read. Tokens are computed one after the other, heads beside each other, so
//! the bits do not depend on how a text is cut. It must not know how a state is kept.

use std::ops::Range;

use moelten_loader::spec::SsmSpec;
use moelten_quant::{HeadMatrix, Kernels, SpaceStep};

use super::contract::Mixer;
use super::recurrence::{ShortConv, begin, finish, silu, softplus};
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
    /// One token of a head: `memory` is `[head_dim, state]`, `x` and `out` are `[head_dim]`, `b` and `c` are
    /// `[state]`.
    fn step(
        kernels: &Kernels,
        matrix: HeadMatrix<'_>,
        (x, b, c): (&[f32], &[f32], &[f32]),
        (keep, step, skip): (f32, f32, f32),
        out: &mut [f32],
    ) {
        kernels.space_step(SpaceStep { matrix, keep, x, step, b, c }, out);
        out.iter_mut().zip(x).for_each(|(out, x)| *out += skip * x);
    }

    /// What a head keeps of its memory, and how much it takes up, for the logit of a step.
    fn rates(&self, logit: f32, head: usize) -> (f32, f32) {
        let x = logit + self.step_bias[head];
        let step = softplus(x);
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
        let SsmSpec { heads, head_dim, groups, state: width, .. } = self.spec;
        let (wide, inner) = (self.spec.channels(), self.spec.inner());
        let DeltaScratch { channels, convolved, steps, by_head, mixed, .. } = &mut s.delta;
        let (taps, memories) = begin(state, self.spec.taps_kept());
        let convolved = &mut convolved[..tokens.len() * wide];
        let conv = ShortConv { taps: &self.conv, bias: &self.conv_bias, width: wide };
        conv.run(compute, taps, &channels[tokens.start * wide..tokens.end * wide], convolved, |_| {});
        let convolved = &*convolved;
        let steps = &steps[tokens.start * heads..tokens.end * heads];
        let outputs = (&mut mixed[tokens.start * inner..tokens.end * inner], head_dim);
        memories.heads(compute.pool, (head_dim * width, 1), by_head, outputs, |head, memory, out| {
            let group = head / (heads / groups);
            let HeadMatrix { mut before, now } = memory;
            for (t, out) in out.chunks_exact_mut(head_dim).enumerate() {
                let row = &convolved[t * wide..][..wide];
                let x = &row[head * head_dim..][..head_dim];
                let b = &row[inner + group * width..][..width];
                let c = &row[inner + (groups + group) * width..][..width];
                let (keep, step) = self.rates(steps[t * heads + head], head);
                let matrix = HeadMatrix { before: before.take(), now: &mut *now };
                Self::step(compute.kernels, matrix, (x, b, c), (keep, step, self.skip[head]), out);
            }
        });
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
        let of_group = inner / self.spec.groups;
        finish(compute, &self.out, &mut s.delta, products, out, |mixed, gates| {
            mixed.iter_mut().zip(gates).for_each(|(x, &gate)| *x *= silu(gate));
            for token in mixed.chunks_exact_mut(inner) {
                let groups = token.chunks_exact_mut(of_group).zip(self.norm.chunks_exact(of_group));
                groups.for_each(|(x, w)| rms_in_place(compute.kernels, x, w, self.spec.norm_eps));
            }
        })
    }

    fn pass_tokens(&self) -> usize {
        PASS
    }
}
