//! The mixture of experts (arXiv 1701.06538, 2401.04088): route, gather each expert's tokens, then expert by expert, each
//! over all of the chunk's tokens that chose it. The order of summation is fixed: expert id, shared expert last.

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use moelten_loader::spec::{Activation, MoeSpec};
use moelten_loader::tensors::store::{MatrixRef, MlpRef};
use moelten_quant::{ActivationKind, Activations, Line};

use crate::error::Result;
use crate::experts::{Acquired, ExpertStore};
use crate::importance::{HiddenSquares, HiddenSum};
use crate::layers::linear::{Compute, Packed};
use crate::layers::mlp::{MOST_VISITS, MlpView, Visit, add_outputs, add_visits, hidden_layers};
use crate::router::Routing;
use crate::scratch::{FfnScratch, MoeScratch, PASS, RouteScratch};

/// Tokens whose experts are all taken on at once.
const FEW_TOKENS: usize = 4;

/// One layer's router and shared expert; the routed experts are the store's.
#[derive(Debug, Clone)]
pub struct Moe {
    /// Shape and routing rules.
    pub spec: MoeSpec,
    /// `[experts, d_model]`.
    pub router: MatrixRef,
    /// The shared expert, if there is one.
    pub shared: Option<Shared>,
}

/// An expert that every token visits.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Its matrices and activation.
    pub mlp: Mlp,
    /// `[1, d_model]`: its output is multiplied by `sigmoid(x . gate)`.
    pub gate: Option<MatrixRef>,
}

/// A feed-forward block outside the expert store.
#[derive(Debug, Clone, Copy)]
pub struct Mlp {
    /// `[d_ff, d_model]`.
    pub gate: MatrixRef,
    /// `[d_ff, d_model]`.
    pub up: MatrixRef,
    /// `[d_model, d_ff]`.
    pub down: MatrixRef,
    /// Applied to the gate.
    pub activation: Activation,
}

impl Mlp {
    /// The matrices, ready to multiply with.
    pub fn view<'a>(&self, compute: Compute<'a>) -> MlpView<'a> {
        let view = |matrix| compute.tensors.view(matrix);
        MlpView {
            gate: view(&self.gate),
            up: view(&self.up),
            down: view(&self.down),
            activation: self.activation,
        }
    }

    /// `out = mlp(x)`, both `[tokens, d_model]`; `squares` gets those of the hidden layer.
    pub(crate) fn forward(
        &self,
        compute: Compute<'_>,
        x: &[f32],
        s: &mut FfnScratch,
        squares: Option<HiddenSquares<'_>>,
        out: &mut [f32],
    ) {
        let (mlp, d_model) = (self.view(compute), self.gate.cols);
        let grouped = &mut s.grouped[..out.len()];
        grouped.fill(0.0);
        s.visitors.clear();
        s.visitors.extend((0..x.len() / d_model).map(|token| (token as u32, 1.0)));
        compute.pack(x, d_model, [mlp.gate.format()], &mut s.packed);
        let sum = squares.as_ref().map(|squares| &squares.sums[0]);
        add_whole_chunk(compute, &mlp, x, &s.visitors, &mut s.packed, &mut s.hidden, sum, grouped);
        if let Some(HiddenSquares { whole, sums, .. }) = squares {
            whole.add_hidden(0, s.visitors.len(), &mut sums[0]);
        }
        compute.ungroup(grouped, d_model, None, out);
    }
}

/// Adds a block that every token of the chunk visits; `packed` is of this `x`.
#[allow(clippy::too_many_arguments, reason = "every argument is one of the operation's operands")]
fn add_whole_chunk(
    compute: Compute<'_>,
    mlp: &MlpView<'_>,
    x: &[f32],
    visitors: &[(u32, f32)],
    packed: &mut Packed,
    hidden: &mut [Line],
    squares: Option<&HiddenSum>,
    grouped: &mut [f32],
) {
    let d_model = mlp.gate.cols();
    compute.pack_also(x, [mlp.gate.format(), mlp.up.format()], packed);
    let (to_gate, to_up) = (packed.for_matrix(&mlp.gate), packed.for_matrix(&mlp.up));
    for (first, visitors) in (0..).step_by(PASS).zip(visitors.chunks(PASS)) {
        let tokens = first..first + visitors.len();
        let (to_gate, to_up) = (to_gate.slice_tokens(tokens.clone()), to_up.slice_tokens(tokens));
        let visit = Visit { mlp: *mlp, to_gate, to_up, visitors, squares };
        add_visits(compute, &[visit], hidden, grouped, d_model);
    }
}

