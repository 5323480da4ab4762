//! The numbers that every layer gets of a token (Gemma 3n and 4): rows of a large table, of which a token
//! needs one, and a projection of its embedding. The table stays in its file. It must not know how a layer
//! uses them.

use std::f32::consts::FRAC_1_SQRT_2;

use moelten_loader::spec::LayerInputs;
use moelten_loader::tensors::bank::MatrixRef;
use moelten_quant::GROUP_ROWS;

use super::embedding::Embedding;
use crate::error::Result;
use crate::layers::linear::Compute;
use crate::layers::scratch::ProductScratch;

/// Tokens that are projected at once: their outputs are as wide as all layers together.
pub const LAYER_INPUT_TOKENS: usize = 64;

/// The weights that make them.
pub struct LayerInputWeights {
    /// Shapes.
    pub spec: LayerInputs,
    /// `[vocab, layers * width]`.
    pub table: Embedding,
    /// `[layers * width, d_model]`.
    pub projection: MatrixRef,
    /// Weights of the norm, `[width]`.
    pub norm: Vec<f32>,
}

impl LayerInputWeights {
    /// Computes the numbers of tokens, `[tokens, layers, width]`, into `out`. `x` are their scaled
    /// embeddings, `[tokens, d_model]`.
    ///
    /// # Errors
    /// As [`Embedding::rows`].
    pub fn fill(
        &self,
        compute: Compute<'_>,
        tokens: impl Iterator<Item = u32>,
        stop: &dyn Fn() -> bool,
        x: &[f32],
        products: &mut ProductScratch,
        out: &mut [f32],
    ) -> Result<()> {
        self.table.rows((compute.tensors, compute.pool), tokens, stop, out)?;
        let MatrixRef { rows, cols, format, .. } = self.projection;
        let w = compute.tensors.view(&self.projection);
        let pieces = x.chunks(LAYER_INPUT_TOKENS * cols).zip(out.chunks_mut(LAYER_INPUT_TOKENS * rows));
        for (x, out) in pieces {
            compute.pack(x, cols, [format], &mut products.packed);
            let grouped = &mut products.grouped[..out.len()];
            compute.products(&[(w, products.packed.for_matrix(&w))], grouped);
            let (tokens, grouped) = (out.len() / rows, &*grouped);
            compute.pool.rows(out, rows, |range, out| {
                for (t, out) in range.zip(out.chunks_exact_mut(rows)) {
                    for (layer, out) in out.chunks_exact_mut(self.spec.width).enumerate() {
                        self.combine(Projected { grouped, tokens, rows, cols }, (t, layer), out);
                    }
                }
            });
        }
        Ok(())
    }

    /// Adds the projected numbers of a layer to those of the table.
    fn combine(&self, projected: Projected<'_>, (token, layer): (usize, usize), out: &mut [f32]) {
        let LayerInputs { width, eps } = self.spec;
        let value = |i: usize| projected.value(token, layer * width + i);
        let squares: f32 = (0..width).map(|i| value(i) * value(i)).sum();
        let inverse = 1.0 / (squares / width as f32 + eps).sqrt();
        let root = (width as f32).sqrt();
        for (i, (out, norm)) in out.iter_mut().zip(&self.norm).enumerate() {
            *out = (value(i) * inverse * norm + *out * root) * FRAC_1_SQRT_2;
        }
    }
}

/// Grouped outputs of the projection.
#[derive(Clone, Copy)]
struct Projected<'a> {
    grouped: &'a [f32],
    tokens: usize,
    rows: usize,
    cols: usize,
}

impl Projected<'_> {
    /// The output of a row for a token, over the root of the width of the input.
    fn value(self, token: usize, row: usize) -> f32 {
        let group = row / GROUP_ROWS;
        let width = GROUP_ROWS.min(self.rows - group * GROUP_ROWS);
        let at = group * GROUP_ROWS * self.tokens + token * width + row % GROUP_ROWS;
        self.grouped[at] / (self.cols as f32).sqrt()
    }
}
