//! Questions and answers are never lost by what comes after them.

use super::*;

fn full() -> ChatEvent {
    let failure = Failure::ContextFull { tokens: 120, context: 100 };
    ChatEvent::Failed { shown: String::new(), failure }
}

/// All ways to get no answer.
fn no_answers() -> [ChatEvent; 3] {
    let failure = Failure::Other("error[E-IO-03]: broken disk".into());
    [
        answer("", StopReason::Cancelled, 10),
        answer("", StopReason::EndOfTurn, 10),
        ChatEvent::Failed { shown: String::new(), failure },
    ]
}

fn names(chat: &Chat) -> Vec<&str> {
    chat.next_attachments().map(|file| file.name.as_str()).collect()
}

#[test]
fn an_edited_question_without_an_answer_leaves_the_last_one_as_it_was() {
    for event in no_answers() {
        let mut chat = chat();
        turn(&mut chat, "one", "first");
        chat.handle(attached(Ok(file("f.txt", "text"))));
        turn(&mut chat, "two", "second");
        chat.handle(attached(Ok(file("later.txt", "text"))));
        let before = chat.turns().to_vec();
        enter(&mut chat, "/edit");
        enter(&mut chat, "/file off");
        chat.handle(attached(Ok(file("new.txt", "text"))));
        let effects = enter(&mut chat, "three");
        let asked = texts(&request(&effects).messages);
        assert!(asked.len() == 3 && asked[2].contains("new.txt") && asked[2].ends_with("three"), "{asked:?}");
        let words = said(&chat.handle(event));
        assert!(words.contains("Up recalls the edited one"), "{words}");
        assert_eq!(chat.turns(), before, "question, answer and file");
        assert_eq!(
            names(&chat),
            ["later.txt", "new.txt"],
            "the attachments of the next question are kept too"
        );
    }
}

#[test]
fn an_edited_question_that_was_never_answered_takes_the_place_of_the_last() {
    let mut chat = chat();
    enter(&mut chat, "one");
    chat.handle(answer("", StopReason::Cancelled, 10));
    enter(&mut chat, "/edit");
    enter(&mut chat, "two");
    let words = said(&chat.handle(answer("", StopReason::Cancelled, 10)));
    assert!(words.contains("/retry tries again"), "{words}");
    assert_eq!(turns(&chat), ["u:two"]);
}

#[test]
fn an_edited_question_that_does_not_fit_is_asked_when_there_is_room() {
    for letter in ["d", "s"] {
        let mut chat = chat();
        turn(&mut chat, "one", "a long answer to the first question");
        turn(&mut chat, "two", "second");
        enter(&mut chat, "/edit");
        chat.handle(attached(Ok(file("new.txt", "text"))));
        enter(&mut chat, "three");
        assert!(chat.handle(full()).contains(&ChatEffect::Ask));
        assert_eq!(turns(&chat)[2..], ["u:two", "a:second"], "nothing is lost meanwhile");
        let mut effects = enter(&mut chat, letter);
        if letter == "s" {
            effects = chat.handle(answer("all is well", StopReason::EndOfTurn, 10));
        }
        let asked = texts(&request(&effects).messages);
        assert!(asked.last().unwrap().contains("new.txt") && asked.last().unwrap().contains("three"));
        chat.handle(answer("", StopReason::Cancelled, 10));
        assert_eq!(turns(&chat)[2..], ["u:two", "a:second"]);
        assert_eq!(names(&chat), ["new.txt"]);
    }
}

