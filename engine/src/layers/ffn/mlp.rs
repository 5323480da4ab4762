//! The arithmetic of feed-forward blocks: `down(act(gate(x)) * up(x))` (arXiv 2002.05202), or
//! `down(act(up(x)))` without a gate, with or without biases. Dense blocks, shared experts and routed experts
//! are computed here, several at a time, each over the tokens that visit it. It takes two parallel regions.
//! The first computes gate, up and activation of all blocks, 32 rows of a block at a time, straight into the
//! packed input of `down`. The second computes `down` and adds up the blocks in order. It must not know where
//! weights come from.

use std::array;
use std::ops::Range;

use moelten_loader::spec::Activation;
use moelten_quant::{ActivationKind, Activations, Columns, GROUP_ROWS, Kernels, Line, QMatrix, Record};

use crate::layers::linear::{Compute, least_groups};
use crate::layers::squares::HiddenSum;

/// Most feed-forward blocks that are computed together.
pub const MOST_VISITS: usize = 16;
/// Most tokens of one product in a task. Its outputs are on the stack.
const TOKENS: usize = 128;
/// Most rows of one product of a single token. Its outputs are on the stack.
pub(super) const ROWS: usize = 2048;
/// A block of so few visitors uses smaller arrays on the stack, which take less time to clear.
const FEW: usize = 32;
/// Tasks per thread of the second region. They are enough for threads to finish together. They are few enough
/// that the inputs of a block, which every task reads, stay in the processor's cache while the task goes
/// through its rows.
const DOWN_TASKS: usize = 4;

/// A block as the kernels take it.
#[derive(Clone, Copy)]
pub struct MlpView<'a> {
    /// `[d_ff, d_model]`; `None` for a block of two matrices.
    pub gate: Option<QMatrix<'a>>,
    /// `[d_ff, d_model]`.
    pub up: QMatrix<'a>,
    /// `[d_model, d_ff]`.
    pub down: QMatrix<'a>,
    /// Added to the outputs of the matrices.
    pub biases: Biases<'a>,
    /// Applied to the output of the gate, or of `up` in a block without a gate.
    pub activation: Activation,
}

/// Biases of a block; `None` for matrices without one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Biases<'a> {
    /// `[d_ff]`, added to the output of the gate.
    pub gate: Option<&'a [f32]>,
    /// `[d_ff]`, added to the output of `up`.
    pub up: Option<&'a [f32]>,
    /// `[d_model]`, added to the output of `down`.
    pub down: Option<&'a [f32]>,
}

/// A feed-forward block and the tokens that visit it.
#[derive(Clone, Copy)]
pub struct Visit<'a> {
    /// The block that they visit.
    pub mlp: MlpView<'a>,
    /// Inputs of the visitors packed for the gate, `[visitors, d_model]`; unused in a block without a gate.
    pub to_gate: Activations<'a>,
    /// The same inputs packed for `up`.
    pub to_up: Activations<'a>,
    /// The token of each visitor, and the weight of the output for it.
    pub visitors: &'a [(u32, f32)],
    /// The squares of the hidden layer are added to it.
    pub squares: Option<&'a HiddenSum>,
}

impl MlpView<'_> {
    /// Lines of the packed hidden layer of `tokens` tokens.
    pub fn hidden_lines(&self, tokens: usize) -> usize {
        self.hidden_kind().lines(tokens, self.d_ff())
    }

    /// Width of the hidden layer.
    pub(super) fn d_ff(&self) -> usize {
        self.up.rows()
    }

    /// The matrix that a task reads first.
    fn first(&self) -> &QMatrix<'_> {
        self.gate.as_ref().unwrap_or(&self.up)
    }

    pub(super) fn hidden_kind(&self) -> ActivationKind {
        ActivationKind::of(self.down.format())
    }
}

