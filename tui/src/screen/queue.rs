//! Messages that wait for the answer in progress: they are sent after it, one by one, unless the user takes
//! them back, or stops the answer. And the lines above the composer's rule that show them.

use moelten_engine::api::StopReason;
use ratatui::text::Line;

use super::event::ScreenEffect;
use super::log::tone_role;
use super::state::Screen;
use crate::chat::{ChatEvent, Tone};
use crate::markdown::filter;
use crate::markdown::rows::cut;
use crate::markdown::theme::Role;

/// Most waiting messages that are shown.
const SHOWN_MAX: usize = 3;

impl Screen {
    /// Lets a message wait for the answer in progress.
    pub(super) fn queue(&mut self, text: String) {
        self.queued.push(text);
    }

    /// Up in an empty composer: takes back the last waiting message. False if there is none.
    pub(super) fn take_back(&mut self) -> bool {
        if !self.composer.is_empty() {
            return false;
        }
        let Some(text) = self.queued.pop() else { return false };
        self.composer.set(&text);
        true
    }

    /// Whether an event allows the next waiting message to be sent: it completed what the message waited for.
    pub(super) fn completes(event: &ChatEvent) -> bool {
        match event {
            ChatEvent::Answered(answer, _) => answer.reason != StopReason::Cancelled,
            ChatEvent::Switched(switched) => switched.is_ok(),
            _ => false,
        }
    }

    /// The conversation may go on: sends the next waiting message. If the activity that they waited for did
    /// not come to its end (`completed`), or there is something to decide, they go back into the composer.
    pub(super) fn send_queued(&mut self, completed: bool) -> Vec<ScreenEffect> {
        if self.queued.is_empty() || self.chat.busy() || self.chat.overflow_question().is_some() {
            return Vec::new();
        }
        if !completed {
            self.unqueue();
            return Vec::new();
        }
        let text = self.queued.remove(0);
        self.top = None;
        self.entered(&text)
    }

    /// Puts all waiting messages before the composed text.
    pub(super) fn unqueue(&mut self) {
        if self.queued.is_empty() {
            return;
        }
        let mut all = std::mem::take(&mut self.queued);
        if !self.composer.is_empty() {
            all.push(self.composer.text().to_owned());
        }
        self.composer.set(&all.join("\n"));
        self.show_message(Tone::Dim, "The waiting message is back in the input; it was not sent.");
    }

    /// The lines between the conversation and the rule: a message that must not cover the progress of an
    /// answer, and what waits for its end.
    pub(super) fn waiting_lines(&self, width: usize) -> Vec<Line<'static>> {
        let mut lines = Vec::new();
        if let Some(message) = self.message.as_ref().filter(|_| self.chat.busy()) {
            let text = format!("  {}", message.text);
            lines.push(Line::styled(cut(&text, width), self.theme.style(tone_role(message.tone))));
        }
        let dim = self.theme.style(Role::Dim);
        let first = self.queued.len().saturating_sub(SHOWN_MAX);
        if first > 0 {
            lines.push(Line::styled(format!("  {first} more are waiting"), dim));
        }
        for (index, text) in self.queued.iter().enumerate().skip(first) {
            let last = index + 1 == self.queued.len();
            let hint = if last { "  (sent after this answer; Up takes it back)" } else { "" };
            let line = filter::clean_line(text);
            let room = width.saturating_sub(2 + hint.len());
            let shown = if room < 12 { cut(&line, width.saturating_sub(2)) } else { cut(&line, room) + hint };
            lines.push(Line::styled(format!("\u{203a} {shown}"), dim));
        }
        lines
    }
}
