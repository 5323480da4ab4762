//! Counters and settings that belong to a model, across switches and cancelled switches.

use moelten_engine::api::GpuUse;

use super::*;

fn gives_back(chat: &mut Chat, bytes: u64) -> String {
    enter(chat, "again");
    let memory = MemoryUse { released_bytes: bytes, ..MemoryUse::default() };
    let stats = GenerateStats { prompt_tokens: 5, memory, ..GenerateStats::default() };
    let answer = Answer { text: "yes".into(), ids: vec![1], reason: StopReason::EndOfTurn, stats };
    said(&chat.handle(ChatEvent::Answered(Box::new(answer), at(0))))
}

fn not_switched(chat: &mut Chat, why: NotSwitched) -> Vec<ChatEffect> {
    enter(chat, "/model x");
    chat.handle(ChatEvent::Switched(Err(why)))
}

#[test]
fn a_reopened_model_counts_returned_memory_from_zero() {
    for (why, again) in [
        (NotSwitched::Refused("no".into(), PreviousModel::Untouched), false),
        (NotSwitched::Stopped(PreviousModel::Untouched), false),
        (NotSwitched::Refused("no".into(), PreviousModel::Reopened), true),
        (NotSwitched::Stopped(PreviousModel::Reopened), true),
        (NotSwitched::NothingOpen("no".into()), true),
    ] {
        let mut chat = chat();
        assert!(gives_back(&mut chat, 5 << 20).contains("gave back 5 MiB"));
        not_switched(&mut chat, why.clone());
        assert_eq!(gives_back(&mut chat, 1 << 20).contains("gave back 1 MiB"), again, "{why:?}");
    }
}

#[test]
fn an_answer_that_was_stopped_before_it_began_changes_no_statistics() {
    let mut chat = chat();
    gives_back(&mut chat, 5 << 20);
    let stats = said(&enter(&mut chat, "/stats"));
    enter(&mut chat, "/undo");
    enter(&mut chat, "again");
    let nothing = GenerateStats { context_size: 100, ..GenerateStats::default() };
    let stopped = Answer { text: String::new(), ids: vec![], reason: StopReason::Cancelled, stats: nothing };
    chat.handle(ChatEvent::Answered(Box::new(stopped), at(0)));
    let line = |text: &str| text.lines().skip(1).map(String::from).collect::<Vec<_>>();
    assert_eq!(line(&said(&enter(&mut chat, "/stats"))), line(&stats));
    assert!(!gives_back(&mut chat, 5 << 20).contains("gave back"), "that was reported before");
}

#[test]
fn a_refused_switch_leaves_the_overflow_question_open() {
    let mut chat = chat();
    turn(&mut chat, "one", "a long answer to the first question");
    enter(&mut chat, "two");
    let failure = Failure::ContextFull { tokens: 120, context: 100 };
    chat.handle(ChatEvent::Failed { shown: String::new(), failure });
    enter(&mut chat, "/model x");
    assert_eq!(chat.overflow_question(), None, "not during the switch");
    assert!(said(&enter(&mut chat, "d")).contains("Still loading the model"));
    let refused = NotSwitched::Refused("no".into(), PreviousModel::Untouched);
    assert!(chat.handle(ChatEvent::Switched(Err(refused))).contains(&ChatEffect::Ask));
    assert!(chat.overflow_question().is_some());
    assert_eq!(texts(&request(&enter(&mut chat, "d")).messages), ["u:two"]);
    chat.handle(answer("", StopReason::ContextFull, 100));
    assert!(chat.overflow_question().is_none(), "there is nothing to drop");
}

#[test]
fn reasoning_that_the_model_does_not_see_again_is_not_counted() {
    let facts = Facts { context: 100, ..Facts::default() };
    let mut chat = Chat::new(facts, GenerateParams::default(), None);
    enter(&mut chat, "one");
    let effects = chat.handle(answer("<think>a long thought</think>\n\nYes.", StopReason::EndOfTurn, 90));
    assert!(!said(&effects).contains("are left"), "{effects:?}");
    let (number, messages) = count(&effects);
    assert_eq!((chat.context_used(), messages), (None, vec!["u:one".to_owned(), "a:Yes.".to_owned()]));
    let few = chat.handle(ChatEvent::Counted { number, tokens: Some(20) });
    assert_eq!((chat.context_used(), said(&few).as_str()), (Some(20), ""));
    enter(&mut chat, "/more");
    let number = count(&chat.handle(answer(" And no.", StopReason::EndOfTurn, 95))).0;
    let many = said(&chat.handle(ChatEvent::Counted { number, tokens: Some(85) }));
    assert!(many.contains("15 tokens of the context are left"), "{many}");
    // That it is too long was reported before.
    enter(&mut chat, "/clear");
    enter(&mut chat, "far too long");
    let failure = Failure::ContextFull { tokens: 120, context: 100 };
    let number = count(&chat.handle(ChatEvent::Failed { shown: String::new(), failure })).0;
    assert_eq!(chat.handle(ChatEvent::Counted { number, tokens: Some(118) }), []);
}

#[test]
fn the_key_for_reasoning_changes_what_is_shown_and_not_the_request() {
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
        assert!(words.contains("It is still off"), "{words}");
        assert_eq!((chat.reasoning_shown(), thinks(&mut chat)), (shown, false));
    }
    assert!(said(&enter(&mut chat, "/think show")).contains("It is on again"));
    assert!(chat.reasoning_shown() && thinks(&mut chat));
    assert_eq!(said(&enter(&mut chat, "/think hide")), "Reasoning is hidden.");
}

#[test]
fn a_gpu_that_fails_is_reported_once() {
    let mut chat = chat();
    let mut answered = |lost: bool| {
        enter(&mut chat, "again");
        let gpu = Some(GpuUse { lost, ..GpuUse::default() });
        let stats = GenerateStats { prompt_tokens: 5, gpu, ..GenerateStats::default() };
        let answer = Answer { text: "yes".into(), ids: vec![1], reason: StopReason::EndOfTurn, stats };
        said(&chat.handle(ChatEvent::Answered(Box::new(answer), at(0))))
    };
    assert!(!answered(false).contains("GPU"));
    assert!(answered(true).contains("GPU is not used"));
    assert!(!answered(true).contains("GPU is not used"));
}
