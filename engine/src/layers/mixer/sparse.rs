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

    /// Attention of one token to the chosen positions of `layer`; `q` and `out` are `[heads, head_dim]` of
    /// attention.
    pub fn attend(
        &self,
        compute: Compute<'_>,
        spec: &AttentionSpec,
        layer: &KvLayer,
        q: &[f32],
        s: &mut SparseScratch,
        out: &mut [f32],
    ) {
        let (width, count) = (spec.head_dim, s.order.len());
        let SparseScratch { order, chosen_keys, chosen_values, running, .. } = s;
        let (order, of_group) = (&*order, KEY_GROUP * width);
        let groups = count.div_ceil(KEY_GROUP);
        let keys = (&mut chosen_keys[..groups * of_group], of_group);
        let values = (&mut chosen_values[..groups * of_group], of_group);
        compute.pool.chunks_of_two(keys, values, 1, |range, keys, values| {
            let mut key = [0.0; moelten_quant::MAX_HEAD_DIM];
            let key = &mut key[..width];
            let both = keys.chunks_exact_mut(of_group).zip(values.chunks_exact_mut(of_group));
            for (group, (keys, values)) in range.zip(both) {
                let places = order[group * KEY_GROUP..count.min((group + 1) * KEY_GROUP)].iter();
                for (i, (&position, value)) in places.zip(values.chunks_exact_mut(width)).enumerate() {
                    layer.read(position as usize, key, value);
                    keys[i..].iter_mut().step_by(KEY_GROUP).zip(&*key).for_each(|(to, from)| *to = *from);
                }
            }
        });
        let (keys, values) = (&chosen_keys[..groups * of_group], &chosen_values[..groups * of_group]);
        let running = &mut running[..spec.heads];
        compute.pool.chunks_of_two((out, width), (running, 1), HEADS, |range, out, running| {
            let task = Attend {
                kv: KvHead::F32 { keys, values },
                huge_pages: false,
                head_dim: width,
                scale: spec.scale,
                softcap: spec.softcap,
                window: None,
                queries: &q[range.start * width..range.end * width],
                stride: range.len() * width,
                group: range.len(),
                tokens: 1,
                first: count - 1,
                spans: 0..count.div_ceil(SPAN),
            };
            compute.kernels.attend(&task, out, running);
            for (head, Running { sum, .. }) in out.chunks_exact_mut(width).zip(running) {
                compute.kernels.scale(1.0 / *sum, head);
            }
        });
    }
}

/// The widest head of an indexer; the lowering refuses wider ones.
const MOST_HEAD_DIM: usize = 1024;
