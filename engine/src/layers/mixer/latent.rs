//! A branch of multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1). What is cached for
//! a token is its latent vector and one rotated key for all heads. The matrix from the latent vector to a
//! head's keys is applied to the head's query, that to its values to the mixed latent vectors, so nothing
//! is expanded for the tokens of the past. Attention to the cache is that of one key head. It must not know
//! how a state stores keys and values.

use std::ops::Range;

use moelten_loader::spec::LatentSpec;
use moelten_loader::tensors::bank::MatrixRef;
use moelten_quant::GROUP_ROWS;

use super::attend::{Scoring, attend, warm};
use super::contract::Mixer;
use super::sparse::{Indexer, attend_to_order};
use crate::layers::linear::{Compute, Linear, Packed};
use crate::layers::norm::rms_in_place;
use crate::layers::rope::Angles;
use crate::layers::scratch::{AttentionScratch, PASS, ProductScratch, SparseScratch};
use crate::state::LayerState;

/// Numbers of queries that a pass computes at most, beside a single token's.
const QUERY_NUMBERS: usize = 1 << 22;

/// The weights of a latent attention branch.
#[derive(Debug, Clone)]
pub struct Latent {
    /// Shapes and options.
    pub spec: LatentSpec,
    /// How queries are projected.
    pub query: Query,
    /// `[rank + rope, d_model]`.
    pub down: Linear,
    /// Weights of the norm of the latent vector, `[rank]`.
    pub norm: Vec<f32>,
    /// The matrices of the heads.
    pub heads: HeadMatrices,
    /// Output projection, `[d_model, heads * value_dim]`.
    pub o: Linear,
    /// How tokens choose what they attend to.
    pub indexer: Option<Box<Indexer>>,
    /// Gate on the values of each head, `[heads, d_model]`.
    pub gate: Option<Linear>,
    /// Index of the rope among those of the model; `None` without positions.
    pub rope: Option<usize>,
}

/// The projection of queries, `[heads * (nope + rope)]` for each token.
#[derive(Debug, Clone)]
pub enum Query {
    /// In one step, `[heads * (nope + rope), d_model]`.
    Direct(Linear),
    /// Through a latent query.
    Latent {
        /// `[query_rank, d_model]`.
        down: Linear,
        /// Weights of the norm between, `[query_rank]`.
        norm: Vec<f32>,
        /// `[heads * (nope + rope), query_rank]`.
        up: Linear,
    },
}

/// The matrices between the latent space and the heads.
#[derive(Debug, Clone, Copy)]
pub enum HeadMatrices {
    /// Apart, head by head.
    Split {
        /// From queries to the latent space, `[heads * rank, nope]`.
        keys: MatrixRef,
        /// From the latent space to values, `[heads * value_dim, rank]`.
        values: MatrixRef,
    },
    /// Rows for keys and rows for values of each head, `[heads * (nope + value_dim), rank]`.
    Whole(MatrixRef),
}

/// How many tokens a pass takes at once, so that the queries of models with many heads stay small.
pub fn pass_tokens(spec: &LatentSpec) -> usize {
    (QUERY_NUMBERS / (spec.attention.heads * spec.attention.head_dim)).clamp(16, PASS)
}

impl Latent {
    /// Queries as they are projected, `[tokens, heads * (nope + rope)]`, into `s.wide`.
    fn queries(
        &self,
        compute: Compute<'_>,
        (angles, first): (&[Angles], usize),
        tokens: usize,
        s: &mut AttentionScratch,
        p: &mut ProductScratch,
    ) {
        let width = self.spec.attention.heads * self.spec.query_dim();
        let wide = &mut s.latent.wide[..tokens * width];
        match &self.query {
            Query::Direct(linear) => compute.linear(linear, &p.packed, wide, &mut p.grouped),
            Query::Latent { down, norm, up } => {
                let rank = down.weight.rows;
                let narrow = &mut s.latent.narrow[..tokens * rank];
                compute.linear(down, &p.packed, narrow, &mut p.grouped);
                let eps = self.spec.norm_eps;
                compute.pool.rows(narrow, rank, |_, rows| rms_in_place(compute.kernels, rows, norm, eps));
                compute.pack(narrow, rank, [up.weight.format], &mut p.packed);
                compute.linear(up, &p.packed, wide, &mut p.grouped);
                if let Some(indexer) = &self.indexer {
                    let angles = &angles[indexer.rope];
                    indexer.take_latent(compute, angles, first, narrow, &mut s.sparse, p);
                }
            }
        }
    }

