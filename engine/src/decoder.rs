//! The forward pass: tokens in, logits out, keys and values appended to the cache. Reads like the paper
//! (arXiv 1706.03762, 2401.04088); everything that differs between models is inside the layers' specs.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{EngineError, Result};
use crate::importance::InputSquares;
use crate::kv_cache::KvCache;
use crate::layers::attention::Tokens;
use crate::layers::rope::{Angles, Rope};
use crate::model::{FfnWeights, Layer, Model};
use crate::router::Routing;
use crate::scratch::{AheadScratch, PASS, Scratch};

/// Tokens that go through the head at once: enough to share its weights, few enough for a small buffer.
pub const HEAD_TOKENS: usize = 16;

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

    /// Where the squares of all matrices' inputs go, if anyone wants them.
    fn squares(&mut self) -> Option<&mut InputSquares> {
        None
    }
}

/// Nobody watches.
impl Observer for () {
    fn routed(&mut self, _: usize, _: &Routing) {}
}

impl Model {
    /// Runs a chunk of tokens that follow those in the cache. The last one's logits are left in `state.scratch.logits`,
    /// `[1, vocab]`, if they are wanted; for those of all tokens see [`Self::head`]. On an error the cache keeps its length, so the chunk can be run again.
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
        self.embed(tokens, x)?;
        for (rope, angles) in ropes.iter_mut() {
            rope.angles(first, n, angles);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            if cancel.load(Ordering::Relaxed) {
                return Err(EngineError::Cancelled);
            }
            let kv = kv.layer_mut(index);
            for (offset, x) in (0..).step_by(PASS).zip(x.chunks_mut(PASS * d)) {
                let (normed, branch) = (&mut normed[..x.len()], &mut branch[..x.len()]);
                layer.mixer_norm.apply(compute, x, normed);
                let tokens = Tokens { first: first + offset, offset };
                let (attention, ffn) = (&mut s.attention, &mut s.ffn);
                layer.attention.forward(compute, &*ropes, kv, tokens, normed, attention, ffn, branch);
                if let Some(squares) = observer.squares() {
                    let mixed = x.len() / d * layer.attention.o.weight.cols;
                    squares.attention(compute.pool, index, normed, &attention.mixed[..mixed]);
                }
                compute.add(layer.residual_scale, branch, x, d);
            }

            layer.ffn_norm.apply(compute, x, normed);
            match &layer.ffn {
                FfnWeights::Dense(mlp) => {
                    for (x, out) in normed.chunks(PASS * d).zip(branch.chunks_mut(PASS * d)) {
                        let squares = observer.squares().map(|squares| squares.hidden(index));
                        mlp.forward(compute, x, &mut s.ffn, squares, out);
                    }
                    if let Some(squares) = observer.squares() {
                        squares.ffn(compute.pool, index, normed, None);
                    }
                }
                FfnWeights::Moe(moe) => {
                    let (store, ffn) = (self.experts(), &mut s.ffn);
                    moe.route(compute, normed, &mut s.moe.route, &mut ffn.packed, &mut ffn.grouped);
                    let ahead = &mut s.ahead;
                    let mut guess = || self.look_ahead(index, x, ahead);
                    let moe_scratch = &mut s.moe;
                    let mut hidden = observer.squares().map(|squares| squares.hidden(index));
                    let hidden = hidden.as_mut();
                    moe.forward(
                        compute,
                        store,
                        index,
                        normed,
                        moe_scratch,
                        ffn,
                        hidden,
                        branch,
                        cancel,
                        &mut guess,
                    )?;
                    if let Some(squares) = observer.squares() {
                        squares.ffn(compute.pool, index, normed, Some(&s.moe.visits));
                    }
                    observer.routed(index, &s.moe.route.routing);
                }
            }
            compute.add(layer.residual_scale, branch, x, d);
        }
        kv.advance(n);
        let first = match wanted {
            Wanted::None => return Ok(()),
            Wanted::Last => n - 1,
            Wanted::All => 0,
        };
        let normed = &mut normed[..(n - first) * d];
        self.final_norm.apply(compute, &x[first * d..], normed);
        if let Some(squares) = observer.squares() {
            squares.head(compute.pool, normed);
        }
        if wanted == Wanted::Last {
            self.head(s, 0..1);
        }
        Ok(())
    }

    /// Logits of some of the tokens whose final norms the last chunk has left, at most [`HEAD_TOKENS`]: in `s.logits`,
    /// `[tokens, vocab]`.
    pub fn head(&self, s: &mut Scratch, tokens: Range<usize>) {
        let (compute, spec) = (self.compute(), self.spec());
        let (d, count) = (spec.d_model, tokens.len());
        s.logits.resize(count * spec.vocab, 0.0);
        s.head_grouped.resize(if count > 1 { s.logits.len() } else { 0 }, 0.0);
        let x = &s.normed[tokens.start * d..tokens.end * d];
        compute.pack(x, d, [self.head.weight.format], &mut s.ffn.packed);
        compute.linear(&self.head, &s.ffn.packed, &mut s.logits, &mut s.head_grouped);
        compute.kernels.scale(spec.head.scale, &mut s.logits);
    }

    /// Guesses the experts of the layer after `index` from the residual stream that this layer has not added to yet: what one
    /// layer adds is little, so the next router mostly decides the same (arXiv 2312.17238). Reads them ahead.
    fn look_ahead(&self, index: usize, x: &[f32], s: &mut AheadScratch) {
        let Some(Layer { ffn: FfnWeights::Moe(moe), ffn_norm, .. }) = self.layers.get(index + 1) else {
            return;
        };
        if x.len() != self.spec().d_model || !self.experts().guesses() {
            return;
        }
        let compute = self.compute();
        ffn_norm.apply(compute, x, &mut s.normed);
        moe.route(compute, &s.normed, &mut s.route, &mut s.packed, &mut s.grouped);
        let (chosen, _) = s.route.routing.token(0);
        s.ranked.clear();
        s.ranked.extend_from_slice(chosen);
        let logits = &s.route.logits;
        s.ranked.sort_unstable_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        self.experts().look_ahead(index + 1, &s.ranked);
    }

    /// Rows of the embedding, scaled: `x` is `[tokens, d_model]`.
    fn embed(&self, tokens: &[u32], x: &mut [f32]) -> Result<()> {
        let compute = self.compute();
        for (&token, x) in tokens.iter().zip(x.chunks_exact_mut(self.spec().d_model)) {
            self.embedding.row(compute.tensors, token, x)?;
            compute.kernels.scale(self.spec().embed_scale, x);
        }
        Ok(())
    }
}
