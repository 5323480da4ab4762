//! Reading back: the wheel, the search, the position, Markdown as it was written, and how fast it is.

use std::time::Instant;

use super::*;

fn long() -> Person {
    let mut person = Person::new();
    for i in 0..40 {
        person.turn(&format!("question {i}"), &format!("answer number {i}, in **bold** words"));
    }
    person.picture(80, 24);
    person
}

#[test]
fn the_wheel_scrolls_and_can_be_left_to_the_terminal() {
    let mut person = long();
    (0..10).for_each(|_| drop(person.see(ScreenEvent::Wheel(-1))));
    person.hides("question 39");
    person.shows("lines below (End)");
    (0..20).for_each(|_| drop(person.see(ScreenEvent::Wheel(1))));
    person.shows("question 39");
    assert_eq!(person.enter("/mouse off"), [ScreenEffect::Mouse(false)]);
    assert_eq!(person.enter("/mouse"), [ScreenEffect::Mouse(true)]);
    person.shows("hold Shift to select");
    person.key(KeyCode::F(1));
    person.see(ScreenEvent::Wheel(1));
    person.hides("new line");
}

#[test]
fn the_position_is_shown_while_it_is_scrolled() {
    let mut person = long();
    person.key(KeyCode::Home);
    person.picture(80, 24);
    person.shows("0 %, ");
    person.key(KeyCode::PageDown);
    let picture = person.picture(80, 24);
    let rule = picture.lines().find(|line| line.contains("below (End)")).unwrap();
    let below: usize = rule.split(", ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert_eq!(below, person.screen.drawn.0 - 21 - 19, "{rule}");
}

#[test]
fn the_conversation_can_be_searched() {
    let mut person = long();
    person.control('f');
    person.shows("type to search the conversation");
    person.write("NUMBER 1");
    person.shows("11 of 11");
    person.shows("answer number 19");
    person.key(KeyCode::Up);
    person.shows("10 of 11");
    person.shows("answer number 18");
    (0..8).for_each(|_| drop(person.control('f')));
    person.shows("2 of 11");
    person.shows("answer number 10,");
    person.key(KeyCode::Up);
    person.shows("answer number 1,");
    person.key(KeyCode::Up);
    person.shows("11 of 11");
    person.write("x");
    person.shows("no match");
    assert_eq!(person.text(), "", "the composer is untouched");
    person.key(KeyCode::Esc);
    person.hides("find:");
    person.control('f');
    assert_eq!(person.control('c'), []);
    person.hides("find:");
}

/// A phrase that is broken over two lines is found too.
#[test]
fn a_match_may_go_on_in_the_next_line() {
    let mut person = Person::new();
    person.turn("one", &format!("{} needle in a haystack", "word ".repeat(14)));
    let picture = person.picture(80, 24);
    assert!(!picture.contains("needle in a haystack"), "it is broken: {picture}");
    person.control('f');
    person.write("needle in a haystack");
    person.shows("1 of 1");
}

#[test]
fn answers_can_be_shown_as_they_were_written() {
    let mut person = long();
    person.hides("**bold**");
    person.enter("/md off");
    person.shows("**bold**");
    person.enter("more");
    person.say("some *more*");
    person.shows("some *more*");
    person.end("some *more*", StopReason::EndOfTurn);
    person.enter("/md");
    person.hides("**bold**");
    assert_eq!(person.picture(80, 24).matches("some more").count(), 1);
}

/// A conversation of 10,000 lines.
fn very_long() -> Person {
    let mut person = Person::new();
    let answer: String =
        (0..100).map(|i| format!("- line {i} of a *long* answer with some words\n")).collect();
    for i in 0..100 {
        person.turn(&format!("question {i}"), &answer);
    }
    person.picture(120, 40);
    assert!(person.screen.drawn.0 > 10_000);
    person
}

#[test]
fn a_conversation_of_ten_thousand_lines_scrolls_and_is_searched() {
    let mut person = very_long();
    person.key(KeyCode::Home);
    person.shows("question 0");
    person.control('f');
    person.write("line 77 of");
    person.shows("100 of 100");
    (0..3).for_each(|_| drop(person.key(KeyCode::Up)));
    person.shows("97 of 100");
}

/// 10,000 lines scroll and are searched without a pause over 50 ms; so they are laid out for another width
/// within half a second.
#[test]
#[ignore = "measures time; run it alone"]
fn long_conversations_are_fast() {
    let mut person = very_long();
    let mut slowest = Duration::ZERO;
    let mut step = |person: &mut Person, what: &dyn Fn(&mut Person)| {
        let started = Instant::now();
        what(person);
        person.picture(120, 40);
        slowest = slowest.max(started.elapsed());
    };
    step(&mut person, &|person| drop(person.key(KeyCode::Home)));
    (0..10).for_each(|_| step(&mut person, &|person| drop(person.key(KeyCode::PageDown))));
    step(&mut person, &|person| drop(person.control('f')));
    for c in "line 77 of".chars() {
        step(&mut person, &|person| drop(person.key(KeyCode::Char(c))));
    }
    (0..10).for_each(|_| step(&mut person, &|person| drop(person.key(KeyCode::Up))));
    person.key(KeyCode::Esc);
    let started = Instant::now();
    person.picture(100, 40);
    let resized = started.elapsed();
    println!("slowest step: {slowest:?}; another width: {resized:?}");
    assert!(slowest < Duration::from_millis(50), "{slowest:?}");
    assert!(resized < Duration::from_millis(500), "{resized:?}");
}

/// Laying out a long answer takes the longest of a frame; what is typed meanwhile does not wait for it.
#[test]
fn a_held_answer_is_drawn_as_it_was_laid_out_last() {
    let mut person = Person::new();
    person.enter("why?");
    person.screen.hold_text(true);
    person.say("Because");
    person.shows("Because");
    person.say(" of the moons.");
    person.write("and then");
    person.shows("and then");
    person.hides("moons");
    let picture = person.picture(60, 20);
    assert!(picture.contains("of the moons."), "another width is laid out: {picture}");
    person.say(" And Jupiter.");
    person.screen.hold_text(false);
    person.shows("And Jupiter.");
    person.screen.hold_text(true);
    person.end("Because of the moons. And Jupiter. And Mars.", StopReason::EndOfTurn);
    person.shows("And Mars.");
}
