//! The list of keys and commands that lies over the conversation.

use ratatui::text::{Line, Span};

use super::key_table::KEYS;
use crate::command::TABLE;
use crate::theme::{Role, Theme};

/// All lines.
pub fn lines(theme: Theme) -> Vec<Line<'static>> {
    let heading = |text: &'static str| Line::styled(text, theme.style(Role::Heading));
    let row = |name: String, help: &'static str| {
        Line::from(vec![
            Span::styled(format!("  {name:<32}"), theme.style(Role::Accent)),
            Span::styled(help, theme.style(Role::Text)),
        ])
    };
    let mut lines = vec![heading("Keys")];
    lines.extend(KEYS.iter().map(|keys| row(keys.names(), keys.help)));
    lines.extend([Line::default(), heading("Commands")]);
    lines.extend(TABLE.iter().map(|entry| row(format!("{} {}", entry.name, entry.arguments), entry.help)));
    lines
}
