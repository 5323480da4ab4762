//! The frame of states that only append: committed tokens, those of the present pass, and marks as snapshots.
//! A rollback has nothing to undo. It must not know what a state stores.

use std::io::{self, Read, Write};

use super::contract::{BranchState, NeedsReplay, Snapshot};
use super::marks::Marks;

/// How many tokens a state has, and which marks hold.
#[derive(Debug, Default)]
pub struct Extent {
    committed: usize,
    /// Tokens that the present pass adds.
    pending: usize,
    marks: Marks,
}

impl Extent {
    /// Positions up to `len` have been written.
    pub fn grow_to(&mut self, len: usize) {
        self.committed = len;
    }
}

/// A state that only appends: what is before the committed tokens is never changed.
pub trait Appended {
    /// How many tokens it has, and which marks hold.
    fn extent(&self) -> &Extent;

    /// The same, to be changed.
    fn extent_mut(&mut self) -> &mut Extent;

    /// Tokens that it has room for; `None` if they take no room.
    fn room(&self) -> Option<usize>;

    /// Writes what the next tokens need of the first `len`.
    ///
    /// # Errors
    /// What writing says.
    fn save_first(&self, len: usize, out: &mut dyn Write) -> io::Result<()>;

    /// Takes over what [`Self::save_first`] wrote of `len` tokens, which there is room for.
    ///
    /// # Errors
    /// What reading says, [`io::ErrorKind::InvalidData`] for what no such state writes.
    fn load_first(&mut self, len: usize, from: &mut dyn Read) -> io::Result<()>;
}

impl<T: Appended> BranchState for T {
    fn len(&self) -> usize {
        self.extent().committed
    }

    fn begin(&mut self, tokens: usize) {
        let fits = self.room().is_none_or(|room| self.len() + tokens <= room);
        assert!(fits, "the sequence checks its context before a pass");
        self.extent_mut().pending = tokens;
    }

    fn commit(&mut self) {
        let tokens = self.extent_mut();
        tokens.committed += std::mem::take(&mut tokens.pending);
    }

    fn rollback(&mut self) {
        self.extent_mut().pending = 0;
    }

    fn can_truncate(&self, _: usize) -> bool {
        true
    }

    fn truncate(&mut self, len: usize) -> Result<(), NeedsReplay> {
        let tokens = self.extent_mut();
        if len < tokens.committed {
            tokens.committed = len;
            tokens.marks.cut(len);
        }
        Ok(())
    }

    fn clear(&mut self) {
        let tokens = self.extent_mut();
        tokens.committed = 0;
        tokens.marks.cut(0);
    }

    fn snapshot(&self) -> Snapshot {
        self.extent().marks.mark(self.len())
    }

    fn can_restore(&self, snapshot: &Snapshot) -> bool {
        self.extent().marks.length(snapshot).is_ok()
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), NeedsReplay> {
        let len = self.extent().marks.length(snapshot)?;
        self.truncate(len)
    }

    fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        self.save_first(self.len(), out)
    }

    fn load(&mut self, len: usize, from: &mut dyn Read) -> io::Result<()> {
        self.clear();
        if self.room().is_some_and(|room| len > room) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.load_first(len, from)?;
        self.extent_mut().grow_to(len);
        Ok(())
    }
}
