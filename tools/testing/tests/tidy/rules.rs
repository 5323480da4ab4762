//! The rules, one function each, over files that are already read. They must not know which of them hold
//! where.

use std::collections::{BTreeMap, HashSet};

use crate::circles::Graph;
use crate::items::{documented, functions, public_types};
use crate::tree::{CRATES, Source, read, shipped};

/// Lines of a file.
pub const FILE_LINES: usize = 600;
/// Lines of a function, from `fn` to the closing bracket.
pub const FUNCTION_LINES: usize = 70;
/// Columns of a line with a comment.
pub const COMMENT_COLUMNS: usize = 110;
/// Where `unsafe` may stand.
pub const UNSAFE: [&str; 5] =
    ["quant/src/kernel", "quant/tests/", "quant/examples/", "loader/src/io", "loader/tests/loader/meter.rs"];
/// Where threads are started: in one place, and in tests of schedules, whose threads the test joins.
pub const THREADS: [&str; 4] = [
    "loader/src/supervise.rs",
    "engine/src/runtime/schedules.rs",
    "engine/src/runtime/sync/modelled.rs",
    "engine/src/experts/schedules.rs",
];
/// Words that say nothing about an item.
const STOP_WORDS: [&str; 24] = [
    "a", "an", "the", "of", "its", "it", "this", "that", "is", "are", "be", "for", "to", "in", "on", "by",
    "with", "and", "or", "as", "returns", "return", "gets", "get",
];

/// What breaks a rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// Short name of the crate.
    pub owner: &'static str,
    /// `file:line`.
    pub place: String,
    /// What is wrong and what to do.
    pub text: String,
}

fn fault(source: &Source, line: usize, text: String) -> Fault {
    Fault { owner: source.owner, place: format!("{}:{line}", source.name), text }
}

/// Crates depend in one direction.
pub fn crates(_: &[Source]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for owner in &CRATES {
        let name = format!("{}/Cargo.toml", owner.folder);
        for (index, line) in read(&name).lines().enumerate() {
            let Some(rest) = line.strip_prefix("moelten-") else { continue };
            let used = rest.split(['.', ' ', '=']).next().unwrap_or_default();
            if !owner.may_use.contains(&used) {
                let text = format!("{} must not depend on {used}; turn the dependency around", owner.name);
                faults.push(Fault { owner: owner.name, place: format!("{name}:{}", index + 1), text });
            }
        }
    }
    faults
}

/// No file uses itself by way of others.
pub fn circles(sources: &[Source]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for owner in owners(sources) {
        let graph = Graph::new(sources.iter().filter(|source| source.owner == owner));
        for (source, uses) in graph.circles() {
            let uses: Vec<_> = uses
                .iter()
                .map(|(to, (line, path))| format!("{} in line {line} (`{path}`)", to.name))
                .collect();
            let uses = uses.join(", ");
            let text = format!("import circle: uses {uses}; move what both need into a file of its own");
            faults.push(fault(source, 1, text));
        }
    }
    faults
}

fn owners(sources: &[Source]) -> Vec<&'static str> {
    let mut owners: Vec<_> = sources.iter().map(|source| source.owner).collect();
    owners.dedup();
    owners
}

/// Files are short.
pub fn files(sources: &[Source]) -> Vec<Fault> {
    let long = sources.iter().map(|source| (source, source.text.lines().count()));
    let long = long.filter(|&(_, lines)| lines > FILE_LINES);
    long.map(|(source, lines)| {
        fault(source, lines, format!("{lines} lines, more than {FILE_LINES}; split the file"))
    })
    .collect()
}

/// Every file opens with what it is.
pub fn openings(sources: &[Source]) -> Vec<Fault> {
    let silent = sources.iter().filter(|source| !source.text.starts_with("//!"));
    silent
        .map(|source| fault(source, 1, "does not open with `//!` and what the file is".to_owned()))
        .collect()
}

/// Functions are short.
pub fn functions_rule(sources: &[Source]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for source in sources {
        let code: Vec<_> = source.tokens().into_iter().filter(|token| !token.is_comment()).collect();
        for function in functions(&code).into_iter().filter(|function| function.lines > FUNCTION_LINES) {
            let (name, lines) = (function.name, function.lines);
            let text =
                format!("`{name}` has {lines} lines, more than {FUNCTION_LINES}; take parts out of it");
            faults.push(fault(source, function.line, text));
        }
    }
    faults
}

