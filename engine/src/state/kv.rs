//! Keys and values of all tokens so far: the state of attention without a window. Positions are only ever
//! appended, so a rollback has nothing to undo and a snapshot is a mark. It must not know how attention reads
//! them.

pub mod format;
pub mod layer;
mod write;

use std::io::{self, Read, Write};

use moelten_loader::spec::AttentionSpec;
use moelten_quant::Kernels;

use super::appended::{Appended, Extent};
use super::contract::BranchState;
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
    capacity: usize,
    extent: Extent,
}

impl KvState {
    /// An empty state for `capacity` tokens, whose huge pages are made `delay` tokens late.
    ///
    /// # Errors
    /// When the system has no address space left.
    pub fn new(spec: &AttentionSpec, capacity: usize, format: KvFormat, delay: usize) -> io::Result<Self> {
        let layer = KvLayer::new(spec, capacity, format, delay)?;
        Ok(Self { layer, capacity, extent: Extent::default() })
    }

    /// Writes keys and values (`[tokens, kv_heads, head_dim]` each) of tokens of the present pass, from
    /// position `first` on.
    pub fn write(&mut self, pool: &Pool, kernels: &Kernels, first: usize, keys: &[f32], values: &[f32]) {
        self.layer.write(pool, kernels, first, keys, values);
    }

    /// Becomes what `other` is: the first `kept` tokens, which it has, are the same.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for more tokens than there is room for.
    pub fn follow(&mut self, other: &Self, kept: usize) -> io::Result<()> {
        let len = other.len();
        if len > self.capacity {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = Vec::new();
        other.layer.save(kept..len, &mut bytes)?;
        self.layer.load(kept..len, &mut &bytes[..])?;
        self.extent.grow_to(len);
        Ok(())
    }

    /// What attention reads.
    pub fn view(&self) -> KvView<'_> {
        KvView { layer: &self.layer, base: 0, whole: None }
    }
}

impl Appended for KvState {
    fn extent(&self) -> &Extent {
        &self.extent
    }

    fn extent_mut(&mut self) -> &mut Extent {
        &mut self.extent
    }

    fn room(&self) -> Option<usize> {
        Some(self.capacity)
    }

    fn save_first(&self, len: usize, out: &mut dyn Write) -> io::Result<()> {
        self.layer.save(0..len, out)
    }

    fn load_first(&mut self, len: usize, from: &mut dyn Read) -> io::Result<()> {
        self.layer.load(0..len, from)
    }
}
