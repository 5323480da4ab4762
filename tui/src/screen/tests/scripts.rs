//! Texts of all scripts, and all colour depths: what is drawn is the same, fits, and leaves nothing behind.

use moelten_testing::scripts::TEXTS;
use ratatui::buffer::Buffer;
use ratatui::style::Color;
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

use super::*;
use crate::markdown::theme::{ColourDepth, ColourScheme};

/// Characters without a width, and marks of a direction.
const INVISIBLE: &str = "a\u{200b}b \u{2067}x\u{2069} \u{feff}y";

fn all_texts() -> impl Iterator<Item = &'static str> {
    TEXTS.into_iter().chain([INVISIBLE])
}

fn buffer(person: &mut Person, columns: u16, rows: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| person.screen.draw(frame)).unwrap();
    terminal.backend().buffer().clone()
}

/// The texts of a screen, one for each row. Cells below a wide character are not seen.
fn texts(buffer: &Buffer) -> Vec<String> {
    let area = buffer.area;
    let row = |y| {
        let (mut text, mut x) = (String::new(), 0);
        while x < area.width {
            let symbol = buffer[(x, y)].symbol();
            text.push_str(symbol);
            x += symbol.width().max(1) as u16;
        }
        text
    };
    (0..area.height).map(row).collect()
}

#[test]
fn graphemes_of_all_scripts_stay_whole_and_within_their_rows() {
    let mut person = Person::new();
    for text in all_texts() {
        person.turn(text, &format!("- {text}\n\n| {text} | x |\n|---|---|\n| `{text}` | **{text}** |\n"));
    }
    for columns in [12, 40, 80, 120] {
        let buffer = buffer(&mut person, columns, 200);
        for y in 0..200 {
            let mut x = 0;
            while x < columns {
                let symbol = buffer[(x, y)].symbol();
                let wide = symbol.width().max(1) as u16;
                assert_eq!(symbol.graphemes(true).count().max(1), 1, "{symbol:?} in column {x} of {columns}");
                assert!(x + wide <= columns, "{symbol:?} goes beyond column {columns}");
                x += wide;
            }
        }
    }
}

/// What is drawn after scrolling and resizing is what a fresh terminal would get.
#[test]
fn nothing_of_them_is_left_behind() {
    let mut person = Person::new();
    for text in all_texts() {
        person.turn(text, &format!("{text} {text} {text}"));
    }
    let mut terminal = Terminal::new(TestBackend::new(60, 20)).unwrap();
    let keys =
        [KeyCode::PageUp, KeyCode::PageUp, KeyCode::Home, KeyCode::PageDown, KeyCode::End, KeyCode::F(1)];
    for key in keys {
        person.key(key);
        terminal.draw(|frame| person.screen.draw(frame)).unwrap();
        let (drawn, fresh) = (texts(terminal.backend().buffer()), texts(&buffer(&mut person, 60, 20)));
        assert_eq!(drawn, fresh, "after {key:?}");
    }
    person.key(KeyCode::Esc);
    person.enter("/clear");
    terminal.draw(|frame| person.screen.draw(frame)).unwrap();
    let rest = texts(terminal.backend().buffer()).concat();
    for grapheme in all_texts().flat_map(|text| text.graphemes(true)).filter(|grapheme| !grapheme.is_ascii())
    {
        assert!(!rest.contains(grapheme), "{grapheme:?} is left in\n{rest}");
    }
}

#[test]
fn colour_depths_change_colours_and_nothing_else() {
    let mut person = Person::new();
    person.turn("Show *code*", "## Head\n\n```rust\nlet x = \"text\"; // 1\n```\n- **bold** `code` [a](b)");
    person.screen.note(Tone::Warning, "a warning");
    let schemes = [ColourScheme::Dark, ColourScheme::Light];
    let depths = [ColourDepth::True, ColourDepth::Indexed, ColourDepth::Sixteen];
    for (columns, rows) in [(80, 24), (120, 40), (40, 12)] {
        person.screen.theme = Theme::PLAIN;
        let plain = buffer(&mut person, columns, rows);
        let cells =
            |buffer: &Buffer| buffer.content.iter().map(|cell| (cell.fg, cell.bg)).collect::<Vec<_>>();
        assert!(cells(&plain).iter().all(|cell| *cell == (Color::Reset, Color::Reset)), "no colours");
        // Without colours, marks tell code from other text.
        person.screen.theme = Theme { scheme: schemes[0], depth: depths[0] };
        let first = texts(&buffer(&mut person, columns, rows));
        for (scheme, depth) in schemes.into_iter().flat_map(|scheme| depths.map(|depth| (scheme, depth))) {
            person.screen.theme = Theme { scheme, depth };
            let coloured = buffer(&mut person, columns, rows);
            assert_eq!(first, texts(&coloured), "{scheme:?} {depth:?}");
            let all = cells(&coloured).into_iter().flat_map(|(text, ground)| [text, ground]);
            let (mut used, mut others) = (Vec::new(), Vec::new());
            for colour in all.filter(|colour| *colour != Color::Reset) {
                let fits = match depth {
                    ColourDepth::True => matches!(colour, Color::Rgb(..)),
                    ColourDepth::Indexed => matches!(colour, Color::Indexed(_)),
                    ColourDepth::Sixteen => !matches!(colour, Color::Rgb(..) | Color::Indexed(_)),
                };
                let list = if fits { &mut used } else { &mut others };
                if !list.contains(&colour) {
                    list.push(colour);
                }
            }
            assert!(used.len() >= 3, "{scheme:?} {depth:?} has few colours: {used:?}");
            assert_eq!(others, [], "{scheme:?} {depth:?}");
        }
    }
}
