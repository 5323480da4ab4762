//! Keys and values of the tokens so far, per layer and head, in f16 or f32. Sized once; decode never allocates.

use half::f16;
use half::slice::HalfBitsSliceExt;
use moelten_loader::spec::{Mixer, ModelSpec};
use moelten_quant::Kernels;

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

/// The cache of one sequence. Each layer holds `[kv_heads, capacity, head_dim]` twice.
pub struct KvCache {
    layers: Vec<KvLayer>,
    capacity: usize,
    len: usize,
}

/// Keys and values of one layer.
pub struct KvLayer {
    keys: Rows,
    values: Rows,
    capacity: usize,
    head_dim: usize,
}

/// Half-precision numbers are kept as bits: zeroed memory from the system is then untouched until it is used.
enum Rows {
    F16(Vec<u16>),
    F32(Vec<f32>),
}

/// Rows `[tokens, head_dim]` of one head.
#[derive(Clone, Copy)]
pub enum HeadRows<'a> {
    /// Half precision.
    F16(&'a [f16]),
    /// Single precision.
    F32(&'a [f32]),
}

impl KvCache {
    /// Bytes a cache of `capacity` tokens takes.
    pub fn bytes(spec: &ModelSpec, capacity: usize, format: KvFormat) -> u64 {
        let numbers: usize = spec
            .layers
            .iter()
            .map(|layer| {
                let Mixer::Attention(a) = &layer.mixer;
                2 * a.kv_heads * a.head_dim
            })
            .sum();
        (numbers as u64).saturating_mul(format.bytes() as u64).saturating_mul(capacity as u64)
    }

    /// An empty cache for `capacity` tokens.
    pub fn new(spec: &ModelSpec, capacity: usize, format: KvFormat) -> Self {
        let layers = spec
            .layers
            .iter()
            .map(|layer| {
                let Mixer::Attention(a) = &layer.mixer;
                let numbers = a.kv_heads * capacity * a.head_dim;
                KvLayer {
                    keys: Rows::new(numbers, format),
                    values: Rows::new(numbers, format),
                    capacity,
                    head_dim: a.head_dim,
                }
            })
            .collect();
        Self { layers, capacity, len: 0 }
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
    /// Writes one token's keys and values (`[kv_heads, head_dim]` each) at `position`.
    pub fn write(&mut self, kernels: &Kernels, position: usize, keys: &[f32], values: &[f32]) {
        let heads = keys.chunks_exact(self.head_dim).zip(values.chunks_exact(self.head_dim));
        for (head, (key, value)) in heads.enumerate() {
            let start = (head * self.capacity + position) * self.head_dim;
            self.keys.write(kernels, start, key);
            self.values.write(kernels, start, value);
        }
    }

    /// Keys `[to - from, head_dim]` of a head.
    pub fn keys(&self, head: usize, from: usize, to: usize) -> HeadRows<'_> {
        self.rows(&self.keys, head, from, to)
    }

    /// Values `[to - from, head_dim]` of a head.
    pub fn values(&self, head: usize, from: usize, to: usize) -> HeadRows<'_> {
        self.rows(&self.values, head, from, to)
    }

    fn rows<'a>(&self, rows: &'a Rows, head: usize, from: usize, to: usize) -> HeadRows<'a> {
        let base = head * self.capacity;
        let range = (base + from) * self.head_dim..(base + to) * self.head_dim;
        match rows {
            Rows::F16(bits) => HeadRows::F16(bits[range].reinterpret_cast()),
            Rows::F32(numbers) => HeadRows::F32(&numbers[range]),
        }
    }
}

impl Rows {
    fn new(numbers: usize, format: KvFormat) -> Self {
        match format {
            KvFormat::F16 => Self::F16(vec![0; numbers]),
            KvFormat::F32 => Self::F32(vec![0.0; numbers]),
        }
    }

    fn write(&mut self, kernels: &Kernels, start: usize, row: &[f32]) {
        match self {
            Self::F16(bits) => kernels.to_f16(row, bits[start..start + row.len()].reinterpret_cast_mut()),
            Self::F32(numbers) => numbers[start..start + row.len()].copy_from_slice(row),
        }
    }
}
