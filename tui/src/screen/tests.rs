//! Transitions of the screen, with a scripted user.

mod attachments;
mod composing;
mod drafts;
mod models;
mod palette;
mod pictures;
mod reading;
mod scripts;
mod sessions;

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use moelten_engine::api::{
    Answer, Event as EngineEvent, ExpertMap, GenerateParams, GenerateStats, StopReason,
};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::state::MESSAGE_TIME;
use super::*;
use crate::chat::{self, Chat, ChatEffect, ChatEvent, Facts, Failure, Request, Tone};
use crate::markdown::theme::Theme;

/// A screen and its user, who takes a tenth of a second for every action.
struct Person {
    screen: Screen,
    now: Duration,
    /// Numbers of the requested counts.
    counts: Vec<u64>,
}

const CONTROL: KeyModifiers = KeyModifiers::CONTROL;
const ALT: KeyModifiers = KeyModifiers::ALT;

impl Person {
    fn new() -> Self {
        let facts = Facts {
            model: "tiny.gguf".into(),
            format: "Q8_0".into(),
            context: 1000,
            supports_system: true,
            can_skip_thinking: true,
            ..Facts::default()
        };
        let mut chat = Chat::new(facts, GenerateParams::default(), None);
        chat.keep_conversations();
        let history = vec!["older question".to_owned(), "/show".to_owned()];
        Self { screen: Screen::new(chat, Theme::PLAIN, history), now: Duration::ZERO, counts: Vec::new() }
    }

    fn see(&mut self, event: ScreenEvent) -> Vec<ScreenEffect> {
        self.now += Duration::from_millis(100);
        let effects = self.screen.handle(event, self.now);
        self.without_counts(effects)
    }

    fn without_counts(&mut self, mut effects: Vec<ScreenEffect>) -> Vec<ScreenEffect> {
        effects.retain(|effect| match effect {
            ScreenEffect::Chat(ChatEffect::Count { number, .. }) => {
                self.counts.push(*number);
                false
            }
            _ => true,
        });
        effects
    }

    /// Answers the last request for a count.
    fn count(&mut self, tokens: usize) {
        let number = self.counts.pop().expect("a count was requested");
        self.see(ScreenEvent::Chat(ChatEvent::Counted { number, tokens: Some(tokens) }));
    }

    fn press(&mut self, code: KeyCode, modifiers: KeyModifiers) -> Vec<ScreenEffect> {
        self.see(ScreenEvent::Key(KeyEvent::new(code, modifiers)))
    }

    fn key(&mut self, code: KeyCode) -> Vec<ScreenEffect> {
        self.press(code, KeyModifiers::NONE)
    }

    fn control(&mut self, c: char) -> Vec<ScreenEffect> {
        self.press(KeyCode::Char(c), CONTROL)
    }

    fn alt(&mut self, c: char) -> Vec<ScreenEffect> {
        self.press(KeyCode::Char(c), ALT)
    }

    fn write(&mut self, text: &str) {
        text.chars().for_each(|c| drop(self.key(KeyCode::Char(c))));
    }

    /// Types and enters a text; the effects other than [`ScreenEffect::Remember`].
    fn enter(&mut self, text: &str) -> Vec<ScreenEffect> {
        self.write(text);
        let mut effects = self.key(KeyCode::Enter);
        effects.retain(|effect| !matches!(effect, ScreenEffect::Remember(_)));
        effects
    }

    fn say(&mut self, text: &str) {
        self.see(ScreenEvent::Engine(EngineEvent::Text(text.into())));
    }

    fn end(&mut self, text: &str, reason: StopReason) -> Vec<ScreenEffect> {
        let stats = GenerateStats {
            prompt_tokens: 5,
            generated_tokens: 5,
            context_used: 50,
            context_size: 1000,
            ..Default::default()
        };
        let answer = Answer { text: text.into(), ids: vec![], reason, stats };
        self.see(ScreenEvent::Chat(ChatEvent::Answered(Box::new(answer), self.now)))
    }

