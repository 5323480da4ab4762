//! The driver with a scripted user and a scripted model.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use moelten_engine::api::{
    Answer, Event as EngineEvent, ExpertMap, GenerateParams, GenerateStats, StopReason,
};

use super::*;
use crate::chat::{Counters, Facts, Failure, NotSwitched, PreviousModel, Switched, Tell, TokenCount};
use crate::driver::line_input::PlainInput;

/// No signal ends the program.
const CONTROLS: LineControls = LineControls { hold: || Box::new(()), ended: || false };

/// Repeats the last message, refuses the word "fail".
struct Echo {
    requests: usize,
}

impl Backend for Echo {
    fn answer(
        &mut self,
        request: &Request,
        on_event: &mut dyn FnMut(EngineEvent) -> ControlFlow<()>,
    ) -> Result<Answer, Failure> {
        self.requests += 1;
        let question = &request.messages.last().unwrap().content;
        if question == "fail" {
            return Err(Failure::Other("no".into()));
        }
        let text = format!("{question}!");
        let _ = on_event(EngineEvent::Prompt { done: 0, total: 1 });
        let _ = on_event(EngineEvent::Text(text.clone()));
        Ok(Answer { text, ids: vec![], reason: StopReason::EndOfTurn, stats: GenerateStats::default() })
    }

    fn switch(&mut self, model: Option<&Path>, _: Tell<'_>) -> Result<Switched, NotSwitched> {
        if model == Some(Path::new("missing")) {
            return Err(NotSwitched::Refused("it is missing".into(), PreviousModel::Untouched));
        }
        Ok(Switched {
            facts: Facts { model: "other".into(), ..Facts::default() },
            params: GenerateParams::default(),
        })
    }

    fn counters(&self) -> Counters {
        Counters {
            text: Arc::new(|text, _, _| Ok(TokenCount::Exactly(text.split(' ').count()))),
            conversation: Arc::new(|_, _, _| None),
            experts: Arc::new(ExpertMap::default),
        }
    }
}

#[test]
fn a_signal_during_an_answer_ends_the_chat_when_it_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Arc::new(crate::driver::Conversations::below(folder.path()));
    let state = StatePaths { history: None, conversations: Some(Arc::clone(&kept)) };
    let mut chat = Chat::new(Facts::default(), GenerateParams::default(), None);
    chat.keep_conversations();
    let mut backend = Echo { requests: 0 };
    let mut input = PlainInput::new("one\ntwo\n".as_bytes(), Notes::plain(), false);
    let controls = LineControls { ended: || true, ..CONTROLS };
    run(&mut chat, &mut backend, &mut input, Notes::plain(), &state, controls, Vec::new()).unwrap();
    assert_eq!(backend.requests, 1, "the second message is not answered");
    assert!(kept.resume_last().unwrap().text.contains("one!"));
}

fn script(lines: &str) -> (Chat, usize) {
    let facts = Facts { model: "echo".into(), supports_system: true, ..Facts::default() };
    let mut chat = Chat::new(facts, GenerateParams::default(), None);
    let mut backend = Echo { requests: 0 };
    let mut input = PlainInput::new(lines.as_bytes(), Notes::plain(), false);
    run(&mut chat, &mut backend, &mut input, Notes::plain(), &StatePaths::default(), CONTROLS, Vec::new())
        .unwrap();
    (chat, backend.requests)
}

#[test]
fn a_script_runs_to_its_end_or_to_quit() {
    let (chat, requests) = script("one\n/retry\nfail\ntwo\n");
    assert_eq!(requests, 4);
    let contents: Vec<_> = chat.turns().iter().map(|turn| turn.content.as_str()).collect();
    assert_eq!(contents, ["one", "one!", "two", "two!"]);
    assert_eq!(script("/quit\none\n").1, 0);
}

#[test]
fn conversations_go_to_files_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("talk.json");
    let name = file.display();
    script(&format!("one\n/save {name}\ntwo\n/save {name}\n"));
    let (chat, _) = script(&format!("/load {name}\n"));
    assert_eq!(chat.turns().len(), 4, "the second save replaces the first");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "no partial file stays");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn attached_files_are_sent_with_the_message() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes.txt");
    std::fs::write(&file, "two words").unwrap();
    let (chat, _) = script(&format!("/file {}\nwhat is this?\n", file.display()));
    assert_eq!(chat.turns()[0].content, "what is this?");
    assert_eq!(chat.turns()[0].message().content, "File notes.txt:\n```\ntwo words\n```\n\nwhat is this?");
}

/// A user with a line editor.
struct Editing {
    lines: VecDeque<&'static str>,
    prefilled: Vec<String>,
}

impl Input for Editing {
    fn line(&mut self, _: bool) -> io::Result<Typed> {
        Ok(self.lines.pop_front().map_or(Typed::End, |line| Typed::Text(line.into())))
    }

    fn prefill(&mut self, text: &str) -> bool {
        self.prefilled.push(text.into());
        true
    }
}

#[test]
fn prefilled_text_has_no_control_characters() {
    let mut chat = Chat::new(Facts::default(), GenerateParams::default(), None);
    let lines = ["one\u{1b}]0;title\u{7}", "/edit", "anew"].into();
    let mut input = Editing { lines, prefilled: Vec::new() };
    let mut backend = Echo { requests: 0 };
    run(&mut chat, &mut backend, &mut input, Notes::plain(), &StatePaths::default(), CONTROLS, Vec::new())
        .unwrap();
    assert_eq!(input.prefilled, ["one"]);
    assert_eq!(chat.turns()[0].content, "anew");
}

#[test]
fn models_are_switched_and_questions_need_an_editor_to_be_edited() {
    let (chat, requests) = script("/model missing\n/model there\none\n/edit\ntwo\n");
    assert_eq!((chat.facts().model.as_str(), requests), ("other", 2));
    assert_eq!(chat.turns().len(), 4, "nothing was edited");
}
