//! Blocks of a document as styled lines: a walk over the parser's events with a stack of indents. It must not
//! know whether the document is finished.

use std::ops::Range;

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Tag, TagEnd};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::filter;
use super::highlight::Highlighter;
use super::parse::{parse, with_definitions};
use super::table::Table;
use super::theme::{Role, Theme};
use super::wrap::{self, Spans};

/// List markers, by depth.
const BULLETS: [&str; 3] = ["• ", "◦ ", "▪ "];
/// Columns that text needs beside its indent. With less, markers stand inside the text and nothing is
/// indented.
const TEXT_MIN: usize = 8;
/// What stands before the rest of a line of code.
const CONTINUED: &str = "\u{21b3} ";
/// What a tab is drawn as.
const TAB: &str = "    ";

/// The lines of a text, `[lines]`, at most `width` columns each.
pub fn lines(text: &str, width: usize, theme: Theme) -> Vec<Line<'static>> {
    let (text, added) = with_definitions(text);
    let mut writer = Writer {
        theme,
        width: width.max(1),
        source: &text,
        added,
        formula: false,
        out: Vec::new(),
        indents: Vec::new(),
        inline: Spans::new(),
        styles: vec![theme.style(Role::Text)],
        lists: Vec::new(),
        links: Vec::new(),
        code: None,
        table: None,
        gap: false,
    };
    for (event, range) in parse(&text) {
        writer.event(event, range);
    }
    writer.out
}

/// What is drawn before every line of a block.
struct Indent {
    /// Before the first line; taken once that line is written.
    first: Option<Span<'static>>,
    /// Before the other lines.
    rest: Span<'static>,
}

/// A code block under construction.
struct CodeBlock {
    language: String,
    text: String,
}

/// The state of the walk.
struct Writer<'a> {
    theme: Theme,
    width: usize,
    source: &'a str,
    /// Where backslashes were added to the source.
    added: Vec<usize>,
    /// Whether the text is inside a formula.
    formula: bool,
    out: Vec<Line<'static>>,
    indents: Vec<Indent>,
    /// Text of the open paragraph.
    inline: Spans,
    /// Styles of the open elements, the innermost last.
    styles: Vec<Style>,
    /// The next number of each open list; `None` for a list with bullets.
    lists: Vec<Option<u64>>,
    /// The target of each open link, and the byte of `inline` at which its text begins.
    links: Vec<(String, usize)>,
    code: Option<CodeBlock>,
    table: Option<Table>,
    /// Whether an empty line comes before the next block.
    gap: bool,
}

