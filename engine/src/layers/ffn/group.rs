//! A group of experts that are computed together: how many fit the buffers, the inputs of each, and their
//! visits. It must not know where experts come from, nor how they are multiplied.

use std::ops::Range;

use moelten_loader::tensors::bank::MatrixRef;
use moelten_quant::{ActivationKind, Activations, Line};

use crate::layers::ffn::mlp::{MOST_VISITS, MlpView, Visit};
use crate::layers::ffn::visits::Visits;
use crate::layers::linear::{Compute, Packed};
use crate::layers::scratch::PASS;
use crate::layers::squares::HiddenSum;

/// The matrices of an expert, in the order of its bank: the gate if there is one, `up`, `down`.
pub(super) type ExpertRef<'a> = &'a [MatrixRef];

/// The matrices that take the expert's input: gate and up, or up alone.
pub(super) fn takes_input(expert: ExpertRef<'_>) -> &[MatrixRef] {
    &expert[..expert.len() - 1]
}

/// The kinds of packed activations that these matrices take: one or two.
fn kinds(expert: ExpertRef<'_>) -> impl Iterator<Item = ActivationKind> + use<> {
    let kind = |matrix: &MatrixRef| ActivationKind::of(matrix.format);
    let inputs = takes_input(expert);
    let first = inputs.first().map(kind);
    let second = inputs.get(1).map(kind).filter(|&second| Some(second) != first);
    first.into_iter().chain(second)
}

/// Width of an expert's hidden layer.
fn d_ff(expert: ExpertRef<'_>) -> usize {
    expert[0].rows
}

/// Width of an expert's input.
fn d_model(expert: ExpertRef<'_>) -> usize {
    expert[0].cols
}

/// The inputs of each expert's gate and up.
pub(super) type Inputs<'a> = [Option<(Activations<'a>, Activations<'a>)>; MOST_VISITS];

/// An expert, and the visitors of it that are computed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Item {
    /// The expert's index in [`Visits::experts`].
    pub index: usize,
    /// The first of these visitors.
    pub from: usize,
    /// One past the last of them.
    pub to: usize,
}

/// Experts that are computed together, at most [`PASS`] visitors of each.
#[derive(Debug, Default)]
pub(super) struct ExpertGroup {
    items: [Item; MOST_VISITS],
    count: usize,
    /// The first line of the hidden layer of each item; beyond the last item, the end of all.
    pub lines: [usize; MOST_VISITS + 1],
}

impl ExpertGroup {
    /// A group that begins with visitor `from` of expert `next`. It has at least one expert, and further
    /// `ready` ones as far as the buffers have room. `room` is the number of lines for hidden layers and for
    /// gathered inputs.
    pub fn fill<'a>(
        visits: &Visits,
        mut next: usize,
        mut from: usize,
        room: (usize, usize),
        ready: impl Fn(usize) -> bool,
        expert: impl Fn(usize) -> ExpertRef<'a>,
    ) -> Self {
        let (mut group, mut gathered) = (Self::default(), 0);
        while group.count < MOST_VISITS && next < visits.experts.len() && ready(next) {
            let (matrices, all) = (expert(next), visits.of(next).len());
            let to = all.min(from + PASS);
            let down = matrices[matrices.len() - 1].format;
            let hidden = ActivationKind::of(down).lines(to - from, d_ff(matrices));
            let lines = group.lines[group.count] + hidden;
            gathered += kinds(matrices).map(|kind| kind.lines(to - from, d_model(matrices))).sum::<usize>();
            if group.count > 0 && (lines > room.0 || gathered > room.1) {
                break;
            }
            group.items[group.count] = Item { index: next, from, to };
            group.count += 1;
            group.lines[group.count] = lines;
            (next, from) = if to == all { (next + 1, 0) } else { (next, to) };
        }
        group
    }

    /// The experts of the group with their visitors.
    pub fn items(&self) -> &[Item] {
        &self.items[..self.count]
    }

    /// The expert and the visitor with which the next group begins.
    pub fn end(&self, visits: &Visits) -> (usize, usize) {
        let Item { index, to, .. } = self.items[self.count - 1];
        if to == visits.of(index).len() { (index + 1, 0) } else { (index, to) }
    }

    /// The packed inputs of the experts: those of all tokens, or the visitors' gathered into `gathered`.
    pub fn gather<'a>(
        &self,
        compute: Compute<'_>,
        visits: &Visits,
        expert: impl Fn(usize) -> ExpertRef<'a>,
        packed: &'a Packed,
        gathered: &'a mut [Line],
    ) -> Inputs<'a> {
        let (mut rest, mut list) = (gathered, [None; MOST_VISITS]);
        for (list, &Item { index, from, to }) in list.iter_mut().zip(self.items()) {
            let (matrices, visitors) = (expert(index), visits.of(index));
            let mut inputs = [None; 2];
            for (input, kind) in inputs.iter_mut().zip(kinds(matrices)) {
                let all = packed.view(kind);
                *input = Some(if visitors.len() == all.tokens() {
                    // All tokens visit this expert, in order.
                    all.slice_tokens(from..to)
                } else {
                    let lines = kind.lines(to - from, d_model(matrices));
                    let (lines, others) = std::mem::take(&mut rest).split_at_mut(lines);
                    rest = others;
                    gather(compute, &all, &visitors[from..to], lines);
                    Activations::new(kind, to - from, d_model(matrices), lines)
                });
            }
            let [gate, up] = inputs;
            *list = gate.map(|gate| (gate, up.unwrap_or(gate)));
        }
        list
    }

    /// Calls `work` with the visits of some of the items. `mlp` returns the matrices of an expert by its
    /// index.
    pub fn with_visits<'v>(
        &self,
        mlp: impl Fn(usize) -> MlpView<'v>,
        visits: &'v Visits,
        inputs: &Inputs<'v>,
        sums: Option<&'v [HiddenSum]>,
        some: Range<usize>,
        work: impl FnOnce(&[Visit<'v>]),
    ) {
        let visit = |i: usize| {
            let Item { index, from, to } = self.items[i];
            let (to_gate, to_up) = inputs[i].expect("every expert of a group has its inputs");
            let (mlp, visitors) = (mlp(index), &visits.of(index)[from..to]);
            Visit { mlp, to_gate, to_up, visitors, squares: sums.map(|sums| &sums[i]) }
        };
        let mut list = [visit(some.start); MOST_VISITS];
        for (place, i) in list.iter_mut().zip(some.clone()) {
            *place = visit(i);
        }
        work(&list[..some.len()]);
    }
}

/// Copies the packed activations of some visitors out of those of all tokens.
pub fn gather(compute: Compute<'_>, all: &Activations<'_>, visitors: &[(u32, f32)], lines: &mut [Line]) {
    let record = all.kind().record_lines(visitors.len());
    compute.pool.rows(lines, record, |blocks, lines| {
        for (block, lines) in blocks.zip(lines.chunks_exact_mut(record)) {
            all.gather(block, visitors.iter().map(|&(token, _)| token as usize), lines);
        }
    });
}