impl Moe {
    /// The experts of each token of `x`, `[tokens, d_model]`, into `s.routing`, where they stay for whoever observes them.
    pub fn route(
        &self,
        compute: Compute<'_>,
        x: &[f32],
        s: &mut RouteScratch,
        packed: &mut Packed,
        grouped: &mut [f32],
    ) {
        let (experts, d_model) = (self.spec.experts, self.router.cols);
        let tokens = x.len() / d_model;
        let router = compute.tensors.view(&self.router);
        compute.pack(x, d_model, [router.format()], packed);
        let logits = &mut s.logits[..tokens * experts];
        let by_rows = &mut grouped[..tokens * experts];
        compute.products(&[(router, packed.for_matrix(&router))], by_rows);
        compute.ungroup(by_rows, experts, None, logits);
        s.routing.route(&self.spec.router, logits, experts);
    }

    /// `out = moe(x)`, both `[tokens, d_model]`, after [`Self::route`]. `layer` is this layer's number in the store;
    /// `meanwhile` runs while the first missing experts are being read; `squares` gets those of the hidden layers.
    ///
    /// # Errors
    /// As [`crate::experts::Acquired::wait`].
    #[allow(clippy::too_many_arguments, reason = "every argument is one of the operation's operands")]
    pub(crate) fn forward(
        &self,
        compute: Compute<'_>,
        store: &ExpertStore,
        layer: usize,
        x: &[f32],
        s: &mut MoeScratch,
        ffn: &mut FfnScratch,
        mut squares: Option<&mut HiddenSquares<'_>>,
        out: &mut [f32],
        cancel: &AtomicBool,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<()> {
        let d_model = self.router.cols;
        let tokens = x.len() / d_model;
        s.visits.list(&s.route.routing, self.spec.experts);
        let visits = &s.visits;
        let mut acquired = store.acquire(layer, visits, tokens, &mut s.held, cancel);
        meanwhile();

        let grouped = &mut ffn.grouped[..tokens * d_model];
        grouped.fill(0.0);
        let (mut next, mut from) = (0, 0);
        while next < visits.experts.len() {
            // Of a few tokens all experts are taken on at once, and those that are here do not wait for the others. A prompt
            // takes what is here, in order, and gives it up before it takes more.
            let wait_later = tokens <= FEW_TOKENS;
            if !wait_later {
                acquired.wait(next)?;
            }
            // What has no slot yet may get one only when others are done.
            let taken = |index| if wait_later { acquired.coming(index) } else { acquired.ready(index) };
            let ready = |index| index == next || taken(index);
            let expert = |index: usize| store.matrices(layer, visits.experts[index]);
            let room = (ffn.hidden.len(), s.gathered.len());
            let batch = Batch::fill(visits, next, from, room, ready, expert);
            let formats = batch.items().iter().map(|item| expert(item.index));
            let formats = formats.flat_map(|mlp| [mlp.gate.format, mlp.up.format]);
            compute.pack_also(x, formats, &mut ffn.packed);
            let inputs = batch.gather(compute, visits, expert, &ffn.packed, &mut s.gathered);

            let sums = squares.as_ref().map(|squares| &*squares.sums);
            let mut computed = [false; MOST_VISITS];
            loop {
                let mut i = 0;
                while i < batch.count {
                    let ready = |&i: &usize| !computed[i] && acquired.ready(batch.items[i].index);
                    let end = (i..batch.count).find(|i| !ready(i)).unwrap_or(batch.count);
                    if i < end {
                        batch.with_visits(&acquired, visits, &inputs, sums, i..end, |some| {
                            hidden_layers(compute, some, &mut ffn.hidden[batch.lines[i]..batch.lines[end]]);
                        });
                        computed[i..end].fill(true);
                    }
                    i = end.max(i + 1);
                }
                match computed[..batch.count].iter().position(|computed| !computed) {
                    Some(late) => acquired.wait(batch.items[late].index)?,
                    None => break,
                }
            }
            batch.with_visits(&acquired, visits, &inputs, None, 0..batch.count, |all| {
                add_outputs(compute, all, &ffn.hidden[..batch.lines[batch.count]], grouped, d_model);
            });
            if let Some(HiddenSquares { experts, sums, .. }) = &mut squares {
                for (item, sum) in batch.items().iter().zip(sums.iter_mut()) {
                    experts.add_hidden(visits.experts[item.index] as usize, item.to - item.from, sum);
                }
            }
            let before = next;
            (next, from) = batch.end(visits);
            acquired.done(before..next);
        }
        drop(acquired);
        if let Some(shared) = &self.shared {
            ffn.visitors.clear();
            ffn.visitors.extend((0..tokens).map(|token| (token as u32, 1.0)));
            if let Some(gate) = &shared.gate {
                let gate = compute.tensors.view(gate);
                compute.pack_also(x, [gate.format()], &mut ffn.packed);
                let scores = &mut s.route.logits[..tokens];
                compute.products(&[(gate, ffn.packed.for_matrix(&gate))], scores);
                for ((_, weight), score) in ffn.visitors.iter_mut().zip(scores) {
                    *weight = 1.0 / (1.0 + (-*score).exp());
                }
            }
            let mlp = shared.mlp.view(compute);
            let sum = squares.as_ref().map(|squares| &squares.sums[0]);
            let (packed, hidden) = (&mut ffn.packed, &mut ffn.hidden);
            add_whole_chunk(compute, &mlp, x, &ffn.visitors, packed, hidden, sum, grouped);
            if let Some(HiddenSquares { whole, sums, .. }) = squares {
                whole.add_hidden(0, tokens, &mut sums[0]);
            }
        }
        compute.ungroup(grouped, d_model, None, out);
        Ok(())
    }
}

/// The kinds of activations that gate and up take: one or two.
fn kinds(mlp: &MlpRef) -> impl Iterator<Item = ActivationKind> + use<> {
    let (gate, up) = (ActivationKind::of(mlp.gate.format), ActivationKind::of(mlp.up.format));
    [Some(gate), (up != gate).then_some(up)].into_iter().flatten()
}

/// Inputs of an expert's gate and up.
type Inputs<'a> = [Option<(Activations<'a>, Activations<'a>)>; MOST_VISITS];

/// An expert and some of its visitors.
#[derive(Debug, Clone, Copy, Default)]
struct Item {
    /// The expert's number in the list of visits.
    index: usize,
    from: usize,
    to: usize,
}

/// Experts that are computed together, at most [`PASS`] visitors of each.
#[derive(Debug, Default)]
struct Batch {
    items: [Item; MOST_VISITS],
    count: usize,
    /// Where the hidden lines of each item start.
    lines: [usize; MOST_VISITS + 1],
}

impl Batch {
    /// As many as there are buffers for, and one at least, beginning with visitor `from` of expert number `next`.
    /// `room` is lines for hidden layers and for gathered inputs.
    fn fill<'a>(
        visits: &Visits,
        mut next: usize,
        mut from: usize,
        room: (usize, usize),
        ready: impl Fn(usize) -> bool,
        expert: impl Fn(usize) -> &'a MlpRef,
    ) -> Self {
        let (mut batch, mut gathered) = (Self::default(), 0);
        while batch.count < MOST_VISITS && next < visits.experts.len() && ready(next) {
            let (mlp, all) = (expert(next), visits.of(next).len());
            let to = all.min(from + PASS);
            let hidden = ActivationKind::of(mlp.down.format).lines(to - from, mlp.gate.rows);
            let lines = batch.lines[batch.count] + hidden;
            gathered += kinds(mlp).map(|kind| kind.lines(to - from, mlp.gate.cols)).sum::<usize>();
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

    fn items(&self) -> &[Item] {
        &self.items[..self.count]
    }

    /// The expert and the visitor that come next.
    fn end(&self, visits: &Visits) -> (usize, usize) {
        let Item { index, to, .. } = self.items[self.count - 1];
        if to == visits.of(index).len() { (index + 1, 0) } else { (index, to) }
    }

    /// Inputs of the experts' visitors.
    fn gather<'a>(
        &self,
        compute: Compute<'_>,
        visits: &Visits,
        expert: impl Fn(usize) -> &'a MlpRef,
        packed: &'a Packed,
        gathered: &'a mut [Line],
    ) -> Inputs<'a> {
        let (mut rest, mut list) = (gathered, [None; MOST_VISITS]);
        for (list, &Item { index, from, to }) in list.iter_mut().zip(self.items()) {
            let (mlp, visitors) = (expert(index), visits.of(index));
            let mut inputs = [None; 2];
            for (input, kind) in inputs.iter_mut().zip(kinds(mlp)) {
                let all = packed.view(kind);
                *input = Some(if visitors.len() == all.tokens() {
                    // Everyone, in order.
                    all.slice_tokens(from..to)
                } else {
                    let lines = kind.lines(to - from, mlp.gate.cols);
                    let (lines, others) = std::mem::take(&mut rest).split_at_mut(lines);
                    rest = others;
                    gather(compute, &all, &visitors[from..to], lines);
                    Activations::new(kind, to - from, mlp.gate.cols, lines)
                });
            }
            let [gate, up] = inputs;
            *list = gate.map(|gate| (gate, up.unwrap_or(gate)));
        }
        list
    }

