//! Which file of a crate uses which, and the circles among them. Re-exports are followed to what they stand
//! for. It must not know how files are read.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::paths::{FileScan, Path, Scope, scan};
use crate::tree::{Source, shipped};

/// Re-exports that are followed one after the other.
const FUEL: u8 = 16;

/// A file's use of another: the line, from 1, and what it is called there.
pub type Edge = (usize, String);

/// The files of a crate's `src` and what they use of each other.
#[derive(Debug)]
pub struct Graph<'a> {
    files: Vec<&'a Source>,
    scans: Vec<FileScan>,
    /// For each module its file and what it declares.
    scopes: HashMap<Path, (usize, usize)>,
    /// For each file the files that it uses.
    edges: Vec<BTreeMap<usize, Edge>>,
}

/// Where a path leads.
struct Place {
    module: Path,
    /// It is the module itself.
    whole: bool,
}

impl<'a> Graph<'a> {
    /// Reads the files of one crate; those outside of `src` and those that are only for tests are left out.
    pub fn new(sources: impl Iterator<Item = &'a Source>) -> Self {
        let mut all = Vec::new();
        let mut tests: HashSet<Path> = HashSet::new();
        for source in sources {
            let Some(module) = source.module() else { continue };
            let tokens = source.tokens();
            let (code, test_modules) = shipped(&tokens);
            tests.extend(test_modules.into_iter().map(|name| [module, &[name.to_owned()]].concat()));
            all.push((source, scan(&code, module)));
        }
        let for_tests = |source: &Source| {
            let module = source.module().unwrap_or_default();
            (1..=module.len()).any(|end| tests.contains(&module[..end]))
        };
        all.retain(|(source, _)| !for_tests(source));
        let (files, scans): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let mut graph =
            Self { edges: vec![BTreeMap::new(); files.len()], scopes: HashMap::new(), files, scans };
        for (file, scan) in graph.scans.iter().enumerate() {
            let scopes = scan.scopes.iter().enumerate();
            graph.scopes.extend(scopes.map(|(index, (path, _))| (path.clone(), (file, index))));
        }
        (0..graph.files.len()).for_each(|file| graph.edges[file] = graph.uses(file));
        graph
    }

    fn scope(&self, module: &[String]) -> Option<&Scope> {
        let &(file, index) = self.scopes.get(module)?;
        Some(&self.scans[file].scopes[index].1)
    }

    /// What a file uses.
    fn uses(&self, file: usize) -> BTreeMap<usize, Edge> {
        let mut edges = BTreeMap::new();
        let mut add = |module: &Path, line: usize, path: &[String]| {
            let Some(&(to, _)) = self.scopes.get(module) else { return };
            if to != file && !self.scans[to].only_declares {
                edges.entry(to).or_insert_with(|| (line, path.join("::")));
            }
        };
        if self.scans[file].only_declares {
            return edges;
        }
        for mention in &self.scans[file].mentions {
            let Some(place) = self.locate(&mention.module, &mention.path, FUEL) else { continue };
            add(&place.module, mention.line, &mention.path);
            let Some(scope) = self.scope(&place.module).filter(|_| mention.glob && place.whole) else {
                continue;
            };
            // What a glob brings from elsewhere counts where it is named.
            for (name, path) in &scope.imports {
                let Some(&line) = self.scans[file].words.get(name) else { continue };
                if let Some(place) = self.locate(&place.module, path, FUEL) {
                    add(&place.module, line, path);
                }
            }
        }
        edges
    }

    /// Where `path` leads that stands in `module`; `None` if that is no module of this crate.
    fn locate(&self, module: &[String], path: &[String], fuel: u8) -> Option<Place> {
        let fuel = fuel.checked_sub(1)?;
        let (head, rest) = path.split_first()?;
        match head.as_str() {
            "crate" => self.inside(&[], rest, fuel),
            "self" => self.inside(module, rest, fuel),
            "super" => {
                let (_, above) = module.split_last()?;
                // What follows may be `super` again.
                let again = [&["self".to_owned()], rest].concat();
                let path = if rest.first().is_some_and(|next| next == "super") { rest } else { &again };
                self.locate(above, path, fuel)
            }
            _ => {
                let scope = self.scope(module)?;
                if scope.children.contains(head) {
                    return self.inside(module, path, fuel);
                }
                let import = scope.imports.get(head).filter(|import| *import != path)?;
                self.locate(module, &[import.as_slice(), rest].concat(), fuel)
            }
        }
    }

