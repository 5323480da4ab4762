//! What one pass computes: runs of tokens of several sequences, each with its phase, its wanted rows and its
//! own request to stop. It must not know how layers compute.

use std::ops::Range;

pub use crate::experts::stats::Phase;
use crate::layers::rope::Rope;
use crate::runtime::cancel::Cancel;
use crate::state::SequenceState;

/// Which tokens of a run need logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// None: more of the prompt follows.
    None,
    /// The last one.
    Last,
    /// All of them.
    All,
}

/// Tokens of one sequence that follow its state.
pub struct Run<'a> {
    /// The tokens, at least one.
    pub tokens: &'a [u32],
    /// Whether they are part of a prompt or the sequence's next token.
    pub phase: Phase,
    /// Which of them need logits.
    pub wanted: Wanted,
    /// The sequence's state.
    pub states: &'a mut SequenceState,
    /// The sequence's ropes, in the order of the model's.
    pub ropes: &'a [Rope],
    /// Where the last token's logits go, `[vocab]`, with [`Wanted::Last`].
    pub logits: &'a mut [f32],
    /// The sequence's request to stop.
    pub cancel: &'a Cancel,
    /// How the run ended.
    pub ended: Ended,
}

/// How a run of a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ended {
    /// It has not been computed, or the pass has failed.
    #[default]
    NotYet,
    /// Its tokens are in its state.
    Committed,
    /// It was cancelled while others went on; its state is as it was.
    Cancelled,
}

/// Runs that are computed in one pass.
pub struct Batch<'b, 'a> {
    runs: &'b mut [Run<'a>],
}

/// The rows of a batch that belong to a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunRows {
    /// The run's number.
    pub run: usize,
    /// Its rows, of those asked about.
    pub rows: Range<usize>,
    /// The position in its sequence of the first of them.
    pub position: usize,
}

impl<'b, 'a> Batch<'b, 'a> {
    /// A batch of these runs.
    ///
    /// # Panics
    /// If one of them has no token.
    pub fn new(runs: &'b mut [Run<'a>]) -> Self {
        assert!(runs.iter().all(|run| !run.tokens.is_empty()), "every run has a token");
        Self { runs }
    }

    /// Tokens of all runs.
    pub fn tokens(&self) -> usize {
        self.runs.iter().map(|run| run.tokens.len()).sum()
    }

    /// The tokens of all runs, one run after the other.
    pub(super) fn token_ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.runs.iter().flat_map(|run| run.tokens).copied()
    }

    /// The phase of the pass: it decodes if all runs do.
    pub fn phase(&self) -> Phase {
        let decodes = self.runs.iter().all(|run| run.phase == Phase::Decode);
        if decodes { Phase::Decode } else { Phase::Prefill }
    }

    pub(super) fn runs(&mut self) -> &mut [Run<'a>] {
        self.runs
    }

    /// The parts of `rows` by run.
    pub(super) fn runs_of(&self, rows: Range<usize>) -> impl Iterator<Item = RunRows> + '_ {
        let mut first = 0;
        self.runs.iter().enumerate().filter_map(move |(run, of)| {
            let all = first..first + of.tokens.len();
            first = all.end;
            let part = all.start.max(rows.start)..all.end.min(rows.end);
            let position = of.states.len() + part.start.saturating_sub(all.start);
            (part.start < part.end).then_some(RunRows { run, rows: part, position })
        })
    }

    /// The run that a row belongs to.
    fn run_of(&self, row: usize) -> &Run<'a> {
        let mut first = 0;
        let run = self.runs.iter().find(|run| {
            first += run.tokens.len();
            row < first
        });
        run.expect("every row of a batch belongs to a run")
    }

    /// The token of a row.
    pub(super) fn token_id(&self, row: usize) -> u32 {
        self.token_ids().nth(row).expect("every row of a batch has a token")
    }

    /// Whether a row still counts: the run that it belongs to was not cancelled.
    pub(super) fn is_live(&self, row: usize) -> bool {
        self.run_of(row).ended != Ended::Cancelled
    }

    /// Whether no run counts any more.
    pub(super) fn all_cancelled(&self) -> bool {
        self.runs.iter().all(|run| run.cancel.is_cancelled())
    }

    /// Notes which runs have been cancelled. Their rows are computed no further than is cheaper than leaving
    /// them out.
    pub(super) fn note_cancelled(&mut self) {
        for run in self.runs.iter_mut().filter(|run| run.cancel.is_cancelled()) {
            run.ended = Ended::Cancelled;
        }
    }

    /// All states begin.
    pub(super) fn begin(&mut self) {
        for run in self.runs.iter_mut() {
            run.ended = Ended::NotYet;
            run.states.begin(run.tokens.len());
        }
    }

    /// The pass has ended well: the states of runs that were not cancelled move on.
    pub(super) fn commit(&mut self) {
        for run in self.runs.iter_mut() {
            if run.ended == Ended::Cancelled {
                run.states.rollback();
            } else {
                run.states.commit();
                run.ended = Ended::Committed;
            }
        }
    }

    /// The pass has failed: no state moves on.
    pub(super) fn rollback(&mut self) {
        self.runs.iter_mut().for_each(|run| run.states.rollback());
    }
}
