//! The full screen in a real terminal: what is visible, and that the terminal is restored.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use moelten_testing::skip;

use crate::tmux::{ENDLESS, Terminal};

/// Starts a chat on the full screen.
#[track_caller]
fn chat(terminal: &Terminal, options: &str) {
    terminal.begin(options);
    terminal.see("Type a message");
}

/// Number of complete answers: each has one such line.
fn answers(sight: &str) -> usize {
    sight.matches("tok/s, context").count()
}

#[test]
fn a_conversation() {
    let Some(terminal) = Terminal::open(100, 40) else { skip!("tmux is not installed") };
    chat(&terminal, "--max-tokens 12 --seed 3");
    terminal.see("not an assistant");
    terminal.enter("Tell me about a dog.");
    terminal.until("answered", |sight| answers(sight) == 1);
    terminal.enter("And then?");
    terminal.until("answered twice", |sight| answers(sight) == 2);
    terminal.until("saved", |_| terminal.conversation().contains("And then?"));
    let before = terminal.conversation();
    terminal.press("M-r");
    // The screen may change before the new answer begins; the file changes when it is complete.
    terminal.until("answered anew", |sight| {
        answers(sight) == 2 && ![String::new(), before.clone()].contains(&terminal.conversation())
    });
    terminal.press("M-u");
    terminal.see("Removed 1 turn (1 left).");
    terminal.until("without the second question", |sight| !sight.contains("And then?"));
    terminal.press("M-e");
    terminal.see("\u{203a} Tell me about a dog.");
    terminal.enter(" And a cat.");
    terminal
        .until("answered after the change", |sight| answers(sight) == 1 && sight.contains("dog. And a cat."));
    // Tab completes a command, Up finds a question again.
    terminal.press("/");
    terminal.press("q");
    terminal.press("Tab");
    terminal.see("\u{203a} /quit");
    terminal.press("C-u");
    terminal.press("Up");
    terminal.until("the last question again", |sight| sight.matches("And a cat.").count() == 2);
    terminal.press("C-c");
    terminal.enter("/quit");
    terminal.over(0);
    // The conversation is in the scrollback.
    let screen = terminal.screen();
    assert!(screen.contains("\u{203a} Tell me about a dog. And a cat."), "{screen}");
    for file in [terminal.file("moelten/history"), terminal.conversations()[0].clone()] {
        assert!(std::fs::read_to_string(&file).unwrap().contains("And a cat."), "{}", file.display());
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    terminal.enter("clear; $M chat --continue --max-tokens 12; echo gone");
    terminal.see("Loaded 2 messages.");
    terminal.see("dog. And a cat.");
    // A loaded conversation is counted before the first answer.
    terminal.until("counted", |sight| {
        sight.contains("ctx ") && !sight.contains("ctx ?") && !sight.contains("\u{2500} 0%")
    });
    // An empty conversation does not replace it; a system prompt on the command line applies.
    terminal.enter("/clear");
    terminal.see("/sessions has the old one");
    terminal.enter("/quit");
    // Nothing is above it: the chat before this one was not ended by force.
    terminal.until("left", |sight| sight.starts_with("gone\n"));
    terminal.enter("clear; $M chat --continue --max-tokens 12 --system 'Be brief.'");
    terminal.see("Loaded 2 messages.");
    terminal.see("The system prompt is the one given now");
    terminal.enter("/system");
    terminal.see("system prompt: Be brief.");
    terminal.press("C-d");
}

#[test]
fn a_model_in_the_home_folder_is_opened_and_what_is_none_changes_nothing() {
    let Some(terminal) = Terminal::open(100, 30) else { skip!("tmux is not installed") };
    std::fs::copy(crate::common::builtin(), terminal.file("mine.gguf")).unwrap();
    std::fs::write(terminal.file("broken.gguf"), "GGUF").unwrap();
    chat(&terminal, "--max-tokens 12");
    terminal.enter("/model broken.gguf");
    terminal.see("is still open.");
    assert!(!terminal.sight().contains("Opening"), "{}", terminal.sight());
    terminal.enter("/model ~/mine.gguf");
    terminal.see("Switched to mine.gguf");
    terminal.enter("hello");
    terminal.until("answered", |sight| answers(sight) == 1);
    terminal.press("C-d");
    terminal.over(0);
}

#[test]
fn nothing_is_saved_with_no_history() {
    let Some(terminal) = Terminal::open(100, 40) else { skip!("tmux is not installed") };
    chat(&terminal, "--max-tokens 12 --no-history");
    terminal.enter("hello");
    terminal.until("answered", |sight| answers(sight) == 1);
    terminal.press("C-d");
    terminal.over(0);
    assert!(!terminal.file("moelten").exists());
    terminal.enter("$M chat --continue; echo rc=$?");
    terminal.wait("no conversation to continue", 1);
    terminal.wait("rc=2", 1);
}

/// Unmarked pastes arrive as keys, more of them than one read takes.
#[test]
fn keys_do_not_wait_for_other_keys() {
    let Some(terminal) = Terminal::open(100, 30) else { skip!("tmux is not installed") };
    chat(&terminal, "--max-tokens 4");
    terminal.see("not an assistant");
    terminal.type_fast(&("word ".repeat(8000) + "and the end"));
    terminal.see("and the end");
    terminal.press("C-c");
    terminal.until("empty again", |sight| !sight.contains("and the end"));
    terminal.press("C-d");
    terminal.over(0);
}

#[test]
fn two_hundred_lines_are_one_question() {
    let Some(terminal) = Terminal::open(100, 40) else { skip!("tmux is not installed") };
    chat(&terminal, "--max-tokens 12 --ctx 8k");
    let lines: Vec<_> = (0..200).map(|i| format!("line {i}\n")).collect();
    terminal.paste(&lines.concat());
    terminal.see("line 199");
    terminal.press("Enter");
    terminal.until("answered once", |sight| answers(sight) == 1);
    terminal.press("C-d");
    terminal.over(0);
    assert_eq!(terminal.screen().matches("line 150\n").count(), 1);
}

#[test]
fn resizing_while_an_answer_is_written_and_ctrl_c() {
    let Some(terminal) = Terminal::open(100, 30) else { skip!("tmux is not installed") };
    terminal.enter("export MOELTEN_ISA=scalar");
    chat(&terminal, ENDLESS);
    terminal.enter("hello");
    terminal.see("writing");
    for i in 0..40 {
        terminal.resize(1 + (i * 37) % 120, 1 + (i * 11) % 40);
    }
    terminal.resize(90, 24);
    terminal.see("writing");
    // Keys are handled while all cores compute.
    terminal.press("x");
    terminal.see("\u{203a} x");
    terminal.press("C-c");
    let asked = Instant::now();
    terminal.see("stopped]");
    // The goal is 200 ms; tests share their machine.
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    terminal.press("C-c");
    terminal.press("C-d");
    terminal.over(0);
}

/// Answers of a megabyte of Markdown, drawn, wrapped and drawn anew, within the budget and 64 MiB.
#[test]
#[cfg(target_os = "linux")]
fn enormous_answers_stay_within_the_budget() {
    let Some(terminal) = Terminal::open(100, 30) else { skip!("tmux is not installed") };
    crate::common::hostile::talkative(&terminal.file("talkative.gguf"));
    chat(
        &terminal,
        "talkative.gguf --ram 80M --max-tokens 250 --temp 100 --top-k 0 --top-p 1 --min-p 0 --seed 1",
    );
    let pid = std::fs::read_to_string(terminal.file("pid")).unwrap().trim().parse().unwrap();
    let peak = crate::common::peak::Peak::of_process(pid, Duration::from_millis(50));
    for (index, question) in ["hello", "and more", "and more of it"].into_iter().enumerate() {
        if index > 0 {
            terminal.enter("/clear");
        }
        terminal.enter(question);
        terminal.until("answered and saved", |_| {
            let text = terminal.conversation();
            text.contains(&format!("\"{question}\"")) && text.contains("\"assistant\"")
        });
        (40..60).for_each(|columns| terminal.resize(columns, 20));
        terminal.resize(100, 30);
        terminal.press("Home");
        terminal.press("End");
    }
    terminal.press("C-d");
    terminal.over(0);
    let peak = peak.bytes();
    println!("{} MiB owned of 80", peak >> 20);
    assert!(peak <= (80 + 64) << 20, "{peak} bytes");
}

/// Resizing faster than the screen is drawn, down to a single cell. No word of the answer is lost by it.
#[test]
fn f20_a_storm_of_a_thousand_resizes() {
    let Some(terminal) = Terminal::open(100, 30) else { skip!("tmux is not installed") };
    terminal.enter("export MOELTEN_ISA=scalar");
    chat(&terminal, ENDLESS);
    terminal.enter("hello");
    terminal.see("writing");
    let sizes = (0..1000).map(|i| (1 + (i * 37) % 120, 1 + (i * 11) % 40));
    let resize = |(columns, rows): (u16, u16)| {
        let size = ["-x".to_owned(), columns.to_string(), "-y".to_owned(), rows.to_string()];
        ["resize-window".to_owned()].into_iter().chain(size).chain([";".to_owned()])
    };
    // One command line for many of them: tmux sends a signal for each.
    for some in sizes.collect::<Vec<_>>().chunks(100) {
        let words = some.iter().copied().flat_map(resize);
        assert!(terminal.command().args(words).status().unwrap().success());
    }
    terminal.resize(90, 24);
    terminal.see("writing");
    terminal.press("C-c");
    terminal.see("stopped]");
    terminal.press("C-d");
    terminal.over(0);
    let kept = terminal.conversation();
    let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
    let answer = kept["messages"][1]["content"].as_str().unwrap().to_owned();
    // As on the screen, where lines are broken at spaces and control characters are left out.
    let words =
        |text: &str| text.split(|c: char| !c.is_ascii_alphabetic()).map(str::to_owned).collect::<Vec<_>>();
    let screen = words(&terminal.screen());
    let missing = words(&answer).into_iter().filter(|word| word.len() > 3 && !screen.contains(word)).count();
    assert!(missing * 50 <= words(&answer).len(), "{missing} words are missing: {answer:?}");
}

/// A prompt is tokenised up to the context, and so is what the meter counts.
#[test]
fn a_prompt_of_megabytes_is_refused_at_once() {
    let Some(terminal) = Terminal::open(100, 30) else { skip!("tmux is not installed") };
    let text = "dog ".repeat(2_500_000);
    let question = format!("{{\"role\": \"user\", \"content\": \"{text}\"}}");
    let head = "\"format\": \"moelten conversation\", \"version\": 1, \"model\": \"m\", \"system\": null";
    std::fs::write(terminal.file("long.json"), format!("{{{head}, \"messages\": [{question}]}}")).unwrap();
    chat(&terminal, "");
    terminal.enter("/load long.json");
    terminal.see("Loaded 1 message.");
    terminal.enter("/retry");
    let asked = Instant::now();
    terminal.see("Nothing was cut. This message alone");
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    terminal.press("C-d");
    terminal.over(0);
}

#[test]
fn help_and_the_experts() {
    let Some(terminal) = Terminal::open(80, 24) else { skip!("tmux is not installed") };
    chat(&terminal, "--max-tokens 12");
    terminal.press("F1");
    terminal.see("PgDn: more");
    terminal.press("q");
    terminal.until("the help is gone", |sight| !sight.contains("PgDn: more"));
    terminal.press("F2");
    terminal.see("All of them are in RAM.");
    terminal.enter("hello");
    terminal.until("answered", |sight| answers(sight) == 1);
    terminal.press("F2");
    terminal.until("the experts are gone", |sight| !sight.contains("All of them are in RAM."));
    terminal.press("C-d");
    terminal.over(0);
}

#[test]
fn an_editor_writes_the_question() {
    let Some(terminal) = Terminal::open(80, 24) else { skip!("tmux is not installed") };
    std::fs::write(terminal.file("editor"), "#!/bin/sh\necho changed >> \"$1\"\n").unwrap();
    terminal.enter("chmod +x editor; export VISUAL=./editor");
    chat(&terminal, "--max-tokens 12");
    terminal.press("d");
    terminal.press("C-g");
    terminal.see("dchanged");
    terminal.press("C-c");
    terminal.press("C-d");
    terminal.over(0);
}

#[test]
fn an_answer_goes_to_the_clipboard_of_the_terminal() {
    let Some(terminal) = Terminal::open(80, 24) else { skip!("tmux is not installed") };
    assert!(terminal.command().args(["set", "-g", "set-clipboard", "on"]).status().unwrap().success());
    chat(&terminal, "--max-tokens 12");
    terminal.enter("hello");
    terminal.until("answered", |sight| answers(sight) == 1);
    terminal.press("M-c");
    terminal.see("Copied, if the terminal allows");
    let copied = terminal.command().arg("show-buffer").output().unwrap();
    terminal.press("C-d");
    terminal.over(0);
    let kept = terminal.conversation();
    let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
    assert_eq!(String::from_utf8(copied.stdout).unwrap(), kept["messages"][1]["content"].as_str().unwrap());
}

#[test]
fn a_file_is_a_line_beside_its_question() {
    let Some(terminal) = Terminal::open(100, 30) else { skip!("tmux is not installed") };
    std::fs::write(terminal.file("notes.txt"), "The dog is called Rex.\n".repeat(5)).unwrap();
    std::fs::write(terminal.file("long.txt"), "dog ".repeat(50_000)).unwrap();
    chat(&terminal, "--max-tokens 12");
    terminal.enter("/file long.txt");
    terminal.see("does not fit into the context of 1024 tokens");
    terminal.enter("/file notes.txt");
    terminal.see("attached: notes.txt");
    terminal.enter("what is it called?");
    terminal.until("answered", |sight| answers(sight) == 1);
    let sight = terminal.sight();
    assert!(sight.contains("+ notes.txt (115 B, ") && !sight.contains("Rex"), "{sight}");
    terminal.press("M-u");
    terminal.see("\u{2500} 0%");
    terminal.press("C-d");
    terminal.over(0);
}

/// The editor has its own process group, which is suspended and ended with the chat.
#[test]
fn an_editor_is_suspended_and_ended_with_the_chat() {
    for signal in ["TERM", "HUP"] {
        let Some(terminal) = Terminal::open(80, 24) else { skip!("tmux is not installed") };
        editor(&terminal);
        terminal.enter("set -m; clear");
        chat(&terminal, "");
        terminal.press("C-g");
        terminal.see("it is open");
        terminal.press("C-z");
        terminal.see("Stopped");
        terminal.enter("clear; fg; echo rc=$?; stty -a > after; echo over");
        terminal.until("the editor has it again", |sight| !sight.contains("Stopped"));
        // To the chat alone, as when a system ends a service.
        terminal.signal(signal);
        terminal.over(if signal == "TERM" { 143 } else { 129 });
        assert!(!editor_is_there(&terminal), "nor what it started");
    }
}

#[test]
fn f13_signals_leave_the_terminal_as_it_was_and_keep_what_was_written() {
    for (signal, code) in [("TERM", 143), ("HUP", 129)] {
        let Some(terminal) = Terminal::open(100, 40) else { skip!("tmux is not installed") };
        terminal.enter("export MOELTEN_ISA=scalar");
        chat(&terminal, ENDLESS);
        terminal.enter("hello there");
        terminal.see("writing");
        terminal.signal(signal);
        terminal.over(code);
        let kept = terminal.conversation();
        assert!(kept.contains("hello there") && kept.contains("assistant"), "{kept}");
    }
}

#[test]
fn f05_a_model_file_that_is_cut_leaves_the_terminal_as_it_was() {
    let Some(terminal) = Terminal::open(100, 30) else { skip!("tmux is not installed") };
    std::fs::copy(crate::common::builtin(), terminal.file("model.gguf")).unwrap();
    chat(&terminal, "--max-tokens 12 model.gguf");
    let file = std::fs::OpenOptions::new().write(true).open(terminal.file("model.gguf")).unwrap();
    file.set_len(8192).unwrap();
    terminal.enter("hello");
    terminal.over(6);
    assert!(terminal.screen().contains("error[E-IO-06]"), "{}", terminal.screen());
}

#[test]
fn f13_a_terminal_that_goes_away_ends_the_chat() {
    let Some(terminal) = Terminal::open(100, 30) else { skip!("tmux is not installed") };
    terminal.enter("trap '' HUP; sh -c 'echo $$ > pid; exec $M chat'; echo rc=$? > rc");
    terminal.see("Type a message");
    let pid = std::fs::read_to_string(terminal.file("pid")).unwrap();
    assert!(terminal.command().arg("kill-server").status().unwrap().success());
    let started = Instant::now();
    let process = std::path::PathBuf::from(format!("/proc/{}", pid.trim()));
    while cfg!(target_os = "linux") && process.exists() {
        assert!(started.elapsed() < Duration::from_secs(10), "the worker still computes");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn f14_the_shell_can_have_the_terminal_for_a_while() {
    let Some(terminal) = Terminal::open(80, 24) else { skip!("tmux is not installed") };
    terminal.enter("set -m; stty -a > before");
    terminal.enter("sh -c 'echo $$ > pid; exec $M chat'");
    terminal.see("Type a message");
    terminal.press("d");
    for by_key in [true, false] {
        if by_key {
            terminal.press("C-z")
        } else {
            terminal.signal("TSTP")
        }
        terminal.see("Stopped");
        terminal.until("the full screen is gone", |sight| !sight.contains("RAM"));
        terminal.enter("stty -a > after; cmp before after && echo same; fg");
        terminal.see("\u{203a} d");
        terminal.see("RAM");
    }
    terminal.press("C-c");
    terminal.press("C-d");
    terminal.wait("same", 2);
}

#[test]
fn f20_small_and_colourless_terminals() {
    for (columns, rows) in [(1, 1), (20, 5)] {
        let Some(terminal) = Terminal::open(columns, rows) else { skip!("tmux is not installed") };
        terminal.enter("$M chat --max-tokens 12; echo rc=$? > rc");
        // Typed before the chat has started: it must not get lost.
        terminal.enter("hello");
        let started = Instant::now();
        while terminal.conversations().is_empty() {
            assert!(started.elapsed() < Duration::from_secs(20), "{columns}x{rows}: {}", terminal.sight());
            std::thread::sleep(Duration::from_millis(20));
        }
        terminal.enter("/quit");
        while std::fs::read_to_string(terminal.file("rc")).unwrap_or_default() != "rc=0\n" {
            assert!(started.elapsed() < Duration::from_secs(20), "{columns}x{rows}: {}", terminal.sight());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let Some(terminal) = Terminal::open(80, 24) else { skip!("tmux is not installed") };
    terminal.enter("export NO_COLOR=1");
    chat(&terminal, "--max-tokens 12");
    terminal.enter("hello");
    terminal.until("answered", |sight| answers(sight) == 1);
    let styled = terminal.capture(true);
    for colour in ["\u{1b}[3", "\u{1b}[4", "\u{1b}[9", ";3", ";4"] {
        let found = styled.lines().find(|line| line.contains(colour) && !line.contains("\u{1b}[39m"));
        assert_eq!(found, None, "a colour");
    }
    terminal.press("C-d");
    terminal.over(0);
}

/// The system stops a background program that touches the terminal, and then only SIGKILL ends it.
#[test]
fn f14_a_suspended_chat_can_be_ended() {
    for editing in [false, true] {
        let Some(terminal) = Terminal::open(80, 24) else { skip!("tmux is not installed") };
        editor(&terminal);
        terminal.enter("set -m; stty -a > before");
        terminal.enter("sh -c 'echo $$ > pid; exec $M chat'");
        terminal.see("Type a message");
        if editing {
            terminal.press("C-g");
            terminal.see("it is open");
        }
        terminal.press("C-z");
        terminal.see("Stopped");
        terminal.signal("TERM");
        terminal.signal("CONT");
        terminal.enter("while kill -0 $(cat pid); do sleep 0.1; done 2> gone; echo it is gone");
        terminal.see("\nit is gone");
        terminal.enter("stty -a > after; cmp before after && echo as before");
        terminal.see("\nas before");
        assert!(!editing || !editor_is_there(&terminal));
    }
}

/// Creates an editor that stays open and has a child process.
fn editor(terminal: &Terminal) {
    let script = "#!/bin/sh\necho $$ > editor-pid\necho it is open\nsleep 1000\ntrue\n";
    std::fs::write(terminal.file("editor"), script).unwrap();
    terminal.enter("chmod +x editor; export VISUAL=./editor; clear");
}

/// Whether its process group still has members.
fn editor_is_there(terminal: &Terminal) -> bool {
    let leader = std::fs::read_to_string(terminal.file("editor-pid")).unwrap();
    let group = format!("-{}", leader.trim());
    std::process::Command::new("kill").args(["-s", "0", "--", &group]).output().unwrap().status.success()
}
