//! The crates of the tree and their files. It must not know the rules.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::lex::{Token, tokens};

/// A crate: its short name, which is that of its package without `moelten-`; its folder; what it may use.
#[derive(Debug)]
pub struct Crate {
    /// Short name.
    pub name: &'static str,
    /// Folder below the root.
    pub folder: &'static str,
    /// Short names of the crates that it may depend on.
    pub may_use: &'static [&'static str],
}

/// All crates, in their one direction.
pub const CRATES: [Crate; 9] = [
    Crate { name: "testing", folder: "tools/testing", may_use: &[] },
    Crate { name: "quant", folder: "quant", may_use: &["testing"] },
    Crate { name: "gpu", folder: "gpu", may_use: &["testing", "quant"] },
    Crate { name: "loader", folder: "loader", may_use: &["testing", "quant"] },
    Crate { name: "engine", folder: "engine", may_use: &["testing", "quant", "loader"] },
    Crate { name: "tui", folder: "tui", may_use: &["testing", "quant", "loader", "engine"] },
    Crate { name: "hub", folder: "tools/hub", may_use: &["testing", "quant", "loader"] },
    Crate {
        name: "tools",
        folder: "tools",
        may_use: &["testing", "quant", "loader", "engine", "tui", "hub", "gpu"],
    },
    Crate { name: "fuzz", folder: "fuzz", may_use: &["quant", "loader", "engine", "tui"] },
];

/// Folders of a crate that hold source.
const FOLDERS: [&str; 5] = ["src", "tests", "examples", "benches", "fuzz_targets"];

/// A file of Rust source.
#[derive(Debug)]
pub struct Source {
    /// Short name of its crate.
    pub owner: &'static str,
    /// Path from the root, with `/`.
    pub name: String,
    /// Path from the crate's `src`, without `.rs`, if it is there.
    pub in_src: Option<Vec<String>>,
    /// All of it.
    pub text: String,
}

impl Source {
    /// A file that is not on the disk, for tests of the rules: `name` is a path below the crate's `src`.
    pub fn example(name: &str, text: &str) -> Self {
        let in_src = Some(name.trim_end_matches(".rs").split('/').map(str::to_owned).collect());
        Self { owner: "example", name: name.to_owned(), in_src, text: text.to_owned() }
    }

    /// Code and comments, in order.
    pub fn tokens(&self) -> Vec<Token<'_>> {
        tokens(&self.text)
    }

    /// Its module's path; empty for the root of the crate. `None` outside of `src`.
    pub fn module(&self) -> Option<&[String]> {
        let path = self.in_src.as_deref()?;
        let (last, folders) = path.split_last()?;
        match last.as_str() {
            "lib" | "main" if folders.is_empty() => Some(&[]),
            "mod" => Some(folders),
            _ => Some(path),
        }
    }
}

/// The folder of the workspace.
pub fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two above").to_owned()
    });
    &ROOT
}

/// A file of the tree.
pub fn read(name: &str) -> String {
    let path = root().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file of every crate, in order of the crates and of their names.
pub fn sources() -> &'static [Source] {
    static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
        let all: Vec<_> = CRATES.iter().flat_map(of_crate).collect();
        assert!(all.len() > 200, "the walk finds the sources");
        all
    });
    &SOURCES
}

fn of_crate(owner: &Crate) -> Vec<Source> {
    let mut found = Vec::new();
    for folder in FOLDERS {
        let start = root().join(owner.folder).join(folder);
        let mut folders = vec![start.clone()];
        while let Some(folder_now) = folders.pop() {
            for entry in fs::read_dir(&folder_now).into_iter().flatten() {
                let path = entry.expect("a folder of the tree can be listed").path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let in_src = (folder == "src").then(|| parts(&path.with_extension(""), &start));
                    let name = parts(&path, root()).join("/");
                    found.push(Source { owner: owner.name, text: read(&name), name, in_src });
                }
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn parts(path: &Path, below: &Path) -> Vec<String> {
    let path = path.strip_prefix(below).expect("the walk began there");
    path.iter().map(|part| part.to_string_lossy().into_owned()).collect()
}

/// The tokens of code that is not only for tests, without comments, and the names of the modules that are.
pub fn shipped<'a>(tokens: &[Token<'a>]) -> (Vec<Token<'a>>, Vec<&'a str>) {
    let code: Vec<Token<'a>> = tokens.iter().filter(|token| !token.is_comment()).copied().collect();
    let (mut kept, mut test_modules, mut at) = (Vec::new(), Vec::new(), 0);
    while at < code.len() {
        let Some(end) = test_attribute(&code[at..]) else {
            kept.push(code[at]);
            at += 1;
            continue;
        };
        let item = at + end;
        at = item + item_length(&code[item..]);
        let words = code[item..at].windows(3);
        let declared = words.filter(|w| w[0].is("mod") && w[2].is(";")).map(|w| w[1].text);
        test_modules.extend(declared);
    }
    (kept, test_modules)
}

/// The length of `#[cfg(test)]` or `#[cfg(all(test, ...))]`, if the tokens begin with one.
fn test_attribute(code: &[Token<'_>]) -> Option<usize> {
    let starts = |words: &[&str]| code.len() > words.len() && words.iter().zip(code).all(|(w, t)| t.is(w));
    if starts(&["#", "[", "cfg", "(", "test", ")", "]"]) {
        return Some(7);
    }
    starts(&["#", "[", "cfg", "(", "all", "(", "test"]).then(|| group(&code[1..]) + 1)
}

/// The length of what the opening bracket at the beginning closes, the brackets included.
pub fn group(code: &[Token<'_>]) -> usize {
    let mut depth = 0;
    for (at, token) in code.iter().enumerate() {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

/// The length of the item that the tokens begin with, its further attributes included.
fn item_length(code: &[Token<'_>]) -> usize {
    let mut at = 0;
    while code.get(at).is_some_and(|token| token.is("#")) {
        at += 1 + group(&code[at + 1..]);
    }
    const ITEMS: [&str; 14] = [
        "pub", "fn", "mod", "use", "struct", "enum", "trait", "impl", "const", "static", "type", "unsafe",
        "async", "extern",
    ];
    let is_item = code.get(at).is_some_and(|first| ITEMS.iter().any(|word| first.is(word)));
    while let Some(token) = code.get(at) {
        match token.text {
            ";" => return at + 1,
            "," if !is_item => return at + 1,
            ")" | "]" | "}" => return at,
            "{" => return at + group(&code[at..]),
            "(" | "[" => at += group(&code[at..]),
            _ => at += 1,
        }
    }
    at
}

#[test]
fn what_is_only_for_tests_is_left_out() {
    let source = "fn a() -> [u8; 2] { x } #[cfg(test)] mod tests; #[cfg(test)] #[allow(y)] fn b<T, U>(c: [T; 2]) { z }\
                  struct S { #[cfg(test)] only: u8, kept: u8 } #[cfg(all(test, unix))] mod more { q } const C: u8 = 1;";
    let (kept, modules) = shipped(&tokens(source));
    let words: Vec<_> = kept.iter().filter(|t| t.kind == crate::lex::Kind::Word).map(|t| t.text).collect();
    assert_eq!(words, ["fn", "a", "u8", "x", "struct", "S", "kept", "u8", "const", "C", "u8"]);
    assert_eq!(modules, ["tests"]);
}
