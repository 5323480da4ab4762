//! Outputs of experts that were computed elsewhere, added among those of the CPU in the order of experts,
//! with the operations and therefore the bits that the CPU would have used. It must not know where they
//! were computed.

use moelten_quant::{Activations, GROUP_ROWS, Kernels, Line};

use crate::layers::ffn::mlp::{MOST_VISITS, ROWS, Visit, add_bias, add_down_rows, first_lines};
use crate::layers::linear::{Compute, least_groups};

/// The output of an expert for the only token.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The number of visits that are added before it.
    pub after: usize,
    /// Factor that the router gave it.
    pub weight: f32,
    /// `[d_model]`, without the bias.
    pub output: &'a [f32],
    /// `[d_model]`, added to the output.
    pub bias: Option<&'a [f32]>,
}

/// Fewest groups of rows for one thread where there is no product.
const LEAST: usize = 8;

/// `out += weight * down(hidden)` for each visit of a single token and `out += weight * output` for each
/// given output, in order.
pub fn add_outputs_and(
    compute: Compute<'_>,
    visits: &[Visit<'_>],
    given: &[Given<'_>],
    hidden: &[Line],
    out: &mut [f32],
) {
    let (d_model, first_line) = (out.len(), first_lines(visits));
    let hidden: [_; MOST_VISITS] = std::array::from_fn(|i| {
        visits.get(i).map(|visit| {
            let lines = &hidden[first_line[i]..first_line[i + 1]];
            Activations::new(visit.mlp.hidden_kind(), 1, visit.mlp.d_ff(), lines)
        })
    });
    let groups = d_model.div_ceil(GROUP_ROWS);
    let start = |group: usize| (group * GROUP_ROWS).min(d_model);
    let least = visits.first().map_or(LEAST, |visit| least_groups(visit.mlp.down.row_bytes()));
    compute.pool.ranges(out, groups, least, start, |range, out| {
        for (part, row) in out.chunks_mut(ROWS).zip((range.start * GROUP_ROWS..).step_by(ROWS)) {
            let mut given = given.iter().peekable();
            for (i, visit) in visits.iter().enumerate() {
                while let Some(given) = given.next_if(|given| given.after <= i) {
                    add_given(compute.kernels, given, row, part);
                }
                if let Some(hidden) = hidden[i] {
                    add_down_rows(compute.kernels, visit, hidden, row, part);
                }
            }
            given.for_each(|given| add_given(compute.kernels, given, row, part));
        }
    });
}

/// `out += weight * (output + bias)`. `out` holds the outputs from row `first` on.
fn add_given(kernels: &Kernels, given: &Given<'_>, first: usize, out: &mut [f32]) {
    let rows = first..first + out.len();
    let mut outputs = [0.0; ROWS];
    let outputs = &mut outputs[..out.len()];
    outputs.copy_from_slice(&given.output[rows.clone()]);
    add_bias(kernels, given.bias, rows, outputs);
    out.iter_mut().zip(&*outputs).for_each(|(out, y)| *out += given.weight * y);
}