/// Comments stay within their columns.
pub fn comments(sources: &[Source]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for source in sources {
        let mut lines = HashSet::new();
        for token in source.tokens().iter().filter(|token| token.is_comment()) {
            lines.extend(token.line..=token.line + token.text.matches('\n').count());
        }
        for (index, line) in source.text.lines().enumerate().filter(|(index, _)| lines.contains(&(index + 1)))
        {
            let columns = line.chars().count();
            if columns > COMMENT_COLUMNS {
                let text =
                    format!("a comment of {columns} columns, more than {COMMENT_COLUMNS}; break the line");
                faults.push(fault(source, index + 1, text));
            }
        }
    }
    faults
}

/// `unsafe` stands in its places only.
pub fn unsafe_code(sources: &[Source]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for source in sources.iter().filter(|source| !UNSAFE.iter().any(|place| source.name.starts_with(place))) {
        for token in source.tokens().iter().filter(|token| token.is("unsafe")) {
            let text = format!("`unsafe` is allowed in {} only", UNSAFE.join(", "));
            faults.push(fault(source, token.line, text));
        }
    }
    faults
}

/// Threads are started in their places only, where a panic reaches whatever waits for them. Threads in a
/// scope may be started anywhere: the scope passes a panic on.
pub fn threads(sources: &[Source]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let elsewhere = sources.iter().filter(|source| !THREADS.contains(&source.name.as_str()));
    for source in elsewhere.filter(|source| source.in_src.is_some()) {
        let tokens = source.tokens();
        let (code, _) = shipped(&tokens);
        for (at, token) in code.iter().enumerate().filter(|(_, token)| token.is("thread")) {
            let starts =
                |words: &[&str]| words.iter().zip(&code[at + 1..]).all(|(word, token)| token.is(word));
            let statement = code[at..].iter().take_while(|token| !token.is(";"));
            let builds = [&[":", ":", "Builder"][..], &[":", ":", "{"]].into_iter().any(starts)
                && statement.clone().any(|token| token.is("Builder"))
                && !statement.clone().any(|token| token.is("spawn_scoped"));
            if starts(&[":", ":", "spawn"]) || builds {
                let text = "starts a thread whose panic is silent; use `supervised`".to_owned();
                faults.push(fault(source, token.line, text));
            }
        }
    }
    faults
}

/// A public type's name is its own within the crate. The same name twice in one file is one type for two
/// systems.
pub fn types(sources: &[Source]) -> Vec<Fault> {
    let mut named: BTreeMap<(&str, String), Vec<(&Source, usize)>> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.in_src.is_some()) {
        let tokens = source.tokens();
        for found in public_types(&shipped(&tokens).0) {
            named.entry((source.owner, found.name.to_owned())).or_default().push((source, found.line));
        }
    }
    let mut faults = Vec::new();
    for ((_, name), places) in named {
        let first = places[0].0;
        if places.iter().any(|(source, _)| source.name != first.name) {
            let all: Vec<_> = places.iter().map(|(source, line)| format!("{}:{line}", source.name)).collect();
            let text =
                format!("`{name}` names {} public types: {}; rename all but one", all.len(), all.join(", "));
            faults.push(fault(first, places[0].1, text));
        }
    }
    faults
}

/// Documentation says more than the name of its item.
pub fn docs(sources: &[Source]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for source in sources {
        let tokens = source.tokens();
        for found in documented(&tokens) {
            let (said, named) = (words(&found.text), words(&spaced(found.name)));
            if said.iter().all(|word| named.contains(word)) {
                let said = found.text.trim();
                let text =
                    format!("`/// {said}` on `{}` only repeats the name; say more or remove it", found.name);
                faults.push(fault(source, found.line, text));
            }
        }
    }
    faults
}

/// `SomeName` as `Some Name`.
fn spaced(name: &str) -> String {
    let mut out = String::new();
    for character in name.chars() {
        if character.is_uppercase() {
            out.push(' ');
        }
        out.push(character);
    }
    out
}

/// The words of a text in small letters and singular, without those that say nothing.
fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let words = words.map(str::to_lowercase).filter(|word| !STOP_WORDS.contains(&word.as_str()));
    words.map(|word| word.strip_suffix('s').map_or_else(|| word.clone(), str::to_owned)).collect()
}

