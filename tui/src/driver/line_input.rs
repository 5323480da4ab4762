//! Entries in line mode: the rules that make several lines one entry, and plain lines from a pipe. It must
//! not know what an entry means.

use std::io::{self, BufRead, Read, Write};

use super::notes::Notes;
use crate::chat::Tone;

/// Longest entry, in bytes: millions of tokens. A longer one is read and dropped.
const ENTRY_BYTES_MAX: usize = 16 << 20;
/// The prompt of an entry.
pub(super) const PROMPT: &str = "> ";
/// The prompt of the further lines of an entry.
pub(super) const PROMPT_MORE: &str = ". ";

/// What the user did at the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Typed {
    /// Entered a line or an entry.
    Text(String),
    /// Pressed Ctrl-C on an empty line.
    Interrupt,
    /// Pressed Ctrl-C and so discarded what was typed.
    Dropped,
    /// Entered more than this many bytes, which were not kept.
    TooLong(usize),
    /// Pressed Ctrl-D, or the pipe ended.
    End,
}

/// A source of entries.
pub trait Input {
    /// Waits for the next line; `more` if it continues an entry.
    ///
    /// # Errors
    /// Reading failed.
    fn line(&mut self, more: bool) -> io::Result<Typed>;

    /// Puts a text into the next line for the user to edit; false if this source cannot edit.
    fn prefill(&mut self, _text: &str) -> bool {
        false
    }

    /// Waits for the next entry: a line, several lines that end in backslashes, or the lines between two
    /// `"""`.
    ///
    /// # Errors
    /// Reading failed.
    fn entry(&mut self) -> io::Result<Typed> {
        let mut text = Assembler::default();
        loop {
            match self.line(text.begun())? {
                Typed::Text(line) => {
                    if let Some(whole) = text.push(line) {
                        return Ok(whole);
                    }
                }
                // Quotes in it, or a backslash at its end, are not known.
                Typed::TooLong(_) if text.quoted => text.overflow(),
                Typed::End if text.begun() => return Ok(text.finish()),
                Typed::Interrupt if text.begun() => return Ok(Typed::Dropped),
                other => return Ok(other),
            }
        }
    }
}

/// Joins lines to entries.
#[derive(Debug, Default)]
struct Assembler {
    text: String,
    begun: bool,
    quoted: bool,
    /// Whether the entry is too long and its text is dropped.
    overflown: bool,
}

const QUOTES: &str = "\"\"\"";

impl Assembler {
    fn begun(&self) -> bool {
        self.quoted || self.begun
    }

    fn overflow(&mut self) {
        self.overflown = true;
        self.text = String::new();
    }

    /// Appends a line.
    fn add(&mut self, line: &str) {
        if self.text.len() + line.len() >= ENTRY_BYTES_MAX {
            self.overflow();
        }
        if !self.overflown {
            if self.begun {
                self.text.push('\n');
            }
            self.text.push_str(line);
        }
        self.begun = true;
    }

    /// Takes a line; returns the entry that it completes.
    fn push(&mut self, whole: String) -> Option<Typed> {
        let mut line = whole.as_str();
        if !self.begun()
            && let Some(rest) = line.trim_start().strip_prefix(QUOTES)
        {
            self.quoted = true;
            line = rest;
            // Quotes alone on their line do not begin the entry with an empty line.
            if rest.trim().is_empty() {
                return None;
            }
        }
        if self.quoted {
            if let Some(rest) = line.trim_end().strip_suffix(QUOTES) {
                if !rest.is_empty() {
                    self.add(rest);
                }
                return Some(self.finish());
            }
        } else if let Some(rest) = line.strip_suffix('\\') {
            self.add(rest);
            return None;
        } else if !self.begun && whole.len() < ENTRY_BYTES_MAX {
            // The usual case, without a copy.
            return Some(Typed::Text(whole));
        }
        self.add(line);
        if self.quoted { None } else { Some(self.finish()) }
    }

    /// The entry, complete or not.
    fn finish(&mut self) -> Typed {
        let Self { mut text, quoted, overflown, .. } = std::mem::take(self);
        if overflown {
            return Typed::TooLong(ENTRY_BYTES_MAX);
        }
        // A quoted entry is never a command; a space before its slash prevents that.
        if quoted && text.starts_with('/') {
            text.insert(0, ' ');
        }
        Typed::Text(text)
    }
}

/// Lines from a pipe or a file. Invalid UTF-8 is replaced, with one warning.
pub struct PlainInput<R> {
    source: R,
    notes: Notes,
    prompts: bool,
    warned: bool,
}

impl<R: BufRead> PlainInput<R> {
    /// Reads from `source`; `prompts` if it is a terminal, so that prompts are shown.
    pub fn new(source: R, notes: Notes, prompts: bool) -> Self {
        Self { source, notes, prompts, warned: false }
    }

    /// Reads to the end of the line and keeps nothing of it.
    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.source.fill_buf()?;
            if buffer.is_empty() {
                return Ok(());
            }
            let end = buffer.iter().position(|&byte| byte == b'\n');
            let read = end.map_or(buffer.len(), |end| end + 1);
            self.source.consume(read);
            if end.is_some() {
                return Ok(());
            }
        }
    }
}