    fn inside(&self, module: &[String], rest: &[String], fuel: u8) -> Option<Place> {
        let fuel = fuel.checked_sub(1)?;
        let scope = self.scope(module)?;
        let here = |whole| Some(Place { module: module.to_vec(), whole });
        let Some((name, further)) = rest.split_first() else { return here(true) };
        let child = [module, std::slice::from_ref(name)].concat();
        if self.scopes.contains_key(&child) {
            return self.inside(&child, further, fuel);
        }
        if scope.items.contains(name) {
            return here(false);
        }
        if let Some(import) = scope.imports.get(name) {
            return self.locate(module, &[import.as_slice(), further].concat(), fuel);
        }
        for glob in &scope.globs {
            let Some(place) = self.locate(module, glob, fuel).filter(|place| place.whole) else { continue };
            let known = self.scope(&place.module).is_some_and(|scope| {
                scope.items.contains(name)
                    || scope.imports.contains_key(name)
                    || scope.children.contains(name)
            });
            if known && place.module != module {
                return self.inside(&place.module, rest, fuel);
            }
        }
        here(false)
    }

    /// The files that reach themselves, each with the other files of its circles that it uses.
    pub fn circles(&self) -> Vec<(&'a Source, Vec<(&'a Source, Edge)>)> {
        let reached: Vec<HashSet<usize>> = (0..self.files.len()).map(|file| self.reached(file)).collect();
        let mut found = Vec::new();
        for (file, edges) in self.edges.iter().enumerate().filter(|&(file, _)| reached[file].contains(&file))
        {
            let back = edges.iter().filter(|&(&to, _)| reached[to].contains(&file));
            let uses = back.map(|(&to, edge)| (self.files[to], edge.clone())).collect();
            found.push((self.files[file], uses));
        }
        found
    }

    fn reached(&self, from: usize) -> HashSet<usize> {
        let (mut found, mut open) = (HashSet::new(), vec![from]);
        while let Some(file) = open.pop() {
            open.extend(self.edges[file].keys().filter(|&&to| found.insert(to)));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of these files are in circles.
    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<_> = files.iter().map(|(name, text)| Source::example(name, text)).collect();
        let graph = Graph::new(sources.iter());
        graph.circles().into_iter().map(|(source, _)| source.name.clone()).collect()
    }

    #[test]
    fn two_files_that_use_each_other_are_a_circle() {
        let lib = ("lib.rs", "mod a; mod b; mod c;");
        let b = ("b.rs", "pub struct B; fn f() { crate::a::f() }");
        assert_eq!(circles(&[lib, ("a.rs", "use crate::b::B; pub fn f() {}"), b]), ["a.rs", "b.rs"]);
        assert_eq!(circles(&[lib, ("a.rs", "use super::b; pub fn f() { b::B }"), b]), ["a.rs", "b.rs"]);
        assert_eq!(circles(&[lib, ("a.rs", "pub fn f() {}"), b]), [""; 0]);
        let c = ("c.rs", "use crate::{b::{self, B as X}, std}; pub struct C;");
        assert_eq!(
            circles(&[lib, ("a.rs", "use crate::c::C; pub fn f() {}"), b, c]),
            ["a.rs", "b.rs", "c.rs"]
        );
    }

    #[test]
    fn a_child_that_uses_its_parent_is_a_circle_unless_the_parent_only_declares() {
        let child = ("a/x.rs", "use super::A; pub struct X;");
        let lib = ("lib.rs", "mod a;");
        assert_eq!(circles(&[lib, ("a.rs", "mod x; use x::X; pub struct A;"), child]), ["a.rs", "a/x.rs"]);
        assert_eq!(circles(&[lib, ("a.rs", "mod x; pub struct A;"), child]), [""; 0]);
        let sibling = ("a/y.rs", "pub struct A;");
        assert_eq!(
            circles(&[lib, ("a.rs", "mod x; mod y; pub use self::{x::X, y::A};"), child, sibling]),
            [""; 0]
        );
    }

    #[test]
    fn re_exports_are_followed() {
        let parent = ("a.rs", "//! A.\nmod x;\nmod y;\npub use x::X;\npub use y::*;");
        let x = ("a/x.rs", "use crate::a::Y; pub struct X;");
        let lib = ("lib.rs", "mod a;");
        assert_eq!(
            circles(&[lib, parent, x, ("a/y.rs", "pub struct Y; use super::X;")]),
            ["a/x.rs", "a/y.rs"]
        );
        assert_eq!(
            circles(&[lib, parent, x, ("a/y.rs", "use super::*; pub struct Y(X);")]),
            ["a/x.rs", "a/y.rs"]
        );
        assert_eq!(circles(&[lib, parent, x, ("a/y.rs", "use super::*; pub struct Y;")]), [""; 0]);
    }

    #[test]
    fn tests_and_inline_modules_do_not_count_as_files() {
        let lib = ("lib.rs", "mod a; mod b;");
        let a =
            ("a.rs", "use crate::b::B; pub struct A; mod inner { use super::A; } #[cfg(test)] mod tests;");
        let tests = ("a/tests.rs", "use super::*;");
        let b = ("b.rs", "pub struct B; #[cfg(test)] mod tests { use crate::a::A; }");
        assert_eq!(circles(&[lib, a, tests, b]), [""; 0]);
    }
}
