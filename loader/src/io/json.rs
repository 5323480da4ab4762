//! Untrusted JSON: size, depth and number of values are checked before anything is built from it. It must not
//! know fields.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use std::io::ErrorKind;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::container::sniff;
use crate::error::{Fault, LoadError, Result};
use crate::io::RegularFile;
use crate::io::reader::len_u64;

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
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    if std::str::from_utf8(text).is_err() {
        return fail(Fault::NotUtf8);
    }
    let outline = outline(text);
    if outline.depth > MAX_DEPTH {
        return fail(Fault::TooDeep { limit: MAX_DEPTH });
    }
    if outline.values > MAX_VALUES {
        let fault = Fault::OutOfRange { found: outline.values.to_string(), low: 0, high: MAX_VALUES };
        return Err(LoadError::malformed(path, "number of values", fault));
    }
    serde_json::from_slice(text).or_else(|error| fail(fault(&error)))
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
    let text = String::from_utf8(file.read(bytes_max)?);
    text.map(Some).map_err(|_| LoadError::malformed(path, "the file", Fault::NotUtf8))
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