    /// Latent vectors and rotated keys from `s.k`, `[tokens, rank + rope]`, in place, and values to `s.v`.
    /// The values are the latent vectors, filled up with zeros.
    fn keys_and_values(
        &self,
        compute: Compute<'_>,
        angles: Option<&Angles>,
        first: usize,
        tokens: usize,
        s: &mut AttentionScratch,
    ) {
        let (rank, width) = (self.spec.rank, self.spec.attention.head_dim);
        let (k, v) = (&mut s.k[..tokens * width], &mut s.v[..tokens * width]);
        compute.pool.chunks_of_two((k, width), (v, width), 16, |range, k, v| {
            let rows = k.chunks_exact_mut(width).zip(v.chunks_exact_mut(width));
            for (token, (k, v)) in range.zip(rows) {
                let (latent, rope) = k.split_at_mut(rank);
                rms_in_place(compute.kernels, latent, &self.norm, self.spec.norm_eps);
                if let Some(angles) = angles {
                    angles.rotate(rope, rope.len(), first + token);
                }
                v[..rank].copy_from_slice(latent);
                v[rank..].fill(0.0);
            }
        });
    }

    /// The parts of queries that are not rotated go to the latent space; the others are rotated. Both
    /// together are the queries to the cache: `s.q`, `[tokens, heads, rank + rope]`.
    fn absorb(
        &self,
        compute: Compute<'_>,
        angles: Option<&Angles>,
        first: usize,
        tokens: usize,
        s: &mut AttentionScratch,
    ) {
        let LatentSpec { attention, rank, nope, .. } = &self.spec;
        let (heads, rank, nope, width) = (attention.heads, *rank, *nope, attention.head_dim);
        let of_query = self.spec.query_dim();
        let wide = &s.latent.wide[..tokens * heads * of_query];
        let inputs = &mut s.latent.inputs[..heads * tokens * nope];
        compute.pool.chunks(inputs, tokens * nope, 1, |range, inputs| {
            for (head, inputs) in range.zip(inputs.chunks_exact_mut(tokens * nope)) {
                for (t, to) in inputs.chunks_exact_mut(nope).enumerate() {
                    to.copy_from_slice(&wide[(t * heads + head) * of_query..][..nope]);
                }
            }
        });
        let outputs = &mut s.latent.outputs[..heads * tokens * rank];
        match &self.heads {
            HeadMatrices::Split { keys, .. } => {
                per_head(compute, keys, (rank, 0, rank), (inputs, nope), &mut s.latent.packed, outputs);
            }
            HeadMatrices::Whole(matrix) => {
                let of_head = nope + self.spec.value_dim;
                transposed(compute, matrix, (of_head, nope), inputs, outputs);
            }
        }
        let q = &mut s.q[..tokens * heads * width];
        compute.pool.rows(q, heads * width, |range, q| {
            for (t, q) in range.zip(q.chunks_exact_mut(heads * width)) {
                for (head, q) in q.chunks_exact_mut(width).enumerate() {
                    let (latent, rope) = q.split_at_mut(rank);
                    latent.copy_from_slice(&outputs[(head * tokens + t) * rank..][..rank]);
                    rope.copy_from_slice(&wide[(t * heads + head) * of_query + nope..][..of_query - nope]);
                    if let Some(angles) = angles {
                        angles.rotate(rope, rope.len(), first + t);
                    }
                }
            }
        });
    }

    /// The values of all heads from the mixed latent vectors: `s.latent.wide`, `[tokens, heads * value_dim]`.
    fn values(&self, compute: Compute<'_>, tokens: usize, s: &mut AttentionScratch) {
        let LatentSpec { attention, rank, nope, value_dim, .. } = &self.spec;
        let (heads, rank, value, width) = (attention.heads, *rank, *value_dim, attention.head_dim);
        let mixed = &s.mixed[..tokens * heads * width];
        let inputs = &mut s.latent.inputs[..heads * tokens * rank];
        compute.pool.chunks(inputs, tokens * rank, 1, |range, inputs| {
            for (head, inputs) in range.zip(inputs.chunks_exact_mut(tokens * rank)) {
                for (t, to) in inputs.chunks_exact_mut(rank).enumerate() {
                    to.copy_from_slice(&mixed[(t * heads + head) * width..][..rank]);
                }
            }
        });
        let (matrix, place) = match &self.heads {
            HeadMatrices::Split { values, .. } => (values, (value, 0, value)),
            HeadMatrices::Whole(matrix) => (matrix, (nope + value, *nope, value)),
        };
        let outputs = &mut s.latent.outputs[..heads * tokens * value];
        per_head(compute, matrix, place, (inputs, rank), &mut s.latent.packed, outputs);
        let wide = &mut s.latent.wide[..tokens * heads * value];
        compute.pool.rows(wide, heads * value, |range, wide| {
            for (t, wide) in range.zip(wide.chunks_exact_mut(heads * value)) {
                for (head, to) in wide.chunks_exact_mut(value).enumerate() {
                    to.copy_from_slice(&outputs[(head * tokens + t) * value..][..value]);
                }
            }
        });
    }
}