    /// A question and its answer.
    fn turn(&mut self, question: &str, answer: &str) {
        request(&self.enter(question));
        self.say(answer);
        self.end(answer, StopReason::EndOfTurn);
    }

    fn text(&self) -> &str {
        self.screen.composer.text()
    }

    fn turns(&self) -> Vec<&str> {
        self.screen.chat.turns().iter().map(|turn| turn.content.as_str()).collect()
    }

    /// The screen as text, without blanks at the ends of lines.
    fn picture(&mut self, columns: u16, rows: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
        terminal.draw(|frame| self.screen.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let mut lines = Vec::new();
        for y in 0..rows {
            let mut line = String::new();
            let mut skip = 0;
            for x in 0..columns {
                let symbol = buffer[(x, y)].symbol();
                if skip == 0 {
                    line.push_str(symbol);
                    skip = unicode_width::UnicodeWidthStr::width(symbol).max(1);
                }
                skip -= 1;
            }
            lines.push(line.trim_end().to_owned());
        }
        lines.join("\n")
    }

    #[track_caller]
    fn shows(&mut self, text: &str) {
        let picture = self.picture(80, 24);
        assert!(picture.contains(text), "no {text:?} on\n{picture}");
    }

    #[track_caller]
    fn hides(&mut self, text: &str) {
        let picture = self.picture(80, 24);
        assert!(!picture.contains(text), "{text:?} on\n{picture}");
    }
}

#[track_caller]
fn request(effects: &[ScreenEffect]) -> &Request {
    let found = effects.iter().find_map(|effect| match effect {
        ScreenEffect::Chat(ChatEffect::Answer(request)) => Some(request),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no request in {effects:?}"))
}

#[test]
fn a_question_is_asked_and_its_answer_shown_as_it_comes() {
    let mut person = Person::new();
    let effects = person.enter("Why?");
    assert_eq!(request(&effects).messages[0].content, "Why?");
    assert_eq!(person.text(), "");
    person.shows("preparing");
    person.see(ScreenEvent::Engine(EngineEvent::Prompt { done: 0, total: 400 }));
    person.see(ScreenEvent::Engine(EngineEvent::Prompt { done: 10, total: 400 }));
    person.shows("reading prompt 10/400 (2%), 100 tok/s, 3 s left");
    person.say("Beca");
    person.say("use **of** ");
    person.shows("Because of");
    person.shows("writing");
    let kept = person.end("Because **of** it.", StopReason::EndOfTurn);
    assert!(matches!(kept.as_slice(), [ScreenEffect::Chat(ChatEffect::Keep(_))]), "{kept:?}");
    person.shows("Because of it.");
    person.shows("[5 tokens");
    person.hides("writing");
}

#[test]
fn a_key_changes_the_screen_and_time_alone_does_not() {
    let mut person = Person::new();
    person.screen.take_changed();
    person.see(ScreenEvent::Tick);
    assert_eq!(person.screen.take_changed(), None);
    person.write("a");
    assert_eq!(person.screen.take_changed(), Some(Urgency::Now));
    person.enter("");
    person.screen.take_changed();
    person.see(ScreenEvent::Tick);
    assert_eq!(person.screen.take_changed(), Some(Urgency::Soon), "the spinner turns");
    person.say("a");
    person.write("b");
    assert_eq!(person.screen.take_changed(), Some(Urgency::Now), "keys do not wait for the model");
}

#[test]
fn what_is_entered_during_an_answer_is_sent_after_it() {
    let mut person = Person::new();
    person.enter("one");
    assert_eq!(person.enter("two"), []);
    assert_eq!(person.enter("three"), []);
    assert_eq!(person.text(), "");
    person.shows("\u{203a} two");
    person.shows("\u{203a} three  (sent after this answer; Up takes it back)");
    person.shows("preparing");
    let effects = person.end("ok", StopReason::EndOfTurn);
    assert_eq!(request(&effects).messages.last().unwrap().content, "two");
    assert_eq!(person.turns(), ["one", "ok", "two"]);
    person.key(KeyCode::Up);
    assert_eq!(person.text(), "three");
    person.hides("Up takes it back");
    person.end("well", StopReason::EndOfTurn);
    assert_eq!(person.turns(), ["one", "ok", "two", "well"], "what was taken back is not sent");
}

#[test]
fn a_waiting_message_comes_back_when_the_answer_is_stopped_or_fails() {
    for failure in [false, true] {
        let mut person = Person::new();
        person.enter("one");
        person.say("par");
        person.enter("two");
        person.write("dra");
        if failure {
            let failure = Failure::Other("error[E-IO-03]: broken disk".into());
            person.see(ScreenEvent::Chat(ChatEvent::Failed { shown: "par".into(), failure }));
        } else {
            person.control('c');
            person.end("par", StopReason::Cancelled);
        }
        assert_eq!(person.turns(), ["one", "par"]);
        assert_eq!(person.text(), "two\ndra");
        person.shows("it was not sent");
    }
}

#[test]
fn a_remark_does_not_cover_the_progress() {
    let mut person = Person::new();
    person.enter("one");
    person.key(KeyCode::F(3));
    person.shows("Still answering. Ctrl-C stops it.");
    person.shows("preparing");
}

#[test]
fn commands_that_change_nothing_work_while_an_answer_is_written() {
    let mut person = Person::new();
    person.enter("one");
    person.enter("/show");
    person.shows("tiny.gguf");
    person.enter("/undo");
    person.shows("Still answering");
    assert_eq!(person.turns(), ["one"]);
}

#[test]
fn ctrl_c_and_esc_stop_an_answer_and_a_second_ctrl_c_quits() {
    for stop in [|person: &mut Person| person.control('c'), |person: &mut Person| person.key(KeyCode::Esc)] {
        let mut person = Person::new();
        person.enter("one");
        person.say("par");
        assert_eq!(stop(&mut person), [ScreenEffect::Stop]);
        assert!(person.screen.stopping());
        person.shows("stopping");
        person.end("par", StopReason::Cancelled);
        assert!(!person.screen.stopping());
        assert_eq!(person.turns(), ["one", "par"]);
    }
    let mut person = Person::new();
    person.enter("one");
    person.say("par");
    person.control('c');
    let effects = person.control('c');
    let [ScreenEffect::Stop, ScreenEffect::Chat(ChatEffect::Keep(kept)), ScreenEffect::Quit] =
        effects.as_slice()
    else {
        panic!("{effects:?}")
    };
    assert!(kept.contains("par"), "the unfinished answer is kept: {kept}");
}

#[test]
fn ctrl_c_empties_the_composer_then_hints_then_quits() {
    let mut person = Person::new();
    person.write("draft");
    assert_eq!(person.control('c'), []);
    assert_eq!(person.text(), "");
    assert_eq!(person.control('c'), []);
    person.shows("Press Ctrl-C again");
    assert_eq!(person.control('c'), [ScreenEffect::Quit]);
    assert_eq!(Person::new().control('d'), [ScreenEffect::Quit]);
    assert_eq!(Person::new().see(ScreenEvent::End), [ScreenEffect::Quit]);
    assert_eq!(Person::new().enter("/quit"), [ScreenEffect::Quit]);
}

#[test]
fn answers_cannot_control_the_terminal() {
    let mut person = Person::new();
    person.enter("one");
    for piece in ["a\u{1b}]52;c;", "aGk=\u{7}b\u{1b}[2", "Jc\u{9b}31md\u{202e}"] {
        person.say(piece);
    }
    person.shows("abcd<U+202E>");
    person.end("a\u{1b}]52;c;aGk=\u{7}b\u{1b}[2Jc\u{9b}31md\u{202e}", StopReason::EndOfTurn);
    person.shows("abcd<U+202E>");
}

#[test]
fn retry_undo_edit_and_more_have_keys() {
    let mut person = Person::new();
    person.turn("one", "two");
    request(&person.alt('r'));
    person.end("three", StopReason::MaxTokens);
    assert_eq!(person.turns(), ["one", "three"]);
    person.hides("two");
    let effects = person.alt('m');
    assert_eq!(request(&effects).begun, "three");
    person.say(" four");
    person.shows("three four");
    person.end(" four", StopReason::EndOfTurn);
    assert_eq!(person.turns(), ["one", "three four"]);
    person.alt('e');
    assert_eq!(person.text(), "one");
    person.write("!");
    let effects = person.key(KeyCode::Enter);
    assert_eq!(request(&effects).messages.len(), 1);
    person.end("five", StopReason::EndOfTurn);
    assert_eq!(person.turns(), ["one!", "five"]);
    person.hides("three");
    person.alt('u');
    assert!(person.turns().is_empty());
    person.hides("five");
}

#[test]
fn an_edit_can_be_cancelled() {
    let mut person = Person::new();
    person.turn("one", "two");
    person.alt('e');
    person.key(KeyCode::Esc);
    assert_eq!(person.text(), "");
    person.turn("three", "four");
    assert_eq!(person.turns(), ["one", "two", "three", "four"]);
}

#[test]
fn reasoning_is_hidden_with_a_timer_and_can_be_shown() {
    let mut person = Person::new();
    person.enter("one");
    person.say("<think>\nhmm, let me see");
    person.now += Duration::from_secs(12);
    person.see(ScreenEvent::Tick);
    person.shows("\u{25b8} reasoning, 12 s");
    person.hides("let me see");
    person.control('t');
    person.shows("let me see");
    person.say("\n</think>\n\nYes.");
    person.end("<think>\nhmm, let me see\n</think>\n\nYes.", StopReason::EndOfTurn);
    person.shows("\u{25be} reasoned for 12 s");
    person.control('t');
    person.hides("let me see");
    let effects = person.enter("and?");
    assert_eq!(request(&effects).messages[1].content, "Yes.", "earlier reasoning is not sent again");
    person.end("ok", StopReason::EndOfTurn);
    person.enter("/think off");
    assert!(!request(&person.enter("now?")).think);
}

#[test]
fn scrolling_stays_where_it_is_while_an_answer_grows() {
    let mut person = Person::new();
    for i in 0..20 {
        person.turn(&format!("question {i}"), "answer");
    }
    person.shows("question 19");
    person.key(KeyCode::PageUp);
    person.key(KeyCode::PageUp);
    let before = person.picture(80, 24);
    assert!(!before.contains("question 19"));
    person.key(KeyCode::Home);
    person.shows("question 0");
    person.key(KeyCode::End);
    person.shows("question 19");
    person.enter("more");
    person.key(KeyCode::Home);
    person.say("a\n\nb\n\nc\n\nd\n\ne\n\nf");
    person.shows("question 0");
    person.key(KeyCode::PageDown);
    person.hides("question 0\n");
}

#[test]
fn help_and_the_experts_open_and_close() {
    let mut person = Person::new();
    person.key(KeyCode::Char('?'));
    person.shows("Ctrl-J");
    person.key(KeyCode::PageDown);
    person.shows("/retry");
    person.key(KeyCode::Esc);
    person.hides("Ctrl-J");
    person.write("is it?");
    assert_eq!(person.text(), "is it?", "inside a text it is a character");
    person.control('u');
    person.enter("/help");
    person.shows("Ctrl-J");
    person.key(KeyCode::F(1));
    person.key(KeyCode::F(2));
    person.shows("no experts");
    person.enter("/experts");
    person.hides("no experts");
}

#[test]
fn a_full_context_is_a_question() {
    let full = Failure::ContextFull { tokens: 1200, context: 1000 };
    let mut person = Person::new();
    for i in 0..4 {
        person.turn(&format!("question {i}"), "an answer of some length");
    }
    person.enter("one more");
    let failed = |failure: &Failure| {
        ScreenEvent::Chat(ChatEvent::Failed { shown: String::new(), failure: failure.clone() })
    };
    person.see(failed(&full));
    person.shows("has 1200 tokens; the context holds 1000");
    person.shows("d  drop the oldest turns");
    person.key(KeyCode::Esc);
    person.shows("Nothing was changed; /edit changes the message, /retry sends it again.");
    person.enter("/retry");
    person.see(failed(&full));
    person.write("/undo");
    assert_eq!(person.text(), "/undo", "its letters are not choices");
    person.control('u');
    person.control('d');
    person.write("d");
    assert_eq!(
        (person.text(), person.screen.chat.overflow_question().is_some()),
        ("d", true),
        "a letter alone chooses nothing"
    );
    let effects = person.key(KeyCode::Enter);
    assert!(!effects.iter().any(|effect| matches!(effect, ScreenEffect::Remember(_))), "{effects:?}");
    let sent = request(&effects).messages.len();
    assert!(sent < 9 && sent % 2 == 1, "{sent}");
    assert_eq!(person.screen.chat.turns().len(), 9, "nothing is lost");
    person.see(failed(&full));
    let effects = person.enter("s");
    assert!(request(&effects).messages.last().unwrap().content.contains("Summarise"));
    person.shows("summarising");
    let effects = person.end("They talked.", StopReason::EndOfTurn);
    let messages = &request(&effects).messages;
    assert!(messages[0].content.contains("They talked."), "{messages:?}");
    assert!(messages.len() < sent);
    person.see(failed(&full));
    person.shows("This message alone is too long");
    assert_eq!(person.screen.chat.turns().len(), 9);
}

#[test]
fn a_cut_answer_continues_when_there_is_room() {
    let mut person = Person::new();
    person.turn("one", "two");
    person.enter("three");
    person.end("fo", StopReason::ContextFull);
    let effects = person.enter("d");
    let request = request(&effects);
    assert_eq!((request.begun.as_str(), request.messages.len()), ("fo", 1));
    person.end("ur", StopReason::EndOfTurn);
    assert_eq!(person.turns(), ["one", "two", "three", "four"]);
}

#[test]
fn a_failure_keeps_what_was_shown() {
    let mut person = Person::new();
    person.enter("one");
    person.say("Once upon");
    let failure = Failure::Other("error[E-IO-03]: broken disk".into());
    person.see(ScreenEvent::Chat(ChatEvent::Failed { shown: "Once upon".into(), failure }));
    person.shows("Once upon");
    person.shows("! error[E-IO-03]: broken disk. The answer so far is kept.");
}

#[test]
fn the_answer_or_its_code_goes_to_the_clipboard_on_request() {
    let mut person = Person::new();
    person.turn("one", "<think>\nhm\n</think>\n\nSee:\n\n```\nlet x;\n```\n");
    let copied = |effects: Vec<ScreenEffect>| match effects.as_slice() {
        [ScreenEffect::Chat(ChatEffect::Copy(text))] => text.clone(),
        other => panic!("{other:?}"),
    };
    assert!(copied(person.alt('c')).starts_with("See:"));
    assert_eq!(copied(person.enter("/copy code 1")), "let x;\n");
    assert_eq!(person.enter("/copy code 2"), []);
    person.shows("has 1 code block.");
}

#[test]
fn the_final_text_has_no_control_characters() {
    let mut person = Person::new();
    person.turn("one\ntwo", "<think>\nhm\n</think>\n\nthree\u{1b}[31m!");
    let texts: Vec<_> = person.screen.farewell(80, false).iter().map(ToString::to_string).collect();
    let end = "moelten chat --continue goes on with this conversation.";
    assert_eq!(texts, ["\u{203a} one", "  two", "", "  \u{25b8} reasoning", "  ", "  three!", "", end]);
}

#[test]
fn a_resize_redraws_the_screen() {
    assert_eq!(Person::new().see(ScreenEvent::Resized), [ScreenEffect::Redraw]);
}
