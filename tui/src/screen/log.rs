//! The conversation as lines: questions, answers and what the program said in between, laid out once per width. It must
//! not know what is in sight, nor what is computed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use moelten_loader::text::chat::Role as Speaker;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::live::{Live, Written};
use crate::chat::{Attachment, Turn};
use crate::filter;
use crate::progress::span_words;
use crate::terminal::Tone;
use crate::theme::{Role, Theme};
use crate::wrap;

/// Columns before a text; what marks a question stands there.
const GUTTER: u16 = 2;
/// Wider lines are hard to read.
const WIDTH_MAX: u16 = 100;

/// Everything that was said, in order.
#[derive(Default)]
pub struct Log {
    items: Vec<Item>,
    thoughts_shown: bool,
    /// What the items are laid out for.
    width: u16,
    theme: Theme,
}

struct Item {
    /// How many turns there were with it.
    turns: usize,
    what: What,
    /// Lines above the Markdown of an answer, or all there are.
    head: Option<Vec<Line<'static>>>,
}

enum What {
    /// A question with a line for each file beside it, filtered, and the hash of the turn.
    Question(String, Vec<String>, u64),
    /// An answer, and the hash of the turn.
    Answer(Box<Written>, u64),
    /// What the program says, filtered.
    Note(Tone, String),
}

impl What {
    fn hash(&self) -> Option<u64> {
        match self {
            Self::Question(_, _, hash) | Self::Answer(_, hash) => Some(*hash),
            Self::Note(..) => None,
        }
    }
}

/// Of what is drawn of a turn: of a file beside it that is a line.
fn hash(turn: &Turn) -> u64 {
    let mut hasher = DefaultHasher::new();
    (turn.content.as_str(), turn.role == Speaker::User).hash(&mut hasher);
    turn.files.iter().for_each(|file| (&file.name, file.text.len(), file.tokens).hash(&mut hasher));
    hasher.finish()
}

impl Log {
    /// Shows these turns: forgets what was taken back, adds what is new. `live` is the answer that was on the screen as it
    /// was written.
    pub fn sync(&mut self, turns: &[Turn], mut live: Option<Live>) {
        let shown = self.items.iter().filter_map(|item| item.what.hash());
        let same = shown.clone().zip(turns).take_while(|(shown, turn)| *shown == hash(turn)).count();
        if same < shown.count() {
            self.items.retain(|item| item.turns <= same);
        }
        for (index, turn) in turns.iter().enumerate().skip(same) {
            let text = filter::clean(&turn.content);
            let what = match turn.role {
                Speaker::Assistant => {
                    let written = match live.take().map(|live| live.written) {
                        Some(mut written) if written.text() == text => {
                            written.said.finish();
                            written
                        }
                        _ => Written::whole(&text),
                    };
                    What::Answer(Box::new(written), hash(turn))
                }
                _ => {
                    let file = |file: &Attachment| format!("+ {}", filter::clean_line(&file.words()));
                    What::Question(text, turn.files.iter().map(file).collect(), hash(turn))
                }
            };
            self.items.push(Item { turns: index + 1, what, head: None });
        }
    }

    /// Adds what the program says while there are so many turns.
    pub fn note(&mut self, turns: usize, tone: Tone, text: &str) {
        self.items.push(Item { turns, what: What::Note(tone, filter::clean(text)), head: None });
    }

    /// Whether thoughts are shown or folded.
    pub fn set_thoughts_shown(&mut self, shown: bool) {
        if shown != self.thoughts_shown {
            self.thoughts_shown = shown;
            self.items.iter_mut().for_each(|item| item.head = None);
        }
    }

    /// Lines of everything in `columns` columns, `live` at the end.
    pub fn measure(&mut self, columns: u16, theme: Theme, live: Option<&mut Live>, now: Duration) -> usize {
        let width = columns.saturating_sub(GUTTER).clamp(1, WIDTH_MAX);
        if (width, theme) != (self.width, self.theme) {
            (self.width, self.theme) = (width, theme);
            self.items.iter_mut().for_each(|item| item.head = None);
        }
        let shown = self.thoughts_shown;
        let mut total = 0;
        let mut before = None;
        for item in &mut self.items {
            let head = item.head.get_or_insert_with(|| head(&item.what, width, theme, shown));
            let body = match &mut item.what {
                What::Answer(written, _) => written.said.lines(width, theme).len(),
                _ => 0,
            };
            total += gap(before, &item.what) + head.len() + body;
            before = Some(&item.what);
        }
        total + live.map_or(0, |live| live_lines(live, width, theme, shown, now).len() + 1)
    }

    /// Draws the lines from `top` on, as [`Self::measure`] counted them.
    pub fn draw(
        &mut self,
        area: Rect,
        buffer: &mut Buffer,
        top: usize,
        live: Option<&mut Live>,
        now: Duration,
    ) {
        let (width, theme, shown) = (self.width, self.theme, self.thoughts_shown);
        let mut rows = Rows { area, buffer, skip: top, row: 0 };
        let mut before: Option<&What> = None;
        for item in &mut self.items {
            rows.skip_lines(gap(before, &item.what));
            let mark = match &item.what {
                What::Question(..) => "\u{203a}",
                What::Note(Tone::Warning | Tone::Error, _) => "!",
                _ => "",
            };
            rows.mark(mark, theme, role(&item.what));
            item.head.iter().flatten().for_each(|line| rows.line(line));
            if let What::Answer(written, _) = &mut item.what {
                written.said.lines(width, theme).iter().for_each(|line| rows.line(line));
            }
            before = Some(&item.what);
        }
        if let Some(live) = live {
            rows.skip_lines(1);
            live_lines(live, width, theme, shown, now).iter().for_each(|line| rows.line(line));
        }
    }

