//! What Tab completes: commands, settings and file names. It must not know how a completion is shown, nor
//! read a folder.

use super::command::TABLE;
use super::settings::Setting;

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
        words: Vec<String>,
    },
    /// A file name.
    Path {
        /// Byte at which the name begins.
        start: usize,
    },
}

/// What the end of `text` can be completed to.
pub fn completion(text: &str) -> Completion {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match text.split_once(' ') {
        _ if !text.starts_with('/') || text.contains('\n') => Completion::None,
        None => {
            let words = TABLE.iter().map(|entry| entry.name.to_owned()).collect();
            Completion::Words { start: 0, words }
        }
        Some(("/set", name)) if !name.contains(' ') => Completion::Words {
            start: 5,
            words: Setting::ALL.iter().map(|setting| setting.name().to_owned()).collect(),
        },
        Some(("/think", _)) => Completion::Words { start: 7, words: owned(&["show", "hide", "off"]) },
        Some((name, _)) if TABLE.iter().any(|entry| entry.takes_file && entry.name == name) => {
            Completion::Path { start: name.len() + 1 }
        }
        Some(_) => Completion::None,
    }
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
            Completion::Words { start: at, words } => at == start && words.contains(&word.to_owned()),
            _ => false,
        };
        assert!(has("/sa", 0, "/save"));
        assert!(has("/set te", 5, "temp"));
        assert_eq!(completion("/load some/fi"), Completion::Path { start: 6 });
        assert_eq!(completion("hello /sa"), Completion::None);
        assert_eq!(completion("/undo 2"), Completion::None);
        assert_eq!(completion("/file a\nb"), Completion::None);
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
