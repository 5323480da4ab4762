//! The list of models: it fills while it is open, typing filters it, and each model has a verdict. A state
//! machine and its drawing; it must not search for models, nor open one.

use crossterm::event::KeyEvent;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use unicode_width::UnicodeWidthStr;

use super::list::{ListFilter, ListKey, RowWriter, contains_all, fitted, roomy};
use super::model_entry::{ModelEntry, Verdict};
use crate::chat::figures;
use crate::markdown::filter::clean_line;
use crate::markdown::rows::cut;
use crate::markdown::theme::{Role, Theme};

/// Columns of the kind, the size, the verdict and the speed.
const KIND: usize = 20;
const SIZE: usize = 8;
const VERDICT: usize = 7;
const SPEED: usize = 22;
/// Columns that names need before other columns are drawn.
const NAME_MIN: usize = 24;

/// What the keys do; the shorter ones are for narrow terminals.
const KEYS: [&str; 3] = [
    "type to filter, Up and Down select, Enter opens, Esc cancels",
    "type to filter, Enter opens, Esc cancels",
    "Enter opens, Esc cancels",
];

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
    filter: ListFilter,
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
        let words = self.filter.words();
        self.entries.iter().filter(move |entry| {
            contains_all(&format!("{} {} {}", entry.name, entry.kind, entry.place), &words)
        })
    }

    /// The selected model.
    pub fn selected(&self) -> Option<&ModelEntry> {
        self.matches().nth(self.filter.selected())
    }

    /// Handles a key.
    pub fn handle(&mut self, key: KeyEvent) -> PickerOutcome {
        let count = self.matches().count();
        match self.filter.key(key, count) {
            ListKey::Close => PickerOutcome::Closed,
            ListKey::Enter => match self.selected().filter(|entry| entry.verdict.runs()) {
                Some(entry) => PickerOutcome::Chosen(entry.clone()),
                None => PickerOutcome::Open,
            },
            ListKey::Delete | ListKey::Taken => PickerOutcome::Open,
        }
    }

    /// Moves the selection, up if negative.
    pub fn step(&mut self, by: isize) {
        let count = self.matches().count();
        self.filter.step(by, count);
    }

    /// Draws the filter, as much of the list as fits, details of the selected model, and the keys.
    pub fn draw(&self, area: Rect, buf: &mut Buffer, theme: Theme) {
        let area = area.intersection(buf.area);
        let mut rows = RowWriter { area, next: area.y, buf };
        let (dim, text) = (theme.style(Role::Dim), theme.style(Role::Text));
        // The details, the keys, and the titles of the columns.
        let below: u16 = if area.height >= 9 { 3 } else { 0 };
        let searching = if self.complete { "" } else { "  searching ..." };
        rows.put(&[
            ("Model: ", theme.style(Role::Heading)),
            (self.filter.typed(), theme.style(Role::Person)),
            ("▏", theme.style(Role::Person)),
            (searching, dim),
        ]);
        let columns = Columns::of(area.width);
        if below > 0 {
            let titles = columns.row("name", "kind", "size", "here", "likely speed").concat();
            rows.put(&[("  ", dim), (&titles, dim)]);
        }
        let room = usize::from(area.bottom().saturating_sub(rows.next + below));
        let (count, selected) = (self.matches().count(), self.filter.selected());
        let first = (selected + 1).saturating_sub(room);
        for (place, entry) in self.matches().enumerate().skip(first).take(room) {
            entry_row(entry, place == selected, columns, &mut rows, theme);
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
                // In full: the column of speeds is narrow or not there, and a GPU adds its share.
                Some(entry) if entry.verdict.runs() => {
                    let colon = if entry.verdict.words().is_empty() { "" } else { ": " };
                    let words = format!("{}{colon}{}", entry.place, entry.verdict.words());
                    rows.put(&[("  ", text), (&cut(&words, usize::from(area.width).saturating_sub(2)), dim)]);
                }
                Some(entry) => {
                    let words = format!("  {}: {}", entry.place, entry.verdict.words());
                    rows.put(&[(&words, theme.style(Role::Warning))]);
                }
                None => rows.put(&[]),
            }
            rows.put(&[("  ", text), (&self.problems.join("; "), theme.style(Role::Warning))]);
            let more = if count > room { format!("{} of {count}; ", selected + 1) } else { String::new() };
            let help = roomy(&KEYS, usize::from(area.width).saturating_sub(2 + more.width()));
            rows.put(&[("  ", dim), (&more, dim), (help, dim)]);
        }
    }
}

