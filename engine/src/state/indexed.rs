//! Keys and values of all tokens with a second, smaller key of each, by which a token chooses the ones that
//! it attends to (DeepSeek-V3.2), or with a smaller key of each block of tokens as well (Qwen3.8). Positions
//! are only ever appended. It must not know how a choice is made.

use std::io::{self, Read, Write};

use moelten_loader::io::Memory;
use moelten_loader::spec::{AttentionSpec, BlockChoice, IndexerSpec};

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
    /// Keys of blocks, `[capacity / size, width]`, and the tokens of a block.
    blocks: Option<(Memory, usize)>,
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
        Ok(Self { kv, keys, width: indexer.head_dim, blocks: None })
    }

    /// As [`Self::new`], with keys of blocks of tokens.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_blocks(
        (spec, blocks): (&AttentionSpec, &BlockChoice),
        capacity: usize,
        format: KvFormat,
        delay: usize,
    ) -> io::Result<Self> {
        let memory = |count: usize| {
            let numbers = blocks.head_dim.checked_mul(count).and_then(|n| n.checked_mul(size_of::<f32>()));
            Memory::growing(numbers.ok_or(io::ErrorKind::OutOfMemory)?)
        };
        let (keys, of_blocks) = (memory(capacity)?, memory(capacity / blocks.size)?);
        let kv = KvState::new(spec, capacity, format, delay)?;
        Ok(Self { kv, keys, width: blocks.head_dim, blocks: Some((of_blocks, blocks.size)) })
    }

    /// Bytes of the keys of tokens and blocks for `capacity` tokens.
    pub fn block_bytes(blocks: &BlockChoice, capacity: usize) -> u64 {
        let keys = capacity.saturating_add(capacity / blocks.size) as u64;
        keys.saturating_mul(blocks.head_dim as u64).saturating_mul(size_of::<f32>() as u64)
    }

    /// Tokens of a block.
    #[cfg(test)]
    pub fn block_size(&self) -> Option<usize> {
        self.blocks.as_ref().map(|(_, size)| *size)
    }

    /// Writes the key of a block, `[width]`.
    pub fn write_block(&mut self, block: usize, key: &[f32]) {
        let (memory, _) = self.blocks.as_mut().expect("the state has blocks");
        memory.numbers_mut::<f32>()[block * self.width..][..self.width].copy_from_slice(key);
    }

    /// Keys of the first `count` blocks, `[count, width]`.
    pub fn blocks(&self, count: usize) -> &[f32] {
        let (memory, _) = self.blocks.as_ref().expect("the state has blocks");
        &memory.numbers::<f32>()[..count * self.width]
    }

    /// How many blocks are complete with `len` tokens.
    fn complete(&self, len: usize) -> usize {
        self.blocks.as_ref().map_or(0, |(_, size)| len / size)
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
        let blocks = self.complete(len);
        let blocks = if blocks > 0 { self.blocks(blocks) } else { &[] };
        let mut numbers = self.keys(len).iter().chain(blocks);
        numbers.try_for_each(|number| out.write_all(&number.to_le_bytes()))
    }

    fn load_first(&mut self, len: usize, from: &mut dyn Read) -> io::Result<()> {
        self.kv.load_first(len, from)?;
        let (keys, blocks) = (len * self.width, self.complete(len) * self.width);
        load_numbers(&mut self.keys.numbers_mut::<f32>()[..keys], from)?;
        match &mut self.blocks {
            Some((memory, _)) => load_numbers(&mut memory.numbers_mut::<f32>()[..blocks], from),
            None => Ok(()),
        }
    }
}

fn load_numbers(numbers: &mut [f32], from: &mut dyn Read) -> io::Result<()> {
    let mut bytes = [0; 4];
    for number in numbers {
        from.read_exact(&mut bytes)?;
        *number = f32::from_le_bytes(bytes);
    }
    Ok(())
}
