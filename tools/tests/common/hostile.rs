//! Models that attack: the terminal with their name, template and tokens, the memory with the length of their
//! answers.

use std::path::{Path, PathBuf};

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

/// The built-in model with words of hundreds of bytes each, full of Markdown: its answers are enormous.
pub fn talkative(path: &Path) {
    model_with(path, |metadata| {
        with_words(metadata, |id| {
            let unit = [
                " **bold** `code` ",
                "\n| a | b |\n|---|---|\n| 1 | 2 |\n",
                "\n```rust\nfn f() {}\n",
                "\n- > item ",
            ];
            unit[id % unit.len()].repeat(900 / unit[id % unit.len()].len())
        });
    });
}
