//! A mixture of attention heads (arXiv 2210.05144, 2404.07413): query heads out of a bank of experts, all of
//! which attend to the same keys and values. Experts are asked for twice: for the queries of the tokens that
//! chose them, and for what these tokens' heads have mixed. Outputs are added in ascending expert id. It must
//! not know which layer it is, nor how experts are stored.

use std::ops::Range;

use moelten_loader::spec::HeadExpertsSpec;
use moelten_quant::{ActivationKind, Activations, QMatrix};

use crate::error::Result;
use crate::experts::store::{AcquireBuffers, Request};
use crate::layers::ffn::group::gather;
use crate::layers::ffn::moe::{MoeInput, wait};
use crate::layers::ffn::router_weights::RouterWeights;
use crate::layers::ffn::visits::Visits;
use crate::layers::linear::{Compute, Linear};
use crate::layers::mixer::attend::{Scoring, attend, warm};
use crate::layers::rope::Angles;
use crate::layers::scratch::{AttentionScratch, MoeScratch, PASS, ProductScratch};
use crate::state::LayerState;

/// The weights of a mixture of heads outside its bank.
#[derive(Debug, Clone)]
pub struct HeadExperts {
    /// Shapes and options.
    pub spec: HeadExpertsSpec,
    /// The number of its bank in the store.
    pub bank: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// What chooses experts.
    pub router: RouterWeights,
    /// Key projection, `[kv_heads * head_dim, d_model]`.
    pub k: Linear,
    /// Value projection, `[kv_heads * head_dim, d_model]`.
    pub v: Linear,
    /// Added to what all experts of a token give, `[d_model]`; empty without one.
    pub out_bias: Vec<f32>,
    /// Index of the rope among those of the model; `None` without positions.
    pub rope: Option<usize>,
}

/// The visitors of an expert that are computed at once, and where the heads of each of them are.
struct Piece<'a> {
    visitors: &'a [(u32, f32)],
    /// Which of its token's experts it is for each visitor.
    places: &'a [u32],
}

impl HeadExperts {
    /// Keys and values of `x`, `[tokens, d_model]`, into `s`; keys are rotated.
    pub fn keys_and_values(
        &self,
        compute: Compute<'_>,
        angles: &[Angles],
        x: &[f32],
        s: &mut AttentionScratch,
        products: &mut ProductScratch,
    ) {
        let (tokens, width) = (x.len() / self.d_model, self.k.weight.rows);
        let head_dim = self.spec.attention.head_dim;
        let formats = [self.k.weight.format, self.v.weight.format];
        compute.pack(x, self.d_model, formats, &mut products.packed);
        for (linear, out) in [(&self.k, &mut s.k), (&self.v, &mut s.v)] {
            let out = &mut out[..tokens * width];
            compute.linear(linear, &products.packed, out, &mut products.grouped);
        }
        if let Some(angles) = self.rope.map(|rope| &angles[rope]) {
            compute.pool.rows(&mut s.k[..tokens * width], width, |range, k| {
                for (token, k) in range.zip(k.chunks_exact_mut(width)) {
                    angles.rotate(k, head_dim, token);
                }
            });
        }
    }

