//! The Markdown parser with the extensions that are in use. It must not know how a document is drawn.

use std::ops::Range;

use pulldown_cmark::{Event, Options, Parser};

/// Extensions beyond CommonMark.
pub(super) const OPTIONS: Options =
    Options::ENABLE_TABLES.union(Options::ENABLE_STRIKETHROUGH).union(Options::ENABLE_TASKLISTS);

/// Parser events with their byte ranges in `text`.
pub(super) fn parse(text: &str) -> impl Iterator<Item = (Event<'_>, Range<usize>)> {
    Parser::new_ext(text, OPTIONS).into_offset_iter()
}

/// The bytes at which the lines of the outermost blocks begin.
pub(super) fn block_starts(text: &str) -> impl Iterator<Item = usize> + '_ {
    let mut depth = 0usize;
    parse(text).filter_map(move |(event, range)| {
        let outermost = depth == 0;
        match event {
            Event::Start(_) => depth += 1,
            Event::End(_) => {
                depth -= 1;
                return None;
            }
            _ => {}
        }
        outermost.then(|| text[..range.start].rfind('\n').map_or(0, |end| end + 1))
    })
}
