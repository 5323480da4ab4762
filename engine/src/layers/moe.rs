//! The mixture of experts (arXiv 1701.06538, 2401.04088): route, gather each expert's tokens, then expert by expert, each
//! over all of the chunk's tokens that chose it. The order of summation is fixed: expert id, shared expert last.

use moelten_loader::spec::{Activation, MoeSpec};
use moelten_loader::store::MatrixRef;
use moelten_quant::{ActivationKind, Activations, Line};

use crate::error::Result;
use crate::experts::ExpertStore;
use crate::layers::linear::{Compute, Packed};
use crate::layers::mlp::{MOST_VISITS, MlpView, Visit, add_visits};
use crate::router::Routing;
use crate::scratch::{FfnScratch, MoeScratch};

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
    /// `out = moe(x)`, both `[tokens, d_model]`. `layer` is this layer's number in the store; the routing stays in
    /// `s.routing` for whoever observes it.
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
    ) -> Result<()> {
        let (experts, d_model) = (self.spec.experts, self.router.cols);
        let tokens = x.len() / d_model;
        let router = compute.tensors.view(&self.router);
        compute.pack(x, d_model, [router.format()], &mut ffn.packed);
        let logits = &mut s.logits[..tokens * experts];
        let by_rows = &mut ffn.grouped[..tokens * experts];
        compute.products(&[(router, ffn.packed.for_matrix(&router))], by_rows);
        compute.ungroup(by_rows, experts, None, logits);
        s.routing.route(&self.spec.router, logits, experts);
        s.visits.list(&s.routing, experts);
        let acquired = store.acquire(layer, &s.visits.experts)?;

        let grouped = &mut ffn.grouped[..tokens * d_model];
        grouped.fill(0.0);
        let mut next = 0;
        while next < s.visits.experts.len() {
            // As many experts as the buffers hold, and one at least.
            let mut experts = [acquired.expert(s.visits.experts[next])?; MOST_VISITS];
            let (mut count, mut hidden, mut gathered) = (0, 0, 0);
            for (expert, index) in experts.iter_mut().zip(next..s.visits.experts.len()) {
                *expert = acquired.expert(s.visits.experts[index])?;
                let visitors = s.visits.of(index).len();
                hidden += expert.hidden_lines(visitors);
                gathered += kinds(expert).map(|kind| kind.lines(visitors, d_model)).sum::<usize>();
                if count > 0 && (hidden > ffn.hidden.len() || gathered > s.gathered.len()) {
                    break;
                }
                count += 1;
            }
            let experts = &experts[..count];
            let formats = experts.iter().flat_map(|expert| [expert.gate.format(), expert.up.format()]);
            compute.pack_also(x, formats, &mut ffn.packed);
            add_experts(
                compute,
                experts,
                next,
                &s.visits,
                &ffn.packed,
                &mut s.gathered,
                &mut ffn.hidden,
                grouped,
            );
            next += count;
        }
        if let Some(shared) = &self.shared {
            ffn.visitors.clear();
            ffn.visitors.extend((0..tokens).map(|token| (token as u32, 1.0)));
            if let Some(gate) = &shared.gate {
                let gate = compute.tensors.view(gate);
                compute.pack_also(x, [gate.format()], &mut ffn.packed);
                let scores = &mut s.logits[..tokens];
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
fn kinds(mlp: &MlpView<'_>) -> impl Iterator<Item = ActivationKind> + use<> {
    let (gate, up) = (ActivationKind::of(mlp.gate.format()), ActivationKind::of(mlp.up.format()));
    [Some(gate), (up != gate).then_some(up)].into_iter().flatten()
}

/// Gathers the inputs of the experts numbered `first ..` in `visits` and adds their outputs.
#[allow(clippy::too_many_arguments, reason = "every argument is one of the operation's operands")]
fn add_experts(
    compute: Compute<'_>,
    experts: &[MlpView<'_>],
    first: usize,
    visits: &Visits,
    packed: &Packed,
    gathered: &mut [Line],
    hidden: &mut [Line],
    grouped: &mut [f32],
) {
    let (mut rest, mut list) = (gathered, None);
    let d_model = experts[0].gate.cols();
    for (i, mlp) in experts.iter().enumerate() {
        let visitors = visits.of(first + i);
        let mut inputs = [None; 2];
        for (input, kind) in inputs.iter_mut().zip(kinds(mlp)) {
            let all = packed.view(kind);
            *input = Some(if visitors.len() == all.tokens() {
                // Everyone, in order.
                all
            } else {
                let (lines, others) = rest.split_at_mut(kind.lines(visitors.len(), d_model));
                rest = others;
                gather(compute, &all, visitors, lines);
                Activations::new(kind, visitors.len(), d_model, lines)
            });
        }
        let [Some(to_gate), other] = inputs else { unreachable!("gate takes some kind") };
        let visit = Visit { mlp: *mlp, to_gate, to_up: other.unwrap_or(to_gate), visitors };
        list.get_or_insert([visit; MOST_VISITS])[i] = visit;
    }
    let list = list.expect("there is an expert");
    add_visits(compute, &list[..experts.len()], hidden, grouped, d_model);
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
