//! A gated short convolution (LFM2). Tokens of a sequence are computed beside each other, each from its own
//! inputs and those of the few before it, so the bits do not depend on how a text is cut. It must not know
//! how a state is kept.

use std::ops::Range;

use moelten_loader::spec::ConvSpec;

use super::contract::Mixer;
use super::history::{History, keep_last};
use crate::layers::linear::{Compute, Linear};
use crate::layers::rope::Angles;
use crate::layers::scratch::{AttentionScratch, DeltaScratch, PASS, ProductScratch};
use crate::state::LayerState;

/// The weights of a short convolution.
#[derive(Debug, Clone)]
pub struct Conv {
    /// Shapes and options.
    pub spec: ConvSpec,
    /// `[3 * width, d_model]`: both gates, then the values.
    pub input: Linear,
    /// Taps, the last for the present token, `[width, kernel]`.
    pub taps: Vec<f32>,
    /// `[width]`; empty without biases.
    pub bias: Vec<f32>,
    /// `[d_model, width]`.
    pub out: Linear,
}

impl Mixer for Conv {
    fn project(
        &self,
        compute: Compute<'_>,
        _: &[Angles],
        _: usize,
        x: &[f32],
        s: &mut AttentionScratch,
        products: &mut ProductScratch,
    ) {
        let (d_model, width) = (self.input.weight.cols, self.spec.width);
        let tokens = x.len() / d_model;
        compute.pack(x, d_model, [self.input.weight.format], &mut products.packed);
        let DeltaScratch { projected, channels, .. } = &mut s.delta;
        let projected = &mut projected[..tokens * 3 * width];
        compute.linear(&self.input, &products.packed, projected, &mut products.grouped);
        let inputs = channels.chunks_exact_mut(width).zip(projected.chunks_exact(3 * width));
        for (input, parts) in inputs {
            let (gate, values) = (&parts[..width], &parts[2 * width..]);
            input.iter_mut().zip(gate).zip(values).for_each(|((input, gate), value)| *input = gate * value);
        }
    }

    fn mix(
        &self,
        compute: Compute<'_>,
        state: &mut LayerState,
        _: usize,
        tokens: Range<usize>,
        s: &mut AttentionScratch,
    ) {
        let LayerState::Recurrent(state) = state else { unreachable!("the model gives it this state") };
        let ConvSpec { width, kernel, .. } = self.spec;
        let (from, past) = state.step();
        if let Some(from) = from {
            past.copy_from_slice(from);
        }
        let DeltaScratch { projected, channels, mixed, .. } = &mut s.delta;
        let x = &channels[tokens.start * width..tokens.end * width];
        let gates = &projected[tokens.start * 3 * width..tokens.end * 3 * width];
        let mixed = &mut mixed[tokens.start * width..tokens.end * width];
        let history = History { before: past, present: x, width };
        compute.pool.rows(mixed, width, |range, mixed| {
            for (t, mixed) in range.zip(mixed.chunks_exact_mut(width)) {
                for (channel, mixed) in mixed.iter_mut().enumerate() {
                    let taps = &self.taps[channel * kernel..][..kernel];
                    let bias = self.bias.get(channel).copied().unwrap_or(0.0);
                    *mixed = gates[(3 * t + 1) * width + channel] * history.convolve(t, channel, taps, bias);
                }
            }
        });
        keep_last(past, x, width);
    }

    fn skip(&self, tokens: Range<usize>, s: &mut AttentionScratch) {
        s.delta.mixed[tokens.start * self.spec.width..tokens.end * self.spec.width].fill(0.0);
    }

    fn output<'s>(
        &self,
        compute: Compute<'_>,
        s: &'s mut AttentionScratch,
        products: &mut ProductScratch,
        out: &mut [f32],
    ) -> &'s [f32] {
        let tokens = out.len() / self.out.weight.rows;
        let mixed = &s.delta.mixed[..tokens * self.spec.width];
        compute.pack(mixed, self.spec.width, [self.out.weight.format], &mut products.packed);
        compute.linear(&self.out, &products.packed, out, &mut products.grouped);
        mixed
    }

    fn pass_tokens(&self) -> usize {
        PASS
    }
}
