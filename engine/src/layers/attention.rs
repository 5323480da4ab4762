//! Grouped-query attention over the KV cache (arXiv 1706.03762, 2305.13245), with an online softmax over fixed
//! blocks of positions. Block borders depend on the query's position alone, so a token's result does not depend on
//! how the prompt was cut into chunks.

use moelten_loader::spec::{AttentionSpec, QkNorm};
use moelten_quant::Kernels;

use crate::kv_cache::{HeadRows, KvLayer};
use crate::layers::linear::{Compute, Linear};
use crate::layers::norm::rms_in_place;
use crate::layers::rope::{Angles, Rope};
use crate::scratch::{AttentionScratch, FfnScratch};

/// Positions per softmax block.
const BLOCK: usize = 128;

/// One layer's attention weights.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Shape and options.
    pub spec: AttentionSpec,
    /// `[heads * head_dim, d_model]`.
    pub q: Linear,
    /// `[kv_heads * head_dim, d_model]`.
    pub k: Linear,
    /// `[kv_heads * head_dim, d_model]`.
    pub v: Linear,
    /// `[d_model, heads * head_dim]`.
    pub o: Linear,
    /// Weights of the query norm; empty without one.
    pub q_norm: Vec<f32>,
    /// Weights of the key norm; empty without one.
    pub k_norm: Vec<f32>,
    /// Index of this layer's rope among the model's.
    pub rope: Option<usize>,
}

impl Attention {
    /// `out = attention(x)`: `x` and `out` are `[tokens, d_model]`, the first token stands at position `first`.
    /// Writes the chunk's keys and values into `kv`.
    #[allow(clippy::too_many_arguments, reason = "every argument is one of the operation's operands")]
    pub fn forward(
        &self,
        compute: Compute<'_>,
        ropes: &[(Rope, Angles)],
        kv: &mut KvLayer,
        first: usize,
        x: &[f32],
        s: &mut AttentionScratch,
        ffn: &mut FfnScratch,
        out: &mut [f32],
    ) {
        let spec = &self.spec;
        let tokens = x.len() / self.q.weight.cols;
        let q = &mut s.q[..tokens * self.q.weight.rows];
        let k = &mut s.k[..tokens * self.k.weight.rows];
        let v = &mut s.v[..tokens * self.v.weight.rows];
        let linears = [&self.q, &self.k, &self.v];
        compute.pack(x, self.q.weight.cols, linears.map(|linear| linear.weight.format), &mut ffn.packed);
        let products = linears.map(|linear| {
            let w = compute.tensors.view(&linear.weight);
            (w, ffn.packed.for_matrix(&w))
        });
        let grouped = &mut ffn.grouped[..q.len() + k.len() + v.len()];
        compute.products(&products, grouped);
        let mut rest = &*grouped;
        for (linear, out) in linears.into_iter().zip([&mut *q, &mut *k, &mut *v]) {
            let (part, others) = rest.split_at(out.len());
            rest = others;
            compute.ungroup(part, linear.weight.rows, linear.bias.as_deref(), out);
        }
        if let QkNorm::PerHead { eps } | QkNorm::Full { eps } = spec.qk_norm {
            rms_in_place(compute.kernels, q, &self.q_norm, eps, &mut ffn.grouped);
            rms_in_place(compute.kernels, k, &self.k_norm, eps, &mut ffn.grouped);
        }
        if let Some(limit) = spec.clip_qkv {
            [&mut *q, &mut *k, &mut *v].into_iter().flatten().for_each(|x| *x = x.clamp(-limit, limit));
        }
        let (q_width, kv_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let tokens_qkv =
            q.chunks_exact_mut(q_width).zip(k.chunks_exact_mut(kv_width)).zip(v.chunks_exact(kv_width));
        for (token, ((q, k), v)) in tokens_qkv.enumerate() {
            if let Some((rope, angles)) = self.rope.map(|index| &ropes[index]) {
                rope.rotate(q, spec.head_dim, angles, token);
                rope.rotate(k, spec.head_dim, angles, token);
            }
            kv.write(compute.kernels, first + token, k, v);
        }
        let (q, kv) = (&*q, &*kv);
        let mixed = &mut s.mixed[..tokens * q_width];
        compute.pool.each_row(mixed, spec.head_dim, |row, out| {
            let (token, head) = (row / spec.heads, row % spec.heads);
            let q = &q[row * spec.head_dim..][..spec.head_dim];
            attend(compute.kernels, spec, kv, head, first + token, q, out);
        });
        compute.pack(mixed, q_width, [self.o.weight.format], &mut ffn.packed);
        compute.linear(&self.o, &ffn.packed, out, &mut ffn.grouped);
    }
}

/// One head of one token: `out = softmax(scale * q K^T) V` over the positions it may see.
fn attend(
    kernels: &Kernels,
    spec: &AttentionSpec,
    kv: &KvLayer,
    head: usize,
    position: usize,
    q: &[f32],
    out: &mut [f32],
) {
    let kv_head = head / (spec.heads / spec.kv_heads);
    let start = spec.window.map_or(0, |window| (position + 1).saturating_sub(window));
    let mut scores = [0.0_f32; BLOCK];
    let (mut highest, mut total) = (f32::NEG_INFINITY, 0.0_f32);
    out.fill(0.0);
    for from in (start..=position).step_by(BLOCK) {
        let to = (from + BLOCK).min(position + 1);
        let scores = &mut scores[..to - from];
        match kv.keys(kv_head, from, to) {
            HeadRows::F16(keys) => {
                for (score, key) in scores.iter_mut().zip(keys.chunks_exact(spec.head_dim)) {
                    *score = kernels.dot_f16(q, key) * spec.scale;
                }
            }
            HeadRows::F32(keys) => {
                for (score, key) in scores.iter_mut().zip(keys.chunks_exact(spec.head_dim)) {
                    *score = kernels.dot(q, key) * spec.scale;
                }
            }
        }
        let block_highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if block_highest > highest {
            // Everything so far was relative to a lower maximum.
            let shrink = (highest - block_highest).exp();
            kernels.scale(shrink, out);
            total *= shrink;
            highest = block_highest;
        }
        for score in scores.iter_mut() {
            *score = (*score - highest).exp();
            total += *score;
        }
        match kv.values(kv_head, from, to) {
            HeadRows::F16(values) => {
                for (&weight, value) in scores.iter().zip(values.chunks_exact(spec.head_dim)) {
                    kernels.axpy_f16(weight, value, out);
                }
            }
            HeadRows::F32(values) => {
                for (&weight, value) in scores.iter().zip(values.chunks_exact(spec.head_dim)) {
                    kernels.axpy(weight, value, out);
                }
            }
        }
    }
    kernels.scale(1.0 / total, out);
}
