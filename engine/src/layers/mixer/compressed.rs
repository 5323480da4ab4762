//! Attention to a window and to compressed tokens (DeepSeek-V4, its technical report). Each token has one
//! row, which is key and value of all heads; earlier tokens are seen as rows that stand for runs of them, all
//! of these or a choice. Each token is computed by itself, so the bits do not depend on how a text is cut. It
//! must not know how a state stores rows.

use std::ops::Range;

use moelten_loader::spec::{CompressedSpec, RowChoice};
use moelten_loader::tensors::bank::MatrixRef;

use super::attend::{Scoring, attend};
use super::compressor::Compressor;
use super::contract::Mixer;
use super::latent::per_head;
use super::sparse::{Choice, Gathered, attend_chosen, choose};
use crate::layers::linear::{Compute, Linear};
use crate::layers::norm::rms_in_place;
use crate::layers::rope::{Angles, Rope};
use crate::layers::scratch::{AttentionScratch, PASS, ProductScratch, SparseScratch};
use crate::state::LayerState;
use crate::state::compressed::CompressedState;

/// Numbers of queries that a pass computes at most, beside a few tokens'.
const QUERY_NUMBERS: usize = 1 << 22;

/// The weights of attention to compressed tokens.
#[derive(Debug, Clone)]
pub struct Compressed {
    /// Shapes and options.
    pub spec: CompressedSpec,
    /// To the latent query, `[query_rank, d_model]`.
    pub query_down: Linear,
    /// Weights of its norm, `[query_rank]`.
    pub query_norm: Vec<f32>,
    /// From it to queries, `[heads * head_dim, query_rank]`.
    pub query_up: Linear,
    /// To a token's row, `[head_dim, d_model]`.
    pub row: Linear,
    /// Weights of its norm, `[head_dim]`.
    pub row_norm: Vec<f32>,
    /// Logits of the sinks, `[heads]`.
    pub sinks: Vec<f32>,
    /// The output projections of groups, `[groups * group_rank, heads * head_dim / groups]`.
    pub group_out: MatrixRef,
    /// From what they give, `[d_model, groups * group_rank]`.
    pub out: Linear,
    /// Index of the rope among those of the model.
    pub rope: usize,
    /// The same rope, for mixed values.
    pub own_rope: Rope,
    /// How earlier tokens become rows.
    pub compressor: Option<Compressor>,
    /// How a token chooses among these.
    pub choice: Option<RowChooser>,
}

/// The weights by which tokens choose rows.
#[derive(Debug, Clone)]
pub struct RowChooser {
    /// Shapes.
    pub spec: RowChoice,
    /// Small queries from the latent query, `[heads * head_dim, query_rank]`.
    pub queries: Linear,
    /// Weights of heads, `[heads, d_model]`.
    pub weights: Linear,
    /// How small rows are made.
    pub rows: Compressor,
}

/// How many tokens a pass takes at once, so that the queries of models with many heads stay small.
pub fn pass_tokens(spec: &CompressedSpec) -> usize {
    (QUERY_NUMBERS / (spec.attention.heads * spec.attention.head_dim)).clamp(16, PASS)
}

impl Compressed {
    /// Width of all heads.
    fn width(&self) -> usize {
        self.spec.attention.heads * self.spec.attention.head_dim
    }

    /// Dimensions of a row that do not rotate.
    fn still(&self) -> usize {
        self.spec.attention.head_dim - self.rotated()
    }

    fn rotated(&self) -> usize {
        self.spec.attention.rope.as_ref().map_or(0, |rope| rope.dim)
    }

    /// The latent queries of a pass, and what comes from them.
    fn queries(
        &self,
        compute: Compute<'_>,
        (angles, first): (&Angles, usize),
        tokens: usize,
        s: &mut AttentionScratch,
        p: &mut ProductScratch,
    ) {
        let (rank, width, head_dim) = (self.spec.query_rank, self.width(), self.spec.attention.head_dim);
        let narrow = &mut s.latent.narrow[..tokens * rank];
        compute.linear(&self.query_down, &p.packed, narrow, &mut p.grouped);
        let eps = self.spec.norm_eps;
        compute.pool.rows(narrow, rank, |_, rows| {
            rms_in_place(compute.kernels, rows, &self.query_norm, eps);
        });
        compute.pack(narrow, rank, [self.query_up.weight.format], &mut p.packed);
        let q = &mut s.q[..tokens * width];
        compute.linear(&self.query_up, &p.packed, q, &mut p.grouped);
        let (still, rotated) = (self.still(), self.rotated());
        compute.pool.rows(q, width, |range, rows| {
            for (token, row) in range.zip(rows.chunks_exact_mut(width)) {
                for head in row.chunks_exact_mut(head_dim) {
                    let square = compute.kernels.dot(head, head) / head_dim as f32;
                    compute.kernels.scale((square + eps).sqrt().recip(), head);
                    angles.rotate(&mut head[still..], rotated, first + token);
                }
            }
        });
        if let Some(RowChooser { spec, queries, .. }) = &self.choice {
            let width = spec.heads * spec.head_dim;
            compute.pack_also(narrow, [queries.weight.format], &mut p.packed);
            let small = &mut s.sparse.queries[..tokens * width];
            compute.linear(queries, &p.packed, small, &mut p.grouped);
            compute.pool.rows(small, width, |range, rows| {
                for (token, row) in range.zip(rows.chunks_exact_mut(width)) {
                    for head in row.chunks_exact_mut(spec.head_dim) {
                        angles.rotate(&mut head[spec.head_dim - rotated..], rotated, first + token);
                    }
                }
            });
        }
    }