#[test]
fn files_of_a_question_without_an_answer_go_with_the_next() {
    let mut chat = chat();
    chat.handle(attached(Ok(file("a.txt", "text a"))));
    enter(&mut chat, "one");
    assert_eq!(names(&chat), [""; 0], "while it may be answered, its file is not for the next question");
    chat.handle(answer("", StopReason::Cancelled, 10));
    assert_eq!(names(&chat), ["a.txt"]);
    chat.handle(attached(Ok(file("b.txt", "text b"))));
    let effects = enter(&mut chat, "two");
    assert!(said(&effects).contains("its attached files go with this one (a.txt)"), "{effects:?}");
    let asked = &request(&effects).messages;
    assert!(asked.len() == 1 && asked[0].content.contains("text a") && asked[0].content.contains("text b"));
    // A file that makes a question too long can be detached.
    let words = said(&chat.handle(full()));
    assert!(words.contains("/file off"), "{words}");
    assert!(said(&enter(&mut chat, "/file off a.txt")).contains("Detached a.txt"));
    assert_eq!(names(&chat), ["b.txt"]);
    assert!(!request(&enter(&mut chat, "/retry")).messages[0].content.contains("text a"));
    chat.handle(full());
    enter(&mut chat, "/file off");
    assert_eq!(texts(&request(&enter(&mut chat, "three")).messages), ["u:three"]);
}

#[test]
fn a_question_that_waits_for_its_file_keeps_its_place() {
    for refused in ["/retry", "/clear", "/edit", "/undo", "/more", "/load x.json", "/model x.gguf", "another"]
    {
        let mut chat = chat();
        turn(&mut chat, "one", "first");
        enter(&mut chat, "/file f.txt");
        enter(&mut chat, "two");
        let effects = enter(&mut chat, refused);
        assert!(said(&effects).contains("waiting for its attached file"), "{refused}: {effects:?}");
        let asked = texts(&request(&chat.handle(attached(Ok(file("f.txt", "text"))))).messages);
        assert!(asked.len() == 3 && asked[2].ends_with("two"), "{refused}: {asked:?}");
    }
    // A conversation that is loaded meanwhile does not replace it either.
    let mut chat = chat();
    enter(&mut chat, "/load x.json");
    enter(&mut chat, "/file f.txt");
    enter(&mut chat, "one");
    let text = transcript::Transcript::new("m", None, vec![]).to_json();
    let read = FileEvent::Read { path: "x.json".into(), result: Ok(text) };
    assert!(said(&chat.handle(ChatEvent::File(read))).contains("was not loaded"));
    assert_eq!(chat.take_waiting_question().as_deref(), Some("one"));
    assert!(!chat.busy());
}

#[test]
fn saved_and_copied_texts_have_the_answer_that_is_being_replaced() {
    for command in ["/more", "/retry", "/edit"] {
        let mut chat = chat();
        turn(&mut chat, "one", "first");
        turn(&mut chat, "two", "second");
        enter(&mut chat, command);
        if command == "/edit" {
            enter(&mut chat, "three");
        }
        assert!(chat.busy());
        for file in ["/save x.json", "/export x.json", "/export x.md"] {
            let effects = enter(&mut chat, file);
            let [ChatEffect::Write { text, messages: 4, .. }] = effects.as_slice() else {
                panic!("{effects:?}")
            };
            assert!(text.contains("second") && text.contains("two"), "{command} {text}");
        }
        assert_eq!(enter(&mut chat, "/copy"), [ChatEffect::Copy("second".into())]);
    }
}

#[test]
fn quitting_at_once_keeps_the_turns_that_an_answer_would_have_replaced() {
    for command in ["/more", "/retry", "/edit"] {
        let mut chat = chat();
        chat.keep_conversations();
        turn(&mut chat, "one", "first");
        let before = chat.turns().to_vec();
        enter(&mut chat, command);
        if command == "/edit" {
            enter(&mut chat, "two");
        }
        let Some(ChatEffect::Keep(text)) = chat.leave("") else { panic!("nothing is kept") };
        assert_eq!(transcript::Transcript::from_json(&text).unwrap().messages, before);
    }
}

