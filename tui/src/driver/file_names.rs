//! File names for Tab, read from folders. It must not know what a name is for.

use std::path::{Path, PathBuf};

use crate::markdown::filter;

/// Replaces a leading `~` by the user's home folder.
pub fn expand(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// Names of files that begin with `start`, sorted; folders end in a slash. Hidden files are listed only if
/// `start` names one. A folder that cannot be read has no names.
pub fn matching(start: &str) -> Vec<String> {
    let (folder, name) =
        start.rsplit_once('/').map_or(("", start), |(folder, name)| (&start[..=folder.len()], name));
    let place = if folder.is_empty() { Path::new(".").to_owned() } else { expand(Path::new(folder)) };
    let mut found: Vec<String> = std::fs::read_dir(place)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let is_folder = entry.path().is_dir();
            let entry = entry.file_name().into_string().ok()?;
            let fits = entry.starts_with(name) && (name.starts_with('.') || !entry.starts_with('.'));
            // A name with control characters could not be typed into the composer either.
            (fits && filter::clean_line(&entry) == entry)
                .then(|| format!("{folder}{entry}{}", if is_folder { "/" } else { "" }))
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

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
            matching(&whole).iter().map(|name| name[prefix..].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(found("on"), ["one.md", "one.txt", "only/"]);
        assert_eq!(found(".h"), [".hidden"]);
        assert_eq!(found("").len(), 4);
        assert!(matching("/no/such/folder/").is_empty());
    }
}
