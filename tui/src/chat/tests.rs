//! Transitions of the conversation.

mod nothing_lost;
mod switching;

use std::time::Duration;

use moelten_engine::api::{Answer, GenerateParams, GenerateStats, MemoryUse, StopReason};

use moelten_loader::text::chat::{Message, Speaker};

use super::*;
use crate::input::command::TABLE;

fn chat() -> Chat {
    let facts = Facts {
        model: "m".into(),
        supports_system: true,
        rows: vec![("context", "100".into())],
        ..Facts::default()
    };
    Chat::new(facts, GenerateParams::default(), None)
}

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn answer(text: &str, reason: StopReason, used: usize) -> ChatEvent {
    let stats =
        GenerateStats { prompt_tokens: 5, context_used: used, context_size: 100, ..Default::default() };
    ChatEvent::Answered(Box::new(Answer { text: text.into(), ids: vec![1], reason, stats }), at(0))
}

fn enter(chat: &mut Chat, text: &str) -> Vec<ChatEffect> {
    chat.handle(ChatEvent::Entered(text.into()))
}

/// Asks and answers.
fn turn(chat: &mut Chat, question: &str, reply: &str) {
    request(&enter(chat, question));
    chat.handle(answer(reply, StopReason::EndOfTurn, 10));
}

fn request(effects: &[ChatEffect]) -> &Request {
    let found = effects.iter().find_map(|effect| match effect {
        ChatEffect::Answer(request) => Some(request),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no request in {effects:?}"))
}

fn said(effects: &[ChatEffect]) -> String {
    let notes = effects.iter().filter_map(|effect| match effect {
        ChatEffect::Note(_, text) => Some(text.as_str()),
        _ => None,
    });
    notes.collect::<Vec<_>>().join("\n")
}

/// Messages, one letter of the role before each text.
fn texts(messages: &[Message]) -> Vec<String> {
    let letter = |role| match role {
        Speaker::System => 's',
        Speaker::User => 'u',
        Speaker::Assistant => 'a',
        Speaker::Tool => 't',
    };
    messages.iter().map(|m| format!("{}:{}", letter(m.role), m.content)).collect()
}

/// The turns of the conversation in the same form, files included.
fn turns(chat: &Chat) -> Vec<String> {
    texts(&chat.turns().iter().map(Turn::message).collect::<Vec<_>>())
}

/// The effects other than counting.
fn without_counts(mut effects: Vec<ChatEffect>) -> Vec<ChatEffect> {
    effects.retain(|effect| !matches!(effect, ChatEffect::Count { .. }));
    effects
}

/// The number and the messages of the requested count.
fn count(effects: &[ChatEffect]) -> (u64, Vec<String>) {
    let found = effects.iter().find_map(|effect| match effect {
        ChatEffect::Count { number, messages, .. } => Some((*number, texts(messages))),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("nothing is counted in {effects:?}"))
}

fn file(name: &str, text: &str) -> Attachment {
    Attachment { name: name.into(), text: text.into(), tokens: 2 }
}

/// The result of reading a file.
fn attached(result: Result<Attachment, AttachError>) -> ChatEvent {
    ChatEvent::File(FileEvent::Attached { path: "f.txt".into(), result })
}

#[test]
fn turns_accumulate_and_the_system_prompt_comes_first() {
    let mut chat = chat();
    turn(&mut chat, "hello", "hi");
    enter(&mut chat, "/system Be brief.");
    let effects = enter(&mut chat, "and now?");
    assert_eq!(texts(&request(&effects).messages), ["s:Be brief.", "u:hello", "a:hi", "u:and now?"]);
    enter(&mut chat, "/system off");
    let effects = chat.handle(answer("later", StopReason::EndOfTurn, 20));
    assert!(said(&effects).contains("context 20/100 (20%)"), "{effects:?}");
    assert_eq!(texts(&request(&enter(&mut chat, "x")).messages)[0], "u:hello");
}

#[test]
fn blank_lines_ask_nothing() {
    let mut chat = chat();
    assert_eq!(enter(&mut chat, " \n\t"), []);
    assert!(chat.turns().is_empty());
}

#[test]
fn retry_replaces_the_answer_with_another_seed() {
    let mut chat = chat();
    assert!(said(&enter(&mut chat, "/retry")).contains("no message"));
    let first = request(&enter(&mut chat, "hello")).clone();
    chat.handle(answer("hi", StopReason::EndOfTurn, 10));
    let second = request(&enter(&mut chat, "/retry")).clone();
    assert_eq!(first.messages, second.messages);
    assert_ne!(first.params.sampler.seed, second.params.sampler.seed);
    chat.handle(answer("good day", StopReason::EndOfTurn, 10));
    assert_eq!(turns(&chat), ["u:hello", "a:good day"]);
    enter(&mut chat, "/set temp 0");
    assert!(said(&enter(&mut chat, "/retry")).contains("the same"));
}

#[test]
fn a_retry_that_is_stopped_at_once_keeps_the_old_answer() {
    let mut chat = chat();
    turn(&mut chat, "hello", "hi");
    enter(&mut chat, "/retry");
    chat.handle(answer("", StopReason::Cancelled, 10));
    assert_eq!(turns(&chat), ["u:hello", "a:hi"]);
}

#[test]
fn undo_removes_turns() {
    let mut chat = chat();
    assert!(said(&enter(&mut chat, "/undo")).contains("no turn"));
    for question in ["one", "two", "three", "four"] {
        turn(&mut chat, question, "ok");
    }
    assert!(said(&enter(&mut chat, "/undo")).contains("Removed 1 turn (3 left)"));
    assert!(said(&enter(&mut chat, "/undo 2")).contains("Removed 2 turns (1 left)"));
    assert_eq!(turns(&chat), ["u:one", "a:ok"]);
    enter(&mut chat, "/undo 99");
    assert!(chat.turns().is_empty());
}

#[test]
fn undo_counts_a_question_without_an_answer() {
    let mut chat = chat();
    turn(&mut chat, "one", "ok");
    enter(&mut chat, "two");
    chat.handle(answer("", StopReason::Cancelled, 10));
    enter(&mut chat, "/undo");
    assert_eq!(turns(&chat), ["u:one", "a:ok"]);
}

#[test]
fn a_stopped_answer_is_kept_and_one_that_never_began_can_be_asked_again() {
    let mut chat = chat();
    enter(&mut chat, "hello");
    let effects = chat.handle(answer("partly", StopReason::Cancelled, 10));
    assert!(said(&effects).contains("stopped"));
    assert_eq!(turns(&chat), ["u:hello", "a:partly"]);
    enter(&mut chat, "more");
    let effects = chat.handle(answer("", StopReason::Cancelled, 10));
    assert!(said(&effects).contains("/retry"));
    assert_eq!(texts(&request(&enter(&mut chat, "/retry")).messages).last().unwrap(), "u:more");
    chat.handle(answer("", StopReason::Cancelled, 10));
    let effects = enter(&mut chat, "something else");
    assert!(said(&effects).contains("was dropped"));
    assert_eq!(texts(&request(&effects).messages), ["u:hello", "a:partly", "u:something else"]);
}

#[test]
fn a_seed_set_later_counts_from_its_setting_on() {
    let mut chat = chat();
    enter(&mut chat, "/set seed 7");
    let first = request(&enter(&mut chat, "hello")).params.sampler.seed;
    chat.handle(answer("ok", StopReason::EndOfTurn, 10));
    enter(&mut chat, "/clear");
    enter(&mut chat, "/set seed 7");
    assert_eq!(request(&enter(&mut chat, "hello")).params.sampler.seed, first);
}

#[test]
fn the_first_interrupt_hints_and_the_second_quits() {
    let mut chat = chat();
    let effects = chat.handle(ChatEvent::Interrupted(at(0)));
    assert!(said(&effects).contains("Ctrl-D"));
    enter(&mut chat, "/show");
    assert_ne!(chat.handle(ChatEvent::Interrupted(at(10))), [ChatEffect::Quit]);
    // After the hint has disappeared it counts as the first one again.
    assert_ne!(chat.handle(ChatEvent::Interrupted(at(60_000))), [ChatEffect::Quit]);
    assert_eq!(chat.handle(ChatEvent::Interrupted(at(62_000))), [ChatEffect::Quit]);
}

#[test]
fn a_question_waits_for_its_file() {
    let mut chat = chat();
    enter(&mut chat, "/file f.txt");
    assert!(said(&enter(&mut chat, "what is in it?")).contains("when the attached file is read"));
    let asked = texts(&request(&chat.handle(attached(Ok(file("f.txt", "the file"))))).messages).join("");
    assert!(asked.contains("the file") && asked.contains("what is in it?"), "{asked}");
    chat.handle(answer("ok", StopReason::EndOfTurn, 10));
    enter(&mut chat, "/file f.txt");
    enter(&mut chat, "and now?");
    let effects = chat.handle(attached(Err(AttachError::Unreadable("no such file".into()))));
    assert!(said(&effects).contains("was not sent") && chat.turns().len() == 2);
}

#[test]
fn commands_that_do_not_change_turns_do_not_end_editing() {
    let mut chat = chat();
    enter(&mut chat, "one");
    chat.handle(answer("first", StopReason::EndOfTurn, 10));
    enter(&mut chat, "/edit");
    enter(&mut chat, "/stats");
    assert!(chat.editing());
    enter(&mut chat, "two");
    assert_eq!(chat.turns().len(), 1, "it replaces the last question");
}

#[test]
fn an_interrupt_right_after_one_that_stopped_an_answer_quits() {
    for (ms, quits) in [(900, true), (1500, false)] {
        let mut chat = chat();
        enter(&mut chat, "hello");
        chat.handle(answer("part", StopReason::Cancelled, 10));
        assert_eq!(chat.handle(ChatEvent::Interrupted(at(ms))) == [ChatEffect::Quit], quits, "{ms} ms");
    }
}

#[test]
fn the_end_of_input_and_quit_end_the_chat() {
    assert_eq!(chat().handle(ChatEvent::EndOfInput), [ChatEffect::Quit]);
    for line in ["/quit", "/exit", "/bye"] {
        assert_eq!(enter(&mut chat(), line), [ChatEffect::Quit]);
    }
}

#[test]
fn settings_change_the_next_request() {
    let mut chat = chat();
    assert!(said(&enter(&mut chat, "/set temp 0.25")).contains("temp is 0.25"));
    assert!(said(&enter(&mut chat, "/set temp 1e9")).contains("between 0 and 100"));
    enter(&mut chat, "/set max-tokens 7");
    let effects = enter(&mut chat, "hello");
    let params = &request(&effects).params;
    assert_eq!((params.sampler.temperature, params.max_tokens), (0.25, Some(7)));
    let shown = said(&enter(&mut chat, "/show"));
    assert!(["model", "context", "0.25", "system prompt"].iter().all(|part| shown.contains(part)), "{shown}");
}

#[test]
fn seeds_repeat_a_conversation() {
    let seeds = || {
        let mut chat = chat();
        enter(&mut chat, "/set seed 40");
        let mut seeds = Vec::new();
        for _ in 0..3 {
            seeds.push(request(&enter(&mut chat, "again")).params.sampler.seed);
            chat.handle(answer("ok", StopReason::EndOfTurn, 10));
        }
        seeds
    };
    assert_eq!(seeds(), [40, 41, 42]);
    assert_eq!(seeds(), seeds());
}

#[test]
fn a_template_without_system_prompt_refuses_it() {
    let mut chat = Chat::new(Facts::default(), GenerateParams::default(), None);
    assert!(said(&enter(&mut chat, "/system Be kind.")).contains("no system prompt"));
    assert_eq!(texts(&request(&enter(&mut chat, "hello")).messages), ["u:hello"]);
}

#[test]
fn the_end_of_the_context_is_never_silent() {
    let mut chat = chat();
    enter(&mut chat, "hello");
    assert!(!said(&chat.handle(answer("hi", StopReason::EndOfTurn, 79))).contains("left"));
    enter(&mut chat, "more");
    assert!(
        said(&chat.handle(answer("ok", StopReason::EndOfTurn, 85)))
            .contains("15 tokens of the context are left")
    );
    enter(&mut chat, "more");
    assert!(!said(&chat.handle(answer("ok", StopReason::EndOfTurn, 90))).contains("are left"), "said once");
    enter(&mut chat, "more");
    assert_eq!(chat.handle(answer("o", StopReason::ContextFull, 100)).last(), Some(&ChatEffect::Ask));
    let cut = chat.overflow_question().unwrap();
    assert!(["cut", "100", "/undo", "/clear", "--ctx"].iter().all(|part| cut.contains(part)), "{cut}");
    enter(&mut chat, "more");
    let failure = Failure::ContextFull { tokens: 120, context: 100 };
    let effects = chat.handle(ChatEvent::Failed { shown: String::new(), failure: failure.clone() });
    assert_eq!(without_counts(effects), [ChatEffect::Ask]);
    let full = chat.overflow_question().unwrap();
    assert!(["120", "100", "/undo", "/clear", "--ctx"].iter().all(|part| full.contains(part)), "{full}");
    enter(&mut chat, "/clear");
    assert_eq!(chat.overflow_question(), None);
    enter(&mut chat, "one that is far too long");
    let alone = said(&chat.handle(ChatEvent::Failed { shown: String::new(), failure }));
    assert!(alone.contains("send a shorter one") && chat.overflow_question().is_none(), "{alone}");
}

#[test]
fn older_turns_are_dropped_or_summarised_on_request() {
    let full = Failure::ContextFull { tokens: 120, context: 100 };
    for letter in ["d", "drop", "S"] {
        let mut chat = chat();
        turn(&mut chat, "one", "a long answer to the first question");
        turn(&mut chat, "two", "ok");
        enter(&mut chat, "three");
        chat.handle(ChatEvent::Failed { shown: String::new(), failure: full.clone() });
        let effects = enter(&mut chat, letter);
        if letter == "S" {
            let asked = texts(&request(&effects).messages);
            assert!(asked.last().unwrap().contains("Summarise"), "{asked:?}");
            let effects = chat.handle(answer("all is well", StopReason::EndOfTurn, 10));
            let asked = texts(&request(&effects).messages);
            assert!(asked[0].contains("all is well") && asked.last().unwrap().contains("three"), "{asked:?}");
        } else {
            assert_eq!(texts(&request(&effects).messages), ["u:two", "a:ok", "u:three"]);
        }
        assert_eq!(chat.turns().len(), 5, "nothing is lost");
    }
    let mut chat = chat();
    turn(&mut chat, "one", "ok");
    enter(&mut chat, "two");
    chat.handle(ChatEvent::Failed { shown: String::new(), failure: full });
    assert!(said(&enter(&mut chat, "n")).contains("Nothing was changed"));
    assert_eq!(
        texts(&request(&enter(&mut chat, "d")).messages).last().unwrap(),
        "u:d",
        "a letter is a question again"
    );
    // More of the only answer: no shorter message would help.
    let mut chat = self::chat();
    turn(&mut chat, "one", "ok");
    request(&enter(&mut chat, "/more"));
    let failure = Failure::ContextFull { tokens: 1200, context: 1000 };
    let told = said(&chat.handle(ChatEvent::Failed { shown: String::new(), failure }));
    assert!(told.contains("/undo removes the turn") && !told.contains("shorter"), "{told}");
}

#[test]
fn a_failure_keeps_what_was_shown() {
    let mut chat = chat();
    enter(&mut chat, "hello");
    let failure = Failure::Other("error[E-IO-03]: broken disk".into());
    let effects = chat.handle(ChatEvent::Failed { shown: "Once upon".into(), failure });
    assert!(said(&effects).contains("so far is kept"));
    assert_eq!(turns(&chat), ["u:hello", "a:Once upon"]);
}

#[test]
fn what_is_saved_can_be_loaded() {
    let mut first = chat();
    assert!(said(&enter(&mut first, "/save x.json")).contains("nothing to save"));
    enter(&mut first, "/system Be brief.");
    turn(&mut first, "hello", "hi");
    let effects = enter(&mut first, "/save x.json");
    let [ChatEffect::Write { path, text, .. }] = effects.as_slice() else { panic!("{effects:?}") };
    let mut second = chat();
    assert_eq!(enter(&mut second, "/load x.json"), [ChatEffect::Read { path: path.clone() }]);
    let read = FileEvent::Read { path: path.clone(), result: Ok(text.clone()) };
    assert!(said(&second.handle(ChatEvent::File(read))).contains("Loaded 2 messages"));
    assert_eq!(second.turns(), first.turns());
    assert_eq!(texts(&request(&enter(&mut second, "x")).messages)[0], "s:Be brief.");
}

#[test]
fn a_file_that_is_no_conversation_changes_nothing() {
    let mut chat = chat();
    turn(&mut chat, "hello", "hi");
    for result in [Ok("{}".to_owned()), Err("no such file".to_owned())] {
        let effects = chat.handle(ChatEvent::File(FileEvent::Read { path: "x".into(), result }));
        assert!(said(&effects).contains("was not loaded"));
    }
    assert_eq!(turns(&chat), ["u:hello", "a:hi"]);
}

#[test]
fn clear_forgets_the_conversation_only() {
    let mut chat = chat();
    enter(&mut chat, "/set temp 0.5");
    turn(&mut chat, "hello", "hi");
    enter(&mut chat, "/clear");
    let effects = enter(&mut chat, "new");
    assert_eq!(texts(&request(&effects).messages), ["u:new"]);
    assert_eq!(request(&effects).params.sampler.temperature, 0.5);
}

#[test]
fn help_names_every_command_and_stats_need_an_answer() {
    let mut chat = chat();
    let help = said(&enter(&mut chat, "/help"));
    assert!(TABLE.iter().all(|entry| help.contains(entry.name)));
    assert!(said(&enter(&mut chat, "/stats")).contains("no answer yet"));
    turn(&mut chat, "hello", "hi");
    assert!(said(&enter(&mut chat, "/stats")).contains("10 of 100"));
    assert!(said(&enter(&mut chat, "/nonsense")).contains("/help"));
}

#[test]
fn a_cache_that_shrinks_is_reported_once() {
    let mut chat = chat();
    let mut given = |bytes: u64| {
        enter(&mut chat, "again");
        let memory = MemoryUse { released_bytes: bytes, ..MemoryUse::default() };
        let stats = GenerateStats { prompt_tokens: 5, memory, ..GenerateStats::default() };
        let answer = Answer { text: "yes".into(), ids: vec![1], reason: StopReason::EndOfTurn, stats };
        said(&chat.handle(ChatEvent::Answered(Box::new(answer), at(0))))
    };
    assert!(!given(0).contains("Memory pressure"));
    assert!(given(5 << 20).contains("gave back 5 MiB"));
    assert!(!given(5 << 20).contains("Memory pressure"));
    assert!(given(6 << 20).contains("gave back 6 MiB"));
}

#[test]
fn a_retry_that_does_not_fit_is_repeated_when_there_is_room() {
    let full = Failure::ContextFull { tokens: 120, context: 100 };
    for letter in ["d", "s"] {
        let mut chat = chat();
        turn(&mut chat, "one", "a long answer to the first question");
        turn(&mut chat, "two", "the old answer");
        enter(&mut chat, "/retry");
        chat.handle(ChatEvent::Failed { shown: String::new(), failure: full.clone() });
        assert_eq!(turns(&chat).last().unwrap(), "a:the old answer", "it is not lost");
        let mut effects = enter(&mut chat, letter);
        if letter == "s" {
            effects = chat.handle(answer("all is well", StopReason::EndOfTurn, 10));
        }
        assert_eq!(request(&effects).begun, "");
        assert!(texts(&request(&effects).messages).last().unwrap().contains("two"));
        chat.handle(answer("a new answer", StopReason::EndOfTurn, 10));
        assert_eq!(turns(&chat).last().unwrap(), "a:a new answer");
    }
}

#[test]
fn more_that_does_not_fit_continues_when_there_is_room() {
    let mut chat = chat();
    turn(&mut chat, "one", "a long answer to the first question");
    turn(&mut chat, "two", "the answer");
    enter(&mut chat, "/more");
    let failure = Failure::ContextFull { tokens: 120, context: 100 };
    chat.handle(ChatEvent::Failed { shown: String::new(), failure });
    assert_eq!(request(&enter(&mut chat, "d")).begun, "the answer");
}

#[test]
fn more_that_was_stopped_at_once_changes_nothing() {
    let mut chat = chat();
    turn(&mut chat, "one", "an answer");
    enter(&mut chat, "/more");
    let effects = chat.handle(answer("", StopReason::Cancelled, 10));
    assert!(said(&effects).contains("the answer is unchanged, and /more continues it"), "{effects:?}");
    enter(&mut chat, "/more");
    let effects = chat.handle(answer("", StopReason::EndOfTurn, 10));
    assert!(said(&effects).contains("The model added nothing"), "{effects:?}");
    assert_eq!(turns(&chat), ["u:one", "a:an answer"]);
}

#[test]
fn every_change_of_the_conversation_is_counted_once() {
    let mut chat = chat();
    assert_eq!(
        (chat.count_request(), chat.context_used()),
        (None, Some(0)),
        "an empty conversation takes nothing"
    );
    enter(&mut chat, "/system Be brief.");
    assert_eq!(chat.context_used(), None);
    let (number, _) = count(&{
        enter(&mut chat, "/system off");
        enter(&mut chat, "/system Be kind.")
    });
    chat.handle(ChatEvent::Counted { number: number - 1, tokens: Some(1) });
    assert_eq!(chat.context_used(), None, "that count was for an earlier conversation");
    chat.handle(ChatEvent::Counted { number, tokens: Some(7) });
    assert_eq!(chat.context_used(), Some(7));
    turn(&mut chat, "one", "two");
    assert_eq!(chat.context_used(), Some(10), "the model has counted");
    // A change during an answer is counted after it.
    enter(&mut chat, "three");
    assert!(without_counts(enter(&mut chat, "/system Be brief.")).len() == 1);
    let effects = chat.handle(answer("four", StopReason::EndOfTurn, 20));
    assert_eq!(count(&effects).1, ["s:Be brief.", "u:one", "a:two", "u:three", "a:four"]);
    // A retry that is stopped at once restores the old answer.
    enter(&mut chat, "/retry");
    assert_eq!(count(&chat.handle(answer("", StopReason::Cancelled, 3))).1.last().unwrap(), "a:four");
    assert_eq!(count(&enter(&mut chat, "/undo")).1, ["s:Be brief.", "u:one", "a:two"]);
    assert!(!enter(&mut chat, "/show").iter().any(|effect| matches!(effect, ChatEffect::Count { .. })));
    assert_eq!(count(&enter(&mut chat, "/clear")).1, ["s:Be brief."]);
    let switched = Switched { facts: Facts::default(), params: GenerateParams::default() };
    enter(&mut chat, "five");
    chat.handle(answer("six", StopReason::EndOfTurn, 20));
    enter(&mut chat, "/model x");
    assert_eq!(count(&chat.handle(ChatEvent::Switched(Ok(Box::new(switched))))).1, ["u:five", "a:six"]);
}

#[test]
fn attached_files_are_saved_and_exported() {
    let mut first = chat();
    first.handle(attached(Ok(file("a.txt", "raw \u{1b}[31m text"))));
    turn(&mut first, "what?", "that");
    let effects = enter(&mut first, "/save x.json");
    let [ChatEffect::Write { text, .. }] = effects.as_slice() else { panic!("{effects:?}") };
    let mut second = chat();
    second.handle(ChatEvent::File(FileEvent::Read { path: "x.json".into(), result: Ok(text.clone()) }));
    assert_eq!(second.turns(), first.turns());
    assert_eq!((&*second.turns()[0].content, &*second.turns()[0].files[0].name), ("what?", "a.txt"));
    assert!(turns(&second)[0].starts_with("u:File a.txt:\n```\nraw \u{1b}[31m text\n```\n\nwhat?"));
    for (name, part) in
        [("x.md", "File a.txt:\n```\nraw  text\n```\n\nwhat?"), ("x.json", "File a.txt:\\n```")]
    {
        let effects = enter(&mut second, &format!("/export {name}"));
        let [ChatEffect::Write { text, .. }] = effects.as_slice() else { panic!("{effects:?}") };
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_file_that_no_context_holds_is_refused_with_the_numbers() {
    let facts = Facts { context: 1000, ..Facts::default() };
    let mut chat = Chat::new(facts, GenerateParams::default(), None);
    enter(&mut chat, "/file long.txt");
    enter(&mut chat, "what?");
    let effects = chat.handle(attached(Ok(Attachment { tokens: 2500, ..file("long.txt", "text") })));
    let words = said(&effects);
    assert!(
        ["2500 tokens", "context of 1000", "was not sent"].iter().all(|part| words.contains(part)),
        "{words}"
    );
    assert!(chat.next_attachments().next().is_none() && chat.turns().is_empty());
}

#[test]
fn counting_stops_at_the_end_of_the_context() {
    let facts = Facts { context: 1000, ..Facts::default() };
    let mut chat = Chat::new(facts, GenerateParams::default(), None);
    let attach = without_counts(enter(&mut chat, "/file long.txt"));
    assert_eq!(attach, [ChatEffect::Attach { path: "long.txt".into(), limit: 1000, mention: false }]);
    enter(&mut chat, "what?");
    let too_long = AttachError::TooLong { bytes: 8 << 20, more_than: 1000 };
    let words = said(&chat.handle(attached(Err(too_long))));
    let parts = ["f.txt (8 MiB, more than 1000 tokens)", "context of 1000", "--ctx", "was not sent"];
    assert!(parts.iter().all(|part| words.contains(part)), "{words}");
    turn(&mut chat, "hello", "hi");
    turn(&mut chat, "more", "yes");
    let effects = enter(&mut chat, "/undo");
    assert!(matches!(effects.last(), Some(ChatEffect::Count { limit: 1000, .. })), "{effects:?}");
}

#[test]
fn another_model_counts_what_it_gives_back_from_nothing() {
    let mut chat = chat();
    let given = |chat: &mut Chat, bytes: u64| {
        enter(chat, "again");
        let memory = MemoryUse { released_bytes: bytes, ..MemoryUse::default() };
        let stats = GenerateStats { prompt_tokens: 5, memory, ..GenerateStats::default() };
        let answer = Answer { text: "yes".into(), ids: vec![1], reason: StopReason::EndOfTurn, stats };
        said(&chat.handle(ChatEvent::Answered(Box::new(answer), at(0))))
    };
    assert!(given(&mut chat, 5 << 20).contains("gave back 5 MiB"));
    enter(&mut chat, "/model x");
    let switched = Switched { facts: Facts::default(), params: GenerateParams::default() };
    chat.handle(ChatEvent::Switched(Ok(Box::new(switched))));
    assert!(given(&mut chat, 1 << 20).contains("gave back 1 MiB"));
}

#[test]
fn messages_are_counted_the_same_everywhere() {
    let mut chat = chat();
    turn(&mut chat, "one", "two");
    let effects = enter(&mut chat, "/save x.json");
    let [ChatEffect::Write { path, messages, .. }] = effects.as_slice() else { panic!("{effects:?}") };
    let (path, messages) = (path.clone(), *messages);
    // A question that is sent while the file is written is not in it.
    enter(&mut chat, "three");
    let saved = said(&chat.handle(ChatEvent::File(FileEvent::Written { path, messages, result: Ok(()) })));
    assert_eq!(saved, "Saved 2 messages to x.json.");
    for command in ["/stats", "/show"] {
        assert!(said(&enter(&mut chat, command)).contains("3 messages"));
    }
}
