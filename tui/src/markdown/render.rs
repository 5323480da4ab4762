//! Blocks of a document as styled lines: a walk over the parser's events with a stack of what indents them. It must not know
//! whether the document is finished.

use std::borrow::Cow;
use std::ops::Range;

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, LinkType, Parser, Tag, TagEnd};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::highlight::Highlighter;
use super::table::Table;
use super::wrap::{self, Spans};
use super::{OPTIONS, parse};
use crate::filter;
use crate::theme::{Role, Theme};

/// Marks of lists, by depth.
const BULLETS: [&str; 3] = ["• ", "◦ ", "▪ "];
/// Where less is left for text than this, marks stand in the text and nothing is indented.
const TEXT_MIN: usize = 8;
/// What a tab becomes.
const TAB: &str = "    ";

/// Lines of a text, at most `width` columns each.
pub fn lines(text: &str, width: usize, theme: Theme) -> Vec<Line<'static>> {
    let text = with_definitions(text);
    let mut writer = Writer {
        theme,
        width: width.max(1),
        source: &text,
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

/// The text with its link definitions as ordinary text: a parser swallows them, and a reader of an answer wants to see them.
fn with_definitions(text: &str) -> Cow<'_, str> {
    let parser = Parser::new_ext(text, OPTIONS);
    if parser.reference_definitions().iter().next().is_none() {
        return Cow::Borrowed(text);
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
    for (at, _) in text.match_indices("]:") {
        while literals.next_if(|range| range.end <= at).is_some() {}
        if literals.peek().is_some_and(|range| range.contains(&at)) {
            continue;
        }
        out.push_str(&text[from..=at]);
        out.push('\\');
        from = at + 1;
    }
    out.push_str(&text[from..]);
    Cow::Owned(out)
}

/// What stands before every line of a block.
struct Indent {
    /// Before its first line, until that is written.
    first: Option<Span<'static>>,
    /// Before the others.
    rest: Span<'static>,
}

/// A block of code.
struct Code {
    language: String,
    text: String,
}

struct Writer<'a> {
    theme: Theme,
    width: usize,
    source: &'a str,
    out: Vec<Line<'static>>,
    indents: Vec<Indent>,
    /// Text of the paragraph that has not ended.
    inline: Spans,
    styles: Vec<Style>,
    /// The next number of each list, if it has numbers.
    lists: Vec<Option<u64>>,
    /// Where each link that has not ended leads, and what it says about that.
    links: Vec<(String, usize)>,
    code: Option<Code>,
    table: Option<Table>,
    /// An empty line comes before the next block.
    gap: bool,
}

