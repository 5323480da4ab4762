//! Feed-forward blocks: `down(act(gate(x)) * up(x))` (arXiv 2002.05202), or `down(act(up(x)))` without a
//! gate, with or without biases. Dense layers, shared experts and routed experts are such blocks, several at
//! a time and each over the tokens that visit it. Two regions: gate, up and activation of all blocks, 32 rows
//! of a block at a time, straight into the packed input of `down`; then `down`, adding up the blocks in
//! order. It must not know where weights come from.

use std::array;
use std::ops::Range;

use moelten_loader::spec::Activation;
use moelten_quant::{ActivationKind, Activations, Columns, GROUP_ROWS, Kernels, Line, QMatrix, Record};

use crate::layers::linear::Compute;
use crate::layers::squares::HiddenSum;

/// Feed-forward blocks that are computed together.
pub const MOST_VISITS: usize = 16;
/// Tokens of an inner product: its outputs stay on the stack.
const TOKENS: usize = 128;
/// Rows of an inner product of one token, likewise.
const ROWS: usize = 2048;
/// With no more visitors than these, less of the stack is cleared.
const FEW: usize = 32;
/// Tasks per thread of the second region: enough to finish together, few enough that the inputs of a block,
/// which each task reads, stay in the cache while it goes through its rows.
const DOWN_TASKS: usize = 4;

/// The matrices of a block, ready to multiply with.
#[derive(Clone, Copy)]
pub struct MlpView<'a> {
    /// `[d_ff, d_model]`; `None` for a block of two matrices.
    pub gate: Option<QMatrix<'a>>,
    /// `[d_ff, d_model]`.
    pub up: QMatrix<'a>,
    /// `[d_model, d_ff]`.
    pub down: QMatrix<'a>,
    /// What is added to the outputs of each.
    pub biases: Biases<'a>,
    /// Applied to the gate, or to `up` without one.
    pub activation: Activation,
}

/// Biases of a block `[rows]`, as far as it has them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Biases<'a> {
    /// Of the gate.
    pub gate: Option<&'a [f32]>,
    /// Of `up`.
    pub up: Option<&'a [f32]>,
    /// Of `down`.
    pub down: Option<&'a [f32]>,
}

/// A feed-forward block and the tokens that visit it.
#[derive(Clone, Copy)]
pub struct Visit<'a> {
    /// The block.
    pub mlp: MlpView<'a>,
    /// Inputs of the visitors as `gate` takes them, `[visitors, d_model]`; not used without one.
    pub to_gate: Activations<'a>,
    /// The same as `up` takes them.
    pub to_up: Activations<'a>,
    /// Each visitor's token and the weight of its output.
    pub visitors: &'a [(u32, f32)],
    /// Where the squares of the hidden layer go, if they are wanted.
    pub squares: Option<&'a HiddenSum>,
}

impl MlpView<'_> {
    /// Lines of the hidden layer of `tokens` tokens.
    pub fn hidden_lines(&self, tokens: usize) -> usize {
        self.hidden_kind().lines(tokens, self.d_ff())
    }

    /// Width of the hidden layer.
    fn d_ff(&self) -> usize {
        self.up.rows()
    }

    /// The matrix that a task reads first.
    fn first(&self) -> &QMatrix<'_> {
        self.gate.as_ref().unwrap_or(&self.up)
    }

    fn hidden_kind(&self) -> ActivationKind {
        ActivationKind::of(self.down.format())
    }
}

/// `out[token] += weight * mlp(x[token])` for every visit in order and each of its visitors. `out` is
/// grouped, `[d_model / 32, tokens, 32]`; `hidden` has [`MlpView::hidden_lines`] for all visits.
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

