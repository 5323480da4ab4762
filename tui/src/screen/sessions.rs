//! The list of earlier conversations: typing filters it, Enter opens one, Delete pressed twice deletes one. A
//! state machine and its drawing; it must not read or delete anything.

use std::path::PathBuf;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

use super::picker::{RowWriter, fitted};
use crate::chat::SessionEntry;
use crate::markdown::filter::clean_line;
use crate::markdown::theme::{Role, Theme};

/// Columns of the age, the number of messages and the model.
const WHEN: usize = 12;
const COUNT: usize = 5;
const MODEL: usize = 24;
/// Columns that titles need before other columns are drawn.
const TITLE_MIN: usize = 24;

/// What a key did.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionOutcome {
    /// The list stays open.
    Open,
    /// The user wants this conversation.
    Chosen(PathBuf),
    /// The user wants this one deleted; the list stays open.
    Delete(PathBuf),
    /// The user closed the list.
    Closed,
}

/// The conversations, and the typed filter.
#[derive(Debug, Clone, Default)]
pub struct SessionList {
    entries: Option<Vec<SessionEntry>>,
    typed: String,
    /// Index of the selected one among those that match.
    selected: usize,
    /// Whether Delete was pressed: the next one deletes.
    deleting: bool,
    /// What became of the last deletion.
    problem: String,
}

impl SessionList {
    /// Fills the list.
    pub fn fill(&mut self, mut entries: Vec<SessionEntry>) {
        for entry in &mut entries {
            entry.model = clean_line(&entry.model);
        }
        self.entries = Some(entries);
        self.selected = self.selected.min(self.matches().count().saturating_sub(1));
    }

    /// A conversation was deleted, or not.
    pub fn deleted(&mut self, path: &PathBuf, result: &Result<(), String>) {
        match result {
            Ok(()) => {
                self.entries.iter_mut().for_each(|entries| entries.retain(|entry| entry.path != *path));
                self.selected = self.selected.min(self.matches().count().saturating_sub(1));
            }
            Err(problem) => self.problem = format!("not deleted: {}", clean_line(problem)),
        }
    }

    /// The conversations whose title or model contains every typed word.
    fn matches(&self) -> impl Iterator<Item = &SessionEntry> {
        let words: Vec<_> = self.typed.split_whitespace().map(str::to_lowercase).collect();
        self.entries.iter().flatten().filter(move |entry| {
            let all = format!("{} {}", entry.title, entry.model).to_lowercase();
            words.iter().all(|word| all.contains(word))
        })
    }

    fn selected(&self) -> Option<&SessionEntry> {
        self.matches().nth(self.selected)
    }

    /// Moves the selection, up if negative.
    pub fn step(&mut self, by: isize) {
        let last = self.matches().count().saturating_sub(1);
        self.selected = self.selected.saturating_add_signed(by).min(last);
    }

