//! The model picker: a list that fills while it is open, narrowed by typing, with a verdict for each model. A state machine and
//! its drawing; it must not know where models are found, nor open one.

use std::path::PathBuf;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

use crate::figures;
use crate::filter::clean_line;
use crate::theme::{Role, Theme};

/// Columns of a kind, of a size, of a verdict and of a speed.
const KIND: usize = 20;
const SIZE: usize = 8;
const VERDICT: usize = 7;
const SPEED: usize = 22;
/// Columns that names keep before other columns go.
const NAME_MIN: usize = 24;

/// A model that may be chosen. Texts may come from files: they are filtered here.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// What to call it.
    pub name: String,
    /// Where it is, in words.
    pub place: String,
    /// Its file or folder; `None` is the model that the program carries.
    pub path: Option<PathBuf>,
    /// Bytes of its files.
    pub bytes: Option<u64>,
    /// Family and type of its weights.
    pub kind: String,
    /// Whether it runs here.
    pub verdict: Verdict,
}

/// Whether a model runs on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All of it fits into memory, and how fast it will be.
    Ram(String),
    /// Experts will be read when they are needed, and how fast that will be.
    Stream(String),
    /// It does not run, and why.
    No(String),
    /// It cannot be opened, and why.
    Unreadable(String),
}

impl Verdict {
    /// In one word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ram(_) => "RAM",
            Self::Stream(_) => "STREAM",
            Self::No(_) => "NO",
            Self::Unreadable(_) => "?",
        }
    }

    /// The words that belong to it.
    pub fn words(&self) -> &str {
        match self {
            Self::Ram(words) | Self::Stream(words) | Self::No(words) | Self::Unreadable(words) => words,
        }
    }

    /// Whether the model can be chosen.
    pub fn runs(&self) -> bool {
        matches!(self, Self::Ram(_) | Self::Stream(_))
    }

    fn role(&self) -> Role {
        match self {
            Self::Ram(_) => Role::Good,
            Self::Stream(_) => Role::Accent,
            Self::No(_) => Role::Error,
            Self::Unreadable(_) => Role::Dim,
        }
    }
}

/// What became of a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The picker stays.
    Open,
    /// The person chose this model.
    Chosen(Entry),
    /// The person chose nothing.
    Closed,
}

/// The list and what is typed.
#[derive(Debug, Clone, Default)]
pub struct Picker {
    entries: Vec<Entry>,
    typed: String,
    /// The chosen one, by its place among those that match.
    at: usize,
    /// Nothing more will be found.
    complete: bool,
    /// What could not be searched, a line each.
    notes: Vec<String>,
}

impl Picker {
    /// An empty list that is being filled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another model was found.
    pub fn add(&mut self, mut entry: Entry) {
        for text in [&mut entry.name, &mut entry.place, &mut entry.kind] {
            *text = clean_line(text);
        }
        let (Verdict::Ram(words) | Verdict::Stream(words) | Verdict::No(words) | Verdict::Unreadable(words)) =
            &mut entry.verdict;
        *words = clean_line(words);
        self.entries.push(entry);
    }

    /// Something could not be searched.
    pub fn note(&mut self, note: &str) {
        self.notes.push(clean_line(note));
    }

    /// Everything has been searched.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// Models that match all words that were typed, wherever they stand.
    pub fn matches(&self) -> impl Iterator<Item = &Entry> {
        let words: Vec<_> = self.typed.split_whitespace().map(str::to_lowercase).collect();
        self.entries.iter().filter(move |entry| {
            let all = format!("{} {} {}", entry.name, entry.kind, entry.place).to_lowercase();
            words.iter().all(|word| all.contains(word))
        })
    }

    /// The model that Enter would choose.
    pub fn chosen(&self) -> Option<&Entry> {
        self.matches().nth(self.at)
    }