    /// Takes tokens into the runs that they belong to.
    fn compress(
        &self,
        compute: Compute<'_>,
        state: &mut CompressedState,
        position: usize,
        tokens: Range<usize>,
        s: &mut AttentionScratch,
    ) {
        let Some(compressor) = &self.compressor else { return };
        let kernels = compute.kernels;
        let (open, mut writer) = state.parts();
        let (open, small_open) = open.split_at_mut(compressor.spec.open_numbers(compressor.width));
        let angles = &mut s.turned;
        let given = s.compress.of(&tokens, compressor.wide());
        compressor.take(kernels, position, given, open, angles, &mut |row, numbers| {
            writer.row(kernels, row, numbers);
        });
        if let Some(chooser) = &self.choice {
            let given = s.compress_small.of(&tokens, chooser.rows.wide());
            chooser.rows.take(kernels, position, given, small_open, angles, &mut |row, numbers| {
                writer.small(kernels, row, numbers);
            });
        }
    }

    /// Attention of token `token` of the pass, at `position`, to the window and to rows.
    fn attend(
        &self,
        compute: Compute<'_>,
        state: &CompressedState,
        (token, position): (usize, usize),
        q: &[f32],
        s: &mut SparseScratch,
        out: &mut [f32],
    ) {
        let rate = self.compressor.as_ref().map_or(usize::MAX, |compressor| compressor.spec.rate);
        // The row of a run is seen from its last token on.
        let visible = (position + 1) / rate;
        match &self.choice {
            Some(RowChooser { spec, .. }) if visible > spec.top => {
                let RowChoice { heads, head_dim, top } = *spec;
                let shape = Choice { heads, head_dim, top };
                choose(compute, shape, token, state.small_rows(visible), s);
            }
            _ => {
                s.order.clear();
                s.order.extend(0..visible as u32);
            }
        }
        let window = self.spec.attention.window.map_or(position + 1, |window| window.min(position + 1));
        let first = position + 1 - window - state.window().base;
        let SparseScratch { order, chosen_keys, chosen_values, running, .. } = s;
        let (order, count) = (&*order, window + order.len());
        let read = |i: usize, key: &mut [f32], value: &mut [f32]| match i.checked_sub(window) {
            None => state.window().layer.read(first + i, key, value),
            Some(i) => {
                state.row(order[i] as usize, key);
                value.copy_from_slice(key);
            }
        };
        let gathered = Gathered { keys: chosen_keys, values: chosen_values, running };
        attend_chosen(compute, (&self.spec.attention, &self.sinks), count, &read, q, gathered, out);
    }

    /// Rotates the mixed values of tokens back, `[tokens, heads * head_dim]`; the first has position
    /// `position`.
    fn turn_back(&self, compute: Compute<'_>, position: usize, angles: &mut Angles, mixed: &mut [f32]) {
        let (width, head_dim) = (self.width(), self.spec.attention.head_dim);
        let (still, rotated) = (self.still(), self.rotated());
        let Some(rope) = &self.spec.attention.rope else { return };
        angles.restart(rope);
        self.own_rope.angles(position, mixed.len() / width, angles);
        let angles = &*angles;
        compute.pool.rows(mixed, width, |range, rows| {
            for (token, row) in range.zip(rows.chunks_exact_mut(width)) {
                for head in row.chunks_exact_mut(head_dim) {
                    angles.rotate_back(&mut head[still..], rotated, token);
                }
            }
        });
    }
}

