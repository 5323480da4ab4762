//! Keys and values of all tokens so far: the state of attention without a window. Positions are only ever
//! appended, so a rollback has nothing to undo and a snapshot is a mark. It must not know how attention reads
//! them.

pub mod format;
pub mod layer;
mod write;

use std::io::{self, Read, Write};

use moelten_loader::spec::AttentionSpec;
use moelten_quant::Kernels;

use super::contract::{BranchState, NeedsReplay, Snapshot};
use super::marks::Marks;
use crate::runtime::pool::Pool;
use format::KvFormat;
use layer::KvLayer;

/// Keys and values as attention reads them: position `p` of the sequence is position `p - base` of the layer.
#[derive(Clone, Copy)]
pub struct KvView<'a> {
    /// The numbers.
    pub layer: &'a KvLayer,
    /// The first position that is still there, a multiple of [`moelten_quant::SPAN`].
    pub base: usize,
    /// `Some(n)`: every token sees the first `n` positions, whatever its own.
    pub whole: Option<usize>,
}

/// Keys and values of the tokens so far, of one layer.
pub struct KvState {
    layer: KvLayer,
    len: usize,
    /// Tokens that the present pass adds.
    pending: usize,
    capacity: usize,
    marks: Marks,
}

impl KvState {
    /// An empty state for `capacity` tokens, whose huge pages are made `delay` tokens late.
    ///
    /// # Errors
    /// When the system has no address space left.
    pub fn new(spec: &AttentionSpec, capacity: usize, format: KvFormat, delay: usize) -> io::Result<Self> {
        let layer = KvLayer::new(spec, capacity, format, delay)?;
        Ok(Self { layer, len: 0, pending: 0, capacity, marks: Marks::default() })
    }

    /// Writes keys and values (`[tokens, kv_heads, head_dim]` each) of tokens of the present pass, from
    /// position `first` on.
    pub fn write(&mut self, pool: &Pool, kernels: &Kernels, first: usize, keys: &[f32], values: &[f32]) {
        self.layer.write(pool, kernels, first, keys, values);
    }

    /// What attention reads.
    pub fn view(&self) -> KvView<'_> {
        KvView { layer: &self.layer, base: 0, whole: None }
    }
}

impl BranchState for KvState {
    fn len(&self) -> usize {
        self.len
    }

    fn begin(&mut self, tokens: usize) {
        assert!(self.len + tokens <= self.capacity, "the sequence checks its context before a pass");
        self.pending = tokens;
    }

    fn commit(&mut self) {
        self.len += std::mem::take(&mut self.pending);
    }

    fn rollback(&mut self) {
        self.pending = 0;
    }

    fn can_truncate(&self, _: usize) -> bool {
        true
    }

    fn truncate(&mut self, len: usize) -> Result<(), NeedsReplay> {
        if len < self.len {
            self.len = len;
            self.marks.cut(len);
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.len = 0;
        self.marks.cut(0);
    }

    fn snapshot(&self) -> Snapshot {
        self.marks.mark(self.len)
    }

    fn can_restore(&self, snapshot: &Snapshot) -> bool {
        self.marks.length(snapshot).is_ok()
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), NeedsReplay> {
        self.truncate(self.marks.length(snapshot)?)
    }

    fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        self.layer.save(0..self.len, out)
    }

    fn load(&mut self, len: usize, from: &mut dyn Read) -> io::Result<()> {
        self.clear();
        if len > self.capacity {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.layer.load(0..len, from)?;
        self.len = len;
        Ok(())
    }
}
