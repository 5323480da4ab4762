//! What tokens are for, and how many a vocabulary may have.

/// Most token ids a vocabulary may have.
pub const TOKENS_MAX: usize = 1 << 20;
/// Most merges a byte-pair vocabulary may have.
pub const MERGES_MAX: usize = 1 << 21;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text.
    Normal,
    /// Stands for what the vocabulary cannot spell.
    Unknown,
    /// Structure (begin, end of turn, roles): never made from text, never printed.
    Control,
    /// A word added by hand, matched in text before anything else, e.g. `</think>`.
    UserDefined,
    /// An id without meaning.
    Unused,
    /// One byte, `<0x00>` to `<0xFF>`.
    Byte,
}
