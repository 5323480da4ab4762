//! Attached files, and the context meter.

use super::*;
use crate::chat::{AttachError, Attachment, FileEvent};

fn read(result: Result<Attachment, AttachError>) -> ScreenEvent {
    ScreenEvent::Chat(ChatEvent::File(FileEvent::Attached { path: "a.txt".into(), result }))
}

fn file(text: &str, tokens: usize) -> Attachment {
    Attachment { name: "a.txt".into(), text: text.into(), tokens }
}

#[test]
fn attached_files_are_shown() {
    let mut person = Person::new();
    let effects = person.enter("/file a.txt");
    assert_eq!(
        effects,
        [ScreenEffect::Chat(ChatEffect::Attach { path: "a.txt".into(), limit: 1000, mention: false })]
    );
    // The model gets control characters unchanged.
    person.see(read(Ok(file("x ``` \u{1b}[2J y", 310))));
    person.shows("attached: a.txt (310 tokens)");
    let effects = person.enter("what?");
    assert_eq!(request(&effects).messages[0].content, "File a.txt:\n````\nx ``` \u{1b}[2J y\n````\n\nwhat?");
    person.hides("attached: a.txt");
    person.shows("what?\n  + a.txt (12 B, 310 tokens)");
    person.hides("x ```");
    person.end("that", StopReason::EndOfTurn);
    let farewell: Vec<_> = person.screen.farewell(80, false).iter().map(ToString::to_string).collect();
    assert_eq!(farewell[..2], ["\u{203a} what?", "  + a.txt (12 B, 310 tokens)"]);
    let effects = person.alt('r');
    assert!(request(&effects).messages[0].content.contains("[2J"), "the file stays with its question");
}

#[test]
fn an_edited_question_keeps_its_files_unless_they_are_detached() {
    let mut person = Person::new();
    person.see(read(Ok(file("text", 3))));
    person.enter("what?");
    person.end("that", StopReason::EndOfTurn);
    person.see(read(Ok(Attachment { name: "b.txt".into(), ..file("other", 3) })));
    person.alt('e');
    assert_eq!(person.text(), "what?");
    person.now += MESSAGE_TIME;
    person.see(ScreenEvent::Tick);
    person.shows("editing the last message and its file");
    person.key(KeyCode::Esc);
    person.now += MESSAGE_TIME;
    person.see(ScreenEvent::Tick);
    person.shows("attached: b.txt");
    person.alt('e');
    person.write("!");
    let effects = person.key(KeyCode::Enter);
    assert_eq!(request(&effects).messages[0].content, "File a.txt:\n```\ntext\n```\n\nwhat?!");
    person.end("that", StopReason::EndOfTurn);
    person.now += MESSAGE_TIME;
    person.see(ScreenEvent::Tick);
    person.shows("attached: b.txt");
    person.alt('e');
    let written = person.text().to_owned();
    person.control('u');
    person.enter("/file off a.txt");
    person.shows("Detached a.txt.");
    person.write(&written);
    let effects = person.key(KeyCode::Enter);
    assert_eq!(request(&effects).messages[0].content, "what?!");
}

#[test]
fn a_question_that_waits_for_its_file_can_be_taken_back() {
    let mut person = Person::new();
    person.enter("/file a.txt");
    assert_eq!(person.enter("what?"), []);
    person.shows("when the attached file is read");
    assert_eq!(person.control('c'), []);
    assert_eq!(person.text(), "what?");
    person.shows("was not sent");
    assert_eq!(person.see(read(Ok(file("text", 3)))), []);
    person.shows("Attached to the next message: a.txt");
}

#[test]
fn the_meter_shows_the_current_conversation() {
    let mut person = Person::new();
    person.shows("ctx ?");
    let effects = person.screen.open(None);
    assert_eq!(person.without_counts(effects), []);
    person.shows(" 0% ");
    person.turn("one", "two");
    person.shows(" 5% ");
    assert!(person.counts.is_empty(), "the model has counted");
    person.turn("three", "four");
    person.alt('u');
    person.shows("ctx ?");
    person.key(KeyCode::Char('x'));
    person.see(ScreenEvent::Tick);
    assert_eq!(person.counts.len(), 1, "once for each change");
    person.count(230);
    person.shows(" 23% ");
    person.control('u');
    person.enter("/system Be brief.");
    let late = person.counts.pop().unwrap();
    person.enter("/clear");
    person.see(ScreenEvent::Chat(ChatEvent::Counted { number: late, tokens: Some(900) }));
    person.shows("ctx ?");
    person.count(120);
    person.shows(" 12% ");
    let text = chat::transcript::Transcript::new(
        "tiny.gguf",
        None,
        vec![chat::Turn::new(moelten_loader::text::chat::Speaker::User, "hi")],
    );
    let loaded = FileEvent::Read { path: "x.json".into(), result: Ok(text.to_json()) };
    let effects = person.screen.open(Some(loaded));
    person.without_counts(effects);
    person.shows("ctx ?");
    person.count(990);
    person.shows(" 99% ");
}
