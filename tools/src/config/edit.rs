//! Changes of the configuration file: one line each, comments and order stay. It must not know what a value
//! means.

use std::io::Write as _;
use std::path::Path;

use super::file::values;
use super::keys::{Key, Kind};
use crate::exit::CommandError;

/// Sets a key in the file, or removes it with `None`. The file is replaced as a whole or not at all.
///
/// # Errors
/// A value that cannot be written; a file that cannot be read, checked or written.
pub fn set(path: &Path, key: &Key, value: Option<&str>) -> anyhow::Result<()> {
    let old = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    let wrong = |what: String| CommandError::Usage(format!("{}: {what}", path.display()));
    let line = value.map(|value| line(key, value)).transpose().map_err(wrong)?;
    let new = changed(&old, key, line.as_deref()).map_err(wrong)?;
    values(&new).map_err(wrong)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(new.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// `key = value` in TOML.
fn line(key: &Key, value: &str) -> Result<String, String> {
    // Texts of JSON are texts of TOML.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let value = match key.kind {
        Kind::Switch | Kind::Opposite => match value {
            "true" | "false" => value.to_owned(),
            _ => return Err(format!("`{}` must be true or false", key.name)),
        },
        Kind::Folders => {
            let folders = std::env::split_paths(value).filter(|folder| !folder.as_os_str().is_empty());
            let texts: Option<Vec<String>> = folders.map(|folder| folder.to_str().map(quoted)).collect();
            format!("[{}]", texts.ok_or("folders must be UTF-8")?.join(", "))
        }
        Kind::Value if is_number(value) => value.to_owned(),
        Kind::Value => quoted(value),
    };
    Ok(format!("{} = {value}", key.name))
}

/// Whether TOML reads it as the number that it is.
fn is_number(value: &str) -> bool {
    let parsed = format!("x = {value}").parse::<toml::Table>();
    parsed.is_ok_and(|table| {
        table.get("x").is_some_and(|x| match x {
            toml::Value::Integer(number) => number.to_string() == value,
            toml::Value::Float(number) => number.is_finite(),
            _ => false,
        })
    })
}

/// The text with the line of a key replaced, added or removed.
fn changed(text: &str, key: &Key, line: Option<&str>) -> Result<String, String> {
    let is_key = |line: &&str| {
        let name = line.trim_start().split('=').next().unwrap_or_default().trim().trim_matches('"');
        line.contains('=') && name.replace('-', "_") == key.name
    };
    let mut lines: Vec<&str> = text.lines().collect();
    match (lines.iter().position(is_key), line) {
        (Some(at), _) if lines[at].parse::<toml::Table>().is_err() => {
            return Err(format!("`{}` takes several lines there; change it in an editor", key.name));
        }
        (Some(at), Some(line)) => lines[at] = line,
        (Some(at), None) => drop(lines.remove(at)),
        (None, Some(line)) => lines.push(line),
        (None, None) => {}
    }
    let mut new = lines.join("\n");
    if !new.is_empty() {
        new.push('\n');
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::find;

    #[test]
    fn one_line_changes_and_the_others_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/config.toml");
        let write = |name: &str, value: Option<&str>| set(&path, find(name).expect("a key"), value);
        let text = || std::fs::read_to_string(&path).expect("a file");
        write("ram", Some("6G")).expect("written");
        std::fs::write(&path, format!("# mine\n{}\n", text().trim_end())).expect("written");
        write("ctx", Some("4096")).expect("written");
        write("system", Some("Say \"no\"\n\u{1}")).expect("written");
        write("models", Some(if cfg!(windows) { "/a;/b" } else { "/a:/b" })).expect("written");
        write("history", Some("false")).expect("written");
        write("ram", Some("8G")).expect("written");
        let expected = "# mine\nram = \"8G\"\nctx = 4096\nsystem = \"Say \\\"no\\\"\\n\\u0001\"\nmodels = [\"/a\", \"/b\"]\nhistory = false\n";
        assert_eq!(text(), expected);
        assert_eq!(values(&text()).expect("sound")["system"], "Say \"no\"\n\u{1}");
        write("ctx", None).expect("written");
        write("seed", None).expect("nothing to do");
        assert!(!text().contains("ctx"));
        let refused = write("history", Some("perhaps")).expect_err("no switch").to_string();
        assert!(refused.contains("true or false"), "{refused}");
        std::fs::write(&path, "models = [\n\"/a\"]\n").expect("written");
        let refused = write("models", Some("/c")).expect_err("several lines").to_string();
        assert!(refused.contains("editor"), "{refused}");
        std::fs::write(&path, "thread = 3\n").expect("written");
        assert!(write("ram", Some("1G")).is_err(), "a broken file is not extended");
        assert_eq!(text(), "thread = 3\n");
    }

    #[test]
    fn numbers_are_told_from_texts() {
        for number in ["4096", "0.5", "-1"] {
            assert!(is_number(number), "{number}");
        }
        for text in ["6G", "auto", "nan", "1_000", "0x10", "true", "1\ny = 2"] {
            assert!(!is_number(text), "{text}");
        }
    }
}
