//! Keys and values of the tokens so far, per layer and head, in f16 or f32, laid out as the attention kernels read them
//! (`moelten_quant::Attend`). Sized once; decode never allocates.

use std::io;

use half::slice::HalfBitsSliceExt;
use moelten_loader::io::Memory;
use moelten_loader::spec::{AttentionSpec, Mixer, ModelSpec};
use moelten_quant::{KEY_GROUP, KV_BLOCK, Kernels, KvHead};

use crate::pool::Pool;

/// Numbers of a key that are converted at once.
const PIECE: usize = 64;

/// Precision of cached keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvFormat {
    /// Half precision: half the memory, the default.
    #[default]
    F16,
    /// Single precision.
    F32,
}

impl KvFormat {
    /// Bytes per number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    /// The name users type.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }
}

/// The cache of one sequence. Each layer holds blocks of [`KV_BLOCK`] tokens, the capacity rounded up to whole ones, so that its
/// memory is used from the front: huge pages then hold what is there and not what may come.
pub struct KvCache {
    layers: Vec<KvLayer>,
    capacity: usize,
    len: usize,
}

/// Keys and values of one layer: `[blocks, 2, kv_heads, KV_BLOCK * head_dim]` numbers, keys first.
pub struct KvLayer {
    memory: Memory,
    format: KvFormat,
    shape: Shape,
}

#[derive(Clone, Copy)]
struct Shape {
    kv_heads: usize,
    head_dim: usize,
}

impl Shape {
    /// Numbers of a head's keys, or values, in a block.
    fn head(self) -> usize {
        KV_BLOCK * self.head_dim
    }

    /// Numbers of a block of all heads.
    fn block(self) -> usize {
        2 * self.kv_heads * self.head()
    }

    /// Keys and values of a head from its first block on.
    fn of_head<T>(self, numbers: &[T], head: usize) -> (&[T], &[T]) {
        (&numbers[head * self.head()..], &numbers[(self.kv_heads + head) * self.head()..])
    }
}

impl KvCache {
    /// Bytes a cache of `capacity` tokens takes.
    pub fn bytes(spec: &ModelSpec, capacity: usize, format: KvFormat) -> u64 {
        let per_token: usize = spec
            .layers
            .iter()
            .map(|layer| {
                let Mixer::Attention(a) = &layer.mixer;
                2 * a.kv_heads * a.head_dim
            })
            .sum();
        let capacity = capacity.checked_next_multiple_of(KV_BLOCK).unwrap_or(usize::MAX);
        (per_token as u64).saturating_mul(format.bytes() as u64).saturating_mul(capacity as u64)
    }

    /// An empty cache for `capacity` tokens.
    ///
    /// # Errors
    /// When the system has no address space left.
    pub fn new(spec: &ModelSpec, capacity: usize, format: KvFormat) -> io::Result<Self> {
        let layers = spec.layers.iter().map(|layer| {
            let Mixer::Attention(a) = &layer.mixer;
            KvLayer::new(a, capacity, format)
        });
        Ok(Self { layers: layers.collect::<io::Result<_>>()?, capacity, len: 0 })
    }

    /// Tokens it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Tokens it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all tokens from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Declares `tokens` more tokens written in every layer.
    pub fn advance(&mut self, tokens: usize) {
        self.len += tokens;
        assert!(self.len <= self.capacity, "the session checks the context before it computes");
    }

    /// One layer.
    pub fn layer(&self, layer: usize) -> &KvLayer {
        &self.layers[layer]
    }

    /// One layer, to write.
    pub fn layer_mut(&mut self, layer: usize) -> &mut KvLayer {
        &mut self.layers[layer]
    }
}

impl KvLayer {
    /// A layer's empty cache for `capacity` tokens.
    ///
    /// # Errors
    /// When the system has no address space left.
    pub fn new(spec: &AttentionSpec, capacity: usize, format: KvFormat) -> io::Result<Self> {
        let shape = Shape { kv_heads: spec.kv_heads, head_dim: spec.head_dim };
        let memory = Memory::zeroed(capacity.div_ceil(KV_BLOCK) * shape.block() * format.bytes())?;
        Ok(Self { memory, format, shape })
    }

