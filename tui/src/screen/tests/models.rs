//! Switching to another model: opened, chosen from the list, cancelled.

use super::*;
use crate::chat::{NotSwitched, PreviousModel, Switched};

fn switched(result: Result<&str, NotSwitched>) -> ScreenEvent {
    let model = |name: &str| {
        let facts = Facts { model: name.to_owned(), context: 1000, ..Facts::default() };
        Box::new(Switched { facts, params: GenerateParams::default() })
    };
    ScreenEvent::Chat(ChatEvent::Switched(result.map(model)))
}

#[test]
fn a_switch_succeeds_or_fails() {
    let mut person = Person::new();
    person.turn("one", "two");
    let effects = person.enter("/model other.gguf");
    assert_eq!(effects, [ScreenEffect::Chat(ChatEffect::Switch(Some("other.gguf".into())))]);
    person.shows("loading the model");
    person.see(switched(Err(NotSwitched::Refused(
        "error[E-IO-01]: no such file".into(),
        PreviousModel::Untouched,
    ))));
    person.shows("no such file. tiny.gguf is still open.");
    person.enter("/model other.gguf");
    person.see(switched(Err(NotSwitched::NothingOpen("error[E-IO-01]: no such file".into()))));
    person.shows("No model is open now; /model FILE opens one.");
    person.enter("/model other.gguf");
    person.see(switched(Ok("other.gguf")));
    person.shows("Switched to other.gguf");
    assert_eq!(request(&person.enter("three")).messages.len(), 3, "the conversation goes on");
}

#[test]
fn a_switch_can_be_cancelled() {
    for stop in [|person: &mut Person| person.control('c'), |person: &mut Person| person.key(KeyCode::Esc)] {
        let mut person = Person::new();
        person.turn("one", "two");
        person.enter("/model other.gguf");
        person.enter("a question");
        person.shows("\u{203a} a question");
        assert_eq!(person.key(KeyCode::F(3)), []);
        person.shows("Still loading the model. Ctrl-C cancels.");
        assert_eq!(stop(&mut person), [ScreenEffect::Stop]);
        assert!(person.screen.stopping(), "the driver repeats the request until the switch has stopped");
        person.now += MESSAGE_TIME;
        person.see(ScreenEvent::Tick);
        person.shows("cancelling, then loading tiny.gguf again");
        person.see(switched(Err(NotSwitched::Stopped(PreviousModel::Reopened))));
        assert!(!person.screen.stopping());
        person.shows("Cancelled. tiny.gguf is still open.");
        assert_eq!(person.text(), "a question", "what waited for the other model is not sent to this one");
        person.control('u');
        assert_eq!(request(&person.enter("three")).messages.len(), 3);
    }
    let mut person = Person::new();
    person.enter("/model other.gguf");
    person.control('c');
    assert_eq!(person.control('c'), [ScreenEffect::Quit], "a second Ctrl-C quits");
}

#[test]
fn a_model_is_chosen_from_a_list_that_fills() {
    let mut person = Person::new();
    assert_eq!(person.key(KeyCode::F(3)), [ScreenEffect::StartSearch]);
    let model = |name: &str| {
        let verdict = Verdict::Ram("9 tok/s".into());
        let (name, path) = (name.to_owned(), Some(name.into()));
        ScreenEvent::Search(SearchStep::Model(ModelEntry {
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
    person.see(ScreenEvent::Search(SearchStep::Done));
    person.shows("two.gguf");
    person.write("two");
    assert_eq!(
        person.key(KeyCode::Enter),
        [ScreenEffect::StopSearch, ScreenEffect::Chat(ChatEffect::Switch(Some("two.gguf".into())))]
    );
    person.see(switched(Err(NotSwitched::Refused("no".into(), PreviousModel::Untouched))));
    assert_eq!(person.enter("/model"), [ScreenEffect::StartSearch]);
    assert_eq!(person.key(KeyCode::Esc), [ScreenEffect::StopSearch]);
    person.hides("Model: ");
    person.enter("busy");
    assert_eq!(person.key(KeyCode::F(3)), []);
    person.shows("Still answering");
}