/// `out[token] += weight * mlp(x[token])` for each visit in order and each of its visitors. `out` is grouped,
/// `[d_model / 32, tokens, 32]`. `hidden` holds the [`MlpView::hidden_lines`] of all visits.
///
/// # Panics
/// If there are more than [`MOST_VISITS`].
pub fn add_visits(
    compute: Compute<'_>,
    visits: &[Visit<'_>],
    hidden: &mut [Line],
    out: &mut [f32],
    d_model: usize,
) {
    hidden_layers(compute, visits, hidden);
    add_outputs(compute, visits, hidden, out, d_model);
}

/// The first half of [`add_visits`]: the packed hidden layers of all visits, one after the other. Several
/// calls may compute some visits each, every call with its own part of `hidden`.
pub fn hidden_layers(compute: Compute<'_>, visits: &[Visit<'_>], hidden: &mut [Line]) {
    let first_line = first_lines(visits);
    // Groups of rows of all visits, one after the other: the first of each.
    let mut first_group = [0; MOST_VISITS + 1];
    for i in 0..MOST_VISITS {
        first_group[i + 1] =
            first_group[i] + visits.get(i).map_or(0, |visit| visit.mlp.d_ff().div_ceil(GROUP_ROWS));
    }
    let hidden = &mut hidden[..first_line[MOST_VISITS]];
    let find = |group: usize| {
        let i = first_group.iter().rposition(|&first| first <= group).unwrap_or(0).min(visits.len() - 1);
        (i, group - first_group[i])
    };
    let record = |i: usize| visits[i].mlp.hidden_kind().record_lines(visits[i].visitors.len());
    let start = |group: usize| {
        let (i, group) = find(group);
        first_line[i] + group * record(i)
    };
    match visits {
        [visit, ..] if visits.iter().all(|visit| visit.visitors.len() == 1) => {
            let least = least_groups(visit.mlp.first().row_bytes());
            compute.pool.ranges(hidden, first_group[MOST_VISITS], least, start, |range, lines| {
                let mut rest = lines;
                for (i, visit) in visits.iter().enumerate() {
                    let own = |group: usize| group.clamp(first_group[i], first_group[i + 1]) - first_group[i];
                    for group in (own(range.start)..own(range.end)).step_by(ROWS / GROUP_ROWS) {
                        let groups = (own(range.end) - group).min(ROWS / GROUP_ROWS);
                        let (part, others) = rest.split_at_mut(groups * record(i));
                        rest = others;
                        hidden_rows(compute.kernels, visit, group, part);
                    }
                }
            });
        }
        _ => compute.pool.parts(hidden, first_group[MOST_VISITS], start, |group, lines| {
            let (i, group) = find(group);
            match visits[i].visitors.len() {
                1 => hidden_rows(compute.kernels, &visits[i], group, lines),
                2..=FEW => hidden_group::<FEW>(compute.kernels, &visits[i], group, lines),
                _ => hidden_group::<TOKENS>(compute.kernels, &visits[i], group, lines),
            }
        }),
    }
}

