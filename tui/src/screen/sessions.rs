//! The list of earlier conversations: typing filters it, Enter opens one, Delete pressed twice deletes one. A
//! state machine and its drawing; it must not read or delete anything.

use std::path::PathBuf;

use crossterm::event::{KeyEvent, KeyEventKind};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use unicode_width::UnicodeWidthStr;

use super::list::{ListFilter, ListKey, RowWriter, contains_all, fitted, roomy};
use crate::chat::{SessionEntry, count_text};
use crate::markdown::filter::clean_line;
use crate::markdown::theme::{Role, Theme};

/// Columns of the age, the number of messages and the model.
const WHEN: usize = 12;
const COUNT: usize = 13;
const MODEL: usize = 22;
/// Columns that titles need before other columns are drawn.
const TITLE_MIN: usize = 24;

/// What the keys do; the shorter ones are for narrow terminals.
const KEYS: [&str; 3] = [
    "type to search, Up and Down select, Enter opens, Delete deletes, Esc cancels",
    "Enter opens, Delete deletes, Esc cancels",
    "Enter opens, Esc cancels",
];

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
    filter: ListFilter,
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
        self.step(0);
    }

    /// A conversation was deleted, or not.
    pub fn deleted(&mut self, path: &PathBuf, result: &Result<(), String>) {
        match result {
            Ok(()) => {
                self.entries.iter_mut().for_each(|entries| entries.retain(|entry| entry.path != *path));
                self.step(0);
            }
            Err(problem) => self.problem = format!("not deleted: {}", clean_line(problem)),
        }
    }

    /// The conversations whose title or model contains every typed word.
    fn matches(&self) -> impl Iterator<Item = &SessionEntry> {
        let words = self.filter.words();
        let all = self.entries.iter().flatten();
        all.filter(move |entry| contains_all(&format!("{} {}", entry.title, entry.model), &words))
    }

    fn selected(&self) -> Option<&SessionEntry> {
        self.matches().nth(self.filter.selected())
    }

    /// Moves the selection, up if negative.
    pub fn step(&mut self, by: isize) {
        let count = self.matches().count();
        self.filter.step(by, count);
    }

    /// Handles a key.
    pub fn handle(&mut self, key: KeyEvent) -> SessionOutcome {
        if key.kind == KeyEventKind::Release {
            return SessionOutcome::Open;
        }
        let deleting = std::mem::take(&mut self.deleting);
        self.problem.clear();
        let (count, selected) =
            (self.matches().count(), |list: &Self| list.selected().map(|e| e.path.clone()));
        match self.filter.key(key, count) {
            ListKey::Close => SessionOutcome::Closed,
            ListKey::Enter => selected(self).map_or(SessionOutcome::Open, SessionOutcome::Chosen),
            ListKey::Delete if deleting => {
                selected(self).map_or(SessionOutcome::Open, SessionOutcome::Delete)
            }
            ListKey::Delete => {
                self.deleting = self.selected().is_some();
                SessionOutcome::Open
            }
            ListKey::Taken => SessionOutcome::Open,
        }
    }

    /// Draws the filter, as much of the list as fits, and the keys.
    pub fn draw(&self, area: Rect, buf: &mut Buffer, theme: Theme) {
        let area = area.intersection(buf.area);
        let mut rows = RowWriter { area, next: area.y, buf };
        let dim = theme.style(Role::Dim);
        let below: u16 = u16::from(area.height >= 5);
        let person = theme.style(Role::Person);
        rows.put(&[
            ("Conversation: ", theme.style(Role::Heading)),
            (self.filter.typed(), person),
            ("▏", person),
        ]);
        let room = usize::from(area.height.saturating_sub(1 + below));
        let (count, selected) = (self.matches().count(), self.filter.selected());
        let first = (selected + 1).saturating_sub(room);
        for (place, entry) in self.matches().enumerate().skip(first).take(room) {
            self.row(entry, place == selected, &mut rows, theme);
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
            let place = if count > room { format!("{} of {count}; ", selected + 1) } else { String::new() };
            let (words, style) = match (self.deleting, self.problem.is_empty()) {
                (true, _) => {
                    ("  Delete again deletes it for good; any other key keeps it".to_owned(), Role::Warning)
                }
                (_, false) => (format!("  {}", self.problem), Role::Error),
                _ => {
                    let keys = roomy(&KEYS, usize::from(area.width).saturating_sub(2 + place.width()));
                    (format!("  {place}{keys}"), Role::Dim)
                }
            };
            rows.put(&[(&words, theme.style(style))]);
        }
    }

    fn row(&self, entry: &SessionEntry, selected: bool, rows: &mut RowWriter<'_>, theme: Theme) {
        let width = usize::from(rows.area.width);
        let needs =
            |columns: &[usize]| 2 + TITLE_MIN + columns.iter().map(|column| column + 2).sum::<usize>();
        let mut right = String::new();
        if width >= needs(&[WHEN, COUNT, MODEL]) {
            right.push_str(&format!("  {}", fitted(&entry.model, MODEL)));
        }
        if width >= needs(&[WHEN, COUNT]) {
            right.push_str(&format!("  {:>COUNT$}", count_text(entry.messages)));
        }
        if width >= needs(&[WHEN]) {
            let when = if entry.open { "on screen".to_owned() } else { entry.when() };
            right.push_str(&format!("  {when:>WHEN$}"));
        }
        let title = fitted(&entry.title, width.saturating_sub(2 + right.width()));
        let mark = if selected { "> " } else { "  " };
        let (text, dim) = (theme.style(Role::Text), theme.style(Role::Dim));
        let pieces = [(mark, theme.style(Role::Person)), (&*title, text), (&*right, dim)];
        if selected { rows.put_over(&pieces, theme.style(Role::Selected)) } else { rows.put(&pieces) }
    }
}
