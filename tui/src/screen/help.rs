//! The list of keys and commands that lies over the conversation.

use ratatui::text::{Line, Span};

use crate::command::TABLE;
use crate::theme::{Role, Theme};

/// Keys, and what they do.
const KEYS: [(&str, &str); 22] = [
    ("Enter", "send"),
    ("Ctrl-J, Alt-Enter, Shift-Enter", "new line"),
    ("Ctrl-C, Esc", "stop the answer"),
    ("Ctrl-D", "leave"),
    ("F2", "watch the experts"),
    ("F3", "another model"),
    ("PgUp, PgDn, Home, End", "scroll"),
    ("Up, Down", "what was entered before"),
    ("Ctrl-R", "search in it"),
    ("Tab", "complete commands and files"),
    ("Ctrl-G, Ctrl-X Ctrl-E", "write in your editor"),
    ("Alt-R", "another answer"),
    ("Alt-E", "write the last question anew"),
    ("Alt-U", "take the last turn back"),
    ("Alt-M", "go on with a cut answer"),
    ("Alt-C", "copy the answer"),
    ("Alt-S", "numbers of the last answer"),
    ("Ctrl-T", "show or fold thoughts"),
    ("Ctrl-A, Ctrl-E, Alt-B, Alt-F", "go in the line"),
    ("Ctrl-K, Ctrl-U, Ctrl-W, Ctrl-Y", "cut, and paste what was cut"),
    ("Ctrl-_", "take a change back"),
    ("Ctrl-Z", "to the shell; fg comes back"),
];

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
    lines.extend(KEYS.map(|(keys, help)| row(keys.to_owned(), help)));
    lines.extend([Line::default(), heading("Commands")]);
    lines.extend(TABLE.iter().map(|entry| row(format!("{} {}", entry.name, entry.arguments), entry.help)));
    lines
}
