//! The keys: one table of what they do, for whoever presses them, for the help and for the manual. It must not know how it is
//! done.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::composer::Composer;

/// What a key asks for.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    /// Send what was written.
    Send,
    /// Stop, take back, leave, in this order.
    Interrupt,
    /// Close what is open, stop.
    Escape,
    /// Leave; inside a text, remove the next character.
    Leave,
    /// Keys and commands; inside a text a character.
    Help,
    /// Watch the experts.
    Experts,
    /// Another model.
    Models,
    /// Scroll by lines, up if negative.
    Lines(isize),
    /// Scroll by pages, up if negative.
    Pages(isize),
    /// To the beginning of the conversation, or of a line that is being written.
    Top,
    /// To its end.
    End,
    /// To the beginning of the conversation, whatever is being written.
    TopOfAll,
    /// To its end.
    EndOfAll,
    /// What was entered before; in a text of several rows first up.
    Older,
    /// What was entered after; in a text of several rows first down.
    Newer,
    /// Search in it.
    Search,
    /// Complete what is being written.
    Complete,
    /// Write in the person's editor.
    Editor,
    /// A command.
    Command(&'static str),
    /// Change what is being written.
    Edit(fn(&mut Composer)),
    /// Draw everything anew.
    Redraw,
    /// To the shell.
    Suspend,
}

/// A key with what is held, perhaps after Ctrl-X.
#[derive(Debug, Clone, Copy)]
struct Chord {
    code: KeyCode,
    modifiers: KeyModifiers,
    after_x: bool,
}

/// Keys that belong together.
pub struct Row {
    /// What they do, for people.
    pub help: &'static str,
    keys: &'static [(Chord, Action)],
    /// Keys of the same kind that everybody expects.
    also: &'static [(Chord, Action)],
}

const fn key(code: KeyCode) -> Chord {
    Chord { code, modifiers: KeyModifiers::NONE, after_x: false }
}

const fn with(modifiers: KeyModifiers, code: KeyCode) -> Chord {
    Chord { code, modifiers, after_x: false }
}

const fn control(c: char) -> Chord {
    with(KeyModifiers::CONTROL, KeyCode::Char(c))
}

const fn alt(c: char) -> Chord {
    with(KeyModifiers::ALT, KeyCode::Char(c))
}

const fn row(help: &'static str, keys: &'static [(Chord, Action)]) -> Row {
    Row { help, keys, also: &[] }
}

const CONTROL: KeyModifiers = KeyModifiers::CONTROL;
const ALT: KeyModifiers = KeyModifiers::ALT;
const SHIFT: KeyModifiers = KeyModifiers::SHIFT;
const NEW_LINE: Action = Action::Edit(|composer| composer.insert("\n"));

/// All keys.
pub const KEYS: [Row; 25] = [
    row("send", &[(key(KeyCode::Enter), Action::Send)]),
    Row {
        help: "new line",
        keys: &[
            (control('j'), NEW_LINE),
            (with(ALT, KeyCode::Enter), NEW_LINE),
            (with(SHIFT, KeyCode::Enter), NEW_LINE),
        ],
        also: &[(with(CONTROL, KeyCode::Enter), NEW_LINE)],
    },
    row(
        "stop what is computed; Ctrl-C again leaves",
        &[(control('c'), Action::Interrupt), (key(KeyCode::Esc), Action::Escape)],
    ),
    row("leave, with nothing written", &[(control('d'), Action::Leave)]),
    row("keys and commands", &[(key(KeyCode::F(1)), Action::Help), (key(KeyCode::Char('?')), Action::Help)]),
    row("watch the experts", &[(key(KeyCode::F(2)), Action::Experts)]),
    row("another model", &[(key(KeyCode::F(3)), Action::Models)]),
    Row {
        help: "scroll",
        keys: &[
            (key(KeyCode::PageUp), Action::Pages(-1)),
            (key(KeyCode::PageDown), Action::Pages(1)),
            (key(KeyCode::Home), Action::Top),
            (key(KeyCode::End), Action::End),
        ],
        also: &[
            (with(CONTROL, KeyCode::Up), Action::Lines(-1)),
            (with(CONTROL, KeyCode::Down), Action::Lines(1)),
            (with(SHIFT, KeyCode::Up), Action::Lines(-1)),
            (with(SHIFT, KeyCode::Down), Action::Lines(1)),
            (with(CONTROL, KeyCode::Home), Action::TopOfAll),
            (with(CONTROL, KeyCode::End), Action::EndOfAll),
        ],
    },
    Row {
        help: "what was entered before",
        keys: &[(key(KeyCode::Up), Action::Older), (key(KeyCode::Down), Action::Newer)],
        also: &[(control('p'), Action::Older), (control('n'), Action::Newer)],
    },
    row("search in it", &[(control('r'), Action::Search)]),
    row("complete commands and files", &[(key(KeyCode::Tab), Action::Complete)]),
    row(
        "write in your editor",
        &[
            (control('g'), Action::Editor),
            (Chord { code: KeyCode::Char('e'), modifiers: CONTROL, after_x: true }, Action::Editor),
        ],
    ),
    row("another answer", &[(alt('r'), Action::Command("/retry"))]),
    row("write the last question anew", &[(alt('e'), Action::Command("/edit"))]),
    row("take the last turn back", &[(alt('u'), Action::Command("/undo"))]),
    row("go on with a cut answer", &[(alt('m'), Action::Command("/more"))]),
    row("copy the answer", &[(alt('c'), Action::Command("/copy"))]),
    row("numbers of the last answer", &[(alt('s'), Action::Command("/stats"))]),
    row("show or fold thoughts", &[(control('t'), Action::Command("/think"))]),
    Row {
        help: "go in the line",
        keys: &[
            (control('a'), Action::Edit(Composer::home)),
            (control('e'), Action::Edit(Composer::end)),
            (alt('b'), Action::Edit(Composer::word_left)),
            (alt('f'), Action::Edit(Composer::word_right)),
        ],
        also: &[
            (key(KeyCode::Left), Action::Edit(Composer::left)),
            (control('b'), Action::Edit(Composer::left)),
            (key(KeyCode::Right), Action::Edit(Composer::right)),
            (control('f'), Action::Edit(Composer::right)),
            (with(CONTROL, KeyCode::Left), Action::Edit(Composer::word_left)),
            (with(ALT, KeyCode::Left), Action::Edit(Composer::word_left)),
            (with(CONTROL, KeyCode::Right), Action::Edit(Composer::word_right)),
            (with(ALT, KeyCode::Right), Action::Edit(Composer::word_right)),
        ],
    },
    Row {
        help: "cut, and paste what was cut",
        keys: &[
            (control('k'), Action::Edit(Composer::cut_to_end)),
            (control('u'), Action::Edit(Composer::cut_to_start)),
            (control('w'), Action::Edit(Composer::cut_word_left)),
            (control('y'), Action::Edit(Composer::yank)),
        ],
        also: &[
            (alt('d'), Action::Edit(Composer::cut_word_right)),
            (with(CONTROL, KeyCode::Backspace), Action::Edit(Composer::cut_word_left)),
            (with(ALT, KeyCode::Backspace), Action::Edit(Composer::cut_word_left)),
            (with(CONTROL, KeyCode::Delete), Action::Edit(Composer::cut_word_right)),
            (with(ALT, KeyCode::Delete), Action::Edit(Composer::cut_word_right)),
        ],
    },
    Row {
        help: "remove a character",
        keys: &[
            (key(KeyCode::Backspace), Action::Edit(Composer::backspace)),
            (key(KeyCode::Delete), Action::Edit(Composer::delete)),
        ],
        also: &[
            (control('h'), Action::Edit(Composer::backspace)),
            (with(SHIFT, KeyCode::Backspace), Action::Edit(Composer::backspace)),
        ],
    },
    Row {
        help: "take a change back",
        keys: &[(control('_'), Action::Edit(Composer::undo))],
        // What terminals make of it.
        also: &[(control('7'), Action::Edit(Composer::undo)), (control('-'), Action::Edit(Composer::undo))],
    },
    row("draw everything anew", &[(control('l'), Action::Redraw)]),
    row("to the shell; fg comes back", &[(control('z'), Action::Suspend)]),
];