/// The columns that a list of this width has room for. Where names get too narrow, columns are left out:
/// speeds first, then kinds, then sizes.
#[derive(Debug, Clone, Copy)]
struct Columns {
    width: usize,
    size: bool,
    kind: bool,
    speed: bool,
}

impl Columns {
    fn of(width: u16) -> Self {
        let width = usize::from(width);
        let needs = |columns: &[usize]| 2 + NAME_MIN + columns.iter().map(|column| column + 2).sum::<usize>();
        Self {
            width,
            size: width >= needs(&[VERDICT, SIZE]),
            kind: width >= needs(&[VERDICT, SIZE, KIND]),
            speed: width >= needs(&[VERDICT, SIZE, KIND, SPEED]),
        }
    }

    /// A row in four pieces: name, kind and size, verdict, speed.
    fn row(&self, name: &str, kind: &str, size: &str, verdict: &str, speed: &str) -> [String; 4] {
        let mut right = String::new();
        if self.kind {
            right.push_str(&format!("  {}", fitted(kind, KIND)));
        }
        if self.size {
            right.push_str(&format!("  {size:>SIZE$}"));
        }
        let word = format!("  {verdict:<VERDICT$}");
        let speed = if self.speed { format!("  {}", fitted(speed, SPEED)) } else { String::new() };
        let taken = 2 + right.width() + word.width() + speed.width();
        [fitted(name, self.width.saturating_sub(taken)), right, word, speed]
    }
}

fn entry_row(entry: &ModelEntry, selected: bool, columns: Columns, rows: &mut RowWriter<'_>, theme: Theme) {
    let speed = if entry.verdict.runs() { entry.verdict.words() } else { "" };
    let size = entry.bytes.map_or_else(String::new, figures::bytes);
    let [name, right, word, speed] =
        columns.row(&entry.name, &entry.kind, &size, entry.verdict.word(), speed);
    let text = theme.style(if entry.verdict.runs() { Role::Text } else { Role::Dim });
    let dim = theme.style(Role::Dim);
    let mark = if selected { "> " } else { "  " };
    let verdict = theme.style(role(&entry.verdict));
    let pieces = [
        (mark, theme.style(Role::Person)),
        (&*name, text),
        (&*right, dim),
        (&*word, verdict),
        (&*speed, dim),
    ];
    if selected { rows.put_over(&pieces, theme.style(Role::Selected)) } else { rows.put(&pieces) }
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use crossterm::event::{KeyCode, KeyModifiers};
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
            "  name                                  kind                      size  here     likely speed",
            "  qwen3-30b.gguf                        qwen3moe Q4_0          8.3 GiB  STREAM   3.3 to 9.0 tok/s",
            "  olmoe.gguf                            olmoe Q4_K             8.3 GiB  RAM      20 to 30 tok/s",
            "> huge.gguf                             mixtral F16            8.3 GiB  NO",
            "  bad.gguf                                                     8.3 GiB  ?",
            "  the current folder: it needs 90 GB",
            "  /models: permission denied",
            "  type to filter, Up and Down select, Enter opens, Esc cancels",
        ];
        assert_eq!(screen(&picker, 103, 9), expected);
        let narrow = screen(&picker, 50, 9);
        assert_eq!(narrow[2], "  qwen3-30b.gguf                  8.3 GiB  STREAM");
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
