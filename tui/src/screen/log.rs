//! The conversation as lines: questions, answers and notes in order, laid out once per width. It must not
//! know which lines are visible, nor what is being computed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use moelten_loader::text::chat::Speaker;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::live::{AnswerText, LiveAnswer};
use super::progress::duration;
use crate::chat::{Attachment, Tone, Turn};
use crate::markdown::filter;
use crate::markdown::rows;
use crate::markdown::theme::{Role, Theme};

/// Columns before a text, for the mark of a question or a warning.
const GUTTER: u16 = 2;
/// Longest line, in columns: longer ones are hard to read.
const WIDTH_MAX: u16 = 100;

/// The conversation with the notes of the program, in order.
#[derive(Default)]
pub struct Log {
    items: Vec<Item>,
    reasoning_shown: bool,
    /// Whether answers are shown as they were written, and not as Markdown.
    raw: bool,
    /// What the answer in progress was laid out for, and the lines before its Markdown.
    live: Option<(Look, Vec<Line<'static>>)>,
    /// Width and theme that the items are laid out for.
    width: u16,
    theme: Theme,
}

/// An entry of the log.
struct Item {
    /// Turns of the conversation up to here. An item is removed together with its turn.
    turns: usize,
    content: Content,
    /// All lines of a question or a note; of an answer, the lines before its Markdown.
    head: Option<Vec<Line<'static>>>,
}

/// The content of an entry.
enum Content {
    /// A question, a line for each attached file, both filtered, and the hash of the turn.
    Question(String, Vec<String>, u64),
    /// An answer, and the hash of the turn.
    Answer(Box<AnswerText>, u64),
    /// A note of the program, filtered.
    Note(Tone, String),
}

impl Content {
    fn hash(&self) -> Option<u64> {
        match self {
            Self::Question(_, _, hash) | Self::Answer(_, hash) => Some(*hash),
            Self::Note(..) => None,
        }
    }
}

/// A hash of what is drawn of a turn; of an attached file that is one line.
fn hash(turn: &Turn) -> u64 {
    let mut hasher = DefaultHasher::new();
    (turn.content.as_str(), turn.role == Speaker::User).hash(&mut hasher);
    turn.files.iter().for_each(|file| (&file.name, file.text.len(), file.tokens).hash(&mut hasher));
    hasher.finish()
}

impl Log {
    /// Shows these turns: removes items of turns that are gone, adds items for new turns. `live` is the
    /// answer that was drawn while it was generated; its layout is reused.
    pub fn sync(&mut self, turns: &[Turn], mut live: Option<LiveAnswer>) {
        let shown = self.items.iter().filter_map(|item| item.content.hash());
        let same = shown.clone().zip(turns).take_while(|(shown, turn)| *shown == hash(turn)).count();
        if same < shown.count() {
            self.items.retain(|item| item.turns <= same);
        }
        for (index, turn) in turns.iter().enumerate().skip(same) {
            let text = filter::clean(&turn.content);
            let content = match turn.role {
                Speaker::Assistant => {
                    let answer = match live.take().map(|live| live.text) {
                        Some(mut answer) if answer.text() == text => {
                            answer.answer.finish();
                            answer
                        }
                        _ => AnswerText::whole(&text),
                    };
                    Content::Answer(Box::new(answer), hash(turn))
                }
                _ => {
                    let file = |file: &Attachment| format!("+ {}", filter::clean_line(&file.description()));
                    Content::Question(text, turn.files.iter().map(file).collect(), hash(turn))
                }
            };
            self.items.push(Item { turns: index + 1, content, head: None });
        }
    }

    /// Adds a note at the end; `turns` is the present number of turns.
    pub fn note(&mut self, turns: usize, tone: Tone, text: &str) {
        self.items.push(Item { turns, content: Content::Note(tone, filter::clean(text)), head: None });
    }

    /// Shows or hides reasoning.
    pub fn set_reasoning_shown(&mut self, shown: bool) {
        if shown != self.reasoning_shown {
            self.reasoning_shown = shown;
            self.items.iter_mut().for_each(|item| item.head = None);
        }
    }

    /// Shows answers as Markdown, or as they were written.
    pub fn set_markdown(&mut self, rendered: bool) {
        self.raw = !rendered;
        self.items.iter_mut().for_each(|item| item.head = None);
    }

    /// Whether answers are shown as Markdown.
    pub fn markdown(&self) -> bool {
        !self.raw
    }

    /// Lays everything out for `columns` columns, `live` at the end; returns the number of lines.
    pub fn measure(
        &mut self,
        columns: u16,
        theme: Theme,
        live: Option<&mut LiveAnswer>,
        now: Duration,
    ) -> usize {
        let width = columns.saturating_sub(GUTTER).clamp(1, WIDTH_MAX);
        if (width, theme) != (self.width, self.theme) {
            (self.width, self.theme) = (width, theme);
            self.items.iter_mut().for_each(|item| item.head = None);
        }
        let look = self.look();
        let mut total = 0;
        let mut before = None;
        for item in &mut self.items {
            let head = item.head.get_or_insert_with(|| head(&item.content, look)).len();
            let body = body(&mut item.content, look).len();
            total += gap(before, &item.content) + head + body;
            before = Some(&item.content);
        }
        total + live.map_or(0, |live| self.lay_out(live, look, now) + 1)
    }

