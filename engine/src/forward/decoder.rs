//! The pass over all layers, and the head. It must not know what an operation computes.

use std::ops::Range;
use std::time::Instant;

use super::batch::{Batch, Ended, Wanted};
use super::branch::PassContext;
use super::executor::Executor;
use super::observe::Observer;
use crate::error::{EngineError, Result};
use crate::experts::store::ExpertStore;
use crate::layers::linear::{Compute, Packed};
use crate::layers::sinusoid;
use crate::layers::streams::StreamWeights;
use crate::weights::Weights;
use moelten_loader::spec::{Join, LayerSpec, ModelSpec, StreamsSpec};
use moelten_quant::ActivationKind;

/// Rows that go through the head at once: enough to share its weights, few enough for a small buffer.
pub const HEAD_ROWS: usize = 16;

/// A model as the pass sees it.
#[derive(Clone, Copy)]
pub struct Decoder<'a> {
    /// Kernels, threads, tensors.
    pub compute: Compute<'a>,
    /// What the model is.
    pub spec: &'a ModelSpec,
    /// Its weights outside expert banks.
    pub weights: &'a Weights,
    /// Its experts.
    pub store: &'a ExpertStore,
}

impl Decoder<'_> {
    /// Computes a batch. The logits of runs that want those of their last token are left in the runs; for
    /// those of all tokens see [`Self::head`]. Either all runs that were not cancelled move on, or, on an
    /// error, none does.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] between layers once all runs are cancelled, or failed reads.
    pub fn forward(
        &self,
        s: &mut Executor,
        batch: &mut Batch<'_, '_>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        assert!(batch.tokens() <= s.chunk, "a batch of {} tokens", batch.tokens());
        batch.begin();
        match self.decode(s, batch, observer) {
            Ok(()) => batch.commit(),
            Err(error) => {
                batch.rollback();
                return Err(error);
            }
        }
        self.last_logits(s, batch);
        Ok(())
    }

    /// Embedding, layers and final norm.
    fn decode(&self, s: &mut Executor, batch: &mut Batch<'_, '_>, observer: &mut dyn Observer) -> Result<()> {
        let layers = self.spec.decoder_start()..self.spec.layers.len();
        self.layers(layers, s, batch, observer)?;
        self.final_norms(s, batch, observer);
        Ok(())
    }

    /// Embedding and some layers, which leave the residual stream in `s.x`.
    pub(super) fn layers(
        &self,
        layers: Range<usize>,
        s: &mut Executor,
        batch: &mut Batch<'_, '_>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        self.embed(s, batch)?;
        self.through(layers, s, batch, observer)
    }

    /// Some layers, from the residual stream in `s.x` to that in `s.x`.
    pub(super) fn through(
        &self,
        layers: Range<usize>,
        s: &mut Executor,
        batch: &mut Batch<'_, '_>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        s.angles.iter_mut().for_each(|angles| angles.clear());
        for run in batch.runs() {
            for (rope, angles) in run.ropes.iter().zip(&mut s.angles) {
                rope.angles(run.states.len(), run.tokens.len(), angles);
            }
        }
        let Self { compute, weights, store, spec } = *self;
        let streams = spec.streams.map_or(1, |streams| streams.count);
        let pass = PassContext { compute, weights, store, d_model: spec.d_model, streams };
        for (index, layer) in weights.layers.iter().enumerate().take(layers.end).skip(layers.start) {
            if batch.all_cancelled() {
                return Err(EngineError::Cancelled);
            }
            batch.note_cancelled();
            observer.layer(index);
            if spec.layers.get(index).is_some_and(LayerSpec::reads_outset) {
                let rows = batch.tokens() * spec.d_model;
                s.outset[..rows].copy_from_slice(&s.x[..rows]);
                pass.prefetch_known(layer, batch, s);
            }
            for (number, branch) in layer.branches.iter().enumerate() {
                let next = layer.branches.get(number + 1).map(|next| next.join);
                let parallel = branch.join == Join::Parallel || next == Some(Join::Parallel);
                let rows = batch.tokens() * spec.d_model;
                if parallel && branch.join == Join::InOrder {
                    s.joined[..rows].fill(0.0);
                }
                pass.branch(branch, parallel, batch, s, observer)?;
                if parallel && next != Some(Join::Parallel) {
                    let sum = match &layer.sum_norm {
                        None => &s.joined[..rows],
                        Some(norm) => {
                            norm.apply(compute, &s.joined[..rows], &mut s.branch[..rows]);
                            &s.branch[..rows]
                        }
                    };
                    compute.add(1.0, sum, &mut s.x[..rows], spec.d_model);
                }
            }
            if let Some(scale) = layer.scale {
                let rows = batch.tokens() * spec.d_model;
                let kernels = compute.kernels;
                compute.pool.rows(&mut s.x[..rows], spec.d_model, |_, x| kernels.scale(scale, x));
            }
        }
        Ok(())
    }

    /// Final norms of the wanted rows, one run after the other, into `s.normed`.
    fn final_norms(&self, s: &mut Executor, batch: &mut Batch<'_, '_>, observer: &mut dyn Observer) {
        let d = self.spec.d_model;
        let (mut first, mut rows) = (0, 0);
        for run in batch.runs().iter() {
            let end = first + run.tokens.len();
            let wanted = match run.wanted {
                Wanted::None => end..end,
                Wanted::Last => end - 1..end,
                Wanted::All => first..end,
            };
            if !wanted.is_empty() {
                let into = rows * d..(rows + wanted.len()) * d;
                let x = match &self.weights.streams {
                    None => &s.x[wanted.start * d..wanted.end * d],
                    Some(streams) => {
                        let width = streams.width();
                        let x = &s.x[wanted.start * width..wanted.end * width];
                        streams.read(self.compute, x, &mut s.streams);
                        &s.streams.read[..wanted.len() * d]
                    }
                };
                match &self.weights.final_norm {
                    Some(norm) => norm.apply(self.compute, x, &mut s.normed[into]),
                    None => s.normed[into].copy_from_slice(x),
                }
            }
            (first, rows) = (end, rows + wanted.len());
        }
        if let Some(inputs) = observer.inputs().filter(|_| rows > 0) {
            inputs.head(self.compute.pool, &s.normed[..rows * d]);
        }
    }

    /// Logits of the last tokens of the runs that want them.
    fn last_logits(&self, s: &mut Executor, batch: &mut Batch<'_, '_>) {
        let (vocab, mut row) = (self.spec.vocab, 0);
        // Up to `HEAD_ROWS` neighbours share one reading of the head's weights.
        let runs = batch.runs();
        let mut next = 0;
        while next < runs.len() {
            let mut rows = row..row;
            let first = next;
            while next < runs.len() && runs[next].wanted == Wanted::Last && rows.len() < HEAD_ROWS {
                rows.end += 1;
                next += 1;
            }
            if rows.is_empty() {
                row += if runs[next].wanted == Wanted::All { runs[next].tokens.len() } else { 0 };
                next += 1;
                continue;
            }
            row = rows.end;
            self.head(s, rows);
            for (run, logits) in runs[first..next].iter_mut().zip(s.logits.chunks_exact(vocab)) {
                if run.ended != Ended::Cancelled {
                    run.logits.copy_from_slice(logits);
                }
            }
        }
    }

    /// Logits of some of the wanted rows of the last batch, at most [`HEAD_ROWS`]: in `s.logits`, `[rows,
    /// vocab]`.
    pub fn head(&self, s: &mut Executor, rows: Range<usize>) {
        let Self { compute, spec, weights, .. } = *self;
        let (d, count) = (spec.d_model, rows.len());
        s.logits.resize(count * spec.vocab, 0.0);
        s.head_grouped.resize(if count > 1 { s.logits.len() } else { 0 }, 0.0);
        let x = &s.normed[rows.start * d..rows.end * d];
        let packed = &mut s.products.packed;
        compute.pack(x, d, [weights.head.weight.format], packed);
        match count {
            1 => self.head_of_one(packed, &mut s.logits),
            _ => compute.linear(&weights.head, packed, &mut s.logits, &mut s.head_grouped),
        }
        compute.kernels.scale(spec.head.scale, &mut s.logits);
        if let Some(cap) = spec.head.softcap {
            s.logits.iter_mut().for_each(|logit| *logit = cap * (*logit / cap).tanh());
        }
    }

    /// Products of the head with one token: the first rows by a device, if it has them, and the others by the
    /// CPU meanwhile.
    fn head_of_one(&self, packed: &Packed, logits: &mut [f32]) {
        let Self { compute, store, .. } = *self;
        let head = &self.weights.head;
        let w = compute.tensors.view(&head.weight);
        let x = packed.for_matrix(&w);
        let (begun, verify) = match store.has_device() && x.kind() == ActivationKind::Q8 {
            true => store.begin_head(w.rows(), x.lines()),
            false => (0, false),
        };
        let (first, rest) = logits.split_at_mut(if verify { 0 } else { begun });
        let since = Instant::now();
        if !rest.is_empty() {
            compute.products(&[(w.slice_rows(first.len()..w.rows()), x)], rest);
            store.head_took(since.elapsed(), rest.len());
        }
        if verify {
            store.check_head(&rest[..begun]);
        } else if begun > 0 && !store.finish_head(first) {
            compute.products(&[(w.slice_rows(0..begun), x)], first);
        }
        head.bias.iter().for_each(|bias| compute.kernels.axpy(1.0, bias, logits));
    }

    /// Rows of the embedding, scaled, into `s.x`.
    pub(super) fn embed(&self, s: &mut Executor, batch: &Batch<'_, '_>) -> Result<()> {
        let Self { compute, weights, .. } = self;
        let rows = batch.tokens() * self.spec.d_model;
        let x = if weights.streams.is_some() { &mut s.branch[..rows] } else { &mut s.x[..rows] };
        let from = (compute.tensors, compute.pool);
        weights.embedding.rows(from, batch.token_ids(), &|| batch.all_cancelled(), x)?;
        compute.kernels.scale(self.spec.embed_scale, x);
        if let Some(spec) = self.spec.positions {
            let d = self.spec.d_model;
            for part in batch.runs_of(0..batch.tokens()) {
                let rows = x[part.rows.start * d..part.rows.end * d].chunks_exact_mut(d);
                rows.zip(part.position..).for_each(|(x, position)| sinusoid::add(spec, position, x));
            }
        }
        if let Some(inputs) = &weights.layer_inputs {
            let out = &mut s.layer_input.all[..batch.tokens() * inputs.projection.rows];
            let stop = || batch.all_cancelled();
            inputs.fill(*compute, batch.token_ids(), &stop, x, &mut s.products, out)?;
        }
        if let Some(StreamsSpec { count, .. }) = self.spec.streams {
            let (embedded, x) = (&s.branch[..rows], &mut s.x[..rows * count]);
            StreamWeights::spread(*compute, count, embedded, self.spec.d_model, x);
        }
        Ok(())
    }
}