impl Writer<'_> {
    fn event(&mut self, event: Event<'_>, range: Range<usize>) {
        match event {
            Event::Start(tag) => {
                // A formula ends with its block, so that blocks can be rendered apart.
                self.formula &=
                    matches!(tag, Tag::Emphasis | Tag::Strong | Tag::Strikethrough | Tag::Link { .. });
                self.start(tag);
            }
            Event::End(tag) => self.end(tag, range),
            Event::Text(text) => match &mut self.code {
                Some(code) => code.text.push_str(&text),
                None => {
                    let backslash = if self.is_formula(&text, range.start) { "\\" } else { "" };
                    self.text(&format!("{backslash}{}", filter::clean_line(&text)), self.style());
                }
            },
            Event::Code(text) => {
                let style = self.style().patch(self.theme.style(Role::Code));
                let text = filter::clean_line(&text);
                // Without colours only the backticks mark it as code.
                let text = if self.theme.coloured() { text } else { format!("`{text}`") };
                self.text(&text, style);
            }
            Event::InlineHtml(tag) if is_break(&tag) => self.text("\n", self.style()),
            Event::InlineHtml(tag) => self.text(&filter::clean_line(&tag), self.style()),
            Event::Html(text) => {
                self.text(&filter::clean(&text).replace('\t', TAB), self.theme.style(Role::Dim));
            }
            // In a chat a single line end is meant as one.
            Event::SoftBreak | Event::HardBreak => self.text("\n", self.style()),
            Event::Rule => {
                let rule = Span::styled("─".repeat(self.room()), self.theme.style(Role::Frame));
                self.block(vec![vec![rule]]);
                self.gap = true;
            }
            Event::TaskListMarker(done) => {
                self.text(if done { "[x] " } else { "[ ] " }, self.theme.style(Role::Bullet));
            }
            // These extensions are off, so these events do not occur.
            Event::InlineMath(text) | Event::DisplayMath(text) | Event::FootnoteReference(text) => {
                self.text(&filter::clean_line(&text), self.style());
            }
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        let mark = |modifier| Style::new().add_modifier(modifier);
        match tag {
            Tag::Heading { level, .. } => {
                let style = self.theme.style(Role::Heading);
                self.push_style(match level {
                    HeadingLevel::H1 => style.add_modifier(Modifier::UNDERLINED),
                    HeadingLevel::H2 => style,
                    _ => style.add_modifier(Modifier::ITALIC),
                });
            }
            Tag::Emphasis => self.push_style(mark(Modifier::ITALIC)),
            Tag::Strong => self.push_style(mark(Modifier::BOLD)),
            Tag::Strikethrough => self.push_style(mark(Modifier::CROSSED_OUT)),
            Tag::Link { dest_url, title, .. } | Tag::Image { dest_url, title, .. } => {
                let mut target = filter::clean_line(&dest_url);
                if !title.is_empty() {
                    target.push_str(&format!(" \"{}\"", filter::clean_line(&title)));
                }
                self.links.push((target, text_len(&self.inline)));
                self.push_style(self.theme.style(Role::Link));
            }
            Tag::BlockQuote(_) => {
                self.flush();
                let bar = Span::styled("┃ ", self.theme.style(Role::Frame));
                self.indents.push(Indent { first: None, rest: bar });
                self.push_style(self.theme.style(Role::Quote));
            }
            Tag::List(first) => {
                self.flush();
                self.lists.push(first);
            }
            Tag::Item => {
                let depth = self.lists.len().saturating_sub(1);
                let mark = match self.lists.last_mut() {
                    Some(Some(number)) => {
                        *number += 1;
                        format!("{}. ", *number - 1)
                    }
                    _ => BULLETS[depth.min(BULLETS.len() - 1)].to_owned(),
                };
                let rest = Span::raw(" ".repeat(wrap::columns(&[Span::raw(&*mark)])));
                let first = Some(Span::styled(mark, self.theme.style(Role::Bullet)));
                self.indents.push(Indent { first, rest });
            }
            Tag::CodeBlock(kind) => {
                self.flush();
                let language = match kind {
                    CodeBlockKind::Fenced(name) => filter::clean_line(name.trim()),
                    CodeBlockKind::Indented => String::new(),
                };
                self.code = Some(CodeBlock { language, text: String::new() });
            }
            Tag::Table(alignments) => {
                self.flush();
                self.table = Some(Table::new(alignments));
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd, range: Range<usize>) {
        match tag {
            TagEnd::Paragraph | TagEnd::HtmlBlock => {
                self.flush();
                self.gap = true;
            }
            TagEnd::Heading(_) => {
                self.flush();
                self.styles.pop();
                self.gap = true;
            }
            TagEnd::Emphasis | TagEnd::Strong | TagEnd::Strikethrough => drop(self.styles.pop()),
            TagEnd::Link | TagEnd::Image => self.end_link(),
            TagEnd::BlockQuote(_) => {
                self.flush();
                self.styles.pop();
                self.indents.pop();
                self.gap = true;
            }
            TagEnd::List(_) => {
                self.lists.pop();
                self.gap |= self.lists.is_empty();
            }
            TagEnd::Item => {
                self.flush();
                if self.indents.last().is_some_and(|indent| indent.first.is_some()) {
                    self.block(vec![Spans::new()]);
                }
                self.indents.pop();
            }
            TagEnd::CodeBlock => self.end_code(),
            TagEnd::TableCell => {
                let cell = std::mem::take(&mut self.inline);
                if let Some(table) = &mut self.table {
                    table.cell(cell, range.end);
                }
            }
            TagEnd::TableHead | TagEnd::TableRow => {
                let style = self.style();
                if let Some(table) = &mut self.table {
                    table.row(self.source, range.end, style);
                }
            }
            TagEnd::Table => {
                let room = self.room();
                if let Some(table) = self.table.take() {
                    self.block(table.lines(room, self.theme));
                }
                self.gap = true;
            }
            _ => {}
        }
    }

    /// Ends a link: its target follows the text, unless they are the same.
    fn end_link(&mut self) {
        self.styles.pop();
        let Some((target, from)) = self.links.pop() else { return };
        let text: String = self.inline.iter().map(|span| &*span.content).collect();
        let label = text.get(from..).unwrap_or_default();
        if label != target && format!("mailto:{label}") != target {
            let style = self.theme.style(Role::Dim);
            self.text(&if label.is_empty() { target } else { format!(" ({target})") }, style);
        }
    }

    fn end_code(&mut self) {
        let Some(CodeBlock { language, text }) = self.code.take() else { return };
        let room = self.room();
        let name = language.split([' ', ',', '{']).next().unwrap_or_default();
        let mut highlighter = Highlighter::new(name, self.theme);
        let frame = self.theme.style(Role::Frame);
        // Without room for both, the frame is left out.
        let (bar, code_room) = if room > TEXT_MIN { ("│ ", room - 2) } else { ("", room) };
        let mut lines = Vec::new();
        if !language.is_empty() {
            let label = vec![Span::styled(language.clone(), self.theme.style(Role::Dim))];
            for label in wrap::columns_of(&label, code_room) {
                let corner = if lines.is_empty() { "╭ " } else { "│ " };
                lines.push(framed(if bar.is_empty() { "" } else { corner }, frame, label));
            }
        }
        let text = filter::clean(&text).replace('\t', TAB);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        for line in text.split('\n') {
            let parts = wrap::columns_of(&highlighter.line(line), code_room);
            for (index, part) in parts.into_iter().enumerate() {
                // A line that goes on says so: its end is no line end of the code.
                let bar = if index > 0 && !bar.is_empty() { CONTINUED } else { bar };
                lines.push(framed(bar, frame, part));
            }
        }
        self.block(lines);
        self.gap = true;
    }

    /// Whether the backslash before a text belongs to it, because it is one of a formula. `\(`, `\)`, `\[`
    /// and `\]` begin and end formulas; to Markdown they would be brackets, and the formula would look like
    /// prose.
    fn is_formula(&mut self, text: &str, start: usize) -> bool {
        let before = start.checked_sub(1);
        let escaped = before
            .is_some_and(|at| self.source.as_bytes().get(at) == Some(&b'\\') && !self.added.contains(&at));
        let inside = self.formula;
        match text.chars().next() {
            Some('(' | '[') if escaped => self.formula = true,
            Some(')' | ']') if escaped => self.formula = false,
            _ => return escaped && inside,
        }
        escaped
    }

    fn style(&self) -> Style {
        self.styles.last().copied().unwrap_or_default()
    }

    fn push_style(&mut self, more: Style) {
        self.styles.push(self.style().patch(more));
    }

    fn text(&mut self, text: &str, style: Style) {
        wrap::add(&mut self.inline, text, style);
    }

    /// Columns that the indents take.
    fn indent(&self) -> usize {
        self.indents.iter().map(|indent| wrap::columns(std::slice::from_ref(&indent.rest))).sum()
    }

    /// Columns that are left for text.
    fn room(&self) -> usize {
        let room = self.width.saturating_sub(self.indent());
        if room < TEXT_MIN { self.width } else { room }
    }

    /// Writes the open paragraph, if it has text.
    fn flush(&mut self) {
        if self.inline.iter().all(|span| span.content.trim().is_empty()) {
            self.inline.clear();
            return;
        }
        let mut text = std::mem::take(&mut self.inline);
        if self.width.saturating_sub(self.indent()) < TEXT_MIN {
            let marks = self.indents.iter_mut().filter_map(|indent| indent.first.take());
            text = marks.chain(text).collect();
        }
        let mut lines = wrap::words(&text, self.room());
        while lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        self.block(lines);
        // Items of a tight list follow without an empty line.
        self.gap = false;
    }

    /// Writes the lines of a block with their indents.
    fn block(&mut self, mut lines: Vec<Spans>) {
        let narrow = self.width.saturating_sub(self.indent()) < TEXT_MIN;
        if std::mem::take(&mut self.gap) && !self.out.is_empty() {
            let open = self.indents.iter().filter(|indent| indent.first.is_none() && !narrow);
            self.out.push(trimmed(open.map(|indent| indent.rest.clone()).collect()));
        }
        if narrow {
            self.marks_before(&mut lines);
        }
        for line in lines {
            let mut spans = Spans::new();
            for indent in &mut self.indents {
                match indent.first.take() {
                    Some(first) => spans.push(first),
                    None if narrow => {}
                    None => spans.push(indent.rest.clone()),
                }
            }
            spans.extend(line);
            self.out.push(trimmed(spans));
        }
    }
}

impl Writer<'_> {
    /// Puts the markers of items before a block that has the whole width: on its first line if they fit
    /// there, and otherwise on lines of their own.
    fn marks_before(&mut self, lines: &mut Vec<Spans>) {
        let marks: Spans = self.indents.iter_mut().filter_map(|indent| indent.first.take()).collect();
        if marks.is_empty() {
            return;
        }
        match lines.first_mut() {
            Some(line) if wrap::columns(&marks) + wrap::columns(line) <= self.width => {
                line.splice(0..0, marks);
            }
            _ => drop(lines.splice(0..0, wrap::words(&marks, self.width))),
        }
    }
}

/// Bytes of text that the spans hold together.
fn text_len(spans: &[Span<'_>]) -> usize {
    spans.iter().map(|span| span.content.len()).sum()
}

fn framed(frame: &'static str, style: Style, line: Spans) -> Spans {
    let frame = (!frame.is_empty()).then(|| Span::styled(frame, style));
    frame.into_iter().chain(line).collect()
}

/// A line without trailing spaces, which would end up in copied text.
fn trimmed(mut spans: Spans) -> Line<'static> {
    while let Some(last) = spans.last_mut() {
        let len = last.content.trim_end_matches(' ').len();
        if len > 0 {
            if len < last.content.len() {
                last.content.to_mut().truncate(len);
            }
            break;
        }
        spans.pop();
    }
    Line::from(spans)
}

fn is_break(tag: &str) -> bool {
    let name = tag.trim_start_matches('<').trim_end_matches(['>', '/', ' ']);
    name.eq_ignore_ascii_case("br")
}
