//! A search through the conversation: the typed text, the lines that have it, and the one that is shown. It
//! must not know how lines are laid out.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Modifier;

use crate::markdown::theme::{Role, Theme};

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
    pub(super) fn highlight(&self, area: Rect, buffer: &mut Buffer, top: usize, theme: Theme) {
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

    /// Searches again with `find` if the lines were laid out in another way; `layout` is their width and
    /// number.
    pub(super) fn update(&mut self, layout: (u16, usize), find: impl FnOnce(&str) -> Vec<usize>) {
        if self.layout == layout {
            return;
        }
        let shown = self.lines.get(self.at).copied();
        self.lines = find(&self.wanted);
        self.layout = layout;
        // The newest match, unless one was chosen already.
        let last = self.lines.len().saturating_sub(1);
        self.at = match shown {
            Some(line) => self.lines.partition_point(|at| *at < line).min(last),
            None => last,
        };
    }

    /// The line of the match, if it has to become visible now.
    pub(super) fn moved_to(&mut self) -> Option<usize> {
        std::mem::take(&mut self.moved).then(|| self.lines.get(self.at).copied()).flatten()
    }

    /// Goes to another match.
    pub(super) fn step(&mut self, by: isize) {
        let len = self.lines.len() as isize;
        if len > 0 {
            self.at = (self.at as isize + by).rem_euclid(len) as usize;
            self.moved = true;
        }
    }

    /// Changes the text that is searched.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut String)) {
        change(&mut self.wanted);
        *self = Self { wanted: std::mem::take(&mut self.wanted), moved: true, ..Self::default() };
    }
}
