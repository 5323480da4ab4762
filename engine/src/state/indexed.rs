//! Keys and values of all tokens with a second, smaller key of each, by which a token chooses the ones that
//! it attends to (DeepSeek-V3.2). Positions are only ever appended. It must not know how a choice is made.

use std::io::{self, Read, Write};

use moelten_loader::io::Memory;
use moelten_loader::spec::{AttentionSpec, IndexerSpec};

use super::appended::{Appended, Extent};
use super::kv::KvState;
use super::kv::format::KvFormat;

/// Keys and values of the tokens so far with the keys of their choice, of one layer.
pub struct IndexedState {
    /// What attention reads.
    pub kv: KvState,
    /// `[capacity, width]`.
    keys: Memory,
    width: usize,
}

impl IndexedState {
    /// An empty state for `capacity` tokens, whose huge pages are made `delay` tokens late.
    ///
    /// # Errors
    /// When the system has no address space left.
    pub fn new(
        (spec, indexer): (&AttentionSpec, &IndexerSpec),
        capacity: usize,
        format: KvFormat,
        delay: usize,
    ) -> io::Result<Self> {
        let numbers = indexer.head_dim.checked_mul(capacity).and_then(|n| n.checked_mul(size_of::<f32>()));
        let keys = Memory::growing(numbers.ok_or(io::ErrorKind::OutOfMemory)?)?;
        let kv = KvState::new(spec, capacity, format, delay)?;
        Ok(Self { kv, keys, width: indexer.head_dim })
    }

    /// Bytes of the keys of choices for `capacity` tokens.
    pub fn key_bytes(indexer: &IndexerSpec, capacity: usize) -> u64 {
        (indexer.head_dim as u64).saturating_mul(capacity as u64).saturating_mul(size_of::<f32>() as u64)
    }

    /// Writes keys of choices, `[tokens, width]`, from position `first` on.
    pub fn write_keys(&mut self, first: usize, keys: &[f32]) {
        self.keys.numbers_mut::<f32>()[first * self.width..][..keys.len()].copy_from_slice(keys);
    }

    /// Keys of the first `len` tokens, `[len, width]`.
    pub fn keys(&self, len: usize) -> &[f32] {
        &self.keys.numbers::<f32>()[..len * self.width]
    }
}

impl Appended for IndexedState {
    fn extent(&self) -> &Extent {
        self.kv.extent()
    }

    fn extent_mut(&mut self) -> &mut Extent {
        self.kv.extent_mut()
    }

    fn room(&self) -> Option<usize> {
        self.kv.room()
    }

    fn save_first(&self, len: usize, out: &mut dyn Write) -> io::Result<()> {
        self.kv.save_first(len, out)?;
        self.keys(len).iter().try_for_each(|number| out.write_all(&number.to_le_bytes()))
    }

    fn load_first(&mut self, len: usize, from: &mut dyn Read) -> io::Result<()> {
        self.kv.load_first(len, from)?;
        let mut bytes = [0; 4];
        for number in &mut self.keys.numbers_mut::<f32>()[..len * self.width] {
            from.read_exact(&mut bytes)?;
            *number = f32::from_le_bytes(bytes);
        }
        Ok(())
    }
}
