//! Norms of the residual stream (RMS: arXiv 1910.07467, layer norm: arXiv 1607.06450), and of queries and
//! keys. It must not know which branch they belong to.

use moelten_loader::spec::NormSpec;
use moelten_quant::Kernels;

use crate::layers::linear::Compute;

/// A norm with its weights.
#[derive(Debug, Clone)]
pub struct Norm {
    /// Kind and epsilon.
    pub spec: NormSpec,
    /// Factors, `[d_model]`.
    pub weight: Vec<f32>,
    /// Offsets, `[d_model]`; zeros for a layer norm without bias, empty for RMS norms.
    pub bias: Vec<f32>,
}

impl Norm {
    /// Normalises every token; `x` and `out` are `[tokens, d_model]`.
    pub fn apply(&self, compute: Compute<'_>, x: &[f32], out: &mut [f32]) {
        let width = self.weight.len();
        let kernels = compute.kernels;
        compute.pool.rows(out, width, |rows, out| {
            let x = &x[rows.start * width..rows.end * width];
            for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
                match self.spec {
                    NormSpec::Rms { eps } => kernels.rms_norm(x, &self.weight, eps, out),
                    NormSpec::Layer { eps } | NormSpec::LayerUnbiased { eps } => {
                        kernels.layer_norm(x, &self.weight, &self.bias, eps, out)
                    }
                }
            }
        });
    }
}

/// RMS norm (arXiv 1910.07467) of every `weight.len()` values of `x`, in place.
pub fn rms_in_place(kernels: &Kernels, x: &mut [f32], weight: &[f32], eps: f32) {
    for run in x.chunks_exact_mut(weight.len()) {
        let inverse = 1.0 / (kernels.dot(run, run) / run.len() as f32 + eps).sqrt();
        for (x, weight) in run.iter_mut().zip(weight) {
            *x = *x * inverse * weight;
        }
    }
}