    /// Queries of the experts of every token, rotated, into `s.q`, after the choice in `moe.route`: heads of
    /// experts that a token does not have are 0. `meanwhile` runs once the reads of missing experts have
    /// begun.
    ///
    /// # Errors
    /// As [`wait`].
    #[allow(clippy::too_many_arguments, reason = "every argument is one of the operation's operands")]
    pub fn queries(
        &self,
        compute: Compute<'_>,
        input: &MoeInput<'_>,
        angles: &[Angles],
        s: &mut AttentionScratch,
        moe: &mut MoeScratch,
        products: &mut ProductScratch,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<()> {
        let (tokens, width) = (input.x.len() / self.d_model, self.width());
        moe.visits.list(&moe.route.routing, self.spec.experts);
        let AttentionScratch { q, latent, .. } = s;
        let q = &mut q[..tokens * width];
        q.fill(0.0);
        let MoeScratch { visits, acquired, gathered, taken, .. } = moe;
        let ProductScratch { packed, grouped, .. } = products;
        self.each_piece(compute, input, (visits, acquired, taken), meanwhile, &mut |matrices, piece| {
            let [matrix, _] = matrices;
            let count = piece.visitors.len();
            compute.pack_also(input.x, [matrix.format()], packed);
            let all = packed.for_matrix(&matrix);
            let inputs = if count == tokens {
                all
            } else {
                let kind = ActivationKind::of(matrix.format());
                let lines = &mut gathered[..kind.lines(count, self.d_model)];
                gather(compute, &all, piece.visitors, lines);
                Activations::new(kind, count, self.d_model, lines)
            };
            let own = &mut latent.wide[..count * matrix.rows()];
            let by_rows = &mut grouped[..own.len()];
            compute.products(&[(matrix, inputs)], by_rows);
            compute.ungroup(by_rows, matrix.rows(), None, own);
            for (index, own) in own.chunks_exact(matrix.rows()).enumerate() {
                let (token, place) = (piece.visitors[index].0 as usize, piece.places[index] as usize);
                let q = &mut q[token * width..][..width];
                self.heads_of(place, |head, of| q[head].copy_from_slice(&own[of]));
            }
        })?;
        if let Some(angles) = self.rope.map(|rope| &angles[rope]) {
            compute.pool.rows(q, width, |range, q| {
                for (token, q) in range.zip(q.chunks_exact_mut(width)) {
                    angles.rotate(q, self.spec.attention.head_dim, token);
                }
            });
        }
        Ok(())
    }

    /// Attention of tokens of one sequence, after [`Self::queries`]; the first has position `position`.
    pub fn mix(
        &self,
        compute: Compute<'_>,
        state: &mut LayerState,
        position: usize,
        tokens: Range<usize>,
        s: &mut AttentionScratch,
    ) {
        let rows = |width: usize| tokens.start * width..tokens.end * width;
        let (wide, narrow) = (rows(self.width()), rows(self.k.weight.rows));
        let (k, v) = (&s.k[narrow.clone()], &s.v[narrow]);
        state.write(compute.pool, compute.kernels, position, k, v);
        let (q, mixed) = (&mut s.q[wide.clone()], &mut s.mixed[wide]);
        warm(compute, &self.spec.attention, position, q);
        attend(
            compute,
            Scoring::plain(&self.spec.attention),
            state.view(),
            position,
            q,
            &mut s.attend,
            mixed,
        );
    }

    /// `out` is the weighed sum of what the experts of each token make of its mixed values, `[tokens,
    /// d_model]`.
    ///
    /// # Errors
    /// As [`wait`].
    pub fn outputs(
        &self,
        compute: Compute<'_>,
        input: &MoeInput<'_>,
        s: &mut AttentionScratch,
        moe: &mut MoeScratch,
        products: &mut ProductScratch,
        out: &mut [f32],
    ) -> Result<()> {
        let (width, d_model) = (self.width(), self.d_model);
        match self.out_bias.is_empty() {
            true => out.fill(0.0),
            false => out.chunks_exact_mut(d_model).for_each(|out| out.copy_from_slice(&self.out_bias)),
        }
        let AttentionScratch { mixed, latent, .. } = s;
        let MoeScratch { visits, acquired, taken, .. } = moe;
        let grouped = &mut products.grouped;
        self.each_piece(compute, input, (visits, acquired, taken), &mut || (), &mut |matrices, piece| {
            let [_, matrix] = matrices;
            let (count, cols) = (piece.visitors.len(), matrix.cols());
            let own = &mut latent.wide[..count * cols];
            for (index, own) in own.chunks_exact_mut(cols).enumerate() {
                let (token, place) = (piece.visitors[index].0 as usize, piece.places[index] as usize);
                let mixed = &mixed[token * width..][..width];
                self.heads_of(place, |head, of| own[of].copy_from_slice(&mixed[head]));
            }
            compute.pack(own, cols, [matrix.format()], &mut latent.packed);
            let given = &mut latent.outputs[..count * d_model];
            let by_rows = &mut grouped[..given.len()];
            compute.products(&[(matrix, latent.packed.for_matrix(&matrix))], by_rows);
            compute.ungroup(by_rows, d_model, None, given);
            for (&(token, weight), given) in piece.visitors.iter().zip(given.chunks_exact(d_model)) {
                compute.kernels.axpy(weight, given, &mut out[token as usize * d_model..][..d_model]);
            }
        })
    }

    /// Sets the mixed values of tokens to 0, for runs that were cancelled.
    pub fn skip(&self, tokens: Range<usize>, s: &mut AttentionScratch) {
        let width = self.width();
        s.mixed[tokens.start * width..tokens.end * width].fill(0.0);
    }

    /// Width of all heads that a token can have.
    fn width(&self) -> usize {
        self.spec.attention.heads * self.spec.attention.head_dim
    }

    /// Calls `copy` with the place of each head of an expert among all heads of a token, and among its own.
    /// Heads that share a key and value head are neighbours. The expert is the `place`-th of its token.
    fn heads_of(&self, place: usize, mut copy: impl FnMut(Range<usize>, Range<usize>)) {
        let a = &self.spec.attention;
        let (own, most) = (self.spec.own_heads(), self.spec.router.select.max_experts());
        let group = own / a.kv_heads;
        for head in 0..own {
            let all = ((head / group) * most + place) * group + head % group;
            let range = |head: usize| head * a.head_dim..(head + 1) * a.head_dim;
            copy(range(all), range(head));
        }
    }

    /// Calls `work` with the query and the output matrix of every chosen expert in ascending order, each with
    /// pieces of its visitors.
    fn each_piece<'a>(
        &self,
        compute: Compute<'_>,
        input: &MoeInput<'a>,
        (visits, buffers, taken): (&'a Visits, &'a mut AcquireBuffers, &mut Vec<u32>),
        meanwhile: &mut dyn FnMut(),
        work: &mut dyn FnMut([QMatrix<'_>; 2], Piece<'_>),
    ) -> Result<()> {
        let &MoeInput { store, phase, stop, x } = input;
        let tokens = x.len() / self.d_model;
        let uses = |index: usize| visits.of(index).len() as u32;
        let request = Request { bank: self.bank, ids: &visits.experts, uses: &uses, tokens, phase, stop };
        let mut acquired = store.acquire(&request, buffers);
        meanwhile();
        // How many experts of each token came before, and behind these the places of the present visitors.
        taken.clear();
        taken.resize(2 * tokens, 0);
        let (taken, places) = taken.split_at_mut(tokens);
        for index in 0..visits.experts.len() {
            wait(compute, &mut acquired, index)?;
            let [Some(query), Some(output), ..] = acquired.view(index) else {
                unreachable!("the bank has the matrices of its spec")
            };
            for visitors in visits.of(index).chunks(PASS) {
                let places = &mut places[..visitors.len()];
                for (place, &(token, _)) in places.iter_mut().zip(visitors) {
                    *place = taken[token as usize];
                    taken[token as usize] += 1;
                }
                work([query, output], Piece { visitors, places });
            }
            acquired.release(index..index + 1);
        }
        Ok(())
    }
}