    /// Writes keys and values of some tokens (`[tokens, kv_heads, head_dim]` each) from position `first` on.
    pub fn write(&mut self, pool: &Pool, kernels: &Kernels, first: usize, keys: &[f32], values: &[f32]) {
        let rows = Rows { first, keys, values, shape: self.shape };
        match self.format {
            KvFormat::F16 => {
                let to = self.memory.numbers_mut::<u16>();
                rows.write(pool, to, |from, to| kernels.to_f16(from, to.reinterpret_cast_mut()));
            }
            KvFormat::F32 => {
                rows.write(pool, self.memory.numbers_mut::<f32>(), |from, to| to.copy_from_slice(from));
            }
        }
    }

    /// What was written of a head, and beyond it whatever is there.
    pub fn head(&self, head: usize) -> KvHead<'_> {
        match self.format {
            KvFormat::F16 => {
                let (keys, values) = self.shape.of_head(self.memory.numbers::<u16>(), head);
                KvHead::F16 { keys: keys.reinterpret_cast(), values: values.reinterpret_cast() }
            }
            KvFormat::F32 => {
                let (keys, values) = self.shape.of_head(self.memory.numbers(), head);
                KvHead::F32 { keys, values }
            }
        }
    }

    /// Numbers from one block of a head's keys, or values, to the next.
    pub fn stride(&self) -> usize {
        self.shape.block()
    }
}

/// Keys and values to write, `[tokens, kv_heads, head_dim]` each.
struct Rows<'a> {
    first: usize,
    keys: &'a [f32],
    values: &'a [f32],
    shape: Shape,
}

impl Rows<'_> {
    /// Into all blocks of a layer; `convert` turns numbers into stored ones.
    fn write<T>(&self, pool: &Pool, numbers: &mut [T], convert: impl Fn(&[f32], &mut [T]) + Sync)
    where
        T: Copy + Default + Send + Sync,
    {
        let Shape { kv_heads, head_dim } = self.shape;
        let tokens = self.keys.len() / (kv_heads * head_dim);
        let end = self.first + tokens;
        let (block, first_block) = (self.shape.block(), self.first / KV_BLOCK);
        let numbers = &mut numbers[first_block * block..end.div_ceil(KV_BLOCK) * block];
        pool.chunks(numbers, block, 1, |index, numbers| {
            let start = (first_block + index.start) * KV_BLOCK;
            for position in self.first.max(start)..end.min(start + KV_BLOCK) {
                self.write_token(position, &mut *numbers, &convert);
            }
        });
    }

    /// Into the block of a position.
    fn write_token<T: Copy + Default>(
        &self,
        position: usize,
        block: &mut [T],
        convert: &impl Fn(&[f32], &mut [T]),
    ) {
        let Shape { kv_heads, head_dim } = self.shape;
        let (keys, values) = block.split_at_mut(kv_heads * self.shape.head());
        let parts = keys.chunks_exact_mut(self.shape.head()).zip(values.chunks_exact_mut(self.shape.head()));
        let (token, position) = (position - self.first, position % KV_BLOCK);
        for (head, (keys, values)) in parts.enumerate() {
            let row = (token * kv_heads + head) * head_dim;
            let (key, value) = (&self.keys[row..row + head_dim], &self.values[row..row + head_dim]);
            convert(value, &mut values[position * head_dim..][..head_dim]);
            let group = position / KEY_GROUP * KEY_GROUP * head_dim;
            let mut lane = keys[group + position % KEY_GROUP..].iter_mut().step_by(KEY_GROUP);
            for piece in key.chunks(PIECE) {
                let stored = &mut [T::default(); PIECE][..piece.len()];
                convert(piece, stored);
                // The lane second: a pair that has no number left takes none of it.
                stored.iter().zip(lane.by_ref()).for_each(|(stored, to)| *to = *stored);
            }
        }
    }
}