    /// A key was pressed.
    pub fn handle(&mut self, key: KeyEvent) -> Outcome {
        if key.kind == KeyEventKind::Release {
            return Outcome::Open;
        }
        let last = self.matches().count().saturating_sub(1);
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Esc => return Outcome::Closed,
            KeyCode::Char('c' | 'd') if control => return Outcome::Closed,
            KeyCode::Enter => {
                if let Some(entry) = self.chosen().filter(|entry| entry.verdict.runs()) {
                    return Outcome::Chosen(entry.clone());
                }
            }
            KeyCode::Up => self.at = self.at.saturating_sub(1),
            KeyCode::Char('p') if control => self.at = self.at.saturating_sub(1),
            KeyCode::Down => self.at = (self.at + 1).min(last),
            KeyCode::Char('n') if control => self.at = (self.at + 1).min(last),
            KeyCode::PageUp => self.at = self.at.saturating_sub(10),
            KeyCode::PageDown => self.at = (self.at + 10).min(last),
            KeyCode::Home => self.at = 0,
            KeyCode::End => self.at = last,
            KeyCode::Char('u') if control => self.type_(|typed| typed.clear()),
            KeyCode::Backspace => self.type_(|typed| {
                let end = typed.grapheme_indices(true).next_back().map_or(0, |(at, _)| at);
                typed.truncate(end);
            }),
            KeyCode::Char(c) if !control && !c.is_control() => self.type_(|typed| typed.push(c)),
            _ => {}
        }
        Outcome::Open
    }

    fn type_(&mut self, change: impl FnOnce(&mut String)) {
        change(&mut self.typed);
        self.at = 0;
    }

    /// Draws what there is room for: the question, the list, and what there is to say of the chosen model.
    pub fn draw(&self, area: Rect, buf: &mut Buffer, theme: Theme) {
        let area = area.intersection(buf.area);
        let mut rows = Rows { area, next: area.y, buf };
        let (dim, text) = (theme.style(Role::Dim), theme.style(Role::Text));
        let below: u16 = if area.height >= 8 { 3 } else { 0 };
        let searching = if self.complete { "" } else { "  searching ..." };
        rows.put(&[
            ("Which model? ", theme.style(Role::Heading)),
            (&self.typed, theme.style(Role::Person)),
            ("▏", theme.style(Role::Person)),
            (searching, dim),
        ]);
        let room = usize::from(area.height.saturating_sub(1 + below));
        let count = self.matches().count();
        let first = (self.at + 1).saturating_sub(room);
        for (place, entry) in self.matches().enumerate().skip(first).take(room) {
            rows.entry(entry, place == self.at, theme);
        }
        if count == 0 && room > 0 {
            let words = match (self.entries.is_empty(), self.complete) {
                (true, false) => "",
                (true, true) => "  no model was found",
                (false, _) => "  nothing matches; Backspace takes letters back",
            };
            rows.put(&[(words, dim)]);
        }
        if below > 0 {
            rows.next = area.bottom() - below;
            match self.chosen() {
                Some(entry) if entry.verdict.runs() => rows.put(&[("  ", text), (&entry.place, dim)]),
                Some(entry) => {
                    let words = format!("  {}: {}", entry.place, entry.verdict.words());
                    rows.put(&[(&words, theme.style(Role::Warning))]);
                }
                None => rows.put(&[]),
            }
            rows.put(&[("  ", text), (&self.notes.join("; "), theme.style(Role::Warning))]);
            let more = if count > room { format!("{} of {count}; ", self.at + 1) } else { String::new() };
            let help = format!("  {more}type to search, Up and Down choose, Enter opens, Esc leaves");
            rows.put(&[(&help, dim)]);
        }
    }
}

/// Lines, one below the other.
struct Rows<'a> {
    area: Rect,
    next: u16,
    buf: &'a mut Buffer,
}

impl Rows<'_> {
    fn put(&mut self, pieces: &[(&str, Style)]) {
        if self.next >= self.area.bottom() {
            return;
        }
        let mut x = self.area.x;
        for (text, style) in pieces {
            let room = usize::from(self.area.right().saturating_sub(x));
            x = self.buf.set_stringn(x, self.next, text, room, *style).0;
        }
        self.next += 1;
    }

    fn entry(&mut self, entry: &Entry, chosen: bool, theme: Theme) {
        let row = Rect { y: self.next, height: 1, ..self.area }.intersection(self.area);
        let width = usize::from(self.area.width);
        // Columns go when names get too little: speeds first, then kinds, then sizes.
        let needs = |columns: &[usize]| 2 + NAME_MIN + columns.iter().map(|column| column + 2).sum::<usize>();
        let with_size = width >= needs(&[VERDICT, SIZE]);
        let with_kind = width >= needs(&[VERDICT, SIZE, KIND]);
        let with_speed = width >= needs(&[VERDICT, SIZE, KIND, SPEED]);
        let mut right = String::new();
        if with_kind {
            right.push_str(&format!("  {}", fitted(&entry.kind, KIND)));
        }
        if with_size {
            right.push_str(&format!("  {:>SIZE$}", entry.bytes.map_or_else(String::new, figures::bytes)));
        }
        let word = format!("  {:<VERDICT$}", entry.verdict.word());
        let speed = if with_speed && entry.verdict.runs() { entry.verdict.words() } else { "" };
        let speed = if with_speed { format!("  {}", fitted(speed, SPEED)) } else { String::new() };
        let taken = 2 + right.width() + word.width() + speed.width();
        let name = fitted(&entry.name, width.saturating_sub(taken));
        let text = theme.style(if entry.verdict.runs() { Role::Text } else { Role::Dim });
        let mark = if chosen { "> " } else { "  " };
        self.put(&[
            (mark, theme.style(Role::Person)),
            (&name, text),
            (&right, theme.style(Role::Dim)),
            (&word, theme.style(entry.verdict.role())),
            (&speed, theme.style(Role::Dim)),
        ]);
        if chosen {
            self.buf.set_style(row, theme.style(Role::Selected));
        }
    }
}

