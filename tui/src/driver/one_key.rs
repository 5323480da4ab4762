//! One key of the user, without Enter, on the normal screen. It must not know what the key means.

use std::io;

use crossterm::event::{self, Event as TerminalEvent, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::terminal;

use super::terminal::remember;

/// Raw mode while it lives.
struct RawMode;

impl RawMode {
    fn begin() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        Ok(Self)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = terminal::disable_raw_mode();
    }
}

/// Waits for a key that `wanted` accepts; Enter is `'\n'`, letters are small. `None` after Escape, Ctrl-C or
/// Ctrl-D. The terminal's modes are restored.
///
/// # Errors
/// The terminal cannot be used.
pub fn one_key(wanted: impl Fn(char) -> bool) -> io::Result<Option<char>> {
    remember();
    let _raw = RawMode::begin()?;
    loop {
        let TerminalEvent::Key(key) = event::read()? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let typed = match key.code {
            KeyCode::Esc => return Ok(None),
            KeyCode::Char('c' | 'd') if control => return Ok(None),
            // What Enter is when it was pressed before raw mode was on.
            KeyCode::Char('j') if control => '\n',
            KeyCode::Enter => '\n',
            KeyCode::Char(typed) if !control => typed.to_lowercase().next().unwrap_or(typed),
            _ => continue,
        };
        if wanted(typed) {
            return Ok(Some(typed));
        }
    }
}
