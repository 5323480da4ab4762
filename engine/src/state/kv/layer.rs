//! Keys and values of one layer in f16 or f32, laid out as the attention kernels read them
//! (`moelten_quant::Attend`). Sized once; decode never allocates. It must not know which positions count, nor
//! what they are for.

use std::io::{self, Read, Write};
use std::ops::Range;

use half::slice::HalfBitsSliceExt;
use moelten_loader::io::{HUGE_PAGE, Memory, Number};
use moelten_loader::spec::AttentionSpec;
use moelten_quant::{KEY_GROUP, Kernels, KvHead};

use super::format::KvFormat;
use super::write::NewRows;
use crate::runtime::pool::Pool;

/// Keys and values of one layer: `[2, kv_heads, width]` numbers, keys first. Keys of a head are `[capacity /
/// KEY_GROUP, head_dim, KEY_GROUP]`, values `[capacity, head_dim]`.
///
/// Positions count from 0 within this memory. Memory is untouched until it is used. Huge pages, in which it
/// is read a fifth faster, are made as soon as half of one is filled; had they been there from the start, the
/// first token would touch one for each head.
pub struct KvLayer {
    memory: Memory,
    format: KvFormat,
    kv_heads: usize,
    head_dim: usize,
    /// Positions there is room for, in whole groups of keys.
    capacity: usize,
    /// Numbers of a head's keys, or values: whole huge pages where they fill one.
    width: usize,
    /// Huge pages of a head's keys, or values.
    pages: usize,
    /// Tokens by which these pages are made late.
    delay: usize,
}

impl KvLayer {
    /// Bytes that a layer for `capacity` tokens takes.
    pub fn bytes_for(spec: &AttentionSpec, capacity: usize, format: KvFormat) -> u64 {
        let capacity = capacity.checked_next_multiple_of(KEY_GROUP).unwrap_or(usize::MAX);
        let per_token = (2 * spec.kv_heads * spec.head_dim) as u64 * format.bytes() as u64;
        per_token.saturating_mul(capacity as u64)
    }

    /// A layer's empty cache for `capacity` tokens, whose huge pages are made `delay` tokens late.
    ///
    /// # Errors
    /// When the system has no address space left.
    pub fn new(spec: &AttentionSpec, capacity: usize, format: KvFormat, delay: usize) -> io::Result<Self> {
        let &AttentionSpec { kv_heads, head_dim, .. } = spec;
        let capacity = capacity.checked_next_multiple_of(KEY_GROUP).ok_or(io::ErrorKind::OutOfMemory)?;
        let numbers = head_dim.checked_mul(capacity).ok_or(io::ErrorKind::OutOfMemory)?;
        let page = HUGE_PAGE / format.bytes();
        let pages = numbers / page;
        // What rounding up adds is never touched.
        let width = if pages == 0 { numbers } else { numbers.next_multiple_of(page) };
        let bytes = width.checked_mul(2 * kv_heads * format.bytes()).ok_or(io::ErrorKind::OutOfMemory)?;
        let memory = Memory::growing(bytes)?;
        Ok(Self { memory, format, kv_heads, head_dim, capacity, width, pages, delay })
    }

