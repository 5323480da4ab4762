//! One branch of a layer: norm, operation, norm, join. What an operation computes is in `layers`; this gives
//! it the rows of the batch, the states and the buffers. It must not know the layer's number of branches.

use std::ops::Range;

use super::batch::{Batch, Ended};
use super::executor::{AHEAD_TOKENS, Executor};
use super::lookahead::{self, Ahead};
use super::observe::Observer;
use crate::error::Result;
use crate::experts::stats::Phase;
use crate::experts::store::ExpertStore;
use crate::layers::ffn::dense::Mlp;
use crate::layers::ffn::moe::{Moe, MoeInput};
use crate::layers::layer_input::LayerInput;
use crate::layers::linear::Compute;
use crate::layers::mixer::contract::Mixer;
use crate::layers::scratch::{AttentionScratch, PASS};
use crate::weights::{Branch, Layer, NextBank, OpWeights, Weights};
use moelten_loader::spec::{Join, RouterInput};

/// What a pass computes with.
#[derive(Clone, Copy)]
pub(super) struct PassContext<'a> {
    /// Kernels, threads, tensors.
    pub compute: Compute<'a>,
    /// The model.
    pub weights: &'a Weights,
    /// Its experts.
    pub store: &'a ExpertStore,
    /// Width of a residual stream.
    pub d_model: usize,
    /// How many residual streams there are.
    pub streams: usize,
}

impl<'a> PassContext<'a> {
    /// Runs a branch over all rows of the batch. Its output is added to the residual stream, or, if
    /// `parallel`, to `s.joined`, which is added later.
    pub fn branch(
        self,
        branch: &Branch,
        parallel: bool,
        batch: &mut Batch<'_, '_>,
        s: &mut Executor,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        if let OpWeights::Ngram { ngram, state } = &branch.op {
            return self.ngram((ngram, *state), batch, s);
        }
        let (rows, d) = (batch.tokens(), self.d_model);
        let step = branch.op.mixer().map_or(rows, |(mixer, _)| mixer.pass_tokens());
        if let Some((mixer, state)) = branch.op.mixer().filter(|(mixer, _)| mixer.whole() && rows > step) {
            for first in (0..rows).step_by(step) {
                let piece = first..rows.min(first + step);
                self.normed(branch, piece.clone(), s);
                let x = &s.normed[piece.start * d..piece.end * d];
                mixer.project(self.compute, &s.angles, first, x, &mut s.attention, &mut s.products);
                take(self.compute, (mixer, state), piece, batch, &s.attention);
            }
        }
        for first in (0..rows).step_by(step) {
            let piece = first..rows.min(first + step);
            let at = piece.start * d..piece.end * d;
            let wide = piece.start * d * self.streams..piece.end * d * self.streams;
            self.normed(branch, piece.clone(), s);
            self.op(branch, piece, batch, s, observer)?;
            let (normed, out) = (&mut s.normed[at.clone()], &mut s.branch[at.clone()]);
            if let Some(norm) = &branch.post {
                normed.copy_from_slice(out);
                norm.apply(self.compute, normed, out);
            }
            if let Some(streams) = &branch.streams {
                streams.write(self.compute, branch.scale, out, &s.streams, &mut s.x[wide]);
                continue;
            }
            let into = if parallel { &mut s.joined } else { &mut s.x };
            self.compute.add(branch.scale, out, &mut into[at], d);
        }
        Ok(())
    }

    /// The normed input of a branch, of some rows of the batch.
    fn normed(self, branch: &Branch, rows: Range<usize>, s: &mut Executor) {
        if branch.join == Join::Beside {
            // It is there since the branch before, which takes all rows at once.
            return;
        }
        let at = rows.start * self.d_model..rows.end * self.d_model;
        if let Some(streams) = &branch.streams {
            let wide = at.start * self.streams..at.end * self.streams;
            streams.read(self.compute, &s.x[wide], &mut s.streams);
        }
        let x = match (&branch.streams, branch.join) {
            (Some(_), _) => &s.streams.read[..at.len()],
            (None, Join::InOrder | Join::Parallel | Join::Beside) => &s.x[at.clone()],
            (None, Join::Outset) => &s.outset[at.clone()],
            (None, Join::Output) => &s.branch[at.clone()],
        };
        let normed = &mut s.normed[at];
        match &branch.pre {
            Some(norm) => norm.apply(self.compute, x, normed),
            None => normed.copy_from_slice(x),
        }
    }