impl Mixer for Compressed {
    fn project(
        &self,
        compute: Compute<'_>,
        angles: &[Angles],
        first: usize,
        x: &[f32],
        s: &mut AttentionScratch,
        products: &mut ProductScratch,
    ) {
        let (d_model, head_dim) = (self.row.weight.cols, self.spec.attention.head_dim);
        let (tokens, angles) = (x.len() / d_model, &angles[self.rope]);
        let formats = [self.row.weight.format, self.query_down.weight.format];
        compute.pack(x, d_model, formats, &mut products.packed);
        let rows = &mut s.k[..tokens * head_dim];
        compute.linear(&self.row, &products.packed, rows, &mut products.grouped);
        let (still, rotated) = (self.still(), self.rotated());
        for (token, row) in rows.chunks_exact_mut(head_dim).enumerate() {
            rms_in_place(compute.kernels, row, &self.row_norm, self.spec.norm_eps);
            angles.rotate(&mut row[still..], rotated, first + token);
        }
        if let Some(compressor) = &self.compressor {
            compressor.project(compute, x, &mut s.compress, products);
        }
        if let Some(RowChooser { spec, weights, rows, .. }) = &self.choice {
            rows.project(compute, x, &mut s.compress_small, products);
            compute.pack_also(x, [weights.weight.format], &mut products.packed);
            let of_heads = &mut s.sparse.weights[..tokens * spec.heads];
            compute.linear(weights, &products.packed, of_heads, &mut products.grouped);
            compute.kernels.scale(((spec.heads * spec.head_dim) as f32).sqrt().recip(), of_heads);
        }
        self.queries(compute, (angles, first), tokens, s, products);
    }

    fn mix(
        &self,
        compute: Compute<'_>,
        state: &mut LayerState,
        position: usize,
        tokens: Range<usize>,
        s: &mut AttentionScratch,
    ) {
        let (width, head_dim) = (self.width(), self.spec.attention.head_dim);
        let wide = tokens.start * width..tokens.end * width;
        let narrow = tokens.start * head_dim..tokens.end * head_dim;
        if let LayerState::Compressed(state) = state {
            state.write(compute.pool, compute.kernels, position, &s.k[narrow]);
            self.compress(compute, state, position, tokens.clone(), s);
            for (index, token) in tokens.enumerate() {
                let at = token * width..(token + 1) * width;
                let (q, mixed) = (&s.q[at.clone()], &mut s.mixed[at]);
                self.attend(compute, state, (token, position + index), q, &mut s.sparse, mixed);
            }
        } else {
            let rows = &s.k[narrow];
            state.write(compute.pool, compute.kernels, position, rows, rows);
            let (q, mixed) = (&s.q[wide.clone()], &mut s.mixed[wide.clone()]);
            let how = Scoring { sinks: &self.sinks, ..Scoring::plain(&self.spec.attention) };
            attend(compute, how, state.view(), position, q, &mut s.attend, mixed);
        }
        self.turn_back(compute, position, &mut s.turned, &mut s.mixed[wide]);
    }

    fn skip(&self, tokens: Range<usize>, s: &mut AttentionScratch) {
        let width = self.width();
        s.mixed[tokens.start * width..tokens.end * width].fill(0.0);
    }

    fn output<'s>(
        &self,
        compute: Compute<'_>,
        s: &'s mut AttentionScratch,
        products: &mut ProductScratch,
        out: &mut [f32],
    ) -> &'s [f32] {
        let (groups, rank, width) = (self.spec.groups, self.spec.group_rank, self.width());
        let (tokens, of_group) = (out.len() / self.out.weight.rows, width / groups);
        let mixed = &s.mixed[..tokens * width];
        let inputs = &mut s.latent.inputs[..tokens * width];
        compute.pool.chunks(inputs, tokens * of_group, 1, |range, inputs| {
            for (group, inputs) in range.zip(inputs.chunks_exact_mut(tokens * of_group)) {
                for (t, to) in inputs.chunks_exact_mut(of_group).enumerate() {
                    to.copy_from_slice(&mixed[t * width + group * of_group..][..of_group]);
                }
            }
        });
        let outputs = &mut s.latent.outputs[..tokens * groups * rank];
        let place = (rank, 0, rank);
        per_head(compute, &self.group_out, place, (inputs, of_group), &mut s.latent.packed, outputs);
        let wide = &mut s.latent.wide[..tokens * groups * rank];
        for (t, wide) in wide.chunks_exact_mut(groups * rank).enumerate() {
            for (group, to) in wide.chunks_exact_mut(rank).enumerate() {
                to.copy_from_slice(&outputs[(group * tokens + t) * rank..][..rank]);
            }
        }
        compute.pack(wide, groups * rank, [self.out.weight.format], &mut products.packed);
        compute.linear(&self.out, &products.packed, out, &mut products.grouped);
        wide
    }

    fn pass_tokens(&self) -> usize {
        pass_tokens(&self.spec)
    }
}
