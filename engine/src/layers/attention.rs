//! An attention layer: projections, norms and rope around the attention to the cache (arXiv 1706.03762, 2305.13245), which
//! is `attend`.

use moelten_loader::spec::{AttentionSpec, QkNorm};

use crate::kv_cache::KvLayer;
use crate::layers::attend::attend;
use crate::layers::linear::{Compute, Linear};
use crate::layers::norm::rms_in_place;
use crate::layers::rope::{Angles, Rope};
use crate::scratch::{AttentionScratch, FfnScratch};

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

/// Which tokens attend.
#[derive(Debug, Clone, Copy)]
pub struct Tokens {
    /// Position of the first in the sequence.
    pub first: usize,
    /// Its place in the chunk, for which the ropes have angles.
    pub offset: usize,
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
        Tokens { first, offset }: Tokens,
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
        let rope = self.rope.map(|index| &ropes[index]);
        self.prepare(compute, &self.q_norm, rope, offset, q, self.q.weight.rows);
        self.prepare(compute, &self.k_norm, rope, offset, k, self.k.weight.rows);
        if let Some(limit) = spec.clip_qkv {
            v.iter_mut().for_each(|v| *v = v.clamp(-limit, limit));
        }
        kv.write(compute.pool, compute.kernels, first, k, v);
        let mixed = &mut s.mixed[..q.len()];
        attend(compute, spec, kv, first, q, &mut s.attend, mixed);
        compute.pack(mixed, self.o.weight.cols, [self.o.weight.format], &mut ffn.packed);
        compute.linear(&self.o, &ffn.packed, out, &mut ffn.grouped);
    }

    /// What happens to queries or keys `[tokens, width]` between projection and attention.
    fn prepare(
        &self,
        compute: Compute<'_>,
        norm: &[f32],
        rope: Option<&(Rope, Angles)>,
        offset: usize,
        x: &mut [f32],
        width: usize,
    ) {
        compute.pool.rows(x, width, |tokens, x| {
            for (token, x) in tokens.zip(x.chunks_exact_mut(width)) {
                if let QkNorm::PerHead { eps } | QkNorm::Full { eps } = self.spec.qk_norm {
                    rms_in_place(compute.kernels, x, norm, eps);
                }
                if let Some(limit) = self.spec.clip_qkv {
                    x.iter_mut().for_each(|x| *x = x.clamp(-limit, limit));
                }
                if let Some((rope, angles)) = rope {
                    rope.rotate(x, self.spec.head_dim, angles, offset + token);
                }
            }
        });
    }
}
