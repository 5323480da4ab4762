//! Activations as products take them: by blocks of 32 columns, as floats or as int8 codes with a scale per
//! block and token. It must not know weights or instruction sets.
//!
//! **Layout.** Block `b` of all tokens is one run of cache lines, a *record*; records follow each other. So a
//! thread that computes 32 outputs of all tokens writes one contiguous piece of the next layer's input.
//! - `F32`: `[tokens, 32]` floats.
//! - `Q8`: `[tokens, 32]` codes, then `[tokens]` scales, then `[tokens]` negated sums of the codes, then
//!   `[tokens]` negated sums of the first 16 codes; padded to a line. From [`TILE_FROM`] tokens on a record
//!   is padded to a multiple of 16 tokens, because tiles of 16 tokens are read; the padding never changes a
//!   result.
//!
//! A last block that is not full is padded with zeros.

use std::ops::Range;

use crate::format::Format;
use crate::kernel::lines::{Line, floats, words, words_mut};

/// Columns of a block.
pub const BLOCK: usize = 32;

/// Representation of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActivationKind {
    /// Single precision, for weights that are floats.
    F32,
    /// Codes -127..=127 and a scale for each 32, for quantised weights. `x = scale * code`,
    /// `scale = max |x| / 127`.
    Q8,
}

impl ActivationKind {
    /// What products with weights of `format` take.
    pub fn of(format: Format) -> Self {
        if format.is_float() { Self::F32 } else { Self::Q8 }
    }

    /// Lines of the record of a block of `tokens` tokens.
    pub const fn record_lines(self, tokens: usize) -> usize {
        match self {
            Self::F32 => 2 * tokens,
            Self::Q8 => (room(tokens) * Q8_WORDS).div_ceil(16),
        }
    }

    /// Lines of `[tokens, cols]` activations.
    pub const fn lines(self, tokens: usize, cols: usize) -> usize {
        cols.div_ceil(BLOCK) * self.record_lines(tokens)
    }
}

/// Tiles multiply this many tokens or more. With fewer, unpacking weights to memory costs more than tiles
/// save (measured).
pub(crate) const TILE_FROM: usize = 32;

/// Tokens of a `Q8` record of `tokens`, padding included.
pub(crate) const fn room(tokens: usize) -> usize {
    if tokens < TILE_FROM { tokens } else { tokens.next_multiple_of(16) }
}

/// Words of a token in a `Q8` record: 32 codes, the scale, two sums.
const Q8_WORDS: usize = 11;

/// `[tokens, cols]` activations of one kind: some consecutive tokens of those that the records hold.
#[derive(Debug, Clone, Copy)]
pub struct Activations<'a> {
    kind: ActivationKind,
    /// Tokens in a record.
    all: usize,
    first: usize,
    tokens: usize,
    cols: usize,
    lines: &'a [Line],
}

impl<'a> Activations<'a> {
    /// Views lines that were filled record by record.
    ///
    /// # Panics
    /// If there are not exactly [`ActivationKind::lines`].
    pub fn new(kind: ActivationKind, tokens: usize, cols: usize, lines: &'a [Line]) -> Self {
        assert_eq!(lines.len(), kind.lines(tokens, cols), "activations [{tokens}, {cols}] as {kind:?}");
        Self { kind, all: tokens, first: 0, tokens, cols, lines }
    }

    /// Some consecutive tokens of these.
    ///
    /// # Panics
    /// If the range is not within `0..tokens`.
    pub fn slice_tokens(&self, tokens: Range<usize>) -> Self {
        assert!(
            tokens.start <= tokens.end && tokens.end <= self.tokens,
            "tokens {tokens:?} of {}",
            self.tokens
        );
        Self { first: self.first + tokens.start, tokens: tokens.len(), ..*self }
    }

    /// Whether they are floats or codes.
    pub fn kind(&self) -> ActivationKind {
        self.kind
    }

