//! An attention branch (arXiv 1706.03762, 2305.13245): projections, norms and rope. Attention to the state is
//! in `attend`. Projections take the tokens of all sequences of a batch together. It must not know how a
//! state stores keys and values.

use std::ops::Range;
use std::sync::Arc;

use moelten_loader::spec::{AttentionSpec, KvSource, OutputGate, QkNorm};
use moelten_loader::tensors::bank::MatrixRef;
use moelten_quant::DistanceBias;

use crate::layers::linear::{Compute, Linear};
use crate::layers::mixer::attend::{Scoring, attend, warm};
use crate::layers::mixer::blocks::Blocks;
use crate::layers::mixer::contract::Mixer;
use crate::layers::norm::rms_in_place;
use crate::layers::rope::Angles;
use crate::layers::scratch::{AttentionScratch, PASS, ProductScratch};
use crate::state::LayerState;

/// The weights of an attention branch.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Shapes and options.
    pub spec: AttentionSpec,
    /// Query projection, `[heads * head_dim, d_model]`, with the gate's rows where they are in it.
    pub q: Linear,
    /// Key projection, `[kv_heads * head_dim, d_model]`; `None` where another layer's keys are read.
    pub k: Option<Linear>,
    /// Value projection, `[kv_heads * value_dim, d_model]`; `None` where the values are keys, too.
    pub v: Option<Linear>,
    /// Output projection, `[d_model, heads * value_dim]`.
    pub o: Linear,
    /// Gate on the mixed values, `[heads * head_dim, d_model]` or `[heads, d_model]`.
    pub gate: Option<MatrixRef>,
    /// Weights of the query norm, `[head_dim]` or `[heads * head_dim]`; empty without one.
    pub q_norm: Vec<f32>,
    /// Weights of the key norm, `[head_dim]` or `[kv_heads * head_dim]`; empty without one.
    pub k_norm: Vec<f32>,
    /// Ones, `[value_dim]`, where values have a norm; else empty.
    pub v_norm: Vec<f32>,
    /// Logits of the sinks, `[heads]`; empty without them.
    pub sinks: Vec<f32>,
    /// What distances add to scores, `[heads, 2 * reach + 1]`, the same in all layers that share it.
    pub distances: Option<Arc<[f32]>>,
    /// How tokens choose the blocks that they attend to.
    pub blocks: Option<Box<Blocks>>,
    /// Index of the rope among those of the model; `None` without positions.
    pub rope: Option<usize>,
}

