//! Whole screens at several sizes.

use moelten_engine::api::{ExpertCell, ExpertPlace, ExpertRow, MemoryUse};
use proptest::prelude::*;

use super::*;

/// A conversation with every kind of item.
fn conversation() -> Person {
    let mut person = Person::new();
    person.screen.show_notes(vec![
        (Tone::Plain, "moelten: tiny.gguf".into()),
        (Tone::Dim, "context 1,000 tokens".into()),
    ]);
    person.turn(
        "Which is the *largest* moon? \u{4e16}\u{754c}",
        "<think>\nJupiter?\n</think>\n\n## Moons\n\n- **Ganymede**, 5268 km\n- `Titan`",
    );
    person.enter("And why?");
    person.say("It is ");
    person
}

#[track_caller]
fn check(person: &mut Person, columns: u16, rows: u16, expected: &str) {
    let picture = person.picture(columns, rows);
    // The text begins and ends on lines of their own.
    let expected = expected.strip_prefix('\n').and_then(|text| text.strip_suffix('\n')).unwrap();
    assert!(picture == expected, "expected\n{expected}\n--- found\n{picture}\n--- end");
}

/// A model with experts, some of them in use; the expert view is open.
fn watching() -> Person {
    let mut person = conversation();
    let cell = |expert: usize| ExpertCell {
        place: if expert.is_multiple_of(3) { ExpertPlace::Resident } else { ExpertPlace::Absent },
        used: expert.is_multiple_of(6).then_some(0),
        prediction: None,
    };
    let row =
        |layer| ExpertRow { layer, slots: 6, cells: (0..16).map(cell).collect(), ..ExpertRow::default() };
    let memory = MemoryUse {
        owned_bytes: Some((6 << 30) / 5),
        mapped_bytes: Some(40 << 20),
        budget_bytes: (43 << 30) / 10,
        slot_bytes: 1_000_000_000,
        released_bytes: 0,
    };
    let map = ExpertMap { rows: (0..4).map(row).collect(), memory, ..ExpertMap::default() };
    person.see(ScreenEvent::Experts(Box::new(map)));
    person.key(KeyCode::F(2));
    person
}

#[test]
fn an_ordinary_terminal() {
    check(
        &mut conversation(),
        80,
        24,
        r"




  moelten: tiny.gguf
  context 1,000 tokens

› Which is the *largest* moon? 世界

  ▸ reasoning

  Moons

  • Ganymede, 5268 km
  • `Titan`

  [5 tokens, 0.0 tok/s, context 50/1000 (5%)]

› And why?

  It is
─ ◝ writing, 0 s ───────────────────────────────────────────────────────────────
› Type a message (/ for commands, F1 for help)
 tiny · Q8_0 · ctx ────── 0% · F1 help  F2 experts  F3 models
",
    );
}

#[test]
fn a_small_one() {
    check(
        &mut conversation(),
        20,
        5,
        r"

  It is
─ ◝ writing, 0 s ───
› Type here, F1 help
 ctx ────── 0%
",
    );
}

#[test]
fn a_single_cell() {
    check(
        &mut conversation(),
        1,
        1,
        r"
T
",
    );
}

#[test]
fn a_narrow_one() {
    check(
        &mut conversation(),
        40,
        12,
        r"
  • Ganymede, 5268 km
  • `Titan`

  [5 tokens, 0.0 tok/s, context 50/1000
  (5%)]

› And why?

  It is
─ ◝ writing, 0 s ───────────────────────
› Type a message (F1 for help)
 tiny · Q8_0 · ctx ────── 0%
",
    );
}

#[test]
fn the_experts_above() {
    check(
        &mut watching(),
        80,
        24,
        r"
Each square is one expert. 6 of the 16 of a layer fit into RAM; the others are
read from disk when they are needed.
layer expert 0 ──────────────────────────────────────────────────── 15 in RAM
    0 ███ ··· ··· ░░░ ··· ··· ███ ··· ··· ░░░ ··· ··· ███ ··· ··· ░░░
    1 ███ ··· ··· ░░░ ··· ··· ███ ··· ··· ░░░ ··· ··· ███ ··· ··· ░░░
    2 ███ ··· ··· ░░░ ··· ··· ███ ··· ··· ░░░ ··· ··· ███ ··· ··· ░░░
    3 ███ ··· ··· ░░░ ··· ··· ███ ··· ··· ░░░ ··· ··· ███ ··· ··· ░░░
· disk  ~ arriving  ░ RAM  used:  ░ not lately  ▒ lately  █ now
tokens/s             -                   disk stalls          -
disk                 -                   RAM reads            -
found in RAM         -                   memory       ██░░░░░ 1.2 GiB of 4.3 GiB
────────────────────────────────────────────────────────────────────────────────

  • Ganymede, 5268 km
  • `Titan`

  [5 tokens, 0.0 tok/s, context 50/1000 (5%)]

› And why?

  It is
─ ◞ writing, 0 s ───────────────────────────────────────────────────────────────
› Type a message (/ for commands, F1 for help)
 tiny · Q8_0 · ctx ────── 0% · RAM 1.2/4.3 GiB · F1 help  F2 experts  F3 models
",
    );
}

