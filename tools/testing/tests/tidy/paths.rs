//! What a file declares, imports and mentions, by module. It must not know other files.

use std::collections::{HashMap, HashSet};

use crate::lex::{Kind, Token};
use crate::tree::group;

/// A path of names.
pub type Path = Vec<String>;

/// What a module declares and imports.
#[derive(Debug, Default)]
pub struct Scope {
    /// Modules in it, in files of their own or not.
    pub children: HashSet<String>,
    /// Types, functions, constants and macros in it.
    pub items: HashSet<String>,
    /// Imported names and the paths that they stand for.
    pub imports: HashMap<String, Path>,
    /// Paths before `::*`.
    pub globs: Vec<Path>,
}

/// A path in code or in a `use`.
#[derive(Debug)]
pub struct Mention {
    /// The module that it stands in.
    pub module: Path,
    /// The path, as it is written.
    pub path: Path,
    /// Whether `::*` is behind it.
    pub glob: bool,
    /// Its line, from 1.
    pub line: usize,
}

/// What was found in a file.
#[derive(Debug, Default)]
pub struct FileScan {
    /// Its modules, the file's own first.
    pub scopes: Vec<(Path, Scope)>,
    /// Its paths.
    pub mentions: Vec<Mention>,
    /// Every word and the first line that it is on.
    pub words: HashMap<String, usize>,
    /// Whether it has nothing but declarations of modules and imports in it.
    pub only_declares: bool,
}

/// Words before the name of an item.
const ITEMS: [&str; 8] = ["struct", "enum", "trait", "fn", "const", "static", "type", "union"];

/// Reads the tokens of a file, which is `module`, without comments and tests.
pub fn scan(code: &[Token<'_>], module: &[String]) -> FileScan {
    let mut scan = FileScan { only_declares: true, ..FileScan::default() };
    let mut reader = Reader { scan: &mut scan, open: Vec::new(), scopes: vec![0] };
    reader.scan.scopes.push((module.to_vec(), Scope::default()));
    let mut at = 0;
    while at < code.len() {
        at += reader.step(&code[at..], &code[..at]);
    }
    scan
}

struct Reader<'a> {
    scan: &'a mut FileScan,
    /// For each open bracket whether it is that of a module.
    open: Vec<bool>,
    /// Indices of the modules around the current place.
    scopes: Vec<usize>,
}

impl Reader<'_> {
    /// Takes what `rest` begins with; returns how many tokens that is.
    fn step(&mut self, rest: &[Token<'_>], before: &[Token<'_>]) -> usize {
        let token = rest[0];
        let next = |offset: usize, text: &str| rest.get(offset).is_some_and(|token| token.is(text));
        if token.is("#") {
            let inner = usize::from(next(1, "!"));
            return 1 + inner + rest.get(1 + inner..).map_or(0, group);
        }
        if token.is("use") && !next(1, "<") {
            let end = rest.iter().position(|token| token.is(";")).unwrap_or(rest.len() - 1);
            self.tree(&rest[1..end], &Path::new(), token.line);
            return end + 1;
        }
        if token.is("mod") && rest.len() > 2 && rest[1].kind == Kind::Word {
            return self.module(rest);
        }
        if token.is("pub") {
            return 1 + if next(1, "(") { group(&rest[1..]) } else { 0 };
        }
        self.scan.only_declares = false;
        self.item(rest);
        match token.text {
            "{" => self.open.push(false),
            "}" if self.open.pop() == Some(true) => drop(self.scopes.pop()),
            _ => {}
        }
        if token.kind != Kind::Word {
            return 1;
        }
        self.scan.words.entry(token.text.to_owned()).or_insert(token.line);
        let continues = before.last().is_some_and(|token| token.is(":"))
            && before.iter().nth_back(1).is_some_and(|token| token.is(":"));
        if continues {
            return 1;
        }
        let (path, taken) = path(rest);
        if path.len() > 1 {
            let module = self.here().0.clone();
            self.scan.mentions.push(Mention { module, path, glob: false, line: token.line });
        }
        taken
    }

    fn here(&mut self) -> &mut (Path, Scope) {
        let index = *self.scopes.last().expect("the file's own stays");
        &mut self.scan.scopes[index]
    }

    fn module(&mut self, rest: &[Token<'_>]) -> usize {
        let name = rest[1].text.to_owned();
        self.here().1.children.insert(name.clone());
        if rest[2].is("{") {
            self.scan.only_declares = false;
            let mut path = self.here().0.clone();
            path.push(name);
            self.open.push(true);
            self.scopes.push(self.scan.scopes.len());
            self.scan.scopes.push((path, Scope::default()));
        }
        3
    }

    /// Notes the name of the item that `rest` begins with, if one begins here.
    fn item(&mut self, rest: &[Token<'_>]) {
        if self.open.iter().any(|&module| !module) {
            return;
        }
        let name = match rest {
            [word, name, ..] if ITEMS.iter().any(|item| word.is(item)) => name,
            [word, _, name, ..] if word.is("macro_rules") => name,
            _ => return,
        };
        if name.kind == Kind::Word {
            self.here().1.items.insert(name.text.to_owned());
        }
    }

    /// Takes a part of a `use`, which stands behind `prefix`.
    fn tree(&mut self, part: &[Token<'_>], prefix: &Path, line: usize) {
        let mut path = prefix.clone();
        let mut at = 0;
        while let Some(token) = part.get(at) {
            match token.text {
                "{" => {
                    let inner = &part[at + 1..at + group(&part[at..]) - 1];
                    split(inner).into_iter().for_each(|branch| self.tree(branch, &path, line));
                    return;
                }
                "*" => return self.leaf(path, None, line),
                "as" => {
                    let name = part.get(at + 1).map_or("_", |name| name.text);
                    return self.leaf(path, Some(name.to_owned()), line);
                }
                ":" => {}
                // `a::{self}` is `a`.
                "self" if !path.is_empty() => {}
                name => path.push(name.to_owned()),
            }
            at += 1;
        }
        if let Some(name) = path.last().cloned() {
            self.leaf(path, Some(name), line);
        }
    }

    fn leaf(&mut self, path: Path, name: Option<String>, line: usize) {
        let (module, scope) = self.here();
        let (module, glob) = (module.clone(), name.is_none());
        match name {
            Some(name) => drop(scope.imports.insert(name, path.clone())),
            None => scope.globs.push(path.clone()),
        }
        self.scan.mentions.push(Mention { module, path, glob, line });
    }
}

/// The parts between commas that are in no inner brackets.
fn split<'a, 'b>(mut part: &'a [Token<'b>]) -> Vec<&'a [Token<'b>]> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(token) = part.get(at) {
        if token.is("{") {
            at += group(&part[at..]);
        } else if token.is(",") {
            found.push(&part[..at]);
            (part, at) = (&part[at + 1..], 0);
        } else {
            at += 1;
        }
    }
    found.push(part);
    found
}

/// The path that the tokens begin with, up to its first generic argument, and how many tokens it is.
fn path(rest: &[Token<'_>]) -> (Path, usize) {
    let (mut path, mut at) = (vec![rest[0].text.to_owned()], 1);
    while let [first, second, name, ..] = &rest[at..]
        && first.is(":")
        && second.is(":")
        && name.kind == Kind::Word
    {
        path.push(name.text.to_owned());
        at += 3;
    }
    (path, at)
}
