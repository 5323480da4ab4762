//! The mixture of experts (arXiv 1701.06538, 2401.04088): route, gather each expert's tokens, then expert by expert, each
//! over all of the chunk's tokens that chose it. The order of summation is fixed: expert id, shared expert last.

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use moelten_loader::spec::{Activation, MoeSpec};
use moelten_loader::store::{MatrixRef, MlpRef};
use moelten_quant::{ActivationKind, Activations, Line};

use crate::error::Result;
use crate::experts::{Acquired, ExpertStore};
use crate::layers::linear::{Compute, Packed};
use crate::layers::mlp::{MOST_VISITS, MlpView, Visit, add_outputs, add_visits, hidden_layers};
use crate::router::Routing;
use crate::scratch::{FfnScratch, MoeScratch, RouteScratch};

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

    /// `out = mlp(x)`, both `[tokens, d_model]`.
    pub fn forward(&self, compute: Compute<'_>, x: &[f32], s: &mut FfnScratch, out: &mut [f32]) {
        let (mlp, d_model) = (self.view(compute), self.gate.cols);
        let grouped = &mut s.grouped[..out.len()];
        grouped.fill(0.0);
        s.visitors.clear();
        s.visitors.extend((0..x.len() / d_model).map(|token| (token as u32, 1.0)));
        compute.pack(x, d_model, [mlp.gate.format()], &mut s.packed);
        add_whole_chunk(compute, &mlp, x, &s.visitors, &mut s.packed, &mut s.hidden, grouped);
        compute.ungroup(grouped, d_model, None, out);
    }
}

/// Adds a block that every token of the chunk visits; `packed` is of this `x`.
fn add_whole_chunk(
    compute: Compute<'_>,
    mlp: &MlpView<'_>,
    x: &[f32],
    visitors: &[(u32, f32)],
    packed: &mut Packed,
    hidden: &mut [Line],
    grouped: &mut [f32],
) {
    let d_model = mlp.gate.cols();
    compute.pack_also(x, [mlp.gate.format(), mlp.up.format()], packed);
    let (to_gate, to_up) = (packed.for_matrix(&mlp.gate), packed.for_matrix(&mlp.up));
    add_visits(compute, &[Visit { mlp: *mlp, to_gate, to_up, visitors }], hidden, grouped, d_model);
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
    /// `meanwhile` runs while the first missing experts are being read.
    ///
    /// # Errors
    /// As [`crate::experts::Acquired::wait`].
    #[allow(clippy::too_many_arguments, reason = "every argument is one of the operation's operands")]
    pub fn forward(
        &self,
        compute: Compute<'_>,
        store: &ExpertStore,
        layer: usize,
        x: &[f32],
        s: &mut MoeScratch,
        ffn: &mut FfnScratch,
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
        let mut next = 0;
        while next < visits.experts.len() {
            // Of a few tokens all experts are taken on at once, and those that are here do not wait for the others. A prompt
            // takes what is here, in order, and gives it up before it takes more.
            let wait_later = tokens <= FEW_TOKENS;
            if !wait_later {
                acquired.wait(next)?;
            }
            // As many experts as the buffers hold, and one at least.
            let (mut count, mut lines, mut gathered) = (0, [0; MOST_VISITS + 1], 0);
            for (i, index) in (next..visits.experts.len()).enumerate().take(MOST_VISITS) {
                // What has no slot yet may get one only when others are done.
                let taken = if wait_later { acquired.coming(index) } else { acquired.ready(index) };
                if i > 0 && !taken {
                    break;
                }
                let expert = store.matrices(layer, visits.experts[index]);
                let visitors = visits.of(index).len();
                let hidden = ActivationKind::of(expert.down.format).lines(visitors, expert.gate.rows);
                lines[i + 1] = lines[i] + hidden;
                gathered += kinds(expert).map(|kind| kind.lines(visitors, d_model)).sum::<usize>();
                if count > 0 && (lines[i + 1] > ffn.hidden.len() || gathered > s.gathered.len()) {
                    break;
                }
                count += 1;
            }
            let experts = |i: usize| store.matrices(layer, visits.experts[next + i]);
            let formats = (0..count).flat_map(|i| [experts(i).gate.format, experts(i).up.format]);
            compute.pack_also(x, formats, &mut ffn.packed);
            let inputs = gather_inputs(compute, count, experts, next, visits, &ffn.packed, &mut s.gathered);

            let mut computed = [false; MOST_VISITS];
            loop {
                let mut i = 0;
                while i < count {
                    let ready = |&i: &usize| !computed[i] && acquired.ready(next + i);
                    let end = (i..count).find(|i| !ready(i)).unwrap_or(count);
                    if i < end {
                        with_visits(&acquired, next, visits, &inputs, i..end, |some| {
                            hidden_layers(compute, some, &mut ffn.hidden[lines[i]..lines[end]]);
                        });
                        computed[i..end].fill(true);
                    }
                    i = end.max(i + 1);
                }
                match computed[..count].iter().position(|computed| !computed) {
                    Some(late) => acquired.wait(next + late)?,
                    None => break,
                }
            }
            with_visits(&acquired, next, visits, &inputs, 0..count, |all| {
                add_outputs(compute, all, &ffn.hidden[..lines[count]], grouped, d_model);
            });
            acquired.done(next..next + count);
            next += count;
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
            add_whole_chunk(compute, &mlp, x, &ffn.visitors, &mut ffn.packed, &mut ffn.hidden, grouped);
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

/// Inputs of `count` experts, numbered `first ..` in `visits`.
fn gather_inputs<'a>(
    compute: Compute<'_>,
    count: usize,
    expert: impl Fn(usize) -> &'a MlpRef,
    first: usize,
    visits: &Visits,
    packed: &'a Packed,
    gathered: &'a mut [Line],
) -> Inputs<'a> {
    let (mut rest, mut list) = (gathered, [None; MOST_VISITS]);
    for (i, list) in list.iter_mut().enumerate().take(count) {
        let (mlp, visitors) = (expert(i), visits.of(first + i));
        let d_model = mlp.gate.cols;
        let mut inputs = [None; 2];
        for (input, kind) in inputs.iter_mut().zip(kinds(mlp)) {
            let all = packed.view(kind);
            *input = Some(if visitors.len() == all.tokens() {
                // Everyone, in order.
                all
            } else {
                let (lines, others) =
                    std::mem::take(&mut rest).split_at_mut(kind.lines(visitors.len(), d_model));
                rest = others;
                gather(compute, &all, visitors, lines);
                Activations::new(kind, visitors.len(), d_model, lines)
            });
        }
        let [gate, up] = inputs;
        *list = gate.map(|gate| (gate, up.unwrap_or(gate)));
    }
    list
}

/// Visits of experts that are here: some of those that begin at `first` in `visits`.
fn with_visits(
    acquired: &Acquired<'_>,
    first: usize,
    visits: &Visits,
    inputs: &Inputs<'_>,
    some: Range<usize>,
    work: impl FnOnce(&[Visit<'_>]),
) {
    let visit = |i: usize| {
        let (to_gate, to_up) = inputs[i].expect("every expert of a batch has its inputs");
        Visit { mlp: acquired.view(first + i), to_gate, to_up, visitors: visits.of(first + i) }
    };
    let mut list = [visit(some.start); MOST_VISITS];
    for (place, i) in list.iter_mut().zip(some.clone()) {
        *place = visit(i);
    }
    work(&list[..some.len()]);
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
