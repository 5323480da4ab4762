//! Cache lines as slices of words, and words as floats with the same bits. It must not know what the words
//! mean.

/// A cache line, the unit of activation memory: words that are floats, integers or four codes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Line([u32; 16]);

impl Line {
    /// All words zero.
    pub const ZERO: Self = Self([0; 16]);

    /// Its sixteen words, for computing elsewhere than in this crate.
    pub fn as_words(&self) -> &[u32; 16] {
        &self.0
    }
}

/// Lines as words: 16 for each.
#[inline(always)]
pub(crate) fn words(lines: &[Line]) -> &[u32] {
    // SAFETY: `Line` is `repr(C)` with 16 words as its only field and of the same size.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 16) }
}

/// Lines as mutable words: 16 for each.
#[inline(always)]
pub(crate) fn words_mut(lines: &mut [Line]) -> &mut [u32] {
    // SAFETY: `Line` is `repr(C)` with 16 words as its only field and of the same size; the borrow is
    // exclusive.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 16) }
}

/// Words as floats with the same bits.
#[inline(always)]
pub(crate) fn floats(words: &[u32]) -> &[f32] {
    // SAFETY: a float has the size and alignment of a word, and every word is one.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len()) }
}
