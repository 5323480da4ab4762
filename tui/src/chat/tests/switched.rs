//! Figures and settings that belong to a model, when another one is asked for or when it is stopped early.

use super::*;
use crate::backend::Before;

fn gives_back(chat: &mut Chat, bytes: u64) -> String {
    enter(chat, "again");
    let cache = CacheStats { given_back_bytes: bytes, ..CacheStats::default() };
    let stats = GenerateStats { prompt_tokens: 5, cache: Some(cache), ..GenerateStats::default() };
    let answer = Answer { text: "yes".into(), ids: vec![1], reason: StopReason::EndOfTurn, stats };
    said(&chat.handle(Event::Answered(Box::new(answer), at(0))))
}

fn not_switched(chat: &mut Chat, why: NotSwitched) -> Vec<Effect> {
    enter(chat, "/model x");
    chat.handle(Event::Switched(Err(why)))
}

#[test]
fn a_model_that_was_opened_again_counts_what_it_gives_back_from_nothing() {
    for (why, again) in [
        (NotSwitched::Refused("no".into(), Before::Open), false),
        (NotSwitched::Stopped(Before::Open), false),
        (NotSwitched::Refused("no".into(), Before::OpenedAgain), true),
        (NotSwitched::Stopped(Before::OpenedAgain), true),
        (NotSwitched::NothingOpen("no".into()), true),
    ] {
        let mut chat = chat();
        assert!(gives_back(&mut chat, 5_000_000).contains("gave 5.0 MB back"));
        not_switched(&mut chat, why.clone());
        assert_eq!(gives_back(&mut chat, 1_000_000).contains("gave 1.0 MB back"), again, "{why:?}");
    }
}

#[test]
fn a_prompt_that_was_stopped_before_it_was_known_changes_no_figures() {
    let mut chat = chat();
    gives_back(&mut chat, 5_000_000);
    let stats = said(&enter(&mut chat, "/stats"));
    enter(&mut chat, "/undo");
    enter(&mut chat, "again");
    let nothing = GenerateStats { context_size: 100, ..GenerateStats::default() };
    let stopped = Answer { text: String::new(), ids: vec![], reason: StopReason::Cancelled, stats: nothing };
    chat.handle(Event::Answered(Box::new(stopped), at(0)));
    let line = |text: &str| text.lines().skip(1).map(String::from).collect::<Vec<_>>();
    assert_eq!(line(&said(&enter(&mut chat, "/stats"))), line(&stats));
    assert!(!gives_back(&mut chat, 5_000_000).contains("gave"), "that is known");
}

#[test]
fn a_model_that_is_refused_leaves_the_question_what_to_drop() {
    let mut chat = chat();
    turn(&mut chat, "one", "a long answer to the first question");
    enter(&mut chat, "two");
    let failure = Failure::ContextFull { tokens: 120, context: 100 };
    chat.handle(Event::Failed { shown: String::new(), failure });
    enter(&mut chat, "/model x");
    assert_eq!(chat.asking(), None, "not meanwhile");
    assert!(said(&enter(&mut chat, "d")).contains("has to wait"));
    let refused = NotSwitched::Refused("no".into(), Before::Open);
    assert!(chat.handle(Event::Switched(Err(refused))).contains(&Effect::Ask));
    assert!(chat.asking().is_some());
    assert_eq!(texts(&request(&enter(&mut chat, "d")).messages), ["u:two"]);
    chat.handle(answer("", StopReason::ContextFull, 100));
    assert!(chat.asking().is_none(), "there is nothing to drop");
}

#[test]
fn thoughts_that_are_not_seen_again_are_not_counted() {
    let facts = Facts { context: 100, ..Facts::default() };
    let mut chat = Chat::new(facts, GenerateParams::default(), None);
    enter(&mut chat, "one");
    let effects = chat.handle(answer("<think>a long thought</think>\n\nYes.", StopReason::EndOfTurn, 90));
    assert!(!said(&effects).contains("are left"), "{effects:?}");
    let (number, messages) = count(&effects);
    assert_eq!((chat.context_used(), messages), (None, vec!["u:one".to_owned(), "a:Yes.".to_owned()]));
    let few = chat.handle(Event::Counted { number, tokens: Some(20) });
    assert_eq!((chat.context_used(), said(&few).as_str()), (Some(20), ""));
    enter(&mut chat, "/more");
    let number = count(&chat.handle(answer(" And no.", StopReason::EndOfTurn, 95))).0;
    let many = said(&chat.handle(Event::Counted { number, tokens: Some(85) }));
    assert!(many.contains("15 tokens of the context are left"), "{many}");
    // What is too long already was said to be.
    enter(&mut chat, "/clear");
    enter(&mut chat, "far too long");
    let failure = Failure::ContextFull { tokens: 120, context: 100 };
    let number = count(&chat.handle(Event::Failed { shown: String::new(), failure })).0;
    assert_eq!(chat.handle(Event::Counted { number, tokens: Some(118) }), []);
}

#[test]
fn the_key_for_thoughts_changes_what_is_shown_and_not_what_is_asked() {
    let facts = Facts { can_skip_thinking: true, ..Facts::default() };
    let mut chat = Chat::new(facts, GenerateParams::default(), None);
    let thinks = |chat: &mut Chat| {
        let thinks = request(&enter(chat, "one")).think;
        chat.handle(answer("yes", StopReason::EndOfTurn, 10));
        thinks
    };
    enter(&mut chat, "/think off");
    assert!(!thinks(&mut chat));
    for shown in [true, false] {
        let words = said(&enter(&mut chat, "/think"));
        assert!(words.contains("asked not to think, as before"), "{words}");
        assert_eq!((chat.thoughts_shown(), thinks(&mut chat)), (shown, false));
    }
    assert!(said(&enter(&mut chat, "/think show")).contains("may think again"));
    assert!(chat.thoughts_shown() && thinks(&mut chat));
    assert_eq!(said(&enter(&mut chat, "/think hide")), "Thoughts are folded to a line.");
}
