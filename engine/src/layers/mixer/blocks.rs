//! Attention to chosen blocks of tokens (Qwen3.8): small queries score the small keys of complete blocks, and
//! a token attends to the best of them and to all tokens behind the last one. Where a token has no more
//! blocks than may be chosen, attention is that to all. Of blocks with the same score the first are chosen; 0
//! is common with few small heads. Each token is computed by itself, so the bits do not depend on how a text
//! is cut. It must not know projections of attention.

use std::ops::Range;

use moelten_loader::spec::{AttentionSpec, BlockChoice, RopeSpec};

use super::attend::{Scoring, attend};
use super::sparse::{Choice, Gathered, attend_chosen, choose};
use crate::layers::linear::{Compute, Linear};
use crate::layers::norm::rms_in_place;
use crate::layers::rope::{Angles, Rope};
use crate::layers::scratch::{AttentionScratch, ProductScratch, SparseScratch};
use crate::state::indexed::IndexedState;

/// The weights by which tokens choose blocks.
#[derive(Debug, Clone)]
pub struct Blocks {
    /// Shapes and options.
    pub spec: BlockChoice,
    /// Small queries, `[heads * head_dim, d_model]`.
    pub queries: Linear,
    /// Small keys, `[head_dim, d_model]`.
    pub keys: Linear,
    /// Weights of the norm of queries, `[head_dim]`.
    pub query_norm: Vec<f32>,
    /// Weights of the norm of keys, `[head_dim]`.
    pub key_norm: Vec<f32>,
    /// The rope of attention; `None` without positions.
    pub rope: Option<(RopeSpec, Rope)>,
}

impl Blocks {
    /// Small queries and keys of `x`, `[tokens, d_model]`, which is packed in `p`. Keys stay as they are.
    pub fn project(
        &self,
        compute: Compute<'_>,
        (angles, first): (Option<&Angles>, usize),
        x: &[f32],
        s: &mut SparseScratch,
        p: &mut ProductScratch,
    ) {
        let BlockChoice { heads, head_dim, norm_eps, .. } = self.spec;
        let (tokens, width) = (x.len() / self.keys.weight.cols, heads * head_dim);
        compute.pack_also(x, [self.queries.weight.format, self.keys.weight.format], &mut p.packed);
        compute.linear(&self.keys, &p.packed, &mut s.keys[..tokens * head_dim], &mut p.grouped);
        let queries = &mut s.queries[..tokens * width];
        compute.linear(&self.queries, &p.packed, queries, &mut p.grouped);
        compute.pool.rows(queries, width, |range, rows| {
            for (token, row) in range.zip(rows.chunks_exact_mut(width)) {
                rms_in_place(compute.kernels, row, &self.query_norm, norm_eps);
                if let Some(angles) = angles {
                    angles.rotate(row, head_dim, first + token);
                }
            }
        });
        s.weights[..tokens * heads].fill(1.0);
    }

    /// Attention of tokens of one sequence, whose keys and values are in the state already; the first has
    /// position `position`.
    pub fn mix(
        &self,
        compute: Compute<'_>,
        spec: &AttentionSpec,
        state: &mut IndexedState,
        position: usize,
        tokens: Range<usize>,
        s: &mut AttentionScratch,
    ) {
        let BlockChoice { heads, head_dim, size, top, .. } = self.spec;
        state.write_keys(position, &s.sparse.keys[tokens.start * head_dim..tokens.end * head_dim]);
        for block in position / size..(position + tokens.len()) / size {
            self.complete(compute, state, block, &mut s.turned);
        }
        // The first tokens see no more blocks than may be chosen.
        let all = ((top + 1) * size - 1).saturating_sub(position).min(tokens.len());
        let row = spec.heads * spec.head_dim;
        let at = tokens.start * row..tokens.end * row;
        let (q, mixed) = (&s.q[at.clone()], &mut s.mixed[at]);
        if all > 0 {
            let (q, mixed) = (&q[..all * row], &mut mixed[..all * row]);
            attend(compute, Scoring::plain(spec), state.kv.view(), position, q, &mut s.attend, mixed);
        }
        for t in all..tokens.len() {
            let seen = position + t + 1;
            let shape = Choice { heads, head_dim, top };
            choose(compute, shape, tokens.start + t, state.blocks(seen / size), &mut s.sparse);
            let (q, mixed) = (&q[t * row..][..row], &mut mixed[t * row..][..row]);
            self.attend(compute, spec, state, seen, (q, &mut s.sparse), mixed);
        }
    }

    /// Makes the key of a block whose last token has come.
    fn complete(&self, compute: Compute<'_>, state: &mut IndexedState, block: usize, angles: &mut Angles) {
        let BlockChoice { head_dim, size, norm_eps, .. } = self.spec;
        let mut key = [0.0; moelten_quant::MAX_HEAD_DIM];
        let key = &mut key[..head_dim];
        let rows = &state.keys((block + 1) * size)[block * size * head_dim..];
        rows.chunks_exact(head_dim).for_each(|row| compute.kernels.axpy(1.0, row, key));
        compute.kernels.scale((size as f32).recip(), key);
        rms_in_place(compute.kernels, key, &self.key_norm, norm_eps);
        if let Some((spec, rope)) = &self.rope {
            angles.restart(spec);
            rope.angles(block * size, 1, angles);
            angles.rotate(key, head_dim, 0);
        }
        state.write_block(block, key);
    }

    /// Attention of one token that sees `seen` tokens to the chosen blocks and to the tokens behind the last
    /// complete one.
    fn attend(
        &self,
        compute: Compute<'_>,
        spec: &AttentionSpec,
        state: &IndexedState,
        seen: usize,
        (q, s): (&[f32], &mut SparseScratch),
        out: &mut [f32],
    ) {
        let size = self.spec.size;
        let SparseScratch { order, positions, chosen_keys, chosen_values, running, .. } = s;
        positions.clear();
        for &block in order.iter() {
            let first = block as usize * size;
            positions.extend((first..first + size).map(|position| position as u32));
        }
        positions.extend((seen / size * size..seen).map(|position| position as u32));
        let (positions, layer) = (&*positions, state.kv.view().layer);
        let width = spec.heads / spec.kv_heads * spec.head_dim;
        let of_heads = q.chunks_exact(width).zip(out.chunks_exact_mut(width));
        for (head, (q, out)) in of_heads.enumerate() {
            let read = |i: usize, key: &mut [f32], value: &mut [f32]| {
                layer.read_head(head, positions[i] as usize, key, value);
            };
            let gathered = Gathered { keys: chosen_keys, values: chosen_values, running };
            attend_chosen(compute, (spec, &[]), positions.len(), &read, q, gathered, out);
        }
    }
}
