//! An answer in line mode and in `moelten run`, shown while it is generated. It must not know what was asked.

use std::io::{self, Write};
use std::ops::ControlFlow;

use moelten_engine::api::Event as EngineEvent;

use super::notes::Notes;
use super::prompt_progress::PromptProgress;
use crate::markdown::filter::Filter;

/// Shows an answer while it is generated: progress through the prompt on stderr, filtered text on stdout.
#[derive(Debug)]
pub struct AnswerStream {
    progress: PromptProgress,
    filter: Filter,
    /// The text, not filtered.
    text: String,
    ends_line: bool,
    failed: Option<io::Error>,
}

impl AnswerStream {
    /// A stream that has shown nothing yet.
    pub fn new(notes: Notes) -> Self {
        Self {
            progress: PromptProgress::new(notes),
            filter: Filter::new(),
            text: String::new(),
            ends_line: true,
            failed: None,
        }
    }

    /// Shows a piece of progress. Breaks once writing to stdout has failed.
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

    /// Ends the last line; returns the text, not filtered.
    ///
    /// # Errors
    /// The write error that ended the answer.
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
