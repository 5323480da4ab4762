//! The line editor of line mode, on a terminal. It must not know what an entry means.

use std::cell::Cell;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::rc::Rc;

use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use super::line_input::{Input, PROMPT, PROMPT_MORE, Typed};
use super::notes::Notes;
use super::{file_names, history_file};
use crate::chat::Tone;
use crate::input::completion::{Completion, as_mention, completion};
use crate::input::settings::Setting;

/// A line editor with history and completion, for a terminal.
pub struct EditorInput {
    editor: Editor<EditorHelper, FileHistory>,
    history: Option<PathBuf>,
    notes: Notes,
    /// Whether the edited line has text.
    edited: Rc<Cell<bool>>,
    /// The text that the next line begins with.
    prefilled: String,
}

impl EditorInput {
    /// Starts the line editor. Entries are saved in the file `history`, which only the user may read; if that
    /// fails, a warning says so.
    ///
    /// # Errors
    /// The terminal cannot be used.
    pub fn new(history: Option<PathBuf>, notes: Notes) -> io::Result<Self> {
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .bracketed_paste(notes.styled)
            .color_mode(rustyline::ColorMode::Disabled)
            .auto_add_history(false)
            .build();
        let mut editor = Editor::with_config(config).map_err(io::Error::other)?;
        let edited = Rc::new(Cell::new(false));
        editor.set_helper(Some(EditorHelper { edited: Rc::clone(&edited) }));
        let mut input = Self { editor, history, notes, edited, prefilled: String::new() };
        if let Some(path) = &input.history {
            let opened = history_file::prepare(path).map_err(ReadlineError::Io);
            if let Err(error) = opened.and_then(|()| input.editor.load_history(path)) {
                input.give_up_history(&error);
            }
        }
        Ok(input)
    }

    fn give_up_history(&mut self, error: &ReadlineError) {
        if let Some(path) = self.history.take() {
            let path = path.display();
            self.notes.line(Tone::Warning, &format!("The history is not saved: {path}: {error}"));
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
            // As in a shell, Ctrl-C discards what was typed; only on an empty line is it meant for the chat.
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

/// Whether a user sits at the terminal: stdin and stdout are both terminals.
pub fn interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Completes commands, settings and file names for the line editor.
struct EditorHelper {
    edited: Rc<Cell<bool>>,
}

impl Helper for EditorHelper {}
impl rustyline::highlight::Highlighter for EditorHelper {}
impl rustyline::validate::Validator for EditorHelper {}
impl rustyline::hint::Hinter for EditorHelper {
    type Hint = String;

    /// Gives no hint. The line editor calls this after every change; there is no other way to learn what is
    /// on the line.
    fn hint(&self, line: &str, _: usize, _: &Context<'_>) -> Option<String> {
        self.edited.set(!line.is_empty());
        None
    }
}

impl Completer for EditorHelper {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = &line[..pos];
        let fitting = |start: usize, words: Vec<String>| (start, beginning_with(&before[start..], words));
        Ok(match completion(before) {
            Completion::None => (pos, Vec::new()),
            Completion::Words { start, words } => {
                fitting(start, words.into_iter().map(|suggestion| suggestion.word).collect())
            }
            Completion::Setting { start } => {
                fitting(start, Setting::ALL.iter().map(|setting| setting.name().to_owned()).collect())
            }
            Completion::Value { start, setting } => {
                fitting(start, setting.examples().iter().map(|(value, _)| (*value).to_owned()).collect())
            }
            Completion::Path { start } | Completion::Model { start } => {
                let pair = |name: String| Pair { display: name.clone(), replacement: name };
                (start, file_names::matching(&before[start..]).into_iter().map(pair).collect())
            }
            Completion::Mention { start } => {
                let begun = before[start..].replace("\\ ", " ");
                let pair = |name: String| Pair { replacement: as_mention(&name), display: name };
                (start, file_names::matching(&begun).into_iter().map(pair).collect())
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