    fn look(&self) -> Look {
        let Self { width, theme, reasoning_shown, raw, .. } = *self;
        Look { width, theme, reasoning_shown, raw }
    }

    /// Calls `each` with the role of every item that is laid out, the number of its first line, and its
    /// lines.
    fn visit(&mut self, mut each: impl FnMut(Role, usize, &[&Line<'static>])) {
        let look = self.look();
        let (mut first, mut before) = (0, None);
        for item in &mut self.items {
            first += gap(before, &item.content);
            let role = role(&item.content);
            let lines: Vec<_> = item.head.iter().flatten().chain(body(&mut item.content, look)).collect();
            each(role, first, &lines);
            first += lines.len();
            before = Some(&item.content);
        }
    }

    /// The lines, as [`Self::measure`] laid them out, in which a text begins, in any case. It may go on in
    /// the next line.
    pub fn find(&mut self, wanted: &str) -> Vec<usize> {
        let wanted = wanted.to_lowercase();
        let mut found = Vec::new();
        if wanted.trim().is_empty() {
            return found;
        }
        self.visit(|_, first, lines| {
            let (mut text, mut starts) = (String::new(), Vec::new());
            for line in lines {
                starts.push(text.len());
                let all: String = line.spans.iter().map(|span| span.content.as_ref()).collect();
                text.push_str(all.trim().to_lowercase().as_str());
                text.push(' ');
            }
            let mut from = 0;
            while let Some(at) = text[from..].find(&wanted).map(|at| from + at) {
                let line = starts.partition_point(|&start| start <= at).saturating_sub(1);
                if found.last() != Some(&(first + line)) {
                    found.push(first + line);
                }
                from = at + wanted.len();
            }
        });
        found
    }

    /// Questions and answers in lines for the ordinary screen after the end, at most `columns` wide.
    pub fn farewell(&mut self, columns: u16, theme: Theme) -> Vec<Line<'static>> {
        self.items.retain(|item| !matches!(item.content, Content::Note(..)));
        self.measure(columns, theme, None, Duration::ZERO);
        let mut out = Vec::new();
        self.visit(|role, _, lines| {
            let mark = if role == Role::Person { "\u{203a} " } else { "  " };
            for (index, line) in lines.iter().enumerate() {
                let mut line = (*line).clone();
                let mark = if index == 0 { mark } else { "  " };
                line.spans.insert(0, Span::styled(mark, theme.style(role)));
                out.push(line);
            }
            out.push(Line::default());
        });
        out
    }

    /// Lays out the answer in progress, unless it is held as it was; returns the number of its lines.
    fn lay_out(&mut self, live: &mut LiveAnswer, look: Look, now: Duration) -> usize {
        let as_before = self.live.as_ref().is_some_and(|(before, _)| *before == look);
        if !(live.held && live.laid_out && as_before) {
            let elapsed = live.reasons_since.map(|since| now.saturating_sub(since));
            let mut lines = reasoning(&live.text, look, elapsed);
            if look.raw {
                lines.extend(plain(live.text.answer.text(), look.width, look.theme, Role::Text));
            } else {
                live.text.answer.lines(look.width, look.theme);
            }
            self.live = Some((look, lines));
            live.laid_out = true;
        }
        self.live_lines(live).count()
    }

    /// The lines of the answer in progress, as they were laid out.
    fn live_lines<'a>(&'a self, live: &'a LiveAnswer) -> impl Iterator<Item = &'a Line<'static>> {
        let body = if self.raw { &[][..] } else { live.text.answer.laid_out() };
        self.live.iter().flat_map(|(_, lines)| lines).chain(body)
    }

    /// Draws the lines from line `top` on, as [`Self::measure`] laid them out.
    pub fn draw(&mut self, area: Rect, buffer: &mut Buffer, top: usize, live: Option<&LiveAnswer>) {
        let (look, theme) = (self.look(), self.theme);
        let mut lines = LineWriter { area, buffer, skip: top, row: 0 };
        let mut before: Option<&Content> = None;
        for item in &mut self.items {
            lines.skip(gap(before, &item.content));
            let mark = match &item.content {
                Content::Question(..) => "\u{203a}",
                Content::Note(Tone::Warning | Tone::Error, _) => "!",
                _ => "",
            };
            lines.mark(mark, theme, role(&item.content));
            item.head.iter().flatten().for_each(|line| lines.line(line));
            body(&mut item.content, look).iter().for_each(|line| lines.line(line));
            before = Some(&item.content);
        }
        if let Some(live) = live {
            lines.skip(1);
            self.live_lines(live).for_each(|line| lines.line(line));
        }
    }
}

/// Blank lines between two items: notes stay together.
fn gap(before: Option<&Content>, content: &Content) -> usize {
    match (before, content) {
        (None, _) | (Some(Content::Note(..)), Content::Note(..)) => 0,
        _ => 1,
    }
}

fn role(content: &Content) -> Role {
    match content {
        Content::Question(..) => Role::Person,
        Content::Answer(..) => Role::Text,
        Content::Note(tone, _) => tone_role(*tone),
    }
}

/// How a note of this tone is drawn.
pub fn tone_role(tone: Tone) -> Role {
    match tone {
        Tone::Plain => Role::Text,
        Tone::Dim => Role::Dim,
        Tone::Warning => Role::Warning,
        Tone::Error => Role::Error,
    }
}

/// Everything that lines depend on besides their text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    width: u16,
    theme: Theme,
    reasoning_shown: bool,
    raw: bool,
}

