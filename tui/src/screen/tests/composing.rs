//! Keys and pastes that change the composed text.

use super::*;

#[test]
fn new_lines_and_pastes_are_part_of_one_question() {
    let mut person = Person::new();
    person.write("one");
    person.control('j');
    person.write("two");
    person.press(KeyCode::Enter, ALT);
    person.press(KeyCode::Enter, KeyModifiers::SHIFT);
    person.write("three\\");
    person.key(KeyCode::Enter);
    assert_eq!(person.text(), "one\ntwo\n\nthree\n");
    let lines: Vec<_> = (0..200).map(|i| format!("line {i}")).collect();
    person.see(ScreenEvent::Paste(lines.join("\r\n")));
    let effects = person.key(KeyCode::Enter);
    let content = &request(&effects).messages[0].content;
    assert_eq!(content.lines().count(), 4 + 200);
    assert!(content.ends_with("line 199"));
}

#[test]
fn control_characters_are_removed_from_a_paste_with_a_message() {
    let mut person = Person::new();
    person.see(ScreenEvent::Paste("a\u{1b}[31mb\u{0}c".into()));
    assert_eq!(person.text(), "abc");
    person.shows("control characters were removed from the pasted text");
}

#[test]
fn the_history_can_be_browsed_and_searched() {
    let mut person = Person::new();
    person.write("draft");
    person.key(KeyCode::Up);
    assert_eq!(person.text(), "/show");
    person.key(KeyCode::Up);
    person.key(KeyCode::Up);
    assert_eq!(person.text(), "older question");
    person.key(KeyCode::Down);
    person.key(KeyCode::Down);
    assert_eq!(person.text(), "draft");
    person.control('r');
    person.write("old");
    person.shows("history: old");
    assert_eq!(person.text(), "older question");
    person.key(KeyCode::Esc);
    assert_eq!(person.text(), "draft");
    person.control('r');
    person.write("old");
    person.key(KeyCode::Enter);
    person.key(KeyCode::Enter);
    assert_eq!(person.turns(), ["older question"]);
}

#[test]
fn entries_go_into_the_history() {
    let mut person = Person::new();
    person.write("new question");
    assert_eq!(person.key(KeyCode::Enter)[0], ScreenEffect::Remember("new question".into()));
    person.key(KeyCode::Up);
    assert_eq!(person.text(), "new question");
}

#[test]
fn tab_completes_commands_and_asks_for_files() {
    let mut person = Person::new();
    person.write("/q");
    person.key(KeyCode::Tab);
    assert_eq!(person.text(), "/quit ");
    person.control('u');
    person.write("/load ta");
    let asked = CompletionRequest { text: "/load ta".into(), from: 6, escaped: false, insert: true };
    assert_eq!(person.key(KeyCode::Tab), [ScreenEffect::Complete(asked.clone())]);
    let found = |names: &[&str]| ScreenEvent::Files {
        request: asked.clone(),
        found: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    person.see(found(&["talk.json", "tale.json"]));
    assert_eq!(person.text(), "/load tal");
    person.see(found(&["talk.json"]));
    assert_eq!(person.text(), "/load tal", "the answer came too late");
    person.control('u');
    person.write("ta");
    person.see(found(&["talk.json"]));
    assert_eq!(person.text(), "ta", "the answer is for another text with the same end");
    person.control('u');
    person.write("/load ta");
    person.key(KeyCode::Tab);
    let many: Vec<_> = (0..50).map(|i| format!("ta{i}.json")).collect();
    person.see(found(&many.iter().map(String::as_str).collect::<Vec<_>>()));
    person.shows("> ta0.json");
    person.shows("  ta7.json");
    person.shows("1 of 50; Enter accepts");
}

#[test]
fn the_external_editor_changes_the_text() {
    for keys in [&[('g', CONTROL)][..], &[('x', CONTROL), ('e', CONTROL)]] {
        let mut person = Person::new();
        person.write("draft");
        let mut effects = Vec::new();
        keys.iter().for_each(|(c, modifiers)| effects = person.press(KeyCode::Char(*c), *modifiers));
        assert_eq!(effects, [ScreenEffect::Editor("draft".into())]);
        person.see(ScreenEvent::Edited(Ok("better\nthan before\n".into())));
        assert_eq!(person.text(), "better\nthan before");
        person.see(ScreenEvent::Edited(Err("vi ended badly".into())));
        person.shows("vi ended badly");
        assert_eq!(person.text(), "better\nthan before");
    }
}

#[test]
fn a_slip_after_ctrl_x_writes_nothing_and_a_letter_does() {
    let mut person = Person::new();
    person.control('x');
    person.control('a');
    person.write("b");
    person.control('x');
    person.write("c");
    person.key(KeyCode::Home);
    person.control('x');
    person.key(KeyCode::Delete);
    assert_eq!(person.text(), "c");
}

#[test]
fn releases_of_keys_are_not_keys() {
    let mut person = Person::new();
    let mut key = KeyEvent::new(KeyCode::Char('a'), KeyModifiers::NONE);
    key.kind = crossterm::event::KeyEventKind::Release;
    person.see(ScreenEvent::Key(key));
    assert_eq!(person.text(), "");
}
