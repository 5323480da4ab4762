//! Keys and values of the tokens so far, per layer and head, in f16 or f32, laid out as the attention kernels read them
//! (`moelten_quant::Attend`). Sized once; decode never allocates.

use std::io;
use std::ops::Range;

use half::slice::HalfBitsSliceExt;
use moelten_loader::io::{HUGE_PAGE, Memory, Number};
use moelten_loader::spec::{AttentionSpec, Mixer, ModelSpec};
use moelten_quant::{KEY_GROUP, Kernels, KvHead};

use crate::pool::Pool;

/// Tokens from which on heads are written by several threads.
const SHARED_WRITE: usize = 16;
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

/// The cache of one sequence. Each layer holds keys and values of `[kv_heads, capacity, head_dim]`, the capacity being rounded
/// up to whole groups of keys.
pub struct KvCache {
    layers: Vec<KvLayer>,
    capacity: usize,
    len: usize,
}

/// Keys and values of one layer: `[2, kv_heads, width]` numbers, keys first. Keys of a head are `[capacity / KEY_GROUP, head_dim,
/// KEY_GROUP]`, values `[capacity, head_dim]`.
///
/// Memory is untouched until it is used. Huge pages, in which it is read a fifth faster, are made as soon as half of one is
/// filled; had they been there from the start, the first token would touch one for each head.
pub struct KvLayer {
    memory: Memory,
    format: KvFormat,
    kv_heads: usize,
    head_dim: usize,
    /// Numbers of a head's keys, or values: whole huge pages where they fill one.
    width: usize,
    /// Huge pages of a head's keys, or values.
    pages: usize,
    /// Tokens by which these pages are made late.
    delay: usize,
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
        let capacity = capacity.checked_next_multiple_of(KEY_GROUP).unwrap_or(usize::MAX);
        (per_token as u64).saturating_mul(format.bytes() as u64).saturating_mul(capacity as u64)
    }

    /// An empty cache for `capacity` tokens.
    ///
    /// # Errors
    /// When the system has no address space left.
    pub fn new(spec: &ModelSpec, capacity: usize, format: KvFormat) -> io::Result<Self> {
        // All layers are due with the same token. Each has its own turn, or that token would take long.
        let layers = spec.layers.iter().enumerate().map(|(delay, layer)| {
            let Mixer::Attention(a) = &layer.mixer;
            KvLayer::new(a, capacity, format, delay)
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
    /// A layer's empty cache for `capacity` tokens, whose huge pages are made `delay` tokens late.
    ///
    /// # Errors
    /// When the system has no address space left.
    pub fn new(spec: &AttentionSpec, capacity: usize, format: KvFormat, delay: usize) -> io::Result<Self> {
        let &AttentionSpec { kv_heads, head_dim, .. } = spec;
        let numbers = head_dim * capacity.next_multiple_of(KEY_GROUP);
        let page = HUGE_PAGE / format.bytes();
        let pages = numbers / page;
        // What rounding up adds is never touched.
        let width = if pages == 0 { numbers } else { numbers.next_multiple_of(page) };
        let memory = Memory::growing(2 * kv_heads * width * format.bytes())?;
        Ok(Self { memory, format, kv_heads, head_dim, width, pages, delay })
    }

    /// Writes keys and values of some tokens (`[tokens, kv_heads, head_dim]` each) from position `first` on.
    pub fn write(&mut self, pool: &Pool, kernels: &Kernels, first: usize, keys: &[f32], values: &[f32]) {
        let rows = Rows { first, keys, values, kv_heads: self.kv_heads, head_dim: self.head_dim };
        match self.format {
            KvFormat::F16 => {
                let convert = |from: &[f32], to: &mut [u16]| kernels.to_f16(from, to.reinterpret_cast_mut());
                rows.write(pool, self.memory.numbers_mut(), self.width, convert);
            }
            KvFormat::F32 => {
                let copy = |from: &[f32], to: &mut [f32]| to.copy_from_slice(from);
                rows.write(pool, self.memory.numbers_mut(), self.width, copy);
            }
        }
        self.gather(first..first + rows.tokens());
    }

    /// Huge pages of a head's keys, or values, when `position` tokens have been written.
    fn pages_of(&self, position: usize) -> usize {
        let filled = position.saturating_sub(self.delay) * self.head_dim * self.format.bytes();
        self.pages.min((filled + HUGE_PAGE / 2) / HUGE_PAGE)
    }

    /// Whether most of what some tokens left was put in huge pages.
    pub fn gathered(&self, tokens: usize) -> bool {
        self.pages_of(tokens) > 0
    }

    /// Makes the huge pages that are due when these positions have been written.
    fn gather(&mut self, written: Range<usize>) {
        let due = self.pages_of(written.start) * HUGE_PAGE..self.pages_of(written.end) * HUGE_PAGE;
        if due.is_empty() {
            return;
        }
        let head_bytes = self.width * self.format.bytes();
        for head in (0..2 * self.kv_heads).map(|head| head * head_bytes) {
            self.memory.gather(head + due.start..head + due.end);
        }
    }

    /// What was written of a head, and beyond it whatever is there.
    pub fn head(&self, head: usize) -> KvHead<'_> {
        match self.format {
            KvFormat::F16 => {
                let (keys, values) = self.numbers::<u16>(head);
                KvHead::F16 { keys: keys.reinterpret_cast(), values: values.reinterpret_cast() }
            }
            KvFormat::F32 => {
                let (keys, values) = self.numbers(head);
                KvHead::F32 { keys, values }
            }
        }
    }

    /// Keys and values of a head.
    fn numbers<T: Number>(&self, head: usize) -> (&[T], &[T]) {
        let (keys, values) = self.memory.numbers().split_at(self.kv_heads * self.width);
        let range = head * self.width..(head + 1) * self.width;
        (&keys[range.clone()], &values[range])
    }
}

/// Keys and values to write, `[tokens, kv_heads, head_dim]` each.
struct Rows<'a> {
    first: usize,
    keys: &'a [f32],
    values: &'a [f32],
    kv_heads: usize,
    head_dim: usize,
}