    /// Handles a key.
    pub fn handle(&mut self, key: KeyEvent) -> SessionOutcome {
        if key.kind == KeyEventKind::Release {
            return SessionOutcome::Open;
        }
        let deleting = std::mem::take(&mut self.deleting);
        self.problem.clear();
        let last = self.matches().count().saturating_sub(1);
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Esc => return SessionOutcome::Closed,
            KeyCode::Char('c' | 'd') if control => return SessionOutcome::Closed,
            KeyCode::Enter => {
                if let Some(entry) = self.selected() {
                    return SessionOutcome::Chosen(entry.path.clone());
                }
            }
            KeyCode::Delete if deleting => {
                if let Some(entry) = self.selected() {
                    return SessionOutcome::Delete(entry.path.clone());
                }
            }
            KeyCode::Delete => self.deleting = self.selected().is_some(),
            KeyCode::Up => self.selected = self.selected.saturating_sub(1),
            KeyCode::Char('p') if control => self.selected = self.selected.saturating_sub(1),
            KeyCode::Down => self.selected = (self.selected + 1).min(last),
            KeyCode::Char('n') if control => self.selected = (self.selected + 1).min(last),
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(10),
            KeyCode::PageDown => self.selected = (self.selected + 10).min(last),
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = last,
            KeyCode::Char('u') if control => self.change_filter(String::clear),
            KeyCode::Backspace => self.change_filter(|typed| {
                let end = typed.grapheme_indices(true).next_back().map_or(0, |(at, _)| at);
                typed.truncate(end);
            }),
            KeyCode::Char(c) if !control && !c.is_control() => self.change_filter(|typed| typed.push(c)),
            _ => {}
        }
        SessionOutcome::Open
    }

    fn change_filter(&mut self, change: impl FnOnce(&mut String)) {
        change(&mut self.typed);
        self.selected = 0;
    }

    /// Draws the filter, as much of the list as fits, and the keys.
    pub fn draw(&self, area: Rect, buf: &mut Buffer, theme: Theme) {
        let area = area.intersection(buf.area);
        let mut rows = RowWriter { area, next: area.y, buf };
        let dim = theme.style(Role::Dim);
        let below: u16 = u16::from(area.height >= 5);
        let person = theme.style(Role::Person);
        rows.put(&[("Conversation: ", theme.style(Role::Heading)), (&self.typed, person), ("▏", person)]);
        let room = usize::from(area.height.saturating_sub(1 + below));
        let count = self.matches().count();
        let first = (self.selected + 1).saturating_sub(room);
        for (place, entry) in self.matches().enumerate().skip(first).take(room) {
            self.row(entry, place == self.selected, &mut rows, theme);
        }
        if count == 0 && room > 0 {
            let words = match &self.entries {
                None => "  reading ...",
                Some(all) if all.is_empty() => "  no conversation is saved yet",
                Some(_) => "  no match; Backspace widens the search",
            };
            rows.put(&[(words, dim)]);
        }
        if below > 0 {
            rows.next = area.bottom() - below;
            let place =
                if count > room { format!("{} of {count}; ", self.selected + 1) } else { String::new() };
            let (words, style) = match (self.deleting, self.problem.is_empty()) {
                (true, _) => {
                    ("  Delete again deletes it for good; any other key keeps it".to_owned(), Role::Warning)
                }
                (_, false) => (format!("  {}", self.problem), Role::Error),
                _ => {
                    let keys = "type to search, Up and Down select, Enter opens, Delete deletes, Esc cancels";
                    (format!("  {place}{keys}"), Role::Dim)
                }
            };
            rows.put(&[(&words, theme.style(style))]);
        }
    }

    fn row(&self, entry: &SessionEntry, selected: bool, rows: &mut RowWriter<'_>, theme: Theme) {
        let width = usize::from(rows.area.width);
        let row = Rect { y: rows.next, height: 1, ..rows.area }.intersection(rows.area);
        let needs =
            |columns: &[usize]| 2 + TITLE_MIN + columns.iter().map(|column| column + 2).sum::<usize>();
        let mut right = String::new();
        if width >= needs(&[WHEN, COUNT, MODEL]) {
            right.push_str(&format!("  {}", fitted(&entry.model, MODEL)));
        }
        if width >= needs(&[WHEN, COUNT]) {
            right.push_str(&format!("  {:>COUNT$}", entry.messages));
        }
        if width >= needs(&[WHEN]) {
            let when = if entry.open { "on screen".to_owned() } else { entry.when() };
            right.push_str(&format!("  {when:>WHEN$}"));
        }
        let title = fitted(&entry.title, width.saturating_sub(2 + right.width()));
        let mark = if selected { "> " } else { "  " };
        rows.put(&[
            (mark, theme.style(Role::Person)),
            (&title, theme.style(Role::Text)),
            (&right, theme.style(Role::Dim)),
        ]);
        if selected {
            rows.buf.set_style(row, theme.style(Role::Selected));
        }
    }
}
