//! The suggestions above the composer: rows, the highlighted one, and their drawing. A state machine; it must
//! not know where suggestions come from, nor what becomes of the chosen one.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use unicode_width::UnicodeWidthStr;

use crate::input::completion::Suggestion;
use crate::markdown::rows::cut;
use crate::markdown::theme::{Role, Theme};

/// Most rows that are drawn at a time.
pub const ROWS_MAX: usize = 8;
/// Widest column of words, in columns.
const WORD_MAX: usize = 36;
/// Columns between a word and its help.
const GAP: usize = 2;

/// What Enter does with a highlighted suggestion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accept {
    /// The text is complete and is entered.
    #[default]
    Enters,
    /// A file name: a folder is opened, and a file completes the text.
    File,
    /// A file name within a question: the question goes on.
    Mentions,
}

/// Suggestions for the text before the cursor.
#[derive(Debug, Clone, Default)]
pub struct Palette {
    /// The text that the suggestions are for.
    text: String,
    /// Byte of the text at which the suggested word begins.
    from: usize,
    rows: Vec<Suggestion>,
    selected: Option<usize>,
    accept: Accept,
    /// Whether the user has closed the suggestions for this text.
    closed: bool,
}

impl Palette {
    /// Shows suggestions for `text`, whose last word begins at byte `from`: those that begin with that word.
    /// The first one is highlighted if the word is not empty and the suggestions are all that there can be.
    pub fn show(&mut self, text: &str, from: usize, all: Vec<Suggestion>, accept: Accept) {
        let typed = text[from..].to_lowercase();
        let fits = |suggestion: &Suggestion| suggestion.word.to_lowercase().starts_with(&typed);
        let rows: Vec<_> = all.into_iter().filter(fits).collect();
        let fixed = accept == Accept::Enters && !typed.is_empty() && !rows.is_empty();
        *self =
            Self { text: text.to_owned(), from, rows, selected: fixed.then_some(0), accept, closed: false };
    }

    /// Shows nothing for this text.
    pub fn dismiss(&mut self, text: &str) {
        *self = Self { text: text.to_owned(), closed: true, ..Self::default() };
    }

    /// Whether the suggestions, if any, are for this text.
    pub fn is_for(&self, text: &str) -> bool {
        self.text == text
    }

    /// The byte at which the suggested word begins.
    pub fn from(&self) -> usize {
        self.from
    }

    /// What Enter does with a suggestion.
    pub fn accept(&self) -> Accept {
        self.accept
    }

    /// Whether suggestions are on the screen.
    pub fn is_open(&self) -> bool {
        !self.closed && !self.rows.is_empty()
    }

    /// The words of all suggestions.
    pub fn words(&self) -> Vec<String> {
        self.rows.iter().map(|row| row.word.clone()).collect()
    }

    /// The highlighted suggestion.
    pub fn selected(&self) -> Option<&Suggestion> {
        self.selected.filter(|_| self.is_open()).and_then(|at| self.rows.get(at))
    }

    /// Whether a suggestion is exactly what was typed.
    pub fn is_typed(&self) -> bool {
        self.rows.iter().any(|row| row.word == self.text[self.from..])
    }

    /// Moves the highlight, up if `by` is negative; it goes round at the ends.
    pub fn step(&mut self, by: isize) {
        let len = self.rows.len();
        self.selected = match self.selected {
            _ if len == 0 => None,
            None if by < 0 => Some(len - 1),
            None => Some(0),
            Some(at) => Some((at as isize + by).rem_euclid(len as isize) as usize),
        };
    }

    /// What the keys do, and the position in a list that is longer than what is shown.
    pub fn hint(&self) -> String {
        let keys = match (self.selected, self.accept) {
            (Some(_), Accept::Mentions) => "Enter inserts, Esc closes",
            (Some(_), _) => "Enter accepts, Tab inserts, Esc closes",
            (None, _) => "Down selects, Tab completes, Esc closes",
        };
        match self.rows.len() {
            0..=ROWS_MAX => keys.to_owned(),
            len => format!("{} of {len}; {keys}", self.selected.map_or(0, |at| at + 1)),
        }
    }

    /// Rows that it wants.
    pub fn height(&self) -> u16 {
        if self.is_open() { self.rows.len().min(ROWS_MAX) as u16 } else { 0 }
    }

    /// Draws the suggestions around the highlighted one.
    pub fn draw(&self, area: Rect, buffer: &mut Buffer, theme: Theme) {
        let room = usize::from(area.height);
        let first = (self.selected.unwrap_or(0) + 1).saturating_sub(room);
        let name = |row: &Suggestion| match row.detail.is_empty() {
            true => row.word.clone(),
            false => format!("{} {}", row.word, row.detail),
        };
        let width = usize::from(area.width);
        let widest = self.rows.iter().map(|row| name(row).width()).max().unwrap_or(0);
        // Where there is no room for help beside the words, they have the whole row.
        let column = widest.min(WORD_MAX);
        let beside = width >= column + 2 * GAP + 12;
        for (y, (at, row)) in (area.y..area.bottom()).zip(self.rows.iter().enumerate().skip(first).take(room))
        {
            let chosen = self.selected == Some(at);
            let place = Rect { y, height: 1, ..area };
            let words = if beside { cut(&name(row), column) } else { name(row) };
            let mark = if chosen { "> " } else { "  " };
            buffer.set_stringn(area.x, y, mark, width, theme.style(Role::Person));
            let x = area.x + 2.min(area.width);
            buffer.set_stringn(x, y, &words, width.saturating_sub(2), theme.style(Role::Accent));
            if !row.detail.is_empty() && words.starts_with(&row.word) {
                let x = x + row.word.width() as u16;
                let rest = words.get(row.word.len()..).unwrap_or_default();
                buffer.set_stringn(
                    x,
                    y,
                    rest,
                    usize::from(area.right().saturating_sub(x)),
                    theme.style(Role::Dim),
                );
            }
            if beside {
                let x = x + (column + GAP) as u16;
                let left = usize::from(area.right().saturating_sub(x));
                buffer.set_stringn(x, y, cut(&row.help, left), left, theme.style(Role::Text));
            }
            if chosen {
                buffer.set_style(place, theme.style(Role::Selected));
            }
        }
    }
}