#[test]
fn a_file_that_is_being_read_is_not_for_the_question_before() {
    let mut chat = chat();
    turn(&mut chat, "one", "first");
    enter(&mut chat, "/file f.txt");
    assert!(said(&enter(&mut chat, "/edit")).contains("A file for the next message is still being read"));
    assert!(!chat.editing());
    chat.handle(attached(Ok(file("f.txt", "text"))));
    enter(&mut chat, "/edit");
    assert_eq!(names(&chat), [""; 0]);
    assert!(said(&chat.handle(ChatEvent::Interrupted(at(0)))).contains("is unchanged"));
    assert_eq!((chat.editing(), names(&chat)), (false, vec!["f.txt"]));
}

#[test]
fn an_empty_entry_cancels_an_edit() {
    let mut chat = chat();
    turn(&mut chat, "one", "first");
    enter(&mut chat, "/edit");
    assert!(said(&enter(&mut chat, " ")).contains("is unchanged"));
    enter(&mut chat, "two");
    assert_eq!(turns(&chat), ["u:one", "a:first", "u:two"]);
}

#[test]
fn hidden_turns_stay_hidden_after_an_edit() {
    let mut chat = chat();
    turn(&mut chat, "one", "a long answer to the first question");
    enter(&mut chat, "two");
    chat.handle(full());
    enter(&mut chat, "d");
    chat.handle(answer("second", StopReason::EndOfTurn, 10));
    enter(&mut chat, "/edit");
    assert_eq!(texts(&request(&enter(&mut chat, "three")).messages), ["u:three"]);
    chat.handle(answer("", StopReason::Cancelled, 10));
    assert_eq!(texts(&request(&enter(&mut chat, "four")).messages), ["u:two", "a:second", "u:four"]);
}

#[test]
fn an_empty_conversation_does_not_replace_a_saved_one() {
    let mut chat = chat();
    chat.keep_conversations();
    turn(&mut chat, "one", "first");
    let kept = |effects: &[ChatEffect]| effects.iter().any(|effect| matches!(effect, ChatEffect::Keep(_)));
    let effects = enter(&mut chat, "/clear");
    assert!(!kept(&effects) && said(&effects).contains("/sessions has the old one"), "{effects:?}");
    enter(&mut chat, "two");
    assert!(kept(&chat.handle(answer("second", StopReason::EndOfTurn, 10))));
    assert!(!kept(&enter(&mut chat, "/undo")));
    assert!(!said(&enter(&mut chat, "/clear")).contains("/sessions has"), "there is nothing new");
}

#[test]
fn a_failed_save_is_repeated() {
    let mut chat = chat();
    chat.keep_conversations();
    let kept = |effects: &[ChatEffect]| effects.iter().any(|effect| matches!(effect, ChatEffect::Keep(_)));
    let full = || ChatEvent::File(FileEvent::Kept(Err("last.json: no space".into())));
    let fine = || ChatEvent::File(FileEvent::Kept(Ok(())));
    enter(&mut chat, "one");
    assert!(kept(&chat.handle(answer("first", StopReason::EndOfTurn, 10))));
    assert_eq!(chat.handle(fine()), [], "success is not reported");
    assert!(chat.leave("").is_none(), "it is saved");
    assert!(said(&chat.handle(full())).contains("not saved for --continue: last.json: no space"));
    enter(&mut chat, "two");
    assert!(kept(&chat.handle(answer("second", StopReason::EndOfTurn, 10))));
    assert_eq!(chat.handle(full()), [], "it is reported once");
    assert!(matches!(chat.leave(""), Some(ChatEffect::Keep(_))), "quitting is another attempt");
    assert!(said(&chat.handle(fine())).contains("saved for --continue again"));
    assert!(chat.leave("").is_none());
}

