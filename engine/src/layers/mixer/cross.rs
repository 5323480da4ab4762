//! Attention to the text that an encoder has read (arXiv 1706.03762). Keys and values are projected once for
//! a text; then every token of the decoder projects its query alone. It must not know encoders.

use std::ops::Range;

use crate::layers::linear::{Compute, Linear};
use crate::layers::mixer::attention::Attention;
use crate::layers::mixer::contract::Mixer;
use crate::layers::rope::Angles;
use crate::layers::scratch::{AttentionScratch, PASS, ProductScratch};
use crate::state::LayerState;

/// The weights of a cross-attention branch.
#[derive(Debug, Clone)]
pub struct Cross {
    /// Projections of queries and of the output.
    pub attention: Attention,
    /// Key projection, `[kv_heads * head_dim, d_model]`.
    pub k: Linear,
    /// Value projection, `[kv_heads * head_dim, d_model]`.
    pub v: Linear,
}

impl Cross {
    /// Keys and values of an encoded text, `[tokens, d_model]`, in place of those of the text before.
    pub fn read(
        &self,
        compute: Compute<'_>,
        text: &[f32],
        state: &mut LayerState,
        s: &mut AttentionScratch,
        products: &mut ProductScratch,
    ) {
        let d_model = self.k.weight.cols;
        state.begin_text(text.len() / d_model);
        for (first, x) in (0..).step_by(PASS).zip(text.chunks(PASS * d_model)) {
            let tokens = x.len() / d_model;
            let formats = [self.k.weight.format, self.v.weight.format];
            compute.pack(x, d_model, formats, &mut products.packed);
            let k = &mut s.k[..tokens * self.k.weight.rows];
            compute.linear(&self.k, &products.packed, k, &mut products.grouped);
            let v = &mut s.v[..tokens * self.v.weight.rows];
            compute.linear(&self.v, &products.packed, v, &mut products.grouped);
            state.write(compute.pool, compute.kernels, first, k, v);
        }
    }
}

impl Mixer for Cross {
    fn project(
        &self,
        compute: Compute<'_>,
        angles: &[Angles],
        first: usize,
        x: &[f32],
        s: &mut AttentionScratch,
        products: &mut ProductScratch,
    ) {
        self.attention.project(compute, angles, first, x, s, products);
    }

    fn mix(
        &self,
        compute: Compute<'_>,
        state: &mut LayerState,
        position: usize,
        tokens: Range<usize>,
        s: &mut AttentionScratch,
    ) {
        self.attention.mix(compute, state, position, tokens, s);
    }

    fn skip(&self, tokens: Range<usize>, s: &mut AttentionScratch) {
        self.attention.skip(tokens, s);
    }

    fn output<'s>(
        &self,
        compute: Compute<'_>,
        s: &'s mut AttentionScratch,
        products: &mut ProductScratch,
        out: &mut [f32],
    ) -> &'s [f32] {
        self.attention.output(compute, s, products, out)
    }

    fn pass_tokens(&self) -> usize {
        self.attention.pass_tokens()
    }
}
