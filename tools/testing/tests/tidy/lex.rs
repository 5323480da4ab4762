//! Rust source as tokens with their lines: enough to tell code from comments and texts. It must not know what
//! the tokens mean.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Identifier or keyword.
    Word,
    /// A single character.
    Punct,
    /// Text, character or number.
    Literal,
    /// `'a`, also a loop's label.
    Lifetime,
    /// A comment that documents what is below it: `///` or `/** */`.
    Doc,
    /// Any other comment, `//!` among them.
    Comment,
}

/// A token and the line that it begins on, from 1.
#[derive(Debug, Clone, Copy)]
pub struct Token<'a> {
    /// What it is.
    pub kind: Kind,
    /// As it is written.
    pub text: &'a str,
    /// Line of its first character, from 1.
    pub line: usize,
}

impl Token<'_> {
    /// Whether it is the identifier, keyword or character `text`.
    pub fn is(&self, text: &str) -> bool {
        matches!(self.kind, Kind::Word | Kind::Punct) && self.text == text
    }

    /// Whether it is a comment of any kind.
    pub fn is_comment(&self) -> bool {
        matches!(self.kind, Kind::Doc | Kind::Comment)
    }
}

/// All tokens of `text`.
pub fn tokens(text: &str) -> Vec<Token<'_>> {
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let (kind, length) = if first.is_whitespace() { (None, first.len_utf8()) } else { next(rest, first) };
        let token = &rest[..length];
        found.extend(kind.map(|kind| Token { kind, text: token, line }));
        line += token.matches('\n').count();
        at += length;
    }
    found
}

/// Kind and bytes of the token that `rest` begins with.
fn next(rest: &str, first: char) -> (Option<Kind>, usize) {
    if rest.starts_with("//") {
        let length = rest.find('\n').unwrap_or(rest.len());
        let doc = rest.starts_with("///") && !rest.starts_with("////");
        return (Some(if doc { Kind::Doc } else { Kind::Comment }), length);
    }
    if rest.starts_with("/*") {
        let doc = rest.starts_with("/**") && !rest.starts_with("/***") && !rest.starts_with("/**/");
        return (Some(if doc { Kind::Doc } else { Kind::Comment }), block_comment(rest));
    }
    if let Some(length) = string(rest) {
        return (Some(Kind::Literal), length);
    }
    if first == '\'' {
        return quote(rest);
    }
    if first.is_ascii_digit() {
        return (Some(Kind::Literal), number(rest));
    }
    if first.is_alphabetic() || first == '_' {
        return (Some(Kind::Word), word(rest));
    }
    (Some(Kind::Punct), first.len_utf8())
}

fn word(rest: &str) -> usize {
    let body = rest.strip_prefix("r#").map_or(0, |_| 2);
    let end = rest[body..].find(|c: char| !c.is_alphanumeric() && c != '_');
    end.map_or(rest.len(), |end| body + end)
}

fn number(rest: &str) -> usize {
    let mut length = 0;
    let bytes = rest.as_bytes();
    while let Some(&byte) = bytes.get(length) {
        let after = bytes.get(length + 1);
        let part = byte.is_ascii_alphanumeric() || byte == b'_';
        let point = byte == b'.' && after.is_some_and(u8::is_ascii_digit);
        let sign = matches!(byte, b'+' | b'-')
            && length > 0
            && matches!(bytes[length - 1], b'e' | b'E')
            && !rest.starts_with("0x");
        if !part && !point && !sign {
            break;
        }
        length += 1;
    }
    length
}

/// A lifetime, or a character with its quotes.
fn quote(rest: &str) -> (Option<Kind>, usize) {
    let mut inner = rest[1..].chars();
    let first = inner.next().unwrap_or(' ');
    if first == '\\' {
        // The escaped character may be a quote itself.
        let end = rest.get(3..).and_then(|tail| tail.find('\''));
        return (Some(Kind::Literal), end.map_or(rest.len(), |end| end + 4));
    }
    if inner.next() == Some('\'') {
        return (Some(Kind::Literal), 2 + first.len_utf8());
    }
    (Some(Kind::Lifetime), 1 + word(&rest[1..]).max(1))
}

/// Bytes of a comment in `/* */`, others within it included.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        match here {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(rest.len())
}

/// Bytes of a text in double quotes with its prefix, or of a byte in single ones.
fn string(rest: &str) -> Option<usize> {
    if rest.starts_with("b'") {
        return quote(&rest[1..]).1.checked_add(1);
    }
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        let body = rest.strip_prefix(prefix);
        body.is_some_and(|body| {
            let raw = prefix.ends_with('r');
            body.starts_with('"') || (raw && body.trim_start_matches('#').starts_with('"'))
        })
    })?;
    let body = &rest[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let start = hashes + 1;
        return Some(
            prefix.len() + body[start..].find(&end).map_or(body.len(), |found| start + found + end.len()),
        );
    }
    let mut escaped = false;
    for (at, byte) in body.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(prefix.len() + at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}

#[test]
fn code_is_told_from_texts_and_comments() {
    let source = "let r#type = b\"a\\\"//\"; // x\n/* a /* b */ c */ 'a' '\\'' 'life r##\"fn \"# \"## 1.5e-3..0x1F.max /// d\n";
    let found: Vec<_> = tokens(source).iter().map(|t| (t.kind, t.text, t.line)).collect();
    let expected = [
        (Kind::Word, "let", 1),
        (Kind::Word, "r#type", 1),
        (Kind::Punct, "=", 1),
        (Kind::Literal, "b\"a\\\"//\"", 1),
        (Kind::Punct, ";", 1),
        (Kind::Comment, "// x", 1),
        (Kind::Comment, "/* a /* b */ c */", 2),
        (Kind::Literal, "'a'", 2),
        (Kind::Literal, "'\\''", 2),
        (Kind::Lifetime, "'life", 2),
        (Kind::Literal, "r##\"fn \"# \"##", 2),
        (Kind::Literal, "1.5e-3", 2),
        (Kind::Punct, ".", 2),
        (Kind::Punct, ".", 2),
        (Kind::Literal, "0x1F", 2),
        (Kind::Punct, ".", 2),
        (Kind::Word, "max", 2),
        (Kind::Doc, "/// d", 2),
    ];
    assert_eq!(found, expected);
}
