//! Texts of all scripts in a real terminal: scrolling, overlays and other answers leave nothing of them
//! behind. tmux gives each character of a flag, and each vowel sign of Devanagari, a cell of its own, as
//! many terminals do.

use std::time::Duration;

use moelten_testing::scripts::TEXTS;
use moelten_testing::skip;
use serde_json::json;

use crate::tmux::Terminal;

/// Time in which a key is on the screen, also on a busy machine.
const DRAWN: Duration = Duration::from_millis(150);

#[test]
fn nothing_of_any_script_is_left_behind() {
    let Some(terminal) = Terminal::open(60, 20) else { skip!("tmux is not installed") };
    let turn = |text: &&str| {
        let answer =
            format!("{text} {text} {text}\n\n- {text}\n- x\n\n| {text} | y |\n|---|---|\n| z | `{text}` |");
        [json!({"role": "user", "content": text}), json!({"role": "assistant", "content": answer})]
    };
    let messages: Vec<_> = TEXTS.iter().chain(&TEXTS).flat_map(turn).collect();
    let conversation = json!({
        "format": "moelten conversation", "version": 1, "model": "m", "system": null, "messages": messages
    });
    std::fs::write(terminal.file("scripts.json"), conversation.to_string()).unwrap();
    terminal.begin("--ctx 8k --max-tokens 12");
    terminal.see("Type a message");
    terminal.enter("/load scripts.json");
    terminal.see("Loaded 28 messages.");
    // Notes and counting would change the screen between two looks.
    terminal.until("counted", |sight| !sight.contains("ctx ?") && !sight.contains("\u{2500} 0%"));
    let keys = [
        "PageUp", "PageUp", "C-Up", "C-Up", "C-Up", "PageDown", "Home", "C-Down", "C-Down", "C-Down", "End",
        "PageUp", "F1", "Escape", "F2", "F2", "End", "M-u",
    ];
    let mut wrong = String::new();
    for key in keys {
        terminal.press(key);
        std::thread::sleep(DRAWN);
        if key == "M-u" {
            terminal.until("counted", |sight| sight.contains("Removed") && !sight.contains("ctx ?"));
        }
        let drawn = terminal.sight();
        terminal.press("C-l");
        std::thread::sleep(DRAWN);
        let fresh = terminal.sight();
        for (drawn, fresh) in drawn.lines().zip(fresh.lines()).filter(|(drawn, fresh)| drawn != fresh) {
            wrong.push_str(&format!("after {key}: {drawn:?}\nanew: {fresh:?}\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    terminal.enter("/clear");
    terminal.see("/sessions has the old one");
    let sight = terminal.sight();
    let others = |c: &char| c.is_alphabetic() && !c.is_ascii() || matches!(c, '\u{1f000}'..);
    assert_eq!(sight.chars().find(others), None, "{sight}");
    terminal.press("C-d");
    terminal.over(0);
}