/// The Markdown of an answer.
fn body(content: &mut Content, look: Look) -> &[Line<'static>] {
    match content {
        Content::Answer(answer, _) if !look.raw => answer.answer.lines(look.width, look.theme),
        _ => &[],
    }
}

/// The lines of an item that come before the Markdown of an answer.
fn head(content: &Content, look: Look) -> Vec<Line<'static>> {
    let Look { width, theme, .. } = look;
    match content {
        Content::Question(text, files, _) => {
            let mut lines = plain(text, width, theme, role(content));
            lines.extend(files.iter().flat_map(|file| plain(file, width, theme, Role::Dim)));
            lines
        }
        Content::Note(_, text) => table(text, width, theme, role(content)),
        Content::Answer(answer, _) => {
            let mut lines = reasoning(answer, look, None);
            if look.raw {
                lines.extend(plain(answer.answer.text(), width, theme, Role::Text));
            }
            lines
        }
    }
}

fn plain(text: &str, width: u16, theme: Theme, role: Role) -> Vec<Line<'static>> {
    let rows = rows::rows(text.trim_end_matches('\n'), usize::from(width));
    rows.into_iter().map(|row| Line::styled(rows::display(text[row].trim_end()), theme.style(role))).collect()
}

/// As [`plain`], but a long line is continued below its last column, as in a table.
fn table(text: &str, width: u16, theme: Theme, role: Role) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for line in text.trim_end_matches('\n').split('\n') {
        let column = line.rfind("  ").map_or(0, |gap| gap + 2);
        let room = usize::from(width).saturating_sub(column);
        if column == 0 || !line.is_ascii() || room < usize::from(width) / 3 {
            lines.extend(plain(line, width, theme, role));
            continue;
        }
        let (first, rest) = line.split_at(column);
        for (index, row) in rows::rows(rest, room).into_iter().enumerate() {
            let before = if index == 0 { first.to_owned() } else { " ".repeat(column) };
            lines.push(Line::styled(before + rest[row].trim_end(), theme.style(role)));
        }
    }
    lines
}

/// One line about the reasoning, and its text if `shown`. `elapsed` is its duration so far, while it goes on.
fn reasoning(text: &AnswerText, look: Look, elapsed: Option<Duration>) -> Vec<Line<'static>> {
    let Look { width, theme, reasoning_shown: shown, .. } = look;
    let parts = text.parts();
    let Some(reasoning) = parts.reasoning else { return Vec::new() };
    let sign = if shown { "\u{25be}" } else { "\u{25b8}" };
    let title = match (elapsed, text.reasoned_for) {
        (Some(time), _) if parts.unfinished => format!("{sign} reasoning, {}", duration(time)),
        (_, Some(time)) => format!("{sign} reasoned for {}", duration(time)),
        _ => format!("{sign} reasoning"),
    };
    let mut lines = vec![Line::styled(title, theme.style(Role::Dim))];
    if shown {
        for mut line in plain(reasoning, width.saturating_sub(2).max(1), theme, Role::Quote) {
            line.spans.insert(0, Span::styled("\u{2502} ", theme.style(Role::Frame)));
            lines.push(line);
        }
    }
    if !parts.answer.is_empty() {
        lines.push(Line::default());
    }
    lines
}

/// Writes lines into an area, after skipping those above it.
struct LineWriter<'a> {
    area: Rect,
    buffer: &'a mut Buffer,
    /// Lines that are still to be skipped.
    skip: usize,
    row: u16,
}

impl LineWriter<'_> {
    fn skip(&mut self, lines: usize) {
        for _ in 0..lines {
            self.step();
        }
    }

    /// Advances by a line; its row on the screen, `None` if it is not visible.
    fn step(&mut self) -> Option<u16> {
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        let row = Some(self.row).filter(|row| *row < self.area.height);
        self.row = self.row.saturating_add(1);
        row.map(|row| self.area.y + row)
    }

    /// Draws a mark in the gutter of the next line.
    fn mark(&mut self, sign: &str, theme: Theme, role: Role) {
        if self.skip == 0 && self.row < self.area.height && self.area.width > GUTTER {
            let place = (self.area.x, self.area.y + self.row);
            self.buffer.set_stringn(place.0, place.1, sign, 1, theme.style(role));
        }
    }

    fn line(&mut self, line: &Line<'_>) {
        let Some(y) = self.step() else { return };
        let gutter = if self.area.width > GUTTER { GUTTER } else { 0 };
        self.buffer.set_line(self.area.x + gutter, y, line, self.area.width - gutter);
    }
}
