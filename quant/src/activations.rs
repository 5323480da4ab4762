//! Activations as products take them: by blocks of 32 columns, as floats or as int8 codes with a scale per block and
//! token. It must not know weights or instruction sets.
//!
//! **Layout.** Block `b` of all tokens is one run of cache lines, a *record*; records follow each other. So whoever computes
//! 32 outputs of all tokens writes one contiguous piece of the next layer's input.
//! - `F32`: `[tokens, 32]` floats.
//! - `Q8`: `[tokens, 32]` codes, then `[tokens]` scales, then `[tokens]` negated sums of the codes, then `[tokens]` negated
//!   sums of the first 16 codes; padded to a line.
//!
//! A last block that is not full is padded with zeros.

use crate::{Format, Kernels};

/// Columns of a block.
pub const BLOCK: usize = 32;

/// A cache line, the unit of activation memory: words that are floats, integers or four codes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Line(pub(crate) [u32; 16]);

impl Line {
    /// A line of zeros.
    pub const ZERO: Self = Self([0; 16]);
}

/// How activations are represented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActivationKind {
    /// Single precision, for weights that are floats.
    F32,
    /// Codes -127..=127 and a scale for each 32, for quantised weights. `x = scale * code`, `scale = max |x| / 127`.
    Q8,
}

impl ActivationKind {
    /// What products with weights of `format` take.
    pub fn of(format: Format) -> Self {
        if format.block_len() == 1 { Self::F32 } else { Self::Q8 }
    }

    /// Lines of the record of a block of `tokens` tokens.
    pub const fn record_lines(self, tokens: usize) -> usize {
        match self {
            Self::F32 => 2 * tokens,
            Self::Q8 => (tokens * Q8_WORDS).div_ceil(16),
        }
    }

    /// Lines of `[tokens, cols]` activations.
    pub const fn lines(self, tokens: usize, cols: usize) -> usize {
        cols.div_ceil(BLOCK) * self.record_lines(tokens)
    }
}

/// Words of a token in a `Q8` record: 32 codes, the scale, two sums.
const Q8_WORDS: usize = 11;