impl Writer<'_> {
    fn event(&mut self, event: Event<'_>, range: Range<usize>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag, range),
            Event::Text(text) => match &mut self.code {
                Some(code) => code.text.push_str(&text),
                None => self.text(&filter::clean_line(&text), self.style()),
            },
            Event::Code(text) => {
                let style = self.style().patch(self.theme.style(Role::Code));
                let text = filter::clean_line(&text);
                // Without colours the marks are what tells it apart.
                let text = if self.theme.coloured() { text } else { format!("`{text}`") };
                self.text(&text, style);
            }
            Event::InlineHtml(tag) if is_break(&tag) => self.text("\n", self.style()),
            Event::InlineHtml(tag) => self.text(&filter::clean_line(&tag), self.style()),
            Event::Html(text) => {
                self.text(&filter::clean(&text).replace('\t', TAB), self.theme.style(Role::Dim));
            }
            // Whoever ends a line in a chat means it.
            Event::SoftBreak | Event::HardBreak => self.text("\n", self.style()),
            Event::Rule => {
                let rule = Span::styled("─".repeat(self.room()), self.theme.style(Role::Frame));
                self.block(vec![vec![rule]]);
                self.gap = true;
            }
            Event::TaskListMarker(done) => {
                self.text(if done { "[x] " } else { "[ ] " }, self.theme.style(Role::Bullet));
            }
            // Not switched on: they do not come.
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
                self.style_with(match level {
                    HeadingLevel::H1 => style.add_modifier(Modifier::UNDERLINED),
                    HeadingLevel::H2 => style,
                    _ => style.add_modifier(Modifier::ITALIC),
                });
            }
            Tag::Emphasis => self.style_with(mark(Modifier::ITALIC)),
            Tag::Strong => self.style_with(mark(Modifier::BOLD)),
            Tag::Strikethrough => self.style_with(mark(Modifier::CROSSED_OUT)),
            Tag::Link { dest_url, title, .. } | Tag::Image { dest_url, title, .. } => {
                let mut leads = filter::clean_line(&dest_url);
                if !title.is_empty() {
                    leads.push_str(&format!(" \"{}\"", filter::clean_line(&title)));
                }
                self.links.push((leads, wrap_len(&self.inline)));
                self.style_with(self.theme.style(Role::Link));
            }
            Tag::BlockQuote(_) => {
                self.flush();
                let bar = Span::styled("┃ ", self.theme.style(Role::Frame));
                self.indents.push(Indent { first: None, rest: bar });
                self.style_with(self.theme.style(Role::Quote));
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
                self.code = Some(Code { language, text: String::new() });
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
            TagEnd::Link | TagEnd::Image => self.link(),
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

    /// A link has ended: where it leads, unless that is what it says.
    fn link(&mut self) {
        self.styles.pop();
        let Some((leads, from)) = self.links.pop() else { return };
        let text: String = self.inline.iter().map(|span| &*span.content).collect();
        let says = text.get(from..).unwrap_or_default();
        if says != leads && format!("mailto:{says}") != leads {
            let style = self.theme.style(Role::Dim);
            self.text(&if says.is_empty() { leads } else { format!(" ({leads})") }, style);
        }
    }

    fn end_code(&mut self) {
        let Some(Code { language, text }) = self.code.take() else { return };
        let room = self.room();
        let name = language.split([' ', ',', '{']).next().unwrap_or_default();
        let mut highlighter = Highlighter::new(name, self.theme);
        let frame = self.theme.style(Role::Frame);
        // A frame that leaves no room for code goes.
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
            for part in wrap::columns_of(&highlighter.line(line), code_room) {
                lines.push(framed(bar, frame, part));
            }
        }
        self.block(lines);
        self.gap = true;
    }

    fn style(&self) -> Style {
        self.styles.last().copied().unwrap_or_default()
    }

    fn style_with(&mut self, more: Style) {
        self.styles.push(self.style().patch(more));
    }

    fn text(&mut self, text: &str, style: Style) {
        wrap::add(&mut self.inline, text, style);
    }

    /// Columns of what stands before lines.
    fn indent(&self) -> usize {
        self.indents.iter().map(|indent| wrap::columns(std::slice::from_ref(&indent.rest))).sum()
    }

    /// Columns for text.
    fn room(&self) -> usize {
        let room = self.width.saturating_sub(self.indent());
        if room < TEXT_MIN { self.width } else { room }
    }

    /// Writes the paragraph, if there is one.
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
        // Items of a dense list follow at once.
        self.gap = false;
    }

    /// Writes lines of a block with what stands before them.
    fn block(&mut self, lines: Vec<Spans>) {
        let narrow = self.width.saturating_sub(self.indent()) < TEXT_MIN;
        if std::mem::take(&mut self.gap) && !self.out.is_empty() {
            let open = self.indents.iter().filter(|indent| indent.first.is_none() && !narrow);
            self.out.push(trimmed(open.map(|indent| indent.rest.clone()).collect()));
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

/// Bytes of the text of some spans.
fn wrap_len(spans: &[Span<'_>]) -> usize {
    spans.iter().map(|span| span.content.len()).sum()
}

fn framed(frame: &'static str, style: Style, line: Spans) -> Spans {
    let frame = (!frame.is_empty()).then(|| Span::styled(frame, style));
    frame.into_iter().chain(line).collect()
}

/// A line without spaces at its end, which would be copied with it.
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
