//! The driver with a scripted terminal and a scripted model.

use std::collections::VecDeque;
use std::path::Path;

use moelten_engine::api::{
    Answer, Event as EngineEvent, ExpertMap, GenerateParams, GenerateStats, StopReason,
};

use super::*;
use crate::chat::transcript::Transcript;
use crate::chat::{Chat, Facts, Failure, NotSwitched, Request, Switched, Tell};
use crate::driver::Conversations;
use crate::markdown::theme::Theme;

/// A terminal whose user types a text, line by line, and then waits.
struct Typist {
    keys: VecDeque<char>,
    started: Instant,
}

impl Typist {
    fn of(text: &str) -> io::Result<Self> {
        Ok(Self { keys: text.chars().collect(), started: Instant::now() })
    }
}

impl Display for Typist {
    fn draw(&mut self, _: &mut Screen) -> io::Result<()> {
        Ok(())
    }

    fn wait(&mut self, wait: Duration) -> io::Result<KeyWait> {
        assert!(self.started.elapsed() < Duration::from_secs(20), "the chat goes on for ever");
        std::thread::sleep(wait.min(Duration::from_millis(5)));
        Ok(KeyWait::Ready)
    }

    fn next_event(&mut self) -> io::Result<Option<TerminalEvent>> {
        let key = |c| TerminalEvent::Key(if c == '\n' { KeyCode::Enter } else { KeyCode::Char(c) }.into());
        Ok(self.keys.pop_front().map(key))
    }

    fn redraw(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn give_back(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn take_again(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Repeats the question, and panics at "bug" after the first word of its answer. Counting a text panics.
struct Echo;

impl Backend for Echo {
    fn answer(
        &mut self,
        request: &Request,
        on_event: &mut dyn FnMut(EngineEvent) -> ControlFlow<()>,
    ) -> Result<Answer, Failure> {
        let text = request.messages.last().unwrap().content.clone();
        let _ = on_event(EngineEvent::Text("begun ".into()));
        assert!(text != "bug", "as asked");
        Ok(Answer { text, ids: vec![], reason: StopReason::EndOfTurn, stats: GenerateStats::default() })
    }

    fn switch(&mut self, _: Option<&Path>, _: Tell<'_>) -> Result<Switched, NotSwitched> {
        Ok(Switched { facts: Facts::default(), params: GenerateParams::default() })
    }

    fn counters(&self) -> Counters {
        Counters {
            text: Arc::new(|_, _, _| panic!("cannot count")),
            conversation: Arc::new(|_, _, _| None),
            experts: Arc::new(ExpertMap::default),
        }
    }
}

/// A search that finds nothing and panics.
fn controls() -> Controls {
    Controls {
        stop: || (),
        requested: || None,
        search: Arc::new(|_| panic!("cannot search")),
        suspend: || Err("no shell"),
    }
}

fn driver(state: &StatePaths, text: &str) -> Driver<Typist> {
    let mut chat = Chat::new(Facts::default(), GenerateParams::default(), None);
    chat.keep_conversations();
    let screen = Screen::new(chat, Theme::PLAIN, Vec::new());
    Driver::start(screen, Box::new(Echo), state, None, controls(), || Typist::of(text)).unwrap()
}

#[test]
fn a_panic_while_a_file_is_read_ends_the_chat_with_its_message() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.txt");
    std::fs::write(&file, "text").unwrap();
    let text = format!("/file {}\nwhat is in it?\n", file.display());
    let mut driver = driver(&StatePaths::default(), &text);
    driver.serve(Vec::new()).unwrap();
    assert_eq!(driver.panicked.as_deref(), Some("texts: cannot count"));
    let error = ScreenError::Panicked("texts: cannot count".into()).to_string();
    assert_eq!(error, "the chat was ended by an internal error in thread texts: cannot count");
    assert_eq!(close(driver.files, &driver.messages), (Vec::new(), None), "nothing else is wrong");
}

#[test]
fn a_panic_of_the_model_ends_the_chat_and_what_it_has_written_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Arc::new(Conversations::below(folder.path()));
    let state = StatePaths { history: None, conversations: Some(Arc::clone(&kept)) };
    let mut driver = driver(&state, "bug\n");
    driver.serve(Vec::new()).unwrap();
    let message = driver.panicked.as_deref().unwrap();
    assert!(message.starts_with("model: ") && message.contains("as asked"), "{message}");
    assert_eq!(close(driver.files, &driver.messages), (Vec::new(), None));
    let saved = Transcript::from_json(&kept.resume_last().unwrap().text).unwrap();
    assert_eq!(saved.messages[1].content, "begun ");
}

#[test]
fn a_panic_of_the_search_is_shown_and_the_chat_goes_on() {
    let mut driver = driver(&StatePaths::default(), "/model\n");
    driver.carry_out(vec![ScreenEffect::StartSearch]).unwrap();
    let Ok(WorkerMessage::Search(search, SearchStep::Problem(problem))) = driver.messages.recv() else {
        panic!("no report of the panic")
    };
    assert!(search.strong_count() > 0 && problem.ends_with("thread models: cannot search"), "{problem}");
    let done = driver.messages.recv();
    assert!(matches!(done, Ok(WorkerMessage::Search(_, SearchStep::Done))));
    assert_eq!(driver.panicked, None);
}

#[test]
fn what_is_not_saved_at_the_end_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    // A file is where the folder of the conversations should be.
    std::fs::write(folder.path().join("conversations"), "another file").unwrap();
    let kept = Conversations::below(folder.path());
    let state = StatePaths { history: None, conversations: Some(Arc::new(kept)) };
    let driver = driver(&state, "");
    driver.files.perform(ChatEffect::Keep("{}".into()), driver.counters.clone());
    let (warnings, panicked) = close(driver.files, &driver.messages);
    assert!(warnings.len() == 1 && warnings[0].contains("was not saved for --continue"), "{warnings:?}");
    assert_eq!(panicked, None);
}
