//! Matrix products over the worker threads, and what a layer needs to call them.

use moelten_loader::store::{MatrixRef, TensorStore};
use moelten_quant::{Kernels, QMatrix};

use crate::pool::Pool;

/// Tokens of a transposition tile: 16 floats are one cache line.
const TILE: usize = 16;

/// What every layer computes with: kernels of one instruction set, the threads, the weights.
#[derive(Clone, Copy)]
pub struct Compute<'a> {
    /// Kernels of the chosen tier.
    pub kernels: &'static Kernels,
    /// Worker threads; the caller is on one of them.
    pub pool: &'a Pool,
    /// The model's tensors.
    pub tensors: &'a TensorStore,
}

/// A dense projection: a matrix and an optional bias `[rows]`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[rows, cols]`.
    pub weight: MatrixRef,
    /// `[rows]`.
    pub bias: Option<Vec<f32>>,
}

impl<'a> Compute<'a> {
    /// `out[t, r] = x[t] . w[r] + bias[r]`; `x` is `[tokens, cols]`, `out` is `[tokens, rows]`, `tmp` holds as much
    /// as `out`.
    pub fn linear(&self, linear: &Linear, x: &[f32], tokens: usize, out: &mut [f32], tmp: &mut [f32]) {
        self.matmul(self.tensors.view(&linear.weight), x, tokens, out, tmp);
        if let Some(bias) = &linear.bias {
            for row in out.chunks_exact_mut(bias.len()) {
                self.kernels.axpy(1.0, bias, row);
            }
        }
    }

    /// [`Self::linear`] for a bare matrix.
    pub fn matmul(&self, w: QMatrix<'_>, x: &[f32], tokens: usize, out: &mut [f32], tmp: &mut [f32]) {
        let rows = w.rows();
        if tokens == 1 {
            return self.matmul_by_rows(w, x, 1, out);
        }
        let tmp = &mut tmp[..rows * tokens];
        self.matmul_by_rows(w, x, tokens, tmp);
        self.transpose(tmp, tokens, out);
    }

    /// `[rows, tokens]` to `[tokens, rows]`.
    pub fn transpose(&self, by_rows: &[f32], tokens: usize, by_tokens: &mut [f32]) {
        let rows = by_rows.len() / tokens;
        self.pool.chunks(by_tokens, rows, TILE, |range, out| {
            for (row, values) in by_rows.chunks_exact(tokens).enumerate() {
                for (i, &value) in values[range.clone()].iter().enumerate() {
                    out[i * rows + row] = value;
                }
            }
        });
    }

    /// The product as kernels like it: `out` is `[rows, tokens]`.
    pub fn matmul_by_rows(&self, w: QMatrix<'_>, x: &[f32], tokens: usize, out: &mut [f32]) {
        let kernels = self.kernels;
        self.pool.rows(out, tokens, |rows, out| kernels.matmul(w.slice_rows(rows), x, tokens, out));
    }

    /// `x += factor * y`, by token rows.
    pub fn add(&self, factor: f32, y: &[f32], x: &mut [f32], width: usize) {
        let kernels = self.kernels;
        self.pool.rows(x, width, |rows, x| kernels.axpy(factor, &y[rows.start * width..rows.end * width], x));
    }
}