impl Latent {
    /// The `top` positions that a token which sees `seen` attends to, into `s.order`: chosen here, or those
    /// that it chose in a layer before, which the batch keeps.
    fn chosen(
        &self,
        compute: Compute<'_>,
        (state, seen): (&LayerState, usize),
        token: usize,
        top: usize,
        s: &mut SparseScratch,
    ) {
        let kept = (s.first + token) * top;
        match (&self.indexer, state) {
            (Some(indexer), LayerState::Indexed(state)) => {
                indexer.choose(compute, token, state.keys(seen), s);
                if !s.kept.is_empty() {
                    s.kept[kept..kept + top].copy_from_slice(&s.order);
                }
            }
            _ => {
                s.order.clear();
                s.order.extend_from_slice(&s.kept[kept..kept + top]);
            }
        }
    }
}

impl Mixer for Latent {
    fn project(
        &self,
        compute: Compute<'_>,
        angles: &[Angles],
        first: usize,
        x: &[f32],
        s: &mut AttentionScratch,
        products: &mut ProductScratch,
    ) {
        let (d_model, width) = (self.down.weight.cols, self.down.weight.rows);
        let tokens = x.len() / d_model;
        let (all, angles) = (angles, self.rope.map(|rope| &angles[rope]));
        let inner = match &self.query {
            Query::Direct(linear) => linear.weight.format,
            Query::Latent { down, .. } => down.weight.format,
        };
        compute.pack(x, d_model, [self.down.weight.format, inner], &mut products.packed);
        let k = &mut s.k[..tokens * width];
        compute.linear(&self.down, &products.packed, k, &mut products.grouped);
        if let Some(gate) = &self.gate {
            compute.pack_also(x, [gate.weight.format], &mut products.packed);
            let gates = &mut s.gate[..tokens * gate.weight.rows];
            compute.linear(gate, &products.packed, gates, &mut products.grouped);
        }
        s.sparse.first = first;
        if let Some(indexer) = &self.indexer {
            indexer.take_input(compute, &all[indexer.rope], first, x, &mut s.sparse, products);
        }
        self.keys_and_values(compute, angles, first, tokens, s);
        self.queries(compute, (all, first), tokens, s, products);
        self.absorb(compute, angles, first, tokens, s);
    }

    fn mix(
        &self,
        compute: Compute<'_>,
        state: &mut LayerState,
        position: usize,
        tokens: Range<usize>,
        s: &mut AttentionScratch,
    ) {
        let spec = &self.spec.attention;
        let rows = |width: usize| tokens.start * width..tokens.end * width;
        let (wide, narrow) = (rows(spec.heads * spec.head_dim), rows(spec.head_dim));
        let (k, v) = (&s.k[narrow.clone()], &s.v[narrow]);
        state.write(compute.pool, compute.kernels, position, k, v);
        let (q, mixed) = (&mut s.q[wide.clone()], &mut s.mixed[wide]);
        warm(compute, spec, position, q);
        let Some(top) = self.spec.most_chosen() else {
            attend(compute, Scoring::plain(spec), state.view(), position, q, &mut s.attend, mixed);
            return;
        };
        if let (Some(indexer), LayerState::Indexed(state)) = (&self.indexer, &mut *state) {
            let width = indexer.spec.head_dim;
            state.write_keys(position, &s.sparse.keys[tokens.start * width..tokens.end * width]);
        }
        // The first tokens see no more than may be chosen.
        let all = top.saturating_sub(position).min(tokens.len());
        let row = spec.heads * spec.head_dim;
        if all > 0 {
            let (q, mixed) = (&mut q[..all * row], &mut mixed[..all * row]);
            attend(compute, Scoring::plain(spec), state.view(), position, q, &mut s.attend, mixed);
        }
        for t in all..tokens.len() {
            self.chosen(compute, (state, position + t + 1), tokens.start + t, top, &mut s.sparse);
            let (q, mixed) = (&q[t * row..][..row], &mut mixed[t * row..][..row]);
            attend_to_order(compute, spec, state.view().layer, q, &mut s.sparse, mixed);
        }
    }

