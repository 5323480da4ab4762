//! The items of a file: functions with their lengths, public types, documented names. It must not know what
//! is allowed.

use crate::lex::{Kind, Token};
use crate::tree::group;

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function<'a> {
    /// As it is called.
    pub name: &'a str,
    /// The line of `fn`, from 1.
    pub line: usize,
    /// From `fn` to the closing bracket.
    pub lines: usize,
}

/// All functions with bodies in `code`, which has no comments.
pub fn functions<'a>(code: &[Token<'a>]) -> Vec<Function<'a>> {
    let mut found = Vec::new();
    for (at, token) in code.iter().enumerate().filter(|(_, token)| token.is("fn")) {
        let Some(name) = code[at + 1..].iter().take(2).find(|token| token.kind == Kind::Word) else {
            continue;
        };
        // The type of a function has no name behind the word.
        if code[at + 1].is("(") {
            continue;
        }
        let Some(body) = body(&code[at..]) else { continue };
        let last = code.get(at + body + group(&code[at + body..]) - 1).map_or(token.line, |end| end.line);
        found.push(Function { name: name.text, line: token.line, lines: last - token.line + 1 });
    }
    found
}

/// Where the body of the function begins that the tokens begin with.
fn body(code: &[Token<'_>]) -> Option<usize> {
    let mut at = 0;
    while let Some(token) = code.get(at) {
        match token.text {
            "{" => return Some(at),
            ";" | "}" => return None,
            "(" | "[" => at += group(&code[at..]),
            _ => at += 1,
        }
    }
    None
}

/// A type that other files can name.
#[derive(Debug, PartialEq, Eq)]
pub struct PublicType<'a> {
    /// Without generics.
    pub name: &'a str,
    /// The line of the name, from 1.
    pub line: usize,
}

/// All types with `pub` in `code`, in whatever scope.
pub fn public_types<'a>(code: &[Token<'a>]) -> Vec<PublicType<'a>> {
    let mut found = Vec::new();
    for (at, _) in code.iter().enumerate().filter(|(_, token)| token.is("pub")) {
        let mut rest = &code[at + 1..];
        if rest.first().is_some_and(|token| token.is("(")) {
            rest = &rest[group(rest)..];
        }
        while rest.first().is_some_and(|token| token.is("unsafe") || token.is("auto")) {
            rest = &rest[1..];
        }
        let [keyword, name, ..] = rest else { continue };
        let is_type = ["struct", "enum", "union", "trait", "type"].iter().any(|word| keyword.is(word));
        if is_type && name.kind == Kind::Word {
            found.push(PublicType { name: name.text, line: name.line });
        }
    }
    found
}

/// An item and what is written above it.
#[derive(Debug, PartialEq, Eq)]
pub struct Documented<'a> {
    /// Name of the function, type, field, variant or module.
    pub name: &'a str,
    /// The line that the comment begins on.
    pub line: usize,
    /// The comment without its marks.
    pub text: String,
}

/// All items of `tokens` with a documentation comment.
pub fn documented<'a>(tokens: &[Token<'a>]) -> Vec<Documented<'a>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        if tokens[at].kind != Kind::Doc {
            at += 1;
            continue;
        }
        let start = at;
        let mut text = String::new();
        while let Some(doc) = tokens.get(at).filter(|token| token.kind == Kind::Doc) {
            text.push_str(doc.text.trim_start_matches(['/', '*']).trim_end_matches(['/', '*']));
            text.push('\n');
            at += 1;
        }
        let rest: Vec<_> =
            tokens[at..].iter().filter(|token| !token.is_comment()).take(400).copied().collect();
        if let Some(name) = name(&rest) {
            found.push(Documented { name, line: tokens[start].line, text });
        }
    }
    found
}

/// What the item is called that the tokens begin with.
fn name<'a>(code: &[Token<'a>]) -> Option<&'a str> {
    let mut at = 0;
    while code.get(at).is_some_and(|token| token.is("#")) {
        at += 1 + group(&code[at + 1..]);
    }
    const KEYWORDS: [&str; 9] = ["fn", "struct", "enum", "union", "trait", "type", "mod", "static", "const"];
    const BEFORE: [&str; 5] = ["pub", "unsafe", "async", "extern", "const"];
    loop {
        let (token, after) = (code.get(at)?, code.get(at + 1)?);
        let modifier = BEFORE.iter().any(|word| token.is(word));
        let more = BEFORE.iter().chain(&KEYWORDS).any(|word| after.is(word)) || after.kind == Kind::Literal;
        if token.is("pub") && after.is("(") {
            at += 1 + group(&code[at + 1..]);
        } else if token.is("pub") || (modifier && more) || token.kind == Kind::Literal {
            at += 1;
        } else if KEYWORDS.iter().any(|word| token.is(word)) {
            return (after.kind == Kind::Word).then_some(after.text);
        } else if token.is("macro_rules") {
            return code.get(at + 2).map(|name| name.text);
        } else {
            let member = [":", ",", "(", "{", "=", "}"].iter().any(|mark| after.is(mark));
            return (token.kind == Kind::Word && member).then_some(token.text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lex::tokens;

    #[test]
    fn functions_are_as_long_as_from_their_first_line_to_their_last() {
        let source = "trait T { fn none(&self); }\nfn a<F: Fn(u8) -> [u8; 2]>(\n  f: fn(u8),\n) {\n  if x { y }\n}\nfn b() {}";
        let found = functions(&tokens(source));
        let expected = [Function { name: "a", line: 2, lines: 5 }, Function { name: "b", line: 7, lines: 1 }];
        assert_eq!(found, expected);
    }

    #[test]
    fn types_are_public_with_any_pub() {
        let source = "pub struct A; pub(crate) enum B {} struct C; pub(super) unsafe trait D {} pub type E = u8; pub fn f() {}";
        let names: Vec<_> = public_types(&tokens(source)).into_iter().map(|found| found.name).collect();
        assert_eq!(names, ["A", "B", "D", "E"]);
    }

    #[test]
    fn comments_belong_to_the_item_below_them() {
        let source = "/// One.\n#[derive(X)]\npub struct A<T> {\n  /// Two,\n  /// still.\n  pub(crate) b: T,\n}\n/// Three.\n\
                      pub const unsafe fn c() {}\nenum E {\n/// Four.\nF(u8), /// Five.\nG }\n/// Six.\nimpl A {}\n\
                      /// Seven.\nconst H: u8 = 1;";
        let found: Vec<_> = documented(&tokens(source))
            .into_iter()
            .map(|d| (d.name, d.line, d.text.trim().to_owned()))
            .collect();
        let expected = [
            ("A", 1, "One."),
            ("b", 4, "Two,\n still."),
            ("c", 8, "Three."),
            ("F", 11, "Four."),
            ("G", 12, "Five."),
            ("H", 16, "Seven."),
        ];
        assert_eq!(found, expected.map(|(name, line, text)| (name, line, text.to_owned())));
    }
}