    /// Writes keys and values of some tokens (`[tokens, kv_heads, head_dim]` each) from position `first` on.
    pub fn write(&mut self, pool: &Pool, kernels: &Kernels, first: usize, keys: &[f32], values: &[f32]) {
        let rows = NewRows { first, keys, values, kv_heads: self.kv_heads, head_dim: self.head_dim };
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

    /// Moves what was written at these positions to the start: their first becomes position 0.
    ///
    /// # Panics
    /// If the first does not begin a group of keys.
    pub fn shift(&mut self, written: Range<usize>) {
        assert!(written.start.is_multiple_of(KEY_GROUP), "keys move in whole groups");
        let end = written.end.next_multiple_of(KEY_GROUP).min(self.capacity);
        let of_position = self.head_dim * self.format.bytes();
        let bytes = written.start * of_position..end * of_position;
        for head in self.memory.bytes_mut().chunks_exact_mut(self.width * self.format.bytes()) {
            head.copy_within(bytes.clone(), 0);
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

    /// Writes keys, then values of some positions, `[positions, head_dim]` for each head, as they are stored.
    ///
    /// # Errors
    /// What writing says.
    pub fn save(&self, positions: Range<usize>, out: &mut dyn Write) -> io::Result<()> {
        let size = self.format.bytes();
        let mut row = vec![0; self.head_dim * size];
        for (head, position) in self.rows(positions) {
            let (first, stride) = self.place(head, position);
            let numbers = self.memory.bytes()[first * size..].chunks_exact(size).step_by(stride);
            for (number, stored) in row.chunks_exact_mut(size).zip(numbers) {
                number.copy_from_slice(stored);
            }
            out.write_all(&row)?;
        }
        Ok(())
    }

    /// Reads what [`Self::save`] wrote to these positions.
    ///
    /// # Errors
    /// What reading says.
    pub fn load(&mut self, positions: Range<usize>, from: &mut dyn Read) -> io::Result<()> {
        let size = self.format.bytes();
        let mut row = vec![0; self.head_dim * size];
        for (head, position) in self.rows(positions.clone()) {
            from.read_exact(&mut row)?;
            let (first, stride) = self.place(head, position);
            let numbers = self.memory.bytes_mut()[first * size..].chunks_exact_mut(size).step_by(stride);
            for (number, stored) in row.chunks_exact(size).zip(numbers) {
                stored.copy_from_slice(number);
            }
        }
        self.gather(positions);
        Ok(())
    }

    /// Key and value of the first head at a position, in single precision.
    pub fn read(&self, position: usize, key: &mut [f32], value: &mut [f32]) {
        self.read_head(0, position, key, value);
    }

    /// Key and value of a head at a position, in single precision.
    pub fn read_head(&self, head: usize, position: usize, key: &mut [f32], value: &mut [f32]) {
        for (head, out) in [(head, key), (self.kv_heads + head, value)] {
            let (first, stride) = self.place(head, position);
            match self.format {
                KvFormat::F16 => {
                    let stored = self.memory.numbers::<u16>()[first..].iter().step_by(stride);
                    out.iter_mut()
                        .zip(stored)
                        .for_each(|(to, &bits)| *to = half::f16::from_bits(bits).to_f32());
                }
                KvFormat::F32 => {
                    let stored = self.memory.numbers::<f32>()[first..].iter().step_by(stride);
                    out.iter_mut().zip(stored).for_each(|(to, from)| *to = *from);
                }
            }
        }
    }

    /// Every row of these positions: the number of its head, keys first, and its position.
    fn rows(&self, positions: Range<usize>) -> impl Iterator<Item = (usize, usize)> + use<> {
        (0..2 * self.kv_heads).flat_map(move |head| positions.clone().map(move |position| (head, position)))
    }

    /// Where a row's first number is among all numbers, and how far apart its numbers are.
    fn place(&self, head: usize, position: usize) -> (usize, usize) {
        let of_head = head * self.width;
        if head < self.kv_heads {
            let group = position / KEY_GROUP * KEY_GROUP * self.head_dim;
            (of_head + group + position % KEY_GROUP, KEY_GROUP)
        } else {
            (of_head + position * self.head_dim, 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use moelten_loader::spec::{KvSource, QkNorm};
    use moelten_quant::Isa;

    use super::*;
    use crate::runtime::topology::{Pin, ThreadPlan};

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
            value_dim: head_dim,
            scale: 1.0,
            qkv_bias: false,
            out_bias: false,
            sinks: false,
            qk_norm: QkNorm::None,
            rope: None,
            window: None,
            clip_qkv: None,
            softcap: None,
            temperature: None,
            gate: None,
            source: KvSource::Projected,
            value_norm: None,
            value_scale: 1.0,
            chunk: None,
            whole: false,
            relative: None,
            blocks: None,
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
