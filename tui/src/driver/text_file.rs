//! Files that are read as text: with a limit on their size, and only if they are text. It must not know what
//! a text is for.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use moelten_loader::text::plain::{NotText, text_of};

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
    /// More bytes than this limit.
    #[error("larger than {mib} MiB", mib = .0 >> 20)]
    TooLarge(u64),
    /// Binary data, or text in another encoding than UTF-8, or UTF-16 with a byte order mark.
    #[error("not a text file ({0}){hint}", hint = conversion_hint(.0))]
    NotText(#[from] NotText),
}

/// What to do about a text in another encoding. A zero byte is a sign of binary data instead.
fn conversion_hint(fault: &NotText) -> &'static str {
    match fault {
        NotText::Zero { .. } => "",
        _ => "; convert a text in another encoding to UTF-8 first",
    }
}

/// Reads a text file of at most `bytes_max` bytes. A file with a zero byte in its first 8 KiB is refused at
/// once.
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
    // Other faults of the head may be a character that is cut at its end.
    if let Err(fault @ NotText::Zero { .. }) = text_of(&bytes) {
        return Err(fault.into());
    }
    file.take((bytes_max + 1).saturating_sub(bytes.len() as u64)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(TextError::TooLarge(bytes_max));
    }
    // UTF-8 without a byte order mark is not copied.
    let text = match text_of(&bytes)? {
        Cow::Borrowed(text) if text.len() == bytes.len() => None,
        text => Some(text.into_owned()),
    };
    match text {
        Some(text) => Ok(text),
        None => Ok(String::from_utf8(bytes).expect("it was checked to be UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_by_its_byte_order_mark_and_other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read(&path, 1 << 20).map_err(|error| error.to_string())
        };
        assert_eq!(read("Grüße 👋\n".as_bytes()).unwrap(), "Grüße 👋\n");
        assert_eq!(read("\u{feff}Grüße".as_bytes()).unwrap(), "Grüße");
        let utf16: Vec<_> = "\u{feff}Grüße 👋".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(read(&utf16).unwrap(), "Grüße 👋");
        assert!(read(b"GGUF\x03\0\0\0").unwrap_err().ends_with("not a text file (byte 5 is zero)"));
        assert!(read(b"caf\xe9").unwrap_err().contains("byte 3 (0xe9) is not valid UTF-8); convert"));
        // A character at the end of the head is not cut.
        let long = "x".repeat(usize::try_from(HEAD_BYTES).unwrap() - 1) + "é";
        assert_eq!(read(long.as_bytes()).unwrap(), long);
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
        assert!(matches!(read(&path, 1 << 20), Err(TextError::NotText(NotText::Zero { offset: 0 }))));
    }
}
