//! The configuration file, read and checked: a flat list of keys in TOML. It must not know the command line.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use etcetera::BaseStrategy;
use toml::Value;

use super::keys::{Key, Kind, find};
use crate::exit::CommandError;

/// The variable that names another file.
const VARIABLE: &str = "MOELTEN_CONFIG";
/// Largest file that is read, in bytes.
const MOST: u64 = 1 << 20;

/// The values of the file.
#[derive(Debug, Default)]
pub struct Config {
    /// Where it is or would be; `None` without a home folder.
    pub path: Option<PathBuf>,
    /// By key, as an option takes them; folders are separated as in `PATH`.
    values: BTreeMap<&'static str, String>,
}

/// The configuration of this process, once it was read.
static HERE: OnceLock<Config> = OnceLock::new();

/// Reads the file of this user, once. Without a file nothing is set.
///
/// # Errors
/// A file that cannot be read, unknown keys, values of another type.
pub fn load() -> anyhow::Result<&'static Config> {
    if let Some(config) = HERE.get() {
        return Ok(config);
    }
    let path = place();
    let config = match &path {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    Ok(HERE.get_or_init(|| config))
}

/// The configuration that was read; an empty one before.
pub fn here() -> &'static Config {
    static NONE: Config = Config { path: None, values: BTreeMap::new() };
    HERE.get().unwrap_or(&NONE)
}

/// `MOELTEN_CONFIG`, or `moelten/config.toml` in the place for configurations (XDG).
pub fn place() -> Option<PathBuf> {
    let named = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let usual = || Some(etcetera::choose_base_strategy().ok()?.config_dir().join("moelten/config.toml"));
    named.or_else(usual)
}

impl Config {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let wrong = |what: String| CommandError::Usage(format!("{}: {what}", path.display()));
        let unread = |error: std::io::Error| {
            wrong(format!("the configuration cannot be read: {error}; MOELTEN_CONFIG names another file"))
        };
        let text = match std::fs::metadata(path) {
            Ok(found) if found.len() > MOST => {
                let found = moelten_loader::size::bytes(found.len());
                return Err(wrong(format!("{found} are too much for a configuration")).into());
            }
            Ok(_) => std::fs::read_to_string(path).map_err(unread)?,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                String::new()
            }
            Err(error) => return Err(unread(error).into()),
        };
        Ok(Self { path: Some(path.to_owned()), values: values(&text).map_err(wrong)? })
    }

    /// The value of a key, as an option takes it.
    pub fn value(&self, key: &Key) -> Option<&str> {
        self.values.get(key.name).map(String::as_str)
    }

    /// The default that it gives the option of a key.
    pub fn default_of(&self, key: &Key) -> Option<&str> {
        let value = self.value(key).filter(|_| !key.arg.is_empty())?;
        Some(match (key.kind, value) {
            (Kind::Opposite, "true") => "false",
            (Kind::Opposite, _) => "true",
            (_, value) => value,
        })
    }

    /// The model to open where none is named.
    pub fn model(&self) -> Option<PathBuf> {
        self.values.get("model").map(PathBuf::from)
    }

    /// Whether the last model is remembered for `moelten` alone.
    pub fn remembers_model(&self) -> bool {
        self.values.get("remember_model").is_some_and(|value| value == "true")
    }

    /// More folders of models, separated as in `PATH`.
    pub fn folders(&self) -> Option<&str> {
        self.values.get("models").map(String::as_str)
    }

    /// How messages name the place of an option's value, if the file gave it.
    pub fn blamed(&self, arg: &str) -> Option<String> {
        let key =
            super::keys::KEYS.iter().find(|key| key.arg == arg && self.values.contains_key(key.name))?;
        Some(format!("`{}` in {}", key.name, self.path.as_ref()?.display()))
    }
}

/// Checks a file's text. The error has no path.
pub fn values(text: &str) -> Result<BTreeMap<&'static str, String>, String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let mut values = BTreeMap::new();
    for (name, value) in table {
        let key = find(&name).map_err(|meant| match meant {
            Some(meant) => {
                format!("there is no key `{name}`; is `{meant}` meant? `moelten config` lists all")
            }
            None => format!("there is no key `{name}`; `moelten config` lists all"),
        })?;
        let text = match (key.kind, value) {
            (Kind::Value, Value::String(text)) => text,
            (Kind::Value, Value::Integer(number)) => number.to_string(),
            (Kind::Value, Value::Float(number)) => number.to_string(),
            (Kind::Switch | Kind::Opposite, Value::Boolean(on)) => on.to_string(),
            (Kind::Folders, Value::Array(folders)) => joined(&folders)?,
            (Kind::Value, _) => return Err(format!("`{name}` must be a text or a number")),
            (Kind::Switch | Kind::Opposite, _) => return Err(format!("`{name}` must be true or false")),
            (Kind::Folders, _) => {
                return Err(format!("`{name}` must be a list of folders: [\"/a\", \"/b\"]"));
            }
        };
        values.insert(key.name, text);
    }
    Ok(values)
}

fn joined(folders: &[Value]) -> Result<String, String> {
    let folders: Option<Vec<&str>> = folders.iter().map(Value::as_str).collect();
    let folders = folders.ok_or_else(|| "`models` must be a list of texts".to_owned())?;
    let joined = std::env::join_paths(folders).map_err(|error| format!("`models`: {error}"))?;
    joined.into_string().map_err(|_| "`models` must be UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value_is_read() {
        let text = "model = \"u/r:Q4_0\"\nram = \"6G\"\nctx = 4096\ntemp = 0.5\nhistory = false\nmodels = [\"/a\", \"/b\"]\n";
        let config = Config { path: Some("/c".into()), values: values(text).expect("sound") };
        let of = |name: &str| config.default_of(find(name).expect("a key"));
        assert_eq!((of("ram"), of("ctx"), of("temp")), (Some("6G"), Some("4096"), Some("0.5")));
        assert_eq!((of("history"), of("model"), of("threads")), (Some("true"), None, None));
        assert_eq!(config.model(), Some("u/r:Q4_0".into()));
        assert_eq!(config.folders(), Some(if cfg!(windows) { "/a;/b" } else { "/a:/b" }));
        assert_eq!(config.blamed("no_history").as_deref(), Some("`history` in /c"));
        assert!(!config.remembers_model() && config.blamed("threads").is_none());
    }

    #[test]
    fn mistakes_are_told_with_what_was_meant() {
        for (text, words) in [
            ("thread = 4", "is `threads` meant?"),
            ("zzzzzzz = 4", "there is no key `zzzzzzz`"),
            ("history = \"no\"", "`history` must be true or false"),
            ("ram = true", "`ram` must be a text or a number"),
            ("models = \"/a\"", "must be a list of folders"),
            ("ram = ", "line 1"),
        ] {
            let error = values(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
