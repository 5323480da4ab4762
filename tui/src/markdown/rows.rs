//! Breaks plain text into rows of the screen: after a word where possible, inside a word that is longer than
//! a row, never inside a grapheme. It must not know what the text means.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// What a tab is drawn as. Tabs do not align to columns.
const TAB: &str = "    ";

/// Columns that a grapheme takes.
pub fn columns(grapheme: &str) -> usize {
    if grapheme == "\t" { TAB.len() } else { grapheme.width() }
}

/// A row as it is drawn: tabs become spaces.
pub fn display(row: &str) -> String {
    row.replace('\t', TAB)
}

/// The rows of `text` in `width` columns, as byte ranges, `[rows]`; at least one. Ranges of a broken line
/// touch; a line end lies between two ranges. Blanks at the end of a row may exceed `width`.
pub fn rows(text: &str, width: usize) -> Vec<Range<usize>> {
    let mut rows = Vec::new();
    let mut start = 0;
    for line in text.split('\n') {
        line_rows(line, start, width.max(1), &mut rows);
        start += line.len() + 1;
    }
    rows
}

fn line_rows(line: &str, offset: usize, width: usize, rows: &mut Vec<Range<usize>>) {
    let (mut start, mut used) = (0, 0);
    // The byte after the last blank of the row, and the columns used up to it.
    let mut gap = (0, 0);
    for (at, grapheme) in line.grapheme_indices(true) {
        let blank = grapheme == " " || grapheme == "\t";
        let wide = columns(grapheme);
        // The part after the gap may itself be longer than a row.
        while used + wide > width && at > start && !blank {
            let (end, taken) = if gap.0 > start { gap } else { (at, used) };
            rows.push(offset + start..offset + end);
            (start, used) = (end, used - taken);
        }
        used += wide;
        if blank {
            gap = (at + grapheme.len(), used);
        }
    }
    rows.push(offset + start..offset + line.len());
}

/// As much of `text` as fits into `width` columns, with an ellipsis where something is cut off.
pub fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let row = rows(text, width.saturating_sub(1)).into_iter().next().unwrap_or(0..0);
    format!("{}\u{2026}", text[row].trim_end())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn broken(text: &str, width: usize) -> Vec<&str> {
        rows(text, width).into_iter().map(|row| &text[row]).collect()
    }

    #[test]
    fn rows_end_after_words() {
        assert_eq!(broken("", 5), [""]);
        assert_eq!(broken("one two three", 8), ["one two ", "three"]);
        assert_eq!(broken("one  two", 4), ["one  ", "two"]);
        assert_eq!(broken("a\n\nb", 5), ["a", "", "b"]);
        assert_eq!(broken("extraordinary", 5), ["extra", "ordin", "ary"]);
        assert_eq!(broken("an extraordinary", 5), ["an ", "extra", "ordin", "ary"]);
        assert_eq!(broken(" 世世a世", 6), [" ", "世世a", "世"]);
        assert_eq!(broken("世界和平", 5), ["世界", "和平"]);
        assert_eq!(broken("世界", 1), ["世", "界"]);
        assert_eq!(broken("👩‍👩‍👧👩‍👩‍👧", 2), ["👩‍👩‍👧", "👩‍👩‍👧"]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_rows_fit(text in "[a-c \\n\\t世é]{0,60}", width in 1usize..12) {
            let rows = rows(&text, width);
            let mut at = 0;
            for row in &rows {
                prop_assert!(row.start == at || (row.start == at + 1 && &text[at..=at] == "\n"), "{rows:?}");
                at = row.end;
                let words = text[row.clone()].trim_end_matches([' ', '\t']);
                let used: usize = words.graphemes(true).map(columns).sum();
                prop_assert!(used <= width.max(4) , "{words:?} in {width}");
            }
            prop_assert_eq!(at, text.len());
        }
    }
}
