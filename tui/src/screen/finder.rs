//! Searching the conversation: the typed text, the lines that have it, and the one that is shown. And
//! scrolling with the wheel. It must not know how lines are laid out.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Modifier;

use super::event::ScreenEffect;
use super::state::{Overlay, Screen};
use crate::markdown::theme::{Role, Theme};

/// Lines of a step of the wheel.
const WHEEL_LINES: isize = 3;

/// A search through the conversation.
#[derive(Debug, Clone, Default)]
pub struct Finder {
    wanted: String,
    /// The lines in which the text begins.
    lines: Vec<usize>,
    /// Index of the line that is shown among them.
    at: usize,
    /// Width and number of all lines when they were searched.
    layout: (u16, usize),
    /// Whether the user goes to another match, which has to be visible.
    moved: bool,
}

impl Finder {
    /// What is shown above the composer.
    pub fn text(&self) -> String {
        let place = match (self.wanted.is_empty(), self.lines.len()) {
            (true, _) => "type to search the conversation".to_owned(),
            (false, 0) => "no match".to_owned(),
            (false, count) => format!("{} of {count}; Up and Down go to others", self.at + 1),
        };
        format!("find: {}\u{2581}  {place}, Esc closes", self.wanted)
    }

    /// Highlights the text where it is on the screen; `top` is the line of the first row.
    fn highlight(&self, area: Rect, buffer: &mut Buffer, top: usize, theme: Theme) {
        let wanted = self.wanted.to_lowercase();
        if wanted.trim().is_empty() {
            return;
        }
        for y in area.y..area.bottom() {
            let (mut text, mut columns) = (String::new(), Vec::new());
            for x in area.x..area.right() {
                let symbol = buffer[(x, y)].symbol().to_lowercase();
                columns.extend(std::iter::repeat_n(x, symbol.len()));
                text.push_str(&symbol);
            }
            let shown = self.lines.get(self.at) == Some(&(top + usize::from(y - area.y)));
            for (at, found) in text.match_indices(&wanted) {
                let (from, to) = (columns[at], columns[at + found.len() - 1]);
                let place = Rect { x: from, y, width: to - from + 1, height: 1 };
                buffer.set_style(place, theme.style(Role::Selected));
                if shown || !theme.coloured() {
                    buffer.set_style(place, theme.style(Role::Selected).add_modifier(Modifier::REVERSED));
                }
            }
        }
    }
}

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
        if finder.layout != (width, total) {
            let shown = finder.lines.get(finder.at).copied();
            finder.lines = self.log.find(&finder.wanted);
            finder.layout = (width, total);
            // The newest match, unless one was chosen already.
            let last = finder.lines.len().saturating_sub(1);
            finder.at = match shown {
                Some(line) => finder.lines.partition_point(|at| *at < line).min(last),
                None => last,
            };
        }
        if std::mem::take(&mut finder.moved)
            && let Some(line) = finder.lines.get(finder.at)
        {
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

impl Finder {
    fn step(&mut self, by: isize) {
        let len = self.lines.len() as isize;
        if len > 0 {
            self.at = (self.at as isize + by).rem_euclid(len) as usize;
            self.moved = true;
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut String)) {
        change(&mut self.wanted);
        *self = Self { wanted: std::mem::take(&mut self.wanted), moved: true, ..Self::default() };
    }
}
