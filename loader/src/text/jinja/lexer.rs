//! A template's source as a stream of lexemes: raw text, delimiters, and what stands between them. White
//! space is trimmed as `transformers` configures it (`trim_blocks`, `lstrip_blocks`).
//!
//! It must not know the grammar.

use std::borrow::Cow;

use super::problem::{Done, Problem};

/// The smallest unit of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Lexeme {
    /// Text outside of all delimiters.
    Raw(String),
    OutputBegin,
    OutputEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Text(String),
    Int(i128),
    Float(f64),
    /// An operator or a bracket.
    Sign(&'static str),
    /// The end of the source.
    End,
}

/// Two characters first, so that they are found first.
const SIGNS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Data,
    Output,
    Block,
}

/// Reads lexemes one by one.
pub(super) struct Lexer<'a> {
    source: Cow<'a, str>,
    at: usize,
    line: usize,
    mode: Mode,
    /// Whether the text so far ends with a line break, or is empty.
    line_starting: bool,
    /// Open brackets inside of the current delimiters.
    brackets: Vec<u8>,
    /// A lexeme that follows the raw text that was given before.
    queued: Option<Lexeme>,
}

/// Line ends as Jinja2 reads them, and without the last one.
fn normalized(source: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(source);
    if source.contains('\r') {
        text = source.replace("\r\n", "\n").replace('\r', "\n").into();
    }
    if text.ends_with('\n') {
        match &mut text {
            Cow::Borrowed(text) => *text = &text[..text.len() - 1],
            Cow::Owned(text) => drop(text.pop()),
        }
    }
    text
}

impl<'a> Lexer<'a> {
    /// A lexer of a whole template.
    pub(super) fn new(source: &'a str) -> Self {
        Self {
            source: normalized(source),
            at: 0,
            line: 1,
            mode: Mode::Data,
            line_starting: true,
            brackets: Vec::new(),
            queued: None,
        }
    }

    /// The line of the last lexeme, from 1.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// The next lexeme.
    ///
    /// # Errors
    /// Characters that no lexeme begins with, and texts, comments or brackets without an end.
    pub(super) fn next(&mut self) -> Done<Lexeme> {
        if let Some(lexeme) = self.queued.take() {
            return Ok(lexeme);
        }
        loop {
            let lexeme = match self.mode {
                Mode::Data => self.data()?,
                Mode::Output | Mode::Block => self.code()?,
            };
            match lexeme {
                Some(Lexeme::Raw(text)) if text.is_empty() => {
                    if let Some(queued) = self.queued.take() {
                        return Ok(queued);
                    }
                }
                Some(lexeme) => return Ok(lexeme),
                None => {}
            }
        }
    }

    fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    fn advance(&mut self, bytes: usize) {
        let passed = &self.source.as_bytes()[self.at..self.at + bytes];
        self.line += passed.iter().filter(|byte| **byte == b'\n').count();
        if let Some(last) = passed.last() {
            self.line_starting = *last == b'\n';
        }
        self.at += bytes;
    }

    fn fail<T>(&self, message: impl Into<String>) -> Done<T> {
        Err(Problem::syntax(self.line, message))
    }

    /// Raw text up to the next delimiter, which is read too. `None` for a comment without text before it.
    fn data(&mut self) -> Done<Option<Lexeme>> {
        let rest = self.rest();
        if rest.is_empty() {
            return Ok(Some(Lexeme::End));
        }
        let open = rest.match_indices('{').find(|(at, _)| {
            rest.as_bytes().get(at + 1).is_some_and(|next| matches!(next, b'{' | b'%' | b'#'))
        });
        let Some((open, _)) = open else {
            let text = rest.to_owned();
            self.advance(text.len());
            return Ok(Some(Lexeme::Raw(text)));
        };
        let kind = rest.as_bytes()[open + 1];
        let sign = rest.as_bytes().get(open + 2).copied().filter(|sign| matches!(sign, b'-' | b'+'));
        let text = self.stripped(&rest[..open], sign, kind != b'{').to_owned();
        let begin = open + 2 + usize::from(sign.is_some());
        self.advance(begin);
        match kind {
            b'{' => {
                self.mode = Mode::Output;
                self.queued = Some(Lexeme::OutputBegin);
            }
            b'#' => self.comment()?,
            _ => {
                if let Some(body) = self.raw_begin() {
                    self.advance(body);
                    let raw = self.raw_block()?;
                    return Ok(Some(Lexeme::Raw(text + &raw)));
                }
                self.mode = Mode::Block;
                self.queued = Some(Lexeme::BlockBegin);
            }
        }
        self.brackets.clear();
        Ok(Some(Lexeme::Raw(text)))
    }

