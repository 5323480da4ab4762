//! What people come for, each in at most three keys or one command: `docs/chat.md` lists these journeys.

use std::time::Instant;

use moelten_testing::skip;

use crate::tmux::Terminal;

/// Prints how long a journey took from its first key.
fn took(what: &str, since: Instant) {
    println!("{what}: {:.1} s", since.elapsed().as_secs_f64());
}

fn answered(terminal: &Terminal) {
    terminal.until("answered", |sight| sight.contains("tok/s, context"));
}

#[test]
fn a_first_look_is_one_command_and_one_key() {
    let Some(terminal) = Terminal::open(80, 24) else { skip!("tmux is not installed") };
    let started = Instant::now();
    terminal.enter("$M");
    terminal.see("Enter   tries the small built-in");
    took("the choice of a model", started);
    terminal.press("Enter");
    terminal.see("tiny-tales (built in)");
    terminal.see("Type a message");
    took("the first chat", started);
    let sight = terminal.sight();
    for part in ["RAM", "context", "lists all commands", "@FILE"] {
        assert!(sight.contains(part), "no {part:?} on\n{sight}");
    }
    assert!(!sight.contains("byte values"), "nothing to worry about:\n{sight}");
    terminal.press("C-d");
}

#[test]
fn a_model_beyond_the_memory_is_one_command_and_one_key_shows_why_it_is_slow() {
    let Some(terminal) = Terminal::open(120, 40) else { skip!("tmux is not installed") };
    std::fs::copy(crate::common::builtin(), terminal.file("model.gguf")).unwrap();
    let started = Instant::now();
    terminal.enter("$M chat model.gguf --ram min --max-tokens 200 --temp 1 -p 'Tell me about a dog.'");
    terminal.see("larger than the memory budget");
    answered(&terminal);
    took("an answer of a model beyond the memory", started);
    let started = Instant::now();
    terminal.press("F2");
    terminal.see("Each square is one expert.");
    took("the reason why it is slow", started);
    terminal.see("found in RAM");
    terminal.see("disk stalls");
    terminal.press("C-d");
}

#[test]
fn a_file_is_attached_by_its_name_in_the_question() {
    let Some(terminal) = Terminal::open(100, 30) else { skip!("tmux is not installed") };
    std::fs::write(terminal.file("notes.txt"), "The dog is called Rex.\n").unwrap();
    terminal.begin("--max-tokens 12");
    terminal.see("Type a message");
    let started = Instant::now();
    terminal.type_fast("What is in @no");
    terminal.see("  notes.txt");
    terminal.press("Tab");
    terminal.see("What is in @notes.txt");
    terminal.press("Enter");
    answered(&terminal);
    took("a file attached and the answer", started);
    let sight = terminal.sight();
    assert!(sight.contains("+ notes.txt (23 B, ") && !sight.contains("Rex"), "{sight}");
    terminal.press("C-d");
    terminal.over(0);
    // The end says how to go on.
    assert!(terminal.screen().contains("moelten chat --continue goes on"), "{}", terminal.screen());
}

#[test]
fn an_old_conversation_is_found_by_a_word_and_goes_on_with_its_settings() {
    let Some(terminal) = Terminal::open(100, 30) else { skip!("tmux is not installed") };
    terminal.begin("--max-tokens 12");
    terminal.see("Type a message");
    terminal.enter("A tale of a whale.");
    answered(&terminal);
    terminal.enter("/set temp 0.25");
    terminal.see("temp is 0.25");
    terminal.enter("And more?");
    terminal.until("answered twice", |sight| sight.matches("tok/s, context").count() == 2);
    terminal.enter("/clear");
    terminal.enter("Something else.");
    terminal.until("answered anew", |sight| {
        sight.contains("Something else.") && sight.contains("tok/s, context")
    });
    terminal.press("C-d");
    terminal.over(0);
    terminal.enter("clear; $M chat --max-tokens 12");
    terminal.see("Type a message");
    let started = Instant::now();
    terminal.press("F4");
    terminal.see("A tale of a whale.");
    terminal.see("Something else.");
    terminal.type_fast("whale");
    terminal.until("filtered", |sight| !sight.contains("Something else."));
    terminal.press("Enter");
    terminal.see("And more?");
    terminal.see("Loaded 4 messages.");
    took("an old conversation", started);
    terminal.enter("/set");
    terminal.until("with its temperature", |sight| {
        sight.lines().any(|line| line.trim_start().starts_with("temp ") && line.contains("0.25"))
    });
    terminal.press("C-d");
}

