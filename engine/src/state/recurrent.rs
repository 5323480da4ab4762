//! The state of a recurrence: numbers that every token changes. A pass writes to a second copy, so that
//! giving it up costs nothing; going back needs a snapshot, which is a copy. It must not know what the
//! numbers mean.

use std::io::{self, Read, Write};

use super::contract::{BranchState, NeedsReplay, Snapshot};

/// Numbers after the tokens so far, and room for those after the present pass.
pub struct RecurrentState {
    now: Vec<f32>,
    next: Vec<f32>,
    len: usize,
    /// Tokens that the present pass adds.
    pending: usize,
    /// Whether the present pass has written to `next`.
    written: bool,
}

/// Copies of a state besides its snapshots.
pub const COPIES: usize = 2;

impl RecurrentState {
    /// An empty state of `numbers` numbers: all are 0.
    ///
    /// # Errors
    /// When no memory is left.
    pub fn new(numbers: usize) -> io::Result<Self> {
        Ok(Self { now: zeros(numbers)?, next: zeros(numbers)?, len: 0, pending: 0, written: false })
    }

    /// What the next tokens of the present pass read, and where they write. They are the same numbers, in
    /// which case the first is `None`, once the pass has written.
    pub fn step(&mut self) -> (Option<&[f32]>, &mut [f32]) {
        let fresh = !std::mem::replace(&mut self.written, true);
        (fresh.then_some(&*self.now), &mut self.next)
    }
}

fn zeros(numbers: usize) -> io::Result<Vec<f32>> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(numbers).map_err(|_| io::ErrorKind::OutOfMemory)?;
    memory.resize(numbers, 0.0);
    Ok(memory)
}

impl BranchState for RecurrentState {
    fn len(&self) -> usize {
        self.len
    }

    fn begin(&mut self, tokens: usize) {
        (self.pending, self.written) = (tokens, false);
    }

    fn commit(&mut self) {
        if std::mem::take(&mut self.written) {
            std::mem::swap(&mut self.now, &mut self.next);
        }
        self.len += std::mem::take(&mut self.pending);
    }

    fn rollback(&mut self) {
        (self.pending, self.written) = (0, false);
    }

    fn can_truncate(&self, len: usize) -> bool {
        len >= self.len || len == 0
    }

    fn truncate(&mut self, len: usize) -> Result<(), NeedsReplay> {
        match len {
            _ if len >= self.len => Ok(()),
            0 => {
                self.clear();
                Ok(())
            }
            _ => Err(NeedsReplay),
        }
    }

    fn clear(&mut self) {
        self.now.fill(0.0);
        (self.len, self.pending, self.written) = (0, 0, false);
    }

    fn snapshot(&self) -> Snapshot {
        let bytes = size_of_val(&*self.now) as u64;
        Snapshot { len: self.len, bytes, data: Box::new(self.now.clone()) }
    }

    fn can_restore(&self, snapshot: &Snapshot) -> bool {
        snapshot.data.downcast_ref::<Vec<f32>>().is_some_and(|now| now.len() == self.now.len())
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), NeedsReplay> {
        let now = snapshot.data.downcast_ref::<Vec<f32>>().ok_or(NeedsReplay)?;
        if now.len() != self.now.len() {
            return Err(NeedsReplay);
        }
        self.now.copy_from_slice(now);
        (self.len, self.pending, self.written) = (snapshot.len, 0, false);
        Ok(())
    }

    fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        self.now.iter().try_for_each(|number| out.write_all(&number.to_le_bytes()))
    }

    fn load(&mut self, len: usize, from: &mut dyn Read) -> io::Result<()> {
        self.clear();
        let mut bytes = [0; 4];
        for index in 0..self.now.len() {
            if let Err(error) = from.read_exact(&mut bytes) {
                self.clear();
                return Err(error);
            }
            self.now[index] = f32::from_le_bytes(bytes);
        }
        self.len = len;
        Ok(())
    }
}
