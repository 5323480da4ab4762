//! The state of the screen, and what the driver asks about it. The transitions are in `handle` and `keys`. It
//! must not know how the screen is drawn.

use std::time::Duration;

use ratatui::text::Line;

use super::event::{ScreenEffect, Urgency};
use super::finder::Finder;
use super::live::LiveAnswer;
use super::log::Log;
use super::model_entry::ModelEntry;
use super::palette::Palette;
use super::picker::Picker;
use super::sessions::SessionList;
use crate::chat::{Chat, Tone};
use crate::experts::ExpertView;
use crate::input::completion::Suggestion;
use crate::input::composer::{Composer, ComposerSnapshot};
use crate::input::recall::{EntryHistory, HistoryPosition};
use crate::markdown::filter;
use crate::markdown::theme::{Role, Theme};

/// How long a status message stays.
pub(super) const MESSAGE_TIME: Duration = Duration::from_secs(5);

/// What is drawn over the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overlay {
    /// Keys and commands, scrolled by this many lines.
    Help(usize),
}

/// A message above the composer that disappears after a while.
#[derive(Debug, Clone)]
pub(super) struct StatusMessage {
    pub tone: Tone,
    /// A line, filtered.
    pub text: String,
    pub until: Duration,
}

/// The text that was being composed when the last question was opened for editing.
#[derive(Debug)]
pub(super) struct Draft {
    pub written: ComposerSnapshot,
    pub position: HistoryPosition,
}

/// Everything on the screen.
pub struct Screen {
    pub(super) chat: Chat,
    pub(super) theme: Theme,
    pub(super) composer: Composer,
    pub(super) history: EntryHistory,
    /// Restored when the last question is no longer being edited.
    pub(super) draft: Option<Draft>,
    pub(super) log: Log,
    pub(super) live: Option<LiveAnswer>,
    pub(super) overlay: Option<Overlay>,
    /// The list of models, while it is open.
    pub(super) picker: Option<Picker>,
    /// The search through the conversation, while it is open.
    pub(super) finder: Option<Finder>,
    /// Whether the wheel of the mouse is ours.
    pub(super) mouse: bool,
    /// The list of earlier conversations, while it is open.
    pub(super) sessions: Option<SessionList>,
    pub(super) message: Option<StatusMessage>,
    /// How far the loading of a model has come.
    pub(super) loading: Option<String>,
    /// Messages that are sent after the answer in progress, the oldest first.
    pub(super) queued: Vec<String>,
    /// Suggestions for the text before the cursor.
    pub(super) palette: Palette,
    /// The files that the last request has found, and the models of the last search.
    pub(super) file_rows: Vec<Suggestion>,
    pub(super) found_models: Vec<ModelEntry>,
    /// Whether models were searched for since the last switch.
    pub(super) models_searched: bool,
    /// Whether the user has asked to stop the activity in progress.
    pub(super) stopping: bool,
    pub(super) experts: ExpertView,
    /// Whether the expert view is open.
    pub(super) experts_open: bool,
    /// The first line of the conversation that is shown; `None` follows the end.
    pub(super) top: Option<usize>,
    /// Lines of the conversation, and rows for them, when it was last drawn.
    pub(super) drawn: (usize, usize),
    /// Whether Ctrl-X was pressed, the first key of some chords.
    pub(super) prefix: bool,
    pub(super) now: Duration,
    pub(super) changed: Option<Urgency>,
}

impl Screen {
    /// A screen over a conversation. `history` are earlier entries, the oldest first.
    pub fn new(chat: Chat, theme: Theme, history: Vec<String>) -> Self {
        let experts = ExpertView::new(chat.facts().limits);
        Self {
            chat,
            theme,
            composer: Composer::default(),
            history: EntryHistory::new(history),
            draft: None,
            log: Log::default(),
            live: None,
            overlay: None,
            picker: None,
            finder: None,
            mouse: true,
            sessions: None,
            loading: None,
            message: None,
            queued: Vec::new(),
            palette: Palette::default(),
            file_rows: Vec::new(),
            found_models: Vec::new(),
            models_searched: false,
            stopping: false,
            experts,
            experts_open: false,
            top: None,
            drawn: (0, 0),
            prefix: false,
            now: Duration::ZERO,
            changed: Some(Urgency::Now),
        }
    }

    /// Whether the screen has to be drawn again, and how soon; resets it.
    pub fn take_changed(&mut self) -> Option<Urgency> {
        self.changed.take()
    }

    /// Whether something on the screen changes with time.
    pub fn moves(&self) -> bool {
        self.chat.busy() || self.chat.activity().is_some() || self.message.is_some()
    }

    /// Whether an answer is being written.
    pub fn is_answering(&self) -> bool {
        self.live.is_some()
    }

    /// The next frames show the answer in progress as it was laid out last.
    pub fn hold_text(&mut self, hold: bool) {
        if let Some(live) = &mut self.live {
            live.held = hold;
        }
    }

    /// Whether the expert view is open and the model computes, so that snapshots are needed often.
    pub fn watches_experts(&self) -> bool {
        self.experts_open && self.chat.busy()
    }

    /// Whether the user has asked to stop an activity that has not stopped yet.
    pub fn stopping(&self) -> bool {
        self.stopping
    }

    /// The conversation in lines for the ordinary screen after the end, at most `columns` wide, and how to go
    /// on with it.
    pub fn farewell(&mut self, columns: u16, styled: bool) -> Vec<Line<'static>> {
        let theme = if styled { self.theme } else { Theme::PLAIN };
        let mut lines = self.log.farewell(columns, theme);
        if self.chat.keeps() && !self.chat.turns().is_empty() {
            let text = "moelten chat --continue goes on with this conversation.";
            lines.push(Line::styled(text, theme.style(Role::Dim)));
        }
        lines
    }

    /// Shows notes at the beginning of the conversation.
    pub fn show_notes(&mut self, notes: Vec<(Tone, String)>) {
        notes.iter().for_each(|(tone, text)| self.note(*tone, text));
    }

    /// Asks for a count of the conversation at the start.
    pub(super) fn count(&mut self) -> Vec<ScreenEffect> {
        self.chat.count_request().map(ScreenEffect::Chat).into_iter().collect()
    }

    /// Adds a note to the conversation.
    pub(super) fn note(&mut self, tone: Tone, text: &str) {
        self.log.note(self.chat.turns().len(), tone, text);
    }

    /// Shows a message above the composer for a while.
    pub(super) fn show_message(&mut self, tone: Tone, text: impl Into<String>) {
        let text = filter::clean_line(&text.into());
        self.message = Some(StatusMessage { tone, text, until: self.now + MESSAGE_TIME });
    }
}
