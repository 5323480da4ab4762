//! Other models: opened, picked, given up.

use super::*;
use crate::backend::{Before, NotSwitched, Switched};
use crate::picker::{Entry, Verdict};

fn switched(result: Result<&str, NotSwitched>) -> Event {
    let model = |name: &str| {
        let facts = Facts { model: name.to_owned(), context: 1000, ..Facts::default() };
        Box::new(Switched { facts, params: GenerateParams::default() })
    };
    Event::Chat(chat::Event::Switched(result.map(model)))
}

#[test]
fn another_model_takes_over_or_does_not() {
    let mut person = Person::new();
    person.turn("one", "two");
    let effects = person.enter("/model other.gguf");
    assert_eq!(effects, [Effect::Chat(chat::Effect::Switch(Some("other.gguf".into())))]);
    person.shows("opening the model");
    person.see(switched(Err(NotSwitched::Refused("error[E-IO-01]: no such file".into(), Before::Open))));
    person.shows("no such file. tiny.gguf is open as before.");
    person.enter("/model other.gguf");
    person.see(switched(Err(NotSwitched::NothingOpen("error[E-IO-01]: no such file".into()))));
    person.shows("No model is open now; /model FILE opens one.");
    person.enter("/model other.gguf");
    person.see(switched(Ok("other.gguf")));
    person.shows("other.gguf answers from now on");
    assert_eq!(request(&person.enter("three")).messages.len(), 3, "the conversation goes on");
}

#[test]
fn the_opening_of_a_model_can_be_given_up() {
    for stop in [|person: &mut Person| person.control('c'), |person: &mut Person| person.key(KeyCode::Esc)] {
        let mut person = Person::new();
        person.turn("one", "two");
        person.enter("/model other.gguf");
        person.enter("a question");
        person.shows("That has to wait: a model is being opened; Ctrl-C stops it.");
        assert_eq!(person.key(KeyCode::F(3)), []);
        person.shows("a model is being opened");
        person.control('u');
        assert_eq!(stop(&mut person), [Effect::Stop]);
        assert!(person.screen.stopping(), "the driver repeats it until it is heard");
        person.now += REMARK;
        person.see(Event::Tick);
        person.shows("giving it up, then tiny.gguf is opened again");
        person.see(switched(Err(NotSwitched::Stopped(Before::OpenedAgain))));
        assert!(!person.screen.stopping());
        person.shows("The other model was given up. tiny.gguf is open as before.");
        assert_eq!(request(&person.enter("three")).messages.len(), 3);
    }
    let mut person = Person::new();
    person.enter("/model other.gguf");
    person.control('c');
    assert_eq!(person.control('c'), [Effect::Quit], "who does not want to wait leaves");
}

#[test]
fn a_model_is_picked_from_a_list_that_fills() {
    let mut person = Person::new();
    assert_eq!(person.key(KeyCode::F(3)), [Effect::Find]);
    let model = |name: &str| {
        let verdict = Verdict::Ram("9 tok/s".into());
        let (name, path) = (name.to_owned(), Some(name.into()));
        Event::Found(Found::Model(Entry {
            name,
            place: "here".into(),
            path,
            bytes: None,
            kind: "k".into(),
            verdict,
        }))
    };
    person.see(model("one.gguf"));
    person.see(model("two.gguf"));
    person.see(Event::Found(Found::All));
    person.shows("two.gguf");
    person.write("two");
    assert_eq!(
        person.key(KeyCode::Enter),
        [Effect::StopFinding, Effect::Chat(chat::Effect::Switch(Some("two.gguf".into())))]
    );
    person.see(switched(Err(NotSwitched::Refused("no".into(), Before::Open))));
    assert_eq!(person.enter("/model"), [Effect::Find]);
    assert_eq!(person.key(KeyCode::Esc), [Effect::StopFinding]);
    person.hides("Which model?");
    person.enter("busy");
    assert_eq!(person.key(KeyCode::F(3)), []);
    person.shows("has to wait");
}
