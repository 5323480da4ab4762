//! Where questions come from: a line editor on a terminal, plain lines elsewhere, and the rules that make several
//! lines one question. It must not know what a question means.

use std::cell::Cell;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::rc::Rc;

use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use crate::complete;
use crate::files::history_file;
use crate::terminal::{Notes, Tone};

/// Longest line of a pipe, in bytes.
const LINE_BYTES_MAX: u64 = 64 << 20;
const PROMPT: &str = "> ";
const PROMPT_MORE: &str = ". ";

/// What a person did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Typed {
    /// Entered a text.
    Text(String),
    /// Pressed Ctrl-C with nothing typed.
    Interrupt,
    /// Threw away with Ctrl-C what was typed.
    Dropped,
    /// Pressed Ctrl-D, or the pipe ended.
    End,
}

/// A source of questions.
pub trait Input {
    /// Waits for the next line; `more` if it continues a text.
    ///
    /// # Errors
    /// Read errors.
    fn line(&mut self, more: bool) -> io::Result<Typed>;

    /// Makes the next line begin as this text, for the person to change; false if nobody can.
    fn prefill(&mut self, _text: &str) -> bool {
        false
    }

    /// Waits for the next text: a line, several that end in backslashes, or all between two `"""`.
    ///
    /// # Errors
    /// Read errors.
    fn text(&mut self) -> io::Result<Typed> {
        let mut text = Assembler::default();
        loop {
            match self.line(text.begun())? {
                Typed::Text(line) => {
                    if let Some(whole) = text.push(&line) {
                        return Ok(Typed::Text(whole));
                    }
                }
                Typed::End if text.begun() => return Ok(Typed::Text(text.finish())),
                Typed::Interrupt if text.begun() => return Ok(Typed::Dropped),
                other => return Ok(other),
            }
        }
    }
}

/// Makes texts of lines.
#[derive(Debug, Default)]
struct Assembler {
    lines: Vec<String>,
    quoted: bool,
}

const QUOTES: &str = "\"\"\"";

impl Assembler {
    fn begun(&self) -> bool {
        self.quoted || !self.lines.is_empty()
    }

    /// Takes a line; gives the text that it completes.
    fn push(&mut self, line: &str) -> Option<String> {
        let mut line = line;
        if !self.begun()
            && let Some(rest) = line.trim_start().strip_prefix(QUOTES)
        {
            self.quoted = true;
            line = rest;
            // Quotes alone on their line do not begin the text with a line end.
            if rest.trim().is_empty() {
                return None;
            }
        }
        if self.quoted {
            if let Some(rest) = line.trim_end().strip_suffix(QUOTES) {
                if !rest.is_empty() {
                    self.lines.push(rest.to_owned());
                }
                return Some(self.finish());
            }
        } else if let Some(rest) = line.strip_suffix('\\') {
            self.lines.push(rest.to_owned());
            return None;
        }
        self.lines.push(line.to_owned());
        if self.quoted { None } else { Some(self.finish()) }
    }

    /// What there is, complete or not.
    fn finish(&mut self) -> String {
        let mut text = std::mem::take(&mut self.lines).join("\n");
        // What is quoted is a question, never a command: a space before the slash says so.
        if std::mem::take(&mut self.quoted) && text.starts_with('/') {
            text.insert(0, ' ');
        }
        text
    }
}

/// Lines of a pipe or file. Bytes that are not UTF-8 are replaced, and said so once.
pub struct PlainInput<R> {
    source: R,
    notes: Notes,
    prompts: bool,
    warned: bool,
}

impl<R: BufRead> PlainInput<R> {
    /// Reads from `source`; `prompts` if a person types there.
    pub fn new(source: R, notes: Notes, prompts: bool) -> Self {
        Self { source, notes, prompts, warned: false }
    }
}