    /// Prefetches the experts of routers that read what the layer received: they are known before attention
    /// runs, so this is never wrong. `s.outset` is what the layer received.
    pub fn prefetch_known(self, layer: &Layer, batch: &Batch<'_, '_>, s: &mut Executor) {
        let rows = batch.tokens();
        if batch.phase() != Phase::Decode || rows > AHEAD_TOKENS || !self.store.prefetches() {
            return;
        }
        for branch in &layer.branches {
            let OpWeights::Moe { moe, .. } = &branch.op else { continue };
            let Some(router) = &moe.router else { continue };
            if moe.spec.router_input == RouterInput::Outset {
                let (x, router) = (&s.outset[..rows * self.d_model], (router, moe.spec.experts));
                lookahead::rank(self.compute, (None, None), router, x, &mut s.ahead);
                self.store.prefetch(moe.bank, &s.ahead.ranked);
            }
        }
    }

    /// `s.branch = op(s.normed)` for some rows.
    fn op(
        self,
        branch: &Branch,
        rows: Range<usize>,
        batch: &mut Batch<'_, '_>,
        s: &mut Executor,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        match &branch.op {
            OpWeights::Attention { attention, state } => {
                self.mix(branch, (attention, *state), rows, batch, s, observer);
                Ok(())
            }
            OpWeights::Cross { cross, state } => {
                self.mix(branch, (&**cross, *state), rows, batch, s, observer);
                Ok(())
            }
            OpWeights::Latent { latent, state } => {
                self.mix(branch, (latent, *state), rows, batch, s, observer);
                Ok(())
            }
            OpWeights::Compressed { compressed, state } => {
                self.mix(branch, (&**compressed, *state), rows, batch, s, observer);
                Ok(())
            }
            OpWeights::Delta { delta, state } => {
                self.mix(branch, (delta, *state), rows, batch, s, observer);
                Ok(())
            }
            OpWeights::Selective { ssm, state } => {
                self.mix(branch, (&**ssm, *state), rows, batch, s, observer);
                Ok(())
            }
            OpWeights::Kda { kda, state } => {
                self.mix(branch, (&**kda, *state), rows, batch, s, observer);
                Ok(())
            }
            OpWeights::Ssm { ssm, state } => {
                self.mix(branch, (ssm, *state), rows, batch, s, observer);
                Ok(())
            }
            OpWeights::Conv { conv, state } => {
                self.mix(branch, (conv, *state), rows, batch, s, observer);
                Ok(())
            }
            OpWeights::Lstm { lstm, state } => {
                self.mix(branch, (lstm, *state), rows, batch, s, observer);
                Ok(())
            }
            OpWeights::Ngram { .. } => unreachable!("it joins the streams by itself"),
            OpWeights::LayerInput(input) => {
                self.layer_input(branch, input, rows.end, s, observer);
                Ok(())
            }
            OpWeights::Mlp(mlp) => {
                self.dense(branch, mlp, rows.end, s, observer);
                Ok(())
            }
            OpWeights::HeadExperts { heads, state, .. } => {
                self.head_experts(branch, (heads, *state), rows, batch, s, observer)
            }
            OpWeights::Moe { moe, .. } => self.experts(branch, moe, rows, batch, s, observer),
        }
    }

    /// The first rows through the layer's own embedding.
    fn layer_input(
        self,
        branch: &Branch,
        input: &LayerInput,
        rows: usize,
        s: &mut Executor,
        observer: &mut dyn Observer,
    ) {
        let (d, all) = (self.d_model, s.layer_input.all.len() / s.chunk);
        let (normed, out) = (&s.normed[..rows * d], &mut s.branch[..rows * d]);
        let numbers = s.layer_input.all[..rows * all].chunks(PASS * all);
        for ((x, numbers), out) in normed.chunks(PASS * d).zip(numbers).zip(out.chunks_mut(PASS * d)) {
            let buffers = (&mut *s.layer_input.gates, &mut *s.layer_input.hidden);
            let hidden = input.forward(self.compute, x, numbers, buffers, &mut s.products, out);
            if let Some(inputs) = observer.inputs() {
                inputs.attention(self.compute.pool, branch.key, x, hidden);
            }
        }
    }

    /// The first rows through a feed-forward block.
    fn dense(self, branch: &Branch, mlp: &Mlp, rows: usize, s: &mut Executor, observer: &mut dyn Observer) {
        let d = self.d_model;
        let (normed, out) = (&s.normed[..rows * d], &mut s.branch[..rows * d]);
        for (x, out) in normed.chunks(PASS * d).zip(out.chunks_mut(PASS * d)) {
            let squares = observer.inputs().map(|inputs| inputs.hidden(branch.key));
            mlp.forward(self.compute, x, &mut s.products, squares, out);
        }
        if let Some(inputs) = observer.inputs() {
            inputs.ffn(self.compute.pool, branch.key, normed, None);
        }
    }

