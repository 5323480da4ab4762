//! Whether bytes are text: UTF-8, or UTF-16 with a byte order mark. It must not know what the text is for.

use std::borrow::Cow;

/// Why bytes are not text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotText {
    /// A byte that is not part of a UTF-8 character.
    #[error("byte {offset} (0x{byte:02x}) is not valid UTF-8")]
    Utf8 {
        /// Offset of the byte.
        offset: usize,
        /// Its value.
        byte: u8,
    },
    /// Half of a UTF-16 character, or of a code unit.
    #[error("byte {offset} does not begin a valid UTF-16 character")]
    Utf16 {
        /// Offset of its first byte.
        offset: usize,
    },
    /// A zero byte, which occurs in most binary files and in no text.
    #[error("byte {offset} is zero")]
    Zero {
        /// Offset of the byte.
        offset: usize,
    },
}

/// The text in `bytes`, without its byte order mark. Only UTF-16 is copied.
///
/// # Errors
/// [`NotText`] with the first byte at fault.
pub fn text_of(bytes: &[u8]) -> Result<Cow<'_, str>, NotText> {
    match bytes {
        [0xff, 0xfe, rest @ ..] => utf_16(rest, u16::from_le_bytes).map(Cow::Owned),
        [0xfe, 0xff, rest @ ..] => utf_16(rest, u16::from_be_bytes).map(Cow::Owned),
        [0xef, 0xbb, 0xbf, rest @ ..] => utf_8(rest, 3).map(Cow::Borrowed),
        _ => utf_8(bytes, 0).map(Cow::Borrowed),
    }
}

/// Text behind a mark of `mark` bytes.
fn utf_8(bytes: &[u8], mark: usize) -> Result<&str, NotText> {
    let (text, bad) = match std::str::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
            (std::str::from_utf8(valid).unwrap_or_default(), bytes.get(error.valid_up_to()))
        }
    };
    if let Some(zero) = text.bytes().position(|byte| byte == 0) {
        return Err(NotText::Zero { offset: mark + zero });
    }
    match bad {
        Some(&byte) => Err(NotText::Utf8 { offset: mark + text.len(), byte }),
        None => Ok(text),
    }
}

/// Text behind a mark of two bytes.
fn utf_16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, NotText> {
    const MARK: usize = 2;
    let (units, rest) = bytes.as_chunks::<2>();
    let (mut text, mut offset) = (String::with_capacity(bytes.len()), MARK);
    for c in char::decode_utf16(units.iter().map(|&bytes| unit(bytes))) {
        match c {
            Ok('\0') => return Err(NotText::Zero { offset }),
            Ok(c) => {
                text.push(c);
                offset += 2 * c.len_utf16();
            }
            Err(_) => return Err(NotText::Utf16 { offset }),
        }
    }
    if rest.is_empty() { Ok(text) } else { Err(NotText::Utf16 { offset }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read() {
        assert_eq!(text_of(b""), Ok("".into()));
        assert_eq!(text_of("a é 𝄞\r\n\t\u{1b}[0m".as_bytes()), Ok("a é 𝄞\r\n\t\u{1b}[0m".into()));
        assert_eq!(text_of(b"\xef\xbb\xbfa"), Ok("a".into()));
        assert_eq!(text_of(b"\xff\xfea\0\xe9\0\x34\xd8\x1e\xdd"), Ok("aé𝄞".into()));
        assert_eq!(text_of(b"\xfe\xff\0a\0\xe9\xd8\x34\xdd\x1e"), Ok("aé𝄞".into()));
        assert!(matches!(text_of(b"a"), Ok(Cow::Borrowed("a"))));
    }

    #[test]
    fn the_first_bad_byte_is_named() {
        let error = |bytes: &[u8]| text_of(bytes).unwrap_err();
        assert_eq!(error(b"ab\xffc"), NotText::Utf8 { offset: 2, byte: 0xff });
        assert_eq!(error(b"ab\xc3"), NotText::Utf8 { offset: 2, byte: 0xc3 });
        assert_eq!(error(b"\xef\xbb\xbfa\xff"), NotText::Utf8 { offset: 4, byte: 0xff });
        assert_eq!(error(b"GGUF\x03\0\0\0"), NotText::Zero { offset: 5 });
        assert_eq!(error(b"a\0b\xff"), NotText::Zero { offset: 1 });
        assert_eq!(error(b"\x7fELF\x02\x01\x01\0"), NotText::Zero { offset: 7 });
        assert_eq!(error(b"\xff\xfea\0\x34\xd8a\0"), NotText::Utf16 { offset: 4 });
        assert_eq!(error(b"\xff\xfea\0b"), NotText::Utf16 { offset: 4 });
        assert_eq!(error(b"\xff\xfe\0\0a\0\0\0"), NotText::Zero { offset: 2 }, "UTF-32");
        assert_eq!(error(b"\x89PNG\r\n").to_string(), "byte 0 (0x89) is not valid UTF-8");
    }
}