impl<R: BufRead> Input for PlainInput<R> {
    fn line(&mut self, more: bool) -> io::Result<Typed> {
        if self.prompts {
            let _ = write!(io::stderr(), "{}", if more { PROMPT_MORE } else { PROMPT });
            let _ = io::stderr().flush();
        }
        let mut bytes = Vec::new();
        (&mut self.source).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(Typed::End);
        }
        if bytes.len() as u64 == LINE_BYTES_MAX && bytes.last() != Some(&b'\n') {
            let limit = LINE_BYTES_MAX >> 20;
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a line is longer than {limit} MiB"),
            ));
        }
        let (text, replaced) = lossy(bytes);
        if replaced && !self.warned {
            self.warned = true;
            self.notes.line(Tone::Warning, NOT_UTF8);
        }
        let line = text.strip_suffix('\n').unwrap_or(&text);
        Ok(Typed::Text(line.strip_suffix('\r').unwrap_or(line).to_owned()))
    }
}

/// What to say about input that was changed by [`lossy`].
pub const NOT_UTF8: &str = "warning: the input is not valid UTF-8; the wrong bytes were replaced by U+FFFD";

/// The text in `bytes`, and whether something had to be replaced.
pub fn lossy(bytes: Vec<u8>) -> (String, bool) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, false),
        Err(error) => (String::from_utf8_lossy(error.as_bytes()).into_owned(), true),
    }
}

/// A person at a terminal.
pub struct EditorInput {
    editor: Editor<Completion, FileHistory>,
    history: Option<PathBuf>,
    notes: Notes,
    /// Whether there is something on the line that is being edited.
    edited: Rc<Cell<bool>>,
    /// What the next line begins as.
    prefilled: String,
}

impl EditorInput {
    /// Starts the line editor. The history is kept in the file `history`, which nobody else may read; if that does
    /// not work, it is said and the history is forgotten at the end.
    ///
    /// # Errors
    /// A terminal that cannot be used.
    pub fn new(history: Option<PathBuf>, notes: Notes) -> io::Result<Self> {
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .bracketed_paste(notes.styled)
            .color_mode(rustyline::ColorMode::Disabled)
            .auto_add_history(false)
            .build();
        let mut editor = Editor::with_config(config).map_err(io::Error::other)?;
        let edited = Rc::new(Cell::new(false));
        editor.set_helper(Some(Completion { edited: Rc::clone(&edited) }));
        let mut input = Self { editor, history, notes, edited, prefilled: String::new() };
        if let Some(path) = &input.history {
            let opened = history_file(path).map_err(ReadlineError::Io);
            if let Err(error) = opened.and_then(|()| input.editor.load_history(path)) {
                input.give_up_history(&error);
            }
        }
        Ok(input)
    }

    fn give_up_history(&mut self, error: &ReadlineError) {
        if let Some(path) = self.history.take() {
            let path = path.display();
            self.notes.line(Tone::Warning, &format!("The history is not kept: {path}: {error}"));
        }
    }

    fn remember(&mut self, line: &str) {
        let added = self.editor.add_history_entry(line).unwrap_or(false);
        if let Some(path) = self.history.clone().filter(|_| added)
            && let Err(error) = self.editor.append_history(&path)
        {
            self.give_up_history(&error);
        }
    }
}

impl Input for EditorInput {
    fn line(&mut self, more: bool) -> io::Result<Typed> {
        self.edited.set(false);
        let prefilled = std::mem::take(&mut self.prefilled);
        let prompt = if more { PROMPT_MORE } else { PROMPT };
        match self.editor.readline_with_initial(prompt, (&prefilled, "")) {
            Ok(line) => {
                if !line.trim().is_empty() {
                    self.remember(&line);
                }
                Ok(Typed::Text(line.replace("\r\n", "\n").replace('\r', "\n")))
            }
            // As in a shell, Ctrl-C throws away what was typed; only on an empty line is it about the chat.
            Err(ReadlineError::Interrupted) if self.edited.get() => Ok(Typed::Dropped),
            Err(ReadlineError::Interrupted) => Ok(Typed::Interrupt),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(ReadlineError::Io(error)) => Err(error),
            Err(other) => Err(io::Error::other(other)),
        }
    }

    fn prefill(&mut self, text: &str) -> bool {
        self.prefilled = text.to_owned();
        true
    }
}

