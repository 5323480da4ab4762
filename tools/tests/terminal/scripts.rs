//! Texts of all scripts on a real terminal: scrolling, resizing and clearing leave nothing of them behind. Left
//! out is what tmux itself gets wrong: emoji of several characters with joiners, skin colours and U+FE0F, which it
//! counts as other numbers of columns than terminals do.

use moelten_testing::skip;

use crate::tmux::Terminal;

/// Emoji and flags, Devanagari, Thai, Hebrew, Arabic, combining marks, wide characters.
const TEXTS: [&str; 7] = [
    "\u{1f600} \u{1f680} \u{1f1e9}\u{1f1ea} \u{1f1ef}\u{1f1f5} end",
    "\u{928}\u{92e}\u{938}\u{94d}\u{924}\u{947} end",
    "\u{e2a}\u{e27}\u{e31}\u{e2a}\u{e14}\u{e35} end",
    "\u{5e9}\u{5dc}\u{5d5}\u{5dd} end",
    "\u{645}\u{631}\u{62d}\u{628}\u{627} end",
    "e\u{301}a\u{308}n\u{303} Z\u{351}\u{36b} end",
    "\u{4e16}\u{754c}\u{d55c}\u{ad6d} end",
];

#[test]
fn texts_of_all_scripts_leave_nothing_behind() {
    let Some(terminal) = Terminal::open(60, 20) else { skip!("tmux is not installed") };
    terminal.begin("--max-tokens 2 --temp 0");
    terminal.see("Type a message");
    for (index, text) in TEXTS.iter().enumerate() {
        terminal.paste(&format!("{index}: {text} {text}"));
        terminal.press("Enter");
        terminal.until("answered", |sight| {
            let asked = sight.find(&format!("\u{203a} {index}: "));
            asked.is_some_and(|at| sight[at..].contains("tok/s, context"))
        });
    }
    let drawn_again = |what: &str| {
        // What was drawn in steps is what is drawn anew.
        let settled = || {
            let mut last = terminal.sight();
            loop {
                std::thread::sleep(std::time::Duration::from_millis(150));
                let now = terminal.sight();
                if now == last {
                    return now;
                }
                last = now;
            }
        };
        let steps = settled();
        terminal.press("C-l");
        assert_eq!(steps, settled(), "after {what}");
        steps
    };
    for key in ["PageUp", "PageUp", "Home", "PageDown", "End"] {
        terminal.press(key);
        drawn_again(key);
    }
    terminal.resize(47, 15);
    drawn_again("another size");
    terminal.enter("/clear");
    terminal.until("cleared", |sight| !sight.contains(" end"));
    let rest = drawn_again("/clear");
    let left: Vec<char> = TEXTS.concat().chars().filter(|c| !c.is_ascii() && rest.contains(*c)).collect();
    assert!(left.is_empty(), "{left:?} of\n{rest}");
    terminal.press("C-d");
    terminal.over(0);
}
