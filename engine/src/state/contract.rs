//! What every kind of state that a layer keeps between passes promises. A pass begins by saying how many
//! tokens it adds, works on the state, and ends with a commit or a rollback: after a rollback the state is
//! what it was. It must not know what a state holds, nor which layer it belongs to.

use std::any::Any;
use std::io::{self, Read, Write};

/// The most tokens of one sequence that a pass adds.
pub const MOST_NEW_TOKENS: usize = 2048;

/// The state of one branch of a layer for one sequence: keys and values, a window of them, a recurrence.
///
/// `len` is the number of committed tokens. Only committed tokens count for everything but the pass itself.
pub trait BranchState {
    /// Committed tokens.
    fn len(&self) -> usize;

    /// Whether no token is committed.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A pass that adds `tokens` tokens begins.
    fn begin(&mut self, tokens: usize);

    /// The pass has ended well: its tokens count.
    fn commit(&mut self);

    /// The pass was given up: the state is as it was before [`Self::begin`].
    fn rollback(&mut self);

    /// Whether [`Self::truncate`] to `len` tokens would succeed.
    fn can_truncate(&self, len: usize) -> bool;

    /// Forgets all tokens from `len` on.
    ///
    /// # Errors
    /// [`NeedsReplay`] when the state at `len` tokens is gone; nothing changes then.
    fn truncate(&mut self, len: usize) -> Result<(), NeedsReplay>;

    /// Forgets everything.
    fn clear(&mut self);

    /// What [`Self::restore`] needs to come back to this moment. States that only append keep a mark and copy
    /// nothing.
    fn snapshot(&self) -> Snapshot;

    /// Whether [`Self::restore`] from this snapshot would succeed.
    fn can_restore(&self, snapshot: &Snapshot) -> bool;

    /// Comes back to the moment of a snapshot of this state.
    ///
    /// # Errors
    /// [`NeedsReplay`] when what the snapshot refers to has been overwritten since; nothing changes then.
    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), NeedsReplay>;

    /// Writes what the next tokens need of the committed ones. Two states that answer alike write the same
    /// bytes, whatever was rolled back, truncated or restored before.
    ///
    /// # Errors
    /// What writing says.
    fn save(&self, out: &mut dyn Write) -> io::Result<()>;

    /// Becomes the state of `len` tokens that [`Self::save`] wrote.
    ///
    /// # Errors
    /// What reading says, [`io::ErrorKind::InvalidData`] for what no such state writes. The state is empty
    /// then.
    fn load(&mut self, len: usize, from: &mut dyn Read) -> io::Result<()>;
}

/// The state at the wanted length is gone: the tokens must be read again, from a snapshot or from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the state at this length is gone; the tokens must be read again")]
pub struct NeedsReplay;

/// A moment of a [`BranchState`]. Only the state that made it knows what is in it.
pub struct Snapshot {
    /// Committed tokens at that moment.
    pub len: usize,
    /// Bytes of memory that it holds beyond this struct.
    pub bytes: u64,
    /// What the state needs besides.
    pub data: Box<dyn Any + Send>,
}

impl Snapshot {
    /// A mark: the state itself still holds everything as long as its `generation` is this one.
    pub fn mark(len: usize, generation: u64) -> Self {
        Self { len, bytes: 0, data: Box::new(generation) }
    }

    /// The generation of a mark.
    pub fn generation(&self) -> Option<u64> {
        self.data.downcast_ref().copied()
    }
}
