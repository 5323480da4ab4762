//! Splitting text by the regular expressions of pre-tokenizers, in linear time where that is possible.
//!
//! Nearly every expression in use ends in `\s+(?!\S)|\s+`: a run of white space is cut before its last
//! character when a word follows. That look-ahead is the only thing that keeps them from a linear-time
//! engine, and a backtracking engine overflows its stack on a megabyte of spaces. So the tail is removed,
//! matched as a plain `\s+`, and the match is shortened afterwards. Other look-around is matched by the
//! backtracking engine with a limit; exceeding it is an error, never a shorter result.
//!
//! It must not know tokens.

use regex_automata::meta;
use tokenizers::Offsets;
use tokenizers::pattern::Pattern;

/// Steps the backtracking engine may take for one match.
const BACKTRACK_LIMIT: usize = 200_000;
/// Longest expression accepted from a file, in bytes.
pub(crate) const EXPRESSION_BYTES_MAX: usize = 16 << 10;
/// Compiled size allowed for one expression, in bytes.
const COMPILED_BYTES_MAX: usize = 8 << 20;

/// A compiled expression.
#[derive(Debug)]
pub(crate) struct Splitter {
    source: String,
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    /// Linear time, no tail.
    Linear(meta::Regex),
    /// Linear time; pattern 1 is the white space tail, whose match is shortened by its last character.
    LinearWithTail(meta::Regex),
    /// Look-around beyond the tail.
    Backtracking(Box<fancy_regex::Regex>),
}

/// The tails that [`Engine::LinearWithTail`] stands for. The second one leaves a single white space before a
/// word unmatched; as a gap it is isolated all the same.
const TAILS: [&str; 2] = [r"|\s+(?!\S)|\s+", r"|\s+(?!\S)"];

impl Splitter {
    /// Compiles `source`; the error is the engine's message.
    pub(crate) fn new(source: &str) -> Result<Self, String> {
        if source.len() > EXPRESSION_BYTES_MAX {
            return Err(format!(
                "is {} bytes long, at most {EXPRESSION_BYTES_MAX} are allowed",
                source.len()
            ));
        }
        let engine = match TAILS.iter().find_map(|tail| source.strip_suffix(tail)) {
            // If the cut is inside a group or class, the rest does not compile. Alternatives are tried in
            // order, so an anchor or word boundary before the tail means the same without it.
            Some(body) => match linear(&[body, r"\s+"]) {
                Ok(regex) => Engine::LinearWithTail(regex),
                Err(_) => Self::backtracking(source)?,
            },
            None => match linear(&[source]) {
                Ok(regex) => Engine::Linear(regex),
                Err(_) => Self::backtracking(source)?,
            },
        };
        Ok(Self { source: source.to_owned(), engine })
    }

