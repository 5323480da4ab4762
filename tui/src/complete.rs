//! What Tab may make of a text: commands, settings, names of files. It must not know who asks.

use std::path::Path;

use crate::command::TABLE;
use crate::filter;
use crate::settings::Setting;

/// What there is to complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Of {
    /// Nothing.
    Nothing,
    /// One of these words, in place of the text from a byte on.
    Words {
        /// Where the word begins.
        start: usize,
        /// The words.
        words: Vec<String>,
    },
    /// The name of a file, from a byte on.
    Path {
        /// Where the name begins.
        start: usize,
    },
}

/// What the end of `text` may become.
pub fn of(text: &str) -> Of {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match text.split_once(' ') {
        _ if !text.starts_with('/') || text.contains('\n') => Of::Nothing,
        None => Of::Words { start: 0, words: TABLE.iter().map(|entry| entry.name.to_owned()).collect() },
        Some(("/set", name)) if !name.contains(' ') => Of::Words {
            start: 5,
            words: Setting::ALL.iter().map(|setting| setting.name().to_owned()).collect(),
        },
        Some(("/think", _)) => Of::Words { start: 7, words: owned(&["show", "hide", "off"]) },
        Some((name, _)) if TABLE.iter().any(|entry| entry.paths && entry.name == name) => {
            Of::Path { start: name.len() + 1 }
        }
        Some(_) => Of::Nothing,
    }
}

/// Names of files that begin with `start`, folders with a slash at their end; hidden ones only if asked for. A folder that
/// cannot be read has none.
pub fn files(start: &str) -> Vec<String> {
    let (folder, name) =
        start.rsplit_once('/').map_or(("", start), |(folder, name)| (&start[..=folder.len()], name));
    let place =
        if folder.is_empty() { Path::new(".").to_owned() } else { crate::files::expand(Path::new(folder)) };
    let mut found: Vec<String> = std::fs::read_dir(place)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let is_folder = entry.path().is_dir();
            let entry = entry.file_name().into_string().ok()?;
            // A name that steers terminals cannot be typed either.
            let fits = entry.starts_with(name) && (name.starts_with('.') || !entry.starts_with('.'));
            (fits && filter::clean_line(&entry) == entry)
                .then(|| format!("{folder}{entry}{}", if is_folder { "/" } else { "" }))
        })
        .collect();
    found.sort();
    found
}

/// What all words begin with.
pub fn common_start(words: &[String]) -> &str {
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
        assert!(matches!(of("/sa"), Of::Words { start: 0, words } if words.contains(&"/save".to_owned())));
        assert!(matches!(of("/set te"), Of::Words { start: 5, words } if words.contains(&"temp".to_owned())));
        assert_eq!(of("/load some/fi"), Of::Path { start: 6 });
        assert_eq!(of("hello /sa"), Of::Nothing);
        assert_eq!(of("/undo 2"), Of::Nothing);
        assert_eq!(of("/file a\nb"), Of::Nothing);
    }

    #[test]
    fn files_are_found_by_their_beginning() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["one.txt", "one.md", "two", ".hidden"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        std::fs::create_dir(folder.path().join("only")).unwrap();
        let found = |start: &str| {
            let whole = format!("{}/{start}", folder.path().display());
            let prefix = whole.len() - start.len();
            files(&whole).iter().map(|name| name[prefix..].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(found("on"), ["one.md", "one.txt", "only/"]);
        assert_eq!(found(".h"), [".hidden"]);
        assert_eq!(found("").len(), 4);
        assert!(files("/no/such/folder/").is_empty());
    }

    #[test]
    fn the_common_start_is_cut_between_characters() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(common_start(&words(&["one.txt", "one.md"])), "one.");
        assert_eq!(common_start(&words(&["aé", "aè"])), "a");
        assert_eq!(common_start(&words(&["same"])), "same");
        assert_eq!(common_start(&[]), "");
    }
}
