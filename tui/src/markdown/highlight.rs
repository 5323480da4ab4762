//! Colours for code blocks: comments, strings, numbers and keywords, recognised line by line. It must not
//! know grammars; text that it does not recognise keeps the plain style.

use ratatui::style::Style;
use ratatui::text::Span;

use super::languages::{LANGUAGES, Language};
use super::theme::{Role, Theme};
use super::wrap::{Spans, add};

/// Colours the lines of one code block, in order.
pub struct Highlighter {
    language: Option<&'static Language>,
    theme: Theme,
    /// The mark that ends the open block comment or string, and its role.
    until: Option<(&'static str, Role)>,
}

impl Highlighter {
    /// A highlighter for the language that a code fence names; an unknown name gives plain text.
    pub fn new(name: &str, theme: Theme) -> Self {
        let language =
            LANGUAGES.iter().find(|language| language.names.iter().any(|n| n.eq_ignore_ascii_case(name)));
        Self { language, theme, until: None }
    }

    /// The styled spans of the next line, which has no line end.
    pub fn line(&mut self, line: &str) -> Spans {
        let (mut out, plain) = (Spans::new(), self.theme.style(Role::CodeBlock));
        let Some(language) = self.language else { return vec![Span::styled(line.to_owned(), plain)] };
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let (len, style) = self.next(language, rest, first, line.len() - rest.len(), line);
            add(&mut out, &rest[..len], style);
            rest = &rest[len..];
        }
        out
    }

    /// Bytes of the next piece of `line`, and its style.
    fn next(
        &mut self,
        language: &Language,
        rest: &str,
        first: char,
        at: usize,
        line: &str,
    ) -> (usize, Style) {
        let style = |role| self.theme.style(role);
        if let Some((end, role)) = self.until {
            let found = rest.find(end);
            let styled = style(role);
            if found.is_some() {
                self.until = None;
            }
            return (found.map_or(rest.len(), |found| found + end.len()), styled);
        }
        // Inside a word a mark does not begin a comment: `a#b`, `http://x`, `a--`.
        let before = line[..at].chars().next_back();
        let inside = |mark: &str| match mark {
            "//" => before == Some(':'),
            _ => before.is_some_and(|c| !c.is_whitespace()),
        };
        let comment = |mark: &&str| rest.starts_with(*mark) && !inside(mark);
        if language.line.iter().any(comment) {
            return (rest.len(), style(Role::Comment));
        }
        if let Some((begin, end)) = language.block.filter(|(begin, _)| rest.starts_with(begin)) {
            self.until = Some((end, Role::Comment));
            return (begin.len(), style(Role::Comment));
        }
        if let Some(quote) = language.quotes.iter().find(|quote| rest.starts_with(**quote)) {
            if quote.len() > 1 {
                self.until = Some((quote, Role::Literal));
                return (quote.len(), style(Role::Literal));
            }
            return (literal(rest, first), style(Role::Literal));
        }
        let word = |c: char| c.is_alphanumeric() || c == '_';
        if word(first) {
            let number = first.is_ascii_digit();
            let part = |c: char| word(c) || (number && c == '.');
            let len = rest.find(|c| !part(c)).unwrap_or(rest.len());
            let keyword = |word: &str| language.keywords.split_ascii_whitespace().any(|k| k == word);
            let known = |word: &str| {
                keyword(word) || (language.line == ["--"] && keyword(&word.to_ascii_uppercase()))
            };
            let role = match &rest[..len] {
                _ if number => Role::Number,
                word if known(word) => Role::Keyword,
                _ => Role::CodeBlock,
            };
            return (len, style(role));
        }
        (first.len_utf8(), style(Role::CodeBlock))
    }
}

/// Bytes of a string literal; an unterminated one reaches to the end of the line.
fn literal(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::super::theme::{ColourDepth, ColourScheme};
    use super::*;

    /// The pieces of each line with their roles.
    fn roles(name: &str, lines: &[&str]) -> Vec<Vec<(Role, String)>> {
        let theme = Theme { scheme: ColourScheme::Dark, depth: ColourDepth::True };
        let mut highlighter = Highlighter::new(name, theme);
        let known = [Role::CodeBlock, Role::Comment, Role::Literal, Role::Number, Role::Keyword];
        let role = |style| *known.iter().find(|role| theme.style(**role) == style).unwrap();
        let line = |line: &&str| {
            let spans = highlighter.line(line);
            let text: String = spans.iter().map(|span| &*span.content).collect();
            assert_eq!(text, *line);
            spans.iter().map(|span| (role(span.style), span.content.to_string())).collect()
        };
        lines.iter().map(line).collect()
    }

    fn of(role: Role, pieces: &[(Role, String)]) -> Vec<&str> {
        pieces.iter().filter(|piece| piece.0 == role).map(|piece| &*piece.1).collect()
    }

    #[test]
    fn rust_has_its_colours() {
        let lines =
            roles("rust", &["let s = \"a \\\" // b\"; // see", "/* two", "lines */ fn x2() -> 0xff {}"]);
        assert_eq!(of(Role::Keyword, &lines[0]), ["let"]);
        assert_eq!(of(Role::Literal, &lines[0]), ["\"a \\\" // b\""]);
        assert_eq!(of(Role::Comment, &lines[0]), ["// see"]);
        assert_eq!(of(Role::Comment, &lines[1]), ["/* two"]);
        assert_eq!(of(Role::Comment, &lines[2]), ["lines */"]);
        assert_eq!((of(Role::Keyword, &lines[2]), of(Role::Number, &lines[2])), (vec!["fn"], vec!["0xff"]));
    }

    #[test]
    fn other_languages_have_theirs() {
        let lines = roles("Python", &["def f(): # x", "\"\"\"doc", "if\"\"\" return 'it\\'s'"]);
        assert_eq!((of(Role::Keyword, &lines[0]), of(Role::Comment, &lines[0])), (vec!["def"], vec!["# x"]));
        assert_eq!(of(Role::Literal, &lines[1]), ["\"\"\"doc"]);
        assert_eq!((of(Role::Keyword, &lines[2]), of(Role::Literal, &lines[2]).len()), (vec!["return"], 2));
        let lines = roles("bash", &["curl http://a/b#c --fail # get", "select"]);
        assert_eq!(of(Role::Comment, &lines[0]), ["# get"]);
        let lines = roles("sql", &["select a from b -- why"]);
        assert_eq!(of(Role::Keyword, &lines[0]), ["select", "from"]);
        assert_eq!(roles("brainfog", &["if 1"])[0], [(Role::CodeBlock, "if 1".to_owned())]);
    }
}
