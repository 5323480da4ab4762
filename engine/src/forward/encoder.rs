//! The pass over an encoder: a whole text at once, in which every token sees every other, and the keys and
//! values that the decoder's layers make of it. It must not know what an operation computes.

use super::batch::Batch;
use super::decoder::Decoder;
use super::executor::Executor;
use super::observe::Observer;
use crate::error::{EngineError, Result};
use crate::state::SequenceState;
use crate::weights::OpWeights;

impl Decoder<'_> {
    /// Reads the text of a batch of one run, whose states are those that encoders work in, for the decoder
    /// with the states `decoder`. On an error `decoder` is as it was: it still has the text before.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] between layers, or failed reads.
    pub fn encode(
        &self,
        s: &mut Executor,
        batch: &mut Batch<'_, '_>,
        decoder: &mut SequenceState,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let tokens = batch.tokens();
        assert!(tokens <= s.chunk, "a text of {tokens} tokens");
        for run in batch.runs() {
            run.states.state_mut(0).begin_text(tokens);
        }
        batch.begin();
        let read = self.layers(0..self.spec.decoder_start(), s, batch, observer);
        // What was computed for a run that was cancelled is not the text.
        let read =
            read.and_then(|()| if batch.all_cancelled() { Err(EngineError::Cancelled) } else { Ok(()) });
        if let Err(error) = read {
            batch.rollback();
            return Err(error);
        }
        batch.commit();
        let Self { compute, weights, spec, .. } = *self;
        let text = 0..tokens * spec.d_model;
        if let Some(norm) = &weights.encoder_norm {
            norm.apply(compute, &s.x[text.clone()], &mut s.normed[text.clone()]);
        }
        for branch in weights.layers.iter().flat_map(|layer| &layer.branches) {
            if let OpWeights::Cross { cross, state } = &branch.op {
                let state = decoder.state_mut(*state);
                cross.read(compute, &s.normed[text.clone()], state, &mut s.attention, &mut s.products);
            }
        }
        Ok(())
    }
}
