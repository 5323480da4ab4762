//! Sparse attention (DeepSeek-V3.2, its technical report): small queries and keys of their own score all
//! tokens so far, and attention sees the best of them. Where a token sees no more than may be chosen,
//! attention is that to all. Each token is computed by itself, so the bits do not depend on how a text is
//! cut. It must not know projections of attention.

use moelten_loader::spec::{AttentionSpec, IndexerSpec};
use moelten_quant::{Attend, KEY_GROUP, KvHead, Running, SPAN};

use crate::layers::linear::{Compute, Linear};
use crate::layers::rope::Angles;
use crate::layers::scratch::{ProductScratch, SparseScratch};
use crate::state::kv::layer::KvLayer;

/// Positions of one task that scores them.
const POSITIONS: usize = 256;
/// Heads of one task that attends.
const HEADS: usize = 8;

/// The weights by which tokens choose.
#[derive(Debug, Clone)]
pub struct Indexer {
    /// Shapes and options.
    pub spec: IndexerSpec,
    /// Queries from the latent query, `[heads * head_dim, query_rank]`.
    pub queries: Linear,
    /// Keys, `[head_dim, d_model]`.
    pub keys: Linear,
    /// Weights of the layer norm of keys, `[head_dim]`.
    pub key_norm: Vec<f32>,
    /// Its offsets, `[head_dim]`.
    pub key_bias: Vec<f32>,
    /// Weights of heads, `[heads, d_model]`.
    pub weights: Linear,
    /// Index of the rope among those of the model.
    pub rope: usize,
}

impl Indexer {
    /// Keys and weights of heads of `x`, `[tokens, d_model]`, which is packed in `p`.
    pub fn take_input(
        &self,
        compute: Compute<'_>,
        angles: &Angles,
        first: usize,
        x: &[f32],
        s: &mut SparseScratch,
        p: &mut ProductScratch,
    ) {
        let IndexerSpec { heads, head_dim, norm_eps, .. } = self.spec;
        let tokens = x.len() / self.keys.weight.cols;
        compute.pack_also(x, [self.keys.weight.format, self.weights.weight.format], &mut p.packed);
        let keys = &mut s.keys[..tokens * head_dim];
        compute.linear(&self.keys, &p.packed, keys, &mut p.grouped);
        let mut normed = [0.0; MOST_HEAD_DIM];
        let normed = &mut normed[..head_dim];
        for (token, key) in keys.chunks_exact_mut(head_dim).enumerate() {
            compute.kernels.layer_norm(key, &self.key_norm, &self.key_bias, norm_eps, normed);
            angles.rotate(normed, head_dim, first + token);
            key.copy_from_slice(normed);
        }
        let weights = &mut s.weights[..tokens * heads];
        compute.linear(&self.weights, &p.packed, weights, &mut p.grouped);
        let root = ((heads * head_dim) as f32).sqrt();
        compute.kernels.scale(1.0 / root, weights);
    }

    /// Queries of latent queries `[tokens, query_rank]`, which are packed in `p`.
    pub fn take_latent(
        &self,
        compute: Compute<'_>,
        angles: &Angles,
        first: usize,
        narrow: &[f32],
        s: &mut SparseScratch,
        p: &mut ProductScratch,
    ) {
        let width = self.spec.heads * self.spec.head_dim;
        let tokens = narrow.len() / self.queries.weight.cols;
        compute.pack_also(narrow, [self.queries.weight.format], &mut p.packed);
        let queries = &mut s.queries[..tokens * width];
        compute.linear(&self.queries, &p.packed, queries, &mut p.grouped);
        compute.pool.rows(queries, width, |range, rows| {
            for (token, row) in range.zip(rows.chunks_exact_mut(width)) {
                angles.rotate(row, self.spec.head_dim, first + token);
            }
        });
    }

    /// Chooses the positions that token `token` of the pass attends to, out of those of `keys`, `[positions,
    /// head_dim]`: in `s.order`, ascending. Ties go to the earlier position.
    pub fn choose(&self, compute: Compute<'_>, token: usize, keys: &[f32], s: &mut SparseScratch) {
        let IndexerSpec { heads, head_dim, top, .. } = self.spec;
        choose(compute, Choice { heads, head_dim, top }, token, keys, s);
    }
}

/// Attention of one token to the positions of `layer` that are in `s.order`; `q` and `out` are `[heads,
/// head_dim]` of attention.
pub fn attend_to_order(
    compute: Compute<'_>,
    spec: &AttentionSpec,
    layer: &KvLayer,
    q: &[f32],
    s: &mut SparseScratch,
    out: &mut [f32],
) {
    let SparseScratch { order, chosen_keys, chosen_values, running, .. } = s;
    let (order, gathered) = (&*order, Gathered { keys: chosen_keys, values: chosen_values, running });
    let read = |i: usize, key: &mut [f32], value: &mut [f32]| layer.read(order[i] as usize, key, value);
    attend_chosen(compute, (spec, &[]), order.len(), &read, q, gathered, out);
}

