//! A model that attacks the terminal with its name, its template and its tokens.

use std::path::PathBuf;

use moelten_loader::container::gguf::Value;

use super::{model_with, set, with_words};

/// Sets the window's title, colours, writes the clipboard; in C0, C1 and unterminated forms.
pub const ATTACKS: [&str; 5] = [
    "\u{1b}]0;owned\u{7}",
    "\u{1b}[31m",
    "\u{1b}]52;c;b3duZWQ=\u{1b}\\",
    "\u{9b}2J",
    "\u{1b}]8;;http://owned",
];

/// The built-in model with attacks in every word of its vocabulary.
pub fn hostile(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("hostile\u{1b}[5m.gguf");
    model_with(&path, |metadata| {
        set(metadata, "general.name", |value| *value = Value::Str(format!("name{}", ATTACKS.concat())));
        with_words(metadata, |id| format!(" {}word{id}", ATTACKS[id % ATTACKS.len()]));
    });
    path
}