/// `[tokens, cols]` activations of one kind.
#[derive(Debug, Clone, Copy)]
pub struct Activations<'a> {
    kind: ActivationKind,
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
        Self { kind, tokens, cols, lines }
    }

    /// How they are represented.
    pub fn kind(&self) -> ActivationKind {
        self.kind
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn lines(&self) -> &'a [Line] {
        self.lines
    }

    /// All numbers of `F32` activations.
    #[allow(unsafe_code, reason = "floats are kept as words")]
    pub(crate) fn floats(&self) -> &'a [f32] {
        assert_eq!(self.kind, ActivationKind::F32, "these are codes");
        let words = words(self.lines);
        // SAFETY: a float has the size and alignment of a word, and every word is one.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len()) }
    }

    /// The record of block `block`.
    pub(crate) fn record(&self, block: usize) -> &'a [Line] {
        let lines = self.kind.record_lines(self.tokens);
        &self.lines[block * lines..(block + 1) * lines]
    }

    /// Writes block `block` of the tokens `chosen` into `record`, as if they were all there are: the inputs of an expert.
    ///
    /// # Panics
    /// If a token or the block does not exist or `record` is not of `chosen.len()` tokens.
    pub fn gather(&self, block: usize, chosen: impl ExactSizeIterator<Item = usize> + Clone, record: &mut [Line]) {
        assert_eq!(record.len(), self.kind.record_lines(chosen.len()), "gather: the record is not of the tokens chosen");
        let (from, to) = (words(self.record(block)), words_mut(record));
        let n = chosen.len();
        match self.kind {
            ActivationKind::F32 => {
                for (token, to) in chosen.zip(to.as_chunks_mut::<32>().0) {
                    to.copy_from_slice(&from[token * 32..][..32]);
                }
            }
            ActivationKind::Q8 => {
                for (i, token) in chosen.enumerate() {
                    assert!(token < self.tokens, "token {token} of {}", self.tokens);
                    to[i * 8..][..8].copy_from_slice(&from[token * 8..][..8]);
                    for part in 8..Q8_WORDS {
                        to[n * part + i] = from[self.tokens * part + token];
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
        let (record, i) = (words(self.record(column / BLOCK)), column % BLOCK);
        match self.kind {
            ActivationKind::F32 => f32::from_bits(record[token * BLOCK + i]),
            ActivationKind::Q8 => {
                let q8 = Q8Record { words: record, tokens: self.tokens };
                q8.scale(token) * f32::from(q8.codes(token)[i])
            }
        }
    }
}

/// One block of `Q8` activations, as the reference reads it.
pub(crate) struct Q8Record<'a> {
    words: &'a [u32],
    tokens: usize,
}

impl<'a> Q8Record<'a> {
    pub(crate) fn new(record: &'a [Line], tokens: usize) -> Self {
        Self { words: words(record), tokens }
    }

    /// The codes of a token.
    pub(crate) fn codes(&self, token: usize) -> [i8; BLOCK] {
        let mut codes = [0; BLOCK];
        for (codes, word) in codes.as_chunks_mut::<4>().0.iter_mut().zip(&self.words[token * 8..][..8]) {
            *codes = word.to_le_bytes().map(|byte| byte as i8);
        }
        codes
    }

    /// The scale of a token.
    pub(crate) fn scale(&self, token: usize) -> f32 {
        f32::from_bits(self.words[self.tokens * 8 + token])
    }
}

/// Below this a block's largest value counts as zero: its reciprocal would overflow. 2^-100.
const TINY: f32 = f32::from_bits((127 - 100) << 23);

/// Writes the record of block `block` of `x`, `[tokens, cols]`, as `kind`: the reference. Every tier gives the same bits.
///
/// Rounding is to nearest even. A block of values below 2^-100 becomes zero; one that holds NaN or infinity gets a NaN
/// scale, so that it is seen in the result.
#[inline(always)]
pub(crate) fn fill(kind: ActivationKind, x: &[f32], cols: usize, block: usize, record: &mut [Line]) {
    let tokens = x.len() / cols;
    let width = BLOCK.min(cols - block * BLOCK);
    let out = words_mut(record);
    for t in 0..tokens {
        let x = &x[t * cols + block * BLOCK..][..width];
        match x.as_array() {
            Some(x) => put(kind, x, tokens, t, out),
            None => {
                let mut padded = [0.0; BLOCK];
                padded[..width].copy_from_slice(x);
                put(kind, &padded, tokens, t, out);
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
        ActivationKind::Q8 => {
            let (codes, scale) = quantise(x);
            let low: i32 = codes[..16].iter().map(|&c| i32::from(c)).sum();
            let high: i32 = codes[16..].iter().map(|&c| i32::from(c)).sum();
            for (out, code) in out[t * 8..][..8].iter_mut().zip(codes.as_chunks::<4>().0) {
                *out = u32::from_le_bytes(code.map(|c| c as u8));
            }
            out[tokens * 8 + t] = scale.to_bits();
            out[tokens * 9 + t] = (-low - high) as u32;
            out[tokens * 10 + t] = (-low) as u32;
        }
    }
}

/// Codes and scale of a block.
#[inline(always)]
fn quantise(x: &[f32; BLOCK]) -> ([i8; BLOCK], f32) {
    // Magnitudes order as their bits do, with infinity and then NaN above all numbers.
    let top = x.iter().fold(0, |top, x| top.max(x.to_bits() & i32::MAX as u32));
    let largest = f32::from_bits(top);
    if !largest.is_finite() {
        return ([0; BLOCK], f32::NAN);
    }
    if largest < TINY {
        return ([0; BLOCK], 0.0);
    }
    let inverse = 127.0 / largest;
    // Adding 1.5 * 2^23 leaves the nearest whole number, ties to even, in the low bits.
    (x.map(|x| (x * inverse + 12_582_912.0).to_bits() as i8), largest / 127.0)
}

/// The words of lines.
#[inline(always)]
pub(crate) fn words(lines: &[Line]) -> &[u32] {
    lines_as_words(lines).as_flattened()
}

#[inline(always)]
fn words_mut(lines: &mut [Line]) -> &mut [u32] {
    lines_as_words_mut(lines).as_flattened_mut()
}

#[allow(unsafe_code, reason = "a line is its words")]
#[inline(always)]
fn lines_as_words(lines: &[Line]) -> &[[u32; 16]] {
    // SAFETY: `Line` is `repr(C)` with this array as its only field and of the same size.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len()) }
}

#[allow(unsafe_code, reason = "a line is its words")]
#[inline(always)]
fn lines_as_words_mut(lines: &mut [Line]) -> &mut [[u32; 16]] {
    // SAFETY: `Line` is `repr(C)` with this array as its only field and of the same size; the borrow is exclusive.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len()) }
}

/// Fills a whole buffer of lines from `[tokens, cols]` floats, on this thread.
///
/// # Panics
/// If `x` is not a whole number of rows of `cols`.
pub fn activations(kernels: &Kernels, kind: ActivationKind, x: &[f32], cols: usize) -> Vec<Line> {
    assert!(cols > 0 && x.len().is_multiple_of(cols), "activations: x is not [tokens, {cols}]");
    let tokens = x.len() / cols;
    let mut lines = vec![Line::ZERO; kind.lines(tokens, cols)];
    for (block, record) in lines.chunks_mut(kind.record_lines(tokens).max(1)).enumerate() {
        kernels.fill(kind, x, cols, block, record);
    }
    lines
}
