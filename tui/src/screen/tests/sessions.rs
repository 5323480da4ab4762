//! Earlier conversations: the list, going back with model and settings, copies.

use std::path::PathBuf;

use moelten_loader::text::chat::Speaker;

use super::*;
use crate::chat::transcript::{SavedSettings, Transcript};
use crate::chat::{FileEvent, NotSwitched, PreviousModel, SessionEntry, Switched, Turn};

fn entry(title: &str, model: &str, minutes: u64) -> SessionEntry {
    SessionEntry {
        path: PathBuf::from(format!("{title}.json")),
        title: title.into(),
        model: model.into(),
        messages: 4,
        age: Duration::from_secs(60 * minutes),
        open: false,
    }
}

fn list() -> ScreenEvent {
    let mut on_screen = entry("Now", "tiny.gguf", 0);
    on_screen.open = true;
    let all = vec![
        on_screen,
        entry("The moons of Jupiter", "qwen3-30b.gguf", 5),
        entry("A dog", "tiny.gguf", 3000),
    ];
    ScreenEvent::Chat(ChatEvent::File(FileEvent::Sessions(all)))
}

fn saved(file: Option<&str>) -> String {
    let turns = vec![Turn::new(Speaker::User, "Which moon?"), Turn::new(Speaker::Assistant, "Io.")];
    let mut transcript = Transcript::new("qwen3-30b.gguf", Some("Be brief.".into()), turns);
    transcript.file = file.map(str::to_owned);
    let values = [("temp".to_owned(), "0.25".to_owned())].into();
    transcript.settings = Some(SavedSettings { values, stop: vec!["END".into()], think: true });
    transcript.to_json()
}

fn resumed(file: Option<&str>) -> ScreenEvent {
    let result = Ok((saved(file), false));
    ScreenEvent::Chat(ChatEvent::File(FileEvent::Resumed { path: "x.json".into(), result }))
}

fn switched() -> Switched {
    let facts = Facts {
        model: "qwen3-30b.gguf".into(),
        path: Some("/m/q.gguf".into()),
        supports_system: true,
        ..Facts::default()
    };
    Switched { facts, params: GenerateParams::default() }
}

#[test]
fn the_list_is_searched_and_a_conversation_opened() {
    let mut person = Person::new();
    assert_eq!(person.enter("/sessions"), [ScreenEffect::Chat(ChatEffect::Sessions)]);
    person.shows("reading ...");
    person.see(list());
    let picture = person.picture(80, 24);
    let rows: Vec<_> = picture.lines().take(4).collect();
    assert_eq!(
        rows,
        [
            "Conversation: ▏",
            "> Now                        tiny.gguf                  4 messages     on screen",
            "  The moons of Jupiter       qwen3-30b.gguf             4 messages     5 min ago",
            "  A dog                      tiny.gguf                  4 messages    2 days ago",
        ]
    );
    person.write("moon qwen");
    person.hides("A dog");
    let effects = person.key(KeyCode::Enter);
    let path = PathBuf::from("The moons of Jupiter.json");
    assert_eq!(effects, [ScreenEffect::Chat(ChatEffect::Resume { path })]);
    for (columns, rows) in [(1, 1), (20, 5), (40, 12), (120, 40), (200, 50)] {
        person.enter("/sessions");
        person.see(list());
        person.picture(columns, rows);
        person.key(KeyCode::Esc);
    }
}

#[test]
fn deleting_takes_two_presses() {
    let mut person = Person::new();
    person.enter("/resume");
    person.see(list());
    person.key(KeyCode::Down);
    assert_eq!(person.key(KeyCode::Delete), []);
    person.shows("Delete again deletes it for good");
    person.key(KeyCode::Down);
    person.hides("Delete again");
    person.key(KeyCode::Delete);
    let path = PathBuf::from("A dog.json");
    assert_eq!(person.key(KeyCode::Delete), [ScreenEffect::Chat(ChatEffect::Delete { path: path.clone() })]);
    let deleted =
        |result| ScreenEvent::Chat(ChatEvent::File(FileEvent::Deleted { path: path.clone(), result }));
    person.see(deleted(Err("another chat has it open".into())));
    person.shows("not deleted: another chat has it open");
    person.see(deleted(Ok(())));
    person.hides("A dog");
    person.shows("> The moons of Jupiter");
}

#[test]
fn a_conversation_comes_back_with_its_model_and_settings() {
    let mut person = Person::new();
    person.turn("one", "two");
    let effects = person.see(resumed(Some("/m/q.gguf")));
    let switch = ScreenEffect::Chat(ChatEffect::Switch(Some("/m/q.gguf".into())));
    assert!(effects.contains(&switch), "{effects:?}");
    assert_eq!(person.turns(), ["one", "two"], "until the model is there");
    person.see(ScreenEvent::Chat(ChatEvent::Switched(Ok(Box::new(switched())))));
    assert_eq!(person.turns(), ["Which moon?", "Io."]);
    person.shows("Io.");
    let params = person.screen.chat.params();
    assert_eq!((params.sampler.temperature, params.stop.as_slice()), (0.25, &["END".to_owned()][..]));
    // With the model that is open already, it is there at once.
    person.enter("/clear");
    let effects = person.see(resumed(Some("/m/q.gguf")));
    assert!(!effects.contains(&switch), "{effects:?}");
    assert_eq!(person.turns(), ["Which moon?", "Io."]);
}

#[test]
fn without_its_model_a_conversation_opens_with_the_present_one() {
    let mut person = Person::new();
    person.see(resumed(Some("/gone.gguf")));
    let refused = NotSwitched::Refused("/gone.gguf: no such file".into(), PreviousModel::Untouched);
    person.see(ScreenEvent::Chat(ChatEvent::Switched(Err(refused))));
    assert_eq!(person.turns(), ["Which moon?", "Io."]);
    person.shows("tiny.gguf is still open");
    person.shows("This conversation was with qwen3-30b.gguf");
}

#[test]
fn a_copy_and_a_new_conversation_get_files_of_their_own() {
    let mut person = Person::new();
    assert_eq!(person.enter("/fork"), []);
    person.shows("nothing to copy yet");
    person.turn("one", "two");
    let effects = person.enter("/fork");
    let [ScreenEffect::Chat(ChatEffect::NewFile), ScreenEffect::Chat(ChatEffect::Keep(kept))] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    assert!(kept.contains("\"title\": \"one\"") && kept.contains("\"file\": \"built-in\""), "{kept}");
    assert_eq!(person.enter("/clear")[0], ScreenEffect::Chat(ChatEffect::NewFile));
    person.shows("/sessions has the");
}

#[test]
fn settings_of_the_command_line_stay_when_a_conversation_is_continued() {
    let mut person = Person::new();
    person.screen.chat.fix_settings(&["temp"]);
    let before = person.screen.chat.params().sampler.temperature;
    let last = FileEvent::Last { path: "x.json".into(), text: saved(None), shared: true };
    person.screen.open(Some(last));
    let params = person.screen.chat.params();
    assert_eq!((params.sampler.temperature, params.stop.len()), (before, 1));
    person.shows("goes on with a copy");
}
