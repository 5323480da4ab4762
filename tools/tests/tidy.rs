//! The tree's own rules: which crate may use which, where `unsafe` may stand, how long a file may be, what each file
//! opens with, that families are data.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// The crates in their one direction: each may use those before it.
const ORDER: [&str; 5] = ["quant", "loader", "engine", "tui", "tools"];
/// Lines that a person reads in one sitting.
const LINES_MAX: usize = 650;
/// Where `unsafe` is allowed: kernels, and mapping files.
const UNSAFE_ALLOWED: [&str; 2] = ["quant/src/kernel", "loader/src/io"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file below a folder of each crate, with its path from the root.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = ORDER.iter().map(|name| root().join(name).join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().display().to_string();
                files.push((name, read(&path)));
            }
        }
    }
    assert!(folder != "src" || files.len() > 30, "the walk finds the sources");
    files
}

#[test]
fn crates_depend_in_one_direction() {
    for (place, name) in ORDER.iter().enumerate() {
        let manifest = read(&root().join(name).join("Cargo.toml"));
        let used: Vec<&str> = manifest.lines().filter_map(|line| line.strip_prefix("moelten-")).collect();
        assert!(place == 0 || !used.is_empty(), "{name} uses nothing");
        for line in used {
            let other = line.split(['.', ' ', '=']).next().unwrap();
            assert!(ORDER[..place].contains(&other), "{name} must not depend on {other}");
        }
    }
}

#[test]
fn unsafe_code_stays_in_its_places() {
    for (name, text) in sources("src") {
        let allowed = UNSAFE_ALLOWED.iter().any(|place| name.starts_with(place));
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code.filter(|_| !allowed) {
            let found = ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|word| line.contains(word));
            assert!(!found, "{name}: {line}");
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut long = Vec::new();
    for (name, text) in sources("src").into_iter().chain(sources("tests")) {
        assert!(text.starts_with("//!"), "{name} does not open with what it is");
        if text.lines().count() > LINES_MAX {
            long.push(name);
        }
    }
    assert!(long.is_empty(), "longer than {LINES_MAX} lines: {long:?}");
}

#[test]
fn families_are_data() {
    let families = read(&root().join("loader/src/families.rs"));
    let table = families.split("#[cfg(test)]").next().unwrap();
    assert!(!table.contains("fn "), "the family table has a function in it");
    for (name, text) in sources("src").iter().filter(|(name, _)| name.starts_with("engine/")) {
        let code = text.split("#[cfg(test)]").next().unwrap();
        for label in ["\"llama", "\"mixtral", "\"qwen", "\"olmoe", "\"granite", "\"phi", "\"mistral"] {
            assert!(!code.contains(label), "{name} knows a family by name");
        }
        assert!(!code.contains(".weight\""), "{name} knows a tensor by name");
    }
}
