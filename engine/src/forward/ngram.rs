//! Numbers of runs of tokens over the rows of a batch: what they get of states and buffers. It must not know
//! how they are made.

use super::batch::{Batch, Ended};
use super::branch::PassContext;
use super::executor::Executor;
use crate::error::Result;
use crate::layers::ngram::Ngram;
use crate::layers::streams::STREAM_TOKENS;
use crate::state::LayerState;

impl PassContext<'_> {
    /// Adds the numbers of all rows to their residual streams; each run has its own state.
    pub(super) fn ngram(
        self,
        (ngram, state): (&Ngram, usize),
        batch: &mut Batch<'_, '_>,
        s: &mut Executor,
    ) -> Result<()> {
        let (compute, width) = (self.compute, self.d_model * self.streams);
        let (rows, runs) = (batch.tokens(), ngram.spec.most_tokens - 1);
        for first in (0..rows).step_by(STREAM_TOKENS) {
            let piece = first..rows.min(first + STREAM_TOKENS);
            s.ngram.rows.clear();
            let mut next = piece.start;
            while next < piece.end {
                let part = batch.runs_of(next..piece.end).next().expect("every row belongs to a run");
                let run = &mut batch.runs()[part.run];
                let tokens = &run.tokens[part.position - run.states.len()..][..part.rows.len()];
                if run.ended == Ended::Cancelled {
                    let heads = tokens.len() * ngram.spec.all_heads();
                    s.ngram.rows.extend(std::iter::repeat_n(0, heads));
                } else {
                    let before = &mut numbers(run.states.state_mut(state))[..runs];
                    ngram.rows_of(before, tokens, &mut s.ngram.rows);
                }
                next = part.rows.end;
            }
            ngram.project(compute, &|| batch.all_cancelled(), &mut s.ngram, &mut s.products)?;
            next = piece.start;
            while next < piece.end {
                let part = batch.runs_of(next..piece.end).next().expect("every row belongs to a run");
                let run = &mut batch.runs()[part.run];
                if run.ended != Ended::Cancelled {
                    let before = &mut numbers(run.states.state_mut(state))[runs..];
                    let inside = part.rows.start - first..part.rows.end - first;
                    let x = &mut s.x[part.rows.start * width..part.rows.end * width];
                    ngram.join(compute, before, inside, &mut s.ngram, x);
                }
                next = part.rows.end;
            }
        }
        Ok(())
    }
}

/// The numbers of a state, as a pass changes them.
fn numbers(state: &mut LayerState) -> &mut [f32] {
    let LayerState::Recurrent(state) = state else { unreachable!("the model gives it this state") };
    let (from, to) = state.step();
    if let Some(from) = from {
        to.copy_from_slice(from);
    }
    to
}
