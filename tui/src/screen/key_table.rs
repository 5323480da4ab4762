//! The key bindings: one table for the screen, the help and the manual (`docs/chat.md`). It must not know how
//! an action is carried out.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::input::composer::Composer;

/// The action of a key.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    /// Send the composed text.
    Send,
    /// Take back a waiting question, stop the activity, empty the composer or quit: the first that applies.
    Interrupt,
    /// Close, stop, cancel.
    Escape,
    /// Quit; inside a text, remove the next character.
    Leave,
    /// Show the help; inside a text, `?` is a character.
    Help,
    /// Open or close the expert view.
    Experts,
    /// Open the list of models.
    Models,
    /// Open the list of earlier conversations.
    Sessions,
    /// Scroll by lines, up if negative.
    Lines(isize),
    /// Scroll by pages, up if negative.
    Pages(isize),
    /// Go to the beginning of the composed line, or scroll to the beginning of the conversation.
    Top,
    /// Go to the end of the composed line, or scroll to the end of the conversation.
    End,
    /// Scroll to the beginning of the conversation.
    TopOfAll,
    /// Scroll to the end of the conversation.
    EndOfAll,
    /// Recall an older entry; in a text of several rows, first move up.
    Older,
    /// Recall a newer entry; in a text of several rows, first move down.
    Newer,
    /// Search the history.
    Search,
    /// Search the conversation.
    Find,
    /// Complete the text before the cursor.
    Complete,
    /// Open the composed text in the user's editor.
    Editor,
    /// Run a slash command.
    Command(&'static str),
    /// Edit the composed text.
    Edit(fn(&mut Composer)),
    /// Draw the whole screen again.
    Redraw,
    /// Return to the shell.
    Suspend,
}

/// A key with its modifiers, perhaps after Ctrl-X.
#[derive(Debug, Clone, Copy)]
struct Chord {
    code: KeyCode,
    modifiers: KeyModifiers,
    after_x: bool,
}

/// Keys that do related things: a row of the help.
pub struct KeyGroup {
    /// One line of help.
    pub help: &'static str,
    keys: &'static [(Chord, Action)],
    /// Further keys that the help does not list.
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

const fn group(help: &'static str, keys: &'static [(Chord, Action)]) -> KeyGroup {
    KeyGroup { help, keys, also: &[] }
}

const CONTROL: KeyModifiers = KeyModifiers::CONTROL;
const ALT: KeyModifiers = KeyModifiers::ALT;
const SHIFT: KeyModifiers = KeyModifiers::SHIFT;
const NEW_LINE: Action = Action::Edit(|composer| composer.insert("\n"));

/// All keys, in the order of the help.
pub const KEYS: [KeyGroup; 27] = [
    group("send", &[(key(KeyCode::Enter), Action::Send)]),
    KeyGroup {
        help: "new line",
        keys: &[
            (control('j'), NEW_LINE),
            (with(ALT, KeyCode::Enter), NEW_LINE),
            (with(SHIFT, KeyCode::Enter), NEW_LINE),
        ],
        also: &[(with(CONTROL, KeyCode::Enter), NEW_LINE)],
    },
    group(
        "stop the answer; Ctrl-C again quits",
        &[(control('c'), Action::Interrupt), (key(KeyCode::Esc), Action::Escape)],
    ),
    group("quit (when the input is empty)", &[(control('d'), Action::Leave)]),
    group(
        "show keys and commands",
        &[(key(KeyCode::F(1)), Action::Help), (key(KeyCode::Char('?')), Action::Help)],
    ),
    group("show or hide the experts", &[(key(KeyCode::F(2)), Action::Experts)]),
    group("switch to another model", &[(key(KeyCode::F(3)), Action::Models)]),
    group("go back to an earlier conversation", &[(key(KeyCode::F(4)), Action::Sessions)]),
    KeyGroup {
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
    KeyGroup {
        help: "input history",
        keys: &[(key(KeyCode::Up), Action::Older), (key(KeyCode::Down), Action::Newer)],
        also: &[(control('p'), Action::Older), (control('n'), Action::Newer)],
    },
    group("search history", &[(control('r'), Action::Search)]),
    group("search the conversation", &[(control('f'), Action::Find)]),
    group("complete commands and files", &[(key(KeyCode::Tab), Action::Complete)]),
    group(
        "edit in your editor",
        &[
            (control('g'), Action::Editor),
            (Chord { code: KeyCode::Char('e'), modifiers: CONTROL, after_x: true }, Action::Editor),
        ],
    ),
    group("another answer", &[(alt('r'), Action::Command("/retry"))]),
    group("edit and resend the last message", &[(alt('e'), Action::Command("/edit"))]),
    group("remove the last turn", &[(alt('u'), Action::Command("/undo"))]),
    group("continue a truncated answer", &[(alt('m'), Action::Command("/more"))]),
    group("copy the answer", &[(alt('c'), Action::Command("/copy"))]),
    group("statistics of the last answer", &[(alt('s'), Action::Command("/stats"))]),
    group("show or hide reasoning", &[(control('t'), Action::Command("/think"))]),
    KeyGroup {
        help: "move the cursor",
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
            (with(CONTROL, KeyCode::Left), Action::Edit(Composer::word_left)),
            (with(ALT, KeyCode::Left), Action::Edit(Composer::word_left)),
            (with(CONTROL, KeyCode::Right), Action::Edit(Composer::word_right)),
            (with(ALT, KeyCode::Right), Action::Edit(Composer::word_right)),
        ],
    },
    KeyGroup {
        help: "cut; paste (Ctrl-Y)",
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
    KeyGroup {
        help: "delete a character",
        keys: &[
            (key(KeyCode::Backspace), Action::Edit(Composer::backspace)),
            (key(KeyCode::Delete), Action::Edit(Composer::delete)),
        ],
        also: &[
            (control('h'), Action::Edit(Composer::backspace)),
            (with(SHIFT, KeyCode::Backspace), Action::Edit(Composer::backspace)),
        ],
    },
    KeyGroup {
        help: "undo edit",
        keys: &[(control('_'), Action::Edit(Composer::undo))],
        // Terminals report Ctrl-_ as one of these.
        also: &[(control('7'), Action::Edit(Composer::undo)), (control('-'), Action::Edit(Composer::undo))],
    },
    group("redraw the screen", &[(control('l'), Action::Redraw)]),
    group("return to the shell (fg continues)", &[(control('z'), Action::Suspend)]),
];

impl KeyGroup {
    /// The names of the keys: `Ctrl-G, Ctrl-X Ctrl-E`.
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
        // Shift is part of a character: `?` is `?` on every keyboard.
        if matches!(pressed.code, KeyCode::Char(_)) {
            modifiers -= SHIFT;
        }
        (self.code, self.modifiers, self.after_x) == (pressed.code, modifiers, after_x)
    }
}

/// The action of a key; `after_x` if Ctrl-X was pressed before it.
pub fn action(pressed: &KeyEvent, after_x: bool) -> Option<Action> {
    let all = KEYS.iter().flat_map(|row| row.keys.iter().chain(row.also));
    all.into_iter().find(|(chord, _)| chord.is(pressed, after_x)).map(|(_, action)| *action)
}

/// Whether this is Ctrl-X, the first key of some chords.
pub fn is_prefix(pressed: &KeyEvent) -> bool {
    control('x').is(pressed, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_has_two_actions() {
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
        let names: Vec<_> = KEYS.iter().map(KeyGroup::names).collect();
        assert_eq!(listed, names);
    }
}