/// Families are data: a table without functions, whose names and tensors the engine does not know.
pub fn families(sources: &[Source]) -> Vec<Fault> {
    const NAMES: [&str; 8] =
        ["\"llama", "\"mixtral", "\"qwen", "\"olmoe", "\"granite", "\"phi", "\"mistral", ".weight\""];
    let mut faults = Vec::new();
    for source in sources.iter().filter(|source| source.in_src.is_some()) {
        let tokens = source.tokens();
        let (code, _) = shipped(&tokens);
        if source.name.starts_with("loader/src/families") {
            let functions = code.iter().filter(|token| token.is("fn"));
            faults.extend(functions.map(|token| {
                fault(source, token.line, "a function in the table of families; make it data".to_owned())
            }));
        }
        if source.owner == "engine" {
            let texts = code.iter().filter(|token| NAMES.iter().any(|name| token.text.contains(name)));
            faults.extend(texts.map(|token| {
                let text = format!("the engine knows {} by name; put what differs into the spec", token.text);
                fault(source, token.line, text)
            }));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(rule: fn(&[Source]) -> Vec<Fault>, files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<_> = files.iter().map(|(name, text)| Source::example(name, text)).collect();
        rule(&sources).into_iter().map(|fault| fault.place).collect()
    }

    #[test]
    fn long_files_functions_and_comments_are_faults() {
        let lines = |count: usize| "\n".repeat(count);
        assert_eq!(places(files, &[("a.rs", &lines(600)), ("b.rs", &lines(601))]), ["b.rs:601"]);
        let function = |count: usize| format!("\nfn f() {{{}}}", lines(count - 1));
        assert_eq!(places(functions_rule, &[("a.rs", &function(70)), ("b.rs", &function(71))]), ["b.rs:2"]);
        let comment = |columns: usize| {
            format!("let x = \"{}\";\n  // {}", "x".repeat(200), "\u{e9}".repeat(columns - 5))
        };
        assert_eq!(places(comments, &[("a.rs", &comment(110)), ("b.rs", &comment(111))]), ["b.rs:2"]);
        assert_eq!(places(openings, &[("a.rs", "//! A."), ("b.rs", "// B.")]), ["b.rs:1"]);
    }

    #[test]
    fn unsafe_outside_of_its_places_is_a_fault() {
        let code = "// unsafe\nfn f() { \"unsafe\"; }\nunsafe fn g() {}";
        assert_eq!(places(unsafe_code, &[("a.rs", code), ("quant/src/kernel/b.rs", code)]), ["a.rs:3"]);
    }

    #[test]
    fn threads_outside_of_their_places_are_faults() {
        let free = "fn f() { std::thread::spawn(g); }\nuse std::thread::{self, Builder};\n\
                    fn h() { thread::Builder::new().name(n).spawn(g); }";
        let scoped = "fn f() { std::thread::scope(|s| { s.spawn(g); thread::Builder::new().spawn_scoped(s, g); }) }\n\
                      use std::thread::{self, JoinHandle}; #[cfg(test)] mod tests { fn f() { thread::spawn(g); } }";
        assert_eq!(places(threads, &[("a.rs", free), ("b.rs", scoped)]), ["a.rs:1", "a.rs:2", "a.rs:3"]);
        assert_eq!(places(threads, &[(THREADS[0], free)]), [""; 0]);
    }

    #[test]
    fn one_name_for_two_types_is_a_fault() {
        let twice = "#[cfg(unix)] pub struct A; #[cfg(windows)] pub struct A;";
        assert_eq!(
            places(types, &[("a.rs", twice), ("b.rs", "struct A; #[cfg(test)] mod t { pub struct A; }")]),
            [""; 0]
        );
        assert_eq!(places(types, &[("a.rs", twice), ("b.rs", "pub(crate) enum A {}")]), ["a.rs:1"]);
    }

    #[test]
    fn documentation_that_repeats_a_name_is_a_fault() {
        let code = "/// The models.\nfn model() {}\n/// Of the model: its tokens.\nfn model_token() {}\n/// Loads a model.\nfn model() {}\n\
                    struct S {\n/// Returns.\nx: u8 }";
        assert_eq!(places(docs, &[("a.rs", code)]), ["a.rs:1", "a.rs:3", "a.rs:8"]);
    }
}
