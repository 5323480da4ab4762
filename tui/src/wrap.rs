//! Breaks text into rows of a screen: after words where possible, inside a word that is longer than a row, never inside
//! a character that people see. It must not know what the text is.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// Columns of a tab. Tabs do not align here: a question is no table.
const TAB: &str = "    ";

/// Columns that a character takes, which may consist of several code points.
pub fn columns(grapheme: &str) -> usize {
    if grapheme == "\t" { TAB.len() } else { grapheme.width() }
}

/// What a row looks like: tabs as blanks.
pub fn shown(row: &str) -> String {
    row.replace('\t', TAB)
}

/// The rows of `text` in `width` columns, as ranges of bytes. A row that was broken where the text has no line end is
/// followed by the rest without a gap; blanks may hang over its end. There is always a row.
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
    // After the last blank of the row: its byte, and the columns up to it.
    let mut gap = (0, 0);
    for (at, grapheme) in line.grapheme_indices(true) {
        let blank = grapheme == " " || grapheme == "\t";
        let wide = columns(grapheme);
        // After a gap the rest of the row may still be too long.
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
