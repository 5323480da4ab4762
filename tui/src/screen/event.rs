//! What goes into the screen's state machine and what comes out. Plain data.

use crossterm::event::KeyEvent;
use moelten_engine::api::{Event as EngineEvent, ExpertMap};

use super::model_entry::SearchStep;
use crate::chat::{ChatEffect, ChatEvent, Tone};

/// Something happened.
#[derive(Debug, Clone, PartialEq)]
pub enum ScreenEvent {
    /// A key was pressed.
    Key(KeyEvent),
    /// A text was pasted.
    Paste(String),
    /// The wheel of the mouse was turned by this many steps, up if negative.
    Wheel(isize),
    /// The terminal has changed its size.
    Resized,
    /// Time has passed.
    Tick,
    /// Progress of the answer: a piece of the prompt or of the text.
    Engine(EngineEvent),
    /// An event for the conversation.
    Chat(ChatEvent),
    /// A note to show in the conversation.
    Note(Tone, String),
    /// How far the loading of a model has come, in words.
    Loading(String),
    /// A new snapshot of the expert cache and the memory.
    Experts(Box<ExpertMap>),
    /// A step of the search for models.
    Search(SearchStep),
    /// The external editor has ended: the new text, or an error message.
    Edited(Result<String, String>),
    /// The file names that complete a request.
    Files {
        /// What was asked for; the composed text may have changed since.
        request: CompletionRequest,
        /// The names.
        found: Vec<String>,
    },
    /// Ctrl-C as a signal from outside.
    Interrupt,
    /// A signal asks the program to end.
    End,
}

/// Something for the driver to do.
#[derive(Debug, Clone, PartialEq)]
pub enum ScreenEffect {
    /// An effect of the conversation; never a note, a question, a text to compose or the end.
    Chat(ChatEffect),
    /// Stop the answer.
    Stop,
    /// Add an entry to the history file.
    Remember(String),
    /// Open this text in the user's editor; then [`ScreenEvent::Edited`] follows.
    Editor(String),
    /// Find file names; then [`ScreenEvent::Files`] follows.
    Complete(CompletionRequest),
    /// Search for models; then [`ScreenEvent::Search`] follows, several times.
    StartSearch,
    /// The list was closed: further steps of the search are not needed.
    StopSearch,
    /// Take the wheel of the mouse, or leave the mouse to the terminal.
    Mouse(bool),
    /// Return to the shell until the program is continued.
    Suspend,
    /// Draw the whole screen again.
    Redraw,
    /// End the program.
    Quit,
}

/// The beginning of a file name, and the text around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletionRequest {
    /// Everything before the cursor.
    pub text: String,
    /// The byte of `text` at which the name begins.
    pub from: usize,
    /// Whether spaces in the name are written as `\ `.
    pub escaped: bool,
    /// Whether the user has asked to complete the name, and not only to see names.
    pub insert: bool,
}

impl CompletionRequest {
    /// The beginning of the name.
    pub fn name(&self) -> String {
        let name = &self.text[self.from..];
        if self.escaped { name.replace("\\ ", " ") } else { name.to_owned() }
    }
}

/// How soon a change has to be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// A few times a second is enough, so that drawing takes little time from the model.
    Soon,
    /// At once: the user is waiting for it.
    Now,
}