/// The shape of a choice of rows.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// Small query heads.
    pub heads: usize,
    /// Their width.
    pub head_dim: usize,
    /// The most rows that are chosen.
    pub top: usize,
}

/// Chooses the best of the rows that `keys` are of, `[rows, head_dim]`, by the queries of token `token` of
/// the pass: in `s.order`, ascending.
pub fn choose(
    compute: Compute<'_>,
    Choice { heads, head_dim, top }: Choice,
    token: usize,
    keys: &[f32],
    s: &mut SparseScratch,
) {
    let SparseScratch { queries, weights, scores, order, .. } = s;
    let queries = &queries[token * heads * head_dim..][..heads * head_dim];
    let weights = &weights[token * heads..][..heads];
    let scores = &mut scores[..keys.len() / head_dim];
    compute.pool.chunks(scores, 1, POSITIONS, |range, scores| {
        let keys = keys[range.start * head_dim..range.end * head_dim].chunks_exact(head_dim);
        for (score, key) in scores.iter_mut().zip(keys) {
            let of_heads = queries.chunks_exact(head_dim).zip(weights);
            *score = of_heads.map(|(query, w)| w * compute.kernels.dot(query, key).max(0.0)).sum();
        }
    });
    order.clear();
    order.extend(0..scores.len() as u32);
    let best = |&a: &u32, &b: &u32| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b));
    if order.len() > top {
        order.select_nth_unstable_by(top - 1, best);
        order.truncate(top);
    }
    order.sort_unstable();
}

/// Where keys and values of chosen positions are gathered as attention reads them.
pub struct Gathered<'a> {
    /// Keys, in groups.
    pub keys: &'a mut [f32],
    /// Values of the chosen positions.
    pub values: &'a mut [f32],
    /// Maximum and sum of weights of each head.
    pub running: &'a mut [Running],
}

/// Gives the key and the value of the chosen position of this number, `[head_dim]` each.
pub type ReadPosition<'a> = dyn Fn(usize, &mut [f32], &mut [f32]) + Sync + 'a;

/// Attention of one token to `count` positions, in their order, whose keys and values `read` gives; `q` and
/// `out` are `[heads, head_dim]` of attention. A query head with a sink has one more score, which weighs no
/// value.
pub fn attend_chosen(
    compute: Compute<'_>,
    (spec, sinks): (&AttentionSpec, &[f32]),
    count: usize,
    read: &ReadPosition<'_>,
    q: &[f32],
    gathered: Gathered<'_>,
    out: &mut [f32],
) {
    let (width, of_group) = (spec.head_dim, KEY_GROUP * spec.head_dim);
    let groups = count.div_ceil(KEY_GROUP);
    let keys = &mut gathered.keys[..groups * of_group];
    let values = &mut gathered.values[..groups * of_group];
    compute.pool.chunks_of_two((&mut *keys, of_group), (&mut *values, of_group), 1, |range, keys, values| {
        let mut key = [0.0; moelten_quant::MAX_HEAD_DIM];
        let key = &mut key[..width];
        let both = keys.chunks_exact_mut(of_group).zip(values.chunks_exact_mut(of_group));
        for (group, (keys, values)) in range.zip(both) {
            let places = group * KEY_GROUP..count.min((group + 1) * KEY_GROUP);
            for (i, (position, value)) in places.zip(values.chunks_exact_mut(width)).enumerate() {
                read(position, key, value);
                keys[i..].iter_mut().step_by(KEY_GROUP).zip(&*key).for_each(|(to, from)| *to = *from);
            }
        }
    });
    let (keys, values) = (&*keys, &*values);
    let running = &mut gathered.running[..q.len() / width];
    compute.pool.chunks_of_two((out, width), (running, 1), HEADS, |range, out, running| {
        let task = Attend {
            kv: KvHead::F32 { keys, values },
            huge_pages: false,
            head_dim: width,
            scale: spec.scale,
            softcap: spec.softcap,
            window: None,
            whole: None,
            bias: None,
            queries: &q[range.start * width..range.end * width],
            stride: range.len() * width,
            group: range.len(),
            tokens: 1,
            first: count - 1,
            spans: 0..count.div_ceil(SPAN),
        };
        compute.kernels.attend(&task, out, running);
        for (head, (out, state)) in range.zip(out.chunks_exact_mut(width).zip(running)) {
            let sink = sinks.get(head).map_or(0.0, |sink| (sink - state.max).exp());
            compute.kernels.scale(1.0 / (state.sum + sink), out);
        }
    });
}

/// The widest head of an indexer; the lowering refuses wider ones.
const MOST_HEAD_DIM: usize = 1024;
