//! Untrusted JSON: size, depth and number of values are checked before anything is built from it. It must not
//! know fields.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::container::sniff;
use crate::error::{Fault, LoadError, Result};
use crate::io::RegularFile;
use crate::io::reader::len_u64;
use crate::text::plain::text_of;

/// Deepest nesting of objects and arrays in any JSON file of a model. `serde_json` itself stops at 128.
pub const MAX_DEPTH: usize = 64;

/// Most values and keys in a JSON file of a model. The shard index of the largest models has half as many. A
/// value takes up to a hundred times the memory of its text.
const MAX_VALUES: u64 = 1 << 19;

/// The outline of a JSON text, found without building anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Outline {
    /// Deepest nesting of objects and arrays.
    pub depth: usize,
    /// Members of the outermost object, counted by its colons.
    pub members: u64,
    /// An upper bound of the values, keys included: each follows a comma, a colon or a bracket.
    pub values: u64,
}

/// Scans a text that need not be valid JSON.
pub(crate) fn outline(text: &[u8]) -> Outline {
    let mut scan = Scan::default();
    scan.feed(text);
    scan.outline
}

/// A scan of a text that comes in pieces.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Of the pieces so far.
    pub outline: Outline,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Scan {
    /// Takes the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        for &byte in piece {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => {
                    self.depth += 1;
                    self.outline.depth = self.outline.depth.max(self.depth);
                    self.outline.values += 1;
                }
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                b':' => {
                    self.outline.values += 1;
                    self.outline.members += u64::from(self.depth == 1);
                }
                b',' => self.outline.values += 1,
                _ => {}
            }
        }
    }
}

/// Reads a JSON file of at most `max_bytes`.
///
/// # Errors
/// [`LoadError::Io`]; [`LoadError::Malformed`] with [`Fault::TooLong`], [`Fault::NotUtf8`],
/// [`Fault::TooDeep`], [`Fault::OutOfRange`] for too many values, or [`Fault::Json`].
pub fn read<T: DeserializeOwned>(path: &Path, max_bytes: u64) -> Result<T> {
    let file = RegularFile::open(path)?;
    let parsed = file.read(max_bytes).and_then(|text| parse(path, &text, max_bytes));
    parsed.map_err(|error| sniff::explain(path, &file.head(sniff::HEAD), error))
}

/// Parses a JSON text of at most `max_bytes`; `path` is for messages.
///
/// # Errors
/// As [`read`].
pub fn parse<T: DeserializeOwned>(path: &Path, text: &[u8], max_bytes: u64) -> Result<T> {
    let fail = |fault| Err(LoadError::malformed(path, "the file", fault));
    if len_u64(text.len()) > max_bytes {
        return fail(Fault::TooLong { found: len_u64(text.len()), limit: max_bytes });
    }
    let Some(text) = as_json(text) else { return fail(Fault::NotUtf8) };
    let outline = outline(text.as_bytes());
    if outline.depth > MAX_DEPTH {
        return fail(Fault::TooDeep { limit: MAX_DEPTH });
    }
    if outline.values > MAX_VALUES {
        let fault = Fault::OutOfRange { found: outline.values.to_string(), low: 0, high: MAX_VALUES };
        return Err(LoadError::malformed(path, "number of values", fault));
    }
    serde_json::from_str(&text).or_else(|error| fail(fault(&error)))
}

/// What Python writes for numbers that JSON has no form for. They are read as texts: a field that needs a
/// number takes them for what they are, and fields that no reader knows do no harm.
pub(crate) const NOT_FINITE: [(&str, f64); 3] =
    [("NaN", f64::NAN), ("Infinity", f64::INFINITY), ("-Infinity", f64::NEG_INFINITY)];

/// The text of a JSON file as other programs write it: without its byte order mark, in UTF-8 if it was
/// UTF-16, with [`NOT_FINITE`] numbers as texts. `None` if it is neither UTF-8 nor UTF-16.
fn as_json(bytes: &[u8]) -> Option<Cow<'_, str>> {
    let text = match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => text_of(bytes).ok()?,
        _ => Cow::Borrowed(std::str::from_utf8(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)).ok()?),
    };
    Some(match quoted_numbers(&text) {
        Some(quoted) => Cow::Owned(quoted),
        None => text,
    })
}