/// The first half of [`add_visits`]: packed hidden layers of all visits, one after the other. Visits may be
/// given in several calls, each with its part of `hidden`.
pub fn hidden_layers(compute: Compute<'_>, visits: &[Visit<'_>], hidden: &mut [Line]) {
    let first_line = first_lines(visits);
    let groups_per_task = match visits {
        [visit, ..] if visits.iter().all(|visit| visit.visitors.len() == 1) => {
            let (rows, row_bytes) = (visit.mlp.d_ff() * visits.len(), visit.mlp.first().row_bytes());
            (compute.rows_per_task(rows, row_bytes).min(ROWS) / GROUP_ROWS).max(1)
        }
        _ => 1,
    };
    let tasks = |visit: &Visit<'_>| visit.mlp.d_ff().div_ceil(GROUP_ROWS * groups_per_task);
    let mut first_task = [0; MOST_VISITS + 1];
    for i in 0..MOST_VISITS {
        first_task[i + 1] = first_task[i] + visits.get(i).map_or(0, tasks);
    }
    let hidden = &mut hidden[..first_line[MOST_VISITS]];
    let find = |task: usize| {
        let i = first_task.iter().rposition(|&first| first <= task).unwrap_or(0).min(visits.len() - 1);
        (i, (task - first_task[i]) * groups_per_task)
    };
    let start = |task: usize| {
        let (i, group) = find(task);
        first_line[i] + group * visits[i].mlp.hidden_kind().record_lines(visits[i].visitors.len())
    };
    compute.pool.parts(hidden, first_task[MOST_VISITS], start, |task, lines| {
        let (i, group) = find(task);
        match visits[i].visitors.len() {
            1 => hidden_rows(compute.kernels, &visits[i], group, lines),
            2..=FEW => hidden_group::<FEW>(compute.kernels, &visits[i], group, lines),
            _ => hidden_group::<TOKENS>(compute.kernels, &visits[i], group, lines),
        }
    });
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
    let step = match (tokens, visits) {
        (1, [visit, ..]) => {
            (compute.rows_per_task(d_model, visit.mlp.down.row_bytes()).min(ROWS) / GROUP_ROWS).max(1)
        }
        _ => groups.div_ceil(compute.pool.threads() * DOWN_TASKS),
    };
    let start = |task: usize| (task * step * GROUP_ROWS).min(d_model) * tokens;
    compute.pool.parts(out, groups.div_ceil(step), start, |task, out| {
        for (visit, hidden) in visits.iter().zip(hidden.iter().flatten()) {
            if tokens == 1 {
                add_down_rows(compute.kernels, visit, *hidden, task * step * GROUP_ROWS, out);
                continue;
            }
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

/// Where the hidden lines of each visit start; beyond the last visit, where all end.
fn first_lines(visits: &[Visit<'_>]) -> [usize; MOST_VISITS + 1] {
    assert!(visits.len() <= MOST_VISITS, "{} visits", visits.len());
    let mut first = [0; MOST_VISITS + 1];
    for i in 0..MOST_VISITS {
        let lines = visits.get(i).map_or(0, |visit| visit.mlp.hidden_lines(visit.visitors.len()));
        first[i + 1] = first[i] + lines;
    }
    first
}

/// Rows of gate and up of one visitor from `group` on, as many as `lines` take: as [`hidden_group`], in one
/// product each.
fn hidden_rows(kernels: &Kernels, visit: &Visit<'_>, group: usize, lines: &mut [Line]) {
    let (mlp, kind) = (&visit.mlp, visit.mlp.hidden_kind());
    let record = kind.record_lines(1);
    let first = group * GROUP_ROWS;
    let rows = first..mlp.d_ff().min(first + lines.len() / record * GROUP_ROWS);
    let (mut gated, mut upped) = ([0.0; ROWS], [0.0; ROWS]);
    let (gated, upped) = (&mut gated[..rows.len()], &mut upped[..rows.len()]);
    hidden_values(kernels, visit, rows, 0..1, gated, upped);
    if let Some(squares) = visit.squares {
        squares.add(first, upped.len(), upped);
    }
    for (block, lines) in lines.chunks_exact_mut(record).enumerate() {
        kernels.fill(Columns::of(upped, upped.len(), block), 0, Record { kind, tokens: 1, lines });
    }
}

/// `out += weight * down` of one visitor, for the rows of `down` from `first` on that `out` has.
fn add_down_rows(
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

/// 32 rows of gate and up, the activation, and their product as input of `down`, `N` tokens at a time.
fn hidden_group<const N: usize>(kernels: &Kernels, visit: &Visit<'_>, group: usize, lines: &mut [Line]) {
    let mlp = &visit.mlp;
    let rows = group * GROUP_ROWS..mlp.d_ff().min((group + 1) * GROUP_ROWS);
    let (width, visitors) = (rows.len(), visit.visitors.len());
    let (mut gated, mut upped) = ([[0.0; GROUP_ROWS]; N], [[0.0; GROUP_ROWS]; N]);
    let (gated, upped) = (gated.as_flattened_mut(), upped.as_flattened_mut());
    for first in (0..visitors).step_by(N) {
        let some = first..visitors.min(first + N);
        let (tokens, len) = (some.len(), some.len() * width);
        hidden_values(kernels, visit, rows.clone(), some, &mut gated[..len], &mut upped[..len]);
        if let Some(squares) = visit.squares {
            squares.add(group * GROUP_ROWS, width, &upped[..len]);
        }
        let columns = Columns { x: &upped[..len], stride: width, width, tokens };
        kernels.fill(columns, first, Record { kind: mlp.hidden_kind(), tokens: visitors, lines });
    }
}

/// 32 rows of `down`, times the weights of the visitors, added to their tokens, `N` at a time: `out` is
/// `[tokens, 32]`.
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

/// The hidden layer of some visitors, before it is packed, in `upped`: `rows` of its columns, `[visitors,
/// rows]`.
fn hidden_values(
    kernels: &Kernels,
    visit: &Visit<'_>,
    rows: Range<usize>,
    visitors: Range<usize>,
    gated: &mut [f32],
    upped: &mut [f32],
) {
    let MlpView { gate, up, biases, activation, .. } = &visit.mlp;
    let (to_gate, to_up) = (visit.to_gate, visit.to_up.slice_tokens(visitors.clone()));
    match gate {
        Some(gate) => {
            kernels.matmul(gate.slice_rows(rows.clone()), to_gate.slice_tokens(visitors), gated);
            add_bias(kernels, biases.gate, rows.clone(), gated);
            kernels.matmul(up.slice_rows(rows.clone()), to_up, upped);
            add_bias(kernels, biases.up, rows, upped);
        }
        None => {
            kernels.matmul(up.slice_rows(rows.clone()), to_up, gated);
            add_bias(kernels, biases.up, rows, gated);
            upped.fill(1.0);
        }
    }
    activate(kernels, *activation, gated, upped);
}

/// Adds `rows` of a bias to every row of `x`, `[tokens, rows]`.
fn add_bias(kernels: &Kernels, bias: Option<&[f32]>, rows: Range<usize>, x: &mut [f32]) {
    let Some(bias) = bias else { return };
    let bias = &bias[rows];
    x.chunks_exact_mut(bias.len()).for_each(|x| kernels.axpy(1.0, bias, x));
}

/// `up = act(gate) * up`.
fn activate(kernels: &Kernels, activation: Activation, gate: &[f32], up: &mut [f32]) {
    match activation {
        Activation::Silu => kernels.silu_mul(gate, up),
        Activation::GeluTanh => kernels.gelu_tanh_mul(gate, up),
    }
}
