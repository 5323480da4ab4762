//! A Markdown document that may still be growing. Finished blocks are rendered once; only the tail is
//! rendered again when text arrives. The text was filtered before; what character entities hide in it is
//! filtered by `render`.

use ratatui::text::Line;

use super::parse::block_starts;
use super::theme::Theme;
use super::{open, render};

/// A document in rendered lines, complete or growing.
#[derive(Debug, Clone, Default)]
pub struct Document {
    text: String,
    finished: bool,
    /// What `lines` was rendered for.
    rendered_for: Option<RenderKey>,
    /// Bytes of the text whose blocks are finished, and the number of lines they became.
    pub(super) settled: (usize, usize),
    lines: Vec<Line<'static>>,
}

/// Everything that the rendered lines depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RenderKey {
    width: u16,
    theme: Theme,
    bytes: usize,
    finished: bool,
}

impl Document {
    /// An empty document that will grow.
    pub fn new() -> Self {
        Self::default()
    }

    /// A complete document.
    #[cfg(test)]
    pub fn whole(text: impl Into<String>) -> Self {
        Self { text: text.into(), finished: true, ..Self::default() }
    }

    /// Appends filtered text.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.finished = false;
    }

    /// Marks the document as complete: its last line is then rendered as written.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// The Markdown source.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The document as lines of at most `width` columns, `[lines]`. A single character wider than `width`
    /// still gets its own line. Lines rendered before for the same width and theme are kept.
    pub fn lines(&mut self, width: u16, theme: Theme) -> &[Line<'static>] {
        let key = RenderKey { width, theme, bytes: self.text.len(), finished: self.finished };
        if self.rendered_for == Some(key) {
            return &self.lines;
        }
        if self.rendered_for.is_none_or(|before| (before.width, before.theme) != (width, theme)) {
            self.settled = (0, 0);
        }
        self.rendered_for = Some(key);
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

    /// The lines as they were rendered last.
    pub fn laid_out(&self) -> &[Line<'static>] {
        &self.lines
    }

    /// Renders the blocks that later text cannot change: all but the last one. An unfinished line can still
    /// change the block above it (a setext heading), so only whole lines count.
    fn settle(&mut self, width: u16, theme: Theme) {
        let tail = &self.text[self.settled.0..];
        let whole = &tail[..tail.rfind('\n').map_or(0, |end| end + 1)];
        let mut from = 0;
        for to in block_starts(whole).into_iter().skip(1) {
            append(&mut self.lines, render::lines(&tail[from..to], usize::from(width), theme));
            from = to;
        }
        self.settled = (self.settled.0 + from, self.lines.len());
    }
}

/// Appends a block after an empty line.
fn append(lines: &mut Vec<Line<'static>>, block: Vec<Line<'static>>) {
    if !lines.is_empty() && !block.is_empty() {
        lines.push(Line::default());
    }
    lines.extend(block);
}
