//! Suggestions above the composer: commands, settings and their values, models, files.

use super::*;
use crate::chat::{AttachError, Attachment, FileEvent};

/// The rows above the composer's rule, from the first that shows a suggestion.
fn rows(person: &mut Person) -> Vec<String> {
    let picture = person.picture(80, 24);
    let lines: Vec<_> = picture.lines().map(str::to_owned).collect();
    let height = usize::from(person.screen.palette.height());
    lines[21 - height..21].to_vec()
}

fn found(text: &str, from: usize, names: &[&str]) -> ScreenEvent {
    let escaped = !text.starts_with('/');
    ScreenEvent::Files {
        request: CompletionRequest { text: text.into(), from, escaped, insert: false },
        found: names.iter().map(|name| (*name).to_owned()).collect(),
    }
}

#[test]
fn a_slash_shows_commands_with_arguments_and_help() {
    let mut person = Person::new();
    person.write("/");
    let shown = rows(&mut person);
    assert_eq!(shown.len(), 8);
    assert!(shown[0].starts_with("> /help"), "{shown:#?}");
    person.write("s");
    let shown = rows(&mut person);
    assert!(shown[0].starts_with("> /sessions [N]") && shown[0].contains("earlier"), "{shown:#?}");
    assert!(shown.iter().all(|row| row[2..].starts_with("/s")), "{shown:#?}");
    person.shows("Enter accepts");
    // It goes round at the ends.
    person.key(KeyCode::Up);
    person.key(KeyCode::Down);
    person.key(KeyCode::Down);
    person.key(KeyCode::Down);
    person.key(KeyCode::Enter);
    assert_eq!(person.text(), "", "a command without arguments that are needed is entered");
    person.shows("keep only the k likeliest tokens");
}

#[test]
fn what_needs_an_argument_goes_on() {
    let mut person = Person::new();
    person.write("/sav");
    person.key(KeyCode::Enter);
    assert_eq!(person.text(), "/save ");
    person.control('u');
    person.write("/set te");
    let shown = rows(&mut person);
    assert!(shown[0].starts_with("> temp 0.8") || shown[0].starts_with("> temp "), "{shown:#?}");
    person.key(KeyCode::Enter);
    assert_eq!(person.text(), "/set temp ");
    let shown = rows(&mut person);
    assert!(shown.iter().any(|row| row.contains("always the likeliest token")), "{shown:#?}");
    assert!(shown.iter().all(|row| !row.starts_with("> ")), "a value of one's own may follow");
    person.key(KeyCode::Down);
    person.key(KeyCode::Enter);
    assert_eq!(person.screen.chat.params().sampler.temperature, 0.0);
}

#[test]
fn what_was_typed_is_entered_as_it_is() {
    let mut person = Person::new();
    person.enter("/set temp 0.25");
    assert_eq!(person.screen.chat.params().sampler.temperature, 0.25);
    person.write("/load ta");
    person.see(found("/load ta", 6, &["talk.json"]));
    person.shows("talk.json");
    let effects = person.key(KeyCode::Enter);
    assert!(effects.contains(&ScreenEffect::Chat(ChatEffect::Read { path: "ta".into() })), "{effects:?}");
    person.write("/load ta");
    person.see(found("/load ta", 6, &["talk.json", "tables/"]));
    person.key(KeyCode::Down);
    person.key(KeyCode::Down);
    person.key(KeyCode::Enter);
    assert_eq!(person.text(), "/load tables/");
    person.see(found("/load tables/", 6, &["tables/a.json"]));
    person.key(KeyCode::Down);
    let effects = person.key(KeyCode::Enter);
    let read = ScreenEffect::Chat(ChatEffect::Read { path: "tables/a.json".into() });
    assert!(effects.contains(&read), "{effects:?}");
}

#[test]
fn esc_closes_it_and_the_history_does_not_open_it() {
    let mut person = Person::new();
    person.write("/s");
    person.key(KeyCode::Esc);
    assert_eq!(person.text(), "/s");
    person.hides("/system");
    person.write("h");
    person.shows("/show");
    person.control('u');
    person.key(KeyCode::Up);
    assert_eq!(person.text(), "/show");
    person.hides("show model, context");
    person.key(KeyCode::Up);
    assert_eq!(person.text(), "older question", "Up goes on through the history");
}

#[test]
fn models_and_files_are_suggested_for_a_model() {
    let mut person = Person::new();
    person.write("/model");
    let effects = person.key(KeyCode::Char(' '));
    assert!(effects.contains(&ScreenEffect::StartSearch), "{effects:?}");
    person.write("q");
    let entry = ModelEntry {
        name: "qwen.gguf".into(),
        place: "here".into(),
        path: Some("qwen.gguf".into()),
        bytes: None,
        kind: String::new(),
        verdict: Verdict::Stream("3 tok/s".into()),
    };
    person.see(found("/model q", 7, &["questions/"]));
    person.see(ScreenEvent::Search(SearchStep::Model(entry)));
    let shown = rows(&mut person);
    assert!(shown[0].contains("qwen.gguf") && shown[0].contains("STREAM 3 tok/s"), "{shown:#?}");
    assert!(shown[1].contains("questions/"), "{shown:#?}");
    person.key(KeyCode::Down);
    let effects = person.key(KeyCode::Enter);
    let switch = ScreenEffect::Chat(ChatEffect::Switch(Some("qwen.gguf".into())));
    assert!(effects.contains(&switch), "{effects:?}");
}

#[test]
fn a_file_that_a_question_mentions_is_attached_to_it() {
    let mut person = Person::new();
    person.write("What is in @no");
    person.see(found("What is in @no", 12, &["my notes.txt", "notes.txt"]));
    let shown = rows(&mut person);
    assert_eq!(shown, ["  notes.txt"], "as far as it was typed");
    person.key(KeyCode::Down);
    person.key(KeyCode::Enter);
    assert_eq!(person.text(), "What is in @notes.txt ");
    person.write("and @bob, @gone.txt?");
    let effects = person.key(KeyCode::Enter);
    let asked: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            ScreenEffect::Chat(ChatEffect::Attach { path, mention: true, .. }) => Some(path.to_str()?),
            _ => None,
        })
        .collect();
    assert_eq!(asked, ["notes.txt", "bob", "gone.txt"]);
    let read = |path: &str, result| {
        ScreenEvent::Chat(ChatEvent::File(FileEvent::Attached { path: path.into(), result }))
    };
    let file = Attachment { name: "notes.txt".into(), text: "Rex".into(), tokens: 1 };
    person.see(read("notes.txt", Ok(file)));
    person.see(read("bob", Err(AttachError::Missing)));
    let effects = person.see(read("gone.txt", Err(AttachError::Missing)));
    assert_eq!(
        request(&effects).messages[0].content,
        "File notes.txt:\n```\nRex\n```\n\nWhat is in @notes.txt and @bob, @gone.txt?"
    );
    person.shows("There is no file gone.txt, so @gone.txt is only text.");
    person.hides("no file bob");
}

#[test]
fn it_is_drawn_at_every_size() {
    for (columns, rows) in [(1, 1), (20, 5), (40, 12), (80, 24), (120, 40), (200, 50)] {
        let mut person = Person::new();
        person.write("/s");
        let picture = person.picture(columns, rows);
        assert!(columns < 20 || picture.contains("> /sessions"), "{columns} x {rows}:\n{picture}");
        (0..30).for_each(|_| drop(person.key(KeyCode::Down)));
        person.picture(columns, rows);
    }
}
