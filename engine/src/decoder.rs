//! The forward pass: tokens in, logits out, keys and values appended to the cache. Reads like the paper
//! (arXiv 1706.03762, 2401.04088); everything that differs between models is inside the layers' specs.

use std::sync::atomic::{AtomicBool, Ordering};

use moelten_loader::roles::Role;

use crate::error::{EngineError, Result};
use crate::kv_cache::KvCache;
use crate::layers::rope::{Angles, Rope};
use crate::model::{FfnWeights, Model};
use crate::router::Routing;
use crate::scratch::Scratch;

/// Tokens that go through the head at once: enough to share its weights, few enough for a small buffer.
const HEAD_TOKENS: usize = 16;

/// Which tokens of a chunk need logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// None: more of the prompt follows.
    None,
    /// The last one.
    Last,
    /// All of them.
    All,
}

/// The state a forward pass works on.
pub struct DecoderState {
    /// Keys and values so far.
    pub kv: KvCache,
    /// Buffers.
    pub scratch: Scratch,
    /// The model's ropes for this context, with the angles of the current chunk.
    pub ropes: Vec<(Rope, Angles)>,
}

/// Who watches a forward pass: routing traces, and later the prefetcher.
pub trait Observer: Send {
    /// A MoE layer has routed the chunk's tokens.
    fn routed(&mut self, layer: usize, routing: &Routing);
}

/// Nobody watches.
impl Observer for () {
    fn routed(&mut self, _: usize, _: &Routing) {}
}

impl Model {
    /// Runs a chunk of tokens that follow those in the cache. Logits are left in `state.scratch.logits`,
    /// `[wanted, vocab]`. On an error the cache keeps its length, so the chunk can be run again.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] between layers once `cancel` is set, or failed expert reads.
    pub fn forward(
        &self,
        state: &mut DecoderState,
        tokens: &[u32],
        wanted: Wanted,
        cancel: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let DecoderState { kv, scratch: s, ropes } = state;
        let (spec, compute, first) = (self.spec(), self.compute(), kv.len());
        let (d, n) = (spec.d_model, tokens.len());
        let (x, normed, branch) = (&mut s.x[..n * d], &mut s.normed[..n * d], &mut s.branch[..n * d]);
        self.embed(tokens, x);
        for (rope, angles) in ropes.iter_mut() {
            rope.angles(first, n, angles);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            if cancel.load(Ordering::Relaxed) {
                return Err(EngineError::Cancelled);
            }
            layer.mixer_norm.apply(compute, x, normed);
            let kv = kv.layer_mut(index);
            layer.attention.forward(
                compute,
                &*ropes,
                kv,
                first,
                normed,
                &mut s.attention,
                &mut s.ffn,
                branch,
            );
            compute.add(layer.residual_scale, branch, x, d);

            layer.ffn_norm.apply(compute, x, normed);
            match &layer.ffn {
                FfnWeights::Dense(mlp) => {
                    mlp.forward(compute, normed, &mut s.ffn, branch);
                }
                FfnWeights::Moe(moe) => {
                    let store = self.experts();
                    moe.forward(compute, store, index, normed, &mut s.moe, &mut s.ffn, branch)?;
                    observer.routed(index, &s.moe.routing);
                }
            }
            compute.add(layer.residual_scale, branch, x, d);
        }
        kv.advance(n);
        let wanted = match wanted {
            Wanted::None => return Ok(()),
            Wanted::Last => 1,
            Wanted::All => n,
        };
        self.final_norm.apply(compute, &x[(n - wanted) * d..], &mut normed[..wanted * d]);
        s.logits.resize(wanted * spec.vocab, 0.0);
        let inputs = normed[..wanted * d].chunks(HEAD_TOKENS * d);
        for (x, logits) in inputs.zip(s.logits.chunks_mut(HEAD_TOKENS * spec.vocab)) {
            let tokens = x.len() / d;
            compute.pack(x, d, [self.head.weight.format], &mut s.ffn.packed);
            s.head_grouped.resize(if tokens > 1 { logits.len() } else { 0 }, 0.0);
            compute.linear(&self.head, &s.ffn.packed, logits, &mut s.head_grouped);
            compute.kernels.scale(spec.head.scale, logits);
        }
        Ok(())
    }

    /// Rows of the embedding, scaled: `x` is `[tokens, d_model]`.
    fn embed(&self, tokens: &[u32], x: &mut [f32]) {
        let compute = self.compute();
        let embedding = compute.tensors.view(&self.tensors().get(Role::Embed));
        for (&token, x) in tokens.iter().zip(x.chunks_exact_mut(self.spec().d_model)) {
            embedding.decode_row(token as usize, x);
            compute.kernels.scale(self.spec().embed_scale, x);
        }
    }
}
