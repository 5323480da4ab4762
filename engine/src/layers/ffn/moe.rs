//! The mixture of experts (arXiv 1701.06538, 2401.04088): route the tokens, gather the inputs of each expert,
//! then compute expert by expert, each over all tokens of the batch that chose it. The order of summation is
//! fixed: ascending expert id, the shared expert last. It must not know which layer it is, nor how experts
//! are stored.

use std::time::Instant;

use moelten_loader::spec::{GroupWeights, MoeSpec};
use moelten_loader::tensors::bank::MatrixRef;
use moelten_quant::{Activations, Line};

use crate::error::Result;
use crate::experts::stats::Phase;
use crate::experts::store::{Acquired, ExpertStore, Request};
use crate::layers::ffn::dense::{Mlp, MlpBiases, add_to_all_tokens};
use crate::layers::ffn::device::{Beside, DeviceMoe};
use crate::layers::ffn::given::{Given, add_outputs_and};
use crate::layers::ffn::group::{ExpertGroup, takes_input};
use crate::layers::ffn::mlp::{MOST_VISITS, MlpView, Visit, add_outputs, hidden_layers};
use crate::layers::ffn::router_weights::RouterWeights;
use crate::layers::ffn::visits::Visits;
use crate::layers::linear::{Compute, Linear};
use crate::layers::mixer::recurrence::sigmoid;
use crate::layers::norm::Norm;
use crate::layers::scratch::{MoeScratch, ProductScratch, RouteScratch};
use crate::layers::squares::{HiddenSquares, HiddenSum, Squares};

/// The router and the shared expert of a mixture. The weights of routed experts are in the store.
#[derive(Debug, Clone)]
pub struct Moe {
    /// Shapes and routing rules.
    pub spec: MoeSpec,
    /// The number of its bank in the store.
    pub bank: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// What chooses them; `None` for experts that are chosen with those of another branch.
    pub router: Option<RouterWeights>,
    /// The norm of what the router reads, where it has its own.
    pub router_norm: Option<Norm>,
    /// Biases of the routed experts, one block for each.
    pub biases: MlpBiases,
    /// Added to what all experts of a token give, `[d_model]`; `None` without one.
    pub out_bias: Option<Vec<f32>>,
    /// What is before and after routed experts that are narrower than the residual stream.
    pub latent: Option<LatentProjections>,
    /// The shared expert, if there is one.
    pub shared: Option<Shared>,
}

/// The projections around routed experts (Nemotron-3).
#[derive(Debug, Clone, Copy)]
pub struct LatentProjections {
    /// `[latent, d_model]`.
    pub down: MatrixRef,
    /// `[d_model, latent]`.
    pub up: MatrixRef,
}

/// A shared expert, which every token visits.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The block of the expert.
    pub mlp: Mlp,
    /// `[1, d_model]`: the output of the block is multiplied by `sigmoid(x . gate)`.
    pub gate: Option<MatrixRef>,
    /// Factor on the output.
    pub scale: f32,
}

/// The input of a mixture, and the store.
pub struct MoeInput<'a> {
    /// The store of the routed experts.
    pub store: &'a ExpertStore,
    /// Whether the batch reads prompts or decodes.
    pub phase: Phase,
    /// Returns whether the pass was cancelled.
    pub stop: &'a (dyn Fn() -> bool + 'a),
    /// The normed tokens, `[tokens, d_model]`.
    pub x: &'a [f32],
}

impl Moe {
    /// Chooses the experts of each token by the choice of the branch before it, which is still in `s`: those
    /// of the groups of `size` neighbours.
    pub fn follow(&self, size: usize, weights: GroupWeights, s: &mut RouteScratch) {
        let (k, all) = (self.spec.router.select.max_experts(), self.spec.experts * size);
        let logits = &s.logits[..s.routing.tokens() * all];
        match weights {
            GroupWeights::OfExperts => s.routing.sum_groups(size),
            GroupWeights::OfNumbers => s.routing.choose_groups(size, k, logits, all),
        }
    }

