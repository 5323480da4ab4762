//! Texts from the command line, files and pipes. It must not know what they are for.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context;
use moelten_loader::supervise::supervised;
use moelten_loader::text::plain::{NotText, text_of};
use moelten_tui::driver::{NOT_UTF8, lossy};
use moelten_tui::terminal::{Notes, Tone};

use crate::exit::CommandError;

/// Longest prompt in bytes: millions of tokens. Until it is refused or rendered, there are a few copies of
/// it.
const PROMPT_BYTES_MAX: u64 = 16 << 20;
/// Longest text in bytes that is only measured. One in UTF-16, which is copied, may have as many as a prompt.
const BYTES_MAX: u64 = 64 << 20;
/// Bytes at the beginning of a file that show whether it is text.
const HEAD_BYTES: u64 = 64 << 10;

/// Time after which a silent pipe is mentioned.
const REMINDER_AFTER: Duration = Duration::from_secs(2);

/// A text, or for `@FILE` the content of the file.
///
/// # Errors
/// As [`file`].
pub fn text_or_file(argument: &str) -> anyhow::Result<String> {
    match argument.strip_prefix('@') {
        Some(path) => file(Path::new(path)),
        None => Ok(argument.to_owned()),
    }
}

/// The content of a text file.
///
/// # Errors
/// Files that cannot be read, are too large, or are not text.
pub fn file(path: &Path) -> anyhow::Result<String> {
    let (text, whole) = beginning_of(path, PROMPT_BYTES_MAX)?;
    if !whole {
        return Err(too_large(&path.display().to_string(), PROMPT_BYTES_MAX));
    }
    Ok(text)
}

/// A prompt of two texts.
///
/// # Errors
/// Together they are too large.
pub fn joined(mut first: String, second: &str) -> anyhow::Result<String> {
    if (first.len() + second.len()) as u64 > PROMPT_BYTES_MAX {
        return Err(too_large("the prompt with the piped text", PROMPT_BYTES_MAX));
    }
    first.push_str("\n\n");
    first.push_str(second);
    Ok(first)
}

fn too_large(name: &str, most: u64) -> anyhow::Error {
    CommandError::Usage(format!("{name} holds more than {} MiB of text", most >> 20)).into()
}

/// Whether the bytes begin with the mark of UTF-16.
fn is_utf_16(bytes: &[u8]) -> bool {
    matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..])
}

/// Says that a text was not UTF-8 but UTF-16 when it was read.
fn mention_utf_16(name: &str, bytes: &[u8]) {
    if is_utf_16(bytes) {
        let line = format!("note: {name} is UTF-16 and was converted to UTF-8");
        Notes::detect().line(Tone::Dim, &line);
    }
}

/// The first [`BYTES_MAX`] bytes of a text file, and whether that is all of it.
///
/// # Errors
/// Files that cannot be read or are not text.
pub fn beginning(path: &Path) -> anyhow::Result<(String, bool)> {
    beginning_of(path, BYTES_MAX)
}

fn beginning_of(path: &Path, most: u64) -> anyhow::Result<(String, bool)> {
    let failed = || format!("cannot read {}", path.display());
    let mut source = File::open(path).with_context(failed)?;
    let not_text =
        |why| CommandError::NotText { name: format!("{} is not a text file", path.display()), why };
    let mut bytes = Vec::new();
    // A binary file is known by its beginning; the rest of it is not read.
    source.by_ref().take(HEAD_BYTES).read_to_end(&mut bytes).with_context(failed)?;
    let whole = (bytes.len() as u64) < HEAD_BYTES;
    text_of(until_character(&bytes, whole)).map_err(not_text)?;
    let most = if is_utf_16(&bytes) { most.min(PROMPT_BYTES_MAX) } else { most };
    // A buffer of the right size is not copied while it grows.
    let len = std::fs::metadata(path).map_or(0, |found| found.len()).min(most + 1);
    bytes.reserve_exact(usize::try_from(len).unwrap_or(0).saturating_sub(bytes.len()));
    source.take(most - HEAD_BYTES + 1).read_to_end(&mut bytes).with_context(failed)?;
    let whole = bytes.len() as u64 <= most;
    bytes.truncate(most as usize);
    bytes.truncate(until_character(&bytes, whole).len());
    mention_utf_16(&path.display().to_string(), &bytes);
    Ok((decoded(bytes).map_err(not_text)?, whole))
}

/// Bytes that end with a whole character, if they are UTF-8 or UTF-16 and `whole` does not say that they are
/// all.
fn until_character(bytes: &[u8], whole: bool) -> &[u8] {
    let cut = match text_of(bytes) {
        Err(NotText::Utf8 { offset, .. } | NotText::Utf16 { offset }) if !whole => offset,
        _ => bytes.len(),
    };
    // A character has at most four bytes: more are no cut, but an error.
    if bytes.len() - cut < 4 { &bytes[..cut] } else { bytes }
}