    /// Tokens of this view; the records may hold more.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Columns of the `[tokens, cols]` matrix, without the padding of the last block.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The records, also of tokens that are not in this view. Those of a single token are a line each, as
    /// the opening of this file lays them out.
    pub fn lines(&self) -> &'a [Line] {
        self.lines
    }

    /// How many tokens the records hold, and the index of the first token of this view.
    pub(crate) fn place(&self) -> (usize, usize) {
        (self.all, self.first)
    }

    /// The words of all records, and how many of them one record has.
    #[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(any(fuzzing, test))))]
    pub(crate) fn words(&self) -> (&'a [u32], usize) {
        (words(self.lines), self.kind.record_lines(self.all) * 16)
    }

    /// All numbers of `F32` activations, from the first token's on; the next block is `32 * all` further.
    pub(crate) fn floats(&self) -> &'a [f32] {
        assert_eq!(self.kind, ActivationKind::F32, "these are codes");
        floats(&words(self.lines)[self.first * BLOCK..])
    }

    /// Codes and scale of a token in block `block` of `Q8` activations.
    pub(crate) fn codes(&self, block: usize, token: usize) -> ([i8; BLOCK], f32) {
        let (record, token) = (words(self.record(block)), self.first + token);
        let mut codes = [0; BLOCK];
        for (codes, word) in codes.as_chunks_mut::<4>().0.iter_mut().zip(&record[token * 8..][..8]) {
            *codes = word.to_le_bytes().map(|byte| byte as i8);
        }
        (codes, f32::from_bits(record[room(self.all) * 8 + token]))
    }

    /// The lines of the first token of this view, if its records hold no other: one for each block.
    #[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(any(fuzzing, test))))]
    pub(crate) fn lines_of_one(&self) -> Option<&'a [Line]> {
        (self.all == 1 && self.kind == ActivationKind::Q8).then_some(self.lines)
    }

    fn record(&self, block: usize) -> &'a [Line] {
        let lines = self.kind.record_lines(self.all);
        &self.lines[block * lines..(block + 1) * lines]
    }

    /// Copies block `block` of the tokens `chosen` into `record`, a record of these tokens alone: the
    /// inputs of an expert.
    ///
    /// # Panics
    /// If a token or the block does not exist or `record` is not of as many tokens.
    pub fn gather(&self, block: usize, chosen: impl ExactSizeIterator<Item = usize>, record: &mut [Line]) {
        let n = chosen.len();
        assert_eq!(record.len(), self.kind.record_lines(n), "gather: the record is not of {n} tokens");
        let (from, to) = (words(self.record(block)), words_mut(record));
        for (i, token) in chosen.enumerate() {
            assert!(token < self.tokens, "token {token} of {}", self.tokens);
            let token = self.first + token;
            match self.kind {
                ActivationKind::F32 => {
                    to[i * BLOCK..][..BLOCK].copy_from_slice(&from[token * BLOCK..][..BLOCK])
                }
                ActivationKind::Q8 => {
                    to[i * 8..][..8].copy_from_slice(&from[token * 8..][..8]);
                    for part in 8..Q8_WORDS {
                        to[room(n) * part + i] = from[room(self.all) * part + token];
                    }
                }
            }
        }
    }

    /// Value `[token, column]`: the float, or what its code stands for.
    ///
    /// # Panics
    /// If there is none.
    pub fn value(&self, token: usize, column: usize) -> f32 {
        assert!(token < self.tokens && column < self.cols, "activation [{token}, {column}]");
        let (block, i) = (column / BLOCK, column % BLOCK);
        match self.kind {
            ActivationKind::F32 => self.floats()[(block * self.all + token) * BLOCK + i],
            ActivationKind::Q8 => {
                let (codes, scale) = self.codes(block, token);
                scale * f32::from(codes[i])
            }
        }
    }
}

/// One block of all tokens, to be written by [`crate::Kernels::fill`].
#[derive(Debug)]
pub struct Record<'a> {
    /// Floats or codes.
    pub kind: ActivationKind,
    /// Tokens that the record holds.
    pub tokens: usize,
    /// [`ActivationKind::record_lines`] of memory.
    pub lines: &'a mut [Line],
}

