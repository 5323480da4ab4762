//! The clipboard of the terminal (OSC 52). Whether the terminal allows it cannot be known.

use std::io::{self, Write};

use crossterm::clipboard::CopyToClipboard;

/// What to say after a copy.
pub const COPIED: &str = "Copied, if the terminal allows programs to use its clipboard (OSC 52).";

/// Sends a text to the clipboard of the terminal behind `out`.
///
/// # Errors
/// Writing to `out` failed.
pub fn copy(mut out: impl Write, text: &str) -> io::Result<()> {
    crossterm::execute!(out, CopyToClipboard::to_clipboard_from(text))
}
