//! Files that are read as text: with a limit, and only if they are text. UTF-8 is taken with and without a
//! byte order mark, UTF-16 with one. It must not know what a text is for.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes at the beginning of a file that are checked before the rest is read.
const HEAD_BYTES: u64 = 8 << 10;

/// Why a file is not read as text.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// Opening or reading failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A folder, a device or a pipe.
    #[error("not a regular file")]
    NotAFile,
    /// More bytes than the limit.
    #[error("larger than {mib} MiB", mib = .0 >> 20)]
    TooLarge(u64),
    /// The file has a zero byte, which no text has.
    #[error("not a text file (binary data)")]
    Binary,
    /// Neither UTF-8, nor UTF-16 with a byte order mark.
    #[error("not UTF-8 text (invalid byte at offset {0}); convert it to UTF-8 first")]
    NotUtf8(usize),
    /// The byte order mark says UTF-16, but the rest is not valid UTF-16.
    #[error("not valid UTF-16 text; convert it to UTF-8 first")]
    NotUtf16,
}

/// Reads a text file of at most `bytes_max` bytes. A binary file is refused after its first 8 KiB.
///
/// # Errors
/// See [`TextError`].
pub fn read(path: &Path, bytes_max: u64) -> Result<String, TextError> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(TextError::NotAFile);
    }
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(len.min(bytes_max)).unwrap_or(0) + 1);
    (&mut file).take(HEAD_BYTES.min(bytes_max + 1)).read_to_end(&mut bytes)?;
    if utf16_of(&bytes).is_none() && bytes.contains(&0) {
        return Err(TextError::Binary);
    }
    file.take((bytes_max + 1).saturating_sub(bytes.len() as u64)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(TextError::TooLarge(bytes_max));
    }
    decode(bytes)
}

/// The text in `bytes`, without its byte order mark.
///
/// # Errors
/// [`TextError::Binary`], [`TextError::NotUtf8`], [`TextError::NotUtf16`].
pub fn decode(mut bytes: Vec<u8>) -> Result<String, TextError> {
    let text = match utf16_of(&bytes) {
        Some(unit) => {
            let (units, rest) = bytes[2..].as_chunks::<2>();
            let units = units.iter().map(|bytes| unit(*bytes));
            let text = char::decode_utf16(units).collect::<Result<String, _>>();
            text.ok().filter(|_| rest.is_empty()).ok_or(TextError::NotUtf16)?
        }
        None => {
            if bytes.starts_with(b"\xef\xbb\xbf") {
                bytes.drain(..3);
            }
            String::from_utf8(bytes).map_err(|error| {
                if error.as_bytes().contains(&0) {
                    TextError::Binary
                } else {
                    TextError::NotUtf8(error.utf8_error().valid_up_to())
                }
            })?
        }
    };
    if text.contains('\0') { Err(TextError::Binary) } else { Ok(text) }
}

/// How two bytes make a unit of UTF-16, by the byte order mark at the beginning of the file.
fn utf16_of(bytes: &[u8]) -> Option<fn([u8; 2]) -> u16> {
    match bytes {
        [0xff, 0xfe, ..] => Some(u16::from_le_bytes),
        [0xfe, 0xff, ..] => Some(u16::from_be_bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_decoded_by_its_byte_order_mark() {
        let utf16 = |unit: fn(u16) -> [u8; 2]| "\u{feff}Grüße 👋\n".encode_utf16().flat_map(unit).collect();
        let encoded: [Vec<u8>; 4] = [
            "Grüße 👋\n".into(),
            "\u{feff}Grüße 👋\n".into(),
            utf16(u16::to_le_bytes),
            utf16(u16::to_be_bytes),
        ];
        for bytes in encoded {
            assert_eq!(decode(bytes).unwrap(), "Grüße 👋\n");
        }
        assert_eq!(decode(Vec::new()).unwrap(), "");
    }

    #[test]
    fn other_files_are_refused() {
        let cases: [(&[u8], &str); 8] = [
            (b"GGUF\x03\0\0\0", "binary"),
            (b"a\0\xff", "binary"),
            (b"\x7fELF\x02\x01\x01\0", "binary"),
            (b"caf\xe9", "offset 3"),
            (b"cut \xf0\x9f\x8c", "offset 4"),
            (b"\xff\xfea\0b", "UTF-16"),
            (b"\xff\xfe\x00\xd8", "UTF-16"),
            // UTF-32 looks like UTF-16 with zeros.
            (b"\xff\xfe\0\0a\0\0\0", "binary"),
        ];
        for (bytes, part) in cases {
            let error = decode(bytes.to_vec()).unwrap_err().to_string();
            assert!(error.contains(part), "{bytes:?}: {error}");
        }
    }

    #[test]
    fn files_are_read_up_to_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, "x".repeat(20_000)).unwrap();
        assert_eq!(read(&path, 20_000).unwrap().len(), 20_000);
        assert!(matches!(read(&path, 19_999), Err(TextError::TooLarge(19_999))));
        assert!(matches!(read(&path, 10), Err(TextError::TooLarge(10))));
        assert!(matches!(read(folder.path(), 10), Err(TextError::NotAFile)));
        assert!(matches!(read(&folder.path().join("none"), 10), Err(TextError::Io(_))));
        // A huge binary file is a binary file, and not only too large.
        let huge = File::create(&path).unwrap();
        huge.set_len(1 << 40).unwrap();
        assert!(matches!(read(&path, 1 << 20), Err(TextError::Binary)));
    }
}