    /// An operation with a state, over some rows: each run has its own state.
    fn mix(
        self,
        branch: &Branch,
        (mixer, state): (&dyn Mixer, usize),
        rows: Range<usize>,
        batch: &mut Batch<'_, '_>,
        s: &mut Executor,
        observer: &mut dyn Observer,
    ) {
        let (compute, d) = (self.compute, self.d_model);
        let at = rows.start * d..rows.end * d;
        let (x, out) = (&s.normed[at.clone()], &mut s.branch[at]);
        let scratch = &mut s.attention;
        mixer.project(compute, &s.angles, rows.start, x, scratch, &mut s.products);
        if mixer.whole() && rows.len() == batch.tokens() {
            take(compute, (mixer, state), rows.clone(), batch, scratch);
        }
        let mut next = rows.start;
        while next < rows.end {
            let part = batch.runs_of(next..rows.end).next().expect("every row belongs to a run");
            let run = &mut batch.runs()[part.run];
            let inside = part.rows.start - rows.start..part.rows.end - rows.start;
            if run.ended == Ended::Cancelled {
                mixer.skip(inside, scratch);
            } else {
                let state = run.states.state_mut(state);
                mixer.mix(compute, state, part.position, inside, scratch);
            }
            next = part.rows.end;
        }
        let mixed = mixer.output(compute, scratch, &mut s.products, out);
        if let Some(inputs) = observer.inputs() {
            inputs.attention(compute.pool, branch.key, x, mixed);
        }
    }

    /// The next bank of experts, if its experts are to be prefetched.
    pub(super) fn next_bank(
        self,
        branch: &Branch,
        batch: &Batch<'_, '_>,
        rows: usize,
    ) -> Option<NextBank<'a>> {
        let wanted = batch.phase() == Phase::Decode && rows <= AHEAD_TOKENS && self.store.prefetches();
        self.weights.next_bank(branch).filter(|_| wanted)
    }

    /// A mixture of experts over all rows.
    fn experts(
        self,
        branch: &Branch,
        moe: &Moe,
        rows: Range<usize>,
        batch: &Batch<'_, '_>,
        s: &mut Executor,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let (compute, d) = (self.compute, self.d_model);
        let (x, normed) = (&s.x[..rows.end * d * self.streams], &s.normed[..rows.end * d]);
        let out = &mut s.branch[..rows.end * d];
        let products = &mut s.products;
        let (live, token) = (|row| batch.is_live(row), |row| batch.token_id(row));
        let of_router = match (moe.spec.router_input, &moe.router_norm) {
            (RouterInput::Outset, _) => &s.outset[..rows.end * d],
            (RouterInput::Residual { .. }, Some(norm)) => {
                let read = if branch.join == Join::Outset { &s.outset[..rows.end * d] } else { x };
                norm.apply(compute, read, out);
                &*out
            }
            (RouterInput::Branch | RouterInput::Residual { .. } | RouterInput::Groups { .. }, _) => normed,
        };
        match (moe.spec.router_input, &moe.router) {
            (RouterInput::Groups { size, weights }, _) => moe.follow(size, weights, &mut s.moe.route),
            (_, Some(router)) => {
                let (packed, grouped) = (&mut products.packed, &mut products.grouped);
                router.route(compute, of_router, (live, token), &mut s.moe.route, packed, grouped);
            }
            (_, None) => unreachable!("a mixture has a router or follows one"),
        }
        if moe.spec.router_input != RouterInput::Branch {
            // The experts read other inputs than those that were packed for the router.
            compute.pack(normed, d, [], &mut products.packed);
        }
        let next = self.next_bank(branch, batch, rows.len());
        let known = (&s.moe.route.routing, &token as &dyn Fn(usize) -> u32, x);
        let mut ahead = Ahead::new(compute, self.store, next, known, &mut s.ahead);
        let stop = || batch.all_cancelled();
        let input = MoeInput { store: self.store, phase: batch.phase(), stop: &stop, x: normed };
        {
            let mut hidden = observer.inputs().map(|inputs| inputs.hidden(branch.key));
            moe.forward(compute, &input, &mut s.moe, products, hidden.as_mut(), out, &mut || {
                ahead.prefetch()
            })?;
        }
        if let Some(inputs) = observer.inputs() {
            let visits = moe.latent.is_none().then_some(&s.moe.visits);
            inputs.ffn(compute.pool, branch.key, normed, visits);
        }
        if let OpWeights::Moe { key, .. } = &branch.op {
            observer.routed(*key, &s.moe.route.routing);
        }
        Ok(())
    }
}

/// Gives projected rows to an operation that needs those of the whole text before it mixes any.
fn take(
    compute: Compute<'_>,
    (mixer, state): (&dyn Mixer, usize),
    rows: Range<usize>,
    batch: &mut Batch<'_, '_>,
    scratch: &AttentionScratch,
) {
    let mut next = rows.start;
    while next < rows.end {
        let part = batch.runs_of(next..rows.end).next().expect("every row belongs to a run");
        let inside = part.rows.start - rows.start..part.rows.end - rows.start;
        let state = batch.runs()[part.run].states.state_mut(state);
        mixer.take(compute, state, part.position, inside, scratch);
        next = part.rows.end;
    }
}