/// Up to 32 columns of some tokens: `width` floats at the start of `x` and at every `stride`.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    /// From the first token's first column.
    pub x: &'a [f32],
    /// Floats from token to token.
    pub stride: usize,
    /// Columns, at most 32.
    pub width: usize,
    /// Tokens to write.
    pub tokens: usize,
}

impl<'a> Columns<'a> {
    /// Block `block` of `[tokens, cols]` floats.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn of(x: &'a [f32], cols: usize, block: usize) -> Self {
        assert!(x.len().is_multiple_of(cols) && block * BLOCK < cols, "block {block} of {cols} columns");
        let (start, tokens) = (block * BLOCK, x.len() / cols);
        Self { x: &x[start.min(x.len())..], stride: cols, width: BLOCK.min(cols - start), tokens }
    }
}

/// Below this a block's largest value counts as zero: its reciprocal would overflow. 2^-100.
const TINY: f32 = f32::from_bits((127 - 100) << 23);

/// Writes tokens `first ..` of a record: the reference. Every tier gives the same bits.
///
/// Rounding is to nearest even. A block of values below 2^-100 becomes zero; one that holds NaN or infinity
/// gets a NaN scale, so that it is seen in the result.
#[inline(always)]
pub(crate) fn fill(from: Columns<'_>, first: usize, record: Record<'_>) {
    let out = words_mut(record.lines);
    for t in 0..from.tokens {
        let x = &from.x[t * from.stride..][..from.width];
        match x.as_array() {
            Some(x) => put(record.kind, x, record.tokens, first + t, out),
            None => {
                let mut padded = [0.0; BLOCK];
                padded[..from.width].copy_from_slice(x);
                put(record.kind, &padded, record.tokens, first + t, out);
            }
        }
    }
}

#[inline(always)]
fn put(kind: ActivationKind, x: &[f32; BLOCK], tokens: usize, t: usize, out: &mut [u32]) {
    match kind {
        ActivationKind::F32 => {
            for (out, x) in out[t * BLOCK..][..BLOCK].iter_mut().zip(x) {
                *out = x.to_bits();
            }
        }
        ActivationKind::Q8 => put_codes(x, room(tokens), t, out),
    }
}

/// Writes codes, scale and sums of a block.
#[inline(always)]
fn put_codes(x: &[f32; BLOCK], room: usize, t: usize, out: &mut [u32]) {
    // Magnitudes order as their bits do, with infinity and then NaN above all numbers.
    let top = x.iter().fold(0, |top, x| top.max(x.to_bits() & i32::MAX as u32));
    let largest = f32::from_bits(top);
    let counts = largest.is_finite() && largest >= TINY;
    let scale = match (counts, largest.is_finite()) {
        (true, _) => largest / 127.0,
        (false, true) => 0.0,
        (false, false) => f32::NAN,
    };
    let mut words = [0; BLOCK];
    if counts {
        let inverse = 127.0 / largest;
        // Adding 1.5 * 2^23 leaves the nearest whole number, ties to even, in the low bits.
        const LARGE: f32 = 12_582_912.0;
        for (word, x) in words.iter_mut().zip(x) {
            *word = (x * inverse + LARGE).to_bits().wrapping_sub(LARGE.to_bits());
        }
    }
    // Sums of words: the compiler would add bytes one by one.
    let sum = |words: &[u32]| words.iter().fold(0, |sum: u32, word| sum.wrapping_add(*word));
    let (low, high) = (sum(&words[..16]), sum(&words[16..]));
    let codes = words.map(|word| word as u8);
    for (out, codes) in out[t * 8..][..8].iter_mut().zip(codes.as_chunks().0) {
        *out = u32::from_le_bytes(*codes);
    }
    out[room * 8 + t] = scale.to_bits();
    out[room * 9 + t] = low.wrapping_add(high).wrapping_neg();
    out[room * 10 + t] = low.wrapping_neg();
}
