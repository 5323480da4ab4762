//! The chat in plain lines in a real terminal: what is visible, and that the terminal is restored.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use moelten_testing::skip;

use crate::tmux::{ENDLESS, Terminal};

/// Starts a chat in line mode.
#[track_caller]
fn chat(terminal: &Terminal, options: &str) {
    terminal.begin(&format!("--plain {options}"));
    terminal.wait("Ctrl-D quits", 1);
    terminal.wait("\n> ", 1);
}

#[test]
fn a_conversation() {
    let Some(terminal) = Terminal::open(100, 40) else { skip!("tmux is not installed") };
    chat(&terminal, "--max-tokens 12 --seed 3");
    let screen = terminal.screen();
    assert!(screen.contains("not an assistant") && screen.contains("moelten models --suggest"), "{screen}");
    terminal.enter("Tell me about a dog.");
    terminal.wait("tok/s, context", 1);
    terminal.enter("And then?");
    terminal.wait("tok/s, context", 2);
    terminal.enter("/retry");
    terminal.wait("tok/s, context", 3);
    terminal.enter("/undo");
    terminal.wait("Removed 1 turn (1 left).", 1);
    terminal.enter("one\\");
    terminal.wait("\n. ", 1);
    terminal.enter("two");
    terminal.wait("tok/s, context", 4);
    // Tab completes a command, Up finds a question again.
    terminal.press("/");
    terminal.press("q");
    terminal.press("Tab");
    terminal.wait("> /quit", 1);
    terminal.press("C-u");
    terminal.press("Up");
    terminal.press("Up");
    terminal.wait("> one\\", 2);
    terminal.press("C-u");
    terminal.enter("/quit");
    terminal.over(0);
    let history = terminal.file("moelten/history");
    assert!(std::fs::read_to_string(&history).unwrap().contains("Tell me about a dog."));
    assert_eq!(history.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn ctrl_c_leaves_a_question_that_is_written_anew_as_it_was() {
    let Some(terminal) = Terminal::open(100, 40) else { skip!("tmux is not installed") };
    chat(&terminal, "--max-tokens 12 --seed 3");
    terminal.enter("Tell me about a dog.");
    terminal.wait("tok/s, context", 1);
    // On the first line, on an empty line, and in the middle of several lines.
    for (times, keys) in [&["C-c"][..], &["C-u", "C-c"], &["\\", "Enter", "C-c"]].into_iter().enumerate() {
        terminal.enter("/edit");
        terminal.wait("Ctrl-C cancels.", times + 1);
        terminal.until("to be changed", |sight| sight.trim_end().ends_with("> Tell me about a dog."));
        keys.iter().for_each(|key| terminal.press(key));
        terminal.wait("the last message is unchanged.", times + 1);
    }
    terminal.enter("And then?");
    terminal.wait("tok/s, context", 2);
    terminal.enter("/save talk.json");
    terminal.wait("Saved 4 messages", 1);
    terminal.press("C-d");
    terminal.over(0);
}

#[test]
fn a_paste_is_one_question() {
    let Some(terminal) = Terminal::open(100, 40) else { skip!("tmux is not installed") };
    chat(&terminal, "--max-tokens 12 --no-history");
    terminal.paste("first\n/quit\nlast");
    terminal.wait("last", 1);
    terminal.press("Enter");
    terminal.wait("tok/s, context", 1);
    terminal.press("C-d");
    terminal.over(0);
    assert!(!terminal.file("moelten/history").exists());
}

#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let Some(terminal) = Terminal::open(100, 40) else { skip!("tmux is not installed") };
    terminal.enter("export MOELTEN_ISA=scalar");
    chat(&terminal, ENDLESS);
    terminal.enter("hello");
    let before = terminal.screen();
    while terminal.screen().trim_end().len() < before.len() + 200 {
        std::thread::sleep(Duration::from_millis(20));
    }
    terminal.press("C-c");
    terminal.wait("stopped]", 1);
    terminal.enter("/stats");
    terminal.wait("of 204800 tokens", 1);
    terminal.press("C-d");
    terminal.over(0);
}

#[test]
fn a_long_prompt_shows_progress_and_can_be_stopped() {
    let Some(terminal) = Terminal::open(100, 40) else { skip!("tmux is not installed") };
    std::fs::write(terminal.file("long"), "dog ".repeat(6000)).unwrap();
    terminal.enter("MOELTEN_ISA=scalar $M run --ctx 32k -f long; echo rc=$?");
    terminal.wait("reading prompt ", 1);
    terminal.wait(" left", 1);
    terminal.press("C-c");
    terminal.wait("rc=130", 1);
    assert!(!terminal.screen().contains("reading prompt"), "the line is wiped: {}", terminal.screen());
}

#[test]
fn ctrl_c_at_the_prompt_hints_first() {
    let Some(terminal) = Terminal::open(100, 40) else { skip!("tmux is not installed") };
    chat(&terminal, "");
    terminal.press("C-c");
    terminal.wait("Ctrl-C again", 1);
    terminal.press("C-c");
    terminal.over(0);
}

#[test]
fn ctrl_c_on_a_line_with_text_only_clears_it() {
    let Some(terminal) = Terminal::open(100, 40) else { skip!("tmux is not installed") };
    chat(&terminal, "");
    for (index, key) in ["a", "b", "c"].into_iter().enumerate() {
        terminal.press(key);
        terminal.wait(&format!("\n> {key}"), 1);
        terminal.press("C-c");
        terminal.wait("\n>", index + 2);
    }
    // Continued lines are dropped together.
    terminal.enter("one\\");
    terminal.wait("\n.", 1);
    terminal.press("C-c");
    terminal.wait("\n>", 5);
    assert!(!terminal.screen().contains("Ctrl-C again"), "{}", terminal.screen());
    terminal.press("C-c");
    terminal.wait("Ctrl-C again", 1);
    terminal.press("C-c");
    terminal.over(0);
}

#[test]
fn f13_signals_leave_the_terminal_as_it_was() {
    for (signal, code) in [("TERM", 143), ("HUP", 129)] {
        let Some(terminal) = Terminal::open(100, 40) else { skip!("tmux is not installed") };
        chat(&terminal, "");
        terminal.signal(signal);
        terminal.over(code);
    }
}

/// The answer so far is saved before the program ends, and no lock is left.
#[test]
fn f13_signals_keep_what_was_written() {
    for (signal, code) in [("TERM", 143), ("HUP", 129)] {
        let Some(terminal) = Terminal::open(100, 40) else { skip!("tmux is not installed") };
        terminal.enter("export MOELTEN_ISA=scalar");
        chat(&terminal, ENDLESS);
        terminal.enter("hello there");
        let before = terminal.screen();
        while terminal.screen().trim_end().len() < before.len() + 200 {
            std::thread::sleep(Duration::from_millis(20));
        }
        terminal.signal(signal);
        terminal.over(code);
        let kept = terminal.conversation();
        assert!(kept.contains("hello there") && kept.contains("assistant"), "{kept}");
        let left: Vec<_> = std::fs::read_dir(terminal.file("moelten/conversations"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_none_or(|extension| extension != "json"))
            .collect();
        assert_eq!(left, Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn f20_plain_and_small_terminals() {
    for (setup, columns, rows) in [("export NO_COLOR=1", 100, 40), ("export TERM=dumb", 100, 40)] {
        let Some(terminal) = Terminal::open(columns, rows) else { skip!("tmux is not installed") };
        terminal.enter(setup);
        chat(&terminal, "--max-tokens 12");
        terminal.enter("hello");
        terminal.wait("tok/s, context", 1);
        terminal.enter("/nonsense");
        terminal.wait("/help lists all commands", 1);
        terminal.enter("/quit");
        terminal.over(0);
        let styled = terminal.capture(true);
        assert!(!styled.contains("\u{1b}["), "{setup}: {styled:?}");
    }
    for (columns, rows) in [(1, 1), (20, 5)] {
        let Some(terminal) = Terminal::open(columns, rows) else { skip!("tmux is not installed") };
        terminal.enter("$M chat --plain --max-tokens 12; echo rc=$? > rc");
        // Typed before the chat has started: it must not get lost.
        terminal.enter("hello");
        terminal.enter("/quit");
        let started = Instant::now();
        while !terminal.file("rc").exists() {
            assert!(started.elapsed() < Duration::from_secs(20), "{columns}x{rows}: {}", terminal.screen());
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(std::fs::read_to_string(terminal.file("rc")).unwrap(), "rc=0\n", "{columns}x{rows}");
    }
}

/// The report begins before the measurement, with what is measured. It is not said a second time.
#[test]
fn bench_says_once_what_it_measures() {
    let Some(terminal) = Terminal::open(100, 40) else { skip!("tmux is not installed") };
    terminal.enter("clear; $M bench --prefill 8 --decode 2 --repeat 1; echo rc=$?");
    terminal.wait("rc=0", 1);
    let screen = terminal.screen();
    for part in ["tiny-tales (built in)\n", "KV f16\n", "decode ", "memory "] {
        assert_eq!(screen.matches(part).count(), 1, "{part:?} in\n{screen}");
    }
}