impl Mixer for Attention {
    fn project(
        &self,
        compute: Compute<'_>,
        angles: &[Angles],
        first: usize,
        x: &[f32],
        s: &mut AttentionScratch,
        products: &mut ProductScratch,
    ) {
        let tokens = x.len() / self.q.weight.cols;
        let width = self.width();
        let with_gate = self.spec.gate == Some(OutputGate::SigmoidWithQuery);
        let q = if with_gate { &mut s.gate } else { &mut s.q };
        let q = &mut q[..tokens * self.q.weight.rows];
        // Projections are missing from the end.
        let linears = [Some(&self.q), self.k.as_ref(), self.v.as_ref()];
        let count = linears.iter().flatten().count();
        let linears = linears.map(|linear| linear.unwrap_or(&self.q));
        let values = self.spec.kv_heads * self.spec.value_dim;
        let k = &mut s.k[..if count > 1 { tokens * self.kv_width() } else { 0 }];
        let v = &mut s.v[..if count > 2 { tokens * values } else { 0 }];
        let packed = &mut products.packed;
        compute.pack(x, self.q.weight.cols, linears.map(|linear| linear.weight.format), packed);
        let views = linears.map(|linear| {
            let w = compute.tensors.view(&linear.weight);
            (w, packed.for_matrix(&w))
        });
        let grouped = &mut products.grouped[..q.len() + k.len() + v.len()];
        compute.products(&views[..count], grouped);
        let mut rest = &*grouped;
        for (linear, out) in linears.into_iter().take(count).zip([&mut *q, &mut *k, &mut *v]) {
            let (part, others) = rest.split_at(out.len());
            rest = others;
            compute.ungroup(part, linear.weight.rows, linear.bias.as_deref(), out);
        }
        if let Some(gate) = &self.gate {
            let gate = compute.tensors.view(gate);
            compute.pack_also(x, [gate.format()], packed);
            let out = &mut s.gate[..tokens * gate.rows()];
            let grouped = &mut products.grouped[..out.len()];
            compute.products(&[(gate, packed.for_matrix(&gate))], grouped);
            compute.ungroup(grouped, gate.rows(), None, out);
        }
        if let Some(blocks) = &self.blocks {
            let angles = self.rope.map(|index| &angles[index]);
            blocks.project(compute, (angles, first), x, &mut s.sparse, products);
        }
        if with_gate {
            take_apart(&mut s.gate[..2 * tokens * width], self.spec.head_dim, &mut s.q[..tokens * width]);
        }
        let angles = self.rope.map(|index| &angles[index]);
        self.prepare(compute, &self.q_norm, angles, first, &mut s.q[..tokens * width], width);
        if !self.spec.source.is_own() {
            return;
        }
        let narrow = tokens * self.kv_width();
        let (k, v) = (&mut s.k[..narrow], &mut s.v[..narrow]);
        if self.spec.source == KvSource::Shared {
            v.copy_from_slice(k);
        }
        self.prepare(compute, &self.k_norm, angles, first, k, self.kv_width());
        self.prepare_values(compute, v, tokens);
        if let Some(limit) = self.spec.clip_qkv {
            v.iter_mut().for_each(|v| *v = v.clamp(-limit, limit));
        }
    }

    fn mix(
        &self,
        compute: Compute<'_>,
        state: &mut LayerState,
        position: usize,
        tokens: Range<usize>,
        s: &mut AttentionScratch,
    ) {
        let rows = |width: usize| tokens.start * width..tokens.end * width;
        let (wide, narrow) = (rows(self.width()), rows(self.kv_width()));
        if self.spec.source.is_own() && !self.spec.whole {
            let (k, v) = (&s.k[narrow.clone()], &s.v[narrow]);
            state.write(compute.pool, compute.kernels, position, k, v);
        }
        let (q, mixed) = (&mut s.q[wide.clone()], &mut s.mixed[wide]);
        warm(compute, &self.spec, position, q);
        if let (Some(blocks), LayerState::Indexed(state)) = (&self.blocks, &mut *state) {
            return blocks.mix(compute, &self.spec, state, position, tokens, s);
        }
        let reach = self.spec.relative.map_or(0, |relative| relative.reach);
        let bias = self.distances.as_deref().map(|values| DistanceBias { values, reach });
        let scoring = Scoring { spec: &self.spec, sinks: &self.sinks, bias };
        attend(compute, scoring, state.view(), position, q, &mut s.attend, mixed);
    }

    fn whole(&self) -> bool {
        self.spec.whole
    }

    fn take(
        &self,
        compute: Compute<'_>,
        state: &mut LayerState,
        position: usize,
        tokens: Range<usize>,
        s: &AttentionScratch,
    ) {
        let at = tokens.start * self.kv_width()..tokens.end * self.kv_width();
        state.write(compute.pool, compute.kernels, position, &s.k[at.clone()], &s.v[at]);
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
        let tokens = out.len() / self.o.weight.rows;
        let (head_dim, value_dim) = (self.spec.head_dim, self.spec.value_dim);
        if value_dim < head_dim {
            for head in 0..tokens * self.spec.heads {
                s.mixed.copy_within(head * head_dim..head * head_dim + value_dim, head * value_dim);
            }
        }
        self.apply_gate(compute, tokens, s);
        let mixed = &s.mixed[..tokens * self.o.weight.cols];
        compute.pack(mixed, self.o.weight.cols, [self.o.weight.format], &mut products.packed);
        compute.linear(&self.o, &products.packed, out, &mut products.grouped);
        mixed
    }

