//! The list of models: it fills while it is open, typing filters it, and each model has a verdict. A state
//! machine and its drawing; it must not search for models, nor open one.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

use super::model_entry::{ModelEntry, Verdict};
use crate::chat::figures;
use crate::markdown::filter::clean_line;
use crate::markdown::theme::{Role, Theme};

/// Columns of the kind, the size, the verdict and the speed.
const KIND: usize = 20;
const SIZE: usize = 8;
const VERDICT: usize = 7;
const SPEED: usize = 22;
/// Columns that names need before other columns are drawn.
const NAME_MIN: usize = 24;

/// What a key did.
#[derive(Debug, Clone, PartialEq)]
pub enum PickerOutcome {
    /// The list stays open.
    Open,
    /// The user chose this model.
    Chosen(ModelEntry),
    /// The user closed the list.
    Closed,
}

/// The models found so far, and the typed filter.
#[derive(Debug, Clone, Default)]
pub struct Picker {
    entries: Vec<ModelEntry>,
    typed: String,
    /// Index of the selected model among those that match.
    selected: usize,
    /// Whether the search has ended.
    complete: bool,
    /// Places that could not be searched.
    problems: Vec<String>,
}

impl Picker {
    /// An empty list whose search is running.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a model; its texts are filtered here.
    pub fn add(&mut self, mut entry: ModelEntry) {
        for text in [&mut entry.name, &mut entry.place, &mut entry.kind] {
            *text = clean_line(text);
        }
        let (Verdict::Ram(words) | Verdict::Stream(words) | Verdict::No(words) | Verdict::Unreadable(words)) =
            &mut entry.verdict;
        *words = clean_line(words);
        self.entries.push(entry);
    }

    /// Adds a message about a place that could not be searched.
    pub fn problem(&mut self, problem: &str) {
        self.problems.push(clean_line(problem));
    }

    /// Marks the search as ended.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// The models whose name, kind or place contains every typed word.
    pub fn matches(&self) -> impl Iterator<Item = &ModelEntry> {
        let words: Vec<_> = self.typed.split_whitespace().map(str::to_lowercase).collect();
        self.entries.iter().filter(move |entry| {
            let all = format!("{} {} {}", entry.name, entry.kind, entry.place).to_lowercase();
            words.iter().all(|word| all.contains(word))
        })
    }

    /// The selected model.
    pub fn selected(&self) -> Option<&ModelEntry> {
        self.matches().nth(self.selected)
    }

    /// Handles a key.
    pub fn handle(&mut self, key: KeyEvent) -> PickerOutcome {
        if key.kind == KeyEventKind::Release {
            return PickerOutcome::Open;
        }
        let last = self.matches().count().saturating_sub(1);
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Esc => return PickerOutcome::Closed,
            KeyCode::Char('c' | 'd') if control => return PickerOutcome::Closed,
            KeyCode::Enter => {
                if let Some(entry) = self.selected().filter(|entry| entry.verdict.runs()) {
                    return PickerOutcome::Chosen(entry.clone());
                }
            }
            KeyCode::Up => self.selected = self.selected.saturating_sub(1),
            KeyCode::Char('p') if control => self.selected = self.selected.saturating_sub(1),
            KeyCode::Down => self.selected = (self.selected + 1).min(last),
            KeyCode::Char('n') if control => self.selected = (self.selected + 1).min(last),
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(10),
            KeyCode::PageDown => self.selected = (self.selected + 10).min(last),
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = last,
            KeyCode::Char('u') if control => self.change_filter(|typed| typed.clear()),
            KeyCode::Backspace => self.change_filter(|typed| {
                let end = typed.grapheme_indices(true).next_back().map_or(0, |(at, _)| at);
                typed.truncate(end);
            }),
            KeyCode::Char(c) if !control && !c.is_control() => self.change_filter(|typed| typed.push(c)),
            _ => {}
        }
        PickerOutcome::Open
    }

    fn change_filter(&mut self, change: impl FnOnce(&mut String)) {
        change(&mut self.typed);
        self.selected = 0;
    }

    /// Moves the selection, up if negative.
    pub fn step(&mut self, by: isize) {
        let last = self.matches().count().saturating_sub(1);
        self.selected = self.selected.saturating_add_signed(by).min(last);
    }

    /// Draws the filter, as much of the list as fits, details of the selected model, and the keys.
    pub fn draw(&self, area: Rect, buf: &mut Buffer, theme: Theme) {
        let area = area.intersection(buf.area);
        let mut rows = RowWriter { area, next: area.y, buf };
        let (dim, text) = (theme.style(Role::Dim), theme.style(Role::Text));
        let below: u16 = if area.height >= 8 { 3 } else { 0 };
        let searching = if self.complete { "" } else { "  searching ..." };
        rows.put(&[
            ("Model: ", theme.style(Role::Heading)),
            (&self.typed, theme.style(Role::Person)),
            ("▏", theme.style(Role::Person)),
            (searching, dim),
        ]);
        let room = usize::from(area.height.saturating_sub(1 + below));
        let count = self.matches().count();
        let first = (self.selected + 1).saturating_sub(room);
        for (place, entry) in self.matches().enumerate().skip(first).take(room) {
            rows.entry(entry, place == self.selected, theme);
        }
        if count == 0 && room > 0 {
            let words = match (self.entries.is_empty(), self.complete) {
                (true, false) => "",
                (true, true) => "  no model found",
                (false, _) => "  no match; Backspace widens the search",
            };
            rows.put(&[(words, dim)]);
        }
        if below > 0 {
            rows.next = area.bottom() - below;
            match self.selected() {
                Some(entry) if entry.verdict.runs() => rows.put(&[("  ", text), (&entry.place, dim)]),
                Some(entry) => {
                    let words = format!("  {}: {}", entry.place, entry.verdict.words());
                    rows.put(&[(&words, theme.style(Role::Warning))]);
                }
                None => rows.put(&[]),
            }
            rows.put(&[("  ", text), (&self.problems.join("; "), theme.style(Role::Warning))]);
            let more =
                if count > room { format!("{} of {count}; ", self.selected + 1) } else { String::new() };
            let help = format!("  {more}type to filter, Up and Down select, Enter opens, Esc cancels");
            rows.put(&[(&help, dim)]);
        }
    }
}

