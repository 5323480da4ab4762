//! Keys and values of the tokens so far, per layer and head, in f16 or f32, laid out as the attention kernels read them
//! (`moelten_quant::Attend`). Sized once; decode never allocates.

use half::slice::HalfBitsSliceExt;
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

/// Keys and values of one layer.
pub struct KvLayer {
    store: Store,
    kv_heads: usize,
    head_dim: usize,
}

/// Half-precision numbers are kept as bits: zeroed memory from the system is then untouched until it is used.
enum Store {
    F16(Numbers<u16>),
    F32(Numbers<f32>),
}

struct Numbers<T> {
    /// `[kv_heads, capacity / KEY_GROUP, head_dim, KEY_GROUP]`.
    keys: Vec<T>,
    /// `[kv_heads, capacity, head_dim]`.
    values: Vec<T>,
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
    pub fn new(spec: &ModelSpec, capacity: usize, format: KvFormat) -> Self {
        let layers = spec.layers.iter().map(|layer| {
            let Mixer::Attention(a) = &layer.mixer;
            KvLayer::new(a, capacity, format)
        });
        Self { layers: layers.collect(), capacity, len: 0 }
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
    pub fn new(spec: &AttentionSpec, capacity: usize, format: KvFormat) -> Self {
        let numbers = spec.kv_heads * spec.head_dim * capacity.next_multiple_of(KEY_GROUP);
        let store = match format {
            KvFormat::F16 => Store::F16(Numbers { keys: vec![0; numbers], values: vec![0; numbers] }),
            KvFormat::F32 => Store::F32(Numbers { keys: vec![0.0; numbers], values: vec![0.0; numbers] }),
        };
        Self { store, kv_heads: spec.kv_heads, head_dim: spec.head_dim }
    }

    /// Writes keys and values of some tokens (`[tokens, kv_heads, head_dim]` each) from position `first` on.
    pub fn write(&mut self, pool: &Pool, kernels: &Kernels, first: usize, keys: &[f32], values: &[f32]) {
        let rows = Rows { first, keys, values, kv_heads: self.kv_heads, head_dim: self.head_dim };
        match &mut self.store {
            Store::F16(to) => {
                to.write(pool, &rows, |from, to| kernels.to_f16(from, to.reinterpret_cast_mut()))
            }
            Store::F32(to) => to.write(pool, &rows, |from, to| to.copy_from_slice(from)),
        }
    }

    /// What was written of a head, and beyond it whatever is there.
    pub fn head(&self, head: usize) -> KvHead<'_> {
        match &self.store {
            Store::F16(numbers) => {
                let (keys, values) = numbers.head(head, self.kv_heads);
                KvHead::F16 { keys: keys.reinterpret_cast(), values: values.reinterpret_cast() }
            }
            Store::F32(numbers) => {
                let (keys, values) = numbers.head(head, self.kv_heads);
                KvHead::F32 { keys, values }
            }
        }
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

impl<T: Copy + Default + Send + Sync> Numbers<T> {
    fn head(&self, head: usize, kv_heads: usize) -> (&[T], &[T]) {
        let width = self.keys.len() / kv_heads;
        let range = head * width..(head + 1) * width;
        (&self.keys[range.clone()], &self.values[range])
    }

    /// `convert` turns numbers into stored ones.
    fn write(&mut self, pool: &Pool, rows: &Rows<'_>, convert: impl Fn(&[f32], &mut [T]) + Sync) {
        let &Rows { first, kv_heads, head_dim, .. } = rows;
        let width = self.keys.len() / kv_heads;
        let tokens = rows.keys.len() / (kv_heads * head_dim);
        let heads_per_task = if tokens < SHARED_WRITE { kv_heads } else { 1 };
        let (keys, values) = ((&mut *self.keys, width), (&mut *self.values, width));
        pool.chunks_of_two(keys, values, heads_per_task, |heads, keys, values| {
            let parts = keys.chunks_exact_mut(width).zip(values.chunks_exact_mut(width));
            for (head, (keys, values)) in heads.zip(parts) {
                for token in 0..tokens {
                    let (row, position) = ((token * kv_heads + head) * head_dim, first + token);
                    let (key, value) = (&rows.keys[row..row + head_dim], &rows.values[row..row + head_dim]);
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
        let (kv_heads, head_dim, tokens) = (3, 100, 200_usize);
        let spec = AttentionSpec {
            heads: 3,
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
            let mut layer = KvLayer::new(&spec, tokens, format);
            for piece in [0..1, 1..30, 30..130, 130..131, 131..tokens] {
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
