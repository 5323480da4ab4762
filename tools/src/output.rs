//! JSON on stdout, for programs: safe to print on a terminal, and at most one answer of a command. It must
//! not know what the objects mean.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

/// Whether the command was asked for JSON.
static WANTED: AtomicBool = AtomicBool::new(false);
/// Whether its answer was printed.
static ANSWERED: AtomicBool = AtomicBool::new(false);

/// Says that the command was asked for JSON: errors are JSON too from here on.
pub fn want_json() {
    WANTED.store(true, Ordering::Relaxed);
}

/// Whether an error still has to be told as JSON.
pub fn lacks_json() -> bool {
    WANTED.load(Ordering::Relaxed) && !ANSWERED.load(Ordering::Relaxed)
}

/// Prints the answer of the command, in one line.
///
/// # Errors
/// stdout is closed.
pub fn answer(value: &Value) -> io::Result<()> {
    ANSWERED.store(true, Ordering::Relaxed);
    event(value)
}

/// Prints one of several lines of JSON.
///
/// # Errors
/// stdout is closed.
pub fn event(value: &Value) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", printable(value))?;
    stdout.flush()
}

/// JSON that is safe to print on a terminal: DEL, C1 controls and bidirectional controls are escaped too.
fn printable(value: &Value) -> String {
    let text = value.to_string();
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{7f}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_is_safe_for_terminals_and_keeps_its_value() {
        let value = json!({"answer": "a\u{1b}]52;c;x\u{7}\u{9b}31m\u{7f}\u{202e}\n\u{e9}"});
        let text = printable(&value);
        assert!(text.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{text:?}");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), value);
    }
}