/// The text in `bytes`, in the same memory if it is UTF-8.
fn decoded(mut bytes: Vec<u8>) -> Result<String, NotText> {
    let mark = match text_of(&bytes)? {
        Cow::Owned(text) => return Ok(text),
        Cow::Borrowed(text) => bytes.len() - text.len(),
    };
    bytes.drain(..mark);
    Ok(String::from_utf8(bytes).expect("it was checked above"))
}

/// The content of stdin if it is a pipe or file; `None` if it is a terminal or another device.
///
/// # Errors
/// Read errors, too much text.
pub fn piped(notes: Notes) -> anyhow::Result<Option<String>> {
    if !connected() {
        return Ok(None);
    }
    // A pipe that was left open by mistake would look like a program that hangs.
    let (done, end) = mpsc::channel::<()>();
    let reminder = move || {
        if end.recv_timeout(REMINDER_AFTER) == Err(mpsc::RecvTimeoutError::Timeout) {
            let text = "reading stdin until it ends; add </dev/null if there is no input";
            notes.line(Tone::Dim, text);
        }
    };
    // Without a thread there is no reminder.
    let _ = supervised("reminder", move |message| notes.line(Tone::Warning, &message), reminder);
    let text = read_stdin(notes);
    drop(done);
    text.map(Some)
}

/// Whether stdin is a pipe or a file. `/dev/null` and terminals hold no prompt.
fn connected() -> bool {
    #[cfg(unix)]
    if let Ok(metadata) = std::fs::metadata("/dev/stdin") {
        return !std::os::unix::fs::FileTypeExt::is_char_device(&metadata.file_type());
    }
    !io::stdin().is_terminal()
}

/// Reads all of stdin. Wrong bytes are replaced; a stream that mostly consists of such is refused.
fn read_stdin(notes: Notes) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    io::stdin().lock().take(PROMPT_BYTES_MAX + 1).read_to_end(&mut bytes).context("cannot read stdin")?;
    if bytes.len() as u64 > PROMPT_BYTES_MAX {
        return Err(too_large("stdin", PROMPT_BYTES_MAX));
    }
    let head = &bytes[..bytes.len().min(HEAD_BYTES as usize)];
    match text_of(&bytes) {
        Ok(_) => {
            mention_utf_16("stdin", &bytes);
            return Ok(decoded(bytes).expect("it was checked above"));
        }
        Err(why) if is_binary(head) => {
            return Err(CommandError::NotText { name: "stdin is not text".to_owned(), why }.into());
        }
        Err(_) => {}
    }
    let (text, replaced) = lossy(bytes);
    if replaced {
        notes.line(Tone::Warning, NOT_UTF8);
    }
    Ok(text)
}

/// Whether more than a tenth of the bytes is no text. Too few bytes are not judged.
fn is_binary(bytes: &[u8]) -> bool {
    let valid = bytes.utf8_chunks().map(|chunk| chunk.valid().bytes().filter(|&byte| byte != 0).count());
    let valid: usize = valid.sum();
    bytes.len() >= 1024 && bytes.len() - valid > bytes.len() / 10
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> anyhow::Result<(String, bool)> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        beginning(file.path())
    }

    #[test]
    fn text_files_are_decoded_and_others_refused() {
        for bytes in [&b"caf\xc3\xa9\n"[..], b"\xef\xbb\xbfcaf\xc3\xa9\n", b"\xff\xfec\0a\0f\0\xe9\0\n\0"] {
            assert_eq!(read(bytes).unwrap(), ("caf\u{e9}\n".to_owned(), true));
        }
        assert_eq!(read(b"").unwrap(), (String::new(), true));
        for (bytes, why) in
            [(&b"caf\xe9"[..], "byte 3 (0xe9)"), (b"caf\xc3", "byte 3"), (b"GGUF\x03\0\0", "is zero")]
        {
            let error = read(bytes).unwrap_err().to_string();
            assert!(error.contains("is not a text file") && error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_character_on_the_border_of_two_reads_is_whole() {
        // Every character has two bytes, and the border is between them.
        let text = format!("a{}", "\u{e9}".repeat(HEAD_BYTES as usize));
        assert_eq!(read(text.as_bytes()).unwrap(), (text.clone(), true));
        let mut broken = text.into_bytes();
        broken[HEAD_BYTES as usize + 100] = b'x';
        assert!(read(&broken).is_err());
    }

    #[test]
    fn only_streams_of_bytes_that_are_no_text_are_binary() {
        let noise: Vec<u8> = (0..=255).cycle().take(2000).collect();
        assert!(is_binary(&noise) && is_binary(&[0; 2000]));
        assert!(
            !is_binary(&noise[..1000]) && !is_binary(&b"a nice old dog \xff".repeat(500)) && !is_binary(b"")
        );
        assert!(!is_binary("\u{4e2d}".repeat(1000).as_bytes()));
    }
}