    fn pass_tokens(&self) -> usize {
        PASS
    }
}

impl Attention {
    /// Width of a token's queries.
    fn width(&self) -> usize {
        self.spec.heads * self.spec.head_dim
    }

    /// Width of a token's keys, and of its values.
    fn kv_width(&self) -> usize {
        self.spec.kv_heads * self.spec.head_dim
    }

    /// Norm and factor of the values of some tokens, and zeros behind those that are narrower than keys: from
    /// `[tokens, kv_heads, value_dim]` to `[tokens, kv_heads, head_dim]`, in place.
    fn prepare_values(&self, compute: Compute<'_>, v: &mut [f32], tokens: usize) {
        let AttentionSpec { kv_heads, head_dim, value_dim, value_norm, value_scale, .. } = self.spec;
        let given = &mut v[..tokens * kv_heads * value_dim];
        if value_norm.is_some() || value_scale.to_bits() != 1.0_f32.to_bits() {
            compute.pool.rows(given, kv_heads * value_dim, |_, v| {
                if let Some(eps) = value_norm {
                    rms_in_place(compute.kernels, v, &self.v_norm, eps);
                }
                compute.kernels.scale(value_scale, v);
            });
        }
        if value_dim < head_dim {
            for head in (0..tokens * kv_heads).rev() {
                v.copy_within(head * value_dim..(head + 1) * value_dim, head * head_dim);
                v[head * head_dim + value_dim..(head + 1) * head_dim].fill(0.0);
            }
        }
    }

    /// Multiplies the mixed values of the first tokens by their gates.
    fn apply_gate(&self, compute: Compute<'_>, tokens: usize, s: &mut AttentionScratch) {
        let Some(kind) = self.spec.gate else { return };
        let (width, value_dim) = (self.o.weight.cols, self.spec.value_dim);
        let gates_of_token = self.spec.gate_rows();
        let gates = &s.gate[..tokens * gates_of_token];
        compute.pool.rows(&mut s.mixed[..tokens * width], width, |range, mixed| {
            let gates = &gates[range.start * gates_of_token..range.end * gates_of_token];
            match kind {
                OutputGate::SigmoidPerValue | OutputGate::SigmoidWithQuery => {
                    mixed.iter_mut().zip(gates).for_each(|(x, gate)| *x *= 1.0 / (1.0 + (-gate).exp()));
                }
                OutputGate::SoftplusPerHead | OutputGate::SigmoidPerHead => {
                    for (head, gate) in mixed.chunks_exact_mut(value_dim).zip(gates) {
                        let factor = match kind {
                            OutputGate::SoftplusPerHead => softplus(*gate),
                            _ => 1.0 / (1.0 + (-gate).exp()),
                        };
                        compute.kernels.scale(factor, head);
                    }
                }
            }
        });
    }

    /// Norm, clamp and rotation of queries or keys, `[tokens, width]`.
    fn prepare(
        &self,
        compute: Compute<'_>,
        norm: &[f32],
        angles: Option<&Angles>,
        first: usize,
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
                if let Some(angles) = angles {
                    angles.rotate(x, self.spec.head_dim, first + token);
                }
                if let QkNorm::PerHeadAfterRope { eps } | QkNorm::PlainAfterRope { eps } = self.spec.qk_norm {
                    rms_in_place(compute.kernels, x, norm, eps);
                }
            }
        });
    }
}

/// `ln(1 + exp(x))`, without an overflow for large `x`.
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Queries and gates of every head, `[tokens, heads, 2, head_dim]`, to queries in `q` and to gates at the
/// start of where both were, `[tokens, heads * head_dim]` each.
fn take_apart(both: &mut [f32], head_dim: usize, q: &mut [f32]) {
    for (head, q) in q.chunks_exact_mut(head_dim).enumerate() {
        let at = 2 * head * head_dim;
        q.copy_from_slice(&both[at..at + head_dim]);
        both.copy_within(at + head_dim..at + 2 * head_dim, head * head_dim);
    }
}