/// What the input is, as a person would connect it.
pub fn interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Tab: commands, settings, file names.
struct Completion {
    edited: Rc<Cell<bool>>,
}

impl Helper for Completion {}
impl rustyline::highlight::Highlighter for Completion {}
impl rustyline::validate::Validator for Completion {}
impl rustyline::hint::Hinter for Completion {
    type Hint = String;

    /// No hint; but the editor asks for one after every change, and says on no other occasion what is on the line.
    fn hint(&self, line: &str, _: usize, _: &Context<'_>) -> Option<String> {
        self.edited.set(!line.is_empty());
        None
    }
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = &line[..pos];
        Ok(match complete::of(before) {
            complete::Of::Nothing => (pos, Vec::new()),
            complete::Of::Words { start, words } => (start, beginning_with(&before[start..], words)),
            complete::Of::Path { start } => {
                let pair = |name: String| Pair { display: name.clone(), replacement: name };
                (start, complete::files(&before[start..]).into_iter().map(pair).collect())
            }
        })
    }
}

fn beginning_with(start: &str, words: Vec<String>) -> Vec<Pair> {
    let fitting = words.into_iter().filter(|word| !start.is_empty() && word.starts_with(start));
    fitting.map(|word| Pair { replacement: format!("{word} "), display: word }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(input: &[u8]) -> Vec<String> {
        let mut input = PlainInput::new(input, Notes::plain(), false);
        let mut texts = Vec::new();
        while let Typed::Text(text) = input.text().unwrap() {
            texts.push(text);
        }
        texts
    }

    #[test]
    fn lines_become_texts() {
        assert_eq!(texts(b"one\r\ntwo\n\nfour"), ["one", "two", "", "four"]);
        assert_eq!(texts(b"one\\\ntwo\\\nthree\nfour"), ["one\ntwo\nthree", "four"]);
        assert_eq!(texts(b"\"\"\"one\n  two\\\n\nthree\"\"\"\nfour"), ["one\n  two\\\n\nthree", "four"]);
        assert_eq!(texts(b"\"\"\"\none\n\"\"\"\ntwo"), ["one", "two"]);
        assert_eq!(texts(b"\"\"\"one\"\"\""), ["one"]);
        assert_eq!(texts(b"\"\"\"\n/quit\n\"\"\"\n/quit"), [" /quit", "/quit"]);
        assert_eq!(texts(b"\"\"\"never\nended"), ["never\nended"]);
        assert_eq!(texts(b"say \"\"\" now"), ["say \"\"\" now"]);
        assert_eq!(texts(b""), [""; 0]);
    }

    /// What someone types, key by key decided beforehand.
    struct Script(Vec<Typed>);

    impl Input for Script {
        fn line(&mut self, _: bool) -> io::Result<Typed> {
            Ok(self.0.remove(0))
        }
    }

    #[test]
    fn an_interrupt_throws_a_begun_text_away() {
        let line = |text: &str| Typed::Text(text.into());
        let mut input = Script(vec![line("one\\"), Typed::Interrupt, line("two"), Typed::Interrupt]);
        assert_eq!(input.text().unwrap(), Typed::Dropped);
        assert_eq!(input.text().unwrap(), line("two"));
        assert_eq!(input.text().unwrap(), Typed::Interrupt);
    }

    #[test]
    fn wrong_bytes_are_replaced_and_zeros_pass() {
        let mut input = PlainInput::new(&b"a\xffb\0\nc\xfe\n"[..], Notes::plain(), false);
        assert_eq!(input.text().unwrap(), Typed::Text("a\u{fffd}b\0".into()));
        assert!(input.warned);
        assert_eq!(input.text().unwrap(), Typed::Text("c\u{fffd}".into()));
    }

    #[test]
    fn words_complete_by_their_beginning() {
        let names = || ["/set", "/show", "/quit"].map(String::from).into();
        let found = |start| {
            let pairs = beginning_with(start, names());
            pairs.into_iter().map(|pair| pair.replacement).collect::<Vec<_>>()
        };
        assert_eq!(found("/s"), ["/set ", "/show "]);
        assert!(found("").is_empty());
    }
}