#[test]
fn the_experts_beside() {
    check(
        &mut watching(),
        200,
        50,
        r"
                                                                                                                         │ Each square is one expert. 6 of the 16 of a layer fit into RAM; the others
                                                                                                                         │ are read from disk when they are needed.
                                                                                                                         │ layer expert 0 ──────────────────────────────────────────────────── 15 in RAM
                                                                                                                         │     0 ███ ··· ··· ░░░ ··· ··· ███ ··· ··· ░░░ ··· ··· ███ ··· ··· ░░░
                                                                                                                         │     1 ███ ··· ··· ░░░ ··· ··· ███ ··· ··· ░░░ ··· ··· ███ ··· ··· ░░░
                                                                                                                         │     2 ███ ··· ··· ░░░ ··· ··· ███ ··· ··· ░░░ ··· ··· ███ ··· ··· ░░░
                                                                                                                         │     3 ███ ··· ··· ░░░ ··· ··· ███ ··· ··· ░░░ ··· ··· ███ ··· ··· ░░░
                                                                                                                         │ · disk  ~ arriving  ░ RAM  used:  ░ not lately  ▒ lately  █ now
                                                                                                                         │ tokens/s                              -
                                                                                                                         │ disk                                  -
                                                                                                                         │ found in RAM                          -
                                                                                                                         │ disk stalls                           -
                                                                                                                         │ RAM reads                             -
                                                                                                                         │ memory       ██████░░░░░░░░░░░░░░░░░░ 1.2 GiB of 4.3 GiB
                                                                                                                         │
                                                                                                                         │
                                                                                                                         │
                                                                                                                         │
                                                                                                                         │
                                                                                                                         │
                                                                                                                         │
                                                                                                                         │
                                                                                                                         │
                                                                                                                         │
                                                                                                                         │
                                                                                                                         │
                                                                                                                         │
                                                                                                                         │
                                                                                                                         │
                                                                                                                         │
  moelten: tiny.gguf                                                                                                     │
  context 1,000 tokens                                                                                                   │
                                                                                                                         │
› Which is the *largest* moon? 世界                                                                                      │
                                                                                                                         │
  ▸ reasoning                                                                                                            │
                                                                                                                         │
  Moons                                                                                                                  │
                                                                                                                         │
  • Ganymede, 5268 km                                                                                                    │
  • `Titan`                                                                                                              │
                                                                                                                         │
  [5 tokens, 0.0 tok/s, context 50/1000 (5%)]                                                                            │
                                                                                                                         │
› And why?                                                                                                               │
                                                                                                                         │
  It is                                                                                                                  │
─ ◞ writing, 0 s ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
› Type a message (/ for commands, F1 for help)
 tiny · Q8_0 · ctx ────── 0% · RAM 1.2/4.3 GiB · F1 help  F2 experts  F3 models
",
    );
}

proptest! {
    #[test]
    fn every_size_can_be_drawn(columns in 1u16..130, rows in 1u16..40, open in 0u8..4, typed in "[a-z \n世]{0,80}") {
        let mut person = conversation();
        person.see(ScreenEvent::Paste(typed));
        if open & 1 > 0 {
            person.key(KeyCode::F(1));
        }
        if open & 2 > 0 {
            person.key(KeyCode::F(2));
        }
        person.picture(columns, rows);
        person.key(KeyCode::PageUp);
        person.picture(rows, columns.min(60));
    }
}

#[test]
fn the_help_can_be_read_on_narrow_terminals() {
    for columns in [20, 40, 57, 58, 80] {
        let mut person = Person::new();
        person.key(KeyCode::F(1));
        let picture = person.picture(columns, 200);
        let words: Vec<_> = picture.split_whitespace().collect();
        for help in ["new line", "attach a text file to the next message (off [NAME] detaches)", "quit"] {
            let wanted: Vec<_> = help.split(' ').collect();
            assert!(words.windows(wanted.len()).any(|window| window == wanted), "{help}:\n{picture}");
        }
    }
}