    /// Questions and answers as text, for a screen that scrolls.
    pub fn farewell(&self) -> Vec<(Tone, String)> {
        let text = |item: &Item| match &item.what {
            What::Question(text, files, _) => {
                let lines: Vec<_> = text.lines().chain(files.iter().map(String::as_str)).collect();
                Some((Tone::Dim, format!("> {}\n", lines.join("\n  "))))
            }
            What::Answer(written, _) => Some((Tone::Plain, format!("{}\n", written.said.text().trim_end()))),
            What::Note(..) => None,
        };
        self.items.iter().filter_map(text).collect()
    }
}

/// Blank lines between two items: remarks of the program stay together.
fn gap(before: Option<&What>, what: &What) -> usize {
    match (before, what) {
        (None, _) | (Some(What::Note(..)), What::Note(..)) => 0,
        _ => 1,
    }
}

fn role(what: &What) -> Role {
    match what {
        What::Question(..) => Role::Person,
        What::Answer(..) => Role::Text,
        What::Note(tone, _) => tone_role(*tone),
    }
}

/// How a tone looks.
pub fn tone_role(tone: Tone) -> Role {
    match tone {
        Tone::Plain => Role::Text,
        Tone::Dim => Role::Dim,
        Tone::Warning => Role::Warning,
        Tone::Error => Role::Error,
    }
}

fn head(what: &What, width: u16, theme: Theme, shown: bool) -> Vec<Line<'static>> {
    match what {
        What::Question(text, files, _) => {
            let mut lines = plain(text, width, theme, role(what));
            lines.extend(files.iter().flat_map(|file| plain(file, width, theme, Role::Dim)));
            lines
        }
        What::Note(_, text) => table(text, width, theme, role(what)),
        What::Answer(written, _) => thought(written, width, theme, shown, None),
    }
}

fn plain(text: &str, width: u16, theme: Theme, role: Role) -> Vec<Line<'static>> {
    let rows = wrap::rows(text.trim_end_matches('\n'), usize::from(width));
    rows.into_iter().map(|row| Line::styled(wrap::shown(text[row].trim_end()), theme.style(role))).collect()
}

/// As [`plain`], with the rest of a long line below its last column, as in a table.
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
        for (index, row) in wrap::rows(rest, room).into_iter().enumerate() {
            let before = if index == 0 { first.to_owned() } else { " ".repeat(column) };
            lines.push(Line::styled(before + rest[row].trim_end(), theme.style(role)));
        }
    }
    lines
}

/// The line that stands for thoughts, and the thoughts if they are shown. `now` if the model still thinks.
fn thought(
    written: &Written,
    width: u16,
    theme: Theme,
    shown: bool,
    now: Option<Duration>,
) -> Vec<Line<'static>> {
    let parts = written.parts();
    let Some(thought) = parts.thought else { return Vec::new() };
    let sign = if shown { "\u{25be}" } else { "\u{25b8}" };
    let words = match (now, written.thought_for) {
        (Some(took), _) if parts.thinking => format!("{sign} thinking, {}", span_words(took)),
        (_, Some(took)) => format!("{sign} thought for {}", span_words(took)),
        _ => format!("{sign} a thought"),
    };
    let mut lines = vec![Line::styled(words, theme.style(Role::Dim))];
    if shown {
        for mut line in plain(thought, width.saturating_sub(2).max(1), theme, Role::Quote) {
            line.spans.insert(0, Span::styled("\u{2502} ", theme.style(Role::Frame)));
            lines.push(line);
        }
    }
    if !parts.said.is_empty() {
        lines.push(Line::default());
    }
    lines
}

fn live_lines(live: &mut Live, width: u16, theme: Theme, shown: bool, now: Duration) -> Vec<Line<'static>> {
    let took = live.thinks_since.map(|since| now.saturating_sub(since));
    let mut lines = thought(&live.written, width, theme, shown, took);
    lines.extend_from_slice(live.written.said.lines(width, theme));
    lines
}

/// Where the next line goes.
struct Rows<'a> {
    area: Rect,
    buffer: &'a mut Buffer,
    /// Lines above the screen that are still to come.
    skip: usize,
    row: u16,
}

impl Rows<'_> {
    fn skip_lines(&mut self, lines: usize) {
        for _ in 0..lines {
            self.step();
        }
    }

    /// The row of the next line; `None` if it is not in sight.
    fn step(&mut self) -> Option<u16> {
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        let row = Some(self.row).filter(|row| *row < self.area.height);
        self.row = self.row.saturating_add(1);
        row.map(|row| self.area.y + row)
    }

    /// Marks the next line.
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