impl<R: BufRead> Input for PlainInput<R> {
    fn line(&mut self, more: bool) -> io::Result<Typed> {
        if self.prompts {
            let _ = write!(io::stderr(), "{}", if more { PROMPT_MORE } else { PROMPT });
            let _ = io::stderr().flush();
        }
        let mut bytes = Vec::new();
        (&mut self.source).take(ENTRY_BYTES_MAX as u64).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(Typed::End);
        }
        if bytes.len() == ENTRY_BYTES_MAX && bytes.last() != Some(&b'\n') {
            drop(bytes);
            self.skip_line()?;
            return Ok(Typed::TooLong(ENTRY_BYTES_MAX));
        }
        let (text, replaced) = lossy(bytes);
        if replaced && !self.warned {
            self.warned = true;
            self.notes.line(Tone::Warning, NOT_UTF8);
        }
        let mut text = text;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        text.truncate(line.strip_suffix('\r').unwrap_or(line).len());
        Ok(Typed::Text(text))
    }
}

/// The warning about input that [`lossy`] has changed.
pub const NOT_UTF8: &str = "warning: the input is not valid UTF-8; invalid bytes were replaced by U+FFFD";

/// The text in `bytes`, and whether invalid UTF-8 was replaced.
pub fn lossy(bytes: Vec<u8>) -> (String, bool) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, false),
        Err(error) => (String::from_utf8_lossy(error.as_bytes()).into_owned(), true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(input: &[u8]) -> Vec<String> {
        let mut input = PlainInput::new(input, Notes::plain(), false);
        let mut texts = Vec::new();
        while let Typed::Text(text) = input.entry().unwrap() {
            texts.push(text);
        }
        texts
    }

    #[test]
    fn lines_become_entries() {
        assert_eq!(entries(b"one\r\ntwo\n\nfour"), ["one", "two", "", "four"]);
        assert_eq!(entries(b"one\\\ntwo\\\nthree\nfour"), ["one\ntwo\nthree", "four"]);
        assert_eq!(entries(b"\"\"\"one\n  two\\\n\nthree\"\"\"\nfour"), ["one\n  two\\\n\nthree", "four"]);
        assert_eq!(entries(b"\"\"\"\none\n\"\"\"\ntwo"), ["one", "two"]);
        assert_eq!(entries(b"\"\"\"one\"\"\""), ["one"]);
        assert_eq!(entries(b"\"\"\"\n/quit\n\"\"\"\n/quit"), [" /quit", "/quit"]);
        assert_eq!(entries(b"\"\"\"never\nended"), ["never\nended"]);
        assert_eq!(entries(b"say \"\"\" now"), ["say \"\"\" now"]);
        assert_eq!(entries(b""), [""; 0]);
    }

    /// What is too long is dropped as a whole: none of it becomes an entry.
    #[test]
    fn entries_that_are_too_long_are_dropped() {
        let long = "x".repeat(ENTRY_BYTES_MAX);
        let lines = format!("{}\n", "y".repeat(1 << 20)).repeat(17);
        let fits = "z".repeat(ENTRY_BYTES_MAX - 2);
        for (text, dropped) in [
            (format!("{long}\nnext\n"), true),
            (format!("{long}{long}\nnext"), true),
            (format!("\"\"\"\n{lines}\"\"\"\nnext"), true),
            (format!("\"\"\"\n{long}\nmore\n\"\"\"\nnext"), true),
            (format!("{}\nnext", lines.replace('\n', "\\\n")), true),
            (format!("{fits}\nnext"), false),
        ] {
            let mut input = PlainInput::new(text.as_bytes(), Notes::plain(), false);
            let first = input.entry().unwrap();
            assert_eq!(first == Typed::TooLong(ENTRY_BYTES_MAX), dropped, "{}", text.len());
            assert!(dropped || first == Typed::Text(fits.clone()));
            assert_eq!(input.entry().unwrap(), Typed::Text("next".into()), "{}", text.len());
        }
    }

    /// A scripted user.
    struct Script(Vec<Typed>);

    impl Input for Script {
        fn line(&mut self, _: bool) -> io::Result<Typed> {
            Ok(self.0.remove(0))
        }
    }

    #[test]
    fn an_interrupt_discards_an_unfinished_entry() {
        let line = |text: &str| Typed::Text(text.into());
        let mut input = Script(vec![line("one\\"), Typed::Interrupt, line("two"), Typed::Interrupt]);
        assert_eq!(input.entry().unwrap(), Typed::Dropped);
        assert_eq!(input.entry().unwrap(), line("two"));
        assert_eq!(input.entry().unwrap(), Typed::Interrupt);
    }

    #[test]
    fn invalid_bytes_are_replaced_and_zeros_pass() {
        let mut input = PlainInput::new(&b"a\xffb\0\nc\xfe\n"[..], Notes::plain(), false);
        assert_eq!(input.entry().unwrap(), Typed::Text("a\u{fffd}b\0".into()));
        assert!(input.warned);
        assert_eq!(input.entry().unwrap(), Typed::Text("c\u{fffd}".into()));
    }
}
