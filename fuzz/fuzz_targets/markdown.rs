//! Answers on a terminal: whatever a model writes, in whatever pieces, the filter lets no control character
//! through, and the Markdown becomes lines of the width asked for, the same for every way to cut the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use moelten_tui::filter::{Filter, clean};
use moelten_tui::fuzzing::{Document, code_blocks};
use moelten_tui::theme::{ColourDepth, ColourScheme, Theme};
use moelten_tui::thinking;
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

const DARK: Theme = Theme { scheme: ColourScheme::Dark, depth: ColourDepth::True };

fn lines(document: &mut Document, width: u16, theme: Theme) -> Vec<String> {
    let lines = document.lines(width, theme);
    lines.iter().map(|line| line.spans.iter().map(|span| &*span.content).collect()).collect()
}

fn check(lines: &[String], width: u16, text: &str) {
    for line in lines {
        assert!(!line.chars().any(char::is_control), "{line:?} of {text:?}");
        // A character wider than the screen has its own line, with what has no width, such as a joiner.
        let alone = line.graphemes(true).filter(|grapheme| grapheme.width() > 0).count() == 1;
        assert!(alone || line.width() <= usize::from(width), "{line:?} of {text:?} at {width}");
    }
}

fuzz_target!(|input: (u8, u8, &str)| {
    let (width, step, raw) = input;
    let (width, step) = (u16::from(width) + 1, usize::from(step % 64) + 1);
    let theme = if width % 3 == 0 { Theme::PLAIN } else { DARK };
    let parts = thinking::parts(raw);
    assert!(raw.contains(parts.answer));
    let text = clean(raw);
    let (mut filter, mut growing, mut filtered) = (Filter::new(), Document::new(), String::new());
    let mut rest = raw;
    while !rest.is_empty() {
        let (piece, others) = rest.split_at(rest.floor_char_boundary(step).max(rest.ceil_char_boundary(1)));
        let before = filtered.len();
        filter.push(piece, &mut filtered);
        growing.push(&filtered[before..]);
        // Every state of a growing answer is drawn; of a long one, some.
        if raw.len() < 512 || rest.len() % 16 == 0 {
            check(&lines(&mut growing, width, theme), width, &text);
        }
        rest = others;
    }
    assert_eq!(filtered, text, "the filter depends on pieces: {raw:?}");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
    growing.finish();
    let mut whole = Document::new();
    whole.push(&text);
    whole.finish();
    let (growing, whole) = (lines(&mut growing, width, theme), lines(&mut whole, width, theme));
    check(&whole, width, &text);
    assert_eq!(growing, whole, "lines depend on pieces: {text:?}");
    code_blocks(&text);
});