#[test]
fn continue_opens_the_model_of_the_conversation() {
    let Some(terminal) = Terminal::open(100, 30) else { skip!("tmux is not installed") };
    std::fs::copy(crate::common::builtin(), terminal.file("mine.gguf")).unwrap();
    terminal.begin("mine.gguf --max-tokens 12");
    terminal.see("Type a message");
    terminal.enter("hello");
    answered(&terminal);
    terminal.press("C-d");
    terminal.over(0);
    terminal.enter("clear; $M chat --continue --max-tokens 12");
    terminal.see("Loaded 2 messages.");
    terminal.see(" mine ");
    terminal.enter("/quit");
    terminal.until("left", |sight| sight.contains("goes on with this conversation"));
    std::fs::remove_file(terminal.file("mine.gguf")).unwrap();
    terminal.enter("clear; $M chat --continue; echo rc=$?");
    terminal.see("the model of the conversation is gone");
    terminal.see("rc=2");
}

#[test]
fn another_model_is_three_keys_away() {
    let Some(terminal) = Terminal::open(100, 30) else { skip!("tmux is not installed") };
    std::fs::copy(crate::common::builtin(), terminal.file("mine.gguf")).unwrap();
    terminal.begin("--max-tokens 12");
    terminal.see("Type a message");
    let started = Instant::now();
    terminal.press("F3");
    terminal.see("mine.gguf");
    terminal.type_fast("mine");
    terminal.until("selected", |sight| sight.lines().any(|line| line.starts_with("> mine.gguf")));
    terminal.press("Enter");
    terminal.see("Switched to mine.gguf");
    took("a switch", started);
    terminal.press("C-d");
    terminal.over(0);
}

/// Two chats at once keep their conversations apart.
#[test]
fn two_chats_at_once_have_files_of_their_own() {
    let Some(terminal) = Terminal::open(100, 30) else { skip!("tmux is not installed") };
    terminal.begin("--max-tokens 12");
    terminal.see("Type a message");
    terminal.enter("the first chat");
    answered(&terminal);
    // The second one continues what the first one has open.
    let second = terminal.command().args(["split-window", "-d", "-l", "14"]).output().unwrap();
    assert!(second.status.success(), "{second:?}");
    let keys = |text: &str| {
        let sent = terminal.command().args(["send-keys", "-t", ":.1", text, "Enter"]).status().unwrap();
        assert!(sent.success());
    };
    let sight = || {
        let shown = terminal.command().args(["capture-pane", "-p", "-t", ":.1"]).output().unwrap();
        String::from_utf8(shown.stdout).unwrap()
    };
    let wait = |what: &str, so: &dyn Fn(&str) -> bool| {
        let started = Instant::now();
        while !so(&sight()) {
            assert!(started.elapsed().as_secs() < 20, "not {what}:\n{}", sight());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    keys("$M chat --continue --max-tokens 12");
    wait("told", &|sight| sight.contains("goes on with a copy"));
    keys("the second chat");
    wait("answered", &|sight| sight.contains("tok/s, context"));
    terminal.enter("more of the first");
    terminal.until("answered twice", |sight| sight.matches("tok/s, context").count() >= 2);
    keys("/quit");
    terminal.press("C-d");
    // Each chat saves its conversation while it ends.
    let counts = || {
        let paths = terminal.conversations();
        let texts: Vec<_> = paths.iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect();
        ["the first chat", "the second chat", "more of the first"]
            .map(|word| texts.iter().filter(|text| text.contains(word)).count())
    };
    let started = Instant::now();
    while counts() != [2, 1, 1] {
        assert!(started.elapsed().as_secs() < 20, "{:?} in {:?}", counts(), terminal.conversations());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The wheel of the mouse scrolls; tmux passes it on as a program with mouse reporting gets it.
#[test]
fn the_wheel_reaches_the_chat() {
    let Some(terminal) = Terminal::open(80, 12) else { skip!("tmux is not installed") };
    terminal.begin("--max-tokens 12");
    terminal.see("Type a message");
    terminal.enter("/help me");
    for _ in 0..3 {
        terminal.enter("/set");
    }
    terminal.see("max-tokens");
    terminal.type_fast("\u{1b}[<64;10;5M");
    terminal.see("below (End)");
    terminal.enter("/mouse off");
    terminal.see("belongs to the terminal");
    terminal.press("C-d");
    terminal.over(0);
}
