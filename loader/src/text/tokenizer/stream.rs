//! From ids back to text: what each piece spells, and a decoder that never cuts a character.
//!
//! It must not know how text becomes ids.

use std::sync::Arc;

use super::kind::TokenKind;

/// How pieces spell bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// GPT-2's alphabet of 256 printable characters, one per byte.
    ByteLevel,
    /// SentencePiece: U+2581 is a space, `<0x..>` a byte.
    Metaspace {
        /// Whether encoding adds a space in front of the text, which decoding removes.
        strip_first: bool,
    },
}

/// One token of a vocabulary under construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VocabPiece {
    pub text: String,
    pub kind: TokenKind,
}

/// All pieces by id; shared by the tokenizer and its decoders.
pub(super) struct PieceTable {
    pieces: Vec<VocabPiece>,
    spelling: Spelling,
}

impl PieceTable {
    pub(super) fn new(pieces: Vec<VocabPiece>, spelling: Spelling) -> Self {
        Self { pieces, spelling }
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Longest text of a token in bytes, control tokens excluded.
    pub(super) fn longest(&self) -> usize {
        let mut bytes = Vec::new();
        let text = (0_u32..).zip(&self.pieces).filter(|(_, piece)| piece.kind != TokenKind::Control);
        let lens = text.map(|(id, _)| {
            bytes.clear();
            self.spell(id, &mut bytes);
            bytes.len()
        });
        lens.max().unwrap_or(0)
    }

    fn get(&self, id: u32) -> Option<&VocabPiece> {
        self.pieces.get(usize::try_from(id).ok()?)
    }

    pub(super) fn piece(&self, id: u32) -> Option<&str> {
        self.get(id).map(|piece| piece.text.as_str()).filter(|text| !text.is_empty())
    }

    pub(super) fn kind(&self, id: u32) -> Option<TokenKind> {
        self.get(id).map(|piece| piece.kind)
    }

    /// Appends the bytes that `id` spells.
    fn spell(&self, id: u32, out: &mut Vec<u8>) {
        let Some(piece) = self.get(id) else { return };
        let text = piece.text.as_str();
        match (piece.kind, self.spelling) {
            (TokenKind::UserDefined | TokenKind::Control | TokenKind::Unknown, _) => {
                out.extend_from_slice(text.as_bytes());
            }
            (TokenKind::Byte, _) => match byte_of(text) {
                Some(byte) => out.push(byte),
                None => out.extend_from_slice(text.as_bytes()),
            },
            (_, Spelling::ByteLevel) => {
                let start = out.len();
                for c in text.chars() {
                    match byte_of_char(c) {
                        Some(byte) => out.push(byte),
                        // Not in the alphabet: an added word, which is plain text.
                        None => {
                            out.truncate(start);
                            out.extend_from_slice(text.as_bytes());
                            return;
                        }
                    }
                }
            }
            (_, Spelling::Metaspace { .. }) => {
                for (i, part) in text.split('\u{2581}').enumerate() {
                    if i > 0 {
                        out.push(b' ');
                    }
                    out.extend_from_slice(part.as_bytes());
                }
            }
        }
    }
}

/// The byte that `<0x0A>` names; exactly this form, upper case.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let valid = digits.len() == 2 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    if valid { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// The byte that a character of GPT-2's alphabet stands for: printable Latin-1 stands for itself, the other
/// 68 bytes, in order, for the characters from U+0100.
pub(super) fn byte_of_char(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// Decodes a stream of tokens. Incomplete characters are held back.
pub struct StreamDecoder {
    table: Arc<PieceTable>,
    /// Bytes of a character that is not complete.
    pending: Vec<u8>,
    /// Whether the next text may begin with the space that encoding adds.
    at_start: bool,
    show_control: bool,
}

impl std::fmt::Debug for StreamDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamDecoder").field("pending", &self.pending).finish_non_exhaustive()
    }
}

impl StreamDecoder {
    pub(super) fn new(table: Arc<PieceTable>) -> Self {
        let at_start = matches!(table.spelling, Spelling::Metaspace { strip_first: true });
        Self { table, pending: Vec::new(), at_start, show_control: false }
    }

    /// For tokens that continue a text: a leading space is kept.
    #[must_use]
    pub fn continuing(mut self) -> Self {
        self.at_start = false;
        self
    }

    /// Shows control and unknown tokens by their names instead of leaving them out.
    #[must_use]
    pub fn showing_control(mut self) -> Self {
        self.show_control = true;
        self
    }

    /// Takes the next token; returns the text that is complete now, or `None`. Ids beyond the vocabulary are
    /// ignored.
    pub fn push(&mut self, id: u32) -> Option<String> {
        match self.table.kind(id)? {
            TokenKind::Control | TokenKind::Unused if !self.show_control => return None,
            TokenKind::Unknown if !self.show_control => self.pending.extend("\u{fffd}".as_bytes()),
            _ => {
                let start = self.pending.len();
                self.table.spell(id, &mut self.pending);
                if self.at_start && self.pending.len() > start {
                    self.at_start = false;
                    if self.pending.first() == Some(&b' ') {
                        self.pending.remove(0);
                    }
                }
            }
        }
        self.drain(false)
    }

    /// The rest; an incomplete character becomes U+FFFD.
    pub fn finish(mut self) -> Option<String> {
        self.drain(true)
    }

    fn drain(&mut self, last: bool) -> Option<String> {
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    match error.error_len() {
                        Some(len) => {
                            text.push('\u{fffd}');
                            rest = after.get(len..).unwrap_or_default();
                        }
                        None if last => {
                            text.push('\u{fffd}');
                            rest = &[];
                            break;
                        }
                        None => {
                            rest = after;
                            break;
                        }
                    }
                }
            }
        }
        self.pending = rest.to_vec();
        (!text.is_empty()).then_some(text)
    }
}