    /// `text` before a delimiter with `sign`, without the white space that belongs to the delimiter.
    fn stripped<'t>(&self, text: &'t str, sign: Option<u8>, block: bool) -> &'t str {
        if sign == Some(b'-') {
            return text.trim_end_matches(is_space);
        }
        if sign.is_none() && block {
            let line = text.rfind('\n').map_or(0, |at| at + 1);
            if (line > 0 || self.line_starting) && text[line..].chars().all(is_space) {
                return &text[..line];
            }
        }
        text
    }

    /// The bytes of `raw %}` if that follows.
    fn raw_begin(&self) -> Option<usize> {
        let rest = self.rest();
        let after = rest.trim_start_matches(is_space).strip_prefix("raw")?.trim_start_matches(is_space);
        let body = match after.strip_prefix('-') {
            Some(after) => after.strip_prefix("%}")?.trim_start_matches(is_space),
            None => after.strip_prefix("%}")?,
        };
        Some(rest.len() - body.len())
    }

    /// The text up to `{% endraw %}`, which is read too.
    fn raw_block(&mut self) -> Done<String> {
        let rest = self.rest();
        for (open, _) in rest.match_indices("{%") {
            let tag = &rest[open + 2..];
            let sign = tag.bytes().next().filter(|sign| matches!(sign, b'-' | b'+'));
            let name = tag[usize::from(sign.is_some())..].trim_start_matches(is_space);
            let Some(after) = name.strip_prefix("endraw").map(|after| after.trim_start_matches(is_space))
            else {
                continue;
            };
            let Some(body) = after_block(after) else { continue };
            let text = self.stripped(&rest[..open], sign, true).to_owned();
            let bytes = rest.len() - body.len();
            self.advance(bytes);
            return Ok(text);
        }
        self.fail("Missing end of raw directive")
    }

    fn comment(&mut self) -> Done<()> {
        let rest = self.rest();
        let Some(close) = rest.find("#}") else { return self.fail("Missing end of comment tag") };
        let after = &rest[close + 2..];
        let body = match rest.as_bytes()[..close].last() {
            Some(b'-') => after.trim_start_matches(is_space),
            Some(b'+') => after,
            _ => after.strip_prefix('\n').unwrap_or(after),
        };
        let bytes = rest.len() - body.len();
        self.advance(bytes);
        Ok(())
    }

    /// A lexeme inside of delimiters; `None` for white space.
    fn code(&mut self) -> Done<Option<Lexeme>> {
        let rest = self.rest();
        let space = rest.len() - rest.trim_start_matches(is_space).len();
        if space > 0 {
            self.advance(space);
            return Ok(None);
        }
        let Some(first) = rest.chars().next() else {
            return self.fail("unexpected end of template: a tag has no end");
        };
        if self.brackets.is_empty()
            && let Some(body) = self.closing(rest)
        {
            let bytes = rest.len() - body;
            let lexeme = if self.mode == Mode::Block { Lexeme::BlockEnd } else { Lexeme::OutputEnd };
            self.mode = Mode::Data;
            self.advance(bytes);
            return Ok(Some(lexeme));
        }
        if first.is_ascii_digit() {
            return self.number().map(Some);
        }
        if first == '_' || first.is_alphanumeric() {
            let end = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
            let name = rest[..end].to_owned();
            self.advance(end);
            return Ok(Some(Lexeme::Name(name)));
        }
        if matches!(first, '\'' | '"') {
            return self.text(first).map(Some);
        }
        let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) else {
            return self.fail(format!("unexpected char {first:?}"));
        };
        self.balance(sign)?;
        self.advance(sign.len());
        Ok(Some(Lexeme::Sign(sign)))
    }

    /// The length of what is left behind a closing delimiter at the beginning of `rest`.
    fn closing(&self, rest: &str) -> Option<usize> {
        let body = match self.mode {
            Mode::Block => after_block(rest)?,
            _ => match rest.strip_prefix("-}}") {
                Some(body) => body.trim_start_matches(is_space),
                None => rest.strip_prefix("}}")?,
            },
        };
        Some(body.len())
    }

    fn balance(&mut self, sign: &str) -> Done<()> {
        match sign {
            "(" => self.brackets.push(b')'),
            "[" => self.brackets.push(b']'),
            "{" => self.brackets.push(b'}'),
            ")" | "]" | "}" => {
                let expected = self.brackets.pop();
                if expected.map(char::from) != sign.chars().next() {
                    return match expected {
                        Some(expected) => {
                            self.fail(format!("unexpected '{sign}', expected '{}'", char::from(expected)))
                        }
                        None => self.fail(format!("unexpected '{sign}'")),
                    };
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn number(&mut self) -> Done<Lexeme> {
        let rest = self.rest();
        let radix = match rest.get(..2) {
            Some("0x" | "0X") => 16,
            Some("0o" | "0O") => 8,
            Some("0b" | "0B") => 2,
            _ => 10,
        };
        let bytes = rest.as_bytes();
        let digits = |from: usize, radix: u32| {
            let more = bytes[from..].iter().take_while(|b| char::from(**b).is_digit(radix) || **b == b'_');
            from + more.count()
        };
        if radix != 10 {
            let end = digits(2, radix);
            let value = i128::from_str_radix(&rest[2..end].replace('_', ""), radix);
            self.advance(end);
            return value.map(Lexeme::Int).or_else(|_| self.fail("a number without digits, or a large one"));
        }
        let mut end = digits(0, 10);
        let mut float = false;
        let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
        if bytes.get(end) == Some(&b'.') && is_digit(end + 1) {
            (end, float) = (digits(end + 1, 10), true);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            if is_digit(end + 1 + sign) {
                (end, float) = (digits(end + 1 + sign, 10), true);
            }
        }
        let text = rest[..end].replace('_', "");
        self.advance(end);
        let number =
            if float { text.parse().ok().map(Lexeme::Float) } else { text.parse().ok().map(Lexeme::Int) };
        number.map_or_else(|| self.fail("this number is too large"), Ok)
    }

    fn text(&mut self, quote: char) -> Done<Lexeme> {
        let rest = self.rest();
        let mut escaped = false;
        let end = rest[1..].char_indices().find(|(_, c)| {
            let end = !escaped && *c == quote;
            escaped = !escaped && *c == '\\';
            end
        });
        let Some((end, _)) = end else { return self.fail("a text has no end") };
        let text = unescaped(&rest[1..=end]).map_err(|message| Problem::syntax(self.line, message))?;
        self.advance(end + 2);
        Ok(Lexeme::Text(text))
    }
}

/// What follows the end of a block at the beginning of `rest`.
fn after_block(rest: &str) -> Option<&str> {
    if let Some(body) = rest.strip_prefix("-%}") {
        return Some(body.trim_start_matches(is_space));
    }
    if let Some(body) = rest.strip_prefix("+%}") {
        return Some(body);
    }
    let body = rest.strip_prefix("%}")?;
    Some(body.strip_prefix('\n').unwrap_or(body))
}

/// White space as Python sees it.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The text of a literal, whose escapes are Python's.
fn unescaped(literal: &str) -> Result<String, String> {
    if !literal.contains('\\') {
        return Ok(literal.to_owned());
    }
    let mut out = String::with_capacity(literal.len());
    let mut rest = literal;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let mut chars = rest[at + 1..].chars();
        let Some(kind) = chars.next() else { return Err("an escape without a character".to_owned()) };
        let after = chars.as_str();
        let simple = match kind {
            '\n' => Some(""),
            '\\' => Some("\\"),
            '\'' => Some("'"),
            '"' => Some("\""),
            'a' => Some("\x07"),
            'b' => Some("\x08"),
            'f' => Some("\x0c"),
            'n' => Some("\n"),
            'r' => Some("\r"),
            't' => Some("\t"),
            'v' => Some("\x0b"),
            _ => None,
        };
        let digits = match kind {
            'x' => Some((after, 2, 2, 16)),
            'u' => Some((after, 4, 4, 16)),
            'U' => Some((after, 8, 8, 16)),
            '0'..='7' => Some((&rest[at + 1..], 1, 3, 8)),
            _ => None,
        };
        rest = match (simple, digits) {
            (Some(text), _) => {
                out.push_str(text);
                after
            }
            (None, Some((digits, least, most, radix))) => {
                let count = digits.chars().take(most).take_while(|c| c.is_digit(radix)).count();
                let code = (count >= least).then(|| u32::from_str_radix(&digits[..count], radix).ok());
                let Some(c) = code.flatten().and_then(char::from_u32) else {
                    return Err(format!("the escape \\{kind} names no character"));
                };
                out.push(c);
                &digits[count..]
            }
            // Python keeps the backslash of escapes that it does not know.
            (None, None) => {
                out.push('\\');
                out.push(kind);
                after
            }
        };
    }
    out.push_str(rest);
    Ok(out)
}
