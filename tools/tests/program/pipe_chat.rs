//! `moelten chat` through pipes: questions in, answers out, everything else on stderr.

use moelten_loader::container::gguf::Value;

use crate::common::{Outcome, model_with, moelten, run};

fn chat(lines: &str) -> Outcome {
    run(moelten().args(["chat", "--seed", "3", "--max-tokens", "12"]), lines.as_bytes()).fine()
}

#[test]
fn a_question_is_answered_and_quit_leaves() {
    let outcome = chat("hello\n/quit\nnever asked\n");
    assert_eq!(outcome.err.matches("tok/s").count(), 1, "one answer: {outcome:?}");
    assert!(!outcome.text().trim().is_empty());
}

#[test]
fn the_first_screen_is_honest() {
    let outcome = chat("");
    for part in ["not an assistant", "moelten models --suggest", "context 1,024 tokens", "/help"] {
        assert!(outcome.err.contains(part), "{part}: {outcome:?}");
    }
    assert_eq!(outcome.text(), "");
}

#[test]
fn the_same_seed_repeats_a_conversation_and_a_retry_does_not_repeat_the_answer() {
    let first = chat("hello\nand then?\n");
    assert_eq!(first.out, chat("hello\nand then?\n").out);
    let retried = chat("hello\n/retry\n");
    let lines: Vec<_> = retried.text().lines().collect();
    assert_ne!(lines.first(), lines.last(), "{retried:?}");
}

#[test]
fn later_turns_are_read_from_the_cache() {
    let outcome = chat("hello\nand then?\n/stats\n");
    let cached = outcome.err.split("tokens, ").find_map(|rest| rest.split_once(" from cache"));
    let cached: usize = cached.unwrap_or_else(|| panic!("{outcome:?}")).0.parse().unwrap();
    assert!(cached > 10, "{outcome:?}");
}

#[test]
fn conversations_survive_in_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("talk.json");
    let name = file.display();
    chat(&format!("/system Be kind.\nhello\n/save {name}\n"));
    let outcome = chat(&format!("/load {name}\n/show\n"));
    assert!(outcome.err.contains("Loaded 2 messages") && outcome.err.contains("Be kind."), "{outcome:?}");
    #[cfg(unix)]
    assert!(chat("/load /dev/zero\n").err.contains("not a regular file"));
}

#[test]
fn a_full_context_is_said_and_the_chat_goes_on() {
    let long = "dog ".repeat(100);
    let lines = format!("{long}\n/clear\nhi\n");
    let outcome = run(moelten().args(["chat", "--ctx", "64", "--max-tokens", "5"]), lines.as_bytes()).fine();
    assert!(outcome.err.contains("the context holds 64") && outcome.err.contains("--ctx"), "{outcome:?}");
    assert!(!outcome.text().is_empty(), "the short question is answered");
}

#[test]
fn several_lines_are_one_question() {
    let outcome = chat("\"\"\"one\ntwo\n/quit\nthree\"\"\"\n");
    assert_eq!(outcome.err.matches("tok/s").count(), 1, "{outcome:?}");
}

#[test]
fn no_command_is_a_chat() {
    let outcome = run(&mut moelten(), b"/show\n").fine();
    assert!(outcome.err.contains("tiny-tales"), "{outcome:?}");
}

#[test]
fn a_cut_answer_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("talk.json");
    let outcome = chat(&format!("hello\n/more\n/save {}\n", file.display()));
    let whole: String = outcome.text().lines().collect();
    let saved: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let messages = saved["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[1]["content"].as_str().unwrap().replace('\n', ""), whole);
    assert!(outcome.err.matches("cut at max-tokens").count() >= 1, "{outcome:?}");
}

#[test]
fn thoughts_that_a_template_opens_are_part_of_the_answer_and_can_be_asked_away() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("thinker.gguf");
    let template = "{% for message in messages %}{{ message.content }}\n{% endfor %}\
                    {% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}";
    model_with(&model, |metadata| {
        metadata.retain(|(key, _)| key != "tokenizer.chat_template");
        metadata.push(("tokenizer.chat_template".into(), Value::Str(template.into())));
    });
    let mut command = moelten();
    command.args(["chat", "--seed", "3", "--max-tokens", "5"]).arg(&model);
    let outcome = run(&mut command, b"one\n/think off\ntwo\n").fine();
    assert!(outcome.text().starts_with("<think>\n"), "{outcome:?}");
    assert_eq!(outcome.text().matches("<think>").count(), 1, "{outcome:?}");
    assert!(chat("/think off\n").err.contains("cannot switch reasoning off"));
}

/// Encoding the whole text took gigabytes; the limit of the address space ends a program that does.
#[cfg(unix)]
#[test]
fn f8_files_that_do_not_fit_or_are_no_text_are_refused_cheaply() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("long.txt");
    std::fs::write(&text, "The dog sat on the mat.\n".repeat(350_000)).unwrap();
    let mut shell = crate::common::clean(std::process::Command::new("sh"));
    shell.args(["-c", "ulimit -v 700000; exec \"$0\" \"$@\"", moelten().get_program().to_str().unwrap()]);
    shell.args(["chat", "--threads", "1", "--ram", "100M", "--max-tokens", "4"]);
    let binary = crate::common::builtin();
    let lines = format!("/file {}\n/file {}\nhello\n", text.display(), binary.display());
    let outcome = run(&mut shell, lines.as_bytes()).fine();
    for part in ["more than 1024 tokens) does not fit into the context", "not a text file (byte ", "tok/s"] {
        assert!(outcome.err.contains(part), "{part}: {outcome:?}");
    }
}
