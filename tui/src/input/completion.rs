//! What can follow a text: commands, settings, their values, models and file names; and the files that a
//! question mentions. It must not know how suggestions are shown, nor read a folder.

use super::command::TABLE;
use super::settings::Setting;

/// A word that may complete a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suggestion {
    /// The word itself.
    pub word: String,
    /// What is shown behind it: the arguments of a command, the value of a setting.
    pub detail: String,
    /// One line of help.
    pub help: String,
    /// Whether something has to follow before the text can be entered.
    pub more: bool,
}

impl Suggestion {
    fn new(word: &str, detail: &str, help: &str, more: bool) -> Self {
        Self { word: word.to_owned(), detail: detail.to_owned(), help: help.to_owned(), more }
    }
}

/// What the end of a text can be completed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completion {
    /// Nothing.
    None,
    /// A word of a fixed list.
    Words {
        /// Byte at which the word begins.
        start: usize,
        /// The list.
        words: Vec<Suggestion>,
    },
    /// The name of a setting.
    Setting {
        /// Byte at which the name begins.
        start: usize,
    },
    /// A value of a setting.
    Value {
        /// Byte at which the value begins.
        start: usize,
        /// Which one it is.
        setting: Setting,
    },
    /// A model, or a file name.
    Model {
        /// Byte at which the name begins.
        start: usize,
    },
    /// A file name.
    Path {
        /// Byte at which the name begins.
        start: usize,
    },
    /// The name of a file that a question mentions as `@NAME`. Spaces in it are written as `\ `.
    Mention {
        /// Byte at which the name begins, after the `@`.
        start: usize,
    },
}

/// What the end of `text` can be completed to.
pub fn completion(text: &str) -> Completion {
    let fixed = |start, words: &[(&str, &str)]| Completion::Words {
        start,
        words: words.iter().map(|(word, help)| Suggestion::new(word, "", help, false)).collect(),
    };
    match text.split_once(' ') {
        _ if !text.starts_with('/') || text.contains('\n') => {
            mention_at_end(text).map_or(Completion::None, |start| Completion::Mention { start })
        }
        None => {
            let words = TABLE.iter().map(|entry| {
                let more = !entry.arguments.is_empty() && !entry.arguments.starts_with('[');
                Suggestion::new(entry.name, entry.arguments, entry.help, more)
            });
            Completion::Words { start: 0, words: words.collect() }
        }
        Some(("/set", rest)) => match rest.split_once(' ') {
            None => Completion::Setting { start: 5 },
            Some((name, value)) if !value.contains(' ') => match Setting::named(name) {
                Some(setting) => Completion::Value { start: 6 + name.len(), setting },
                None => Completion::None,
            },
            Some(_) => Completion::None,
        },
        Some((name, rest)) => match TABLE.iter().find(|entry| entry.name == name) {
            Some(entry) if entry.name == "/model" => Completion::Model { start: name.len() + 1 },
            Some(entry) if entry.takes_file => Completion::Path { start: name.len() + 1 },
            Some(entry) if !entry.words.is_empty() && !rest.contains(' ') => {
                fixed(name.len() + 1, entry.words)
            }
            _ => Completion::None,
        },
    }
}

/// The byte after the `@` of a word at the end of a text.
fn mention_at_end(text: &str) -> Option<usize> {
    let (start, _) = words(text).last()?;
    let word = &text[start..];
    // Blanks after the last word end it.
    let open = !word.ends_with(char::is_whitespace) || word.ends_with("\\ ");
    (word.starts_with('@') && open).then_some(start + 1)
}

/// Each word of a text with the byte at which it begins; a blank after a backslash is part of a word.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = from + text[from..].find(|c: char| !c.is_whitespace())?;
        let mut before = ' ';
        let len = text[start..].find(|c: char| {
            let ends = c.is_whitespace() && !(before == '\\' && c == ' ');
            before = c;
            ends
        });
        from = len.map_or(text.len(), |len| start + len);
        Some((start, &text[start..from]))
    })
}

/// The names after `@` in a question, each once.
pub fn mentions(text: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (_, word) in words(text) {
        // A sentence may end right after a name.
        let name =
            word.strip_prefix('@').map(|name| name.trim_end_matches(['.', ',', ';', ':', '?', '!', ')']));
        if let Some(name) = name.filter(|name| !name.is_empty()).map(|name| name.replace("\\ ", " "))
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

/// A file name as a question mentions it.
pub fn as_mention(name: &str) -> String {
    name.replace(' ', "\\ ")
}

/// The longest common prefix of all words.
pub fn common_prefix(words: &[String]) -> &str {
    let Some((first, rest)) = words.split_first() else { return "" };
    let shared = |word: &String| {
        first
            .char_indices()
            .zip(word.chars())
            .take_while(|((_, a), b)| a == b)
            .last()
            .map_or(0, |((at, c), _)| at + c.len_utf8())
    };
    &first[..rest.iter().map(shared).min().unwrap_or(first.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_settings_and_paths_complete() {
        let has = |text, start, word: &str| match completion(text) {
            Completion::Words { start: at, words } => {
                at == start && words.iter().any(|suggestion| suggestion.word == word)
            }
            _ => false,
        };
        assert!(has("/sa", 0, "/save"));
        assert!(has("/think h", 7, "hide"));
        assert_eq!(completion("/set te"), Completion::Setting { start: 5 });
        let setting = Setting::Temperature;
        assert_eq!(completion("/set temp 0"), Completion::Value { start: 10, setting });
        assert_eq!(completion("/set warmth 0"), Completion::None);
        assert_eq!(completion("/model qw"), Completion::Model { start: 7 });
        assert_eq!(completion("/load some/fi"), Completion::Path { start: 6 });
        assert_eq!(completion("hello /sa"), Completion::None);
        assert_eq!(completion("/undo 2"), Completion::None);
        assert_eq!(completion("/file a\nb"), Completion::None);
    }

    #[test]
    fn a_mention_is_a_word_that_begins_with_an_at_sign() {
        assert_eq!(completion("@"), Completion::Mention { start: 1 });
        assert_eq!(completion("what is in\n@no"), Completion::Mention { start: 12 });
        assert_eq!(completion("@my\\ no"), Completion::Mention { start: 1 });
        for text in ["", "mail me@home", "@notes.txt ", "a @ b"] {
            assert_eq!(completion(text), Completion::None, "{text:?}");
        }
        assert_eq!(
            mentions("Compare @a.txt, @my\\ b.txt and (@c.txt) with @a.txt. me@home @"),
            ["a.txt", "my b.txt"]
        );
        assert_eq!(mentions(&format!("@{}", as_mention("my b.txt"))), ["my b.txt"]);
    }

    #[test]
    fn the_common_prefix_ends_between_characters() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(common_prefix(&words(&["one.txt", "one.md"])), "one.");
        assert_eq!(common_prefix(&words(&["aé", "aè"])), "a");
        assert_eq!(common_prefix(&words(&["same"])), "same");
        assert_eq!(common_prefix(&[]), "");
    }
}
