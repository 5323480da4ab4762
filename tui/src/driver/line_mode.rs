//! Line mode: reads entries, streams answers to stdout, writes everything else to stderr.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use moelten_engine::runtime::cancel::Cancel;

use super::answer_stream::AnswerStream;
use super::clipboard;
use super::file_jobs::{self, StatePaths};
use super::file_names::expand;
use super::line_input::{Input, Typed};
use super::notes::Notes;
use crate::chat::{Backend, Chat, ChatEffect, ChatEvent, OverflowChoice, Request, Tone};
use crate::markdown::filter;

/// What line mode needs of the program around it.
#[derive(Debug, Clone, Copy)]
pub struct LineControls {
    /// Until what it returns is dropped, a signal does not end the program.
    pub hold: fn() -> Box<dyn Any>,
    /// Whether a signal has asked the program to end.
    pub ended: fn() -> bool,
}

/// Runs a chat until the user quits; `first` is done before anything is read.
///
/// # Errors
/// Reading the input or writing to stdout failed.
pub fn run(
    chat: &mut Chat,
    backend: &mut dyn Backend,
    input: &mut dyn Input,
    notes: Notes,
    state: &StatePaths,
    controls: LineControls,
    first: Vec<ChatEffect>,
) -> io::Result<()> {
    let started = Instant::now();
    let mut todo = VecDeque::from(first);
    // From an answer until it is saved.
    let mut held = None;
    loop {
        if todo.is_empty() && held.is_some() {
            if (controls.ended)() {
                leave(chat, backend, notes, state);
                return Ok(());
            }
            held = None;
        }
        let event = match todo.pop_front() {
            None => match input.entry()? {
                Typed::Text(text) => Some(ChatEvent::Entered(text)),
                Typed::Interrupt => Some(ChatEvent::Interrupted(started.elapsed())),
                Typed::Dropped if chat.editing() => Some(ChatEvent::Interrupted(started.elapsed())),
                Typed::Dropped => None,
                Typed::TooLong(most) => {
                    let text = format!("This entry has more than {} MiB and was not read.", most >> 20);
                    notes.line(Tone::Error, &text);
                    None
                }
                Typed::End => Some(ChatEvent::EndOfInput),
            },
            Some(ChatEffect::Answer(request)) => {
                held.get_or_insert_with(controls.hold);
                Some(answer(backend, &request, notes, started)?)
            }
            Some(ChatEffect::Switch(model)) => {
                let tell = &mut |tone, text: String| notes.line(tone, &text);
                let model = model.map(|path| expand(&path));
                Some(ChatEvent::Switched(backend.switch(model.as_deref(), tell).map(Box::new)))
            }
            Some(ChatEffect::Quit) => {
                leave(chat, backend, notes, state);
                return Ok(());
            }
            Some(effect) => show(effect, chat, input, notes)
                // Nothing stops a count here: Ctrl-C ends the program.
                .and_then(|file| file_jobs::perform(file, state, &backend.counters(), &Cancel::new())),
        };
        todo.extend(event.into_iter().flat_map(|event| chat.handle(event)));
    }
}

/// Shows an effect of the conversation; returns one that concerns files instead.
fn show(effect: ChatEffect, chat: &mut Chat, input: &mut dyn Input, notes: Notes) -> Option<ChatEffect> {
    match effect {
        ChatEffect::Note(tone, text) => notes.line(tone, &text),
        ChatEffect::Ask => {
            notes.line(Tone::Warning, &chat.overflow_question().unwrap_or_default());
            for (key, _, help) in OverflowChoice::ALL {
                notes.line(Tone::Plain, &format!("  {key}  {help}"));
            }
        }
        ChatEffect::Compose(text) => {
            if input.prefill(&filter::clean(&text)) {
                notes.line(Tone::Dim, "Editing your last message: Enter resends it, Ctrl-C cancels.");
            } else {
                chat.stop_editing();
                notes.line(Tone::Error, "There is no line editor here; /undo removes the last turn.");
            }
        }
        ChatEffect::Copy(text) if notes.styled && clipboard::copy(io::stderr(), &text).is_ok() => {
            notes.line(Tone::Dim, clipboard::COPIED);
        }
        ChatEffect::Copy(_) => notes.line(Tone::Error, "There is no terminal here with a clipboard."),
        file => return Some(file),
    }
    None
}

fn answer(
    backend: &mut dyn Backend,
    request: &Request,
    notes: Notes,
    started: Instant,
) -> io::Result<ChatEvent> {
    let mut shown = AnswerStream::new(notes);
    let result = backend.answer(request, &mut |event| shown.event(event));
    let text = shown.finish()?;
    Ok(match result {
        Ok(answer) => ChatEvent::Answered(Box::new(answer), started.elapsed()),
        Err(failure) => ChatEvent::Failed { shown: text, failure },
    })
}

/// Saves the conversation at the end, if the last attempt failed.
fn leave(chat: &mut Chat, backend: &mut dyn Backend, notes: Notes, state: &StatePaths) {
    let keep = chat.leave("");
    let saved = keep.and_then(|keep| file_jobs::perform(keep, state, &backend.counters(), &Cancel::new()));
    for effect in saved.into_iter().flat_map(|event| chat.handle(event)) {
        if let ChatEffect::Note(tone, text) = effect {
            notes.line(tone, &text);
        }
    }
    if let Some(kept) = &state.conversations {
        kept.begin_new();
    }
}

#[cfg(test)]
mod tests;
