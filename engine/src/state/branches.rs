//! The states of all branches of a sequence that keep something between passes. They move together: a pass
//! commits all of them or none, and a length that one of them cannot go back to is one that none goes back
//! to. It must not know what a state holds.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use super::contract::{BranchState, Snapshot};

/// Moments that a sequence can come back to besides those that its states still hold.
pub const MOST_SNAPSHOTS: usize = 4;

/// The states of a sequence, in the order of its branches.
pub struct BranchStates<S> {
    states: Vec<S>,
    len: usize,
    /// Tokens that the present pass adds.
    pending: usize,
    /// Moments to come back to, the oldest first, each with a snapshot of every state.
    snapshots: VecDeque<(usize, Vec<Snapshot>)>,
}

impl<S: BranchState> BranchStates<S> {
    /// States that are all empty.
    pub fn new(states: Vec<S>) -> Self {
        Self { states, len: 0, pending: 0, snapshots: VecDeque::with_capacity(MOST_SNAPSHOTS) }
    }

    /// Committed tokens.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is committed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The state of a branch, by its number among those that keep one.
    pub fn state_mut(&mut self, state: usize) -> &mut S {
        &mut self.states[state]
    }

    /// A pass that adds `tokens` tokens begins.
    pub fn begin(&mut self, tokens: usize) {
        self.pending = tokens;
        self.states.iter_mut().for_each(|state| state.begin(tokens));
    }

    /// The pass has ended well.
    pub fn commit(&mut self) {
        self.states.iter_mut().for_each(BranchState::commit);
        self.len += std::mem::take(&mut self.pending);
    }

    /// The pass was given up: everything is as it was before [`Self::begin`].
    pub fn rollback(&mut self) {
        self.states.iter_mut().for_each(BranchState::rollback);
        self.pending = 0;
    }

    /// Remembers this moment. The oldest moments are forgotten when there are too many.
    pub fn snapshot(&mut self) {
        if self.snapshots.back().is_some_and(|&(len, _)| len == self.len) {
            return;
        }
        if self.snapshots.len() == MOST_SNAPSHOTS {
            self.snapshots.pop_front();
        }
        let snapshots = self.states.iter().map(BranchState::snapshot).collect();
        self.snapshots.push_back((self.len, snapshots));
    }

    /// Goes back to `len` tokens, or, where a state no longer holds that moment, to the latest moment before
    /// it that is remembered, or to the start. Returns the tokens that are left: those after them must be
    /// read again.
    pub fn go_back(&mut self, len: usize) -> usize {
        if len >= self.len {
            return self.len;
        }
        self.snapshots.retain(|&(at, _)| at <= len);
        if self.states.iter().all(|state| state.can_truncate(len)) {
            self.each(|state, _| state.truncate(len).is_ok());
            self.len = len;
            return len;
        }
        while let Some((at, snapshots)) = self.snapshots.pop_back() {
            let whole = self.states.iter().zip(&snapshots).all(|(state, at)| state.can_restore(at));
            if whole {
                self.each(|state, index| state.restore(&snapshots[index]).is_ok());
                self.snapshots.push_back((at, snapshots));
                self.len = at;
                return at;
            }
        }
        self.states.iter_mut().for_each(BranchState::clear);
        self.len = 0;
        0
    }

    /// Does something to every state that each of them has promised to do.
    fn each(&mut self, change: impl Fn(&mut S, usize) -> bool) {
        for (index, state) in self.states.iter_mut().enumerate() {
            assert!(change(state, index), "a state keeps what it promised");
        }
    }

    /// Becomes what `other` is, from `kept` tokens on that both share: `copy` makes a state what another one
    /// is.
    ///
    /// # Errors
    /// What `copy` says; all states are empty then.
    pub fn follow(
        &mut self,
        other: &Self,
        kept: usize,
        mut copy: impl FnMut(&mut S, &S, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        self.snapshots.clear();
        let kept = self.go_back(kept).min(kept);
        let mut both = self.states.iter_mut().zip(&other.states);
        let copied = both.try_for_each(|(own, other)| copy(own, other, kept));
        if copied.is_err() {
            self.states.iter_mut().for_each(BranchState::clear);
        }
        self.len = if copied.is_ok() { other.len } else { 0 };
        copied
    }

    /// Writes the states one after the other.
    ///
    /// # Errors
    /// What writing says.
    pub fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        self.states.iter().try_for_each(|state| state.save(out))
    }

    /// Becomes what [`Self::save`] wrote after `len` tokens.
    ///
    /// # Errors
    /// What reading says; all states are empty then.
    pub fn load(&mut self, len: usize, from: &mut dyn Read) -> io::Result<()> {
        self.snapshots.clear();
        let loaded = self.states.iter_mut().try_for_each(|state| state.load(len, from));
        if loaded.is_err() {
            self.states.iter_mut().for_each(BranchState::clear);
        }
        self.len = if loaded.is_ok() { len } else { 0 };
        loaded
    }
}