    fn skip(&self, tokens: Range<usize>, s: &mut AttentionScratch) {
        let width = self.spec.attention.heads * self.spec.attention.head_dim;
        s.mixed[tokens.start * width..tokens.end * width].fill(0.0);
    }

    fn output<'s>(
        &self,
        compute: Compute<'_>,
        s: &'s mut AttentionScratch,
        products: &mut ProductScratch,
        out: &mut [f32],
    ) -> &'s [f32] {
        let tokens = out.len() / self.o.weight.rows;
        self.values(compute, tokens, s);
        if let Some(gate) = &self.gate {
            let gates = &s.gate[..tokens * gate.weight.rows];
            let heads = s.latent.wide[..tokens * self.o.weight.cols].chunks_exact_mut(self.spec.value_dim);
            for (head, gate) in heads.zip(gates) {
                compute.kernels.scale(1.0 / (1.0 + (-gate).exp()), head);
            }
        }
        let values = &s.latent.wide[..tokens * self.o.weight.cols];
        compute.pack(values, self.o.weight.cols, [self.o.weight.format], &mut products.packed);
        compute.linear(&self.o, &products.packed, out, &mut products.grouped);
        values
    }

    fn pass_tokens(&self) -> usize {
        pass_tokens(&self.spec)
    }
}

/// Multiplies each head's inputs with the head's own rows of `matrix`: of `of_head` rows, `rows` from
/// `skip` on. `inputs` is `[heads, tokens, cols]`, `out` is `[heads, tokens, rows]`.
pub(super) fn per_head(
    compute: Compute<'_>,
    matrix: &MatrixRef,
    (of_head, skip, rows): (usize, usize, usize),
    (inputs, cols): (&[f32], usize),
    packed: &mut Packed,
    out: &mut [f32],
) {
    let w = compute.tensors.view(matrix);
    compute.pack(inputs, cols, [w.format()], packed);
    let heads = w.rows() / of_head;
    let tokens = inputs.len() / cols / heads;
    let x = packed.for_matrix(&w);
    compute.pool.chunks(out, tokens * rows, 1, |range, out| {
        let mut grouped = [0.0; GROUP_ROWS * HEAD_TOKENS];
        for (head, out) in range.zip(out.chunks_exact_mut(tokens * rows)) {
            let first = head * of_head + skip;
            if tokens == 1 {
                // The grouped outputs of a single token are in order already.
                let w = w.slice_rows(first..first + rows);
                compute.kernels.matmul(w, x.slice_tokens(head..head + 1), out);
                continue;
            }
            for row in (0..rows).step_by(GROUP_ROWS) {
                let width = GROUP_ROWS.min(rows - row);
                let w = w.slice_rows(first + row..first + row + width);
                for start in (0..tokens).step_by(HEAD_TOKENS) {
                    let some = start..tokens.min(start + HEAD_TOKENS);
                    let x = x.slice_tokens(head * tokens + some.start..head * tokens + some.end);
                    let grouped = &mut grouped[..some.len() * width];
                    compute.kernels.matmul(w, x, grouped);
                    for (t, from) in some.zip(grouped.chunks_exact(width)) {
                        out[t * rows + row..][..width].copy_from_slice(from);
                    }
                }
            }
        }
    });
}

/// Tokens of a head's product at once.
const HEAD_TOKENS: usize = 32;

/// As [`per_head`] with the transposed rows of a head, the first `rows` of its `of_head`: `inputs` is
/// `[heads, tokens, rows]`, `out` is `[heads, tokens, cols]`. Each row is decoded once for all tokens.
fn transposed(
    compute: Compute<'_>,
    matrix: &MatrixRef,
    (of_head, rows): (usize, usize),
    inputs: &[f32],
    out: &mut [f32],
) {
    let w = compute.tensors.view(matrix);
    let (heads, cols) = (w.rows() / of_head, w.cols());
    let tokens = inputs.len() / rows / heads;
    compute.pool.chunks(out, tokens * cols, 1, |range, out| {
        let mut decoded = [0.0; MOST_RANK];
        let decoded = &mut decoded[..cols];
        for (head, out) in range.zip(out.chunks_exact_mut(tokens * cols)) {
            out.fill(0.0);
            let inputs = &inputs[head * tokens * rows..][..tokens * rows];
            for row in 0..rows {
                w.decode_row(head * of_head + row, decoded);
                for (x, out) in inputs.chunks_exact(rows).zip(out.chunks_exact_mut(cols)) {
                    compute.kernels.axpy(x[row], decoded, out);
                }
            }
        }
    });
}

/// The widest latent vector: keys of the cache are bounded.
const MOST_RANK: usize = moelten_quant::MAX_HEAD_DIM;