/// The second half of [`add_visits`], over the hidden layers of all visits.
pub fn add_outputs(
    compute: Compute<'_>,
    visits: &[Visit<'_>],
    hidden: &[Line],
    out: &mut [f32],
    d_model: usize,
) {
    let first_line = first_lines(visits);
    let hidden: [_; MOST_VISITS] = array::from_fn(|i| {
        visits.get(i).map(|visit| {
            let (tokens, lines) = (visit.visitors.len(), &hidden[first_line[i]..first_line[i + 1]]);
            Activations::new(visit.mlp.hidden_kind(), tokens, visit.mlp.d_ff(), lines)
        })
    });
    let tokens = out.len() / d_model;
    let groups = d_model.div_ceil(GROUP_ROWS);
    if let (1, [first, ..]) = (tokens, visits) {
        let start = |group: usize| (group * GROUP_ROWS).min(d_model);
        let least = least_groups(first.mlp.down.row_bytes());
        return compute.pool.ranges(out, groups, least, start, |range, out| {
            for (part, row) in out.chunks_mut(ROWS).zip((range.start * GROUP_ROWS..).step_by(ROWS)) {
                for (visit, hidden) in visits.iter().zip(hidden.iter().flatten()) {
                    add_down_rows(compute.kernels, visit, *hidden, row, part);
                }
            }
        });
    }
    let step = groups.div_ceil(compute.pool.threads() * DOWN_TASKS);
    let start = |task: usize| (task * step * GROUP_ROWS).min(d_model) * tokens;
    compute.pool.parts(out, groups.div_ceil(step), start, |task, out| {
        for (visit, hidden) in visits.iter().zip(hidden.iter().flatten()) {
            for (i, out) in out.chunks_mut(GROUP_ROWS * tokens).enumerate() {
                let group = task * step + i;
                match visit.visitors.len() {
                    1 => add_down_group::<1>(compute.kernels, visit, *hidden, group, out),
                    2..=FEW => add_down_group::<FEW>(compute.kernels, visit, *hidden, group, out),
                    _ => add_down_group::<TOKENS>(compute.kernels, visit, *hidden, group, out),
                }
            }
        }
    });
}

/// The first line of the hidden layer of each visit; beyond the last visit, the end of all.
pub(super) fn first_lines(visits: &[Visit<'_>]) -> [usize; MOST_VISITS + 1] {
    assert!(visits.len() <= MOST_VISITS, "{} visits", visits.len());
    let mut first = [0; MOST_VISITS + 1];
    for i in 0..MOST_VISITS {
        let lines = visits.get(i).map_or(0, |visit| visit.mlp.hidden_lines(visit.visitors.len()));
        first[i + 1] = first[i] + lines;
    }
    first
}

/// As [`hidden_group`] for a single visitor, with one product for all rows from group `group` on that `lines`
/// hold.
fn hidden_rows(kernels: &Kernels, visit: &Visit<'_>, group: usize, lines: &mut [Line]) {
    let (mlp, kind) = (&visit.mlp, visit.mlp.hidden_kind());
    let record = kind.record_lines(1);
    let first = group * GROUP_ROWS;
    let rows = first..mlp.d_ff().min(first + lines.len() / record * GROUP_ROWS);
    let (mut gates, mut ups) = ([0.0; ROWS], [0.0; ROWS]);
    let (gates, ups) = (&mut gates[..rows.len()], &mut ups[..rows.len()]);
    hidden_values(kernels, visit, rows, 0..1, gates, ups);
    if let Some(squares) = visit.squares {
        squares.add(first, ups.len(), ups);
    }
    for (block, lines) in lines.chunks_exact_mut(record).enumerate() {
        kernels.fill(Columns::of(ups, ups.len(), block), 0, Record { kind, tokens: 1, lines });
    }
}

/// `out += weight * down(hidden)` for a single token. `out` holds the outputs from row `first` on.
pub(super) fn add_down_rows(
    kernels: &Kernels,
    visit: &Visit<'_>,
    hidden: Activations<'_>,
    first: usize,
    out: &mut [f32],
) {
    let mut outputs = [0.0; ROWS];
    let outputs = &mut outputs[..out.len()];
    let rows = first..first + out.len();
    kernels.matmul(visit.mlp.down.slice_rows(rows.clone()), hidden, outputs);
    add_bias(kernels, visit.mlp.biases.down, rows, outputs);
    for &(_, weight) in visit.visitors {
        out.iter_mut().zip(&*outputs).for_each(|(out, y)| *out += weight * y);
    }
}

/// 32 rows of the hidden layer, packed as input of `down`: gate and up, the activation, their product. It
/// takes `N` tokens at a time.
fn hidden_group<const N: usize>(kernels: &Kernels, visit: &Visit<'_>, group: usize, lines: &mut [Line]) {
    let mlp = &visit.mlp;
    let rows = group * GROUP_ROWS..mlp.d_ff().min((group + 1) * GROUP_ROWS);
    let (width, visitors) = (rows.len(), visit.visitors.len());
    let (mut gates, mut ups) = ([[0.0; GROUP_ROWS]; N], [[0.0; GROUP_ROWS]; N]);
    let (gates, ups) = (gates.as_flattened_mut(), ups.as_flattened_mut());
    for first in (0..visitors).step_by(N) {
        let some = first..visitors.min(first + N);
        let (tokens, len) = (some.len(), some.len() * width);
        hidden_values(kernels, visit, rows.clone(), some, &mut gates[..len], &mut ups[..len]);
        if let Some(squares) = visit.squares {
            squares.add(group * GROUP_ROWS, width, &ups[..len]);
        }
        let columns = Columns { x: &ups[..len], stride: width, width, tokens };
        kernels.fill(columns, first, Record { kind: mlp.hidden_kind(), tokens: visitors, lines });
    }
}

/// 32 rows of `down`, multiplied by the visitors' weights and added to their tokens. `out` is `[tokens, 32]`.
/// It takes `N` visitors at a time.
fn add_down_group<const N: usize>(
    kernels: &Kernels,
    visit: &Visit<'_>,
    hidden: Activations<'_>,
    group: usize,
    out: &mut [f32],
) {
    let down = &visit.mlp.down;
    let rows = group * GROUP_ROWS..down.rows().min((group + 1) * GROUP_ROWS);
    let (width, bias_rows, down) = (rows.len(), rows.clone(), down.slice_rows(rows));
    let mut outputs = [[0.0; GROUP_ROWS]; N];
    for (first, visitors) in (0..).step_by(N).zip(visit.visitors.chunks(N)) {
        let outputs = &mut outputs.as_flattened_mut()[..visitors.len() * width];
        kernels.matmul(down, hidden.slice_tokens(first..first + visitors.len()), outputs);
        add_bias(kernels, visit.mlp.biases.down, bias_rows.clone(), outputs);
        for (&(token, weight), y) in visitors.iter().zip(outputs.chunks_exact(width)) {
            for (out, y) in out[token as usize * width..][..width].iter_mut().zip(y) {
                *out += weight * y;
            }
        }
    }
}

/// Some columns of the hidden layer of some visitors, before it is packed: `ups` is `[visitors, rows]`.
fn hidden_values(
    kernels: &Kernels,
    visit: &Visit<'_>,
    rows: Range<usize>,
    visitors: Range<usize>,
    gates: &mut [f32],
    ups: &mut [f32],
) {
    let MlpView { gate, up, biases, activation, .. } = &visit.mlp;
    let (to_gate, to_up) = (visit.to_gate, visit.to_up.slice_tokens(visitors.clone()));
    match gate {
        Some(gate) => {
            kernels.matmul(gate.slice_rows(rows.clone()), to_gate.slice_tokens(visitors), gates);
            add_bias(kernels, biases.gate, rows.clone(), gates);
            kernels.matmul(up.slice_rows(rows.clone()), to_up, ups);
            add_bias(kernels, biases.up, rows, ups);
        }
        None => {
            kernels.matmul(up.slice_rows(rows.clone()), to_up, gates);
            add_bias(kernels, biases.up, rows, gates);
            ups.fill(1.0);
        }
    }
    activate(kernels, *activation, gates, ups);
}

/// Adds `rows` of a bias to every row of `x`, `[tokens, rows]`.
pub(super) fn add_bias(kernels: &Kernels, bias: Option<&[f32]>, rows: Range<usize>, x: &mut [f32]) {
    let Some(bias) = bias else { return };
    let bias = &bias[rows];
    x.chunks_exact_mut(bias.len()).for_each(|x| kernels.axpy(1.0, bias, x));
}

/// `up = act(gate) * up`.
pub fn activate(kernels: &Kernels, activation: Activation, gate: &mut [f32], up: &mut [f32]) {
    match activation {
        Activation::Silu => kernels.silu_mul(gate, up),
        Activation::GeluTanh => kernels.gelu_tanh_mul(gate, up),
        Activation::Relu => up.iter_mut().zip(gate).for_each(|(up, gate)| *up *= gate.max(0.0)),
        Activation::BoundedSilu { limit } => {
            // NaN stays NaN.
            up.iter_mut().for_each(|u| *u = u.clamp(-limit, limit));
            for (up, gate) in up.iter_mut().zip(gate) {
                let gate = *gate / (1.0 + (-*gate).exp());
                *up *= if gate > limit { limit } else { gate };
            }
        }
        Activation::ClampedSilu { limit } => {
            // NaN stays NaN.
            gate.iter_mut().for_each(|g| *g = if *g > limit { limit } else { *g });
            up.iter_mut().for_each(|u| *u = u.clamp(-limit, limit));
            kernels.silu_mul(gate, up);
        }
        Activation::ReluSquared => {
            up.iter_mut().zip(gate).for_each(|(up, gate)| *up *= gate.max(0.0) * gate.max(0.0));
        }
        Activation::ClampedSwiglu { alpha, limit } => {
            // NaN stays NaN. g * sigmoid(alpha * g) * (u + 1) = silu(alpha * g) * (u + 1) / alpha.
            gate.iter_mut().for_each(|g| *g = alpha * if *g > limit { limit } else { *g });
            up.iter_mut().for_each(|u| *u = (u.clamp(-limit, limit) + 1.0) / alpha);
            kernels.silu_mul(gate, up);
        }
    }
}
