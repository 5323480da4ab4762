//! The keys of the configuration file, as data.

use moelten_loader::near::distance;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text or a number, as the option takes it.
    Value,
    /// `true` or `false`.
    Switch,
    /// `true` or `false`, the opposite of the option's.
    Opposite,
    /// A list of folders.
    Folders,
}

/// A key and the option whose default it is.
#[derive(Debug)]
pub struct Key {
    /// As it stands in the file.
    pub name: &'static str,
    /// The option's id on the command line; empty if there is none.
    pub arg: &'static str,
    /// The environment variable that counts more.
    pub variable: Option<&'static str>,
    /// What its value is.
    pub kind: Kind,
    /// What holds without it, in words.
    pub otherwise: &'static str,
    /// Commands whose option of this name has its own default.
    pub skips: &'static [&'static str],
}

const fn option(name: &'static str, variable: Option<&'static str>, otherwise: &'static str) -> Key {
    Key { name, arg: name, variable, kind: Kind::Value, otherwise, skips: &[] }
}

const MODEL: &str = "what the model recommends";

/// All keys, in the order in which they are shown.
pub const KEYS: &[Key] = &[
    Key { arg: "", ..option("model", Some("MOELTEN_MODEL"), "the built-in one") },
    Key { arg: "", kind: Kind::Switch, ..option("remember_model", None, "false") },
    Key { arg: "", kind: Kind::Folders, ..option("models", Some("MOELTEN_MODELS"), "none") },
    option("ram", Some("MOELTEN_RAM"), "auto"),
    option("ctx", Some("MOELTEN_CTX"), "what model and memory allow"),
    Key { skips: &["logits"], ..option("kv", None, "f16") },
    option("threads", Some("MOELTEN_THREADS"), "one per performance core"),
    option("pin", Some("MOELTEN_PIN"), "auto"),
    option("io", Some("MOELTEN_IO"), "auto"),
    option("prefetch", Some("MOELTEN_PREFETCH"), "auto"),
    #[cfg(feature = "gpu")]
    option("gpu", Some("MOELTEN_GPU"), "auto"),
    #[cfg(feature = "gpu")]
    option("vram", Some("MOELTEN_VRAM"), "auto"),
    #[cfg(feature = "gpu")]
    option("gpu_exact", Some("MOELTEN_GPU_EXACT"), "on"),
    option("system", None, "none"),
    option("theme", Some("MOELTEN_THEME"), "what the terminal reports"),
    option("color", None, "auto"),
    Key { kind: Kind::Switch, ..option("plain", Some("MOELTEN_PLAIN"), "false") },
    Key { arg: "no_history", kind: Kind::Opposite, ..option("history", None, "true") },
    option("temp", Some("MOELTEN_TEMP"), MODEL),
    option("top_k", None, MODEL),
    option("top_p", None, MODEL),
    option("min_p", None, MODEL),
    option("repeat_penalty", None, MODEL),
    option("seed", Some("MOELTEN_SEED"), "random"),
    option("max_tokens", Some("MOELTEN_MAX_TOKENS"), "up to the end of the context"),
];

/// The key of this name, or the one that was probably meant.
///
/// # Errors
/// No such key; a similar one, if there is one.
pub fn find(name: &str) -> Result<&'static Key, Option<&'static str>> {
    let plain = name.replace('-', "_");
    match KEYS.iter().find(|key| key.name == plain) {
        Some(key) => Ok(key),
        None => Err(similar(&plain)),
    }
}

/// The key that differs in the fewest letters, if these are few.
fn similar(name: &str) -> Option<&'static str> {
    let most = 1 + name.len() / 4;
    let near = KEYS.iter().map(|key| (distance(name, key.name), key.name)).min()?;
    let begins = || KEYS.iter().find(|key| key.name.starts_with(name) || name.starts_with(key.name));
    if near.0 <= most { Some(near.1) } else { begins().map(|key| key.name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_key_that_was_meant() {
        for (typed, meant) in
            [("thread", "threads"), ("tmep", "temp"), ("context", "ctx"), ("max-token", "max_tokens")]
        {
            let found = find(typed).expect_err("a slip");
            assert!(found == Some(meant) || (typed == "context" && found.is_none()), "{typed}: {found:?}");
        }
        assert_eq!(find("colour").expect_err("a slip"), Some("color"));
        assert_eq!(find("max-tokens").expect("both spellings").name, "max_tokens");
        assert_eq!(find("zzzzzz").expect_err("no key"), None);
        assert_eq!((distance("abc", "abc"), distance("abc", "acd"), distance("", "xy")), (0, 2, 2));
    }
}
