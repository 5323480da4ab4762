//! `moelten --version --verbose`: what a report of a fault needs to name. It must not open a model.

use std::fmt::Write as _;

use moelten_quant::Isa;

use crate::models::Places;
use crate::open::loops;
use crate::{config, names};

/// The commit that the program was built from, where the build said so.
const COMMIT: Option<&str> = option_env!("MOELTEN_COMMIT");

/// Whether a command line asks for the version with everything about it.
pub fn is_asked(words: &[String]) -> bool {
    let has = |long: &str, short: &str| words.iter().any(|word| word == long || word == short);
    let known =
        |word: &String| matches!(word.as_str(), "--version" | "-V" | "--verbose" | "-v" | "--quiet" | "-q");
    words.iter().all(known) && has("--version", "-V") && has("--verbose", "-v")
}

/// Version, commit, instruction sets, loops, and the paths that the program uses.
pub fn text() -> String {
    let mut out = String::new();
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(out, "{name:<12} {value}");
    };
    row("moelten", env!("CARGO_PKG_VERSION"));
    row("commit", COMMIT.unwrap_or("unknown"));
    row("target", &format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS));
    let sets: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
    row("instructions", &sets.join(" "));
    row("loops", &loops::loops().map_or_else(|error| error.to_string(), |loops| loops.origin.clone()));
    let path =
        config::here().path.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string());
    row("config", &path);
    let cache = names::hub().map(|hub| hub.settings().cache.display().to_string());
    row("downloads", &cache.unwrap_or_else(|error| error.to_string()));
    for folder in Places::here().folders() {
        row("models", &folder);
    }
    out
}