    /// `out = moe(x)`, both `[tokens, d_model]`, after [`Self::route`]. `meanwhile` runs once the reads of
    /// missing experts have begun. The squares of hidden layers are added to `squares`.
    ///
    /// # Errors
    /// As [`Acquired::wait`].
    #[allow(clippy::too_many_arguments, reason = "every argument is one of the operation's operands")]
    pub fn forward(
        &self,
        compute: Compute<'_>,
        input: &MoeInput<'_>,
        s: &mut MoeScratch,
        products: &mut ProductScratch,
        mut squares: Option<&mut HiddenSquares<'_>>,
        out: &mut [f32],
        meanwhile: &mut dyn FnMut(),
    ) -> Result<()> {
        let d_model = self.d_model;
        s.device.shared.clear();
        s.visits.list(&s.route.routing, self.spec.experts);
        let grouped_len = out.len();
        match &self.latent {
            None if self.spec.weighs_inputs => {
                self.weighed(compute, input, s, products, squares.as_deref_mut(), meanwhile)?;
            }
            None => {
                products.grouped[..grouped_len].fill(0.0);
                self.routed(compute, input, s, products, squares.as_deref_mut(), meanwhile)?;
            }
            Some(latent) => {
                let squares = squares.as_deref_mut();
                self.in_latent_space(compute, *latent, input, s, products, squares, meanwhile)?;
            }
        }
        if let Some(shared) = &self.shared {
            let squares = squares.as_mut().map(|squares| (&mut *squares.dense, &mut squares.sums[0]));
            self.add_shared(compute, shared, input, s, products, squares);
        }
        compute.ungroup(&products.grouped[..grouped_len], d_model, self.out_bias.as_deref(), out);
        if self.spec.squashed {
            compute.pool.rows(out, d_model, |_, out| out.iter_mut().for_each(|x| *x = sigmoid(*x)));
        }
        Ok(())
    }

    /// Adds what the shared expert gives to `products.grouped`: what the device gave, or the CPU's.
    fn add_shared(
        &self,
        compute: Compute<'_>,
        shared: &Shared,
        input: &MoeInput<'_>,
        s: &mut MoeScratch,
        products: &mut ProductScratch,
        squares: Option<(&mut Squares, &mut HiddenSum)>,
    ) {
        let &MoeInput { store, phase, x, .. } = input;
        let given = &mut s.device.shared;
        if given.is_empty() {
            let since = Instant::now();
            shared.add(compute, x, &mut s.route.logits, products, squares);
            if phase == Phase::Decode && x.len() == self.d_model {
                store.shared_took(self.bank, since.elapsed());
            }
            return;
        }
        if s.device.work.check_shared {
            let wanted = shared.of_one(compute, x, products);
            store.check_shared(given, &wanted);
            // Otherwise the device is gone, and these count.
            *given = wanted;
        }
        shared.add_given(compute, x, given, &mut s.route.logits, products);
    }

    /// Sets `products.grouped` to the outputs of routed experts that are narrower than the residual stream.
    #[allow(clippy::too_many_arguments, reason = "every argument is one of the operation's operands")]
    fn in_latent_space(
        &self,
        compute: Compute<'_>,
        latent: LatentProjections,
        input: &MoeInput<'_>,
        s: &mut MoeScratch,
        products: &mut ProductScratch,
        squares: Option<&mut HiddenSquares<'_>>,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<()> {
        let (d_model, width) = (latent.down.cols, latent.down.rows);
        let tokens = input.x.len() / d_model;
        // It comes back before the end.
        let mut buffer = std::mem::take(&mut s.latent);
        let narrow = &mut buffer[..tokens * width];
        compute.pack_also(input.x, [latent.down.format], &mut products.packed);
        let down = Linear { weight: latent.down, bias: None };
        compute.linear(&down, &products.packed, narrow, &mut products.grouped);
        compute.pack(narrow, width, [], &mut products.packed);
        products.grouped[..tokens * width].fill(0.0);
        let result = self.routed(compute, &MoeInput { x: narrow, ..*input }, s, products, squares, meanwhile);
        compute.ungroup(&products.grouped[..tokens * width], width, None, narrow);
        compute.pack(narrow, width, [latent.up.format], &mut products.packed);
        let up = compute.tensors.view(&latent.up);
        let grouped = &mut products.grouped[..tokens * d_model];
        compute.products(&[(up, products.packed.for_matrix(&up))], grouped);
        compute.pack(input.x, d_model, [], &mut products.packed);
        s.latent = buffer;
        result
    }

