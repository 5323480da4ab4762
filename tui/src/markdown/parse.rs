//! The Markdown parser with the extensions that are in use. It must not know how a document is drawn.

use std::borrow::Cow;
use std::ops::Range;

use pulldown_cmark::{Event, LinkType, Options, Parser, Tag};

/// Extensions beyond CommonMark.
const OPTIONS: Options =
    Options::ENABLE_TABLES.union(Options::ENABLE_STRIKETHROUGH).union(Options::ENABLE_TASKLISTS);

/// Parser events with their byte ranges in `text`.
pub(super) fn parse(text: &str) -> impl Iterator<Item = (Event<'_>, Range<usize>)> {
    Parser::new_ext(text, OPTIONS).into_offset_iter()
}

/// The text with its link definitions escaped, so that they are drawn: the parser would drop them. Also where
/// backslashes were added, as bytes of the new text.
pub(super) fn with_definitions(text: &str) -> (Cow<'_, str>, Vec<usize>) {
    if !text.contains("]:") {
        return (Cow::Borrowed(text), Vec::new());
    }
    let parser = Parser::new_ext(text, OPTIONS);
    if parser.reference_definitions().iter().next().is_none() {
        return (Cow::Borrowed(text), Vec::new());
    }
    let literal = |event: &Event<'_>| match event {
        Event::Code(_) | Event::Html(_) | Event::InlineHtml(_) | Event::Start(Tag::CodeBlock(_)) => true,
        Event::Start(Tag::Link { link_type, .. }) => {
            matches!(link_type, LinkType::Autolink | LinkType::Email)
        }
        _ => false,
    };
    let mut literals =
        parser.into_offset_iter().filter(|(event, _)| literal(event)).map(|(_, range)| range).peekable();
    let (mut out, mut from) = (String::with_capacity(text.len() + 16), 0);
    let mut added = Vec::new();
    for (at, _) in text.match_indices("]:") {
        while literals.next_if(|range| range.end <= at).is_some() {}
        if literals.peek().is_some_and(|range| range.contains(&at)) {
            continue;
        }
        out.push_str(&text[from..=at]);
        added.push(out.len());
        out.push('\\');
        from = at + 1;
    }
    out.push_str(&text[from..]);
    (Cow::Owned(out), added)
}

/// The bytes at which the lines of the outermost blocks begin, with link definitions taken as text: as they
/// are drawn.
pub(super) fn block_starts(text: &str) -> Vec<usize> {
    let (escaped, added) = with_definitions(text);
    let (mut depth, mut starts) = (0usize, Vec::new());
    for (event, range) in parse(&escaped) {
        let outermost = depth == 0;
        match event {
            Event::Start(_) => depth += 1,
            Event::End(_) => {
                depth -= 1;
                continue;
            }
            _ => {}
        }
        if outermost {
            let line = escaped[..range.start].rfind('\n').map_or(0, |end| end + 1);
            starts.push(line - added.iter().take_while(|&&at| at < line).count());
        }
    }
    starts
}