/// Writes rows into an area from top to bottom.
pub(super) struct RowWriter<'a> {
    pub area: Rect,
    /// The row that is written next.
    pub next: u16,
    pub buf: &'a mut Buffer,
}

impl RowWriter<'_> {
    /// Writes pieces of text, each with its style.
    pub fn put(&mut self, pieces: &[(&str, Style)]) {
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

    fn entry(&mut self, entry: &ModelEntry, selected: bool, theme: Theme) {
        let row = Rect { y: self.next, height: 1, ..self.area }.intersection(self.area);
        let width = usize::from(self.area.width);
        // Where names get too narrow, columns are left out: speeds first, then kinds, then sizes.
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
        let mark = if selected { "> " } else { "  " };
        self.put(&[
            (mark, theme.style(Role::Person)),
            (&name, text),
            (&right, theme.style(Role::Dim)),
            (&word, theme.style(role(&entry.verdict))),
            (&speed, theme.style(Role::Dim)),
        ]);
        if selected {
            self.buf.set_style(row, theme.style(Role::Selected));
        }
    }
}

/// The role of a verdict.
fn role(verdict: &Verdict) -> Role {
    match verdict {
        Verdict::Ram(_) => Role::Good,
        Verdict::Stream(_) => Role::Accent,
        Verdict::No(_) => Role::Error,
        Verdict::Unreadable(_) => Role::Dim,
    }
}

/// A text in exactly `width` columns, with an ellipsis where something is cut off.
pub(super) fn fitted(text: &str, width: usize) -> String {
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
    use std::path::PathBuf;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn entry(name: &str, kind: &str, verdict: Verdict) -> ModelEntry {
        let (place, path) = ("the current folder".to_owned(), Some(PathBuf::from(name)));
        ModelEntry { name: name.into(), place, path, bytes: Some(8_867_000_000), kind: kind.into(), verdict }
    }

    fn picker() -> Picker {
        let mut picker = Picker::new();
        picker.add(entry("qwen3-30b.gguf", "qwen3moe Q4_0", Verdict::Stream("3.3 to 9.0 tok/s".into())));
        picker.add(entry("olmoe.gguf", "olmoe Q4_K", Verdict::Ram("20 to 30 tok/s".into())));
        picker.add(entry("huge.gguf", "mixtral F16", Verdict::No("it needs 90 GB".into())));
        picker.add(entry("bad\x1b[2J.gguf", "", Verdict::Unreadable("the header is damaged".into())));
        picker
    }

    fn press(picker: &mut Picker, keys: &str) -> PickerOutcome {
        let mut outcome = PickerOutcome::Open;
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

    fn name(outcome: PickerOutcome) -> String {
        match outcome {
            PickerOutcome::Chosen(entry) => entry.name,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn typing_filters_and_enter_chooses() {
        assert_eq!(name(press(&mut picker(), "\n")), "qwen3-30b.gguf");
        assert_eq!(name(press(&mut picker(), "v\n")), "olmoe.gguf");
        assert_eq!(name(press(&mut picker(), "vvvvv^^^\n")), "qwen3-30b.gguf");
        assert_eq!(name(press(&mut picker(), "q4 oLM\n")), "olmoe.gguf");
        assert_eq!(name(press(&mut picker(), "q4x<\n")), "qwen3-30b.gguf");
        assert_eq!(press(&mut picker(), "zzz\n"), PickerOutcome::Open, "nothing to choose");
        assert_eq!(press(&mut picker(), "huge\n"), PickerOutcome::Open, "it does not run");
        assert_eq!(press(&mut picker(), "olm!"), PickerOutcome::Closed);
        let control = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL);
        let mut picker = picker();
        press(&mut picker, "zzz");
        assert_eq!(picker.handle(control('u')), PickerOutcome::Open);
        assert_eq!(picker.handle(control('n')), PickerOutcome::Open);
        assert_eq!(picker.selected().unwrap().name, "olmoe.gguf");
        assert_eq!(picker.handle(control('c')), PickerOutcome::Closed);
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
        picker.problem("/models: permission denied");
        picker.complete();
        press(&mut picker, "vv");
        let expected = [
            "Model: ▏",
            "  qwen3-30b.gguf                        qwen3moe Q4_0          8.3 GiB  STREAM   3.3 to 9.0 tok/s",
            "  olmoe.gguf                            olmoe Q4_K             8.3 GiB  RAM      20 to 30 tok/s",
            "> huge.gguf                             mixtral F16            8.3 GiB  NO",
            "  bad.gguf                                                     8.3 GiB  ?",
            "  the current folder: it needs 90 GB",
            "  /models: permission denied",
            "  type to filter, Up and Down select, Enter opens, Esc cancels",
        ];
        assert_eq!(screen(&picker, 103, 8), expected);
        let narrow = screen(&picker, 50, 8);
        assert_eq!(narrow[1], "  qwen3-30b.gguf                  8.3 GiB  STREAM");
        assert_eq!(screen(&Picker::new(), 40, 2)[0], "Model: ▏  searching ...");
    }

    #[test]
    fn any_size_is_drawn_and_the_selected_model_is_visible() {
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
