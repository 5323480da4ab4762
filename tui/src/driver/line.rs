//! Line mode: reads questions, streams answers to stdout, everything else to stderr.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::Instant;

use crossterm::clipboard::CopyToClipboard;
use moelten_engine::api::Event as EngineEvent;

use crate::backend::{Backend, Request};
use crate::chat::{Chat, Choice, Effect, Event};
use crate::files::{self, Kept};
use crate::filter::{self, Filter};
use crate::input::{Input, Typed};
use crate::progress::PromptProgress;
use crate::terminal::{Notes, Tone};

/// Runs a chat until someone leaves; `first` is done before anything is read.
///
/// # Errors
/// Read errors of the input, write errors of stdout.
pub fn run(
    chat: &mut Chat,
    backend: &mut dyn Backend,
    input: &mut dyn Input,
    notes: Notes,
    kept: &Kept,
    first: Vec<Effect>,
) -> io::Result<()> {
    let started = Instant::now();
    let mut todo = VecDeque::from(first);
    loop {
        let event = match todo.pop_front() {
            None => match input.text()? {
                Typed::Text(text) => Event::Entered(text),
                Typed::Interrupt => Event::Interrupted(started.elapsed()),
                Typed::Dropped if chat.editing() => Event::Interrupted(started.elapsed()),
                Typed::Dropped => continue,
                Typed::End => Event::EndOfInput,
            },
            Some(Effect::Note(tone, text)) => {
                notes.line(tone, &text);
                continue;
            }
            Some(Effect::Answer(request)) => answer(backend, &request, notes, started)?,
            Some(Effect::Ask) => {
                notes.line(Tone::Warning, &chat.asking().unwrap_or_default());
                Choice::ALL
                    .iter()
                    .for_each(|(key, _, help)| notes.line(Tone::Plain, &format!("  {key}  {help}")));
                continue;
            }
            Some(Effect::Compose(text)) => {
                if input.prefill(&filter::clean(&text)) {
                    notes.line(
                        Tone::Dim,
                        "Enter sends it in place of your last question, Ctrl-C leaves that as it was.",
                    );
                } else {
                    chat.stop_editing();
                    notes.line(Tone::Error, "There is no line editor here; /undo takes the question back.");
                }
                continue;
            }
            Some(Effect::Copy(text)) => {
                copy(&text, notes);
                continue;
            }
            Some(Effect::Switch(model)) => {
                let tell = &mut |tone, text: String| notes.line(tone, &text);
                let model = model.map(|path| files::expand(&path));
                Event::Switched(backend.switch(model.as_deref(), tell).map(Box::new))
            }
            Some(Effect::Quit) => return Ok(()),
            Some(file) => match files::perform(file, kept, &backend.beside()) {
                Some(event) => event,
                None => continue,
            },
        };
        todo.extend(chat.handle(event));
    }
}

/// To the clipboard of the terminal (OSC 52), if there is one.
fn copy(text: &str, notes: Notes) {
    if notes.styled && crossterm::execute!(io::stderr(), CopyToClipboard::to_clipboard_from(text)).is_ok() {
        notes.line(Tone::Dim, crate::terminal::COPIED);
    } else {
        notes.line(Tone::Error, "There is no terminal here whose clipboard could be used.");
    }
}

fn answer(backend: &mut dyn Backend, request: &Request, notes: Notes, started: Instant) -> io::Result<Event> {
    let mut shown = AnswerStream::new(notes);
    let result = backend.answer(request, &mut |event| shown.event(event));
    let text = shown.finish()?;
    Ok(match result {
        Ok(answer) => Event::Answered(Box::new(answer), started.elapsed()),
        Err(failure) => Event::Failed { shown: text, failure },
    })
}

/// Shows an answer while it is computed: progress through the prompt on stderr, filtered text on stdout.
#[derive(Debug)]
pub struct AnswerStream {
    progress: PromptProgress,
    filter: Filter,
    /// The text as the model said it.
    text: String,
    ends_line: bool,
    failed: Option<io::Error>,
}

impl AnswerStream {
    /// Nothing shown yet.
    pub fn new(notes: Notes) -> Self {
        Self {
            progress: PromptProgress::new(notes),
            filter: Filter::new(),
            text: String::new(),
            ends_line: true,
            failed: None,
        }
    }

    /// Shows an event. Breaks when nobody reads stdout any more.
    pub fn event(&mut self, event: EngineEvent) -> ControlFlow<()> {
        match event {
            EngineEvent::Prompt { done, total } => self.progress.update(done, total),
            EngineEvent::Text(text) => {
                self.progress.clear();
                let mut fit = String::with_capacity(text.len());
                self.filter.push(&text, &mut fit);
                self.text.push_str(&text);
                self.write(&fit);
            }
        }
        if self.failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn write(&mut self, text: &str) {
        if text.is_empty() || self.failed.is_some() {
            return;
        }
        self.ends_line = text.ends_with('\n');
        let mut out = io::stdout().lock();
        self.failed = out.write_all(text.as_bytes()).and_then(|()| out.flush()).err();
    }

    /// Ends the line if the answer did not; gives the text as the model said it.
    ///
    /// # Errors
    /// The write error that broke the answer off.
    pub fn finish(mut self) -> io::Result<String> {
        self.progress.clear();
        if !self.ends_line {
            self.write("\n");
        }
        match self.failed {
            None => Ok(self.text),
            Some(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