/// A text in exactly so many columns; what is cut off shows.
fn fitted(text: &str, width: usize) -> String {
    if text.width() <= width {
        return format!("{text}{}", " ".repeat(width - text.width()));
    }
    let (mut out, mut used) = (String::new(), 0);
    for piece in text.graphemes(true) {
        if used + piece.width() + 1 > width {
            break;
        }
        out.push_str(piece);
        used += piece.width();
    }
    if used < width {
        out.push('…');
        used += 1;
    }
    out + &" ".repeat(width - used)
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn entry(name: &str, kind: &str, verdict: Verdict) -> Entry {
        let (place, path) = ("the current folder".to_owned(), Some(PathBuf::from(name)));
        Entry { name: name.into(), place, path, bytes: Some(8_867_000_000), kind: kind.into(), verdict }
    }

    fn picker() -> Picker {
        let mut picker = Picker::new();
        picker.add(entry("qwen3-30b.gguf", "qwen3moe Q4_0", Verdict::Stream("3.3 to 9.0 tok/s".into())));
        picker.add(entry("olmoe.gguf", "olmoe Q4_K", Verdict::Ram("20 to 30 tok/s".into())));
        picker.add(entry("huge.gguf", "mixtral F16", Verdict::No("it needs 90 GB".into())));
        picker.add(entry("bad\x1b[2J.gguf", "", Verdict::Unreadable("the header is damaged".into())));
        picker
    }

    fn press(picker: &mut Picker, keys: &str) -> Outcome {
        let mut outcome = Outcome::Open;
        for c in keys.chars() {
            let code = match c {
                'v' => KeyCode::Down,
                '^' => KeyCode::Up,
                '\n' => KeyCode::Enter,
                '<' => KeyCode::Backspace,
                '!' => KeyCode::Esc,
                c => KeyCode::Char(c),
            };
            outcome = picker.handle(KeyEvent::new(code, KeyModifiers::NONE));
        }
        outcome
    }

    fn name(outcome: Outcome) -> String {
        match outcome {
            Outcome::Chosen(entry) => entry.name,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn typing_narrows_and_enter_chooses() {
        assert_eq!(name(press(&mut picker(), "\n")), "qwen3-30b.gguf");
        assert_eq!(name(press(&mut picker(), "v\n")), "olmoe.gguf");
        assert_eq!(name(press(&mut picker(), "vvvvv^^^\n")), "qwen3-30b.gguf");
        assert_eq!(name(press(&mut picker(), "q4 oLM\n")), "olmoe.gguf");
        assert_eq!(name(press(&mut picker(), "q4x<\n")), "qwen3-30b.gguf");
        assert_eq!(press(&mut picker(), "zzz\n"), Outcome::Open, "nothing to choose");
        assert_eq!(press(&mut picker(), "huge\n"), Outcome::Open, "it does not run");
        assert_eq!(press(&mut picker(), "olm!"), Outcome::Closed);
        let control = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL);
        let mut picker = picker();
        press(&mut picker, "zzz");
        assert_eq!(picker.handle(control('u')), Outcome::Open);
        assert_eq!(picker.handle(control('n')), Outcome::Open);
        assert_eq!(picker.chosen().unwrap().name, "olmoe.gguf");
        assert_eq!(picker.handle(control('c')), Outcome::Closed);
    }

    fn screen(picker: &Picker, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| picker.draw(frame.area(), frame.buffer_mut(), Theme::PLAIN)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(row).collect()
    }

    #[test]
    fn a_page() {
        let mut picker = picker();
        picker.note("/models: permission denied");
        picker.complete();
        press(&mut picker, "vv");
        let expected = [
            "Which model? ▏",
            "  qwen3-30b.gguf                        qwen3moe Q4_0           8.9 GB  STREAM   3.3 to 9.0 tok/s",
            "  olmoe.gguf                            olmoe Q4_K              8.9 GB  RAM      20 to 30 tok/s",
            "> huge.gguf                             mixtral F16             8.9 GB  NO",
            "  bad.gguf                                                      8.9 GB  ?",
            "  the current folder: it needs 90 GB",
            "  /models: permission denied",
            "  type to search, Up and Down choose, Enter opens, Esc leaves",
        ];
        assert_eq!(screen(&picker, 103, 8), expected);
        let narrow = screen(&picker, 50, 8);
        assert_eq!(narrow[1], "  qwen3-30b.gguf                   8.9 GB  STREAM");
        assert_eq!(screen(&Picker::new(), 40, 2)[0], "Which model? ▏  searching ...");
    }

    #[test]
    fn any_size_is_drawn_and_the_chosen_one_is_in_sight() {
        let mut picker = picker();
        (0..50).for_each(|i| picker.add(entry(&format!("世界 {i}"), "x", Verdict::Ram(String::new()))));
        press(&mut picker, &"v".repeat(30));
        for (width, height) in [(1, 1), (20, 5), (80, 24), (200, 60), (7, 40)] {
            let shown = screen(&picker, width, height);
            assert_eq!(shown.len(), usize::from(height));
            if width >= 20 {
                assert!(shown.iter().any(|line| line.starts_with("> ")), "{shown:#?}");
            }
        }
    }
}