impl Rows<'_> {
    fn tokens(&self) -> usize {
        self.keys.len() / (self.kv_heads * self.head_dim)
    }

    /// Into the `width` numbers of each head; `convert` turns numbers into stored ones.
    fn write<T>(
        &self,
        pool: &Pool,
        numbers: &mut [T],
        width: usize,
        convert: impl Fn(&[f32], &mut [T]) + Sync,
    ) where
        T: Number + Default + Send + Sync,
    {
        let (&Self { first, kv_heads, head_dim, .. }, tokens) = (self, self.tokens());
        let heads_per_task = if tokens < SHARED_WRITE { kv_heads } else { 1 };
        let (keys, values) = numbers.split_at_mut(kv_heads * width);
        let (keys, values) = ((keys, width), (values, width));
        pool.chunks_of_two(keys, values, heads_per_task, |heads, keys, values| {
            let parts = keys.chunks_exact_mut(width).zip(values.chunks_exact_mut(width));
            for (head, (keys, values)) in heads.zip(parts) {
                for token in 0..tokens {
                    let (row, position) = ((token * kv_heads + head) * head_dim, first + token);
                    let (key, value) = (&self.keys[row..row + head_dim], &self.values[row..row + head_dim]);
                    convert(value, &mut values[position * head_dim..][..head_dim]);
                    let group = position / KEY_GROUP * KEY_GROUP * head_dim;
                    let lane = keys[group + position % KEY_GROUP..].iter_mut().step_by(KEY_GROUP);
                    let mut lane = lane.take(head_dim);
                    for piece in key.chunks(PIECE) {
                        let stored = &mut [T::default(); PIECE][..piece.len()];
                        convert(piece, stored);
                        // The lane second: a pair that has no number left takes none of it.
                        stored.iter().zip(lane.by_ref()).for_each(|(stored, to)| *to = *stored);
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use moelten_loader::spec::QkNorm;
    use moelten_quant::Isa;

    use super::*;
    use crate::topology::{Pin, ThreadPlan};

    /// A number that says whose it is and that half precision holds.
    fn number(what: usize, position: usize, head: usize, dim: usize) -> f32 {
        ((what * 1009 + position * 31 + head * 7 + dim) % 2048) as f32
    }

    #[test]
    fn heads_find_what_was_written_in_pieces() {
        heads_find(3, 100, 200, &[1, 30, 130, 131]);
        // Rows of 512 and 1024 bytes: there are huge pages.
        heads_find(2, 256, 4500, &[1000, 1030, 1031, 3200, 3201]);
    }

    /// Tokens are written in pieces that end at `cuts`.
    fn heads_find(kv_heads: usize, head_dim: usize, tokens: usize, cuts: &[usize]) {
        let spec = AttentionSpec {
            heads: kv_heads,
            kv_heads,
            head_dim,
            scale: 1.0,
            qkv_bias: false,
            out_bias: false,
            qk_norm: QkNorm::None,
            rope: None,
            window: None,
            clip_qkv: None,
        };
        let pool = Pool::new(ThreadPlan::here(Some(2), Pin::Off).unwrap()).unwrap();
        let kernels = Kernels::for_isa(Isa::best()).unwrap();
        for format in [KvFormat::F16, KvFormat::F32] {
            let mut layer = KvLayer::new(&spec, tokens, format, 3).unwrap();
            let starts = std::iter::once(&0).chain(cuts);
            for piece in starts.zip(cuts.iter().chain([&tokens])).map(|(&start, &end)| start..end) {
                let rows = |what| -> Vec<f32> {
                    let row = |position| {
                        let of_head =
                            move |head| (0..head_dim).map(move |dim| number(what, position, head, dim));
                        (0..kv_heads).flat_map(of_head)
                    };
                    piece.clone().flat_map(row).collect()
                };
                layer.write(&pool, kernels, piece.start, &rows(0), &rows(1));
            }
            for head in 0..kv_heads {
                let (keys, values): (Vec<f32>, Vec<f32>) = match layer.head(head) {
                    KvHead::F16 { keys, values } => (
                        keys.iter().map(|x| x.to_f32()).collect(),
                        values.iter().map(|x| x.to_f32()).collect(),
                    ),
                    KvHead::F32 { keys, values } => (keys.to_vec(), values.to_vec()),
                };
                for (position, dim) in (0..tokens).flat_map(|p| (0..head_dim).map(move |dim| (p, dim))) {
                    let key =
                        position / KEY_GROUP * KEY_GROUP * head_dim + dim * KEY_GROUP + position % KEY_GROUP;
                    assert_eq!(keys[key], number(0, position, head, dim), "key {position} {head} {dim}");
                    let value = values[position * head_dim + dim];
                    assert_eq!(value, number(1, position, head, dim), "value {position} {head} {dim}");
                }
            }
        }
    }
}