    /// Sets `products.grouped` to the outputs of routed experts whose inputs are weighed. Each token has one
    /// expert at most.
    fn weighed(
        &self,
        compute: Compute<'_>,
        input: &MoeInput<'_>,
        s: &mut MoeScratch,
        products: &mut ProductScratch,
        squares: Option<&mut HiddenSquares<'_>>,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<()> {
        let d_model = self.d_model;
        // It comes back before the end.
        let mut buffer = std::mem::take(&mut s.latent);
        let weighed = &mut buffer[..input.x.len()];
        weighed.copy_from_slice(input.x);
        for (token, x) in weighed.chunks_exact_mut(d_model).enumerate() {
            let weight = s.route.routing.token(token).1.first().copied().unwrap_or(0.0);
            compute.kernels.scale(weight, x);
        }
        s.visits.weigh_equally();
        compute.pack(weighed, d_model, [], &mut products.packed);
        products.grouped[..weighed.len()].fill(0.0);
        let result =
            self.routed(compute, &MoeInput { x: weighed, ..*input }, s, products, squares, meanwhile);
        compute.pack(input.x, d_model, [], &mut products.packed);
        s.latent = buffer;
        result
    }

    /// Width of what routed experts read and give.
    fn expert_width(&self) -> usize {
        self.latent.map_or(self.d_model, |latent| latent.down.rows)
    }

    /// Adds the outputs of the routed experts to `products.grouped`, which is zero.
    fn routed(
        &self,
        compute: Compute<'_>,
        input: &MoeInput<'_>,
        s: &mut MoeScratch,
        products: &mut ProductScratch,
        squares: Option<&mut HiddenSquares<'_>>,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<()> {
        let len = input.x.len();
        if input.store.has_device() {
            let one = input.phase == Phase::Decode && len == self.expert_width() && squares.is_none();
            if !one {
                input.store.without_device(self.bank, s.visits.uses());
            } else if self.beside_device(compute, input, s, products, meanwhile)? {
                return Ok(());
            } else {
                // The device is gone: all over again, without it.
                products.grouped[..len].fill(0.0);
            }
        }
        self.on_cpu(compute, input, s, products, squares, None, meanwhile)
    }

