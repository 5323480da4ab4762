//! The tail of a document that is still growing, drawn without flicker: a last line of nothing but Markdown
//! marks is held back until its meaning is clear, and open emphasis or code is drawn as if it were closed. It
//! must not know the finished blocks before the tail.

use pulldown_cmark::{Event, Tag};
use ratatui::text::Line;

use super::parse::parse;
use super::render;
use super::theme::Theme;

/// The lines of an unfinished text, `[lines]`, at most `width` columns each.
pub fn lines(text: &str, width: usize, theme: Theme) -> Vec<Line<'static>> {
    let line = text.rfind('\n').map_or(0, |end| end + 1);
    let is_mark = |c: char| c.is_whitespace() || "#-*_`~|:>+=".contains(c);
    let text = if text[line..].chars().all(is_mark) { &text[..line] } else { text };
    let plain = render::lines(text, width, theme);
    let Some(closed) = closed(text).filter(|_| !ends_in_code(text)) else { return plain };
    let closed = render::lines(&closed, width, theme);
    // Marks that show up as text were not parsed: the rendering with fewer of them is right.
    if marks(&closed) < marks(&plain) { closed } else { plain }
}

fn marks(lines: &[Line<'_>]) -> usize {
    let spans = lines.iter().flat_map(|line| &line.spans);
    spans.map(|span| span.content.chars().filter(|c| "*_`~".contains(*c)).count()).sum()
}

/// Whether a text ends inside a code block or an HTML block.
fn ends_in_code(text: &str) -> bool {
    let end = text.trim_end().len();
    parse(text).any(|(event, range)| {
        matches!(event, Event::Start(Tag::CodeBlock(_) | Tag::HtmlBlock)) && range.end >= end
    })
}

/// The text with the open marks of its last line closed; `None` if none is open.
fn closed(text: &str) -> Option<String> {
    let text = text.trim_end();
    let line = text.rfind('\n').map_or(0, |end| end + 1);
    let mut open: Vec<&str> = Vec::new();
    let (mut at, mut end) = (line, text.len());
    while let Some(first) = text[at..].chars().next() {
        let run = text[at..].chars().take_while(|&c| c == first).count() * first.len_utf8();
        let marks = &text[at..at + run];
        let (before, after) = (text[line..at].chars().next_back(), text[at + run..].chars().next());
        let in_code = open.last().is_some_and(|open| open.starts_with('`'));
        match first {
            '\\' if !in_code => {
                at += 1 + after.filter(|_| run == 1).map_or(0, char::len_utf8);
                continue;
            }
            '`' if open.last() == Some(&marks) => drop(open.pop()),
            '`' if !in_code && after.is_some() => open.push(marks),
            '`' if after.is_none() => end = at,
            '*' | '_' | '~' if !in_code && (first != '~' || run == 2 || after.is_none()) => {
                let inside = |c: Option<char>| first == '_' && c.is_some_and(char::is_alphanumeric);
                let opens = after.is_some_and(|c| !c.is_whitespace()) && !inside(before);
                let closes = before.is_some_and(|c| !c.is_whitespace()) && !inside(after);
                if closes && open.last() == Some(&marks) {
                    open.pop();
                } else if opens {
                    open.push(marks);
                } else if after.is_none() {
                    // The mark has only just begun, or half of its end is here.
                    end = at;
                }
            }
            _ => {}
        }
        at += run;
    }
    if open.is_empty() && end == text.len() {
        return None;
    }
    let mut closed = text[..end].trim_end().to_owned();
    open.iter().rev().for_each(|marks| closed.push_str(marks));
    Some(closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_gets_an_end() {
        for (text, expected) in [
            ("a **bold", Some("a **bold**")),
            ("a **bold ", Some("a **bold**")),
            ("a **bold*", Some("a **bold**")),
            ("a **", Some("a")),
            ("**a *b", Some("**a *b***")),
            ("`let x", Some("`let x`")),
            ("`let **x", Some("`let **x`")),
            ("a `", Some("a")),
            ("~~old", Some("~~old~~")),
            ("* item *one", Some("* item *one*")),
            ("snake_case", None),
            ("2 * 3", None),
            ("**a** b", None),
            (r"\*a", None),
            ("*first*\nsecond", None),
        ] {
            assert_eq!(closed(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn nothing_ends_inside_code() {
        assert!(ends_in_code("```\na **b"));
        assert!(!ends_in_code("```\na\n```\nb **c"));
    }
}