    /// Visits of some of the experts, which must be here.
    fn with_visits(
        &self,
        acquired: &Acquired<'_>,
        visits: &Visits,
        inputs: &Inputs<'_>,
        sums: Option<&[HiddenSum]>,
        some: Range<usize>,
        work: impl FnOnce(&[Visit<'_>]),
    ) {
        let visit = |i: usize| {
            let Item { index, from, to } = self.items[i];
            let (to_gate, to_up) = inputs[i].expect("every expert of a batch has its inputs");
            let (mlp, visitors) = (acquired.view(index), &visits.of(index)[from..to]);
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

/// Which tokens visit which experts.
#[derive(Debug, Default)]
pub struct Visits {
    /// Experts that any token chose, ascending.
    pub experts: Vec<u32>,
    /// Expert number `i` of `experts` has the visitors from `starts[i]` to `starts[i + 1]`.
    starts: Vec<u32>,
    /// Tokens, ascending for each expert, and their weights.
    visitors: Vec<(u32, f32)>,
    /// Where the next visitor of each expert id goes.
    next: Vec<u32>,
}

impl Visits {
    /// Room for `tokens` tokens, so that decode never allocates.
    pub fn with_capacity(tokens: usize, experts: usize, per_token: usize) -> Self {
        Self {
            experts: Vec::with_capacity(experts),
            starts: Vec::with_capacity(experts + 1),
            visitors: Vec::with_capacity(tokens * per_token),
            next: Vec::with_capacity(experts),
        }
    }

    /// Sorts the choices of a chunk by expert.
    fn list(&mut self, routing: &Routing, experts: usize) {
        self.next.clear();
        self.next.resize(experts, 0);
        let tokens = 0..routing.tokens();
        for &id in tokens.clone().flat_map(|token| routing.token(token).0) {
            self.next[id as usize] += 1;
        }
        self.experts.clear();
        self.starts.clear();
        let mut total = 0;
        for (id, next) in self.next.iter_mut().enumerate().filter(|(_, visitors)| **visitors > 0) {
            self.experts.push(id as u32);
            self.starts.push(total);
            total += std::mem::replace(next, total);
        }
        self.starts.push(total);
        self.visitors.clear();
        self.visitors.resize(total as usize, (0, 0.0));
        for token in tokens {
            let (ids, weights) = routing.token(token);
            for (&id, &weight) in ids.iter().zip(weights) {
                let next = &mut self.next[id as usize];
                self.visitors[*next as usize] = (token as u32, weight);
                *next += 1;
            }
        }
    }

    /// Visitors of expert number `index` of `experts`.
    pub fn of(&self, index: usize) -> &[(u32, f32)] {
        &self.visitors[self.starts[index] as usize..self.starts[index + 1] as usize]
    }
}