    /// Computes the experts of one token, some of them by the device of the store. Returns whether it is
    /// done; otherwise the device is gone, and nothing counts that was added.
    fn beside_device(
        &self,
        compute: Compute<'_>,
        input: &MoeInput<'_>,
        s: &mut MoeScratch,
        products: &mut ProductScratch,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<bool> {
        let (store, width) = (input.store, self.expert_width());
        let first = s.visits.experts.first();
        let matrices = first.map_or(&[][..], |&id| takes_input(store.matrices(self.bank, id)));
        let shared = self.shared.iter().map(|shared| shared.mlp.up.format);
        let formats = matrices.iter().map(|matrix| matrix.format).chain(shared);
        compute.pack_also(input.x, formats, &mut products.packed);
        let d_ff = self.spec.expert.d_ff;
        let moe = DeviceMoe { store, bank: self.bank, width, d_ff, biases: &self.biases };
        let mut beside = Beside::begin(moe, &s.visits, &products.packed, &mut s.device);
        let mut result = Ok(());
        if beside.begun() {
            let since = Instant::now();
            result = self.on_cpu(compute, input, s, products, None, Some(&mut beside), meanwhile);
            beside.end(compute, since, &mut products.grouped[..width]);
        }
        let done = beside.give_back(&mut s.device);
        result.map(|()| done)
    }

    /// Adds the outputs of the experts that the CPU computes, and those of a device in their places. Ends
    /// early when the device is lost.
    #[allow(clippy::too_many_arguments, reason = "every argument is one of the operation's operands")]
    fn on_cpu(
        &self,
        compute: Compute<'_>,
        input: &MoeInput<'_>,
        s: &mut MoeScratch,
        products: &mut ProductScratch,
        mut squares: Option<&mut HiddenSquares<'_>>,
        mut beside: Option<&mut Beside<'_>>,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<()> {
        let &MoeInput { store, phase, stop, x } = input;
        let (visits, d_model) =
            (if beside.is_some() { &s.device.host } else { &s.visits }, self.expert_width());
        let tokens = x.len() / d_model;
        let uses = |index: usize| visits.of(index).len() as u32;
        let request = Request { bank: self.bank, ids: &visits.experts, uses: &uses, tokens, phase, stop };
        let mut acquired = store.acquire(&request, &mut s.acquired);
        meanwhile();
        let ProductScratch { packed, grouped, hidden, .. } = products;
        let grouped = &mut grouped[..tokens * d_model];
        if let Some(beside) = &mut beside {
            beside.all_here = (0..visits.experts.len()).all(|index| acquired.ready(index));
        }
        let (mut next, mut from) = (0, 0);
        while next < visits.experts.len() {
            // Decode groups all experts that have a slot, and computes the resident ones while others are
            // read. Prefill groups resident experts only, in order, and releases them before it waits for
            // more.
            let wait_later = phase == Phase::Decode;
            if !wait_later {
                wait(compute, &mut acquired, next)?;
            }
            // An expert without a slot may get one only when others are released.
            let taken = |index| if wait_later { acquired.has_slot(index) } else { acquired.ready(index) };
            let ready = |index| index == next || taken(index);
            let expert = |index: usize| store.matrices(self.bank, visits.experts[index]);
            let room = (hidden.len(), s.gathered.len());
            let group = ExpertGroup::fill(visits, next, from, room, ready, expert);
            let formats = group.items().iter().flat_map(|item| takes_input(expert(item.index)));
            compute.pack_also(x, formats.map(|matrix| matrix.format), packed);
            let inputs = group.gather(compute, visits, expert, packed, &mut s.gathered);
            let sums = squares.as_ref().map(|squares| &*squares.sums);
            let work = GroupWork { moe: self, group: &group, visits, inputs: &inputs, sums };
            work.hidden_layers(compute, &mut acquired, hidden)?;
            let before = next;
            (next, from) = group.end(visits);
            match &mut beside {
                None => work.outputs(compute, &acquired, hidden, grouped),
                Some(beside) => {
                    let Some(given) = beside.outputs_of(before..next) else { return Ok(()) };
                    work.outputs_and(compute, &acquired, hidden, &given, grouped);
                    let expert = |index: usize| self.expert(&acquired, index, visits.experts[index]);
                    beside.promote(compute, before..next, packed, expert);
                }
            }
            if let Some(HiddenSquares { experts, sums, .. }) = &mut squares {
                for (item, sum) in group.items().iter().zip(sums.iter_mut()) {
                    experts.add_hidden(visits.experts[item.index] as usize, item.to - item.from, sum);
                }
            }
            acquired.release(before..next);
        }
        Ok(())
    }

    /// The block of a resident expert, by its index in the request.
    fn expert<'v>(&'v self, acquired: &'v Acquired<'_>, index: usize, expert: u32) -> MlpView<'v> {
        let matrices = acquired.view(index);
        let (mut matrices, d_model) = (matrices.into_iter().flatten(), self.expert_width());
        let mut next = || matrices.next().expect("the bank has the matrices of its spec");
        MlpView {
            gate: self.spec.expert.gated.then(&mut next),
            up: next(),
            down: next(),
            biases: self.biases.of(expert as usize, self.spec.expert.d_ff, d_model),
            activation: self.spec.expert.activation,
        }
    }
}

/// Waits for an expert. The worker threads park meanwhile.
///
/// # Errors
/// As [`Acquired::wait`].
pub fn wait(compute: Compute<'_>, acquired: &mut Acquired<'_>, index: usize) -> Result<()> {
    if acquired.ready(index) {
        return Ok(());
    }
    compute.pool.rest_during(|| acquired.wait(index))
}

/// A group of experts with the inputs of their visitors, ready to compute.
struct GroupWork<'a> {
    moe: &'a Moe,
    group: &'a ExpertGroup,
    visits: &'a Visits,
    inputs: &'a [Option<(Activations<'a>, Activations<'a>)>; MOST_VISITS],
    sums: Option<&'a [HiddenSum]>,
}

