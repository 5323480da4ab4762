//! The composed text survives edits, waiting files and recalled entries.

use super::*;
use crate::chat::{Attachment, FileEvent};
use crate::chat::{NotSwitched, PreviousModel};

fn read(name: &str) -> ScreenEvent {
    let file = Attachment { name: name.into(), text: "text".into(), tokens: 3 };
    ScreenEvent::Chat(ChatEvent::File(FileEvent::Attached { path: name.into(), result: Ok(file) }))
}

#[test]
fn a_draft_comes_back_after_an_edit() {
    let ends: [fn(&mut Person) -> Vec<ScreenEffect>; 4] = [
        |person| person.key(KeyCode::Esc),
        |person| person.control('c'),
        // Another answer to the question as it was.
        |person| person.alt('r'),
        |person| person.key(KeyCode::Enter),
    ];
    for end in ends {
        for written in ["", "!"] {
            let mut person = Person::new();
            person.turn("one", "two");
            person.write("a draft");
            person.key(KeyCode::Left);
            person.alt('e');
            assert_eq!(person.text(), "one");
            person.write(written);
            person.alt('e');
            assert_eq!(person.text(), "one", "the first draft is kept");
            end(&mut person);
            assert_eq!(person.text(), "a draft");
            person.write("X");
            assert_eq!(person.text(), "a drafXt", "with its cursor");
            assert!(!person.screen.chat.editing());
        }
    }
}

#[test]
fn an_empty_draft_stays_empty_when_an_edit_is_cancelled() {
    let mut person = Person::new();
    person.turn("one", "two");
    person.alt('e');
    person.write(" and more");
    // Removing the turn cancels the edit.
    person.alt('u');
    assert_eq!((person.text(), person.turns().len()), ("", 0));
}

#[test]
fn a_draft_below_a_recalled_entry_comes_back_too() {
    let mut person = Person::new();
    person.turn("one", "two");
    person.write("a draft");
    person.key(KeyCode::Up);
    person.alt('e');
    person.key(KeyCode::Down);
    assert_eq!(person.text(), "one", "the position in the history was taken out");
    person.key(KeyCode::Esc);
    assert_eq!(person.text(), "one", "the recalled entry, which happens to be the same text");
    person.key(KeyCode::Down);
    assert_eq!(person.text(), "a draft");
}

#[test]
fn a_question_that_waits_is_not_replaced_by_another() {
    let mut person = Person::new();
    person.enter("/file a.txt");
    person.enter("one");
    person.shows("reading the attached file");
    assert_eq!(person.enter("two"), []);
    person.shows("\u{203a} two");
    assert!(request(&person.see(read("a.txt"))).messages[0].content.ends_with("one"));
    let effects = person.end("ok", StopReason::EndOfTurn);
    assert_eq!(request(&effects).messages.last().unwrap().content, "two", "it is not lost");
}

#[test]
fn an_edit_that_waits_for_its_file_can_be_taken_back_and_cancelled() {
    let mut person = Person::new();
    person.turn("one", "two");
    person.write("a draft");
    person.alt('e');
    person.control('u');
    person.enter("/file a.txt");
    person.enter("anew");
    person.key(KeyCode::Esc);
    assert_eq!(person.text(), "anew");
    assert!(person.screen.chat.editing());
    person.key(KeyCode::Esc);
    assert_eq!((person.text(), person.screen.chat.editing()), ("a draft", false));
    person.see(read("a.txt"));
    person.now += MESSAGE_TIME;
    person.see(ScreenEvent::Tick);
    person.shows("attached: a.txt");
    // When the edited question is sent at last, a text that was begun meanwhile stays.
    person.alt('e');
    person.control('u');
    person.enter("/file b.txt");
    person.enter("anew");
    person.write("begun");
    assert!(request(&person.see(read("b.txt"))).messages[0].content.ends_with("anew"));
    assert_eq!(person.text(), "begun");
    person.shows("Press Up for the text that you were writing before.");
    person.control('u');
    person.key(KeyCode::Up);
    assert_eq!(person.text(), "a draft");
}

#[test]
fn an_empty_draft_leaves_nothing_to_recall() {
    let mut person = Person::new();
    person.turn("one", "two");
    person.alt('e');
    person.control('u');
    person.enter("/file a.txt");
    person.enter("anew");
    person.write("begun");
    person.see(read("a.txt"));
    assert_eq!(person.text(), "begun");
    person.control('u');
    person.key(KeyCode::Up);
    assert_eq!(person.text(), "anew");
}

#[test]
fn the_experts_start_anew_with_a_reopened_model() {
    for (before, shown) in [(PreviousModel::Untouched, true), (PreviousModel::Reopened, false)] {
        let mut person = Person::new();
        let mut map = ExpertMap::default();
        map.memory.owned_bytes = Some(123_000_000);
        person.see(ScreenEvent::Experts(Box::new(map)));
        person.shows("\u{b7} RAM ");
        person.enter("/model x.gguf");
        let refused = NotSwitched::Refused("no".into(), before);
        person.see(ScreenEvent::Chat(ChatEvent::Switched(Err(refused))));
        assert_eq!(person.picture(80, 24).contains("\u{b7} RAM "), shown, "{before:?}");
    }
}

#[test]
fn a_message_about_the_composed_text_disappears_with_it() {
    let mut person = Person::new();
    person.turn("one", "two");
    person.alt('e');
    person.shows("Editing your last message: Enter resends it, Esc cancels.");
    person.key(KeyCode::Enter);
    person.shows("preparing");
}
