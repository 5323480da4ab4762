//! Light colours for code: comments, text, numbers and the words of a language, told apart line by line. It must not know
//! grammars: what it does not recognise stays as it is.

use ratatui::style::Style;
use ratatui::text::Span;

use super::wrap::{Spans, add};
use crate::theme::{Role, Theme};

/// How a language writes what is coloured.
struct Language {
    names: &'static [&'static str],
    /// Comments to the end of the line.
    line: &'static [&'static str],
    /// Comments over several lines.
    block: Option<(&'static str, &'static str)>,
    /// What text stands in; those of three marks go over several lines.
    quotes: &'static [&'static str],
    keywords: &'static str,
}

const LANGUAGES: [Language; 11] = [
    Language {
        names: &["rust", "rs"],
        line: &["//"],
        block: Some(("/*", "*/")),
        quotes: &["\""],
        keywords: "as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod \
                   move mut pub ref return self Self static struct super trait true type unsafe use where while",
    },
    Language {
        names: &["python", "py", "python3"],
        line: &["#"],
        block: None,
        quotes: &["\"\"\"", "'''", "\"", "'"],
        keywords: "and as assert async await break class continue def del elif else except False finally for from global if \
                   import in is lambda None nonlocal not or pass raise return self True try while with yield",
    },
    Language {
        names: &["javascript", "js", "jsx", "typescript", "ts", "tsx", "mjs"],
        line: &["//"],
        block: Some(("/*", "*/")),
        quotes: &["\"", "'", "`"],
        keywords: "async await break case catch class const continue default delete do else enum export extends false \
                   finally for from function if implements import in instanceof interface let new null of return static \
                   super switch this throw true try type typeof undefined var void while yield",
    },
    Language {
        names: &["c", "cpp", "c++", "cc", "h", "hpp", "cuda", "objc"],
        line: &["//"],
        block: Some(("/*", "*/")),
        quotes: &["\"", "'"],
        keywords: "auto bool break case catch char class const constexpr continue default delete do double else enum extern \
                   false float for if inline int long namespace new nullptr operator private protected public return short \
                   signed sizeof static struct switch template this throw true try typedef typename union unsigned using \
                   virtual void volatile while",
    },
    Language {
        names: &["java", "kotlin", "kt", "csharp", "cs", "scala", "swift", "dart", "php"],
        line: &["//"],
        block: Some(("/*", "*/")),
        quotes: &["\"\"\"", "\"", "'"],
        keywords: "abstract async await boolean break byte case catch char class const continue data default do double else \
                   enum extends false final finally float for foreach fun func function guard if implements import in int \
                   interface internal is let long namespace new null object override package private protected public return \
                   short static string struct super switch this throw throws true try using val var void when where while",
    },
    Language {
        names: &["go", "golang"],
        line: &["//"],
        block: Some(("/*", "*/")),
        quotes: &["\"", "`", "'"],
        keywords: "break case chan const continue default defer else fallthrough false for func go goto if import interface \
                   map nil package range return select struct switch true type var",
    },
    Language {
        names: &["bash", "sh", "shell", "zsh", "fish", "console", "dockerfile", "makefile"],
        line: &["#"],
        block: None,
        quotes: &["\"", "'"],
        keywords: "alias break case cd continue do done echo elif else esac exit export fi for function if in local read \
                   return set shift source then until unset while sudo FROM RUN COPY CMD ENV WORKDIR ENTRYPOINT",
    },
    Language {
        names: &["json", "jsonc"],
        line: &["//"],
        block: None,
        quotes: &["\""],
        keywords: "true false null",
    },
    Language {
        names: &["toml", "yaml", "yml", "ini", "conf", "properties"],
        line: &["#", ";"],
        block: None,
        quotes: &["\"", "'"],
        keywords: "true false null yes no on off",
    },
    Language {
        names: &["sql", "sqlite", "postgresql", "mysql"],
        line: &["--"],
        block: Some(("/*", "*/")),
        quotes: &["'", "\""],
        keywords: "ADD ALL ALTER AND AS ASC BETWEEN BY CASE CREATE DELETE DESC DISTINCT DROP ELSE END EXISTS FROM GROUP \
                   HAVING IN INDEX INNER INSERT INTO IS JOIN KEY LEFT LIKE LIMIT NOT NULL ON OR ORDER OUTER PRIMARY RIGHT \
                   SELECT SET TABLE THEN UNION UPDATE VALUES VIEW WHEN WHERE WITH",
    },
    Language {
        names: &["lua", "ruby", "rb", "r", "julia", "elixir", "haskell", "hs"],
        line: &["--", "#"],
        block: None,
        quotes: &["\"", "'"],
        keywords: "and begin break class data def do else elseif elsif end false fn for function if import in let local \
                   module nil not or repeat require return self then true type unless until when where while yield",
    },
];

/// Colours of the lines of one block of code, from the first to the last.
pub struct Highlighter {
    language: Option<&'static Language>,
    theme: Theme,
    /// What ends the comment or text that goes on over lines, and what it is.
    until: Option<(&'static str, Role)>,
}

impl Highlighter {
    /// For a language by the name that a fence gives it.
    pub fn new(name: &str, theme: Theme) -> Self {
        let language =
            LANGUAGES.iter().find(|language| language.names.iter().any(|n| n.eq_ignore_ascii_case(name)));
        Self { language, theme, until: None }
    }

    /// The next line, without its end.
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

    /// Bytes of the next piece of a line, and its style.
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
        // A mark inside a word is none: `a#b`, `http://x`, `a--`.
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
            return (text(rest, first), style(Role::Literal));
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

/// Bytes of a text in quotes, to the end of the line if it has no other.
fn text(rest: &str, quote: char) -> usize {
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
    use super::*;

    /// Pieces of each line with the roles they were given.
    fn roles(name: &str, lines: &[&str]) -> Vec<Vec<(Role, String)>> {
        let theme = Theme { look: crate::theme::Look::Dark, depth: crate::theme::Depth::True };
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
