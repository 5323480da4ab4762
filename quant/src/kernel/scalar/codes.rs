//! Products of quantised weights by their definition. It must not know formats.

use crate::activations::Activations;
use crate::codes::row_product;
use crate::kernel::outputs::out_at;
use crate::matrix::QMatrix;

/// The product of quantised weights, by the definition.
pub(in crate::kernel) fn product(w: QMatrix<'_>, x: Activations<'_>, out: &mut [f32]) {
    for row in 0..w.rows() {
        let at = out_at(w.rows(), x.tokens(), row, 0);
        let out = out[at.start..].iter_mut().step_by(at.stride).take(x.tokens());
        row_product(w, row, x, out);
    }
}
