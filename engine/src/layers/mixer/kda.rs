//! Kimi delta attention (arXiv 2510.26692): short convolutions over queries, keys and values, then for each
//! head a matrix whose rows forget at rates of their own, which corrects what it holds under the key, and is
//! read with the query. Tokens are computed one after the other, heads beside each other, so the bits do not
//! depend on how a text is cut. It must not know how a state is kept.

use std::ops::Range;

use moelten_loader::spec::KdaSpec;
use moelten_quant::{DeltaStep, HeadMatrix};

use super::contract::Mixer;
use super::recurrence::{MOST_HEAD_DIM, ShortConv, begin, finish, norm_queries_and_keys, sigmoid, softplus};
use crate::layers::linear::{Compute, Linear};
use crate::layers::norm::rms_in_place;
use crate::layers::rope::Angles;
use crate::layers::scratch::{AttentionScratch, DeltaScratch, PASS, ProductScratch};
use crate::state::LayerState;

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
    /// What a row of a head's matrix keeps, for the logit of its rate.
    fn keep(&self, logit: f32, head: usize, row: usize) -> f32 {
        let x = logit + self.rate_bias[head * self.spec.head_dim + row];
        let decay = self.decay[head];
        match self.spec.lower_bound {
            Some(bound) => (bound / (1.0 + (decay * x).exp())).exp(),
            None => (decay * softplus(x)).exp(),
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
        let KdaSpec { heads, head_dim, .. } = self.spec;
        let inner = self.spec.inner();
        let wide = 3 * inner;
        let DeltaScratch { channels, convolved, steps, rates, by_head, mixed, .. } = &mut s.delta;
        let (taps, memories) = begin(state, self.spec.taps_kept());
        let convolved = &mut convolved[..tokens.len() * wide];
        let kernels = compute.kernels;
        let conv = ShortConv { taps: &self.conv, bias: &[], width: wide };
        conv.run(compute, taps, &channels[tokens.start * wide..tokens.end * wide], convolved, |row| {
            norm_queries_and_keys(kernels, row, heads, head_dim);
        });
        let convolved = &*convolved;
        let steps = &steps[tokens.start * heads..tokens.end * heads];
        let rates = &rates[tokens.start * inner..tokens.end * inner];
        let outputs = (&mut mixed[tokens.start * inner..tokens.end * inner], head_dim);
        memories.heads(compute.pool, (head_dim * head_dim, 1), by_head, outputs, |head, memory, out| {
            let HeadMatrix { mut before, now } = memory;
            let mut keep = [0.0; MOST_HEAD_DIM];
            let keep = &mut keep[..head_dim];
            for (t, out) in out.chunks_exact_mut(head_dim).enumerate() {
                let row = &convolved[t * wide + head * head_dim..];
                let (q, k, v) = (&row[..head_dim], &row[inner..][..head_dim], &row[2 * inner..][..head_dim]);
                let logits = &rates[t * inner + head * head_dim..][..head_dim];
                for (row, (keep, &logit)) in keep.iter_mut().zip(logits).enumerate() {
                    *keep = self.keep(logit, head, row);
                }
                let matrix = HeadMatrix { before: before.take(), now: &mut *now };
                let strength = sigmoid(steps[t * heads + head]);
                kernels.delta_step(DeltaStep { matrix, keep, q, k, v, strength }, out);
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
        finish(compute, &self.out, &mut s.delta, products, out, |mixed, gates| {
            rms_in_place(compute.kernels, mixed, &self.norm, self.spec.norm_eps);
            mixed.iter_mut().zip(gates).for_each(|(x, &gate)| *x *= sigmoid(gate));
        })
    }

    fn pass_tokens(&self) -> usize {
        PASS
    }
}
