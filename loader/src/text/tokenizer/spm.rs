//! Vocabularies of folders that have no `tokenizer.json`, as M2M100 is released: `sentencepiece.bpe.model` (a
//! protocol buffer, `sentencepiece_model.proto` of google/sentencepiece) says how a text is cut, `vocab.json`
//! which ids the pieces have, and languages have the ids after these, as transformers' `M2M100Tokenizer` has
//! them. Both become the text of a `tokenizer.json`. It must not know how that is read.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use std::collections::{BTreeMap, HashSet};
use std::io::ErrorKind;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::build::vocabulary;
use super::gguf::derive_merges;
use super::kind::{TOKENS_MAX, TokenKind};
use super::stream::VocabPiece;
use crate::error::{LoadError, Result};
use crate::io::RegularFile;
use crate::io::json;
use crate::io::reader::Reader;

/// The file of pieces.
const MODEL: &str = "sentencepiece.bpe.model";
/// The file of ids.
const IDS: &str = "vocab.json";
/// Largest of both, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Longest piece, in bytes.
const PIECE_BYTES_MAX: usize = 1 << 10;
/// `TrainerSpec.ModelType` of byte-pair encoding.
const BPE: u64 = 2;

/// The text of a `tokenizer.json` that says what both files say; `None` for a folder without them.
///
/// # Errors
/// Damaged files; [`LoadError::Unsupported`] for pieces that are not cut by byte-pair encoding, and for
/// folders that do not list their languages.
pub(super) fn as_tokenizer_json(dir: &Path, notices: &mut Vec<String>) -> Result<Option<String>> {
    let path = dir.join(MODEL);
    let bytes = match RegularFile::open(&path) {
        Ok(file) => file.read(FILE_BYTES_MAX)?,
        Err(LoadError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let ids_path = dir.join(IDS);
    let Some(text) = json::read_text(&ids_path, FILE_BYTES_MAX)? else { return Ok(None) };
    let ids: BTreeMap<String, u32> = json::parse_text(&ids_path, IDS, &text)?;
    let model = Pieces::read(&path, &bytes)?;
    if model.kind != BPE {
        return Err(LoadError::Unsupported {
            path,
            feature: "pieces that are not cut by byte-pair encoding".to_owned(),
            hint: "get the model's tokenizer.json".to_owned(),
        });
    }
    let languages = languages(dir)?;
    let normalizer = normalizer(&model);
    let known: Vec<(VocabPiece, f32)> = (model.pieces.into_iter())
        .filter(|(piece, _)| ids.contains_key(&piece.text) || piece.kind != TokenKind::Normal)
        .collect();
    let left_out = model.count - known.len();
    if left_out > 0 {
        notices.push(format!("{left_out} pieces of {MODEL} have no id in {IDS}; texts are cut without them"));
    }
    let (pieces, scores): (Vec<VocabPiece>, Vec<f32>) = known.into_iter().unzip();
    let normal: HashSet<&str> =
        pieces.iter().filter(|p| p.kind == TokenKind::Normal).map(|p| p.text.as_str()).collect();
    let merges: Vec<Value> = (derive_merges(&path, &pieces, &scores)?.into_iter())
        .map(|(left, right)| json!([left, right]))
        .collect();
    // What no text is cut into: `<s>` and the like.
    let special = ids.iter().filter(|(text, _)| !normal.contains(text.as_str()));
    let mut special: Vec<(u32, &str)> = special.map(|(text, &id)| (id, text.as_str())).collect();
    let first = ids.values().max().map_or(0, |&last| last.saturating_add(1));
    special.extend((first..).zip(languages.iter().map(String::as_str)));
    special.sort_unstable();
    let scheme = if model.prefix { "always" } else { "never" };
    let metaspace =
        json!({ "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": true });
    let added: Vec<Value> = special
        .into_iter()
        .map(|(id, text)| {
            json!({
                "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true
            })
        })
        .collect();
    let file = json!({
        "version": "1.0", "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": metaspace, "post_processor": null, "decoder": metaspace,
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": false,
            "vocab": ids, "merges": merges
        }
    });
    Ok(Some(file.to_string()))
}

/// What is done to a text before it is cut.
fn normalizer(model: &Pieces) -> Value {
    let mut normalizers = Vec::new();
    if !model.charsmap.is_empty() {
        normalizers.push(json!({ "type": "Precompiled", "precompiled_charsmap": base64(&model.charsmap) }));
    }
    if model.squeezes {
        normalizers.push(json!({ "type": "Strip", "strip_left": true, "strip_right": true }));
        normalizers.push(json!({ "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " }));
    }
    if model.prefix {
        // Metaspace puts no space before a text that begins with a visible one; SentencePiece does.
        let first = json!({ "Regex": "\\A\u{2581}" });
        normalizers.push(json!({ "type": "Replace", "pattern": first, "content": "\u{2581}\u{2581}" }));
    }
    json!({ "type": "Sequence", "normalizers": normalizers })
}

/// The tokens of languages, in the order of their ids.
fn languages(dir: &Path) -> Result<Vec<String>> {
    #[derive(Default, Deserialize)]
    struct Named {
        #[serde(default)]
        additional_special_tokens: Vec<Name>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Name {
        Text(String),
        Token { content: String },
    }
    for name in ["special_tokens_map.json", "tokenizer_config.json"] {
        let path = dir.join(name);
        let Some(text) = json::read_text(&path, json::CONFIG_BYTES_MAX)? else { continue };
        let named: Named = json::parse_text(&path, name, &text)?;
        let text = |name| match name {
            Name::Text(text) | Name::Token { content: text } => text,
        };
        let found: Vec<String> = named.additional_special_tokens.into_iter().map(text).collect();
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(LoadError::Unsupported {
        path: dir.join(MODEL),
        feature: "a vocabulary without a list of its languages".to_owned(),
        hint: "get the model's special_tokens_map.json, whose additional_special_tokens are these".to_owned(),
    })
}

/// What is read of the file of pieces.
struct Pieces {
    /// With their scores: better ones merge first.
    pieces: Vec<(VocabPiece, f32)>,
    /// How many there are.
    count: usize,
    /// How a text is cut.
    kind: u64,
    charsmap: Vec<u8>,
    /// Whether a text begins with a space.
    prefix: bool,
    /// Whether runs of spaces become one.
    squeezes: bool,
}

impl Pieces {
    fn read(path: &Path, bytes: &[u8]) -> Result<Self> {
        // Defaults of the format.
        let mut out = Self {
            pieces: Vec::new(),
            count: 0,
            kind: 1,
            charsmap: Vec::new(),
            prefix: true,
            squeezes: true,
        };
        let mut message = Message::new(path, bytes);
        while let Some((field, value)) = message.next()? {
            match (field, value) {
                (1, Field::Bytes(piece)) => {
                    let piece = piece_of(path, &piece)?;
                    out.pieces.push(piece);
                    if out.pieces.len() > TOKENS_MAX {
                        let problem = format!("has more than {TOKENS_MAX} pieces");
                        return Err(vocabulary(path, "pieces", problem));
                    }
                }
                (2, Field::Bytes(trainer)) => {
                    let mut trainer = Message::new(path, &trainer);
                    while let Some((field, value)) = trainer.next()? {
                        if let (3, Field::Number(kind)) = (field, value) {
                            out.kind = kind;
                        }
                    }
                }
                (3, Field::Bytes(normalizer)) => {
                    let mut normalizer = Message::new(path, &normalizer);
                    while let Some((field, value)) = normalizer.next()? {
                        match (field, value) {
                            (2, Field::Bytes(map)) => out.charsmap = map,
                            (3, Field::Number(prefix)) => out.prefix = prefix != 0,
                            (4, Field::Number(squeezes)) => out.squeezes = squeezes != 0,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        out.count = out.pieces.len();
        Ok(out)
    }
}

fn piece_of(path: &Path, bytes: &[u8]) -> Result<(VocabPiece, f32)> {
    let mut piece = VocabPiece { text: String::new(), kind: TokenKind::Normal };
    let mut score = 0.0;
    let mut message = Message::new(path, bytes);
    while let Some((field, value)) = message.next()? {
        match (field, value) {
            (1, Field::Bytes(text)) if text.len() <= PIECE_BYTES_MAX => {
                piece.text = String::from_utf8(text)
                    .map_err(|_| vocabulary(path, "pieces", "has a piece that is not UTF-8".to_owned()))?;
            }
            (1, Field::Bytes(text)) => {
                return Err(vocabulary(path, "pieces", format!("has a piece of {} bytes", text.len())));
            }
            (2, Field::Bits(bits)) if !f32::from_bits(bits).is_nan() => score = f32::from_bits(bits),
            (3, Field::Number(kind)) => {
                piece.kind = match kind {
                    1 => TokenKind::Normal,
                    2 => TokenKind::Unknown,
                    4 => TokenKind::UserDefined,
                    6 => TokenKind::Byte,
                    5 => TokenKind::Unused,
                    _ => TokenKind::Control,
                }
            }
            _ => {}
        }
    }
    Ok((piece, score))
}

/// A value of a message.
enum Field {
    Number(u64),
    Bytes(Vec<u8>),
    /// 32 bits.
    Bits(u32),
    Other,
}

/// The fields of a protocol buffer message, one after the other.
struct Message<'a>(Reader<'a>);

impl<'a> Message<'a> {
    fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self(Reader::new(path, bytes))
    }

    /// The next field's number and value; `None` at the end.
    fn next(&mut self) -> Result<Option<(u64, Field)>> {
        if self.0.remaining() == 0 {
            return Ok(None);
        }
        let tag = self.number()?;
        let value = match tag & 7 {
            0 => Field::Number(self.number()?),
            1 => {
                self.0.skip(8, "a field")?;
                Field::Other
            }
            2 => {
                let len = self.number()?;
                Field::Bytes(self.0.bytes(len, "a field")?)
            }
            5 => Field::Bits(self.0.scalar("a field")?),
            kind => {
                let problem = format!("has a field of kind {kind}: it is no SentencePiece model");
                return Err(vocabulary(self.0.path(), "the file", problem));
            }
        };
        Ok(Some((tag >> 3, value)))
    }

    /// A number of seven bits a byte, the lowest first.
    fn number(&mut self) -> Result<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte: u8 = self.0.scalar("a number")?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(vocabulary(self.0.path(), "a number", "is longer than 64 bits".to_owned()))
    }
}

/// Bytes as text (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letter = |six: u32| LETTERS.get(usize::try_from(six & 63).unwrap_or(0)).copied().unwrap_or(b'A');
    let mut out = String::with_capacity(bytes.len().div_ceil(3).saturating_mul(4));
    for three in bytes.chunks(3) {
        let byte = |at: usize| three.get(at).copied().map_or(0, u32::from);
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4_u32 {
            let there = usize::try_from(at).is_ok_and(|at| at <= three.len());
            out.push(if there { char::from(letter(bits >> (18 - 6 * at))) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (bytes, text) in cases {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn damaged_messages_are_refused() {
        let path = Path::new("pieces");
        let cases: [&[u8]; 4] = [&[0x0A, 0x05, 1], &[0x0B], &[0x80; 11], &[0x0A, 0x03, 0x0A, 0x01, 0xFF]];
        for bytes in cases {
            assert!(Pieces::read(path, bytes).is_err(), "{bytes:?}");
        }
        assert_eq!(Pieces::read(path, &[]).map(|pieces| pieces.count).ok(), Some(0));
    }
}
