//! A layer's own numbers of a token (Gemma 3n and 4): how they join the residual stream. It must not know
//! where they come from.

use moelten_loader::spec::LayerInputSpec;

use crate::layers::ffn::mlp::activate;
use crate::layers::linear::{Compute, Linear};
use crate::layers::scratch::{LayerInputScratch, ProductScratch};

/// Tokens of one task that multiplies gates and numbers.
const TOKENS: usize = 16;

/// The weights of a branch that reads the layer's own numbers.
#[derive(Debug, Clone)]
pub struct LayerInput {
    /// Shapes and options.
    pub spec: LayerInputSpec,
    /// The layer whose numbers it reads.
    pub layer: usize,
    /// Gate, `[width, d_model]`.
    pub gate: Linear,
    /// Projection to the residual stream, `[d_model, width]`.
    pub up: Linear,
}

impl LayerInput {
    /// `out = up(act(gate(x)) * n)`; `x` and `out` are `[tokens, d_model]`, `inputs` are the numbers of all
    /// layers of these tokens, `[tokens, layers, width]`. Returns the input of `up`.
    pub fn forward<'s>(
        &self,
        compute: Compute<'_>,
        x: &[f32],
        inputs: &[f32],
        (gates, hidden): (&mut [f32], &'s mut [f32]),
        products: &mut ProductScratch,
        out: &mut [f32],
    ) -> &'s [f32] {
        let (d_model, width) = (self.gate.weight.cols, self.spec.width);
        let tokens = x.len() / d_model;
        let all = inputs.len() / tokens;
        let (gates, hidden) = (&mut gates[..tokens * width], &mut hidden[..tokens * width]);
        compute.pack(x, d_model, [self.gate.weight.format], &mut products.packed);
        compute.linear(&self.gate, &products.packed, gates, &mut products.grouped);
        compute.pool.chunks_of_two((hidden, width), (gates, width), TOKENS, |range, hidden, gates| {
            for (t, hidden) in range.zip(hidden.chunks_exact_mut(width)) {
                hidden.copy_from_slice(&inputs[t * all + self.layer * width..][..width]);
            }
            activate(compute.kernels, self.spec.activation, gates, hidden);
        });
        compute.pack(hidden, width, [self.up.weight.format], &mut products.packed);
        compute.linear(&self.up, &products.packed, out, &mut products.grouped);
        hidden
    }
}

impl LayerInputScratch {
    /// Buffers for batches of `chunk` tokens and passes of `pass`, of `layers` layers with `width` numbers
    /// each.
    pub fn new(chunk: usize, pass: usize, (layers, width): (usize, usize)) -> Self {
        let numbers = |count: usize| vec![0.0; count * width];
        Self { all: numbers(chunk * layers), gates: numbers(pass), hidden: numbers(pass) }
    }

    /// Numbers that [`Self::new`] allocates.
    pub fn numbers_for(chunk: usize, pass: usize, (layers, width): (usize, usize)) -> usize {
        (chunk * layers + 2 * pass) * width
    }

    /// Numbers of the buffers.
    pub fn numbers(&self) -> usize {
        [&self.all, &self.gates, &self.hidden].iter().map(|buffer| buffer.capacity()).sum()
    }
}
