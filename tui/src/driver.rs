//! Carries out what the chat asks for, in line mode: reads questions, streams answers to stdout, everything else to
//! stderr. All decisions are in `chat`; this part must not make any.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use moelten_engine::api::Event as EngineEvent;

use crate::backend::{Backend, Request};
use crate::chat::{Chat, Effect, Event, FileEvent};
use crate::filter::Filter;
use crate::input::{Input, Typed};
use crate::progress::PromptProgress;
use crate::terminal::Notes;
use crate::transcript::{FILE_BYTES_MAX, Transcript};

/// Runs a chat until someone leaves.
///
/// # Errors
/// Read errors of the input, write errors of stdout.
pub fn run(
    chat: &mut Chat,
    backend: &mut dyn Backend,
    input: &mut dyn Input,
    notes: Notes,
) -> io::Result<()> {
    let started = Instant::now();
    let mut todo = VecDeque::new();
    loop {
        let event = match todo.pop_front() {
            None => match input.text()? {
                Typed::Text(text) => Event::Entered(text),
                Typed::Interrupt => Event::Interrupted(started.elapsed()),
                Typed::End => Event::EndOfInput,
            },
            Some(Effect::Note(tone, text)) => {
                notes.line(tone, &text);
                continue;
            }
            Some(Effect::Answer(request)) => answer(backend, &request, notes, started)?,
            Some(Effect::Write { path, text }) => {
                let result = write(&path, &text).map_err(|error| error.to_string());
                Event::File(FileEvent::Written { path, result })
            }
            Some(Effect::Read { path }) => {
                let result = read(&path).map_err(|error| error.to_string());
                Event::File(FileEvent::Read { path, result })
            }
            Some(Effect::Quit) => return Ok(()),
        };
        todo.extend(chat.handle(event));
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

/// `~/x` is a file in the person's home.
fn expand(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// Writes a private file that appears under its name complete or not at all. Replaces nothing but conversations.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let path = expand(path);
    if path.exists() {
        let old = read(&path).ok().filter(|old| Transcript::from_json(old).is_ok());
        if old.is_none() {
            return Err(io::Error::other("a file of this name exists and is not a saved conversation"));
        }
    }
    let mut partial = path.clone().into_os_string();
    partial.push(format!(".{}.partial", std::process::id()));
    let result = write_new(Path::new(&partial), text).and_then(|()| std::fs::rename(&partial, &path));
    if result.is_err() {
        // The first error is the one that matters.
        let _ = std::fs::remove_file(&partial);
    }
    result
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn read(path: &Path) -> io::Result<String> {
    let path = expand(path);
    if !std::fs::metadata(&path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    File::open(&path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("it is too large for a conversation"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
