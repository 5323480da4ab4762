//! The list of keys and commands that F1 shows over the conversation.

use ratatui::text::{Line, Span};

use super::key_table::KEYS;
use crate::input::command::{CommandEntry, TABLE};
use crate::markdown::rows;
use crate::markdown::theme::{Role, Theme};

/// Columns before an explanation to the right of its name.
const BESIDE: usize = 34;
/// Columns before an explanation below its name, on a narrow terminal.
const BELOW: usize = 4;
/// Smallest width of an explanation to the right of its name.
const NARROW: usize = 24;

/// The lines of the help, `[lines]`, at most `columns` wide.
pub fn lines(theme: Theme, columns: usize) -> Vec<Line<'static>> {
    let heading = |text: &'static str| Line::styled(text, theme.style(Role::Heading));
    let mut lines = vec![heading("Keys")];
    lines.extend(KEYS.iter().flat_map(|keys| entry(&keys.names(), keys.help, theme, columns)));
    lines.extend([Line::default(), heading("Commands")]);
    let command = |entry: &CommandEntry| format!("{} {}", entry.name, entry.arguments);
    lines.extend(TABLE.iter().flat_map(|one| entry(&command(one), one.help, theme, columns)));
    lines
}

fn entry(name: &str, help: &'static str, theme: Theme, columns: usize) -> Vec<Line<'static>> {
    let (accent, text) = (theme.style(Role::Accent), theme.style(Role::Text));
    let beside = columns >= BESIDE + NARROW;
    let indent = if beside { BESIDE } else { BELOW };
    let mut lines: Vec<_> = rows::rows(help, columns.saturating_sub(indent))
        .into_iter()
        .map(|row| Line::from(vec![Span::raw(" ".repeat(indent)), Span::styled(&help[row], text)]))
        .collect();
    let name = Span::styled(format!("  {name:<width$}", width = BESIDE - 2), accent);
    if beside {
        lines[0].spans[0] = name;
    } else {
        lines.insert(0, Line::from(name));
    }
    lines
}
