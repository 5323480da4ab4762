//! A mixture of attention heads over the rows of a batch: what it gets of states, experts and buffers. It
//! must not know how heads are computed.

use std::ops::Range;

use super::batch::{Batch, Ended};
use super::branch::PassContext;
use super::executor::Executor;
use super::lookahead::Ahead;
use super::observe::Observer;
use crate::error::Result;
use crate::layers::ffn::moe::MoeInput;
use crate::layers::mixer::heads::HeadExperts;
use crate::weights::{Branch, OpWeights};

impl PassContext<'_> {
    /// `s.branch = heads(s.normed)` for all rows; each run has its own state.
    pub(super) fn head_experts(
        self,
        branch: &Branch,
        (heads, state): (&HeadExperts, usize),
        rows: Range<usize>,
        batch: &mut Batch<'_, '_>,
        s: &mut Executor,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let (compute, d) = (self.compute, self.d_model);
        let (x, normed) = (&s.x[..rows.end * d * self.streams], &s.normed[..rows.end * d]);
        let (scratch, products) = (&mut s.attention, &mut s.products);
        heads.keys_and_values(compute, &s.angles, normed, scratch, products);
        {
            let (live, token) = (|row| batch.is_live(row), |row| batch.token_id(row));
            let (packed, grouped) = (&mut products.packed, &mut products.grouped);
            heads.router.route(compute, normed, (live, token), &mut s.moe.route, packed, grouped);
            let next = self.next_bank(branch, batch, rows.len());
            let known = (&s.moe.route.routing, &token as &dyn Fn(usize) -> u32, x);
            let mut ahead = Ahead::new(compute, self.store, next, known, &mut s.ahead);
            let stop = || batch.all_cancelled();
            let input = MoeInput { store: self.store, phase: batch.phase(), stop: &stop, x: normed };
            let mut prefetch = || ahead.prefetch();
            heads.queries(compute, &input, &s.angles, scratch, &mut s.moe, products, &mut prefetch)?;
        }
        let mut next = rows.start;
        while next < rows.end {
            let part = batch.runs_of(next..rows.end).next().expect("every row belongs to a run");
            let run = &mut batch.runs()[part.run];
            match run.ended {
                Ended::Cancelled => heads.skip(part.rows.clone(), scratch),
                _ => {
                    let state = run.states.state_mut(state);
                    heads.mix(compute, state, part.position, part.rows.clone(), scratch);
                }
            }
            next = part.rows.end;
        }
        let stop = || batch.all_cancelled();
        let input = MoeInput { store: self.store, phase: batch.phase(), stop: &stop, x: normed };
        let out = &mut s.branch[..rows.end * d];
        heads.outputs(compute, &input, scratch, &mut s.moe, products, out)?;
        if let Some(inputs) = observer.inputs() {
            inputs.ffn(compute.pool, branch.key, normed, Some(&s.moe.visits));
        }
        if let OpWeights::HeadExperts { key, .. } = &branch.op {
            observer.routed(*key, &s.moe.route.routing);
        }
        Ok(())
    }
}
