//! What the lists over the conversation have in common: a typed filter, a selection, their keys, and rows of
//! columns. It must not know what is listed.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// Entries of a page.
const PAGE: usize = 10;

/// What a key means for the list's owner. The filter and the selection have changed already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListKey {
    /// Nothing more.
    Taken,
    /// The selected entry is wanted.
    Enter,
    /// The selected entry is to go.
    Delete,
    /// The list is to be closed.
    Close,
}

/// The typed filter, and the selected entry among those that match.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    typed: String,
    selected: usize,
}

impl ListFilter {
    /// The typed text.
    pub fn typed(&self) -> &str {
        &self.typed
    }

    /// The index of the selected entry among those that match.
    pub fn selected(&self) -> usize {
        self.selected
    }

    /// The typed words, to be compared with [`contains_all`].
    pub fn words(&self) -> Vec<String> {
        self.typed.split_whitespace().map(str::to_lowercase).collect()
    }

    /// Moves the selection among `count` entries, up if negative.
    pub fn step(&mut self, by: isize, count: usize) {
        self.selected = self.selected.saturating_add_signed(by).min(count.saturating_sub(1));
    }

    /// Takes a key, with `count` entries that match.
    pub fn key(&mut self, key: KeyEvent, count: usize) -> ListKey {
        if key.kind == KeyEventKind::Release {
            return ListKey::Taken;
        }
        let (page, all) = (PAGE.cast_signed(), count.cast_signed());
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Esc => return ListKey::Close,
            KeyCode::Char('c' | 'd') if control => return ListKey::Close,
            KeyCode::Enter => return ListKey::Enter,
            KeyCode::Delete => return ListKey::Delete,
            KeyCode::Up => self.step(-1, count),
            KeyCode::Char('p') if control => self.step(-1, count),
            KeyCode::Down => self.step(1, count),
            KeyCode::Char('n') if control => self.step(1, count),
            KeyCode::PageUp => self.step(-page, count),
            KeyCode::PageDown => self.step(page, count),
            KeyCode::Home => self.step(-all, count),
            KeyCode::End => self.step(all, count),
            KeyCode::Char('u') if control => self.change(String::clear),
            KeyCode::Backspace => self.change(|typed| {
                let end = typed.grapheme_indices(true).next_back().map_or(0, |(at, _)| at);
                typed.truncate(end);
            }),
            KeyCode::Char(c) if !control && !c.is_control() => self.change(|typed| typed.push(c)),
            _ => {}
        }
        ListKey::Taken
    }

    fn change(&mut self, change: impl FnOnce(&mut String)) {
        change(&mut self.typed);
        self.selected = 0;
    }
}

/// Whether a text contains every one of these words, in small letters.
pub fn contains_all(text: &str, words: &[String]) -> bool {
    let text = text.to_lowercase();
    words.iter().all(|word| text.contains(word))
}

/// Writes rows into an area from top to bottom.
pub struct RowWriter<'a> {
    pub area: Rect,
    /// The row that is written next.
    pub next: u16,
    pub buf: &'a mut Buffer,
}

impl RowWriter<'_> {
    /// Writes pieces of text, each with its style.
    pub fn put(&mut self, pieces: &[(&str, Style)]) {
        if self.next >= self.area.bottom() {
            return;
        }
        let mut x = self.area.x;
        for (text, style) in pieces {
            let room = usize::from(self.area.right().saturating_sub(x));
            x = self.buf.set_stringn(x, self.next, text, room, *style).0;
        }
        self.next += 1;
    }

    /// As [`Self::put`], with another style for the whole row.
    pub fn put_over(&mut self, pieces: &[(&str, Style)], over: Style) {
        let row = Rect { y: self.next, height: 1, ..self.area }.intersection(self.area);
        self.put(pieces);
        self.buf.set_style(row, over);
    }
}

/// The first of several wordings, the longest first, that has room in `width` columns; else the last.
pub fn roomy(wordings: &[&'static str], width: usize) -> &'static str {
    let fits = |words: &&&'static str| words.width() <= width;
    wordings.iter().find(fits).or(wordings.last()).copied().unwrap_or_default()
}

/// A text in exactly `width` columns, with an ellipsis where something is cut off.
pub fn fitted(text: &str, width: usize) -> String {
    if text.width() <= width {
        return format!("{text}{}", " ".repeat(width - text.width()));
    }
    let (mut out, mut used) = (String::new(), 0);
    for piece in text.graphemes(true) {
        if used + piece.width() + 1 > width {
            break;
        }
        out.push_str(piece);
        used += piece.width();
    }
    if used < width {
        out.push('…');
        used += 1;
    }
    out + &" ".repeat(width - used)
}
