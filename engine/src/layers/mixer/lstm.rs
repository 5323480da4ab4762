//! Long short-term memory (Hochreiter and Schmidhuber 1997), the host of the first sparsely-gated mixture
//! (arXiv 1701.06538). Tokens are computed one after the other, so the bits do not depend on how a text is
//! cut. It must not know how a state is kept.

use std::ops::Range;

use super::contract::Mixer;
use super::recurrence::sigmoid;
use crate::layers::linear::{Compute, Linear};
use crate::layers::rope::Angles;
use crate::layers::scratch::{AttentionScratch, DeltaScratch, PASS, ProductScratch};
use crate::state::LayerState;

/// The weights of an LSTM. Rows are those of input gates, forget gates, candidates and output gates.
#[derive(Debug, Clone)]
pub struct Lstm {
    /// `[4 * width, d_model]`, with its bias.
    pub input: Linear,
    /// `[4 * width, width]`.
    pub back: Linear,
}

impl Lstm {
    fn width(&self) -> usize {
        self.back.weight.cols
    }
}

impl Mixer for Lstm {
    fn project(
        &self,
        compute: Compute<'_>,
        _: &[Angles],
        _: usize,
        x: &[f32],
        s: &mut AttentionScratch,
        products: &mut ProductScratch,
    ) {
        let cols = self.input.weight.cols;
        compute.pack(x, cols, [self.input.weight.format], &mut products.packed);
        let projected = &mut s.delta.projected[..x.len() / cols * 4 * self.width()];
        compute.linear(&self.input, &products.packed, projected, &mut products.grouped);
    }

    /// The state has the last output, then the memories.
    fn mix(
        &self,
        compute: Compute<'_>,
        state: &mut LayerState,
        _: usize,
        tokens: Range<usize>,
        s: &mut AttentionScratch,
    ) {
        let LayerState::Recurrent(state) = state else { unreachable!("the model gives it this state") };
        let width = self.width();
        let (from, kept) = state.step();
        if let Some(from) = from {
            kept.copy_from_slice(from);
        }
        let (last, memory) = kept.split_at_mut(width);
        let DeltaScratch { projected, rates: back, gates: inputs, mixed, inner, .. } = &mut s.delta;
        let back = &mut back[..4 * width];
        for t in tokens {
            compute.pack(last, width, [self.back.weight.format], &mut inner.packed);
            compute.linear(&self.back, &inner.packed, back, &mut inner.grouped);
            inputs[t * width..][..width].copy_from_slice(last);
            let ahead = &projected[t * 4 * width..][..4 * width];
            for (unit, (last, memory)) in last.iter_mut().zip(&mut *memory).enumerate() {
                let [i, f, g, o] = [0, 1, 2, 3].map(|part| {
                    let row = part * width + unit;
                    ahead[row] + back[row]
                });
                *memory = sigmoid(f) * *memory + sigmoid(i) * g.tanh();
                *last = sigmoid(o) * memory.tanh();
            }
            mixed[t * width..][..width].copy_from_slice(last);
        }
    }

    fn skip(&self, tokens: Range<usize>, s: &mut AttentionScratch) {
        let at = tokens.start * self.width()..tokens.end * self.width();
        s.delta.mixed[at.clone()].fill(0.0);
        s.delta.gates[at].fill(0.0);
    }

    /// There is no projection. What is returned are the inputs of the matrix `back`.
    fn output<'s>(
        &self,
        _: Compute<'_>,
        s: &'s mut AttentionScratch,
        _: &mut ProductScratch,
        out: &mut [f32],
    ) -> &'s [f32] {
        out.copy_from_slice(&s.delta.mixed[..out.len()]);
        &s.delta.gates[..out.len()]
    }

    fn pass_tokens(&self) -> usize {
        PASS
    }
}
