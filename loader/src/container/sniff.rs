//! Recognises files by their first bytes: models, and other files that are often mistaken for models. It must
//! not know a model format beyond its magic bytes.

use std::path::Path;

use crate::error::{LoadError, Result};
use crate::io::FileBytes;

/// Bytes of a file's head that are enough for every signature here.
pub(crate) const HEAD: usize = 512;

/// What a file is by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    Gguf,
    Safetensors,
    Json,
    /// Not a model: the kind of file, and a hint.
    Foreign(&'static str, &'static str),
    Unknown,
}

/// Recognises the file that begins with `bytes`.
pub(crate) fn kind(bytes: &[u8]) -> FileKind {
    let head = bytes.get(..HEAD).unwrap_or(bytes);
    let text: Vec<u8> = head.trim_ascii_start().to_ascii_lowercase();
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    let web = "download the file itself, not the page about it";
    let torch = "convert the checkpoint to safetensors or GGUF first";
    match head {
        _ if head.starts_with(b"GGUF") => FileKind::Gguf,
        _ if head.starts_with(b"version https://git-lfs") => FileKind::Foreign(
            "a Git LFS pointer, not the file it points to",
            "fetch the file with `git lfs pull`",
        ),
        _ if text.starts_with(b"<!doctype html") || text.starts_with(b"<html") => {
            FileKind::Foreign("a web page", web)
        }
        _ if text.starts_with(b"<?xml") => FileKind::Foreign("an XML document", web),
        _ if head.starts_with(b"PK\x03\x04") => {
            FileKind::Foreign("a zip archive, probably a PyTorch checkpoint", torch)
        }
        [0x80, 2..=5, ..] => FileKind::Foreign("a Python pickle, probably a PyTorch checkpoint", torch),
        _ if [b"lmgg", b"tjgg", b"fmgg", b"algg"].iter().any(|magic| head.starts_with(*magic)) => {
            FileKind::Foreign("a GGML file from before GGUF", "convert the original model to GGUF")
        }
        _ if head.starts_with(b"\x1f\x8b") || head.starts_with(b"\x28\xb5\x2f\xfd") => {
            FileKind::Foreign("a compressed file", "decompress it first")
        }
        _ if head.get(8) == Some(&b'{') && head.get(7) == Some(&0) => FileKind::Safetensors,
        _ if text.starts_with(b"{") => FileKind::Json,
        _ => FileKind::Unknown,
    }
}

/// Whether the file that begins with `bytes` is plain text. Fewer than 16 bytes are not enough to tell.
pub(crate) fn is_text(bytes: &[u8]) -> bool {
    let head = bytes.get(..HEAD).unwrap_or(bytes);
    let whole = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The head may end within a character.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    whole.len() >= 16 && !whole.chars().any(|c| c.is_control() && !c.is_ascii_whitespace())
}

/// `error` of a reader that refused `bytes`, or [`LoadError::NotAModel`] if they are of another known kind.
pub(crate) fn explain(path: &Path, bytes: &[u8], error: LoadError) -> LoadError {
    not_foreign(path, bytes).err().unwrap_or(error)
}

/// As [`explain`], for an open file.
pub(crate) fn explain_file(file: &FileBytes, error: LoadError) -> LoadError {
    explain(file.path(), &file.head(HEAD).unwrap_or_default(), error)
}

/// Refuses files that can never be a model.
///
/// # Errors
/// [`LoadError::NotAModel`].
pub(crate) fn not_foreign(path: &Path, bytes: &[u8]) -> Result<()> {
    match kind(bytes) {
        FileKind::Foreign(found, hint) => {
            Err(LoadError::NotAModel { path: path.to_owned(), found: found.to_owned(), hint })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_texts() {
        assert!(is_text("name: not a model\r\n\tvalue\n".as_bytes()));
        assert!(is_text("ä".repeat(HEAD).as_bytes()), "also where the head ends within a character");
        assert!(is_text(("a".to_owned() + &"ä".repeat(HEAD)).as_bytes()));
        assert!(!is_text(b"GGUX"), "too short to say");
        assert!(!is_text(b"GGUX\x03\0\0\0 and so on and on"));
        assert!(!is_text(b"\xff\xfe and so on and so on and on"));
    }

    #[test]
    fn knows_formats_and_look_alikes() {
        assert_eq!(kind(b"GGUF\x03\0\0\0"), FileKind::Gguf);
        assert_eq!(kind(b"\x10\0\0\0\0\0\0\0{\"a\":1}"), FileKind::Safetensors);
        assert_eq!(kind(b" {\"weight_map\": {}}"), FileKind::Json);
        assert!(matches!(kind(b"\n<!DOCTYPE html><html>"), FileKind::Foreign("a web page", _)));
        assert!(matches!(kind(b"PK\x03\x04..."), FileKind::Foreign(..)));
        assert!(matches!(kind(b"\x80\x02}q\x00"), FileKind::Foreign(..)));
        assert_eq!(kind(b""), FileKind::Unknown);
        assert_eq!(kind(b"GGU"), FileKind::Unknown);
    }
}