    fn backtracking(source: &str) -> Result<Engine, String> {
        let regex = fancy_regex::RegexBuilder::new(source)
            .backtrack_limit(BACKTRACK_LIMIT)
            .delegate_size_limit(COMPILED_BYTES_MAX)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Engine::Backtracking(Box::new(regex)))
    }

    /// The expression as it was written.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Fails for expressions that exceed the limit on short texts, so that a bad file is refused when it is
    /// opened.
    pub(crate) fn probe(&self) -> Result<(), String> {
        if !matches!(self.engine, Engine::Backtracking(_)) {
            return Ok(());
        }
        for unit in ["a", "aB", " ", "0", "\n", "-", "x-", "1,", "中", "a "] {
            let mut text = unit.repeat(120);
            text.push_str("!\u{1}");
            self.find_matches(&text).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

fn linear(patterns: &[&str]) -> Result<meta::Regex, String> {
    meta::Regex::builder()
        .configure(meta::Regex::config().nfa_size_limit(Some(COMPILED_BYTES_MAX)).onepass(false))
        .build_many(patterns)
        .map_err(|error| error.to_string())
}

impl Splitter {
    /// Matches and the gaps between them, found one after the other; together they cover the text. Empty
    /// matches are among them.
    pub(crate) fn spans<'s, 't>(&'s self, inside: &'t str) -> Spans<'s, 't> {
        let matches = match &self.engine {
            Engine::Linear(regex) => Matches::Linear(regex.find_iter(inside)),
            Engine::LinearWithTail(regex) => Matches::LinearWithTail { regex, at: 0 },
            Engine::Backtracking(regex) => Matches::Backtracking(regex.find_iter(inside)),
        };
        Spans { inside, matches, covered: 0, pending: None }
    }
}

impl Pattern for &Splitter {
    fn find_matches(&self, inside: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        if inside.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        self.spans(inside).collect()
    }
}

enum Matches<'s, 't> {
    Linear(meta::FindMatches<'s, 't>),
    LinearWithTail { regex: &'s meta::Regex, at: usize },
    Backtracking(fancy_regex::Matches<'s, 't>),
}

impl Matches<'_, '_> {
    fn next(&mut self, inside: &str) -> Option<tokenizers::Result<Offsets>> {
        match self {
            Self::Linear(matches) => matches.next().map(|found| Ok((found.start(), found.end()))),
            Self::LinearWithTail { regex, at } => next_with_tail(regex, inside, at).map(Ok),
            Self::Backtracking(matches) => matches
                .next()
                .map(|found| found.map(|found| (found.start(), found.end())).map_err(Into::into)),
        }
    }
}

/// The next match from `at` on, where pattern 1 is the white space tail.
fn next_with_tail(regex: &meta::Regex, inside: &str, at: &mut usize) -> Option<Offsets> {
    while *at < inside.len() {
        let found = regex.find(regex_automata::Input::new(inside).range(*at..))?;
        let (start, mut end) = (found.start(), found.end());
        if found.pattern().as_usize() == 1 && end < inside.len() {
            let last = inside[start..end].chars().next_back().map_or(0, char::len_utf8);
            if end - last > start {
                end -= last;
            }
        }
        if end > start {
            *at = end;
            return Some((start, end));
        }
        // An empty match: step over one character, which stays outside of any match.
        *at = end + inside[end..].chars().next().map_or(1, char::len_utf8);
    }
    None
}

/// See [`Splitter::spans`]. Each item says whether it is a match.
pub(crate) struct Spans<'s, 't> {
    inside: &'t str,
    matches: Matches<'s, 't>,
    /// Where the next item begins.
    covered: usize,
    /// A match that a gap stands before.
    pending: Option<Offsets>,
}

impl Iterator for Spans<'_, '_> {
    type Item = tokenizers::Result<(Offsets, bool)>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = match self.pending.take() {
            Some(found) => Some(found),
            None => match self.matches.next(self.inside).transpose() {
                Ok(found) => found,
                Err(error) => return Some(Err(error)),
            },
        };
        let begun = self.covered;
        match found {
            Some((start, end)) if start > begun => {
                self.pending = Some((start, end));
                self.covered = start;
                Some(Ok(((begun, start), false)))
            }
            Some((start, end)) => {
                self.covered = end;
                Some(Ok(((start, end), true)))
            }
            None if begun < self.inside.len() => {
                self.covered = self.inside.len();
                Some(Ok(((begun, self.inside.len()), false)))
            }
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    fn pieces<'a>(splitter: &Splitter, text: &'a str) -> Vec<&'a str> {
        splitter.find_matches(text).unwrap().into_iter().map(|((start, end), _)| &text[start..end]).collect()
    }

    /// The rewritten tail against the backtracking engine's answer for the expression as written.
    #[test]
    fn the_tail_means_what_it_meant() {
        let texts = [
            "",
            " ",
            "  ",
            "a",
            "a  b",
            "a \n b",
            "\n\n\nx",
            "x \t\n",
            "  x  ",
            "don't  we'll\u{3000}\u{3000}中文  42",
            "\u{a0}\u{a0}z",
            " \r\n\r\n  end\n",
        ];
        for source in
            [GPT2, super::super::pre::QWEN2, super::super::pre::O200K, super::super::pre::DEEPSEEK_V3_MAIN]
        {
            let rewritten = Splitter::new(source).unwrap();
            assert!(matches!(rewritten.engine, Engine::LinearWithTail(_)), "{source}");
            let plain = Splitter { source: source.into(), engine: Splitter::backtracking(source).unwrap() };
            for text in texts {
                assert_eq!(pieces(&rewritten, text), pieces(&plain, text), "{source} on {text:?}");
            }
        }
    }

    #[test]
    fn running_out_of_steps_is_an_error() {
        let splitter = Splitter::new(r"(?=a)(a|a)*\1(?<!x)$").unwrap();
        assert!(splitter.probe().is_err());
        assert!(Splitter::new(r"(").is_err());
        assert!(Splitter::new(&"a".repeat(EXPRESSION_BYTES_MAX + 1)).is_err());
        assert!(Splitter::new(r"((a{1000}){1000}){1000}").is_err());
    }
}
