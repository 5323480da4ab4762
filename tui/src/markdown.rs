//! Markdown that is still being written, as styled lines of a given width. Every prefix of a document renders sensibly, and
//! blocks that are finished are not rendered again. Text comes in filtered; what entities hide in it is filtered here. It must
//! not know who writes, nor where the lines go.

mod highlight;
mod open;
mod render;
mod table;
mod wrap;

use std::ops::Range;

use pulldown_cmark::{Event, Options, Parser};
use ratatui::text::Line;

use crate::theme::Theme;

/// What is understood beyond CommonMark.
const OPTIONS: Options =
    Options::ENABLE_TABLES.union(Options::ENABLE_STRIKETHROUGH).union(Options::ENABLE_TASKLISTS);

/// A document, perhaps unfinished.
#[derive(Debug, Clone, Default)]
pub struct Markdown {
    text: String,
    finished: bool,
    /// What `lines` was rendered for.
    shown: Option<Shown>,
    /// Bytes of the text whose blocks are finished, and the lines they became.
    settled: (usize, usize),
    lines: Vec<Line<'static>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shown {
    width: u16,
    theme: Theme,
    bytes: usize,
    finished: bool,
}

impl Markdown {
    /// An empty document that text will be added to.
    pub fn new() -> Self {
        Self::default()
    }

    /// A whole document.
    pub fn whole(text: impl Into<String>) -> Self {
        Self { text: text.into(), finished: true, ..Self::default() }
    }

    /// Adds text that was filtered before.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.finished = false;
    }

    /// Nothing follows, as far as is known.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// The source.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The document in lines of at most `width` columns, `[lines]`; only a character that is wider than that is wider. What was
    /// rendered before for the same width and theme is kept.
    pub fn lines(&mut self, width: u16, theme: Theme) -> &[Line<'static>] {
        let now = Shown { width, theme, bytes: self.text.len(), finished: self.finished };
        if self.shown == Some(now) {
            return &self.lines;
        }
        if self.shown.is_none_or(|before| (before.width, before.theme) != (width, theme)) {
            self.settled = (0, 0);
        }
        self.shown = Some(now);
        self.lines.truncate(self.settled.1);
        self.settle(width, theme);
        let tail = &self.text[self.settled.0..];
        let tail = if self.finished {
            render::lines(tail, usize::from(width), theme)
        } else {
            open::lines(tail, usize::from(width), theme)
        };
        append(&mut self.lines, tail);
        &self.lines
    }

    /// Renders the blocks that no further text can change: those before the last one. A line without its end may yet make
    /// something else of what stands above it, so only whole lines count.
    fn settle(&mut self, width: u16, theme: Theme) {
        let tail = &self.text[self.settled.0..];
        let whole = &tail[..tail.rfind('\n').map_or(0, |end| end + 1)];
        let starts: Vec<_> = blocks(whole).skip(1).collect();
        let mut from = 0;
        for to in starts {
            append(&mut self.lines, render::lines(&tail[from..to], usize::from(width), theme));
            from = to;
        }
        self.settled = (self.settled.0 + from, self.lines.len());
    }
}

/// Where the lines begin on which the outermost blocks of a text begin.
fn blocks(text: &str) -> impl Iterator<Item = usize> + '_ {
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

fn parse(text: &str) -> impl Iterator<Item = (Event<'_>, Range<usize>)> {
    Parser::new_ext(text, OPTIONS).into_offset_iter()
}

/// Adds a block after an empty line.
fn append(lines: &mut Vec<Line<'static>>, block: Vec<Line<'static>>) {
    if !lines.is_empty() && !block.is_empty() {
        lines.push(Line::default());
    }
    lines.extend(block);
}

#[cfg(test)]
mod tests;
