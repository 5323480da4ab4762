//! What is being written survives whatever comes in between.

use super::*;
use crate::backend::{Before, NotSwitched};
use crate::chat::{Attachment, FileEvent};

fn read(name: &str) -> Event {
    let file = Attachment { name: name.into(), text: "text".into(), tokens: 3 };
    Event::Chat(chat::Event::File(FileEvent::Attached {
        path: name.into(),
        result: Ok(file),
        replaced: false,
    }))
}

#[test]
fn a_draft_comes_back_when_the_last_question_is_no_longer_written_anew() {
    let ends: [fn(&mut Person) -> Vec<Effect>; 4] = [
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
            assert_eq!(person.text(), "one", "and it is still the draft that comes back");
            end(&mut person);
            assert_eq!(person.text(), "a draft");
            person.write("X");
            assert_eq!(person.text(), "a drafXt", "with its cursor");
            assert!(!person.screen.chat.editing());
        }
    }
}

#[test]
fn nothing_written_stays_nothing_when_an_edit_is_given_up() {
    let mut person = Person::new();
    person.turn("one", "two");
    person.alt('e');
    person.write(" and more");
    // It is taken back, and with it what was to replace it.
    person.alt('u');
    assert_eq!((person.text(), person.turns().len()), ("", 0));
}

#[test]
fn a_draft_below_an_older_text_comes_back_too() {
    let mut person = Person::new();
    person.turn("one", "two");
    person.write("a draft");
    person.key(KeyCode::Up);
    person.alt('e');
    person.key(KeyCode::Down);
    assert_eq!(person.text(), "one", "that is for what was written before");
    person.key(KeyCode::Esc);
    assert_eq!(person.text(), "one", "which was the same text by chance");
    person.key(KeyCode::Down);
    assert_eq!(person.text(), "a draft");
}

#[test]
fn a_question_that_waits_is_not_replaced_by_another() {
    let mut person = Person::new();
    person.enter("/file a.txt");
    person.enter("one");
    person.shows("reading the file beside the question");
    assert_eq!(person.enter("two"), []);
    assert_eq!(person.text(), "two", "it is not lost");
    assert!(request(&person.see(read("a.txt"))).messages[0].content.ends_with("one"));
    assert_eq!(person.text(), "two");
}

#[test]
fn an_edit_that_waits_for_its_file_can_be_taken_back_and_given_up() {
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
    person.now += REMARK;
    person.see(Event::Tick);
    person.shows("with a.txt");
    // One that is sent at last leaves alone what was begun meanwhile.
    person.alt('e');
    person.control('u');
    person.enter("/file b.txt");
    person.enter("anew");
    person.write("begun");
    assert!(request(&person.see(read("b.txt"))).messages[0].content.ends_with("anew"));
    assert_eq!(person.text(), "begun");
    person.shows("What you were writing before is one Up away.");
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
fn the_experts_begin_anew_with_a_model_that_was_opened_again() {
    for (before, shown) in [(Before::Open, true), (Before::OpenedAgain, false)] {
        let mut person = Person::new();
        let mut map = ExpertMap::default();
        map.memory.owned_bytes = Some(123_000_000);
        person.see(Event::Experts(Box::new(map)));
        person.shows("\u{b7} RAM ");
        person.enter("/model x.gguf");
        let refused = NotSwitched::Refused("no".into(), before);
        person.see(Event::Chat(chat::Event::Switched(Err(refused))));
        assert_eq!(person.picture(80, 24).contains("\u{b7} RAM "), shown, "{before:?}");
    }
}

#[test]
fn a_remark_about_what_was_written_does_not_outlive_it() {
    let mut person = Person::new();
    person.turn("one", "two");
    person.alt('e');
    person.shows("Enter sends it in place of your last question, Esc leaves that as it was.");
    person.key(KeyCode::Enter);
    person.shows("preparing");
}
