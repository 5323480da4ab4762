//! Reading back: the search through the conversation, the wheel, and how far the conversation is scrolled. It
//! must not know how lines are laid out.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::event::ScreenEffect;
use super::finder::Finder;
use super::state::{Overlay, Screen};

/// Lines of a step of the wheel.
const WHEEL_LINES: isize = 3;

impl Screen {
    /// Opens the search, or goes to the match before.
    pub(super) fn find(&mut self) {
        match &mut self.finder {
            Some(finder) => finder.step(-1),
            None => self.finder = Some(Finder::default()),
        }
    }

    /// A key while the search is open; `None` if it is not one of the search.
    pub(super) fn finder_key(&mut self, key: KeyEvent) -> Option<Vec<ScreenEffect>> {
        let finder = self.finder.as_mut()?;
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Esc => self.finder = None,
            KeyCode::Char('f' | 'p') if control => finder.step(-1),
            KeyCode::Char('n') if control => finder.step(1),
            KeyCode::Up | KeyCode::Enter => finder.step(-1),
            KeyCode::Down => finder.step(1),
            KeyCode::Char('u') if control => finder.change(String::clear),
            KeyCode::Backspace => finder.change(|wanted| {
                wanted.pop();
            }),
            KeyCode::Char(c) if !control && !c.is_control() => finder.change(|wanted| wanted.push(c)),
            _ => return None,
        }
        Some(Vec::new())
    }

    /// Brings the search up to date with the lines that were laid out, and shows the match that it is at.
    /// Returns the line to show first.
    pub(super) fn follow_finder(&mut self, width: u16, total: usize, height: usize) -> Option<usize> {
        let end = total.saturating_sub(height);
        let finder = self.finder.as_mut()?;
        finder.update((width, total), |wanted| self.log.find(wanted));
        if let Some(line) = finder.moved_to() {
            self.top = Some(line.saturating_sub(height / 2)).filter(|top| *top < end);
        }
        self.top
    }

    /// Highlights what the search has found.
    pub(super) fn draw_matches(&self, area: Rect, buffer: &mut Buffer, top: usize) {
        if let Some(finder) = &self.finder {
            finder.highlight(area, buffer, top, self.theme);
        }
    }

    /// The wheel was turned, up if negative.
    pub(super) fn wheel(&mut self, steps: isize) {
        match (&mut self.picker, &mut self.sessions, &mut self.overlay) {
            (Some(picker), _, _) => picker.step(steps),
            (None, Some(list), _) => list.step(steps),
            (None, None, Some(Overlay::Help(at))) => *at = at.saturating_add_signed(steps * WHEEL_LINES),
            (None, None, None) => self.scroll(steps * WHEEL_LINES),
        }
    }

    /// Where the conversation is scrolled to; `None` at its end.
    pub(super) fn position(&self) -> Option<String> {
        let (total, height) = self.drawn;
        let top = self.top?;
        let below = total.saturating_sub(top + height);
        let percent = (top * 100).checked_div(total.saturating_sub(height)).unwrap_or(0);
        let plural = if below == 1 { "line" } else { "lines" };
        Some(format!("{percent} %, {below} {plural} below (End)"))
    }
}