/// `text` with quotes around [`NOT_FINITE`] numbers; `None` if it has none outside of strings.
fn quoted_numbers(text: &str) -> Option<String> {
    let (mut out, mut copied) = (None::<String>, 0);
    let (mut in_string, mut escaped) = (false, false);
    let mut after = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if at < after => {}
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'N' | b'I' | b'-' if !in_string => {
                let rest = text.get(at..).unwrap_or_default();
                let Some((name, _)) = NOT_FINITE.iter().find(|(name, _)| rest.starts_with(name)) else {
                    continue;
                };
                let out = out.get_or_insert_default();
                out.push_str(text.get(copied..at).unwrap_or_default());
                out.extend(["\"", name, "\""]);
                after = at + name.len();
                copied = after;
            }
            _ => {}
        }
    }
    let mut out = out?;
    out.push_str(text.get(copied..).unwrap_or_default());
    Some(out)
}

/// Largest of the small configuration files, in bytes.
pub(crate) const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// Reads a text file of at most `bytes_max` bytes; `None` if there is none.
pub(crate) fn read_text(path: &Path, bytes_max: u64) -> Result<Option<String>> {
    let file = match RegularFile::open(path) {
        Ok(file) => file,
        Err(LoadError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let bytes = file.read(bytes_max)?;
    // A web page or a pointer in place of the file.
    sniff::not_foreign(path, &bytes)?;
    let not_utf8 = || LoadError::malformed(path, "the file", Fault::NotUtf8);
    match as_json(&bytes).ok_or_else(not_utf8)? {
        Cow::Borrowed(text) if text.len() < bytes.len() => Ok(Some(text.to_owned())),
        Cow::Borrowed(_) => String::from_utf8(bytes).map(Some).map_err(|_| not_utf8()),
        Cow::Owned(text) => Ok(Some(text)),
    }
}

/// Parses `text`, the contents of `path`, into a type that may borrow from it. Builds no tree of the whole
/// file: nested garbage costs no more memory than its text.
pub(crate) fn parse_text<'a, T: Deserialize<'a>>(path: &Path, field: &str, text: &'a str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| LoadError::malformed(path, field, fault(&error)))
}

/// A parser error as a fault. The message can quote the text, so control characters are escaped.
pub(crate) fn fault(error: &serde_json::Error) -> Fault {
    let message = error.to_string();
    // The position has fields of its own.
    let message = message.split(" at line ").next().unwrap_or_default();
    let message =
        message.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] });
    Fault::Json { message: message.take(200).collect(), line: error.line(), column: error.column() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outline_sees_depth_and_members_but_not_into_strings() {
        assert_eq!(
            outline(br#"{"a": [1, {"b": 2}], "c": "{[\"{"}"#),
            Outline { depth: 3, members: 2, values: 8 }
        );
        assert_eq!(outline(b"]]}["), Outline { depth: 1, members: 0, values: 1 });
    }

    #[test]
    fn texts_as_other_programs_write_them_are_read() {
        let read = |bytes: &[u8]| parse::<serde_json::Value>(Path::new("f"), bytes, 1 << 20).unwrap();
        let expected = serde_json::json!({ "a": 1 });
        assert_eq!(read(b"\xef\xbb\xbf{\"a\": 1}"), expected);
        let utf_16 =
            |bytes: fn(u16) -> [u8; 2]| "\u{feff}{\"a\": 1}".encode_utf16().flat_map(bytes).collect();
        let (little, big): (Vec<u8>, Vec<u8>) = (utf_16(u16::to_le_bytes), utf_16(u16::to_be_bytes));
        assert_eq!((read(&little), read(&big)), (expected.clone(), expected));
        assert_eq!(
            read(br#"{"a": [NaN, -Infinity,Infinity], "NaN": "-Infinity, \"NaN", "b": -1}"#),
            serde_json::json!({ "a": ["NaN", "-Infinity", "Infinity"], "NaN": "-Infinity, \"NaN", "b": -1 })
        );
        assert_eq!(quoted_numbers(r#"{"NaN": 1, "I": "\\"}"#), None);
    }

    #[test]
    fn deep_and_broken_texts_are_told_apart() {
        let parse = |text: &str| parse::<serde_json::Value>(Path::new("f"), text.as_bytes(), 1 << 20);
        assert!(parse(r#"{"a": [1, 2]}"#).is_ok());
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(matches!(parse(&deep), Err(LoadError::Malformed { fault: Fault::TooDeep { .. }, .. })));
        assert!(matches!(
            parse("{\n\"a\" 1}"),
            Err(LoadError::Malformed { fault: Fault::Json { line: 2, .. }, .. })
        ));
    }
}