impl Row {
    /// The keys by name: `Ctrl-G, Ctrl-X Ctrl-E`.
    pub fn names(&self) -> String {
        self.keys.iter().map(|(chord, _)| chord.name()).collect::<Vec<_>>().join(", ")
    }
}

impl Chord {
    fn name(self) -> String {
        let mut name = String::from(if self.after_x { "Ctrl-X " } else { "" });
        for (modifier, word) in [(CONTROL, "Ctrl-"), (ALT, "Alt-"), (SHIFT, "Shift-")] {
            if self.modifiers.contains(modifier) {
                name.push_str(word);
            }
        }
        name + &match self.code {
            KeyCode::Char(c) => c.to_uppercase().to_string(),
            KeyCode::F(number) => format!("F{number}"),
            KeyCode::PageUp => "PgUp".to_owned(),
            KeyCode::PageDown => "PgDn".to_owned(),
            code => format!("{code:?}"),
        }
    }

    fn is(self, pressed: &KeyEvent, after_x: bool) -> bool {
        let mut modifiers = pressed.modifiers & CONTROL.union(ALT).union(SHIFT);
        // Of a character it is part: `?` is one, with whatever it is typed.
        if matches!(pressed.code, KeyCode::Char(_)) {
            modifiers -= SHIFT;
        }
        (self.code, self.modifiers, self.after_x) == (pressed.code, modifiers, after_x)
    }
}

/// What a key does, `after_x` if Ctrl-X was pressed before it.
pub fn action(pressed: &KeyEvent, after_x: bool) -> Option<Action> {
    let all = KEYS.iter().flat_map(|row| row.keys.iter().chain(row.also));
    all.into_iter().find(|(chord, _)| chord.is(pressed, after_x)).map(|(_, action)| *action)
}

/// Whether it is the key that begins others.
pub fn is_prefix(pressed: &KeyEvent) -> bool {
    control('x').is(pressed, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_does_two_things() {
        let all: Vec<_> = KEYS.iter().flat_map(|row| row.keys.iter().chain(row.also)).collect();
        for (index, (chord, _)) in all.iter().enumerate() {
            let again = all[index + 1..].iter().find(|(other, _)| {
                (other.code, other.modifiers, other.after_x) == (chord.code, chord.modifiers, chord.after_x)
            });
            assert!(again.is_none(), "{}", chord.name());
        }
    }

    #[test]
    fn the_manual_lists_the_keys() {
        let manual = include_str!("../../../docs/chat.md");
        let section = manual.split("## Keys").nth(1).unwrap().split("\n## ").next().unwrap();
        let listed: Vec<_> =
            section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()).skip(1).collect();
        let names: Vec<_> = KEYS.iter().map(Row::names).collect();
        assert_eq!(listed, names);
    }
}
