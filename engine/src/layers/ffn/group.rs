//! Experts of a mixture that are computed together: how many fit into the buffers, the inputs of each, and
//! their visits. It must not know where experts come from, nor how they are multiplied.

use std::ops::Range;

use moelten_loader::tensors::bank::MatrixRef;
use moelten_quant::{ActivationKind, Activations, Line};

use crate::layers::ffn::mlp::{MOST_VISITS, MlpView, Visit};
use crate::layers::ffn::visits::Visits;
use crate::layers::linear::{Compute, Packed};
use crate::layers::scratch::PASS;
use crate::layers::squares::HiddenSum;

/// Where the matrices of an expert are, in the order of its bank: `down` last, the gate first if there is
/// one.
pub(super) type ExpertRef<'a> = &'a [MatrixRef];

/// The matrices that take the expert's input: gate and up, or up alone.
pub(super) fn takes_input(expert: ExpertRef<'_>) -> &[MatrixRef] {
    &expert[..expert.len() - 1]
}

/// The kinds of activations that these take: one or two.
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

/// Width of its input.
fn d_model(expert: ExpertRef<'_>) -> usize {
    expert[0].cols
}

/// Inputs of an expert's gate and up.
pub(super) type Inputs<'a> = [Option<(Activations<'a>, Activations<'a>)>; MOST_VISITS];

/// An expert and some of its visitors.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Item {
    /// The expert's number in the list of visits.
    pub index: usize,
    /// Its visitors that are meant.
    pub from: usize,
    pub to: usize,
}

/// Experts that are computed together, at most [`PASS`] visitors of each.
#[derive(Debug, Default)]
pub(super) struct ExpertGroup {
    items: [Item; MOST_VISITS],
    count: usize,
    /// Where the hidden lines of each item start.
    pub lines: [usize; MOST_VISITS + 1],
}

impl ExpertGroup {
    /// As many as there are buffers for, and one at least, beginning with visitor `from` of expert number
    /// `next`. `room` is lines for hidden layers and for gathered inputs.
    pub fn fill<'a>(
        visits: &Visits,
        mut next: usize,
        mut from: usize,
        room: (usize, usize),
        ready: impl Fn(usize) -> bool,
        expert: impl Fn(usize) -> ExpertRef<'a>,
    ) -> Self {
        let (mut batch, mut gathered) = (Self::default(), 0);
        while batch.count < MOST_VISITS && next < visits.experts.len() && ready(next) {
            let (matrices, all) = (expert(next), visits.of(next).len());
            let to = all.min(from + PASS);
            let down = matrices[matrices.len() - 1].format;
            let hidden = ActivationKind::of(down).lines(to - from, d_ff(matrices));
            let lines = batch.lines[batch.count] + hidden;
            gathered += kinds(matrices).map(|kind| kind.lines(to - from, d_model(matrices))).sum::<usize>();
            if batch.count > 0 && (lines > room.0 || gathered > room.1) {
                break;
            }
            batch.items[batch.count] = Item { index: next, from, to };
            batch.count += 1;
            batch.lines[batch.count] = lines;
            (next, from) = if to == all { (next + 1, 0) } else { (next, to) };
        }
        batch
    }

    /// The experts of the group.
    pub fn items(&self) -> &[Item] {
        &self.items[..self.count]
    }

    /// The expert and the visitor that come next.
    pub fn end(&self, visits: &Visits) -> (usize, usize) {
        let Item { index, to, .. } = self.items[self.count - 1];
        if to == visits.of(index).len() { (index + 1, 0) } else { (index, to) }
    }

    /// Inputs of the experts' visitors.
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
                    // All tokens, in order.
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

    /// Visits of some of the experts, whose matrices `mlp` has by their numbers in the list of visits.
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
            let (to_gate, to_up) = inputs[i].expect("every expert of a batch has its inputs");
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

/// The visitors' activations, out of those of all tokens.
fn gather(compute: Compute<'_>, all: &Activations<'_>, visitors: &[(u32, f32)], lines: &mut [Line]) {
    let record = all.kind().record_lines(visitors.len());
    compute.pool.rows(lines, record, |blocks, lines| {
        for (block, lines) in blocks.zip(lines.chunks_exact_mut(record)) {
            all.gather(block, visitors.iter().map(|&(token, _)| token as usize), lines);
        }
    });
}