impl GroupWork<'_> {
    /// The hidden layers of all experts of the group, the resident ones first.
    fn hidden_layers(
        &self,
        compute: Compute<'_>,
        acquired: &mut Acquired<'_>,
        hidden: &mut [Line],
    ) -> Result<()> {
        let items = self.group.items();
        let lines = &self.group.lines;
        let mut computed = [false; MOST_VISITS];
        loop {
            let mut i = 0;
            while i < items.len() {
                let ready = |&i: &usize| !computed[i] && acquired.ready(items[i].index);
                let end = (i..items.len()).find(|i| !ready(i)).unwrap_or(items.len());
                if i < end {
                    self.with_visits(acquired, i..end, self.sums, |some| {
                        hidden_layers(compute, some, &mut hidden[lines[i]..lines[end]]);
                    });
                    computed[i..end].fill(true);
                }
                i = end.max(i + 1);
            }
            match computed[..items.len()].iter().position(|computed| !computed) {
                Some(late) => wait(compute, acquired, items[late].index)?,
                None => return Ok(()),
            }
        }
    }

    /// Adds the outputs of all experts of the group to `grouped`, in ascending expert id.
    fn outputs(&self, compute: Compute<'_>, acquired: &Acquired<'_>, hidden: &[Line], grouped: &mut [f32]) {
        let count = self.group.items().len();
        let hidden = &hidden[..self.group.lines[count]];
        self.with_visits(acquired, 0..count, None, |all| {
            add_outputs(compute, all, hidden, grouped, self.moe.expert_width());
        });
    }

    /// As [`Self::outputs`] for a single token, with the outputs of a device in their places.
    fn outputs_and(
        &self,
        compute: Compute<'_>,
        acquired: &Acquired<'_>,
        hidden: &[Line],
        given: &[Given<'_>],
        out: &mut [f32],
    ) {
        let count = self.group.items().len();
        let hidden = &hidden[..self.group.lines[count]];
        self.with_visits(acquired, 0..count, None, |all| add_outputs_and(compute, all, given, hidden, out));
    }

    fn with_visits(
        &self,
        acquired: &Acquired<'_>,
        some: std::ops::Range<usize>,
        sums: Option<&[HiddenSum]>,
        work: impl FnOnce(&[Visit<'_>]),
    ) {
        let mlp = |index: usize| self.moe.expert(acquired, index, self.visits.experts[index]);
        self.group.with_visits(mlp, self.visits, self.inputs, sums, some, work);
    }
}

impl Shared {
    /// Adds the output of the shared expert to `products.grouped`. `scores` is scratch for one number per
    /// token.
    fn add(
        &self,
        compute: Compute<'_>,
        x: &[f32],
        scores: &mut [f32],
        products: &mut ProductScratch,
        squares: Option<(&mut Squares, &mut HiddenSum)>,
    ) {
        let d_model = self.mlp.up.cols;
        self.weigh(compute, x, scores, products);
        let ProductScratch { packed, grouped, hidden, visitors } = products;
        let tokens = visitors.len();
        let mlp = self.mlp.view(compute);
        let sum = squares.as_ref().map(|(_, sum)| &**sum);
        let grouped = &mut grouped[..tokens * d_model];
        add_to_all_tokens(compute, &mlp, x, visitors, packed, hidden, sum, grouped);
        if let Some((dense, sum)) = squares {
            dense.add_hidden(0, tokens, sum);
        }
    }

    /// Lists the tokens as visitors, each with its weight.
    fn weigh(&self, compute: Compute<'_>, x: &[f32], scores: &mut [f32], products: &mut ProductScratch) {
        let tokens = x.len() / self.mlp.up.cols;
        let ProductScratch { packed, visitors, .. } = products;
        visitors.clear();
        visitors.extend((0..tokens as u32).map(|token| (token, self.scale)));
        let Some(gate) = &self.gate else { return };
        let gate = compute.tensors.view(gate);
        compute.pack_also(x, [gate.format()], packed);
        let scores = &mut scores[..tokens];
        compute.products(&[(gate, packed.for_matrix(&gate))], scores);
        for ((_, weight), score) in visitors.iter_mut().zip(scores) {
            *weight *= 1.0 / (1.0 + (-*score).exp());
        }
    }

    /// Adds an output that was computed elsewhere, for the only token.
    fn add_given(
        &self,
        compute: Compute<'_>,
        x: &[f32],
        output: &[f32],
        scores: &mut [f32],
        products: &mut ProductScratch,
    ) {
        self.weigh(compute, x, scores, products);
        let (d_ff, d_model) = (self.mlp.up.rows, self.mlp.up.cols);
        let bias = self.mlp.biases.of(0, d_ff, d_model).down;
        let given = Given { after: 0, weight: products.visitors[0].1, output, bias };
        add_outputs_and(compute, &[], &[given], &[], &mut products.grouped[..d_model]);
    }

    /// The output for the only token, without weight and bias.
    fn of_one(&self, compute: Compute<'_>, x: &[f32], products: &mut ProductScratch) -> Vec<f32> {
        let ProductScratch { packed, hidden, .. } = products;
        let mut mlp = self.mlp.view(compute);
        mlp.biases.down = None;
        let mut out = vec![0.0; self.mlp.up.cols];
        add_to_all_tokens(compute, &mlp, x, &[(0, 1.0)], packed, hidden, None, &mut out);
        out
    }
}