#[test]
fn a_given_system_prompt_stays_and_a_loaded_file_brings_its_own() {
    let saved = |system: Option<&str>| {
        let turns = vec![Turn::new(Speaker::User, "one"), Turn::new(Speaker::Assistant, "first")];
        transcript::Transcript::new("m", system.map(String::from), turns).to_json()
    };
    let last = |chat: &mut Chat, system| {
        said(&chat.handle(ChatEvent::File(FileEvent::Last {
            path: "last".into(),
            text: saved(system),
            shared: false,
        })))
    };
    let load = |chat: &mut Chat, system| {
        let read = FileEvent::Read { path: "x".into(), result: Ok(saved(system)) };
        said(&chat.handle(ChatEvent::File(read)))
    };
    for own in [Some("Old."), None] {
        let mut chat = chat();
        enter(&mut chat, "/system New.");
        assert!(last(&mut chat, own).contains("the one given now"));
        assert_eq!(texts(&request(&enter(&mut chat, "two")).messages)[0], "s:New.");
    }
    let mut other = chat();
    assert!(!last(&mut other, Some("Old.")).contains("system prompt"));
    assert_eq!(texts(&request(&enter(&mut other, "two")).messages)[0], "s:Old.");
    other.handle(answer("second", StopReason::EndOfTurn, 10));
    assert!(load(&mut other, Some("Third.")).contains("own system prompt replaces the previous one"));
    assert!(load(&mut other, None).contains("has no system prompt; the previous one was removed"));
    assert!(said(&enter(&mut other, "/system")).contains("none"));
    assert!(!load(&mut other, None).contains("system prompt"));
}

#[test]
fn characters_that_the_model_cannot_see_are_named() {
    let facts = Facts { unspellable: vec![0xf0], ..Facts::default() };
    let mut chat = Chat::new(facts, GenerateParams::default(), None);
    let text = said(&enter(&mut chat, "a \u{1f600} and a \u{1f600}"));
    assert!(text.contains("2 characters have no token") && text.contains("does not see"), "{text}");
    chat.handle(answer("ok", StopReason::EndOfTurn, 10));
    assert_eq!(said(&enter(&mut chat, "plain text")), "");
}

/// What was decided about a full context holds after `--continue`. A file of `/save` gives everything back.
#[test]
fn what_the_model_no_longer_sees_is_remembered_with_the_conversation() {
    for (letter, seen) in
        [("d", "u:two"), ("s", "u:(Summary of the earlier conversation: all is well)\n\ntwo")]
    {
        let mut first = chat();
        first.keep_conversations();
        turn(&mut first, "one", "a long answer to the first question");
        turn(&mut first, "two", "ok");
        enter(&mut first, "three");
        first.handle(full());
        enter(&mut first, letter);
        if letter == "s" {
            first.handle(answer("all is well", StopReason::EndOfTurn, 10));
        }
        let effects = first.handle(answer("third", StopReason::EndOfTurn, 10));
        let kept = effects.iter().find_map(|effect| match effect {
            ChatEffect::Keep(text) => Some(text.clone()),
            _ => None,
        });
        let text = kept.expect("the answer is saved");
        let mut second = chat();
        let last = FileEvent::Last { path: "last".into(), text: text.clone(), shared: false };
        let told = said(&second.handle(ChatEvent::File(last)));
        assert!(told.contains("As before") && told.contains("the 2 oldest messages"), "{told}");
        assert_eq!(second.turns(), first.turns(), "all turns are there");
        let asked = texts(&request(&enter(&mut second, "four")).messages);
        assert_eq!(asked, [seen, "a:ok", "u:three", "a:third", "u:four"]);
        let saved = enter(&mut second, "/save x.json");
        assert!(
            matches!(&saved[..], [ChatEffect::Write { text, .. }] if !text.contains("unseen")),
            "{saved:?}"
        );
        // A number that was not written by this program hides nothing.
        for wrong in ["1", "6", "1000"] {
            let text = text.replace("\"messages\": 2", &format!("\"messages\": {wrong}"));
            let mut other = chat();
            let last = FileEvent::Last { path: "last".into(), text, shared: false };
            assert!(!said(&other.handle(ChatEvent::File(last))).contains("As before"));
            assert_eq!(request(&enter(&mut other, "four")).messages.len(), 7);
        }
    }
}
